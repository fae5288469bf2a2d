"""Runs in the process that starts them, and how their steps hang together: for the daemon's runs and for those of the
command line alike.

A step goes on from what the one before gave, also where that failed in the end: a star table that can't be shown makes
its step red, and does not keep the others from being loaded. `JobDefinition.execute_in_process` knows nothing of that: it
puts an executor of its own into the job's place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.execute_in_process import core_execute_in_process
from dagster._core.utils import make_new_run_id

from etl_assets.automation.lanes import LOADS

# Spawned processes would cost seconds per step; capture has threads.
EXECUTOR = dg.in_process_executor.configured(
    {"step_dependency_config": {"require_upstream_step_success": False}}, name="in_process"
)


def execute(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    run_config: Mapping[str, Any] | None = None,
    assets: Sequence[dg.AssetKey] | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job, or those of its assets that are named. A failure of what runs is in the result."""
    ours = job.as_ephemeral_job({}, {}, asset_selection=assets).with_executor_def(EXECUTOR)
    return core_execute_in_process(
        job=InMemoryJob(job_def=ours),
        run_config=dict(run_config or {}),
        instance=instance,
        output_capturing_enabled=True,
        raise_on_error=False,
        run_tags={**job.run_tags, **LOADS, **(tags or {})},
        run_id=run_id or make_new_run_id(),
        asset_selection=frozenset(assets or ()),
    )
