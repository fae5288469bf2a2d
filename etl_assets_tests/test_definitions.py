"""The definitions load anywhere, touch nothing, and are refused when they can't be right."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import narwhals as nw
import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.definitions import definitions
from etl_assets.deployments import resources
from etl_assets.errors import SettingsError
from etl_assets.settings import Settings
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import ContractError, StarFunction
from etl_assets.star.schema import Column, Dimension
from etl_assets_tests.flow import STAGES, Flow
from etl_assets_tests.hiring import BICYCLES, BIKES, HIRES

NAMED = {
    "ETL_SOURCE_URL": "postgresql://nobody:nothing@no-such-host.invalid/none",
    "ETL_LAKE_URL": "/no/such/lake",
    "ETL_WAREHOUSE_URL": "duckdb:////no/such/warehouse.duckdb",
}
# Loads the definitions of both deployments in a process that can make no connection, and lists their assets.
LOADER = f"""
import os, socket, psycopg2
def refuse(*args, **kwargs): raise AssertionError("a connection was attempted")
socket.socket.connect = socket.create_connection = psycopg2.connect = refuse
from etl_assets.definitions import defs, definitions
from etl_assets.settings import Settings
os.environ.update({NAMED!r}, ETL_DEPLOYMENT="production")
for loaded in (defs(), definitions(Settings.read(os.environ))):
    print(*sorted(spec.key.to_user_string() for spec in loaded.resolve_all_asset_specs()))
