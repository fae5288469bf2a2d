"""Jobs over the stages, and the schedule that keeps the copy fresh."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from etl_assets.apis.assets import LOADED_FROM_PAGES
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.history import FLOW, NOT_BEGUN, History, told

EVERY_15_MINUTES = "*/15 * * * *"
EVERY_NIGHT = "30 2 * * *"
QUIET_HOURS = 12


etl = dg.define_asset_job(
    FLOW,
    selection=dg.AssetSelection.groups("source", "raw", "star", "warehouse", "exports"),
    description="The whole flow: what changed in the source, up to the exports.",
    # A run whose worker died begins anew, from a new snapshot. What it had done already costs nothing.
    tags={"dagster/retry_strategy": "ALL_STEPS"},
)
derive = dg.define_asset_job(
    "derive",
    selection=dg.AssetSelection.groups("source", "star", "warehouse", "exports")
    | dg.AssetSelection.tag(*next(iter(LOADED_FROM_PAGES.items()))),
    description="Bring star, warehouse and exports up to the batches and the pages of APIs that are landed; no source is read.",
)

stages = [
    dg.define_asset_job(stage, selection=dg.AssetSelection.groups(stage), description=description)
    for stage, description in {
        "raw": "Land what changed in the source, nothing else.",
        "star": "Bring the star up to the batches that are landed.",
        "warehouse": "Load what the warehouse lacks of the star, and certify it.",
        "exports": "Make the reports from the warehouse, and publish them.",
    }.items()
]

JOBS = [etl, derive, *stages]


def every_15_minutes(breaker: Breaker) -> dg.ScheduleDefinition:
    """For who wants the clock to start runs, beside the sensor or instead of it."""

    @dg.schedule(
        name="every_15_minutes",
        job=etl,
        cron_schedule=EVERY_15_MINUTES,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="The whole flow, every 15 minutes. Off until it is switched on.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        history = History.of(context)
        underway = history.underway()
        if reason := breaker.held_back(history):
            yield dg.SkipReason(reason)
        elif underway and underway.status in NOT_BEGUN:
            yield dg.SkipReason(f"{told(underway)} is waiting already")
        else:
            yield dg.RunRequest()

    return schedule


def every_night(breaker: Breaker) -> dg.ScheduleDefinition:
    """For a source that rests: what was not proven equal for hours is, once a day, whether it changed or not."""

    @dg.schedule(
        name="every_night",
        job=etl,
        cron_schedule=EVERY_NIGHT,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"The whole flow at 02:30, if it did not succeed in the last {QUIET_HOURS} hours: for a source "
        "that does not change the copy is proven equal once a day nevertheless.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        history = History.of(context)
        success = history.last_success()
        since = context.scheduled_execution_time - timedelta(hours=QUIET_HOURS)
        if success and success.create_timestamp > since:
            return dg.SkipReason(f"{told(success.dagster_run)} succeeded in the last {QUIET_HOURS} hours")
        if reason := breaker.reason_to_wait(history):
            return dg.SkipReason(reason)
        return dg.RunRequest()

    return schedule
