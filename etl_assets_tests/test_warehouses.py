"""What every warehouse promises, whichever engine stands behind it: the same content, all of it at once, or nothing."""

import datetime as dt
import json
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import narwhals as nw
import pandas as pd
import psycopg2
import pyarrow as pa
import pytest
from click.testing import CliRunner

from etl_assets.cli import etl as command
from etl_assets.deployments import resources
from etl_assets.errors import SettingsError
from etl_assets.exports import postgres as postgres_report_tables
from etl_assets.exports.duckdb import ReportTablesError
from etl_assets.exports.postgres import PostgresReportTables
from etl_assets.proof.certificate import Certifier
from etl_assets.proof.history import facts_then
from etl_assets.proof.hops.warehouse import compare_loaded
from etl_assets.proof.parts import PARTS
from etl_assets.proof.verification import verifying
from etl_assets.settings import Settings
from etl_assets.source.table import Table
from etl_assets.stand_ins.bigquery import BigQueryStandIn
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.schema import Column, Dimension, Fact, StarTable
from etl_assets.warehouse import bigquery_load
from etl_assets.warehouse import duckdb as duckdb_warehouse
from etl_assets.warehouse import postgres as postgres_warehouse
from etl_assets.warehouse.assets import batch_of
from etl_assets.warehouse.contract import Loaded, WarehouseError, WarehouseInUse
from etl_assets.warehouse.duckdb import DuckDBReader
from etl_assets.warehouse.load import load_star
from etl_assets.warehouse.postgres import PostgresWarehouse
from etl_assets.warehouse.retire import InWarehouse, in_warehouse, retire
from etl_assets_tests import shop
from etl_assets_tests.capture.comparing import execute as administer
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import Flow, as_role, execute
from etl_assets_tests.hiring import play_day
from etl_assets_tests.shelf import Shelf, in_order

SECRET = "opensesame"
ENGINES = ("duckdb", "postgres", "bigquery")
MODULES = {"duckdb": duckdb_warehouse, "postgres": postgres_warehouse, "bigquery": bigquery_load}


