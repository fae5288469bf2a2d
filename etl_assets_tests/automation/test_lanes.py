"""One run that loads at a time, and beside it one that verifies, whoever asked for them."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator import SubmitRunContext
from dagster._utils.tags import TagConcurrencyLimitsCounter

from etl_assets.automation.lanes import LOADS, Lanes
from etl_assets.cli.environment import _MINIMAL
from etl_assets.proof.checks import is_loading, verification_key


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(_MINIMAL)
    with dg.DagsterInstance.get() as made:
        yield made


def queued(instance: dg.DagsterInstance, job_name: str, **selection: frozenset[object]) -> dg.DagsterRun:
    """A run as the interface or a schedule submits it: without any tag of ours."""
    place = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("etl_assets"), "__repository__")
    origin = RemoteJobOrigin(place, job_name)
    run = dg.DagsterRun(job_name=job_name, remote_job_origin=origin, **selection)  # type: ignore[arg-type]
    instance.run_storage.add_run(run)
    assert isinstance(instance.run_coordinator, Lanes)
    return instance.run_coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]


def test_a_verification_goes_on_beside_a_load_and_two_loads_do_not(instance: dg.DagsterInstance) -> None:
    check = dg.AssetCheckKey(verification_key(), "star_dim_a")
    load = queued(instance, "etl")
    button = queued(instance, "__ASSET_JOB", asset_selection=frozenset({dg.AssetKey("a")}))
    verify = queued(instance, "demo_verify")
    checks = queued(instance, "__ASSET_JOB", asset_check_selection=frozenset({check}))
    assert isinstance(instance.run_coordinator, Lanes)
    config = instance.run_coordinator.get_run_queue_config()
    assert config.max_concurrent_runs == 2
    for going, waits, goes in (
        ([load], [button], [verify, checks]),
        ([verify], [checks], [load, button]),
        ([dg.DagsterRun(job_name="etl", tags=LOADS)], [load, button], [verify]),  # `etl run`
    ):
        counter = TagConcurrencyLimitsCounter(config.tag_concurrency_limits or [], going)
        assert all(counter.is_blocked(run) for run in waits)
        assert not any(counter.is_blocked(run) for run in goes)


def test_a_verification_knows_of_loads_and_not_of_itself(instance: dg.DagsterInstance) -> None:
    for name, loading in (("verify", False), ("etl", True)):
        run = dg.DagsterRun(job_name=name, status=dg.DagsterRunStatus.STARTED)
        instance.run_storage.add_run(run)
        assert is_loading(instance) is loading
