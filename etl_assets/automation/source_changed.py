"""The sensor that starts the flow when the source has changed, and says why when it does not.

    where does the source stand now ► where did it stand for the last run that succeeded ► is that another position?

The position of a run is a tag that its capture put on it. So after a failure, wherever it happened, and after a
restore of lake or history, the comparison is still the right one: what is behind is run again. The same change is
tried `ATTEMPTS` times, each time after a longer pause; a new change begins anew, the pause stays until a success.
A source that always changes is read at the pace that ETL_EVERY says.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
from pydantic import ValidationError

from etl_assets.automation.breaker import Breaker
from etl_assets.automation.failures import last_failure
from etl_assets.automation.history import FLOW, History, told
from etl_assets.automation.orphans import end_orphans
from etl_assets.errors import EtlError
from etl_assets.pace import NO_PACE, Pace
from etl_assets.presentation import PLAIN, Naming
from etl_assets.raw.assets import POSITION_TAG
from etl_assets.source.position import Position, judge
from etl_assets.source.resource import PostgresSource
from etl_assets.source.table import Table

SECONDS_BETWEEN = 10
ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 20
LONGEST_PAUSE_SECONDS = 900
CHANGE_TAG = "source/change"


def source_changed(
    tables: Sequence[Table], breaker: Breaker, naming: Naming = PLAIN, pace: Pace = NO_PACE
) -> dg.SensorDefinition:
    """The sensor over the tables that the flow reads. Without a pace a run follows the other."""
    interval = min(SECONDS_BETWEEN, max(pace.seconds, 1))

    @dg.sensor(
        name=naming.name("source_changed"),
        job_name=naming.name(FLOW),
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts the whole flow when something was committed in the source that the last successful run "
        "has not seen. Its ticks say what it saw.",
    )
    @naming.resources
    def sensor(context: dg.SensorEvaluationContext, source: PostgresSource) -> dg.RunRequest | dg.SkipReason:
        end_orphans(context.instance)
        history = History.of(context, naming)
        # Asked before the last success: a run that ends meanwhile is in one of them.
        underway = history.underway()
        try:
            source.keep_up()
            now = source.position(tables)
        except EtlError as error:
            return dg.SkipReason(f"the source can't be asked, next try in {interval} s: {error}")
        return _decide(context, history, underway, now, breaker, pace)

    return sensor


def _decide(
    context: dg.SensorEvaluationContext,
    history: History,
    underway: dg.DagsterRun | None,
    now: Position,
    breaker: Breaker,
    pace: Pace,
) -> dg.RunRequest | dg.SkipReason:
    success = history.last_success()
    last = _position(success.dagster_run.tags.get(POSITION_TAG)) if success else None
    seen = _position(context.cursor)
    if last is None:
        changed, why = True, "no run of the whole flow has succeeded yet"
    else:
        if seen and _same_mark(seen, last):
            last = seen.model_copy(update={"taken": last.taken})
        verdict = judge(now, last)
        changed, why = verdict.changed, verdict.why
    # Counters that arrive while the mark has not moved are of changes that the run has seen: from now on they count.
    taken = _position(underway.tags.get(POSITION_TAG)) if underway else None
    if (taken and _same_mark(now, taken)) or (last and not changed and _same_mark(now, last)):
        context.update_cursor(now.model_dump_json())
    if not changed:
        assert success  # noqa: S101
        return dg.SkipReason(
            f"{why} since {told(success.dagster_run)} of {success.create_timestamp:%H:%M:%S} UTC"
        )
    if underway:
        return dg.SkipReason(f"{why}; waits for {told(underway)}, which is {underway.status.value.lower()}")
    if reason := breaker.held_back(history):
        return dg.SkipReason(f"{why}; {reason}")
    failures = history.failures(success.storage_id if success else 0)
    if reason := _pause(history, failures, now.digest):
        return dg.SkipReason(f"{why}; {reason}")
    if reason := pace.reason_to_wait(success.create_timestamp if success else None, datetime.now(UTC)):
        return dg.SkipReason(f"{why}; {reason}")
    base = success.dagster_run.run_id[:8] if success else "none"
    context.log.info(f"the source has changed: {why}")
    return dg.RunRequest(
        run_key=f"{now.digest}:{base}:{len(_of(failures, now.digest))}",
        tags={CHANGE_TAG: now.digest, "source/why": why},
    )


def _pause(history: History, failures: Sequence[dg.RunRecord], change: str) -> str | None:
    """Why to wait after failures; None if there is no reason to."""
    if not failures:
        return None
    newest = failures[0]
    run = newest.dagster_run
    what = f"{told(run)} " + (
        f"failed: {last_failure(history.instance, run.run_id) or 'no reason was recorded'}"
        if run.status == dg.DagsterRunStatus.FAILURE
        else "was canceled"
    )
    if len(_of(failures, change)) >= ATTEMPTS:
        return (
            f"gave up after {ATTEMPTS} attempts, {what}. Start the job {history.job} by hand when that is mended; the next "
            "change in the source starts it too"
        )
    pause = min(FIRST_PAUSE_SECONDS * 2 ** (len(failures) - 1), LONGEST_PAUSE_SECONDS)
    left = min(pause, (newest.end_time or newest.create_timestamp.timestamp()) + pause - time.time())
    return f"next attempt in {left:.0f} s, {what}" if left > 0 else None


def _of(failures: Sequence[dg.RunRecord], change: str) -> Sequence[dg.RunRecord]:
    return [record for record in failures if record.dagster_run.tags.get(CHANGE_TAG) == change]


def _position(kept: str | None) -> Position | None:
    """A position that was kept; None if there is none, or if it was kept by a version that wrote it otherwise."""
    try:
        return Position.model_validate_json(kept) if kept else None
    except ValidationError:
        return None


def _same_mark(one: Position, other: Position) -> bool:
    return (one.server, one.mark) == (other.server, other.mark)
