"""What runs, and when: jobs over the stages, and the schedule that keeps the copy fresh."""

import dagster as dg

EVERY_15_MINUTES = "*/15 * * * *"

etl = dg.define_asset_job(
    "etl",
    selection=dg.AssetSelection.groups("raw", "star", "warehouse", "exports"),
    description="The whole flow: what changed in the source, up to the exports.",
)
derive = dg.define_asset_job(
    "derive",
    selection=dg.AssetSelection.groups("star", "warehouse", "exports"),
    description="Bring star, warehouse and exports up to the batches that are landed; the source is not read.",
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
SCHEDULES = [
    dg.ScheduleDefinition(
        name="every_15_minutes",
        job=etl,
        cron_schedule=EVERY_15_MINUTES,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="The whole flow, every 15 minutes. Off until it is switched on.",
    )
]
