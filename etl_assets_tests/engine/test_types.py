"""Whatever value PostgreSQL holds: the star has exactly that, or its row is named and quarantined. Nothing between.

The cases below are also what `docs/values.md` is made of: `ETL_WRITE_DOCS=1 pytest etl_assets_tests/engine` writes it.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl_assets.engine import duck
from etl_assets.engine.types import Type
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import Current
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.opening import open_files
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.table import Table
from etl_assets.star.build import Builder
from etl_assets.star.definition import Inputs
from etl_assets.star.files import StarFiles
from etl_assets.star.function import StarFunction
from etl_assets.star.outcome import publish
from etl_assets.star.schema import Column, Fact
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets.warehouse.load import load_star
from etl_assets_tests.lake_layout import landed, star_files
from etl_assets_tests.oracle import Row, parse_csv

DOCUMENT = Path(__file__).parents[2] / "docs" / "values.md"
ASIDE = object()
"""Stands where the star would have a value, of a row that is quarantined."""


@dataclass(frozen=True)
class Case:
    """`value` is what PostgreSQL is given for a column of type `source`; `star` the text of what a column declared
    as `declared` shows, in DuckDB's words."""

    declared: str
    source: str
    value: str | None
    raw: str | None
    star: Any


def _cases() -> Iterator[Case]:
    for (declared, source), values in _VALUES.items():
        for value, *outcome in values:
            star = outcome[0] if outcome else value
            raw = outcome[1] if len(outcome) > 1 else value
            yield Case(declared, source, value, raw, star)


