"""The verification on a schedule: what differs makes its run red, and in a week everything was looked at."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

import dagster as dg
import duckdb
import pyarrow as pa
import pytest

from etl_assets.automation.verification import NIGHTS, share_of, verify_every_night
from etl_assets.deployments import resources
from etl_assets.engine.types import Type
from etl_assets.lake.certificates import VERIFIED
from etl_assets.project import load
from etl_assets.proof import landed
from etl_assets.proof.checks import checked_parts, verification_key
from etl_assets.proof.parts import PARTS
from etl_assets.settings import Settings
from etl_assets_tests.flow import Flow
from etl_assets_tests.hiring import BICYCLES

INPUTS = load(BICYCLES.project).inputs
NAME = "Station 3"
NIGHT = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def loaded(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Flow:
    flow = Flow(module_database(template("bicycles")), tmp_path_factory.mktemp("verified"))
    assert flow.run("raw", "star", "warehouse").success
    return flow


@pytest.fixture
def flow(loaded: Flow, tmp_path: Path) -> Iterator[Flow]:
    """The flow; what a test does to its warehouse is undone."""
    warehouse = loaded.data / "warehouse.duckdb"
    kept = shutil.copy2(warehouse, tmp_path / "kept.duckdb")
    yield loaded
    shutil.copy2(kept, warehouse)


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
        config = request.run_config if request else None
        result = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
        found = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert result.success is all(found.values())
    return found


def parts_of(request: dg.RunRequest) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = request.run_config["ops"]["verification"]["config"]["parts"]
    return parts


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
    requests = [asked_for(flow, monkeypatch, NIGHT + timedelta(days=day), 20) for day in range(NIGHTS)]
    nights = [checked(flow, monkeypatch, request) for request in requests]
    assert all(all(night.values()) for night in nights)
    assert {name for night in nights for name in night} == {
        *(f"raw_{t}" for t in INPUTS.tables),
        *(f"star_{s}" for s in INPUTS.star),
    }
    assert max(map(len, nights)) < len(INPUTS.tables) + len(INPUTS.star)
    divided = {name for request in requests for name in parts_of(request)}
    assert divided
    for name in divided:
        parts = [part for request in requests for part in parts_of(request).get(name, [])]
        assert sorted(parts) == list(range(PARTS))
    told = json.loads((flow.data / "lake" / VERIFIED).read_text())
    assert divided <= told["tables"].keys()


def test_what_differs_makes_the_run_red_and_is_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    with duckdb.connect(flow.data / "warehouse.duckdb") as warehouse:
        warehouse.execute("UPDATE star.dim_station SET name = 'other' WHERE station_id = 2")
    found = checked(flow, monkeypatch)
    assert [name for name, passed in found.items() if not passed] == ["star_dim_station"]


@pytest.mark.parametrize("place", ["star", "warehouse", "deleted"])
def test_a_part_finds_what_is_wrong_in_it_and_no_other_does(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A member whose text is another, in the warehouse or in what its function gives; and one that is marked as deleted."""
    if place == "star":
        usual = landed._convert
        monkeypatch.setattr(landed, "_convert", partial(altered, usual))
    else:
        with duckdb.connect(flow.data / "warehouse.duckdb") as warehouse:
            wrong = "name = 'wrong'" if place == "warehouse" else "deleted = NOT deleted"
            warehouse.execute(f"UPDATE star.dim_station SET {wrong} WHERE station_id = 2")
    found = []
    for part in range(PARTS):
        request = dg.RunRequest(
            asset_check_keys=[dg.AssetCheckKey(verification_key(), "star_dim_station")],
            run_config={"ops": {"verification": {"config": {"parts": {"dim_station": [part]}}}}},
        )
        found.append(checked(flow, monkeypatch, request)["star_dim_station"])
    assert found.count(False) == 1


def altered(usual: Callable[..., pa.Array], type_: Type, source: str, text: pa.Array) -> pa.Array:
    """Values as verification reads them, with the name of one station another than it is."""
    values = usual(type_, source, text)
    return pa.array(["Wrong" if v == NAME else v for v in values.to_pylist()], values.type)


@pytest.mark.parametrize("parts", [{"dim_statoin": [0]}, {"dim_station": [PARTS]}, {"dim_station": []}])
def test_parts_that_there_are_not_are_refused(parts: dict[str, list[int]]) -> None:
    with pytest.raises(dg.Failure, match="parts of dim_stat"):
        checked_parts(parts, INPUTS)


@pytest.mark.parametrize("seed", range(50))
def test_shares_are_about_as_heavy_and_each_is_taken_within_a_week(seed: int) -> None:
    rng = Random(seed)
    kinds = ("raw", "star")
    weights = {f"{rng.choice(kinds)}_{n}": rng.choice((0, 1, 10, 10_000)) for n in range(rng.randint(1, 60))}
    most = rng.choice((1, 1_000, 50_000, 10**9))
    begun = date(2026, 1, 1) + timedelta(days=rng.randint(0, 400))
    nights = [share_of(weights, begun + timedelta(days=day), most) for day in range(NIGHTS)]
    for name, weight in weights.items():
        taken = [night[name] for night in nights if name in night]
        if name.startswith("star") and weight > most:
            assert {part for parts in taken for part in parts or []} == set(range(PARTS))
        else:
            assert set(map(type, taken)) == {type(None)}

    def weight_of(night: dict[str, list[int] | None]) -> float:
        return sum(weights[n] * (1 if parts is None else len(parts) / PARTS) for n, parts in night.items())

    total = sum(weights.values())
    pieces = [w / PARTS if n.startswith("star") and w > most else w for n, w in weights.items()]
    assert (
        max(map(weight_of, nights)) <= max(most, total / min(NIGHTS, len(weights))) + 2 * max(pieces) + PARTS
    )
    if total <= most:
        assert all(night == dict.fromkeys(weights) for night in nights)


def test_before_the_first_batch_there_is_nothing_to_verify(tmp_path: Path) -> None:
    lake = resources(Settings.read({"ETL_DATA": str(tmp_path)}))["lake"]
    with dg.build_schedule_context(scheduled_execution_time=NIGHT, resources={"lake": lake}) as context:
        told = verify_every_night(INPUTS, 1).evaluate_tick(context)
    assert told.skip_message == "the lake holds no batch yet"
