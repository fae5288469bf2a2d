"""The warehouse in BigQuery: all tables at once or nothing, each load once, whatever goes wrong on the way."""

import datetime as dt
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from etl_assets.errors import SettingsError
from etl_assets.stand_ins import gcs
from etl_assets.stand_ins.bigquery import BigQueryStandIn, objects_at
from etl_assets.stand_ins.bigquery_tables import ErrorResponse
from etl_assets.star.definition import Inputs
from etl_assets.star.function import star_table
from etl_assets.star.schema import Column, Dimension, Fact
from etl_assets.warehouse import bigquery_load
from etl_assets.warehouse.bigquery import bigquery_warehouse
from etl_assets.warehouse.contract import WarehouseError, WarehouseInUse
from etl_assets.warehouse.dialect import ControlTable
from etl_assets.warehouse.load import load_star
from etl_assets.warehouse.retire import retire
from etl_assets_tests import shop
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.lake_layout import star_files
from etl_assets_tests.resources.conftest import PROJECT
from etl_assets_tests.resources.test_bigquery import CUT, LOST, PASSING, every, since
from etl_assets_tests.shelf import Shelf
from etl_assets_tests.test_warehouses import make_older

URL = f"bigquery://{PROJECT}?location=EU"
Content = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def days(
    module_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Direct, Content]]:
    """The lake of the shop after each of three days, and what a warehouse in DuckDB holds then."""
    folder = tmp_path_factory.mktemp("days")
    url = module_database()
    execute(url, shop.SOURCE)
    flow = Direct(url, folder / "live", shop.INPUTS)
    found = []
    for number, statement in enumerate(
        ("", shop.DAY, "DELETE FROM worker WHERE id > 28; DELETE FROM sale WHERE id < 20")
    ):
        if statement:
            execute(url, statement)
        flow.run()
        then = flow.at(folder / f"day {number}")
        shutil.copytree(flow.data, then.data)
        found.append((then, content(then)))
    return found


@pytest.fixture
def day(
    stand_in: BigQueryStandIn, days: list[tuple[Direct, Content]], tmp_path: Path
) -> Callable[[int], Direct]:
    """A day's lake with a warehouse in BigQuery."""

    def made(number: int) -> Direct:
        data = tmp_path / f"day {number}"
        if not data.exists():
            shutil.copytree(days[number][0].data, data)
        return replace(days[number][0], data=data, warehouse_url=URL)

    return made


def content(flow: Direct) -> Content:
    """What readers see, and what the books say."""
    rows = flow.dump()
    with flow.warehouse.reading() as reader:
        return {
            **rows,
            "current": sorted(
                reader.rows("SELECT sale_id, worker_id, amount, due, batch FROM star.fact_sale_current")
            ),
            "loads": sorted(reader.rows('SELECT table_name, batch, version, "rows" FROM star.loads')),
            "superseded": sorted(reader.rows("SELECT table_name, record_id FROM star.superseded")),
        }


def load(flow: Direct) -> bool:
    """Load the star; whether there was anything to load."""
    with flow.lake.open(flow.inputs) as bench:
        tables = [made.schema for made in flow.inputs.star.values()]
        versions = {table.name: bench.builder.version(table.name, bench.manifest) for table in tables}
        loaded = load_star(flow.warehouse, bench.star, tables, versions, "a test", bench.changed_members)
    return any(outcome.batches for outcome in loaded.values())


def scripts(stand_in: BigQueryStandIn) -> list[str]:
    return [name for name in stand_in.jobs.known if name.startswith("load_")]


def staged(stand_in: BigQueryStandIn) -> list[tuple[str, str]]:
    return [place for place in stand_in.tables.tables if place[0].endswith("_staging")]


def quiet(stand_in: BigQueryStandIn) -> None:
    stand_in.fault = lambda request: None
    stand_in.jobs.fault = lambda job, statement: None


# -- content ---------------------------------------------------------------------------------------------------------


def test_it_holds_what_duckdb_holds_day_after_day(
    day: Callable[[int], Direct], days: list[tuple[Direct, Content]], stand_in: BigQueryStandIn
) -> None:
    for number in range(3):
        assert load(day(number))
        assert content(day(number)) == days[number][1]
        assert not load(day(number))
    assert staged(stand_in) == []
    assert len(scripts(stand_in)) == 3


