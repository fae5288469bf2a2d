"""The sweep: rows that no version calls changed are compared all the same, a part of each table at a time.

That a source is the one that it was, and that its row versions tell of every change, rests on what servers say. A sweep does
not believe them: it reads what a run leaves out. What it finds is mended, and told. How far it got is in its runs' tags.
"""

import dagster as dg

from etl_assets.automation.breaker import Breaker
from etl_assets.automation.history import FLOW, History
from etl_assets.presentation import PLAIN, Naming
from etl_assets.raw.assets import CAPTURE, PARTS, SWEPT

SWEEP_EVERY_NIGHT = "0 4 * * *"


def next_part(instance: dg.DagsterInstance, naming: Naming = PLAIN) -> int:
    """The part, from 1 on, that comes after the one of the last sweep that succeeded."""
    runs = instance.get_runs(
        dg.RunsFilter(
            job_name=naming.name(FLOW),
            statuses=[dg.DagsterRunStatus.SUCCESS],
            tags={SWEPT: [str(n) for n in range(1, PARTS + 1)]},
        ),
        limit=1,
    )
    return int(runs[0].tags[SWEPT]) % PARTS + 1 if runs else 1


def sweep_every_night(breaker: Breaker, naming: Naming = PLAIN) -> dg.ScheduleDefinition:
    """The schedule."""

    @dg.schedule(
        name=naming.name("sweep_every_night"),
        job_name=naming.name(FLOW),
        cron_schedule=SWEEP_EVERY_NIGHT,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"The whole flow at 04:00, in which a {PARTS}th of the rows of each table is compared whatever their "
        "versions say: every row within a week. What differs is mended, and an alert says so.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if reason := breaker.reason_to_wait(History.of(context, naming)):
            return dg.SkipReason(reason)
        part = next_part(context.instance, naming)
        return dg.RunRequest(
            run_config={"ops": {naming.name(CAPTURE): {"config": {"sweep": part}}}},
            tags={SWEPT: str(part)},
        )

    return schedule
