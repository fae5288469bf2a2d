"""Forgetting old runs, so that Dagster's history does not grow without end. Dagster forgets only ticks by itself.

A run is forgotten with all that hangs on it: events, results of checks, tags, captured output, its file of SQLite.
Kept, however old, is what something still stands on: the latest materialization and observation of an asset, the
latest results of a check, the newest runs of every job and outcome, and whatever has not ended.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from etl_assets.automation.history import UNCHANGED_SINCE
from etl_assets.automation.in_process import EXECUTOR
from etl_assets.errors import EtlError
from etl_assets.later import Later
from etl_assets.presentation import PLAIN, Naming
from etl_assets.raw.assets import reads_all

if TYPE_CHECKING:
    import sqlalchemy as sa
    from dagster._core.storage import event_log
    from dagster._core.storage import runs as run_log
    from dagster._core.storage.event_log import schema as event_schema
    from dagster._core.storage.runs import schema as run_schema

    from etl_assets.automation import events as small
else:  # who forgets nothing needs no database
    sa = Later("sqlalchemy")
    event_log = Later("dagster._core.storage.event_log")
    event_schema = Later("dagster._core.storage.event_log.schema")
    run_log = Later("dagster._core.storage.runs")
    small = Later("etl_assets.automation.events")
    run_schema = Later("dagster._core.storage.runs.schema")

FORGET = "forget_old_runs"
DAYS = 30
AT_A_TIME = 2000
NEWEST_KEPT = 50
"""Of each job and outcome: sensors, breaker and `etl status` look back at these."""
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class Retention(dg.Config):
    """What is old."""

    days: int = Field(default=DAYS, ge=1, description="Runs that began longer ago are forgotten.")


def forget_old_runs(naming: Naming = PLAIN) -> dg.JobDefinition:
    """The job: of a project with a prefix it forgets that project's runs, else all."""

    @dg.op(name=naming.name("forget"), description="Forget the runs on which nothing stands any more.")
    def forget(context: dg.OpExecutionContext, config: Retention) -> None:
        """Remove old runs and their events from the history, as the configuration says."""
        before = datetime.now(UTC) - timedelta(days=config.days)
        runs = forgettable(context.instance, before, naming=naming)
        for run_id in runs:
            forget_run(context.instance, run_id)
        context.log.info(f"{len(runs)} runs older than {config.days} days are forgotten")

    @dg.job(
        name=naming.name(FORGET),
        description=f"Forget runs older than {DAYS} days that nothing stands on; at most {AT_A_TIME} at a time.",
        executor_def=EXECUTOR,
    )
    def job() -> None:
        forget()

    return job


def forget_every_night(naming: Naming = PLAIN) -> dg.ScheduleDefinition:
    """The schedule."""

    @dg.schedule(
        name=naming.name("forget_every_night"),
        job_name=naming.name(FORGET),
        cron_schedule="45 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"At 03:45, if there are runs older than {DAYS} days that nothing stands on.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        before = context.scheduled_execution_time - timedelta(days=DAYS)
        if forgettable(context.instance, before, at_most=1, naming=naming):
            return dg.RunRequest()
        return dg.SkipReason(f"no run older than {DAYS} days can be forgotten")

    return schedule


class RetentionError(EtlError):
    """The history is kept where it can't be told what hangs on a run."""


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
    events, _ = _storages(instance)
    table = event_schema.AssetCheckExecutionsTable.c
    kinds = (table.asset_key, table.check_name, table.execution_status)
    newest = sa.select(sa.func.max(table.id)).group_by(*kinds)
    with events.index_connection() as connection:
        yield from connection.scalars(sa.select(table.run_id).where(table.id.in_(newest)).distinct())


def _newest(instance: dg.DagsterInstance, naming: Naming) -> Iterator[str]:
    _, recorded = _storages(instance)
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
    events, recorded = _storages(instance)
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


def _storages(instance: dg.DagsterInstance) -> "tuple[event_log.SqlEventLogStorage, run_log.SqlRunStorage]":
    events, recorded = instance.event_log_storage, instance.run_storage
    if not (isinstance(events, event_log.SqlEventLogStorage) and isinstance(recorded, run_log.SqlRunStorage)):
        raise RetentionError(
            f"the history is kept in {type(events).__name__}, not in SQLite or PostgreSQL: switch the schedule "
            "forget_every_night off and delete runs there"
        )
    return events, recorded