# (declared, source) -> (value, the star's text if another, raw's text if another), ...
_FORTY = "1234567890123456789012345678901234567890"
_VALUES: dict[tuple[str, str], list[tuple[Any, ...]]] = {
    ("smallint", "smallint"): [("-32768",), ("32767",), (None, ASIDE)],
    ("smallint", "integer"): [("32767",), ("32768", ASIDE)],
    ("int", "integer"): [("-2147483648",), ("0",), (None, ASIDE)],
    ("int?", "integer"): [("1",), (None,)],
    ("int", "smallint"): [("7",)],
    ("int", "bigint"): [("2147483647",), ("2147483648", ASIDE)],
    ("int", "numeric"): [("1000",), ("1.0", ASIDE), ("1.5", ASIDE), ("NaN", ASIDE), (_FORTY, ASIDE)],
    ("int", "double precision"): [("5",), ("5.5", ASIDE), ("1e15", ASIDE, "1e+15")],
    ("int", "boolean"): [("true", ASIDE, "t")],
    ("int", "text"): [
        ("5",), ("-5",), (" 5 ", ASIDE), ("1e3", ASIDE), ("5.0", ASIDE), ("5.5", ASIDE), ("007", ASIDE),
        ("+5", ASIDE), ("-0", ASIDE), ("0x10", ASIDE), ("1_000", ASIDE), ("1,000", ASIDE), ("٣", ASIDE),
        ("2147483648", ASIDE), ("NaN", ASIDE), ("", ASIDE), (None, ASIDE),
    ],
    ("int?", "text"): [("5",), ("", ASIDE), (None,)],
    ("bigint", "bigint"): [("-9223372036854775808",), ("9223372036854775807",)],
    ("bigint", "integer"): [("2147483647",)],
    ("bigint", "numeric"): [("9223372036854775807",), ("9223372036854775808", ASIDE), ("Infinity", ASIDE)],
    ("bigint", "text"): [("9223372036854775808", ASIDE), ("12",)],
    ("boolean", "boolean"): [("true", "true", "t"), ("false", "false", "f"), (None, ASIDE)],
    ("boolean?", "boolean"): [(None,)],
    ("boolean", "text"): [
        ("true",), ("false",), ("t", ASIDE), ("TRUE", ASIDE), ("yes", ASIDE), ("1", ASIDE), ("", ASIDE),
    ],
    ("boolean", "integer"): [("1", ASIDE), ("0", ASIDE), ("2", ASIDE)],
    ("real", "real"): [
        ("0.1",), ("3.4028235e38", "3.4028235e+38", "3.4028235e+38"), ("1e-45",), ("-0", "-0.0"), ("NaN", ASIDE),
        ("Infinity", ASIDE), ("-Infinity", ASIDE),
    ],
    ("real", "double precision"): [("0.5",), ("0.1234567890123", ASIDE), ("1e300", ASIDE, "1e+300")],
    ("double", "double precision"): [
        ("0.1",), ("1.7976931348623157e308", "1.7976931348623157e+308", "1.7976931348623157e+308"), ("5e-324",),
        ("-0", "-0.0"), ("9007199254740993", "9007199254740992.0", "9.007199254740992e+15"), ("NaN", ASIDE),
        ("Infinity", ASIDE), ("-Infinity", ASIDE), (None, ASIDE),
    ],
    ("double", "real"): [("0.1",), ("16777217", "16777216.0", "1.6777216e+07")],
    ("double", "numeric"): [("0.1",), ("0.10", ASIDE), ("0.1000000000000000055", ASIDE), ("NaN", ASIDE)],
    ("double", "text"): [
        ("0.5",), ("1e3", ASIDE), ("nan", ASIDE), ("inf", ASIDE), ("-inf", ASIDE), ("Infinity", ASIDE), ("", ASIDE),
    ],
    ("numeric(10,2)", "numeric(10,2)"): [
        ("1.005", "1.01", "1.01"), ("-0.01",), ("99999999.99",), ("NaN", ASIDE), (None, ASIDE),
    ],
    ("numeric(10,2)?", "numeric(10,2)"): [(None,), ("NaN", ASIDE)],
    ("numeric(10,2)", "numeric(5,1)"): [("1.5", "1.50")],
    ("numeric(10,2)", "numeric"): [
        ("1", "1.00"), ("1.10",), ("1.1000", "1.10"), ("1.005", ASIDE), ("0.001", ASIDE), ("-0.00", "0.00", "0.00"),
        ("99999999.99",), ("99999999.994", ASIDE), ("100000000", ASIDE), ("NaN", ASIDE), ("Infinity", ASIDE),
        ("-Infinity", ASIDE), (_FORTY, ASIDE), ("0." + _FORTY, ASIDE), ("1." + 40 * "0", "1.00"),
        ("1e2000", ASIDE, "1" + 2000 * "0"),
    ],
    ("numeric(10,2)", "numeric(20,5)"): [("1.50000", "1.50"), ("1.00500", ASIDE), ("123456789012345.00000", ASIDE)],
    ("numeric(10,2)", "integer"): [("5", "5.00"), ("99999999", "99999999.00"), ("100000000", ASIDE), (None, ASIDE)],
    ("numeric(10,2)", "double precision"): [("0.1", "0.10"), ("0.001", ASIDE), ("1e20", ASIDE, "1e+20")],
    ("numeric(10,2)", "money"): [("1.5", ASIDE, "$1.50")],
    ("numeric(10,2)", "text"): [
        ("1.5", "1.50"), ("-7", "-7.00"), ("1.005", ASIDE), (" 1.5", ASIDE), ("1,5", ASIDE), ("1e3", ASIDE),
        (".5", ASIDE), ("5.", ASIDE), ("+1", ASIDE), ("1_0", ASIDE), ("NaN", ASIDE), ("£5", ASIDE), ("", ASIDE),
        ("007.50", "7.50"), ("1.5\n", ASIDE),
    ],
    ("numeric(38,10)", "numeric"): [
        ("1234567890123456789012345678.0123456789",), ("12345678901234567890123456789", ASIDE),
        ("0.00000000001", ASIDE),
    ],
    ("date", "date"): [
        ("2024-02-29",), ("0001-01-01",), ("9999-12-31",), ("10000-01-01", ASIDE), ("5874897-12-31", ASIDE), ("0044-03-15 BC", ASIDE),
        ("4713-01-01 BC", ASIDE), ("infinity", ASIDE), ("-infinity", ASIDE), (None, ASIDE),
    ],
    ("date?", "date"): [(None,)],
    ("date", "text"): [
        ("2024-01-05",), ("2024-1-5", ASIDE), ("2024-02-30", ASIDE), ("2023-02-29", ASIDE), ("soon", ASIDE),
        ("", ASIDE), (" 2024-01-05", ASIDE), ("2024-01-05 00:00:00", ASIDE), ("2024-01-05 10:00:00", ASIDE),
        ("20240105", ASIDE), ("05/01/2024", ASIDE), ("2024/01/05", ASIDE), ("epoch", ASIDE), ("infinity", ASIDE),
        ("-infinity", ASIDE), ("0044-03-15 (BC)", ASIDE), ("today", ASIDE), ("20240-05-01", ASIDE), (None, ASIDE),
    ],
    ("date", "timestamp"): [("2024-01-05 00:00:00", ASIDE), ("2024-01-05 10:00:00", ASIDE)],
    ("date", "integer"): [("20240105", ASIDE)],
    ("time", "time"): [
        ("00:00:00",), ("23:59:59.999999",), ("12:00:00.5",), ("23:59:60", ASIDE, "24:00:00"), ("24:00:00", ASIDE),
    ],
    ("time", "time(0)"): [("12:00:00.5", "12:00:01", "12:00:01"), ("24:00:00", ASIDE)],
    ("time", "time with time zone"): [("12:00:00+02", ASIDE)],
    ("time", "text"): [
        ("09:00:00",), ("9:00", ASIDE), ("09:00", ASIDE), ("24:00:00", ASIDE), ("25:00:00", ASIDE),
        ("09:00:00.1234567", ASIDE), ("09:00:00 PM", ASIDE),
    ],
    ("timestamp", "timestamp"): [
        ("2024-01-05 12:00:00.123456",), ("2024-01-05 00:00:00",), ("1582-10-10 00:00:00",), ("0001-01-01 00:00:00",),
        ("9999-12-31 23:59:59.999999",), ("10000-01-01 00:00:00", ASIDE), ("294276-12-31 23:59:59.999999", ASIDE),
        ("0044-03-15 00:00:00 BC", ASIDE), ("infinity", ASIDE), ("-infinity", ASIDE), (None, ASIDE),
    ],
    ("timestamp", "timestamp(0)"): [("2024-01-05 12:00:00.5", "2024-01-05 12:00:01", "2024-01-05 12:00:01")],
    ("timestamp", "timestamp with time zone"): [("2024-01-05 12:00:00+00", ASIDE)],
    ("timestamp", "date"): [("2024-01-05", ASIDE)],
    ("timestamp", "text"): [
        ("2024-01-05 12:00:00",), ("2024-01-05T12:00:00", ASIDE), ("2024-01-05", ASIDE), ("2024-02-30 00:00:00", ASIDE),
        ("2024-01-05 12:00:00Z", ASIDE), ("2024-01-05 24:00:00", ASIDE), ("2024-01-05 12:00:00.1234567", ASIDE),
        ("infinity", ASIDE), ("-infinity", ASIDE),
    ],
    ("timestamptz", "timestamp with time zone"): [
        ("2024-01-05 12:00:00.5+00",), ("2024-01-05 12:00:00+05:30", "2024-01-05 06:30:00+00", "2024-01-05 06:30:00+00"),
        ("2024-03-31 02:30:00 Europe/Berlin", "2024-03-31 01:30:00+00", "2024-03-31 01:30:00+00"),
        ("infinity", ASIDE), ("-infinity", ASIDE), ("0044-03-15 00:00:00+00 BC", ASIDE),
        ("294276-12-31 23:59:59+00", ASIDE),
    ],
    ("timestamptz", "timestamp"): [("2024-01-05 12:00:00", ASIDE)],
    ("timestamptz", "text"): [
        ("2024-01-05 12:00:00+00",), ("2024-01-05 12:00:00", ASIDE), ("2024-01-05 12:00:00+02", ASIDE),
        ("infinity", ASIDE),
    ],
    ("uuid", "uuid"): [
        ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",),
        ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", *2 * ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",)),
    ],
    ("uuid", "text"): [
        ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",), ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", ASIDE),
        ("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", ASIDE), ("a0eebc99", ASIDE), ("", ASIDE),
    ],
    ("bytea", "bytea"): [("\\x00ff0a", "00FF0A"), ("\\x", ""), ("abc", "616263", "\\x616263"), (None, ASIDE)],
    ("bytea?", "bytea"): [(None,), ("\\x", "")],
    ("bytea", "text"): [("\\x00ff", "00FF"), ("abc", ASIDE), ("\\xzz", ASIDE), ("\\xabc", ASIDE), ("", ASIDE)],
    ("text", "text"): [
        ("",), (" ",), ("NULL",), ("\\N",), ('a "b", c',), ("two\nlines",), ("a\r\nb",), ("🧾",), ("é",), ("007",),
        ("\ufeffx",), ("=1+1",), (None, ASIDE),
    ],
    ("text?", "text"): [("",), (None,)],
    ("text", "character(5)"): [("ab", "ab   ", "ab   ")],
    ("text", "integer"): [("7",)],
    ("text", "boolean"): [("true", "t", "t")],
    ("text", "date"): [("0044-03-15 BC",), ("infinity",)],
    ("text", "point"): [("(1,2)",)],
    ("text", "int4range"): [("[1,5)",), ("empty",)],
    ("text", "bit(3)"): [("101",)],
    ("text", "money"): [("1234.5", "$1,234.50", "$1,234.50")],
    ("numeric", "numeric"): [("NaN",), ("Infinity",), ("-Infinity",), (_FORTY,), ("1.10",), ("0." + _FORTY,)],
    ("interval", "interval"): [("1 year 2 mons 3 days 04:05:06.789",), ("-1 days",), ("infinity",)],
    ("json", "json"): [('{"b": 1, "a": 1.10, "b": 2}',), ("null",)],
    ("jsonb", "jsonb"): [("1.10",), ("null",), ('{"b":2,"a":1}', *2 * ('{"a": 1, "b": 2}',))],
    ("inet", "inet"): [("192.168.0.1/24",), ("::1",)],
    ("cidr", "cidr"): [("10.0.0.0/8",)],
    ("macaddr", "macaddr"): [("08:00:2b:01:02:03",)],
    ("timetz", "time with time zone"): [("24:00:00+14",)],
    ("xml", "text"): [("<a>&amp;</a>",)],
    ("array", "integer[]"): [("{1,NULL,3}",), ("{{1,2},{3,4}}",), ("{}",)],
    ("array", "text[]"): [('{"a,b","",NULL,"NULL"}',)],
    ("enum", "mood"): [("so so",)],
}  # fmt: skip
CASES = list(_cases())
GROUPS = {
    f"t{number}": list(cases)
    for number, (_, cases) in enumerate(groupby(CASES, key=lambda case: (case.declared, case.source)))
}
"""Table -> the cases that are its rows, numbered from 1."""