def test_with_a_prefix_its_datasets_are_others(
    day: Callable[[int], Direct], days: list[tuple[Direct, Content]], stand_in: BigQueryStandIn
) -> None:
    flow = replace(day(1), warehouse_url=f"bigquery://{PROJECT}/test?location=EU")
    load(flow)
    assert content(flow) == days[1][1]
    assert set(stand_in.tables.datasets) == {"test_star", "test_star_staging"}


def test_it_is_loaded_from_a_lake_in_cloud_storage_without_carrying_the_rows_here(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    stand_in: BigQueryStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with gcs.serve("lake") as service:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", service.url)
        stand_in.jobs.objects = objects_at(service.url)
        for number in range(2):
            local = day(number)
            flow = replace(local, lake_url="gs://lake/of sales")
            files = flow.lake.files()
            for path in sorted((local.data / "lake").rglob("*")):
                if path.is_file():
                    with files.writing(str(path.relative_to(local.data / "lake"))) as stream:
                        stream.write(path.read_bytes())
            load(flow)
            assert content(flow) == days[number][1]
    from_lake = [
        job
        for job in stand_in.jobs.known.values()
        if "sourceUris" in job.resource["configuration"].get("load", {})
    ]
    assert len(from_lake) == 4
    uri = from_lake[0].resource["configuration"]["load"]["sourceUris"][0]
    (path,) = star_files(day(0).data / "lake", "dim_worker")
    assert uri == f"gs://lake/of sales/{path.relative_to(day(0).data / 'lake')}"


def test_tables_say_what_they_are_and_how_they_hang_together(
    day: Callable[[int], Direct], stand_in: BigQueryStandIn
) -> None:
    load(day(0))
    fact, member = (stand_in.tables.resource("star", name) for name in ("fact_sale", "dim_worker"))
    said = {
        field["name"]: (field["type"], field["mode"], field.get("description"))
        for field in fact["schema"]["fields"]
    }
    assert said["amount"] == ("NUMERIC", "REQUIRED", None)
    assert said["batch"] == ("INTEGER", "REQUIRED", "The batch that brought this version.")
    assert fact["timePartitioning"] == {"type": "MONTH", "field": "due"}
    assert (fact["clustering"], member["clustering"]) == ({"fields": ["sale_id"]}, {"fields": ["worker_id"]})
    assert member["tableConstraints"]["primaryKey"] == {"columns": ["worker_id"]}
    (key,) = fact["tableConstraints"]["foreignKeys"]
    assert key["referencedTable"]["tableId"] == "dim_worker"
    assert stand_in.tables.resource("star", "loads")["description"].startswith(
        "One row is a file of the lake"
    )


def test_what_is_said_of_a_table_is_mended_by_the_next_load(
    day: Callable[[int], Direct], stand_in: BigQueryStandIn
) -> None:
    load(day(0))
    stand_in.tables.note("star", "fact_sale", {"description": "Wrong.", "tableConstraints": {}})
    load(day(1))
    fact = stand_in.tables.resource("star", "fact_sale")
    assert fact["description"] == ""
    assert fact["tableConstraints"]["primaryKey"] == {"columns": ["sale_record_id"]}


def test_keys_of_several_columns_are_noted_as_far_as_bigquery_can(
    stand_in: BigQueryStandIn, tmp_path: Path
) -> None:
    parts = {
        "raw": "bytea",
        "city": "text",
        "zone": "int",
        "day": "date",
        "mark": "uuid",
        "amount": "numeric(8,2)",
    }
    columns = [Column(name, kind) for name, kind in parts.items()]
    place = Dimension("dim_place", "", ("city", "zone"), columns)
    thing = Dimension("dim_thing", "", tuple(parts), columns)
    stop = Fact(
        "fact_stop",
        "",
        ("zone", "city"),
        columns,
        references={("city", "zone"): "dim_place", tuple(parts): "dim_thing"},
        record="stop_record_id",
    )
    here = Shelf(tmp_path, bigquery_warehouse(URL, str(tmp_path)), {t.name: t for t in (place, thing, stop)})
    member = (b"\x00", "Ulm", 1, dt.date(2024, 5, 1), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", Decimal("1.5"))
    here.put("dim_place", member)
    here.put("dim_thing", member)
    here.put("fact_stop", (1, *member))
    here.load()
    places, things, stops = (stand_in.tables.resource("star", name) for name in here.tables)
    assert places["clustering"] == {"fields": ["city", "zone"]}
    assert things["clustering"] == {"fields": ["city", "zone", "day", "mark"]}
    assert stops["clustering"] == {"fields": ["zone", "city"]}
    assert places["tableConstraints"] == {"primaryKey": {"columns": ["city", "zone"]}}
    assert "tableConstraints" not in things, "no key has bytes in it"
    (key,) = stops["tableConstraints"]["foreignKeys"]
    assert key["referencedTable"]["tableId"] == "dim_place"
    assert [tuple(part.values()) for part in key["columnReferences"]] == [("city", "city"), ("zone", "zone")]
    # It is all said: the next load has nothing to add.
    here.put("dim_place", member, (b"", *member[1:2], 2, *member[3:]))
    here.load()
    for before, name in ((things, "dim_thing"), (stops, "fact_stop")):
        assert stand_in.tables.resource("star", name)["etag"] == before["etag"]


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F29")
@pytest.mark.many
@pytest.mark.parametrize("fault", ["cut", "cut after it was done", "503 after it was done", "rate limit"])
def test_a_load_is_done_once_although_requests_go_wrong(
    day: Callable[[int], Direct], days: list[tuple[Direct, Content]], stand_in: BigQueryStandIn, fault: str
) -> None:
    stand_in.fault = every(3, PASSING[fault])
    load(day(0))
    stand_in.fault = every(4, PASSING[fault])
    load(day(2))
    quiet(stand_in)
    assert content(day(2)) == days[2][1]
    assert len(scripts(stand_in)) == 2


@pytest.mark.parametrize("fault", [CUT, LOST], ids=["cut", "cut after it was done"])
@pytest.mark.parametrize("trials", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_if_it_stays_wrong_all_of_the_old_state_or_all_of_the_new_one_is_there(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    stand_in: BigQueryStandIn,
    fault: Any,
    trials: int,
) -> None:
    load(day(0))
    before = len(stand_in.requests)
    load(day(1))
    requests = len(stand_in.requests) - before - 1  # less that for a token
    seen = []
    for nth in range(1, requests, max(1, requests // trials)):
        url = f"bigquery://{PROJECT}/trial_{nth}?location=EU"
        load(replace(day(0), warehouse_url=url))
        flow = replace(day(1), warehouse_url=url)
        stand_in.fault = since(nth, fault)
        try:
            load(flow)
        except WarehouseError as error:
            seen.append(str(error))
        quiet(stand_in)
        assert content(flow) in (days[0][1], days[1][1])
        load(flow)
        assert content(flow) == days[1][1]
    assert len(seen) >= 4
    assert not any("\n" in line for line in seen)


@pytest.mark.fault("F40")
@pytest.mark.parametrize("statement", [2, 5, 9])
def test_whichever_statement_of_the_script_fails_nothing_has_changed(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    stand_in: BigQueryStandIn,
    statement: int,
) -> None:
    load(day(0))

    def fault(job: Any, number: int) -> ErrorResponse | None:
        if job["jobReference"]["jobId"].startswith("load_") and number == statement:
            return ErrorResponse(400, "resourcesExceeded", "too much")
        return None

    stand_in.jobs.fault = fault
    with pytest.raises(WarehouseError, match="too much"):
        load(day(1))
    quiet(stand_in)
    assert content(day(0)) == days[0][1]
    load(day(1))
    assert content(day(1)) == days[1][1]


def test_a_first_load_that_fails_leaves_tables_without_a_row(
    day: Callable[[int], Direct], days: list[tuple[Direct, Content]], stand_in: BigQueryStandIn
) -> None:
    stand_in.jobs.fault = lambda job, number: ErrorResponse(400, "stopped", "no") if number == 5 else None
    with pytest.raises(WarehouseError, match="no"):
        load(day(0))
    quiet(stand_in)
    assert not any(content(day(0)).values())
    load(day(0))
    assert content(day(0)) == days[0][1]


def test_a_script_of_which_the_run_heard_nothing_any_more_is_not_run_again_by_the_next(
    day: Callable[[int], Direct], days: list[tuple[Direct, Content]], stand_in: BigQueryStandIn
) -> None:
    load(day(0))
    flow = day(1)
    # The script is accepted; from then on the run hears nothing any more.
    stand_in.fault = lambda request: CUT if len(scripts(stand_in)) == 2 else None
    with pytest.raises(WarehouseError, match="can't be reached"):
        load(flow)
    quiet(stand_in)
    assert not load(flow)  # it was done
    assert content(flow) == days[1][1]
    assert len(scripts(stand_in)) == 2


def test_a_script_that_still_runs_when_the_next_run_comes_is_waited_for(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    stand_in: BigQueryStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load(day(0))
    flow = day(1)

    def place(name: str) -> None:
        if sum(job.startswith("stage_loads_") for job in stand_in.jobs.known) == 2:  # next is the script
            stand_in.jobs.seconds = 1.5
            stand_in.fault = lambda request: (
                CUT if scripts(stand_in)[1:] and "/jobs" in request.path else None
            )

    monkeypatch.setattr(bigquery_load, "reached", place)
    with pytest.raises(WarehouseError, match="can't be reached"):
        load(flow)
    assert not stand_in.jobs.known[scripts(stand_in)[1]].done
    quiet(stand_in)
    stand_in.jobs.seconds = 0
    monkeypatch.setattr(bigquery_load, "reached", lambda name: None)
    load(flow)  # it asks for the same change, and waits for the job that is doing it
    assert content(flow) == days[1][1]
    assert len(scripts(stand_in)) == 2


def test_a_warehouse_that_was_deleted_is_filled_again(
    day: Callable[[int], Direct], days: list[tuple[Direct, Content]], stand_in: BigQueryStandIn
) -> None:
    load(day(0))
    stand_in.tables.delete_dataset("star", contents=True)
    load(day(0))
    assert content(day(0)) == days[0][1]


# -- several at once -------------------------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Direct], None]:
    """Lets a flow be loaded while the next load is about to change tables."""

    def arrange(other: Direct) -> None:
        begun: list[str] = []

        def place(name: str) -> None:
            if name == "warehouse loading" and not begun:
                begun.append(name)
                load(other)

        monkeypatch.setattr(bigquery_load, "reached", place)

    return arrange


def test_of_two_loads_at_once_one_is_refused(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    meanwhile: Callable[[Direct], None],
) -> None:
    load(day(0))
    meanwhile(day(2))
    with pytest.raises(WarehouseError, match="another load changed the warehouse meanwhile: run again"):
        load(day(1))
    assert content(day(2)) == days[2][1]


@pytest.mark.fault("F25")
def test_who_carries_on_a_book_that_another_load_carried_on_meanwhile_is_refused(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    stand_in: BigQueryStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what the other one noted would be lost."""
    load(day(0))
    make_older(day(0), "bigquery", stand_in)
    own = bigquery_load.BigQueryLoadSession._carry_on

    def overtaken(self: bigquery_load.BigQueryLoadSession, book: ControlTable) -> None:
        monkeypatch.setattr(bigquery_load.BigQueryLoadSession, "_carry_on", own)
        load(day(2))
        own(self, book)

    monkeypatch.setattr(bigquery_load.BigQueryLoadSession, "_carry_on", overtaken)
    with pytest.raises(WarehouseError, match="another load changed the warehouse meanwhile: run again"):
        load(day(1))
    retire(day(2).warehouse, ["dim_gone"], day(2).lake_id, "")
    assert content(day(2)) == days[2][1]
    assert not load(day(2))


@pytest.mark.parametrize("fault", [CUT, LOST], ids=["cut", "cut after it was done"])
def test_a_book_is_carried_on_although_requests_go_wrong(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    stand_in: BigQueryStandIn,
    fault: Any,
) -> None:
    """Whichever it is from which on all fail, the next load knows what is there."""
    load(day(0))
    for nth in range(2, 34, 5):
        make_older(day(0), "bigquery", stand_in)
        stand_in.fault = since(nth, fault)
        with suppress(WarehouseError):
            load(day(0))
        quiet(stand_in)
        assert day(0).warehouse.held().keys() == {"dim_gone", "dim_worker", "fact_sale"}
        load(day(0))
        retire(day(0).warehouse, ["dim_gone"], day(0).lake_id, "")
        assert content(day(0)) == days[0][1]


def test_two_loads_of_the_same_are_one(
    day: Callable[[int], Direct],
    days: list[tuple[Direct, Content]],
    stand_in: BigQueryStandIn,
    meanwhile: Callable[[Direct], None],
) -> None:
    load(day(0))
    meanwhile(day(1))
    load(day(1))
    assert content(day(1)) == days[1][1]
    assert len(scripts(stand_in)) == 2


def test_who_reads_while_it_is_loaded_is_told(day: Callable[[int], Direct]) -> None:
    load(day(0))

    def read() -> None:
        with day(0).warehouse.reading() as reader:
            reader.rows("SELECT count(*) FROM star.fact_sale")
            load(day(1))
            reader.rows("SELECT count(*) FROM star.fact_sale_current")

    with pytest.raises(WarehouseInUse, match=f"bigquery://{PROJECT} was loaded while it was read: run again"):
        read()


# -- declarations that change ----------------------------------------------------------------------------------------


@star_table(
    Dimension(
        "dim_worker",
        "One row is a worker.",
        "worker_id",
        [
            Column("worker_id", "int"),
            Column("name", "text"),
            Column("team", "text?"),
            Column("again", "text"),
        ],
    )
)
def wider(worker: Any, team: Any) -> Any:
    return shop.dim_worker.function(worker, team).with_columns(again="name")


@pytest.mark.parametrize("lost", [False, True])
def test_a_table_that_is_declared_otherwise_takes_the_place_of_the_old_one_whole(
    day: Callable[[int], Direct], stand_in: BigQueryStandIn, lost: bool
) -> None:
    load(day(0))
    inputs = Inputs(shop.INPUTS.tables, {"dim_worker": wider, "fact_sale": shop.fact_sale}, {})
    flow = replace(day(1), inputs=inputs)
    if lost:
        before = day(0).dump()["dim_worker"]
        flow = replace(flow, warehouse_url=None)
        with flow.lake.open(flow.inputs) as bench:
            bench.publish(list(bench.builder.derive(bench.manifest)))
        flow = replace(flow, warehouse_url=URL)

        def fault(job: Any, number: int) -> ErrorResponse | None:
            query = job["configuration"].get("query", {}).get("query", "")
            last = query.count(";\n") + 1
            return ErrorResponse(400, "stopped", "no") if " COPY " in query and number == last else None

        stand_in.jobs.fault = fault
        with pytest.raises(WarehouseError, match="no"):
            load(flow)
        quiet(stand_in)
        assert day(0).dump()["dim_worker"] == before
        load(flow)
    else:
        flow.derive(certified=False)
    other = replace(flow, data=flow.data.with_name("other"), warehouse_url=None)
    shutil.copytree(flow.data / "lake", other.data / "lake")
    other.derive(certified=False)
    assert flow.dump() == other.dump()
    assert stand_in.tables.resource("star", "dim_worker")["description"] == "One row is a worker."
    assert stand_in.tables.resource("star", "dim_worker")["tableConstraints"]["primaryKey"] == {
        "columns": ["worker_id"]
    }
    assert "expirationTime" not in stand_in.tables.resource("star", "dim_worker")
    assert not load(flow)


# -- URLs and errors -------------------------------------------------------------------------------------------------


def test_the_url_names_project_prefix_and_location() -> None:
    made = bigquery_warehouse("bigquery://my-project/test?location=EU", "scratch")
    assert (made.bigquery.project, made.prefix, made.bigquery.location) == ("my-project", "test", "EU")
    assert bigquery_warehouse("bigquery://my-project", "scratch").bigquery.location is None
    for url in (
        "bigquery://",
        "bigquery://my-project/a/b",
        "bigquery://my-project?loc=EU",
        "bigquery://my project",
    ):
        with pytest.raises(SettingsError, match="ETL_WAREHOUSE_URL: write bigquery://project"):
            bigquery_warehouse(url, "scratch")


def test_a_project_without_a_warehouse_is_said_to_hold_nothing_until_it_is_loaded(
    day: Callable[[int], Direct], stand_in: BigQueryStandIn
) -> None:
    assert not day(0).warehouse.exists
    assert day(0).warehouse.held() == {}
    load(day(0))
    assert day(0).warehouse.exists
    assert day(0).warehouse.held()["fact_sale"].batch == 1


@pytest.mark.fault("F30")
def test_a_dataset_elsewhere_ends_a_load_before_anything_is_written(
    day: Callable[[int], Direct], stand_in: BigQueryStandIn
) -> None:
    load(day(0))
    flow = replace(day(1), warehouse_url=f"bigquery://{PROJECT}?location=US")
    before = len(stand_in.jobs.known)
    with pytest.raises(WarehouseError, match=r"the dataset demo-project\.star lies in EU, not in US"):
        load(flow)
    assert len(stand_in.jobs.known) == before
    with pytest.raises(
        WarehouseError, match=r"no dataset demo-project\.x_star: create it, or say in which location"
    ):
        load(replace(day(1), warehouse_url=f"bigquery://{PROJECT}/x"))