"""


@pytest.fixture
def defs(tmp_path: Path) -> dg.Definitions:
    return definitions(Settings.read({"ETL_PROJECT": BICYCLES.project, "ETL_DATA": str(tmp_path)}))


def test_the_definitions_are_valid(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_an_asset_stands_in_the_group_that_its_key_begins_with(defs: dg.Definitions) -> None:
    specs = list(defs.resolve_all_asset_specs())
    assert {spec.key.to_user_string() for spec in specs if spec.group_name != spec.key.path[0]} == set()
    assert {"source", *STAGES} <= {spec.group_name for spec in specs}


def test_every_asset_says_what_it_is_whose_and_of_what_kind(defs: dg.Definitions) -> None:
    lacking = {
        spec.key.to_user_string(): [
            name for name in ("description", "owners", "kinds") if not getattr(spec, name)
        ]
        for spec in defs.resolve_all_asset_specs()
    }
    assert {key: names for key, names in lacking.items() if names} == {}


def test_lineage_reaches_from_the_source_to_the_warehouse(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    reached = {dg.AssetKey(["warehouse", "dim_bike"])}
    for _ in range(3):
        reached |= {parent for key in reached for parent in graph.get(key).parent_keys}
    assert {key.to_user_string() for key in reached} == {
        "warehouse/dim_bike", "star/dim_bike", "raw/bike", "raw/station", "source/bike", "source/station", "source/colours",
    }  # fmt: skip


def test_loading_needs_nothing_and_connects_nowhere_and_every_deployment_has_the_same_assets(
    tmp_path: Path,
) -> None:
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", LOADER], cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == [], "loading wrote something"
    local, production = done.stdout.splitlines()
    assert "warehouse/fact_payment" in local
    assert production == local


def test_an_unknown_deployment_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(SettingsError, match=r"ETL_DEPLOYMENT=staging .*local, production"):
        definitions(Settings.read({"ETL_DEPLOYMENT": "staging"}))


def test_production_names_all_that_is_missing_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError) as raised:
        definitions(Settings.read({"ETL_DEPLOYMENT": "production"}))
    assert [name for name in NAMED if name not in str(raised.value)] == []


def test_production_asks_for_no_source_where_no_table_is_read() -> None:
    named = {"ETL_DEPLOYMENT": "production", "ETL_PROJECT": "etl_assets.cards"}
    with pytest.raises(SettingsError, match=r"needs ETL_LAKE_URL, ETL_WAREHOUSE_URL to be set"):
        definitions(Settings.read(named))


# -- contracts -------------------------------------------------------------------------------------------------------

PERSON = Table("person", "One row is a person.", {"person_id": "int", "name": "text?", "born": "date"})
DIM_PERSON = Dimension(
    "dim_person", "One row is a person.", "person_id", [Column("person_id", "int"), Column("name", "text?")]
)


def inputs(function: Callable[..., Any]) -> Inputs:
    return Inputs({"person": PERSON}, {"dim_person": StarFunction(DIM_PERSON, function)}, {})


def right(person: nw.LazyFrame) -> nw.LazyFrame:
    return person.select("person_id", "name")


def misspelt(person: nw.LazyFrame) -> nw.LazyFrame:
    return person.select("person_id", "nmae")


def misspelt_in_pandas(person: pd.DataFrame) -> pd.DataFrame:
    return person[["person_id", "nmae"]]


def incomplete(person: nw.LazyFrame) -> nw.LazyFrame:
    return person.select("person_id")


def superfluous(person: nw.LazyFrame) -> nw.LazyFrame:
    return person.select("person_id", "name", "born")


def mistyped(person: nw.LazyFrame) -> nw.LazyFrame:
    return person.select(nw.col("person_id").cast(nw.Int64), "name")


def unconnected(persons: nw.LazyFrame) -> nw.LazyFrame:
    return persons.select("person_id", "name")


def frameless(person: nw.LazyFrame) -> list[str]:
    return person.columns


def test_a_function_that_keeps_its_promise_is_accepted() -> None:
    assert inputs(right).star["dim_person"].inputs == ["person"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (misspelt, "nmae"),
        (misspelt_in_pandas, "nmae"),
        (incomplete, "name is missing and should be VARCHAR"),
        (superfluous, "born is DATE and should be left out"),
        (mistyped, "person_id is BIGINT and should be INTEGER"),
        (unconnected, "'persons' must name one source table, star table or reference file"),
        (frameless, "returns list; return a frame"),
    ],
)
def test_a_function_that_breaks_its_promise_is_refused_at_load_time(
    function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(ContractError, match=re.escape(said)) as raised:
        inputs(function)
    message = str(raised.value)
    assert message.startswith("dim_person: ")
    assert "\n" not in message


def test_star_tables_that_are_made_from_each_other_are_refused() -> None:
    def dim_person(person: nw.LazyFrame, dim_other: nw.LazyFrame) -> nw.LazyFrame:
        return person.join(dim_other, on="person_id").select("person_id", "name")

    def dim_other(dim_person: nw.LazyFrame) -> nw.LazyFrame:
        return dim_person.select("person_id")

    other = Dimension("dim_other", "", "person_id", [Column("person_id", "int")])
    star = {"dim_person": StarFunction(DIM_PERSON, dim_person), "dim_other": StarFunction(other, dim_other)}
    with pytest.raises(ContractError, match="star tables are made from each other: dim_"):
        Inputs({"person": PERSON}, star, {})


# -- frames ----------------------------------------------------------------------------------------------------------


def test_a_function_gets_the_kind_of_frame_that_it_is_annotated_with() -> None:
    seen: dict[str, Any] = {}

    def pandas(person: pd.DataFrame) -> pd.DataFrame:
        seen["pandas"] = person
        return person[["person_id", "name"]]

    def arrow(person: pa.Table) -> pa.Table:
        seen["arrow"] = person
        return person.select(["person_id", "name"])

    inputs(pandas)
    inputs(arrow)
    assert {type(dtype) for dtype in seen["pandas"].dtypes} == {pd.ArrowDtype}
    assert seen["pandas"].dtypes["born"] == pd.ArrowDtype(pa.date32())
    assert isinstance(seen["arrow"], pa.Table)


def test_an_asset_of_ones_own_gets_star_tables_as_arrow_backed_pandas(bicycles: str, tmp_path: Path) -> None:
    flow = Flow(bicycles, tmp_path)
    assert flow.run("raw", "star/dim_bike", "star/fact_hire").success
    seen: dict[str, Any] = {}

    @dg.asset(
        ins={
            "bikes": dg.AssetIn(["star", "dim_bike"], input_manager_key="star_io"),
            "hires": dg.AssetIn(["star", "fact_hire"], input_manager_key="star_io"),
        },
        required_resource_keys={"star_io"},
    )
    def report(bikes: pd.DataFrame, hires: pa.Table) -> None:
        seen.update(bikes=bikes, hires=hires)

    upstream = [dg.AssetSpec(["star", name]) for name in ("dim_bike", "fact_hire")]
    given = resources(Settings.read(flow.environment))
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([*upstream, report], resources=dict(given), instance=instance).success
    assert {type(dtype) for dtype in seen["bikes"].dtypes} == {pd.ArrowDtype}
    assert seen["bikes"].dtypes["bike_id"] == pd.ArrowDtype(pa.int32())
    assert len(seen["bikes"]) == BIKES
    assert seen["hires"].schema.field("price").type == pa.decimal128(10, 2)
    assert len(seen["hires"]) == HIRES
