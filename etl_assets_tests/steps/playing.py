"""A group of steps run as Dagster runs it, on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from etl_assets.automation.in_process import EXECUTOR
from etl_assets.deployments import resources
from etl_assets.settings import Settings
from etl_assets.steps.assets import operation, step_assets
from etl_assets.steps.group import Steps


@dataclass(frozen=True)
class Ran:
    """What a run did, read from Dagster's events."""

    result: dg.ExecuteInProcessResult

    @property
    def success(self) -> bool:
        return bool(self.result.success)

    @property
    def made(self) -> list[str]:
        """The steps that were done, in order."""
        return [
            event.asset_key.path[-1]
            for event in self.result.get_asset_materialization_events()
            if event.asset_key
        ]

    def told(self, step: str) -> Mapping[str, Any]:
        """The metadata of a step."""
        found = [
            event.step_materialization_data.materialization
            for event in self.result.get_asset_materialization_events()
            if event.asset_key and event.asset_key.path[-1] == step
        ]
        return {name: value.value for name, value in found[-1].metadata.items()}

    @property
    def failure(self) -> str:
        """Why the run failed: the one line, or what Dagster says of an error."""
        (event,) = [event for event in self.result.all_events if event.is_step_failure]
        user = event.step_failure_data.user_failure_data
        if user and user.description:
            return str(user.description)
        error = event.step_failure_data.error
        assert error
        return str((error.cause or error).message)

    @property
    def shown(self) -> Mapping[str, Any]:
        """The metadata of the failure."""
        (event,) = [event for event in self.result.all_events if event.is_step_failure]
        user = event.step_failure_data.user_failure_data
        return {name: value.value for name, value in user.metadata.items()} if user else {}


def play(
    group: Steps,
    data: Path,
    *,
    config: Mapping[str, object] | None = None,
    select: Sequence[str] | None = None,
    partition: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Ran:
    """Run a group, or some of its steps, with the parameters of `config`."""
    assert list(group.mistakes()) == []
    made = step_assets([group], [])
    defs = dg.Definitions(
        assets=made,
        resources=dict(resources(Settings.read({"ETL_DATA": str(data), **(settings or {})}))),
        executor=EXECUTOR,
    )
    job = defs.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey([group.name, name]) for name in select or group.by_name]
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            run_config={"ops": {operation(group): {"config": dict(config)}}} if config else {},
            asset_selection=keys,
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
        )
        _ = result.all_events
        return Ran(result)


def kept(data: Path, group: str, name: str) -> Path:
    """Where a step's frame lies in the lake."""
    return data / "lake/steps" / group / f"{name}.parquet"