@dataclass(frozen=True)
class Outcome:
    """What became of all cases, in the files of one lake and in a warehouse."""

    url: str
    folder: Path
    manifest: Manifest
    audits: Mapping[str, int]

    def landed(self, table: str) -> dict[int, str | None]:
        return {
            int(str(row["id"])): row["v"] for row in self._rows(str(landed(self.folder / "lake", table, 1)))
        }

    def star(self, table: str) -> dict[int, str | None]:
        with duckdb.connect() as connection:
            return _shown(connection, table, f"read_parquet('{self._file(table)}')")

    def arrow(self, table: str) -> Any:
        return pq.read_schema(self._file(table)).field("v").type

    @cached_property
    def warehouse(self) -> Mapping[str, Mapping[int, str | None]]:
        with duckdb.connect(str(self.folder / "warehouse.duckdb"), read_only=True) as connection:
            return {table: _shown(connection, table, f"star.fact_{table}_current") for table in GROUPS}

    def quarantined(self, table: str) -> Sequence[Row]:
        listed = self.manifest.changed[table].quarantined
        return self._rows(listed.path) if listed else []

    def _file(self, table: str) -> Path:
        (path,) = star_files(self.folder / "lake", f"fact_{table}")
        return path

    def _rows(self, path: str) -> list[Row]:
        return list(parse_csv((self.folder / "lake" / path).read_bytes().decode()))


