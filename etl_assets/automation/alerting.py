"""Alerts: one for every run that failed, one when a job succeeds again. Not here: how they are delivered.

This is a sensor of its own, not a `run_failure_sensor`: that one moves on when an alert can't be delivered, and it
does not see runs that were started at the command line.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

import dagster as dg

from etl_assets.automation.failures import failure_line
from etl_assets.clients.alerts import Alert, AlertError, Alerts
from etl_assets.presentation import PLAIN, Naming
from etl_assets.raw.assets import STRAYS

_Ending = Literal[dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS]
_KINDS: tuple[_Ending, ...] = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)
_RETRIED_AS = "dagster/auto_retry_run_id"  # Dagster sets these two on a run that failed
_WILL_RETRY = "dagster/will_retry"
_RETRY_SECONDS = 120
"""How long Dagster may take to retry a run, before the run counts as failed."""
_NEWS_SECONDS = 86_400
"""What is older is told to nobody: it would come in floods, and what can't be delivered would stop all the rest."""
_AT_ONCE = 20  # events looked at in one tick, which has 60 seconds
_LOOK_BACK_RUNS = 50
_STEPS = 5
_LINE_LIMIT = 1000


def alerting(ui_url: str, naming: Naming = PLAIN) -> dg.SensorDefinition:
    """The sensor; links lead to the web interface at `ui_url`. It tells of the runs of its project."""

    @dg.sensor(
        name=naming.name("alert_on_failure_and_recovery"),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Sends an alert for every run that failed, whatever started it, and one when its job succeeds again. A "
            "run that Dagster retries by itself counts when its last retry has failed. ETL_ALERTS_URL says where to."
        ),
    )
    @naming.resources
    def alert(context: dg.SensorEvaluationContext, alerts: Alerts) -> dg.SensorResult:
        instance = context.instance
        if context.cursor is None:
            return dg.SensorResult(
                skip_reason="looks at what ends from now on", cursor=str(_newest(instance))
            )
        after, sent = int(context.cursor), list[str]()
        for _ in range(_AT_ONCE):
            record = _next(instance, after)
            if record is None:
                break
            run = instance.get_run_record_by_id(record.run_id)
            age = datetime.now(UTC).timestamp() - record.timestamp
            if run is not None and naming.owns(run.dagster_run) and age < _NEWS_SECONDS:
                if _undecided(instance, run.dagster_run, record, age):
                    break
                told = _told(instance, run, record, ui_url)
                if told is not None:
                    try:
                        alerts.send(told)
                    except AlertError:
                        if not sent:
                            raise  # the cursor stays: the next tick tries again
                        break  # the cursor passes what is sent: the next tick begins with this one
                    sent.append(told.subject)
            after = record.storage_id
        return dg.SensorResult(
            skip_reason=f"sent: {'; '.join(sent)}"
            if sent
            else "no run failed or recovered since the last look",
            cursor=str(after),
        )

    return alert


# -- which runs ------------------------------------------------------------------------------------------------------


def _newest(instance: dg.DagsterInstance) -> int:
    found = [instance.fetch_run_status_changes(kind, limit=1).records for kind in _KINDS]
    return max((record.storage_id for records in found for record in records), default=-1)


def _next(instance: dg.DagsterInstance, after: int) -> dg.EventLogRecord | None:
    """The first end of a run that is stored later than `after`."""
    found = [
        instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(kind, after_storage_id=after), limit=1, ascending=True
        ).records
        for kind in _KINDS
    ]
    ends = [record for records in found for record in records]
    return min(ends, key=lambda record: record.storage_id, default=None)


def _undecided(
    instance: dg.DagsterInstance, run: dg.DagsterRun, record: dg.EventLogRecord, age_seconds: float
) -> bool:
    """Whether it is still open if Dagster retries a failed run. It marks the run a moment after its failure, and
    takes the mark back if the retry can't be started."""
    return (
        _failed(record)
        and instance.run_retries_enabled
        and _RETRIED_AS not in run.tags
        and run.tags.get(_WILL_RETRY) != "false"
        and age_seconds < _RETRY_SECONDS
    )


def _failed(record: dg.EventLogRecord) -> bool:
    event = record.event_log_entry.dagster_event
    return event is not None and event.event_type == dg.DagsterEventType.RUN_FAILURE


def _told(
    instance: dg.DagsterInstance, run: dg.RunRecord, record: dg.EventLogRecord, ui_url: str
) -> Alert | None:
    """The alert for the end of a run; None if it needs none."""
    link = f"{ui_url}/runs/{record.run_id}"
    if _failed(record):
        if _RETRIED_AS in run.dagster_run.tags:
            return None  # the retry will tell
        return _failure(instance, run, record, link)
    failures = _failures_before(instance, run)
    if found := run.dagster_run.tags.get(STRAYS):
        return _swept(run, found, failures, link)
    return _recovery(instance, run, failures, link) if failures else None


