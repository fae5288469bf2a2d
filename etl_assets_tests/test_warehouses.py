"""What every warehouse promises, whichever engine stands behind it: the same content, all of it at once, or nothing."""

import datetime as dt
import json
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import narwhals as nw
import pandas as pd
import psycopg2
import pyarrow as pa
import pytest
from click.testing import CliRunner

from etl_assets.capture.table import Table
from etl_assets.cli import etl as command
from etl_assets.deployments import resources
from etl_assets.engine.definition import Inputs, star_table
from etl_assets.engine.schema import Column, Dimension
from etl_assets.proof.certificate import Certifier
from etl_assets.proof.history import facts_then
from etl_assets.resources import (
    bigquery_load,
    duckdb_warehouse,
    postgres_report_tables,
    postgres_warehouse,
)
from etl_assets.resources.postgres_report_tables import PostgresReportTables
from etl_assets.resources.postgres_warehouse import PostgresWarehouse
from etl_assets.resources.report_tables import ReportTablesError
from etl_assets.resources.stand_ins.bigquery import BigQueryStandIn
from etl_assets.resources.warehouse import Loaded, WarehouseError, WarehouseInUse
from etl_assets.resources.warehouse_load import load_star
from etl_assets.settings import Settings, SettingsError
from etl_assets.source.demo.simulator import play_day
from etl_assets.star import schema
from etl_assets_tests import shop
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import Flow, execute

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
        warehouse = {"duckdb": lambda: None, "postgres": database, "bigquery": lambda: next(bigquery)}[
            engine
        ]()
        return Direct(url, tmp_path / engine, inputs, warehouse)

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
        for made in flow.inputs.star.values():
            bench.builder.build(made, bench.manifest).publish()


def load(flow: Direct, *names: str) -> Mapping[str, Loaded]:
    """Load some tables of the star as it stands in the lake."""
    with flow.lake.open(flow.inputs) as bench:
        tables = [made.schema for made in flow.inputs.star.values()]
        versions = {name: bench.builder.version(name, bench.manifest) for name in names or flow.inputs.star}
        return load_star(flow.warehouse, bench.star, tables, versions, "a test", bench.changed_members)


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


def test_a_run_without_change_changes_nothing(flow: Direct) -> None:
    before = everything(flow)
    assert flow.run() is None
    assert everything(flow) == before
    assert all(outcome.batches == () for outcome in load(flow).values())


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
    from etl_assets.definitions import INPUTS
    from etl_assets.exports.reports import REPORTS

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
    assert len(outcomes) >= 8
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
    assert load(flow)["fact_sale"].dangling == {"worker_id": 2}
    assert everything(flow) == before
    execute(flow.url, "INSERT INTO worker VALUES (7, '1999-01-01'), (8, '1999-01-01')")
    flow.run()
    assert differences(flow) == {}


def test_a_second_load_waits_its_turn(make: Callable[..., Direct]) -> None:
    flow = make("postgres")
    flow.run()
    with flow.warehouse.session(), pytest.raises(WarehouseInUse, match="another run is loading it"):
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


def test_stand_ins_are_filled_in_when_the_member_comes(flow: Direct) -> None:
    assert books(flow)["inferred_members"] == [("dim_worker", "0")]
    stand_in = (0, "unknown", None, False)
    assert stand_in in flow.dump()["dim_worker"]
    execute(flow.url, "INSERT INTO worker VALUES (0, 'late', 1)")
    flow.run()
    assert books(flow)["inferred_members"] == []
    assert (0, "late", "team 1", False) in flow.dump()["dim_worker"]
    execute(flow.url, "UPDATE worker SET name = NULL WHERE id IN (0, 3)")  # no longer fits: the star loses it
    flow.run()
    assert books(flow)["inferred_members"] == [("dim_worker", "0"), ("dim_worker", "3")]
    assert stand_in in flow.dump()["dim_worker"]
    assert differences(flow) == {}


