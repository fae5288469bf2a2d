"""Forgetting old runs, so that Dagster's history does not grow without end. Dagster forgets only ticks by itself.

Runs go by age, and the oldest of the rest while the history takes more room than it may.
A run is forgotten with all that hangs on it: events, results of checks, tags, captured output, its file of SQLite.
Kept, however old, is what something still stands on: the latest materialization and observation of an asset, the
latest results of a check, the newest runs of every job and outcome, and whatever has not ended.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from etl_assets.automation.history import UNCHANGED_SINCE
from etl_assets.automation.history_size import give_back, history_bytes, sql_storages
from etl_assets.automation.in_process import EXECUTOR
from etl_assets.later import Later
from etl_assets.presentation import PLAIN, Naming
from etl_assets.raw.assets import reads_all

if TYPE_CHECKING:
    import sqlalchemy as sa
    from dagster._core.storage import event_log
    from dagster._core.storage.event_log import schema as event_schema
    from dagster._core.storage.runs import schema as run_schema

    from etl_assets.automation import events as small
else:  # who forgets nothing needs no database
    sa = Later("sqlalchemy")
    event_log = Later("dagster._core.storage.event_log")
    event_schema = Later("dagster._core.storage.event_log.schema")
    small = Later("etl_assets.automation.events")
    run_schema = Later("dagster._core.storage.runs.schema")

FORGET = "forget_old_runs"
DAYS = 30
AT_A_TIME = 10_000
NEWEST_KEPT = 50
"""Of each job and outcome: sensors, breaker and `etl status` look back at these."""
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class Retention(dg.Config):
    """What is old, and how much is kept of what is not."""

    days: int = Field(default=DAYS, ge=1, description="Runs that began longer ago are forgotten.")
    megabytes: int | None = Field(
        default=None,
        ge=0,
        description="Of more than this the oldest runs are forgotten too; 0: by age only. Not given: ETL_HISTORY_MB.",
    )


def forget_old_runs(naming: Naming = PLAIN, megabytes: int = 0) -> dg.JobDefinition:
    """The job: of a project with a prefix it forgets that project's runs, else all. `megabytes`: what the history may take,
    in millions of bytes; 0: as much as it likes."""

    @dg.op(name=naming.name("forget"), description="Forget the runs on which nothing stands any more.")
    def forget(context: dg.OpExecutionContext, config: Retention) -> None:
        """Remove old runs and their events from the history, as the configuration says."""
        before = datetime.now(UTC) - timedelta(days=config.days)
        by_age = forgettable(context.instance, before, naming=naming)
        for run_id in by_age:
            forget_run(context.instance, run_id)
        if by_age:
            give_back(context.instance)
        context.log.info(f"{len(by_age)} runs older than {config.days} days are forgotten")
        limit = megabytes if config.megabytes is None else config.megabytes
        if _is_limited(naming, limit):
            by_size, left = forget_beyond(context.instance, limit * 1_000_000)
            context.log.info(f"{by_size} younger ones too: {_told(left, limit)}")

    @dg.job(
        name=naming.name(FORGET),
        description=f"Forget runs older than {DAYS} days that nothing stands on, and the oldest of the others while the "
        f"history takes too much room; at most {AT_A_TIME:,} of each at a time.",
        executor_def=EXECUTOR,
    )
    def job() -> None:
        forget()

    return job


def forget_every_night(naming: Naming = PLAIN, megabytes: int = 0) -> dg.ScheduleDefinition:
    """The schedule; `megabytes` as of the job."""
    is_limited = _is_limited(naming, megabytes)
    room = f", or if the history takes more than {megabytes:,} MB" if is_limited else ""

    @dg.schedule(
        name=naming.name("forget_every_night"),
        job_name=naming.name(FORGET),
        cron_schedule="45 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"At 03:45, if there are runs older than {DAYS} days that nothing stands on{room}.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        before = context.scheduled_execution_time - timedelta(days=DAYS)
        if forgettable(context.instance, before, at_most=1, naming=naming):
            return dg.RunRequest()
        why = f"no run older than {DAYS} days can be forgotten"
        if is_limited:
            limit = megabytes * 1_000_000
            size = history_bytes(context.instance, limit)
            if size > limit and forgettable(context.instance, context.scheduled_execution_time, at_most=1):
                return dg.RunRequest()
            why += f"; {_told(size, megabytes)}"
        return dg.SkipReason(why)

    return schedule


def _is_limited(naming: Naming, megabytes: int) -> bool:
    """Not where projects share a history: one would forget its runs for the room that another takes."""
    return bool(megabytes) and not naming.prefix


def _told(size: int, megabytes: int) -> str:
    return f"the history takes {size / 1e6:,.1f} MB, of {megabytes:,} that it may"


def forget_beyond(instance: dg.DagsterInstance, limit: int, at_most: int = AT_A_TIME) -> tuple[int, int]:
    """Forget the oldest runs that may go, of whatever age, until the history takes no more than so many bytes: how many
    went, and the bytes of what is left."""
    gone = 0
    while (size := history_bytes(instance, limit)) > limit and gone < at_most:
        # As if each took the same; what is then still too much is seen in the next round.
        beyond = math.ceil(instance.get_runs_count() * (size - limit) / size)
        runs = forgettable(instance, datetime.now(UTC), min(beyond, at_most - gone))
        if not runs:
            break
        for run_id in runs:
            forget_run(instance, run_id)
        give_back(instance)
        gone += len(runs)
    return gone, size


def forgettable(
    instance: dg.DagsterInstance, before: datetime, at_most: int = AT_A_TIME, naming: Naming = PLAIN
) -> list[str]:
    """The runs of a project, created before a moment, that may go, oldest first."""
    kept = {*_latest_of_assets(instance), *_latest_of_checks(instance), *_newest(instance, naming)}
    ended = dg.RunsFilter(statuses=_ENDED, created_before=before)
    limit = None if naming.prefix else len(kept) + at_most  # those of others may come before
    old = instance.get_run_records(ended, limit=limit, ascending=True)
    ids = [record.dagster_run.run_id for record in old if naming.owns(record.dagster_run)]
    return [run_id for run_id in ids if run_id not in kept][:at_most]


def _latest_of_assets(instance: dg.DagsterInstance) -> Iterator[str]:
    for record in instance.get_asset_records():
        entry = record.asset_entry
        yield from (
            latest.run_id
            for latest in (entry.last_materialization_record, entry.last_observation_record)
            if latest
        )


def _latest_of_checks(instance: dg.DagsterInstance) -> Iterator[str]:
    """The runs of the last execution of each check, and of the last with each outcome."""
    events, _ = sql_storages(instance)
    table = event_schema.AssetCheckExecutionsTable.c
    kinds = (table.asset_key, table.check_name, table.execution_status)
    newest = sa.select(sa.func.max(table.id)).group_by(*kinds)
    with events.index_connection() as connection:
        yield from connection.scalars(sa.select(table.run_id).where(table.id.in_(newest)).distinct())


def _newest(instance: dg.DagsterInstance, naming: Naming) -> Iterator[str]:
    _, recorded = sql_storages(instance)
    with recorded.connect() as connection:
        jobs = connection.scalars(sa.select(run_schema.RunsTable.c.pipeline_name).distinct()).all()
    for job in jobs:
        for status in _ENDED:
            yield from instance.get_run_ids(dg.RunsFilter(job_name=job, statuses=[status]), limit=NEWEST_KEPT)
    whole = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], tags=reads_all(naming))
    for run in instance.get_runs(whole, limit=NEWEST_KEPT):
        yield run.run_id
        if UNCHANGED_SINCE in run.tags:  # what a run without steps found was made by that one
            yield run.tags[UNCHANGED_SINCE]


def forget_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run and all that hangs on it; the run itself last, so that what is left of an interrupted attempt is
    found again.

    `DagsterInstance.delete_run` alone would leave the results of checks, what was captured of the output and, in
    SQLite, the tags and the file that the events were in.
    """
    events, recorded = sql_storages(instance)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    with events.index_connection() as connection:
        checks = event_schema.AssetCheckExecutionsTable
        connection.execute(checks.delete().where(checks.c.run_id == run_id))
        events.delete_events_for_run(connection, run_id)
    if isinstance(events, small.SmallEventLog):
        events.forget_file(run_id)
    if isinstance(events, event_log.SqliteEventLogStorage):
        for suffix in ("-wal", "-shm", ""):
            Path(events.path_for_shard(run_id) + suffix).unlink(missing_ok=True)
    with recorded.connect() as connection:
        connection.execute(run_schema.RunTagsTable.delete().where(run_schema.RunTagsTable.c.run_id == run_id))
    recorded.delete_run(run_id)