def _failures_before(instance: dg.DagsterInstance, run: dg.RunRecord) -> Sequence[dg.RunRecord]:
    """The runs of the same job that failed in a row before this one succeeded, newest first."""
    status = dg.DagsterRunStatus
    finished = instance.get_run_records(
        dg.RunsFilter(job_name=run.dagster_run.job_name, statuses=[status.SUCCESS, status.FAILURE]),
        limit=_LOOK_BACK_RUNS,
    )
    failures = []
    for other in sorted(finished, key=_end, reverse=True):
        if _end(other) >= _end(run) or not _comparable(other.dagster_run, run.dagster_run):
            continue
        if other.dagster_run.status == status.SUCCESS:
            break
        if _RETRIED_AS not in other.dagster_run.tags:
            failures.append(other)
    return failures


def _end(run: dg.RunRecord) -> float:
    return run.end_time or 0


def _comparable(one: dg.DagsterRun, other: dg.DagsterRun) -> bool:
    """Whether the runs, of one job, do the same. Ad-hoc runs do if they are of the same assets."""
    return (
        not _is_ad_hoc(one)
        or one.asset_selection == other.asset_selection
        or (one.root_run_id or one.run_id) == (other.root_run_id or other.run_id)
    )


def _is_ad_hoc(run: dg.DagsterRun) -> bool:
    return run.job_name.startswith("__")


# -- what is said of them --------------------------------------------------------------------------------------------


def _failure(instance: dg.DagsterInstance, run: dg.RunRecord, record: dg.EventLogRecord, link: str) -> Alert:
    steps = list(_failed_steps(instance, record.run_id))
    event = record.event_log_entry.dagster_event
    line = failure_line(event) if event and not steps else None
    errors = [f"failed: {what}\nerror: {said}" for what, said in steps[:_STEPS]]
    if len(steps) > _STEPS:
        errors.append(f"and {len(steps) - _STEPS} steps more")
    reason = steps[0][1] if steps else line or "no reason was recorded"
    return Alert(
        subject=f"etl-assets: {_name(run.dagster_run)} failed: {reason}",
        text="\n".join([*(errors or [f"error: {reason[:_LINE_LIMIT]}"]), *_circumstances(run)]),
        link=link,
        run_id=record.run_id,
    )


def _swept(run: dg.RunRecord, found: str, failures: Sequence[dg.RunRecord], link: str) -> Alert:
    return Alert(
        subject=f"etl-assets: the sweep found rows that were other than the lake held: {found}",
        text="\n".join(
            [
                f"rows that differed though no row version said that they changed: {found}",
                "the tables were read whole and are right now; something changes rows past the server (a restored file, a "
                "faulty disk, another program)",
                *(["the run before had failed; this one succeeded"] if failures else []),
                *_circumstances(run),
            ]
        ),
        link=link,
        run_id=run.dagster_run.run_id,
    )


def _recovery(
    instance: dg.DagsterInstance, run: dg.RunRecord, failures: Sequence[dg.RunRecord], link: str
) -> Alert:
    many = f"{len(failures)} runs had failed" if len(failures) > 1 else "the run before had failed"
    last = [said for _, said in _failed_steps(instance, failures[0].dagster_run.run_id)]
    return Alert(
        subject=f"etl-assets: {_name(run.dagster_run)} succeeds again",
        text="\n".join(
            [
                f"{many}, since {_moment(_end(failures[-1]))}",
                *(f"the last error: {said}" for said in last[:1]),
                *_circumstances(run),
            ]
        ),
        link=link,
        run_id=run.dagster_run.run_id,
        good=True,
    )


def _failed_steps(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[str, str]]:
    """The steps of a run that failed, by the assets they should have made, and in one line why."""
    kinds = dg.DagsterEventType
    planned: dict[str, list[str]] = {}
    for record in instance.get_records_for_run(run_id, of_type=kinds.ASSET_MATERIALIZATION_PLANNED).records:
        event = record.event_log_entry.dagster_event
        if event and event.step_key and event.asset_key:
            planned.setdefault(event.step_key, []).append(event.asset_key.to_user_string())
    for record in instance.get_records_for_run(run_id, of_type=kinds.STEP_FAILURE, ascending=True).records:
        event = record.event_log_entry.dagster_event
        if event and event.step_key:
            assets = sorted(planned.get(event.step_key, []))
            what = f"{event.step_key} ({_some(assets)})" if len(assets) > 1 else (*assets, event.step_key)[0]
            yield what, (failure_line(event) or "no reason was recorded")[:_LINE_LIMIT]


def _circumstances(run: dg.RunRecord) -> Iterator[str]:
    ended, started = _end(run), run.start_time
    if started:
        yield f"started: {_moment(started)}"
        yield f"ended: {_moment(ended)}, after {ended - started:,.0f} s"
    else:
        yield f"ended: {_moment(ended)}, before it had started"
    tags = run.dagster_run.tags
    by = next((f", started by {what} {tags[tag]}" for tag, what in _STARTERS.items() if tag in tags), "")
    yield f"run: {run.dagster_run.run_id}{by}"
    if "dagster/retry_number" in tags:
        yield f"it is automatic retry {tags['dagster/retry_number']} of run {run.dagster_run.root_run_id}"


_STARTERS = {
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
    "etl/started_by": "the",
}


def _name(run: dg.DagsterRun) -> str:
    if not _is_ad_hoc(run):
        return run.job_name
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    return f"ad-hoc run of {_some(assets)}" if assets else "ad-hoc run"


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _moment(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S} UTC"
