"""Which runs go on at once: one that loads, and beside it one that verifies.

A limit on the tags of jobs would miss the interface's "Materialize" button, whose runs are of no job of ours; and a
verification that takes hours must not keep the warehouse from being loaded. So every run is told its lane when it is
queued, whoever asked for it, and a lane has one run at a time.
"""

from collections.abc import Mapping
from typing import Any, Self

from dagster import DagsterInstance, DagsterRun
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._serdes import ConfigurableClassData

from etl_assets.proof.checks import only_verifies

_LANE = "etl/lane"
LOADS = {_LANE: "loads"}
_VERIFIES = {_LANE: "verifies"}
_LANES = 2


class Lanes(QueuedRunCoordinator[DagsterInstance]):
    """Dagster's queue, with a lane for runs that load and one for runs that verify. A run outside the queue that has the
    tag of a lane is counted too."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(
            max_concurrent_runs=_LANES,
            tag_concurrency_limits=[
                {"key": _LANE, "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
            ],
            dequeue_interval_seconds=1,
            inst_data=inst_data,
        )

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data)

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        self._instance.add_run_tags(run.run_id, _VERIFIES if only_verifies(run) else LOADS)
        return super().submit_run(context)
