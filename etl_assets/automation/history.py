"""What the run history says of the whole flow: when it last succeeded, what failed since, which run goes on.

The runs are the state. There is nothing else to get out of step with them, to reset, or to restore. What came after what
is told by the order in which the instance was told of runs, not by their times: a clock may have been set ahead once.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import dagster as dg

from etl_assets.presentation import PLAIN, Naming
from etl_assets.raw.assets import reads_all

FLOW = "etl"
"""The job of the whole flow."""
UNCHANGED_SINCE = "etl/unchanged_since"
"""Tags a run that found nothing, and has no steps, with the run that left everything as it found it."""
_LOOK_BACK = 200
"""Runs that are looked through; those of the whole flow are not rare among the runs that read all tables."""
_Status = dg.DagsterRunStatus
NOT_BEGUN = [_Status.QUEUED, _Status.STARTING]
UNDERWAY = [*NOT_BEGUN, _Status.STARTED, _Status.CANCELING]


@dataclass(frozen=True)
class History:
    """The runs of a project in an instance. `flow` are the assets of the whole flow, whatever job or button made them."""

    instance: dg.DagsterInstance
    flow: Set[dg.AssetKey]
    naming: Naming = PLAIN

    @classmethod
    def of(
        cls, context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, naming: Naming = PLAIN
    ) -> "History":
        """The history that a sensor or a schedule looks at."""
        assert context.repository_def  # noqa: S101  they are evaluated where their definitions are
        job = context.repository_def.get_job(naming.name(FLOW))
        return cls(context.instance, job.asset_layer.selected_asset_keys, naming)

    @classmethod
    def of_definitions(
        cls, definitions: dg.Definitions, instance: dg.DagsterInstance, naming: Naming = PLAIN
    ) -> "History":
        """The history of an instance, as a command looks at it."""
        job = definitions.resolve_job_def(naming.name(FLOW))
        return cls(instance, job.asset_layer.selected_asset_keys, naming)

    @property
    def job(self) -> str:
        """The name of the job of the whole flow."""
        return self.naming.name(FLOW)

    def last_success(self) -> dg.RunRecord | None:
        """The newest run that brought everything up to date."""
        found = self._runs(dg.RunsFilter(statuses=[_Status.SUCCESS], tags=reads_all(self.naming)))
        return next((record for record in found if self._is_whole(record.dagster_run)), None)

    def failures(self, after: int = 0) -> Sequence[dg.RunRecord]:
        """The runs of the flow that failed or were canceled, of those with a `storage_id` beyond `after`; newest first."""
        found = self._runs(dg.RunsFilter(job_name=self.job, statuses=[_Status.FAILURE, _Status.CANCELED]))
        return [record for record in found if record.storage_id > after]

    def underway(self) -> dg.DagsterRun | None:
        """The run of the whole flow that waits or goes on; of several the one that came first."""
        found = [record.dagster_run for record in self._runs(dg.RunsFilter(statuses=UNDERWAY))]
        return next((run for run in reversed(found) if self._is_whole(run)), None)

    def _runs(self, runs: dg.RunsFilter) -> Sequence[dg.RunRecord]:
        return self.instance.get_run_records(runs, limit=_LOOK_BACK)

    def _is_whole(self, run: dg.DagsterRun) -> bool:
        if run.parent_run_id and run.step_keys_to_execute is not None:  # some steps of another run, again
            return False
        return run.asset_selection >= self.flow if run.asset_selection else run.job_name == self.job


def told(run: dg.DagsterRun) -> str:
    """A run in words: which, of what, and who started it."""
    by = run.tags.get("dagster/schedule_name") or run.tags.get("dagster/sensor_name")
    job = "picked assets" if run.job_name.startswith("__ASSET_JOB") else run.job_name
    return f"run {run.run_id[:8]} ({job}, {by or run.tags.get('etl/started_by') or 'by hand'})"
