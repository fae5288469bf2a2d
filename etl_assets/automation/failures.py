"""Why a run failed, in one line."""

import os

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from etl_assets import addresses
from etl_assets.errors import first_line


def failure_line(event: dg.DagsterEvent) -> str | None:
    """What went wrong, of the event that tells of the failure of a step or a run; None if the event does not say."""
    error = _error(event)
    if event.is_step_failure:
        told = event.step_failure_data.user_failure_data
        if told and told.description:
            return first_line(told.description)
    if error is None:  # a worker that died, a run that took too long: the event has a message only
        return first_line(event.message) if event.is_job_failure and event.message else None
    # What our own code raises says what to do; of anything else the kind matters too.
    kind, _, text = error.message.partition(": ")
    if kind.startswith("etl_assets."):
        return first_line(text)
    where = f"{event.step_key}: " if event.step_key else ""
    line = addresses.without_secrets(first_line(text or kind), os.environ)
    return f"{where}{error.cls_name}: {line}"


def failure_trace(event: dg.DagsterEvent) -> str | None:
    """The stack and the causes of the error that an event tells of."""
    error = _error(event)
    return error.to_string() if error else None


def last_failure(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """The line of the failure that a run of the instance ended with."""
    for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run_id, of_type=kind, limit=1, ascending=True).records:
            event = record.event_log_entry.dagster_event
            if event and (line := failure_line(event)):
                return line
    return None


def _error(event: dg.DagsterEvent) -> SerializableErrorInfo | None:
    if event.is_step_failure:
        error = event.step_failure_data.error
        # The outer error says only in which step; the cause is what was raised there.
        return error.cause if error and error.cause and error.cls_name in _WRAPPERS else error
    # A run that the daemon marked as failed has no data.
    return event.job_failure_data.error if event.is_job_failure and event.event_specific_data else None


_WRAPPERS = {
    "DagsterExecutionStepExecutionError",
    "DagsterExecutionHandleOutputError",
    "DagsterExecutionLoadInputError",
    "DagsterResourceFunctionError",
}
