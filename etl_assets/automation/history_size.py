"""How much room Dagster's history takes, and giving back the room of what was forgotten.

What counts are the bytes of runs, events, results of checks and ticks, and of what runs printed where a folder keeps it.
SQLite keeps the pages of deleted rows in its files until they are vacuumed. PostgreSQL keeps them for new rows, and its
files stay as large as they ever were: there rows count by what they need.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from etl_assets.errors import EtlError
from etl_assets.later import Later

if TYPE_CHECKING:
    import sqlalchemy as sa
    from dagster._core.storage import event_log, local_compute_log_manager, schedules, sqlite
    from dagster._core.storage import runs as run_log
else:  # who forgets nothing needs no database
    sa = Later("sqlalchemy")
    event_log = Later("dagster._core.storage.event_log")
    run_log = Later("dagster._core.storage.runs")
    schedules = Later("dagster._core.storage.schedules")
    local_compute_log_manager = Later("dagster._core.storage.local_compute_log_manager")
    sqlite = Later("dagster._core.storage.sqlite")

_FILES = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint,
    coalesce(sum(pg_total_relation_size(oid)) FILTER (
        WHERE relname IN ('event_logs', 'asset_check_executions', 'runs', 'run_tags')), 0)::bigint
FROM pg_class WHERE relkind = 'r' AND oid = to_regclass(quote_ident(relname)) AND relname IN (
    'event_logs', 'asset_check_executions', 'runs', 'run_tags', 'asset_keys', 'asset_event_tags', 'snapshots', 'job_ticks')
"""
# A row needs room beside its text: its other columns, and an entry in each index.
_ROWS = """
SELECT coalesce((SELECT sum(pg_column_size(event) + 600) FROM event_logs), 0)
    + coalesce((SELECT sum(pg_column_size(evaluation_event) + 600) FROM asset_check_executions), 0)
    + coalesce((SELECT sum(pg_column_size(run_body) + 600) FROM runs), 0)
    + (SELECT count(*) * 300 FROM run_tags)
"""


class RetentionError(EtlError):
    """The history is kept where it can't be told what hangs on a run, or what it takes."""


def sql_storages(
    instance: dg.DagsterInstance,
) -> "tuple[event_log.SqlEventLogStorage, run_log.SqlRunStorage]":
    """Where events and runs are kept. Raises `RetentionError` if that is no SQL database."""
    events, recorded = instance.event_log_storage, instance.run_storage
    if not (isinstance(events, event_log.SqlEventLogStorage) and isinstance(recorded, run_log.SqlRunStorage)):
        raise RetentionError(
            f"the history is kept in {type(events).__name__}, not in SQLite or PostgreSQL: switch the schedule "
            "forget_every_night off and delete runs there"
        )
    return events, recorded


def history_bytes(instance: dg.DagsterInstance, limit: int) -> int:
    """The bytes of the history. In PostgreSQL rows are only looked at where the files of the tables are larger
    than a limit, in bytes. Raises `RetentionError`."""
    databases = _sqlite_databases(instance)
    printed = _printed_bytes(instance)
    if databases:
        events = databases[0].parent
        return printed + sum(
            _size(f) for f in {*events.iterdir(), *(f for d in databases for f in _files(d))}
        )
    return printed + _postgres_bytes(instance, limit - printed)


def give_back(instance: dg.DagsterInstance) -> None:
    """Make the databases of SQLite as small as what is in them. Who writes waits meanwhile, and for that moment as much room
    again as the largest of them takes is needed."""
    for database in _sqlite_databases(instance):
        timeout = sqlite.SQLITE_BUSY_TIMEOUT_SECONDS
        with closing(sqlite3.connect(database, timeout=timeout, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _sqlite_databases(instance: dg.DagsterInstance) -> list[Path]:
    """The database of all events, beside which those of runs lie, and those of runs and of ticks; none in PostgreSQL."""
    events, recorded = sql_storages(instance)
    ticks = instance.schedule_storage
    with events.index_connection() as one, recorded.connect() as other:
        connected = [one, other]
        if isinstance(ticks, schedules.SqlScheduleStorage):
            with ticks.connect() as third:
                connected.append(third)
        files = [Path(c.engine.url.database or "") for c in connected if c.dialect.name == "sqlite"]
    return [file for file in files if file.is_file()]  # those of a test may be in memory


def _files(database: Path) -> list[Path]:
    return [Path(f"{database}{suffix}") for suffix in ("", "-wal", "-shm")]


def _postgres_bytes(instance: dg.DagsterInstance, limit: int) -> int:
    events, _ = sql_storages(instance)
    with events.index_connection() as connection:
        if connection.dialect.name != "postgresql":
            raise RetentionError(
                f"what a history in {connection.dialect.name} takes can't be told: forget runs by age, "
                "ETL_HISTORY_MB=0"
            )
        everything, of_runs = connection.execute(sa.text(_FILES)).one()
        if everything <= limit:
            return int(everything)
        needed = connection.execute(sa.text(_ROWS)).scalar_one()
    return int(everything - of_runs + min(needed, of_runs))


def _printed_bytes(instance: dg.DagsterInstance) -> int:
    """What runs printed, if it is kept in a folder of this machine; elsewhere it is not counted."""
    manager = instance.compute_log_manager
    if not isinstance(manager, local_compute_log_manager.LocalComputeLogManager):
        return 0
    return sum(_size(file) for file in Path(manager._base_dir).rglob("*"))


def _size(file: Path) -> int:
    """The bytes of a file; of one that is gone by now, and of a folder, none."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:
        return 0
