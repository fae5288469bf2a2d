"""The circuit breaker: after so many failed runs in a row nothing is started automatically, until somebody looked.

Off unless ETL_BREAKER_FAILURES says how many. What counts are the runs of the whole flow since the last one that
succeeded, or since `etl breaker reset`: at which run it was reset is all that is kept of its own, in Dagster's instance.
A run that is started by hand is never held back; if it succeeds, the breaker is closed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from etl_assets.automation.failures import last_failure
from etl_assets.automation.history import History, told
from etl_assets.presentation import PLAIN, Naming

_RESET = "etl/breaker/reset"


@dataclass(frozen=True)
class Breaker:
    """`failures`: how many in a row open it; None: it never opens."""

    failures: int | None

    def reason_to_wait(self, history: History) -> str | None:
        """Why the whole flow is not started beside what goes on, or at all; None if it may be."""
        if underway := history.underway():
            return f"{told(underway)} is {underway.status.value.lower()}"
        return self.held_back(history)

    def held_back(self, history: History) -> str | None:
        """Why nothing may be started automatically; None if it may."""
        if self.failures is None:
            return None
        failed = failed_in_a_row(history)
        if len(failed) < self.failures:
            return None
        newest = failed[0].dagster_run
        return (
            f"circuit breaker: the last {len(failed)} runs failed (ETL_BREAKER_FAILURES={self.failures}), the newest "
            f"was {told(newest)}: {last_failure(history.instance, newest.run_id) or 'no reason was recorded'}. "
            "Nothing is started automatically until a run succeeds, or until: etl breaker reset"
        )


def failed_in_a_row(history: History) -> Sequence[dg.RunRecord]:
    """The failed runs since the last success or reset, newest first."""
    success = history.last_success()
    after = max(success.storage_id if success else 0, last_reset(history))
    return [
        record
        for record in history.failures(after)
        if record.dagster_run.status == dg.DagsterRunStatus.FAILURE
    ]


def last_reset(history: History) -> int:
    """The `storage_id` of the newest run when the breaker was closed by hand for the last time; 0 if it never was."""
    key = _reset(history.naming)
    kept = history.instance.daemon_cursor_storage.get_cursor_values({key}).get(key, "")
    return int(kept) if kept.isdecimal() else 0


def reset(instance: dg.DagsterInstance, naming: Naming = PLAIN) -> None:
    """Let what failed until now be forgotten."""
    newest = instance.get_run_records(limit=1)
    kept = str(newest[0].storage_id if newest else 0)
    instance.daemon_cursor_storage.set_cursor_values({_reset(naming): kept})


def _reset(naming: Naming) -> str:
    return "/".join([_RESET, *naming.prefix])
