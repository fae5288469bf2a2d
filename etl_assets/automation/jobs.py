"""Jobs over the stages, and the schedule that keeps the copy fresh."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from etl_assets.apis.assets import LOADED_FROM_PAGES
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.history import FLOW, NOT_BEGUN, History, told
from etl_assets.automation.in_process import EXECUTOR
from etl_assets.presentation import PLAIN, Naming

EVERY_15_MINUTES = "*/15 * * * *"
EVERY_NIGHT = "30 2 * * *"
QUIET_HOURS = 12


DERIVE = "derive"
_STAGES = {
    "raw": "Land what changed in the source, nothing else.",
    "star": "Bring the star up to the batches that are landed.",
    "warehouse": "Load what the warehouse lacks of the star, and certify it.",
    "exports": "Make the reports from the warehouse, and publish them.",
}


def jobs(naming: Naming = PLAIN) -> dict[str, UnresolvedAssetJobDefinition]:
    """The whole flow, all but the reading of the source, and each stage, by their plain names."""

    def of(*stages: str) -> dg.AssetSelection:
        return dg.AssetSelection.groups(*map(naming.name, stages))

    from_pages = dg.AssetSelection.tag(*next(iter(LOADED_FROM_PAGES.items())))
    etl = dg.define_asset_job(
        naming.name(FLOW),
        selection=of("source", "raw", "star", "warehouse", "exports"),
        description="The whole flow: what changed in the source, up to the exports.",
        # A run whose worker died begins anew, from a new snapshot. What it had done already costs nothing.
        tags={"dagster/retry_strategy": "ALL_STEPS"},
        executor_def=EXECUTOR,
    )
    derive = dg.define_asset_job(
        naming.name(DERIVE),
        selection=of("source", "star", "warehouse", "exports") | (of("raw") & from_pages),
        description="Bring star, warehouse and exports up to the batches and the pages of APIs that are landed; no source is read.",
        executor_def=EXECUTOR,
    )
    single = {
        stage: dg.define_asset_job(
            naming.name(stage), selection=of(stage), description=description, executor_def=EXECUTOR
        )
        for stage, description in _STAGES.items()
    }
    return {FLOW: etl, DERIVE: derive, **single}


def every_15_minutes(breaker: Breaker, naming: Naming = PLAIN) -> dg.ScheduleDefinition:
    """For who wants the clock to start runs, beside the sensor or instead of it."""

    @dg.schedule(
        name=naming.name("every_15_minutes"),
        job_name=naming.name(FLOW),
        cron_schedule=EVERY_15_MINUTES,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="The whole flow, every 15 minutes. Off until it is switched on.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        history = History.of(context, naming)
        underway = history.underway()
        if reason := breaker.held_back(history):
            yield dg.SkipReason(reason)
        elif underway and underway.status in NOT_BEGUN:
            yield dg.SkipReason(f"{told(underway)} is waiting already")
        else:
            yield dg.RunRequest()

    return schedule


def every_night(breaker: Breaker, naming: Naming = PLAIN) -> dg.ScheduleDefinition:
    """For a source that rests: what was not proven equal for hours is, once a day, whether it changed or not."""

    @dg.schedule(
        name=naming.name("every_night"),
        job_name=naming.name(FLOW),
        cron_schedule=EVERY_NIGHT,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"The whole flow at 02:30, if it did not succeed in the last {QUIET_HOURS} hours: for a source "
        "that does not change the copy is proven equal once a day nevertheless.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        history = History.of(context, naming)
        success = history.last_success()
        quiet = timedelta(hours=QUIET_HOURS)
        since = context.scheduled_execution_time - quiet
        # One that comes from far ahead was told of by a clock that was wrong: it says nothing of these hours.
        if success and since < success.create_timestamp < datetime.now(UTC) + quiet:
            return dg.SkipReason(f"{told(success.dagster_run)} succeeded in the last {QUIET_HOURS} hours")
        if reason := breaker.reason_to_wait(history):
            return dg.SkipReason(reason)
        return dg.RunRequest()

    return schedule