def _shown(connection: duckdb.DuckDBPyConnection, table: str, source: str) -> dict[int, str | None]:
    """What a column shows, as text."""
    connection.execute("SET TimeZone = 'UTC'")
    text = "hex(v)" if Type(GROUPS[table][0].declared).name == "bytea" else "CAST(v AS VARCHAR)"
    return dict(connection.execute(f"SELECT id, {text} FROM {source}").fetchall())


@pytest.fixture(scope="module")
def outcome(module_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All cases, taken from PostgreSQL in one batch and brought to the star and the warehouse."""
    url, folder = module_database(), tmp_path_factory.mktemp("types")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TYPE mood AS ENUM ('so so')")
        for table, cases in GROUPS.items():
            cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v {cases[0].source})")
            rows = [(number, case.value) for number, case in enumerate(cases, 1)]
            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", rows)
    tables = {name: Table(name, "", {"id": "int", "v": cases[0].declared}) for name, cases in GROUPS.items()}
    batches = Batches(open_files(str(folder / "lake"), folder))
    request = CaptureRequest(url, list(tables.values()), "a test", quarantine_limit=1)
    manifest = take_batch(request, batches, folder, lambda table, size: None)
    assert manifest is not None
    inputs = Inputs(tables, {f"fact_{name}": _fact(table) for name, table in tables.items()}, {})
    with duck.connect(folder) as memory:
        star = StarFiles(batches.files, batches)
        builder = Builder(inputs, Current(batches, memory), star, memory)
        builds = list(builder.derive(manifest))
        audits = {build.definition.name: sum(audit.found for audit in build.audits) for build in builds}
        publish(star, builds, memory)
        schemas = [definition.schema for definition in inputs.star.values()]
        versions = {schema.name: builder.version(schema.name, manifest) for schema in schemas}
        warehouse = DuckDBWarehouse(path=str(folder / "warehouse.duckdb"), scratch=str(folder))
        load_star(warehouse, star, schemas, versions, "a test")
    return Outcome(url, folder, manifest, audits)


def _fact(table: Table) -> StarFunction:
    def as_it_is(**tables: nw.LazyFrame) -> nw.LazyFrame:
        (rows,) = tables.values()
        return rows.select("id", "v")

    parameter = inspect.Parameter(table.name, inspect.Parameter.KEYWORD_ONLY)
    as_it_is.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    columns = [Column(name, declared) for name, declared in table.columns.items()]
    return StarFunction(Fact(f"fact_{table.name}", "", "id", columns, record="record_id"), as_it_is)


each_table = pytest.mark.parametrize(
    "table", GROUPS, ids=[f"{cases[0].declared} from {cases[0].source}" for cases in GROUPS.values()]
)


@pytest.mark.fault("F19")
@each_table
def test_a_value_is_exact_in_the_star_or_its_row_is_quarantined(outcome: Outcome, table: str) -> None:
    expected = {number: case.star for number, case in enumerate(GROUPS[table], 1) if case.star is not ASIDE}
    aside = {number for number, case in enumerate(GROUPS[table], 1) if case.star is ASIDE}
    assert outcome.star(table) == expected
    assert {int(str(row["key"])) for row in outcome.quarantined(table)} == aside
    assert outcome.warehouse[table] == expected
    type_ = Type(GROUPS[table][0].declared)
    assert outcome.arrow(table) == (pa.uuid() if type_.name == "uuid" else type_.arrow)
    assert outcome.audits[f"fact_{table}"] == 0


@pytest.mark.fault("F22")
@each_table
def test_rows_in_are_rows_out_and_quarantined_rows(outcome: Outcome, table: str) -> None:
    state, changes = outcome.manifest.tables[table], outcome.manifest.changed[table]
    assert state.rows == changes.new == len(outcome.landed(table)) == len(GROUPS[table])
    assert len(outcome.star(table)) + changes.quarantined_rows == state.rows
    assert changes.quarantined_rows == len({row["key"] for row in outcome.quarantined(table)})


@each_table
def test_what_is_quarantined_is_named_with_its_reason(outcome: Outcome, table: str) -> None:
    for row in outcome.quarantined(table):
        case = GROUPS[table][int(str(row["key"])) - 1]
        reason = (
            "is NULL, and must have a value" if case.value is None else f"is no {Type(case.declared).name}"
        )
        assert row == {
            "table": table, "key": row["key"], "column": "v", "value": case.raw, "reason": reason, "batch": "000001",
        }  # fmt: skip


@each_table
def test_raw_holds_what_postgresql_writes(outcome: Outcome, table: str) -> None:
    assert outcome.landed(table) == {number: case.raw for number, case in enumerate(GROUPS[table], 1)}


@pytest.mark.fault("F19")
@each_table
def test_postgresql_takes_what_the_star_shows_for_the_same_value(outcome: Outcome, table: str) -> None:
    """Not our idea of equality but PostgreSQL's; text is compared as text."""
    type_ = Type(GROUPS[table][0].declared)
    if type_.arrow == "string" and type_.name != "uuid":
        shown, value = "%s", "CASE WHEN num_nulls(v) = 0 THEN format('%%s', v) END"
    elif type_.name == "bytea":
        shown, value = "decode(%s, 'hex')", "v::text::bytea"
    else:
        pg = {"double": "float8", "int": "int"}.get(type_.name, type_.name.partition("(")[0])
        shown, value = f"%s::{pg}", f"v::text::{pg}"
    with closing(psycopg2.connect(outcome.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        for number, star in outcome.star(table).items():
            cursor.execute(
                f"SELECT {shown} IS NOT DISTINCT FROM {value} FROM {table} WHERE id = %s", (star, number)
            )
            assert cursor.fetchall() == [(True,)], GROUPS[table][number - 1]


# -- keys -------------------------------------------------------------------------------------------------------------


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_on_values_says_what_these_cases_say() -> None:
    page = _page()
    if os.environ.get("ETL_WRITE_DOCS"):
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(page)
    assert DOCUMENT.read_text() == page, (
        "ETL_WRITE_DOCS=1 pytest etl_assets_tests/engine brings it up to date"
    )


_PREFACE = """\
# What happens to each value

<!-- Made from the cases of etl_assets_tests/engine/test_types.py by `ETL_WRITE_DOCS=1 pytest
etl_assets_tests/engine`; every line is a test. -->

A column of the source has the type that PostgreSQL's catalog gives it, and is *declared* as what the star is to have
(`etl_assets/source`). A value that its declared type holds exactly is that value in the star. Of any other value the
row is **quarantined**: it is landed in `raw/` like all others, named in `raw/quarantine/<table>/<batch>.csv` with table,
key, column, value, reason and batch, and not in the star until the source is mended. Rows in = rows out + rows
quarantined.

- Raw is PostgreSQL's own text, whatever the declaration says. NULL and the empty text stay different.
- Where source and declared type are of one kind, all values fit but the ones that DuckDB and Arrow can't hold: NaN and
  infinities, years BC or after 9999 (nothing after the star could hold them either), times of 24:00.
- Text, or a column of another kind, fits only in the one way of writing that the declared type itself has: `5` is an
  `int`, and ` 5 `, `007`, `1e3` and `5.0` are none.
- `?` behind a declared type allows NULL.
"""


def _page() -> str:
    lines = [_PREFACE]
    for declared, cases in groupby(CASES, key=lambda case: Type(case.declared).name):
        lines += [f"## {declared}", "", "| source type | value | raw | star |", "|---|---|---|---|"]
        for case in cases:
            null = "" if not case.declared.endswith("?") else f" (declared `{case.declared}`)"
            star = "quarantined" if case.star is ASIDE else _code(case.star)
            lines.append(f"| {case.source}{null} | {_code(case.value)} | {_code(case.raw)} | {star} |")
        lines.append("")
    return "\n".join(lines)


def _code(text: str | None) -> str:
    """A value in a Markdown table."""
    if text is None:
        return "NULL"
    if text == "":
        return "empty"
    if len(text) > 60:
        text = f"{text[:30]}… ({len(text)} characters)"
    for character, name in (("\r", "␍"), ("\n", "␊"), ("\ufeff", "U+FEFF "), ("|", "\\|")):
        text = text.replace(character, name)
    return f"<code>{text.replace('&', '&amp;').replace('<', '&lt;').replace(' ', '&nbsp;')}</code>"