# BigQuery's own tests are in resources/.
@pytest.fixture(params=["duckdb", "postgres", pytest.param("bigquery", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(database: Callable[..., str], stand_in: BigQueryStandIn, tmp_path: Path) -> Callable[..., Direct]:
    """A flow from a new source to a new warehouse of an engine."""
    bigquery = (f"bigquery://{stand_in.project}/new_{n}?location=EU" for n in count())

    def made(engine: str, source: str = shop.SOURCE, inputs: Inputs = shop.INPUTS) -> Direct:
        url = database()
        execute(url, source)
        places: dict[str, Callable[[], str | None]] = {
            "duckdb": lambda: None,
            "postgres": database,
            "bigquery": lambda: next(bigquery),
        }
        return Direct(url, tmp_path / engine, inputs, places[engine]())

    return made


@pytest.fixture
def flow(make: Callable[..., Direct], engine: str) -> Direct:
    """The shop after its first batch."""
    made = make(engine)
    made.run()
    return made


def books(flow: Direct) -> Mapping[str, list[tuple[Any, ...]]]:
    """What the warehouse notes of itself, but for times."""
    with flow.warehouse.reading() as reader:
        return {
            name: sorted(reader.rows(f"SELECT {columns} FROM star.{name}"))
            for name, columns in {
                "loads": 'table_name, batch, version, "rows", run_id',
                "superseded": "table_name, record_id",
                "inferred_members": "table_name, member_key",
            }.items()
        }


def current(flow: Direct) -> list[tuple[Any, ...]]:
    with flow.warehouse.reading() as reader:
        return sorted(
            reader.rows("SELECT sale_id, worker_id, amount, due, batch FROM star.fact_sale_current")
        )


def everything(flow: Direct) -> tuple[Any, ...]:
    return flow.dump(), books(flow), current(flow)


def differences(flow: Direct) -> dict[tuple[str, str], str]:
    findings = [*flow.verified(thorough=True), *flow.rebuilt()]
    return {(finding.hop, finding.table): finding.difference for finding in findings if not finding.equal}


def build(flow: Direct) -> None:
    """Bring the lake up to the source, and leave the warehouse behind."""
    flow.capture()
    with flow.lake.open(flow.inputs) as bench:
        bench.publish(list(bench.builder.derive(bench.manifest)))


def load(flow: Direct, *names: str) -> Mapping[str, Loaded]:
    """Load some tables of the star as it stands in the lake."""
    with flow.lake.open(flow.inputs) as bench:
        tables = [made.schema for made in flow.inputs.star.values()]
        versions = {name: bench.builder.version(name, bench.manifest) for name in names or flow.inputs.star}
        noted = batch_of(bench, "")
        return load_star(
            flow.warehouse, bench.star, tables, versions, "a test", bench.changed_members, batch=noted
        )


# -- the same content ------------------------------------------------------------------------------------------------


def test_every_engine_holds_the_same_after_the_same_history(make: Callable[..., Direct]) -> None:
    flows = {engine: make(engine) for engine in ENGINES}
    states = []
    for statement in (
        "",
        shop.DAY,
        "DELETE FROM sale WHERE id < 20; UPDATE worker SET name = 'new ' || name WHERE id > 25; DELETE FROM worker "
        "WHERE id = 30",
        "INSERT INTO sale SELECT n, 4, 9, '2024-05-01' FROM generate_series(1, 10) n; UPDATE sale SET amount = 0.01 "
        "WHERE id BETWEEN 100 AND 120",
    ):
        if statement:
            for flow in flows.values():
                execute(flow.url, statement)
        made = {}
        for engine, flow in flows.items():
            flow.run()
            made[engine] = everything(flow)
        states.append(made["duckdb"])
        assert all(state == made["duckdb"] for state in made.values())
    assert all(before != after for before, after in pairwise(states))
    for flow in flows.values():
        assert differences(flow) == {}


@pytest.mark.fault("F24")
def test_a_run_without_change_changes_nothing(flow: Direct) -> None:
    before = everything(flow)
    assert flow.run() is None
    assert everything(flow) == before
    assert all(outcome.batches == () for outcome in load(flow).values())


def test_a_load_asks_duckdb_for_columns_once_however_many_tables_there_are(
    make: Callable[..., Direct], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make("duckdb")
    flow.run()
    asked: list[str] = []
    rows = DuckDBReader.rows

    def counting(
        self: DuckDBReader, sql: str, params: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        asked.append(sql)
        return rows(self, sql, params)

    monkeypatch.setattr(DuckDBReader, "rows", counting)
    assert len(load(flow)) > 1
    assert sum("information_schema.columns" in sql for sql in asked) == 1


def test_rebuilding_the_star_from_nothing_gives_the_same(flow: Direct) -> None:
    execute(flow.url, shop.DAY)
    flow.run()
    fresh = replace(flow, data=flow.data.with_name("fresh"), warehouse_url=None)
    fresh.data.mkdir()
    (fresh.data / "lake").symlink_to(flow.data / "lake")
    fresh.derive()
    assert fresh.dump() == flow.dump()
    assert current(fresh) == current(flow)


_EVERY_TYPE = {
    "small": "smallint?",
    "big": "bigint?",
    "yes": "boolean?",
    "single": "real?",
    "twice": "double?",
    "money": "numeric(38,10)?",
    "day": "date?",
    "clock": "time?",
    "moment": "timestamp?",
    "instant": "timestamptz?",
    "mark": "uuid?",
    "raw_bytes": "bytea?",
    "words": "text?",
    "document": "jsonb?",
    "order": "text?",
}


@star_table(
    Dimension(
        "dim_thing",
        "One row is a thing; its name isn't 'plain'.",
        "id",
        [
            Column("id", "int", 'Whose "key" it\'s.'),
            *(Column(name, type_) for name, type_ in _EVERY_TYPE.items()),
        ],
    )
)
def dim_thing(thing: nw.LazyFrame) -> nw.LazyFrame:
    return thing.select("id", *_EVERY_TYPE)


THINGS = Inputs({"thing": Table("thing", "", {"id": "int", **_EVERY_TYPE})}, {"dim_thing": dim_thing}, {})
_THINGS = """
    CREATE TABLE thing (id int PRIMARY KEY, small smallint, big bigint, yes boolean, single real,
        twice double precision, money numeric(38,10), day date, clock time, moment timestamp, instant timestamptz,
        mark uuid, raw_bytes bytea, words text, document jsonb, "order" text);
    INSERT INTO thing VALUES
        (1, -32768, 9223372036854775807, true, 0.1, 0.1, 12345678901234567.0123456789, '0044-03-15',
            '23:59:59.999999', '1999-12-31 23:59:59.000001', '2024-06-30 12:00:00.5+02',
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff5c2c22', E'a,"b"\\n''c''\\t\\\\N %%s $name', '{"a": [1]}', 'x'),
        (2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null),
        (3, 0, 0, false, '-0', 1e300, 0, '9999-12-31', '00:00', '1970-01-01', '1970-01-01+00',
            '00000000-0000-0000-0000-000000000000', '', '', '""', E'\\\\.');
"""


def comparable(name: str, value: Any) -> tuple[str, Any]:
    """A value with its type. Drivers show a UUID as text, or four bytes of a float with digits of eight."""
    if name == "mark" and value:
        value = str(value)
    if name == "single" and value is not None:
        value = struct.pack("f", value)
    return type(value).__name__, value


@pytest.mark.fault("F19")
def test_every_type_arrives_exactly_in_every_engine(make: Callable[..., Direct]) -> None:
    dumps, frames = {}, {}
    names = ["id", *_EVERY_TYPE]
    for engine in ENGINES:
        flow = make(engine, _THINGS, THINGS)
        flow.run()
        assert differences(flow) == {}
        ((_, rows),) = flow.dump().items()
        dumps[engine] = [
            [comparable(name, value) for name, value in zip(names, row, strict=False)] for row in rows
        ]
        frames[engine] = flow.warehouse.query(
            "SELECT id, small, big, yes, single, twice, money, day, clock, moment, instant, words FROM star.dim_thing "
            "WHERE id <> $none ORDER BY id",
            {"none": 7},
        )
    assert dumps["postgres"] == dumps["duckdb"]
    assert dumps["bigquery"] == dumps["duckdb"]
    first = dict(zip(names, (v for _, v in dumps["postgres"][0]), strict=False))
    assert (first["money"], first["clock"], first["day"]) == (
        Decimal("12345678901234567.0123456789"), dt.time(23, 59, 59, 999999), dt.date(44, 3, 15),
    )  # fmt: skip
    assert first["raw_bytes"] == b'\x00\xff\\,"'
    assert first["words"] == "a,\"b\"\n'c'\t\\N %s $name"
    frame, expected = frames["postgres"], frames["duckdb"]
    assert frame.dtypes.to_dict() == expected.dtypes.to_dict()
    assert frame.to_dict("list") == expected.to_dict("list") or frame.equals(expected)


def test_queries_of_reports_answer_the_same_in_every_engine(
    totesys: str, tmp_path: Path, database: Callable[..., str], stand_in: BigQueryStandIn
) -> None:
    from etl_assets_tests.shipped import INPUTS, REPORTS

    flow = Direct(totesys, tmp_path, INPUTS)
    flow.run()
    for url in (database(), f"bigquery://{stand_in.project}?location=EU"):
        other = replace(flow, warehouse_url=url)
        other.derive()
        for report in REPORTS:
            frames = [report.make(flow.warehouse.query(report.query)) for flow in (flow, other)]
            assert len(frames[0]) > 3
            assert frames[0].equals(frames[1])
            if report.control:
                assert report.differences(frames[1], other.warehouse.query(report.control)) == []
        assert other.dump() == flow.dump()


# -- all at once, or nothing -----------------------------------------------------------------------------------------


class Stopped(BaseException):
    """What a run can't catch."""


@pytest.fixture
def at_place(monkeypatch: pytest.MonkeyPatch, engine: str) -> Callable[[Callable[[int], None]], None]:
    """Have something done at each place of a load at which it could be killed, with the place's number."""

    def called(act: Callable[[int], None]) -> None:
        numbers = count(1)
        monkeypatch.setattr(MODULES[engine], "reached", lambda place: act(next(numbers)))

    return called


@pytest.mark.fault("F1")
def test_a_load_that_ends_anywhere_leaves_the_old_state_or_the_new_one(
    flow: Direct, at_place: Callable[[Callable[[int], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(flow)
    execute(flow.url, shop.DAY)
    build(flow)

    def stop_at(number: int) -> Callable[[int], None]:
        def act(reached: int) -> None:
            if reached == number:
                raise Stopped

        return act

    outcomes = []
    for number in count(1):
        at_place(stop_at(number))
        try:
            load(flow)
        except Stopped:
            outcomes.append(everything(flow) == before)
        else:
            break
    assert len(outcomes) >= 6
    assert all(outcomes[:-1]), "nothing before the commit can be seen"
    assert not outcomes[-1], "the last place is behind the commit"
    monkeypatch.undo()
    assert differences(flow) == {}


def test_who_reads_meanwhile_sees_the_old_state(
    database: Callable[..., str], make: Callable[..., Direct], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In PostgreSQL; DuckDB lets nobody in meanwhile."""
    flow = make("postgres")
    flow.run()
    before = everything(flow)
    seen = []
    monkeypatch.setattr(
        postgres_warehouse,
        "reached",
        lambda place: seen.append(everything(flow) == before) if place == "warehouse loading" else None,
    )
    execute(flow.url, shop.DAY)
    flow.run()
    assert len(seen) > 5
    assert all(seen)
    assert everything(flow) != before


@pytest.mark.fault("F5")
def test_a_connection_that_is_lost_in_a_load_leaves_the_old_state(
    make: Callable[..., Direct], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make("postgres")
    flow.run()
    before = everything(flow)
    execute(flow.url, shop.DAY)
    numbers = count()

    def cut(place: str) -> None:
        if next(numbers) == 4:
            execute(
                postgres_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                str(flow.warehouse_url).rpartition("/")[2],
            )

    with monkeypatch.context() as patch:
        patch.setattr(postgres_warehouse, "reached", cut)
        with pytest.raises(WarehouseError, match="run again") as caught:
            flow.run()
    assert "\n" not in str(caught.value)
    assert everything(flow) == before
    flow.run()
    assert differences(flow) == {}


def test_a_reference_that_leads_nowhere_changes_nothing(make: Callable[..., Direct], engine: str) -> None:
    dimension = Dimension("dim_worker", "", "worker_id", [Column("worker_id", "int"), Column("born", "date")])
    made = star_table(dimension)(
        lambda worker: worker.select(nw.col("id").alias("worker_id"), nw.col("born"))
    )
    tables = {
        "worker": Table("worker", "", {"id": "int", "born": "date"}),
        "sale": shop.SALE,
    }
    inputs = Inputs(tables, {"dim_worker": made, "fact_sale": shop.fact_sale}, {})
    source = """
        CREATE TABLE worker (id int PRIMARY KEY, born date);
        CREATE TABLE sale (id int PRIMARY KEY, worker_id int, amount numeric(10,2), due date);
        INSERT INTO worker VALUES (1, '1999-01-01');
        INSERT INTO sale VALUES (1, 1, 5, '2024-01-01');
    """
    flow = make(engine, source, inputs)
    flow.run()
    before = everything(flow)
    execute(
        flow.url,
        "INSERT INTO sale VALUES (2, 7, 5, '2024-01-01'), (3, 8, 5, '2024-01-01'), (4, 1, 5, '2024-01-01')",
    )
    with pytest.raises(AssertionError):
        flow.run()
    assert load(flow)["fact_sale"].dangling == {("worker_id",): 2}
    assert everything(flow) == before
    execute(flow.url, "INSERT INTO worker VALUES (7, '1999-01-01'), (8, '1999-01-01')")
    flow.run()
    assert differences(flow) == {}


@pytest.mark.fault("F3", "F4")
def test_a_second_load_waits_its_turn(make: Callable[..., Direct]) -> None:
    flow = make("postgres")
    flow.run()
    with flow.warehouse.session(), pytest.raises(WarehouseInUse, match="another run is loading schema star"):
        load(flow)
    assert load(flow)["fact_sale"].rows == 294


# -- parts and changes -----------------------------------------------------------------------------------------------


def test_a_part_of_the_star_can_be_loaded_alone(flow: Direct) -> None:
    execute(flow.url, shop.DAY)
    build(flow)
    before = flow.dump()
    outcome = load(flow, "dim_worker")
    assert list(outcome) == ["dim_worker"]
    after = flow.dump()
    assert after["fact_sale"] == before["fact_sale"]
    assert after["dim_worker"] != before["dim_worker"]
    load(flow, "fact_sale")
    assert differences(flow) == {}


def test_a_fact_alone_brings_stand_ins_for_a_dimension_that_was_never_loaded(
    make: Callable[..., Direct], engine: str
) -> None:
    flow = make(engine)
    build(flow)
    load(flow, "fact_sale")
    assert {name for _, name, *_ in flow.dump()["dim_worker"]} == {"unknown"}
    outcome = load(flow, "dim_worker")["dim_worker"]
    assert (outcome.rows, outcome.inferred) == (31, 1)
    assert differences(flow) == {}


def test_the_certificate_of_a_part_keeps_what_it_said_of_the_rest(flow: Direct) -> None:
    path = flow.data / "lake/raw/batches/000001.certificate.json"
    whole = path.read_text()
    with flow.lake.open(flow.inputs) as bench, flow.warehouse.reading() as reader:
        certifier = Certifier(bench.builder, bench.manifest, reader)
        proofs = certifier.proofs({"dim_worker"})
        assert [proof.table for proof in proofs] == ["dim_worker"]
        certifier.publish(proofs)
        assert path.read_text() == whole
        path.unlink()
        certifier.publish(proofs)
    told = json.loads(path.read_text())
    assert (list(told["tables"]), told["not_certified"], told["equal"]) == (
        ["dim_worker"],
        ["fact_sale"],
        False,
    )


@star_table(
    replace(
        shop.dim_worker.schema, declared=[*shop.dim_worker.schema.declared, Column("note", "text?", "New.")]
    )
)
def noted_worker(worker: nw.LazyFrame, team: nw.LazyFrame) -> nw.LazyFrame:
    made: nw.LazyFrame = shop.dim_worker(worker, team)
    return made.with_columns(nw.lit("a note").alias("note"))


@star_table(
    replace(
        shop.fact_sale.schema,
        declared=[
            replace(column, declared="numeric(12,2)") if column.name == "amount" else column
            for column in shop.fact_sale.schema.declared
        ],
    )
)
def wider_sale(sale: nw.LazyFrame) -> nw.LazyFrame:
    made: nw.LazyFrame = shop.fact_sale(sale)
    return made.with_columns(nw.col("amount").cast(nw.Decimal(12, 2)))


@pytest.mark.many
@pytest.mark.parametrize(
    "changed",
    [
        {"dim_worker": noted_worker},
        {"fact_sale": wider_sale},
        {"dim_worker": noted_worker, "fact_sale": wider_sale},
    ],
)
def test_a_table_that_is_declared_otherwise_is_loaded_anew(flow: Direct, changed: Mapping[str, Any]) -> None:
    execute(flow.url, shop.DAY)
    flow.run()
    before = everything(flow)
    other = replace(flow, inputs=replace(flow.inputs, star={**flow.inputs.star, **changed}))
    other.derive()
    with other.warehouse.reading() as reader:
        for made in changed.values():
            assert list(reader.columns("star", made.schema.name)) == made.schema.arrow.names
        if "dim_worker" in changed:
            assert reader.rows("SELECT name, team FROM star.dim_worker WHERE note IS NULL") == []
        else:
            assert reader.columns("star", "fact_sale")["amount"][0].lower() in {
                "decimal(12,2)",
                "numeric(12,2)",
            }
    assert differences(other) == {}
    flow.derive()
    assert everything(flow)[0::2] == before[0::2]
    assert differences(flow) == {}


@pytest.mark.fault("F23")
def test_stand_ins_are_filled_in_when_the_member_comes(flow: Direct) -> None:
    assert books(flow)["inferred_members"] == [("dim_worker", "0")]
    stand_in = (0, "unknown", None, False)
    assert stand_in in flow.dump()["dim_worker"]
    execute(flow.url, "INSERT INTO worker VALUES (0, 'late', 1)")
    flow.run()
    assert books(flow)["inferred_members"] == []
    assert (0, "late", "team 1", False) in flow.dump()["dim_worker"]
    execute(flow.url, "UPDATE worker SET name = NULL WHERE id IN (0, 3)")  # no longer fits: it stays, flagged
    flow.run()
    assert books(flow)["inferred_members"] == []
    assert (0, "late", "team 1", True) in flow.dump()["dim_worker"]
    assert differences(flow) == {}


EMPLOYED = """
    CREATE TABLE emp (id int PRIMARY KEY, boss int, dep int);
    CREATE TABLE dep (id int PRIMARY KEY, head int);
    CREATE TABLE bin (hall text, no int, PRIMARY KEY (hall, no));
    CREATE TABLE visit (id int PRIMARY KEY, emp int, hall text, no int);
    INSERT INTO emp VALUES (1, NULL, 1), (2, 55, 7), (3, 56, 1);
    INSERT INTO dep VALUES (1, 99), (2, 55);
    INSERT INTO bin VALUES ('a', 1);
    INSERT INTO visit VALUES (1, 77, 'b"', 2), (2, 1, 'a', 1), (3, 56, NULL, 9);
"""


@star_table(
    Dimension(
        "dim_emp",
        "",
        "id",
        [Column("id", "int"), Column("boss", "int?", "", "dim_emp"), Column("dep", "int?", "", "dim_dep")],
    )
)
def dim_emp(emp: nw.LazyFrame) -> nw.LazyFrame:
    return emp.select("id", "boss", "dep")


@star_table(Dimension("dim_dep", "", "id", [Column("id", "int"), Column("head", "int?", "", "dim_emp")]))
def dim_dep(dep: nw.LazyFrame) -> nw.LazyFrame:
    return dep.select("id", "head")


@star_table(Dimension("dim_bin", "", ("hall", "no"), [Column("hall", "text"), Column("no", "int")]))
def dim_bin(bin: nw.LazyFrame) -> nw.LazyFrame:
    return bin.select("hall", "no")


def fact_visit(*to: str) -> StarFunction:
    columns = [
        Column("id", "int"),
        Column("emp", "int?", "", "dim_emp" if "dim_emp" in to else None),
        Column("hall", "text?"),
        Column("no", "int?"),
    ]
    references: dict[str | tuple[str, ...], str] = {("hall", "no"): "dim_bin"} if "dim_bin" in to else {}
    schema = Fact("fact_visit", "", "id", columns, record="visit_record_id", references=references)
    return StarFunction(schema, _visits)


def _visits(visit: nw.LazyFrame) -> nw.LazyFrame:
    return visit.select("id", "emp", "hall", "no")


def test_a_stand_in_goes_with_the_last_that_refers_to_it(make: Callable[..., Direct], engine: str) -> None:
    """A dimension keeps no history of what it referred to, and code that refers to less makes a fact anew."""
    tables = {
        "emp": Table("emp", "", {"id": "int", "boss": "int?", "dep": "int?"}),
        "dep": Table("dep", "", {"id": "int", "head": "int?"}),
        "bin": Table("bin", "", {"hall": "text", "no": "int"}),
        "visit": Table("visit", "", {"id": "int", "emp": "int?", "hall": "text?", "no": "int?"}),
    }
    dimensions = {one.name: one for one in (dim_emp, dim_dep, dim_bin)}

    def stand_ins(flow: Direct) -> list[str]:
        noted = [key for _, key in books(flow)["inferred_members"]]
        with flow.warehouse.reading() as reader:
            held = reader.rows(
                "SELECT (SELECT count(*) FROM star.dim_emp AS e) + (SELECT count(*) FROM star.dim_dep AS d) "
                "+ (SELECT count(*) FROM star.dim_bin AS b)"
            )
        assert held == [(len(noted) + 6,)]
        assert [f for f in (*flow.verified(), *flow.rebuilt()) if not f.equal] == []
        return noted

    flow = make(
        engine, EMPLOYED, Inputs(tables, {**dimensions, "fact_visit": fact_visit("dim_emp", "dim_bin")}, {})
    )
    flow.run()
    assert stand_ins(flow) == ['"b""","2"', "7", "55", "56", "77", "99"]
    execute(
        flow.url,
        "UPDATE dep SET head = NULL; UPDATE emp SET boss = 1, dep = NULL WHERE id > 1; "
        "UPDATE visit SET emp = NULL, hall = NULL",
    )
    flow.run()
    assert stand_ins(flow) == ['"b""","2"', "56", "77"], "facts keep their versions"
    flow = replace(flow, inputs=Inputs(tables, {**dimensions, "fact_visit": fact_visit("dim_bin")}, {}))
    flow.run()
    assert stand_ins(flow) == ['"b""","2"']
    flow = replace(flow, inputs=Inputs(tables, {**dimensions, "fact_visit": fact_visit()}, {}))
    flow.run()
    assert stand_ins(flow) == []


# -- a warehouse of the version before -------------------------------------------------------------------------------

_AS_TEXT = "lpad(CAST(batch AS varchar), 6, '0')"


def make_older(flow: Direct, engine: str, stand_in: BigQueryStandIn) -> None:
    """Make of a warehouse what the version before would have made of it, which wrote the numbers of batches as text; it
    names a table that nobody declares any more."""
    gone = "INSERT INTO star.loads VALUES ('dim_gone', 1, 'v', 7, '2024-01-01', 'long ago')"
    if engine == "duckdb":
        with duckdb.connect(str(flow.data / "warehouse.duckdb")) as connection:
            connection.execute(gone)
            connection.execute("ALTER TABLE star.batches DROP COLUMN manifest")
            for table in ("fact_sale", "loads"):
                connection.execute(f"ALTER TABLE star.{table} ALTER batch TYPE varchar USING {_AS_TEXT}")
    elif engine == "postgres":
        url = str(flow.warehouse_url)
        ((view,),) = asked(url, "SELECT pg_get_viewdef('star.fact_sale_current'::regclass)")
        execute(
            url,
            f"{gone}; GRANT SELECT ON star.loads, star.batches TO PUBLIC; DROP VIEW star.fact_sale_current;"
            "ALTER TABLE star.batches DROP COLUMN manifest;"
            f"ALTER TABLE star.fact_sale ALTER batch TYPE text USING {_AS_TEXT};"
            f"ALTER TABLE star.loads ALTER batch TYPE text USING {_AS_TEXT};"
            f"CREATE VIEW star.fact_sale_current AS {view}",
        )
    else:
        tables, (dataset,) = (
            stand_in.tables,
            [name for name in stand_in.tables.datasets if name.endswith("star")],
        )
        tables.database.execute(gone.replace("star.", f"{dataset}."))
        for table, chosen in (
            ("fact_sale", f"* REPLACE ({_AS_TEXT} AS batch)"),
            ("loads", f"* REPLACE ({_AS_TEXT} AS batch)"),
            ("batches", "* EXCLUDE (manifest)"),
        ):
            held = tables.held(dataset, table)
            fields = [
                {**field, "type": "STRING"} if field["name"] == "batch" and "REPLACE" in chosen else field
                for field in held["schema"]["fields"]
                if field["name"] != "manifest"
            ]
            rows = tables.database.sql(f"SELECT {chosen} FROM {dataset}.{table}")
            tables.write(
                {"datasetId": dataset, "tableId": table},
                rows,
                fields,
                {**held, "writeDisposition": "WRITE_TRUNCATE"},
            )


@pytest.mark.many
@pytest.mark.fault("F41")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_warehouse_of_the_version_before_is_carried_on(
    make: Callable[..., Direct],
    engine: str,
    stand_in: BigQueryStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = make(engine)
    flow.run()
    execute(
        flow.url,
        "UPDATE sale SET amount = amount + 1 WHERE id < 50; UPDATE worker SET name = 'x' WHERE id = 3",
    )
    flow.run()
    load(flow)
    make_older(flow, engine, stand_in)
    older = flow.dump()
    assert {row[-2] for row in older["fact_sale"]} == {"000001", "000002"}
    # Before the first load it says what it holds, and afterwards too, if that ends midway.
    assert {name: (held.rows, held.batch) for name, held in flow.warehouse.held().items()} == {
        "dim_gone": (7, 1),
        "dim_worker": (len(older["dim_worker"]) - 1, 2),  # one is a stand-in
        "fact_sale": (len(older["fact_sale"]), 2),
    }

    places = count(1)

    def stop(place: str) -> None:
        if next(places) == 3:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(MODULES[engine], "reached", stop)
        with pytest.raises(Stopped):
            load(flow)
    assert flow.dump() == older
    assert set(flow.warehouse.held()) == {"dim_gone", "dim_worker", "fact_sale"}

    execute(flow.url, "DELETE FROM sale WHERE id < 20; UPDATE worker SET name = 'new' WHERE id > 25")
    build(flow)
    load(flow)
    with flow.warehouse.reading() as reader:
        kinds = {reader.columns("star", table)["batch"] for table in ("fact_sale", "loads")}
        noted = reader.rows("SELECT batch, manifest FROM star.batches ORDER BY batch")
    assert [(kind.upper(), null) for kind, null in kinds] in ([("BIGINT", False)], [("INT64", False)])
    if engine == "postgres":
        reads = "SELECT has_table_privilege('public', 'star.' || n, 'SELECT') FROM unnest('{loads,batches}'::text[]) n"
        assert asked(str(flow.warehouse_url), reads) == [(True,), (True,)]
    assert noted == [(2, None), (3, flow.lake.batches().sha256(3))]
    # What nobody declares any more is still known to be ours.
    assert in_warehouse(flow.warehouse, flow.inputs.star) == {"dim_gone": InWarehouse([], {"loads": 1})}
    retire(flow.warehouse, ["dim_gone"], flow.lake_id, "")
    fresh = replace(flow, data=flow.data.with_name("fresh"), warehouse_url=None)
    fresh.data.mkdir()
    (fresh.data / "lake").symlink_to(flow.data / "lake")
    load(fresh)
    assert everything(flow) == everything(fresh)
    assert all(outcome.batches == () for outcome in load(flow).values())
    flow.derive()
    assert differences(flow) == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_of_a_warehouse_of_the_version_before_can_be_loaded_alone(
    make: Callable[..., Direct], engine: str, stand_in: BigQueryStandIn
) -> None:
    flow = make(engine)
    flow.run()
    before = everything(flow)
    make_older(flow, engine, stand_in)
    assert load(flow, "dim_worker")["dim_worker"].batches == (), "what is loaded is known"
    retire(flow.warehouse, ["dim_gone"], flow.lake_id, "")
    load(flow)
    assert everything(flow) == before


# -- keys of several columns, and tables that wait -------------------------------------------------------------------


@pytest.fixture
def shelf(
    engine: str, database: Callable[..., str], stand_in: BigQueryStandIn, tmp_path: Path
) -> Callable[..., Shelf]:
    """An empty lake and an empty warehouse, for some tables."""
    numbers = count()

    def made(*tables: StarTable) -> Shelf:
        folder = tmp_path / f"shelf {next(numbers)}"
        places: dict[str, Callable[[], str | None]] = {
            "duckdb": lambda: None,
            "postgres": database,
            "bigquery": lambda: f"bigquery://{stand_in.project}/shelf_{next(numbers)}?location=EU",
        }
        warehouse = Direct("", folder, Inputs({}, {}, {}), places[engine]()).warehouse
        return Shelf(folder, warehouse, {table.name: table for table in tables})

    return made


DIM_PLACE = Dimension(
    "dim_place",
    "One row is a zone of a city.",
    ("city", "zone"),
    [Column("city", "text"), Column("zone", "int"), Column("name", "text"), Column("size", "numeric(8,2)?")],
)
DIM_RIDER = Dimension("dim_rider", "", "rider", [Column("rider", "text"), Column("born", "date?")])
DIM_DAY = Dimension("dim_day", "", "day", [Column("day", "date"), Column("year", "int")])
FACT_TRIP = Fact(
    "fact_trip",
    "One row is a trip of a line.",
    ("line", "number"),
    [
        Column("line", "text"),
        Column("number", "int"),
        Column("city", "text?"),
        Column("zone", "int?"),
        Column("rider", "text?", references="dim_rider"),
        Column("day", "date?", references="dim_day"),
    ],
    references={("city", "zone"): "dim_place"},
    record="trip_record_id",
)
FACT_STOP = Fact(
    "fact_stop",
    "",
    "stop",
    [
        Column("stop", "int"),
        Column("town", "text"),
        Column("part", "int"),
        Column("day", "date?", references="dim_day"),
    ],
    references={("town", "part"): "dim_place"},
    record="stop_record_id",
)
TABLES = (DIM_PLACE, DIM_RIDER, DIM_DAY, FACT_TRIP, FACT_STOP)
TABLES_BY_NAME = {table.name: table for table in TABLES}
AWKWARD = ("a,b", 'a"b', '"', "\\", "\\n", "it's", "two\nlines", "", '1","2', "%s $name", "ü 🚲", " ")
MAY, JUNE, JULY = dt.date(2024, 5, 1), dt.date(2024, 6, 1), dt.date(2024, 7, 1)


def trip(
    record: int,
    line: str,
    number: int,
    *,
    place: tuple[Any, Any] = (None, None),
    rider: Any = None,
    day: Any = None,
) -> tuple[Any, ...]:
    return record, line, number, *place, rider, day


def place(city: str, zone: int, name: str = "known") -> tuple[Any, ...]:
    return city, zone, name, Decimal("1.50")


def unknown(city: str, zone: int) -> tuple[Any, ...]:
    """A stand-in in dim_place."""
    return city, zone, "unknown", None, False


@pytest.mark.parametrize("told", [True, False])
def test_a_reference_over_several_columns_leads_to_its_member_or_to_a_stand_in(
    shelf: Callable[..., Shelf], told: bool
) -> None:
    here = shelf(
        DIM_PLACE, replace(FACT_TRIP, declared=[*FACT_TRIP.declared[:4], *plain(FACT_TRIP.declared[4:])])
    )
    known = [place(city, 1) for city in AWKWARD]
    here.put("dim_place", *known)
    wanted = [(city, zone) for city in AWKWARD for zone in (1, 2)]
    partly = [(None, 2), ("nowhere", None), (None, None)]
    here.put("fact_trip", *(trip(n, "A", n, place=at) for n, at in enumerate([*wanted, *partly])))
    outcome = here.load()
    missing = [unknown(city, 2) for city in AWKWARD]
    assert here.rows("dim_place") == in_order([*((*row, False) for row in known), *missing])
    assert here.stand_ins("dim_place") == in_order(missing)
    assert (outcome["dim_place"].rows, outcome["dim_place"].inferred) == (24, 12)
    assert len(set(here.books()["inferred_members"])) == 12

    # Half of them come, one as deleted; one that was known is lost.
    come = [place(city, 2, "late") for city in AWKWARD[:6]]
    here.put("dim_place", *known[1:], *come, gone=1)
    keys = pa.table({"zone": [1, *[2] * 6], "city": [AWKWARD[0], *AWKWARD[:6]]})
    here.load(changed={"dim_place": keys} if told else None)
    missing = [unknown(AWKWARD[0], 1), *missing[6:]]
    came = [(*row, row[0] == AWKWARD[5]) for row in come]
    assert here.rows("dim_place") == in_order([*((*row, False) for row in known[1:]), *came, *missing])
    assert here.stand_ins("dim_place") == in_order(missing)
    assert len(here.books()["inferred_members"]) == 7

    here.put("dim_place", *known, *come)
    here.put("fact_trip", batch=2)
    keys = pa.table({"city": [AWKWARD[0], AWKWARD[5]], "zone": pa.array([1, 2], pa.int32())})
    here.load(changed={"dim_place": keys} if told else None)
    assert here.stand_ins("dim_place") == in_order(missing[1:])
    assert (*place(AWKWARD[0], 1), False) in here.rows("dim_place")


def plain(columns: Iterable[Column]) -> list[Column]:
    """Columns that refer to nothing."""
    return [replace(column, references=None) for column in columns]


def test_versions_of_a_fact_are_told_apart_by_all_columns_of_its_key(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    here.put("fact_trip", trip(1, "A", 1), trip(2, "A", 2), trip(3, "B", 1))
    here.load()
    here.put("fact_trip", trip(4, "A", 2, rider="Ada"), trip(5, "B", 2), trip(6, "B", 1), batch=2, gone=1)
    here.load()
    assert [row[0] for row in here.rows("fact_trip")] == [1, 4, 5]
    assert here.books()["superseded"] == [("fact_trip", 2), ("fact_trip", 3)]
    again = replace(shelf(*TABLES), folder=here.folder, versions=here.versions)
    again.load()
    assert again.everything() == here.everything()


_KEY = {
    "day": "date",
    "mark": "uuid",
    "amount": "numeric(12,2)",
    "big": "bigint",
    "raw_bytes": "bytea",
    "one": "text",
    "two": "text",
    "moment": "timestamp",
    "instant": "timestamptz",
    "yes": "boolean",
}


@pytest.mark.many
@pytest.mark.parametrize("several", [True, False])
def test_keys_of_every_type_are_found_again(shelf: Callable[..., Shelf], several: bool) -> None:
    mark, other = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"
    instant = dt.datetime(2024, 5, 1, 12, 30, 0, 5, dt.UTC)
    moment = instant.replace(tzinfo=None)
    full = (
        MAY, mark, Decimal("10.50"), 2**40, b"\x00\xff\\\"'", 'a","b', "c", moment, instant, True,
    )  # fmt: skip
    others = (
        JUNE, other, Decimal("-0.01"), -1, b"", "a", 'b","c', moment + dt.timedelta(microseconds=1),
        instant + dt.timedelta(days=1), False,
    )  # fmt: skip
    names = list(_KEY)
    if several:
        keys = [names]
        rows = [full, others, (*full[:5], "a", 'b","c', *full[7:]), (*full[:4], b"\xc3\x28", *full[5:])]
    else:
        keys = [[name] for name in names]
        rows = [full, others]
    for key in keys:
        dimension = Dimension(
            "dim_thing", "", tuple(key), [*(Column(n, _KEY[n]) for n in key), Column("name", "text")]
        )
        fact = Fact(
            "fact_thing",
            "",
            tuple(key),
            [Column(n, _KEY[n]) for n in key],
            references={tuple(key): "dim_thing"},
            record="thing_record_id",
        )
        here = shelf(dimension, fact)
        members = [tuple(row[names.index(n)] for n in key) for row in rows]
        here.put("dim_thing", (*members[0], "known"))
        here.put("fact_thing", *((n, *member) for n, member in enumerate(members)))
        here.load()
        found = [(*member, "unknown", False) for member in members[1:]]
        assert here.stand_ins("dim_thing") == in_order(found)
        here.put("dim_thing", *((*member, "late") for member in members[1:]))
        here.put("fact_thing", (9, *members[0]), batch=2)
        changed = pa.table([pa.array(part) for part in zip(*members, strict=True)], names=key)
        here.load(changed={"dim_thing": changed})
        assert here.stand_ins("dim_thing") == in_order([(*members[0], "unknown", False)])
        assert len(here.rows("dim_thing")) == len(members)
        assert [record for record, *_ in here.rows("fact_thing")] == [*range(1, len(members)), 9]


def start(here: Shelf) -> None:
    """May's trips and stops, all of them as they should be."""
    here.put("dim_place", place("Ulm", 1), place("Ulm", 2))
    here.put("dim_rider", ("Ada", None))
    here.put("dim_day", (MAY, 2024))
    here.put("fact_trip", trip(1, "A", 1, place=("Ulm", 1), rider="Ada", day=MAY), trip(2, "A", 2))
    here.put("fact_stop", (1, 7, "Ulm", 2, MAY))
    assert not any(outcome.waits for outcome in here.load().values())


def test_a_fact_that_would_dangle_waits_and_the_rest_is_loaded(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    start(here)
    before = here.everything()
    # Two trips are on days that nobody has, which can have no stand-in; they bring a rider and a place with them.
    here.put("dim_place", place("Ulm", 1, "new"), place("Ulm", 2))
    here.put(
        "fact_trip",
        trip(3, "A", 1, place=("Bonn", 1), rider="Bob", day=JUNE),
        trip(4, "B", 1, day=JULY),
        trip(5, "B", 2, day=JULY),
        batch=2,
    )
    here.put("fact_stop", (2, 8, "Köln", 1, MAY), batch=2)
    outcome = here.load()
    waits = outcome["fact_trip"]
    assert (waits.waits, waits.dangling, waits.batches, waits.rows) == (True, {("day",): 2}, (), 2)
    assert not any(loaded.waits or loaded.dangling for name, loaded in outcome.items() if name != "fact_trip")
    tables, noted = here.everything()
    assert {name for name in tables if tables[name] != before[0][name]} == {"dim_place", "fact_stop"}
    assert here.stand_ins("dim_place") == [unknown("Köln", 1)], "Bonn waits with its trip"
    assert [row[:2] for row in noted["loads"] if row[0] == "fact_trip"] == [("fact_trip", 1)]
    assert [row[0] for row in noted["superseded"]] == []
    again = here.load()
    assert again["fact_trip"].dangling == {("day",): 2}
    assert here.everything() == (tables, noted)

    here.put("dim_day", (MAY, 2024), (JUNE, 2024), (JULY, 2024))
    assert not here.load()["fact_trip"].waits
    assert here.stand_ins("dim_place") == in_order([unknown("Köln", 1), unknown("Bonn", 1)])
    fresh = replace(shelf(*TABLES), folder=here.folder, versions=here.versions)
    fresh.load()
    assert fresh.everything() == here.everything()


def test_a_stand_in_stays_while_a_table_that_nobody_declares_any_more_may_refer_to_it(
    shelf: Callable[..., Shelf],
) -> None:
    here = shelf(*TABLES)
    start(here)
    here.put("fact_trip", trip(3, "B", 1, rider="Bob", day=MAY), batch=2)
    here.load()
    assert here.stand_ins("dim_rider") == [("Bob", None, False)]
    for gone in ({"fact_trip"}, {"fact_trip", "dim_rider"}):
        less = replace(
            here, tables={name: table for name, table in TABLES_BY_NAME.items() if name not in gone}
        )
        less.put("fact_stop", (1, 7, "Ulm", 2, MAY))
        less.load("fact_stop")
        assert here.stand_ins("dim_rider") == [("Bob", None, False)]
    here.put("fact_trip", trip(1, "A", 1, rider="Ada", day=MAY))
    here.put("fact_trip", trip(3, "B", 1, day=MAY), batch=2)
    here.load()
    assert here.stand_ins("dim_rider") == []


def test_a_fact_that_waits_keeps_its_declaration_too(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    start(here)
    before = here.rows("fact_trip"), here.columns("fact_trip")
    priced = replace(FACT_TRIP, declared=[*FACT_TRIP.declared, Column("fare", "numeric(10,2)?")])
    now = here.declared(priced, replace(DIM_RIDER, declared=[*DIM_RIDER.declared, Column("team", "text?")]))
    now.put("fact_trip", (*trip(1, "A", 1, rider="Bob", day=JUNE), None))
    now.put("dim_rider", ("Eve", None, "blue"))
    outcome = now.load()
    assert {name for name, loaded in outcome.items() if loaded.waits} == {"fact_trip"}
    assert (here.rows("fact_trip"), here.columns("fact_trip")) == before
    assert now.rows("dim_rider") == [("Ada", None, None, False), ("Eve", None, "blue", False)]
    now.put("dim_day", (JUNE, 2024), (MAY, 2024))
    now.load()
    assert len(now.rows("fact_trip")) == 1
    assert now.stand_ins("dim_rider") == [("Bob", None, None, False)]  # nothing refers to Ada any more


def test_a_fact_that_waits_from_the_beginning_is_not_there(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    here.put("dim_rider", ("Ada", None))
    here.put("fact_trip", trip(1, "A", 1, rider="Bob", day=MAY))
    outcome = here.load()
    assert {name: loaded.waits for name, loaded in outcome.items()} == {"dim_rider": False, "fact_trip": True}
    assert here.rows("dim_rider") == [("Ada", None, False)]
    assert not here.columns("fact_trip")
    here.put("dim_day", (MAY, 2024))
    here.load()
    assert here.stand_ins("dim_rider") == [("Bob", None, False)]


def test_a_dimension_that_lost_a_day_that_rows_refer_to_stays_as_it_was(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    start(here)
    before = here.rows("dim_day")
    # May vanished, which loaded trips and stops refer to. June is new: a stop waits with it, a trip need not.
    here.put("dim_day", (JUNE, 2024))
    here.put("dim_place", place("Ulm", 1), place("Ulm", 2, "new"))
    here.put("fact_trip", trip(3, "A", 3, rider="Bob", day=MAY), batch=2)
    here.put("fact_stop", (2, 8, "Köln", 1, JUNE), batch=2)
    outcome = here.load()
    assert {name for name, loaded in outcome.items() if loaded.waits} == {"dim_day", "fact_stop"}
    assert outcome["fact_trip"].dangling == outcome["fact_stop"].dangling == {("day",): 1}
    assert here.rows("dim_day") == before
    assert [row[0] for row in here.rows("fact_trip")] == [1, 2, 3]
    assert [row[0] for row in here.rows("fact_stop")] == [1]
    assert here.stand_ins("dim_place") == [], "Köln waits with its stop"
    assert here.stand_ins("dim_rider") == [("Bob", None, False)]
    assert (("Ulm", 2, "new", Decimal("1.50"), False)) in here.rows("dim_place")

    here.put("dim_day", (MAY, 2025), (JUNE, 2024))
    assert not any(loaded.waits for loaded in here.load().values())
    fresh = replace(shelf(*TABLES), folder=here.folder, versions=here.versions)
    fresh.load()
    assert fresh.everything() == here.everything()


def test_rows_that_stay_because_their_fact_waits_keep_what_they_refer_to(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    start(here)
    before = here.rows("fact_trip")
    # Trips are made anew and refer to nothing of before, but they wait: so those of before stay, and Ulm 1 and Ada,
    # who are gone, get stand-ins for them.
    here.put("dim_place", place("Ulm", 2))
    here.put("dim_rider", ("Eve", None))
    here.put("fact_trip", trip(1, "A", 1, day=JULY))
    outcome = here.load()
    assert {name for name, loaded in outcome.items() if loaded.waits} == {"fact_trip"}
    assert here.rows("fact_trip") == before
    assert here.stand_ins("dim_place") == [unknown("Ulm", 1)]
    assert here.stand_ins("dim_rider") == [("Ada", None, False)]
    # Likewise with May, which can have no stand-in.
    here.put("dim_day", (JUNE, 2024))
    here.put("fact_stop", (1, 9, "Ulm", 2, MAY))
    outcome = here.load()
    assert {name for name, loaded in outcome.items() if loaded.waits} == {"dim_day", "fact_trip"}
    assert here.rows("dim_day") == [(MAY, 2024, False)]
    assert here.rows("fact_stop") == [(1, 9, "Ulm", 2, MAY, 1, False)], (
        "with May still there it need not wait"
    )


def test_tables_that_are_not_to_be_loaded_stay_though_others_wait(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    start(here)
    here.put("fact_trip", trip(3, "A", 1, day=JUNE), batch=2)
    here.put("dim_rider", ("Eve", None))
    here.put("dim_day", (JUNE, 2024))
    before = here.everything()
    assert list(here.load("fact_trip")) == ["fact_trip"]
    assert here.everything() == before
    outcome = here.load("dim_day")
    assert outcome["dim_day"].waits
    assert outcome["fact_trip"].dangling == outcome["fact_stop"].dangling == {("day",): 1}
    assert here.everything() == before
    assert not here.load("dim_rider")["dim_rider"].waits
    assert here.stand_ins("dim_rider") == [("Ada", None, False)]


def test_a_batch_that_brought_no_version_is_noted(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    here.put("fact_stop")
    assert here.load()["fact_stop"].batches == (1,)
    assert here.rows("fact_stop") == []
    here.put("fact_stop", (1, 7, "Ulm", 1, None), batch=2)
    here.put("fact_stop", batch=3)
    outcome = here.load()["fact_stop"]
    assert (outcome.batches, outcome.rows) == ((2, 3), 1)
    here.put("fact_stop", batch=4)
    assert here.load()["fact_stop"].rows_loaded == 0
    assert [(batch, rows) for _, batch, _, rows in here.books()["loads"]] == [
        (1, 0), (2, 1), (3, 0), (4, 0),
    ]  # fmt: skip
    assert here.load()["fact_stop"].batches == ()
    assert [row[0] for row in here.rows("fact_stop")] == [1]


def test_a_key_that_is_declared_otherwise_holds_from_then_on(shelf: Callable[..., Shelf]) -> None:
    of_city = [
        replace(c, references="dim_place" if c.name == "town" else c.references) for c in FACT_STOP.declared
    ]
    here = shelf(replace(DIM_PLACE, key="city"), DIM_DAY, replace(FACT_STOP, declared=of_city, references={}))
    here.put("dim_place", place("Ulm", 1))
    here.put("fact_stop", (1, 7, "Ulm", 1, None), (2, 8, "Ulm", 1, None))
    here.load()
    now = here.declared(DIM_PLACE, FACT_STOP)
    now.put("dim_place", place("Ulm", 1), place("Ulm", 2))
    now.put("fact_stop", (1, 7, "Ulm", 2, None), (2, 8, "Bonn", 2, JUNE))
    assert {name for name, loaded in now.load().items() if loaded.waits} == {"fact_stop"}
    assert [row[:2] for row in now.rows("dim_place")] == [("Ulm", 1), ("Ulm", 2)]
    now.put("fact_stop", (1, 7, "Ulm", 2, None), (2, 8, "Bonn", 2, None))
    now.load()
    assert now.stand_ins("dim_place") == [unknown("Bonn", 2)]
    members = place("Ulm", 1), place("Ulm", 2, "new"), place("Bonn", 2)
    now.put("dim_place", *members)
    now.load()
    assert now.rows("dim_place") == in_order((*member, False) for member in members)


def test_a_dimension_waits_for_a_fact_that_knows_its_old_key_only(shelf: Callable[..., Shelf]) -> None:
    numbered = Dimension("dim_rider", "", "rider", [Column("rider", "int"), Column("born", "date?")])
    riding = [
        Column("rider", "int?", references="dim_rider") if c.name == "rider" else c
        for c in FACT_TRIP.declared
    ]
    here = shelf(*TABLES)
    start(here)
    before = here.everything()
    now = here.declared(numbered, replace(FACT_TRIP, declared=riding))
    now.put("dim_rider", (1, None))
    assert now.load("dim_rider")["dim_rider"].waits
    assert here.everything() == before
    now.put("fact_trip", trip(1, "A", 1, rider=1, day=JUNE))
    outcome = now.load()
    assert {name for name, loaded in outcome.items() if loaded.waits} == {"dim_rider", "fact_trip"}
    assert here.everything() == before
    now.put("fact_trip", trip(1, "A", 1, rider=1, day=MAY), trip(2, "A", 2, rider=2))
    assert now.load("fact_trip")["fact_trip"].waits
    assert here.everything() == before
    assert not any(loaded.waits for loaded in now.load().values())
    assert now.rows("dim_rider") == [(1, None, False), (2, None, False)]


def test_a_member_that_refers_to_another_dimension_has_its_stand_in_too(shelf: Callable[..., Shelf]) -> None:
    owned = Dimension(
        "dim_place",
        "",
        ("city", "zone"),
        [*DIM_PLACE.declared, Column("owner", "text?", references="dim_rider")],
    )
    here = shelf(DIM_RIDER, DIM_DAY, owned, FACT_STOP)
    here.put("dim_rider", ("Ada", None))
    here.put("dim_place", (*place("Ulm", 1), "Ada"), (*place("Ulm", 2), "Bob"), (*place("Ulm", 3), None))
    here.put("fact_stop", (1, 7, "Bonn", 1, None))
    here.load()
    assert here.stand_ins("dim_rider") == [("Bob", None, False)]
    assert here.stand_ins("dim_place") == [("Bonn", 1, "unknown", None, None, False)]
    here.put("dim_rider", ("Eve", None))
    here.put("dim_place", (*place("Ulm", 1), "Ada"), (*place("Ulm", 2), "Eve"))
    here.load()
    assert here.rows("dim_rider") == [("Ada", None, False), ("Eve", None, False)]
    assert here.stand_ins("dim_rider") == [("Ada", None, False)]


def test_a_member_that_must_refer_to_another_dimension_has_no_stand_in(shelf: Callable[..., Shelf]) -> None:
    owned = replace(
        DIM_PLACE, declared=[*DIM_PLACE.declared, Column("owner", "text", references="dim_rider")]
    )
    here = shelf(DIM_RIDER, DIM_DAY, owned, FACT_STOP)
    here.put("dim_place", (*place("Ulm", 1), "Ada"))
    here.put("fact_stop", (1, 7, "Bonn", 1, None))
    assert here.load()["fact_stop"].dangling == {("town", "part"): 1}
    assert here.stand_ins("dim_rider") == [("Ada", None, False)]
    here.put("dim_place", (*place("Ulm", 1), "Ada"), (*place("Bonn", 1), "Bob"))
    assert not here.load()["fact_stop"].waits
    assert here.stand_ins("dim_rider") == [("Ada", None, False), ("Bob", None, False)]


@pytest.mark.parametrize("engine", ["postgres"])
def test_postgresql_enforces_keys_and_references_over_several_columns(shelf: Callable[..., Shelf]) -> None:
    here = shelf(*TABLES)
    start(here)
    url = str(here.warehouse.url)  # type: ignore[attr-defined]
    refused = {
        "INSERT INTO star.dim_place VALUES ('Ulm', 2, 'x', NULL, false)": "dim_place_pkey",
        "DELETE FROM star.dim_place WHERE zone = 2": "fact_stop_town_part_fkey",
        "UPDATE star.fact_trip SET zone = 3 WHERE number = 1": "fact_trip_city_zone_fkey",
    }
    for statement, constraint in refused.items():
        with pytest.raises(psycopg2.IntegrityError, match=constraint):
            execute(url, statement)
    execute(url, "UPDATE star.fact_trip SET zone = 3, city = NULL WHERE number = 1")


# -- proofs ----------------------------------------------------------------------------------------------------------


@pytest.mark.many
def test_a_part_of_the_keys_is_compared_with_postgresql_too(make: Callable[..., Direct]) -> None:
    flow = make("postgres")
    flow.run()
    execute(str(flow.warehouse_url), "UPDATE star.fact_sale SET amount = amount + 1 WHERE sale_id = 8")
    found = []
    with flow.lake.open(flow.inputs) as bench:
        for part in range(PARTS):
            with verifying(bench, Path(flow.lake.scratch), parts={"fact_sale": [part]}) as verifier:
                findings = {f.table: f for f in compare_loaded(verifier, flow.warehouse)}
                assert f"part {part + 1} of 7 of its keys" in findings["fact_sale"].compared
                found += [f.difference for f in findings.values() if not f.equal]
    assert len(found) == 1
    assert "amount is 9.25 and should be 8.25" in found[0]


@pytest.mark.many
@pytest.mark.parametrize(
    ("statement", "table", "said"),
    [
        (
            "UPDATE star.fact_sale SET amount = amount + 1 WHERE sale_id IN (5, 9)",
            "fact_sale",
            "2 keys differ: sale_record_id 4: amount is 6.25 and should be 5.25",
        ),
        (
            "UPDATE star.fact_sale SET due = '2023-01-01' WHERE sale_id = 5",
            "fact_sale",
            "1 key differs: sale_record_id 4: due is 2023-01-01 and should be 2024-01-05",
        ),
        (
            "UPDATE star.dim_worker SET name = 'x' WHERE worker_id = 4",
            "dim_worker",
            "1 key differs: worker_id 4: name is x and should be worker 4",
        ),
        (
            "INSERT INTO star.superseded SELECT 'fact_sale', 7",
            "fact_sale",
            "what is current: 1 key differs: sale_id 8 is missing",
        ),
        ("DROP TABLE star.fact_sale CASCADE", "fact_sale", "does not have it"),
    ],
)
def test_what_somebody_changed_in_postgresql_is_found(
    statement: str, table: str, said: str, make: Callable[..., Direct]
) -> None:
    flow = make("postgres")
    flow.run()
    execute(str(flow.warehouse_url), statement)
    found = {(f.hop, f.table): f.difference for f in flow.verified(thorough=True) if not f.equal}
    assert list(found) == [("warehouse", table)]
    assert said in found["warehouse", table]
    if "amount" in statement:
        with flow.lake.open(flow.inputs) as bench, flow.warehouse.reading() as reader:
            unequal = [
                p.table for p in Certifier(bench.builder, bench.manifest, reader).proofs() if not p.equal
            ]
        assert unequal == ["fact_sale"]


# -- PostgreSQL's own ------------------------------------------------------------------------------------------------


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def test_keys_types_and_comments_are_those_declared(make: Callable[..., Direct]) -> None:
    flow = make("postgres", _THINGS, THINGS)
    flow.run()
    url = str(flow.warehouse_url)
    found = asked(
        url,
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum) "
        "FROM pg_attribute WHERE attrelid = 'star.dim_thing'::regclass AND attnum > 0 ORDER BY attnum",
    )
    columns = dim_thing.schema.columns
    assert found == [(c.name, c.type.postgres, not c.type.nullable, c.description or None) for c in columns]
    assert ("money", "numeric(38,10)") in [row[:2] for row in found]
    assert asked(url, "SELECT obj_description('star.dim_thing'::regclass)") == [
        (dim_thing.schema.description,)
    ]


def test_keys_and_references_hold_for_everybody(make: Callable[..., Direct]) -> None:
    flow = make("postgres")
    flow.run()
    url = str(flow.warehouse_url)
    columns = "sale_record_id, sale_id, worker_id, amount, due, batch, deleted"
    refused = {
        f"INSERT INTO star.fact_sale ({columns}) SELECT 9999, 1, 777, 1, '2024-01-01', 1, false": "fact_sale_worker_id_fkey",
        f"INSERT INTO star.fact_sale ({columns}) SELECT 1, 1, 1, 1, '2024-01-01', 1, false": "fact_sale_pkey",
        "DELETE FROM star.dim_worker WHERE worker_id = 1": "fact_sale_worker_id_fkey",
        "INSERT INTO star.dim_worker SELECT * FROM star.dim_worker": "dim_worker_pkey",
    }
    for statement, constraint in refused.items():
        with pytest.raises(psycopg2.IntegrityError, match=constraint):
            execute(url, statement)
    execute(flow.url, shop.DAY)
    flow.run()
    assert asked(url, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated") == [(1,)]


def test_what_others_built_on_a_table_is_never_dropped(make: Callable[..., Direct]) -> None:
    flow = make("postgres")
    flow.run()
    url = str(flow.warehouse_url)
    execute(
        url,
        "CREATE VIEW mine AS SELECT * FROM star.fact_sale_current; ALTER TABLE star.fact_sale ADD hand_made int",
    )
    before = asked(url, "SELECT count(*) FROM mine")
    with pytest.raises(WarehouseError, match="drop what depends on it") as caught:
        load(flow)
    assert "view mine depends on" in str(caught.value)
    assert asked(url, "SELECT count(*) FROM mine") == before
    execute(url, "DROP VIEW mine")
    assert load(flow)["fact_sale"].rows_loaded == 294


def test_a_role_that_owns_the_schema_needs_no_right_on_the_database(
    make: Callable[..., Direct], postgres_url: str
) -> None:
    flow = make("postgres")
    url, name = str(flow.warehouse_url), str(flow.warehouse_url).rpartition("/")[2]
    role = f"loader_{name}"
    execute(postgres_url, f"CREATE ROLE {role} LOGIN PASSWORD 'opensesame'")
    try:
        loader = replace(flow, warehouse_url=as_role(url, role, SECRET))
        with pytest.raises(WarehouseError) as caught:
            loader.run()
        said = str(caught.value)
        assert f"permission denied for database {name}" in said
        assert "grant it to the role of ETL_WAREHOUSE_URL" in said
        assert "opensesame" not in said
        execute(url, f"CREATE SCHEMA star AUTHORIZATION {role}")
        loader.derive()
        assert differences(loader) == {}
        assert "opensesame" not in loader.warehouse.where
    finally:
        execute(url, f"DROP OWNED BY {role}")
        execute(postgres_url, f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("/nowhere", 'database "nowhere" does not exist; check the database name in ETL_WAREHOUSE_URL'),
        ("//nobody:opensesame@", 'password authentication failed for user "nobody"'),
        (":1/", "check host and port in ETL_WAREHOUSE_URL, and that the server is up"),
        ("@no.such.host.invalid", "check the host name in ETL_WAREHOUSE_URL"),
        ("//a:opensesame@b@", "ETL_WAREHOUSE_URL can't be read"),
    ],
)
def test_a_warehouse_that_cannot_be_reached_is_one_line(
    change: str, said: str, postgres_url: str, tmp_path: Path
) -> None:
    url = {
        "/n": re.sub("/[^/]*$", change, postgres_url),
        "//": re.sub("//[^@]*@", change, postgres_url),
        ":1": re.sub(r":[0-9]+/", change, postgres_url),
        "@n": re.sub("@[^:]*", change, postgres_url),
    }[change[:2]]
    warehouse = PostgresWarehouse(url=url, scratch=str(tmp_path))
    for act in (lambda: warehouse.query("SELECT 1"), warehouse.held):
        with pytest.raises(WarehouseError) as caught:
            act()
        assert said in str(caught.value)
        assert "opensesame" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_database_that_can_t_hold_or_take_rows_is_told_with_what_to_do(
    postgres_url: str, tmp_path: Path
) -> None:
    name = f"latin_{os.getpid()}"
    administer(postgres_url, f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    url = f"{postgres_url.rsplit('/', 1)[0]}/{name}"
    warehouse = PostgresWarehouse(url=url, scratch=str(tmp_path))
    try:
        (encoding,) = (found for found in warehouse.check() if found.name == "encoding")
        assert (encoding.state, "LATIN1" in encoding.told) == ("advice", True)
        with pytest.raises(
            WarehouseError, match="does not have every character of the source: name one that"
        ):
            warehouse.query("SELECT '東京'")
        administer(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with (
            pytest.raises(WarehouseError, match="name the primary in ETL_WAREHOUSE_URL"),
            warehouse.session(),
        ):
            pass
    finally:
        administer(postgres_url, f"DROP DATABASE {name}")


def test_a_query_that_postgresql_refuses_is_one_line(make: Callable[..., Direct]) -> None:
    with pytest.raises(WarehouseError, match=r'relation "star\.nothing" does not exist') as caught:
        make("postgres").warehouse.query("SELECT * FROM star.nothing")
    assert "\n" not in str(caught.value)


# -- reporting tables in PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture
def reporting(database: Callable[..., str], tmp_path: Path) -> PostgresReportTables:
    return PostgresReportTables(warehouse=PostgresWarehouse(url=database(), scratch=str(tmp_path)))


def frame(*amounts: str | None, **more: list[Any]) -> pd.DataFrame:
    values = [None if amount is None else Decimal(amount) for amount in amounts]
    columns = {"name": [""] * len(amounts), "amount": pa.array(values, pa.decimal128(18, 2)), **more}
    made: pd.DataFrame = pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype)
    return made


def test_a_report_is_read_back_as_it_was_published(reporting: PostgresReportTables) -> None:
    given = frame(
        "1.00", None, "-3.50", day=[dt.date(2024, 1, 1)] * 3, n=[1, 2, 3], text=['a,\n"b', None, ""]
    )
    assert not reporting.publish("cash", given, "One row is Ada's.").unchanged
    found = reporting.read("cash")
    pd.testing.assert_frame_equal(found.sort_values("n", ignore_index=True), given)
    assert asked(reporting.warehouse.url, "SELECT obj_description('reporting.cash'::regclass)") == [
        ("One row is Ada's.",)
    ]


def test_an_unchanged_report_is_not_written_again(reporting: PostgresReportTables) -> None:
    newest = "SELECT max(xmin::text), max(amount) FROM reporting.cash"
    reporting.publish("cash", frame("1.00", "2.00"), "old")
    before = asked(reporting.warehouse.url, newest)
    assert reporting.publish("cash", frame("2.00", "1.00"), "old").unchanged
    assert asked(reporting.warehouse.url, newest) == before
    assert not reporting.publish("cash", frame("1.00", "2.00"), "new").unchanged
    execute(reporting.warehouse.url, "UPDATE reporting.cash SET amount = 9 WHERE amount = 2")
    assert not reporting.publish("cash", frame("1.00", "2.00"), "new").unchanged
    assert sorted(reporting.read("cash")["amount"]) == [Decimal(1), Decimal(2)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE reporting.cash SET amount = 9 WHERE amount = 2",
        "DELETE FROM reporting.cash WHERE amount = 2",
        "ALTER TABLE reporting.cash RENAME amount TO sum",
        "COMMENT ON TABLE reporting.cash IS 'another'",
        "DROP TABLE reporting.cash",
    ],
)
def test_what_stands_in_postgresql_shows_whether_it_is_what_was_published(
    reporting: PostgresReportTables, change: str
) -> None:
    reporting.publish("cash", frame("1.00", "2.00"), "old")
    before = reporting.standing()
    reporting.publish("cash", frame("2.00", "1.00"), "old")
    assert reporting.standing() == before
    execute(reporting.warehouse.url, change)
    assert reporting.standing() != before


@pytest.mark.parametrize(
    "change",
    [
        "DROP VIEW star.fact_sale_current",
        "UPDATE star.loads SET version = 'another'",
        "DELETE FROM star.loads WHERE table_name = 'fact_sale'",
        "ALTER TABLE star.fact_sale RENAME deleted TO gone",
        "DELETE FROM star.fact_sale",
    ],
)
def test_how_a_warehouse_in_postgresql_stands_changes_with_what_is_in_it(
    make: Callable[..., Direct], change: str
) -> None:
    flow = make("postgres")
    flow.run()
    before = settles(flow.warehouse.standing)
    assert flow.warehouse.standing() == before
    execute(str(flow.warehouse_url), change)
    deadline = time.monotonic() + 20
    while flow.warehouse.standing() == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def settles(ask: Callable[[], str | None]) -> str | None:
    """An answer once it stays the same: the server counts writes after the fact."""
    before, now = None, ask()
    while before != now:
        time.sleep(1)
        before, now = now, ask()
    return now


def test_a_failed_publish_leaves_the_old_report_and_what_is_built_on_it(
    reporting: PostgresReportTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = reporting.warehouse.url
    reporting.publish("cash", frame("1.00"), "old")
    execute(url, "CREATE VIEW mine AS SELECT sum(amount) FROM reporting.cash")

    def stop(place: str) -> None:
        assert asked(url, "SELECT * FROM mine") == [(Decimal(1),)], "a reader sees the old one meanwhile"
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(postgres_report_tables, "reached", stop)
        with pytest.raises(Stopped):
            reporting.publish("cash", frame("5.00"), "new")
    assert asked(url, "SELECT * FROM mine") == [(Decimal(1),)]
    reporting.publish("cash", frame("5.00"), "new")
    assert asked(url, "SELECT * FROM mine") == [(Decimal(5),)]
    with pytest.raises(WarehouseError, match=r"view mine depends on table reporting\.cash"):
        reporting.publish("cash", frame("5.00", n=[1]), "new")
    assert asked(url, "SELECT * FROM mine") == [(Decimal(5),)]
    execute(url, "DROP VIEW mine")
    reporting.publish("cash", frame("5.00", n=[1]), "new")
    assert list(reporting.read("cash").columns) == ["name", "amount", "n"]


def test_a_report_that_was_never_published_is_named(reporting: PostgresReportTables) -> None:
    with pytest.raises(ReportTablesError, match=r"there is no reporting\.cash yet"):
        reporting.read("cash")


# -- the commands and the definitions --------------------------------------------------------------------------------


def etl(*arguments: str) -> Any:
    """What a command that ends well says in JSON."""
    done = CliRunner().invoke(command, [*arguments, "--json"], prog_name="etl", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert str(urlsplit(os.environ["ETL_WAREHOUSE_URL"]).password) not in done.output
    return json.loads(done.stdout)


def test_every_command_works_with_a_warehouse_in_postgresql(
    bicycles: str, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()
    flow = Flow(bicycles, tmp_path / "data", {"ETL_WAREHOUSE_URL": url})
    for name, value in {**flow.environment, "DAGSTER_HOME": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    etl("run")
    play_day(bicycles, seed=4, hires=10)
    etl("run")
    status = etl("status")["warehouse"]
    assert status["tables"]["fact_payment"]["batch"] == "000002"
    assert "127.0.0.1" in status["path"]
    found = etl("verify", "--thorough", "--rebuild")
    assert found["equal"], [one for one in found["comparisons"] if not one["equal"]]
    assert {"warehouse", "rebuilt warehouse", "exports"} <= {one["hop"] for one in found["comparisons"]}
    ((key,),) = asked(url, "SELECT max(hire_id) FROM star.fact_hire")
    story = etl("explain", "hire", str(key))
    assert story["warehouse"]
    assert [v["values"] for v in story["warehouse"]] == [v["values"] for v in story["star"]]
    payment = flow.inputs.star["fact_payment"].schema
    assert isinstance(payment, Fact)
    query = facts_then(payment)
    warehouse = resources(Settings.read(flow.environment))["warehouse"]
    then = warehouse.model_copy(update={"url": url}).query(query, {"batch": 1})
    history = etl("history", "fact_payment", "--batch", "1")
    assert len(then) == history["total_rows"]
    assert list(then["payment_record_id"]) == [row["payment_record_id"] for row in history["rows"]]


def test_a_run_of_one_table_loads_that_table_and_certifies_it(
    bicycles: str, database: Callable[..., str], tmp_path: Path
) -> None:
    url = database()
    flow = Flow(bicycles, tmp_path, {"ETL_WAREHOUSE_URL": url})
    assert flow.run().success
    execute(
        bicycles, "UPDATE station SET phone = '99' WHERE station_id = 1; UPDATE bike SET model = 'New bike'"
    )
    assert flow.run("raw", "star").success
    run = flow.run("warehouse/dim_station", keep_events=True)
    assert run.success, run.error_lines
    assert list(run.materializations) == ["warehouse/dim_station"]
    assert asked(url, "SELECT phone FROM star.dim_station WHERE station_id = 1") == [("99",)]
    assert asked(url, "SELECT count(*) FROM star.dim_bike WHERE model = 'New bike'") == [(0,)]
    certificate = json.loads((flow.lake / "raw/batches/000002.certificate.json").read_text())
    assert list(certificate["tables"]) == ["dim_station"]
    assert certificate["tables"]["dim_station"]["equal"]
    assert not certificate["equal"]
    assert str(urlsplit(url).password) not in run.events
    assert flow.run("warehouse").success
    assert json.loads((flow.lake / "raw/batches/000002.certificate.json").read_text())["equal"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/x", "mysql:// is not a warehouse that can be used; write duckdb:///path"),
        (f"root:{SECRET}@host/x", "what it says is not a warehouse"),
        ("duckdb://", "names no file; write duckdb:///path/to/file.duckdb"),
    ],
)
def test_a_url_of_no_warehouse_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resources(Settings.read({"ETL_WAREHOUSE_URL": url}))
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(Settings.read({"ETL_WAREHOUSE_URL": url}))
