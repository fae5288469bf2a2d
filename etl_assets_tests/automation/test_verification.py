"""The verification on a schedule: what differs makes its run red, and in a week everything was looked at."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import dagster as dg
import duckdb
import pytest

from etl_assets.automation.verification import NIGHTS, share_of, verify_every_night
from etl_assets.deployments import resources
from etl_assets.settings import Settings
from etl_assets_tests.flow import Flow
from etl_assets_tests.shipped import INPUTS

NIGHT = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def flow(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Flow:
    flow = Flow(module_database(template("totesys")), tmp_path_factory.mktemp("verified"))
    assert flow.run("raw", "star", "warehouse").success
    return flow


def checked(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, request: dg.RunRequest | None = None
) -> dict[str, bool]:
    """Run the verification, whole or as a schedule asks for it: what each check says."""
    for name, value in flow.environment.items():
        monkeypatch.setenv(name, value)
    job = flow.definitions().resolve_job_def("verify")
    if request:
        job = job.get_subset(asset_check_selection=set(request.asset_check_keys or ()), asset_selection=None)
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        found = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert result.success is all(found.values())
    return found


def asked_for(flow: Flow, monkeypatch: pytest.MonkeyPatch, at: datetime, rows: int) -> dg.RunRequest:
    for name, value in flow.environment.items():
        monkeypatch.setenv(name, value)
    lake = (flow.definitions().resources or {})["lake"]
    with dg.build_schedule_context(scheduled_execution_time=at, resources={"lake": lake}) as context:
        (request,) = verify_every_night(INPUTS, rows).evaluate_tick(context).run_requests or []
    return request


def test_everything_is_verified_where_a_night_is_enough(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked_for(flow, monkeypatch, NIGHT, 10**9)
    found = checked(flow, monkeypatch, request)
    assert found.keys() == {f"raw_{t}" for t in INPUTS.tables} | {f"star_{s}" for s in INPUTS.star}
    assert all(found.values())


def test_within_a_week_everything_is_verified_where_a_night_is_not_enough(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = [
        checked(flow, monkeypatch, asked_for(flow, monkeypatch, NIGHT + timedelta(days=day), 1))
        for day in range(NIGHTS)
    ]
    names = [name for night in nights for name in night]
    assert sorted(names) == sorted({f"raw_{t}" for t in INPUTS.tables} | {f"star_{s}" for s in INPUTS.star})
    assert max(map(len, nights)) < len(names)


def test_what_differs_makes_the_run_red_and_is_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    with duckdb.connect(flow.data / "warehouse.duckdb") as warehouse:
        warehouse.execute("UPDATE star.dim_design SET design_name = 'other' WHERE design_id = 2")
    found = checked(flow, monkeypatch)
    assert [name for name, passed in found.items() if not passed] == ["star_dim_design"]


@pytest.mark.parametrize("seed", range(50))
def test_shares_are_about_as_heavy_and_each_is_taken_within_a_week(seed: int) -> None:
    rng = Random(seed)
    weights = {f"t{n}": rng.choice((0, 1, 10, 10_000)) for n in range(rng.randint(1, 60))}
    most = rng.choice((1, 1_000, 50_000, 10**9))
    begun = date(2026, 1, 1) + timedelta(days=rng.randint(0, 400))
    nights = [share_of(weights, begun + timedelta(days=day), most) for day in range(NIGHTS)]
    assert {name for night in nights for name in night} == set(weights)
    heaviest = max(sum(weights[name] for name in night) for night in nights)
    total = sum(weights.values())
    assert heaviest <= max(most, total / min(NIGHTS, len(weights))) + 2 * max(weights.values())
    if total <= most:
        assert all(night == list(weights) for night in nights)


def test_before_the_first_batch_there_is_nothing_to_verify(tmp_path: Path) -> None:
    lake = resources(Settings.read({"ETL_DATA": str(tmp_path)}))["lake"]
    with dg.build_schedule_context(scheduled_execution_time=NIGHT, resources={"lake": lake}) as context:
        told = verify_every_night(INPUTS, 1).evaluate_tick(context)
    assert told.skip_message == "the lake holds no batch yet"