# -- proofs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "table", "said"),
    [
        (
            "UPDATE star.fact_sale SET amount = amount + 1 WHERE sale_id IN (5, 9)",
            "fact_sale",
            "2 keys differ, sale_id 5 to 9",
        ),
        (
            "UPDATE star.fact_sale SET due = '2023-01-01' WHERE sale_id = 5",
            "fact_sale",
            "1 keys differ, sale_id 5 to 5",
        ),
        (
            "UPDATE star.dim_worker SET name = 'x' WHERE worker_id = 4",
            "dim_worker",
            "1 keys differ, worker_id 4 to 4",
        ),
        (
            "INSERT INTO star.superseded SELECT 'fact_sale', 7",
            "fact_sale",
            "fact_sale_current: 1 keys differ",
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
        f"INSERT INTO star.fact_sale ({columns}) SELECT 9999, 1, 777, 1, '2024-01-01', 'x', false": "fact_sale_worker_id_fkey",
        f"INSERT INTO star.fact_sale ({columns}) SELECT 1, 1, 1, 1, '2024-01-01', 'x', false": "fact_sale_pkey",
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
        loader = replace(flow, warehouse_url=url.replace("postgres@", f"{role}:{SECRET}@"))
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
        ("//nobody:opensesame@", 'role "nobody" does not exist'),
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
        "//": postgres_url.replace("//postgres@", change),
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
    assert SECRET not in done.output
    return json.loads(done.stdout)


def test_every_command_works_with_a_warehouse_in_postgresql(
    totesys: str, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database().replace("postgres@", f"postgres:{SECRET}@")
    flow = Flow(totesys, tmp_path / "data", {"ETL_WAREHOUSE_URL": url})
    for name, value in {**flow.environment, "DAGSTER_HOME": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    etl("run")
    play_day(totesys, seed=4, orders=10)
    etl("run")
    status = etl("status")["warehouse"]
    assert status["tables"]["fact_payment"]["batch"] == "000002"
    assert "127.0.0.1" in status["path"]
    found = etl("verify", "--thorough", "--rebuild")
    assert found["equal"], [one for one in found["comparisons"] if not one["equal"]]
    assert {"warehouse", "rebuilt warehouse", "exports"} <= {one["hop"] for one in found["comparisons"]}
    ((key,),) = asked(url, "SELECT max(sales_order_id) FROM star.fact_sales_order")
    story = etl("explain", "sales_order", str(key))
    assert story["warehouse"]
    assert [v["values"] for v in story["warehouse"]] == [v["values"] for v in story["star"]]
    query = facts_then(schema.FACT_PAYMENT)
    warehouse = resources(Settings.read(flow.environment))["warehouse"]
    then = warehouse.model_copy(update={"url": url}).query(query, {"batch": "000001"})
    history = etl("history", "fact_payment", "--batch", "1")
    assert len(then) == history["total_rows"]
    assert list(then["payment_record_id"]) == [row["payment_record_id"] for row in history["rows"]]


def test_a_run_of_one_table_loads_that_table_and_certifies_it(
    totesys: str, database: Callable[..., str], tmp_path: Path
) -> None:
    url = database().replace("postgres@", f"postgres:{SECRET}@")
    flow = Flow(totesys, tmp_path, {"ETL_WAREHOUSE_URL": url})
    assert flow.run().success
    execute(
        totesys,
        "UPDATE currency SET currency_code = 'CHF' WHERE currency_id = 1; UPDATE staff SET first_name = 'New'",
    )
    assert flow.run("raw", "star").success
    run = flow.run("warehouse/dim_currency", keep_events=True)
    assert run.success, run.error_lines
    assert list(run.materializations) == ["warehouse/dim_currency"]
    assert asked(url, "SELECT currency_code FROM star.dim_currency WHERE currency_id = 1") == [("CHF",)]
    assert asked(url, "SELECT count(*) FROM star.dim_staff WHERE first_name = 'New'") == [(0,)]
    certificate = json.loads((flow.lake / "raw/batches/000002.certificate.json").read_text())
    assert list(certificate["tables"]) == ["dim_currency"]
    assert certificate["tables"]["dim_currency"]["equal"]
    assert not certificate["equal"]
    assert SECRET not in run.events
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
