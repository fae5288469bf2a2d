"""B7: parameters are typed, have defaults, are seen in the launchpad, follow from partitions, and can't break out: of SQL, of
names of files and tables."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.project import (
    CsvFile,
    Parameter,
    Partitions,
    SqlExecute,
    SqlQuery,
    SqlWrite,
    Steps,
    Upload,
    step,
)
from etl_assets.steps.assets import step_assets
from etl_assets.steps.dialects import DUCKDB, MYSQL, POSTGRES, SQL_SERVER, SQLITE, dialects
from etl_assets.steps.duckdb_session import DuckDBSession
from etl_assets.steps.parameters import ParameterError, Value, checked
from etl_assets.steps.sessions import Bound, Session, SessionError
from etl_assets.steps.sql_session import open_sql
from etl_assets.steps.statement import Statement
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets_tests.steps.playing import kept, play
from etl_assets_tests.steps.test_sql import SALE, execute

HOSTILE = [
    "'; DROP TABLE sale; --", "' OR '1'='1", '" OR ""="', "\\'; DROP TABLE sale; #", "%s %(item)s :item {item}", "\\", "'", "''",
    "/* */", "--", "$$; DROP TABLE sale; $$", "`", "\u2019; DROP TABLE sale",
]  # fmt: skip
ITEM = [Parameter("item", "text", "Which item.")]


@step()
def numbers() -> pa.Table:
    """One row is a number."""
    return pa.table({"n": [1]})


def by_item(sql: str = "SELECT no, item FROM sale WHERE item = :item") -> Steps:
    return Steps("lot", "By item.", [SqlQuery("found", "What is found.", sql=sql, database="shop")], ITEM)


@pytest.mark.fault("F33")
def test_b7_a_text_reaches_sql_as_a_value_and_nothing_else(shop: str, tmp_path: Path) -> None:
    execute(shop, SALE)
    session = open_sql("shop", "ETL_DATABASE_SHOP", shop)
    known = {"item": ITEM[0], "no": Parameter("no", "int")}
    insert = Statement("INSERT INTO sale VALUES (:no, :item, 1)")
    find = Statement("SELECT no, item, '12:30 100%' AS t FROM sale WHERE item = :item")
    for number, text in enumerate(HOSTILE):
        session.execute(Bound(insert, known, {"item": text[:20], "no": number}))
        (table,) = session.read(Bound(find, known, {"item": text[:20]}))
        assert table.to_pylist() == [{"no": number, "item": text[:20], "t": "12:30 100%"}]
    session.close()
    assert execute(shop, "SELECT count(*) FROM sale") == [(len(HOSTILE),)]
    ran = play(by_item(), tmp_path / "data", config={"item": HOSTILE[0][:20]})
    assert ran.success, ran.failure
    assert pq.read_table(kept(tmp_path / "data", "lot", "found"))["no"].to_pylist() == [0]


DIALECTS = {"postgresql": POSTGRES, "mysql": MYSQL, "sqlite": SQLITE, "mssql": SQL_SERVER, "duckdb": DUCKDB}
MISPLACED = r"where nothing is bound|is code in some versions|directly behind a text"
# By what only some databases read as no code; "all" are read so by each.
NOTHING_IS_BOUND = {
    "all": [
        "SELECT no FROM sale WHERE item = ':item'",
        "SELECT no FROM sale WHERE item = 'x '' :item'",
        'SELECT no AS ":item" FROM sale',
        "SELECT no FROM sale -- :item",
        "SELECT no FROM sale /* :item */",
        "SELECT 'unfinished :item",
    ],
    "postgresql": [
        "SELECT $$ :item $$", "SELECT $a$ $$ :item $a$", "SELECT E'it\\'s :item'", "SELECT E'a'\n -- b\n 'it\\'s :item'",
        "SELECT /* /* */ :item */ 1", "SELECT data #>> '{a,\n:item}' FROM t", "SELECT '\\' || ':item'",
        "SELECT E'a' -- b\n :item",
    ],
    "duckdb": ["SELECT $$ :item $$", "SELECT $a$ $$ :item $a$", "SELECT E'it\\'s :item'"],
    "mysql": [
        "SELECT no AS `:item` FROM sale", "SELECT 1 # :item", "SELECT 'it\\'s :item'", 'SELECT "it\\"s :item"',
        "SELECT 1 /*!50000 + */ + :item",
    ],
    "sqlite": ["SELECT no AS `:item` FROM sale", "SELECT no AS [:item] FROM sale"],
    "mssql": ["SELECT no AS [a]]:item] FROM sale", "SELECT /* /* */ :item */ 1"],
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_b7_a_parameter_where_nothing_is_bound_is_refused(name: str) -> None:
    for sql in NOTHING_IS_BOUND["all"] + NOTHING_IS_BOUND[name]:
        for known in ({"item": ITEM[0]}, {"item": ITEM[0], "no": Parameter("no", "int")}):
            bound = Bound(Statement(sql), known, {"item": "x", "no": 1})
            with pytest.raises(SessionError, match=MISPLACED):
                bound.read([DIALECTS[name]])
            with pytest.raises(SessionError, match=MISPLACED):
                bound.read(dialects("one that nobody knows"))
    for sql in NOTHING_IS_BOUND["all"]:
        (mistake,) = [what for _, what in by_item(sql).mistakes()]
        assert ":item stands in a text, a quoted name or a comment" in mistake, "when the project loads"


# Legal there, with a parameter in code, and what it answers.
BOUND = {
    "postgresql": [
        ("""SELECT '{"a": {"b": 7}}'::jsonb #>> '{a,b}' || :item AS n""", "7x"),
        ("SELECT (5 # 3)::text || :item AS n", "6x"),
        ("""SELECT ('{"x": 1}'::jsonb ? :item)::text || ('{"x": 1}'::jsonb @> '{}')::text AS n""", "truetrue"),
        ("SELECT $a$ ' :other -- $a$ || :item AS n", " ' :other -- x"),
        ("SELECT E'it\\'s ' || :item AS n", "it's x"),
        ("SELECT E'a'\n'\\'' || :item AS n", "a'x"),
        ("SELECT '\\' || :item AS n", "\\x"),
        ("SELECT /* /* ' */ ' */ :item::text || (7 % 4)::text AS n", "x3"),
        ("SELECT ((ARRAY['a','b'])[1:2])::text || :item || '100%' AS n", "{a,b}x100%"),
        ("SELECT x FROM (SELECT 1 AS \"a'b\", :item AS x) AS t", "x"),
    ],
    "mariadb": [
        ("SELECT CONCAT('it\\'s ', \"\\\"\", :item) AS n", "it's \"x"),
        ("SELECT CONCAT(@n := 'a', :item) AS n # it's", "ax"),
        ("SELECT CONCAT(5--:item, 7 % 4) AS n", "53"),
        ("SELECT /* /* ' */ :item AS `a'b`", "x"),
    ],
    "sqlite": [
        ("SELECT 'a\\' || :item AS [a'b]", "a\\x"),
        ("SELECT json_extract('{\"a\": 7}', '$.a') || :item || (7 % 4) AS `'`", "7x3"),
    ],
    "duckdb": [
        ("SELECT E'it\\'s ' || $$ ' $$ || :item AS n", "it's  ' x"),
        ("SELECT 'a\\' || :item || (7 % 4)::text || [1, 2][:1]::text AS n", "a\\x3[1]"),
        ("SELECT #1 || :item AS n FROM (SELECT 'a')", "ax"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BOUND)
def test_b7_what_is_legal_in_a_database_is_bound_there(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    session: Session
    if name == "duckdb":
        duckdb.connect(str(tmp_path / "w.duckdb")).close()
        session = DuckDBSession(DuckDBWarehouse(path=str(tmp_path / "w.duckdb"), scratch=str(tmp_path)))
    else:
        url = "sqlite://"
        if name == "postgresql":
            url = request.getfixturevalue("database")()
        elif name == "mariadb":
            url = request.getfixturevalue("mariadb_url")
        session = open_sql("shop", "ETL_DATABASE_SHOP", url)
    known = {"item": ITEM[0]}
    try:
        for sql, expected in BOUND[name]:
            group = by_item(sql)
            assert list(group.mistakes()) == [], sql
            tables = list(session.read(Bound(Statement(sql), known, {"item": "x"})))
            assert next(row for table in tables for row in table.to_pylist()).popitem()[1] == expected, sql
    finally:
        session.close()


def test_b7_a_backslash_is_read_as_the_session_reads_it(database: Any, mariadb_url: str) -> None:
    """Whether it ends a text is a setting, which a step may change."""
    known = {"item": ITEM[0]}
    as_text = Statement("SELECT '\\' || ' :item ' || '' AS n")
    ours = [
        (database(), "SET standard_conforming_strings = off", "SELECT '\\'' || :item AS n", "'x"),
        (mariadb_url, "SET sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES'", "SELECT '\\' || :item AS n", "\\x"),
    ]  # fmt: skip
    for url, setting, sql, expected in ours:
        session = open_sql("shop", "ETL_DATABASE_SHOP", url)
        session.execute(Bound(Statement(setting), {}, {}))
        (table,) = session.read(Bound(Statement(sql), known, {"item": "x"}))
        assert table.to_pylist() == [{"n": expected}]
        if "off" in setting:  # the text goes on behind the quote, and the parameter is code
            with pytest.raises(SessionError, match="directly behind a text"):
                list(session.read(Bound(as_text, known, {"item": "x"})))
        session.close()


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT no FROM sale WHERE item = '{item}' AND no = :item", ""),
        ("SELECT no FROM sale WHERE item = {item}", "{item} would be pasted into SQL: write :item"),
        ("SELECT * INTO #t FROM sale WHERE item = :item", ""),
    ],
)
def test_b7_what_would_be_pasted_is_refused_when_the_project_loads(sql: str, told: str) -> None:
    assert [what.partition("found: ")[2].partition(", which")[0] for _, what in by_item(sql).mistakes()] == (
        [told] if told else []
    )
    with pytest.raises(ValueError, match="empty"):
        Statement(" ")


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    st.sampled_from([0, 1]),
)
def test_b7_any_text_comes_back_as_it_went(text: str, kind: int) -> None:
    """Whatever stands beside the parameter: casts, texts with colons, comments."""
    sql = (
        "SELECT :item AS item, '12:30 :other' AS t -- a: b\n, 1 AS n",
        "SELECT CAST(:item AS TEXT) AS item, '::' AS t",
    )[kind]
    session = open_sql("shop", "ETL_DATABASE_SHOP", "sqlite://")
    try:
        known = {"item": ITEM[0]}
        (table,) = session.read(Bound(Statement(sql), known, {"item": text}))
    finally:
        session.close()
    assert table["item"].to_pylist() == [text]
    assert table["t"][0].as_py() in ("12:30 :other", "::")


def test_b7_a_cast_behind_a_parameter_is_one(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_DATABASE_SHOP", database())
    group = Steps(
        "lot", "Casts.",
        [SqlQuery("cast", "Casts.", sql="SELECT :day::date + 1 AS next, '{1,2}'::int[] AS two, 7 % 4 AS three", database="shop")],
        [Parameter("day", "date", default="2026-02-28")],
    )  # fmt: skip
    ran = play(group, tmp_path / "data")
    assert ran.success, ran.failure
    assert pq.read_table(kept(tmp_path / "data", "lot", "cast")).to_pydict() == {
        "next": [dt.date(2026, 3, 1)], "two": [[1, 2]], "three": [3],
    }  # fmt: skip


# -- names -----------------------------------------------------------------------------------------------------------------

NO_NAMES = [
    "../up",
    "..",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "",
    ".hidden",
    "a\nb",
    "a\0b",
    " a",
    "a ",
    "a..b",
    "x" * 300,
    "a:b",
    "a?b",
    "a#b",
    "*",
]


@pytest.mark.fault("F34")
def test_b7_a_value_that_leads_elsewhere_is_no_part_of_a_path(tmp_path: Path) -> None:
    group = Steps(
        "lot", "To a file.",
        [
            numbers,
            Upload("sent", "A file.", of="numbers", to="lake://a/{item}.csv"),
            CsvFile("file", "A file.", of="numbers", path="a/{item}.csv"),
        ],
        ITEM,
    )  # fmt: skip
    ran = play(group, tmp_path / "data", config={"item": "../../up"})
    assert ran.made == ["numbers"]
    assert ran.failure.count("can't be part of a name") == 2
    assert not list(tmp_path.rglob("*.csv"))
    for name in NO_NAMES:
        with pytest.raises(ParameterError):
            checked(name, "it")
    assert [checked(name, "it") for name in ("2026-01-31", "Größe 7", "a.b", "a=1")] == [
        "2026-01-31",
        "Größe 7",
        "a.b",
        "a=1",
    ]


@pytest.mark.fault("F33")
def test_b7_a_value_that_is_no_plain_name_is_no_part_of_a_table(shop: str, tmp_path: Path) -> None:
    execute(shop, SALE)
    write = SqlWrite("out", "A table.", of="numbers", table="sale_{item}", database="shop")
    group = Steps("lot", "To a table.", [numbers, write], ITEM)
    for name in ("x; DROP TABLE sale", 'x"y', "a.b.c"):
        assert play(group, tmp_path / "data", config={"item": name}).made == ["numbers"]
    assert sa.inspect(sa.create_engine(shop)).get_table_names() == ["sale"]
    fine = play(group, tmp_path / "data", config={"item": "north"})
    assert fine.success, fine.failure
    assert execute(shop, "SELECT n FROM sale_north") == [(1,)]


# -- types and the launchpad -----------------------------------------------------------------------------------------------

EVERY = [
    Parameter("label", "text", "A label.", default="none"),
    Parameter("kind", "text", "A kind.", default="big", one_of=["big", "small"]),
    Parameter("count", "int", "How many.", default=3),
    Parameter("large", "bigint", "A large one.", default=2**40),
    Parameter("share", "double", "A share.", default=0.5),
    Parameter("price", "numeric(8,2)", "A price.", default="0.10"),
    Parameter("exact", "boolean", "Or not.", default=True),
    Parameter("day", "date", "A day.", default="2026-01-31"),
    Parameter("at", "timestamp", "An instant.", default="2026-01-31 12:00:00"),
    Parameter("least", "numeric(8,2)?", "Or none."),
    Parameter("needed", "int", "Must be said."),
]


def all_of_them() -> tuple[Steps, dict[str, Value]]:
    seen: dict[str, Value] = {}

    @step()
    def looks(
        label: str, kind: str, count: int, large: int, share: float, price: Decimal, exact: bool, day: dt.date,
        at: dt.datetime, least: Decimal | None, needed: int,
    ) -> None:  # fmt: skip
        """Looks at its parameters."""
        seen.update(locals())

    return Steps("lot", "All kinds.", [looks], EVERY), seen


def test_b7_parameters_have_types_and_defaults(tmp_path: Path) -> None:
    group, seen = all_of_them()
    assert play(group, tmp_path / "data", config={"needed": 7, "day": "2026-02-01", "least": "1.5"}).success
    seen.pop("seen", None)
    assert seen == {
        "label": "none", "kind": "big", "count": 3, "large": 2**40, "share": 0.5, "price": Decimal("0.10"), "exact": True,
        "day": dt.date(2026, 2, 1), "at": dt.datetime(2026, 1, 31, 12), "least": Decimal("1.50"), "needed": 7,  # noqa: DTZ001
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("int", -(2**31), -(2**31)), ("int", 2**31 - 1, 2**31 - 1), ("bigint", -(2**63), -(2**63)), ("int", -(2**31) - 1, None),
        ("int", 2**31, None), ("bigint", 2**63, None), ("bigint", -(2**63) - 1, None),
    ],
)  # fmt: skip
def test_b7_the_least_and_the_largest_are_values(kind: str, given: int, expected: int | None) -> None:
    one = Parameter("n", kind)
    if expected is not None:
        assert one.read(given) == one.read(str(given)) == expected
    else:
        with pytest.raises(ParameterError):
            one.read(given)


def test_b7_null_is_a_value_where_there_is_a_default(tmp_path: Path) -> None:
    seen: list[int | None] = []

    @step()
    def looks(n: int | None) -> None:
        """Looks at its parameter."""
        seen.append(n)

    group = Steps("lot", "One.", [looks], [Parameter("n", "int?", default=3)])
    for config in ({"n": None}, {}, {"n": 0}):
        assert play(group, tmp_path / "data", config=config).success
    assert seen == [None, 3, 0]


def test_b7_two_instants_are_never_one_name() -> None:
    at = Parameter("at", "timestamp")
    names = [
        checked(at.read(text), "it")
        for text in ("2026-01-31 12:00:00", "2026-01-31T12:00:00.000001", "2026-01-31T12:00:00.000002", "2026-01-31T12:00:00+02:00",
                     "2026-01-31T10:00:00Z")
    ]  # fmt: skip
    assert names == [
        "2026-01-31T120000", "2026-01-31T120000.000001", "2026-01-31T120000.000002", "2026-01-31T100000Z", "2026-01-31T100000Z",
    ]  # fmt: skip


def test_b7_the_launchpad_shows_them(tmp_path: Path) -> None:
    (asset,) = step_assets([all_of_them()[0]], [])
    fields = asset.op.config_schema.config_type.fields  # type: ignore[union-attr]
    assert set(fields) == {one.name for one in EVERY}
    assert fields["day"].description == "A day. (date)"
    assert fields["day"].default_value == "2026-01-31"
    assert [name for name, one in fields.items() if one.is_required] == ["needed"]
    assert {value.config_value for value in fields["kind"].config_type.enum_values} == {"big", "small"}


def test_b7_wrong_values_are_all_told_in_one_error_before_anything_runs(tmp_path: Path) -> None:
    group, seen = all_of_them()
    ran = play(
        group, tmp_path / "data", config={"needed": 2**31, "day": "31.1.2026", "price": "0.125", "least": "x"}
    )
    assert not ran.success
    assert seen == {}
    for name in ("needed", "day", "price", "least"):
        assert f"parameter {name}: " in ran.failure
    assert "write YYYY-MM-DD" in ran.failure


def test_b7_a_value_that_must_be_said_and_one_that_may_not_be_are_refused_by_the_launchpad(
    tmp_path: Path,
) -> None:
    group, _ = all_of_them()
    with pytest.raises(dg.DagsterInvalidConfigError, match="needed"):
        play(group, tmp_path / "data")
    with pytest.raises(dg.DagsterInvalidConfigError, match="huge"):
        play(group, tmp_path / "data", config={"needed": 1, "kind": "huge"})


# -- partitions ------------------------------------------------------------------------------------------------------------


def divided(partitions: Partitions, *parameters: Parameter, sql: str) -> Steps:
    return Steps(
        "lot", "Divided.", [SqlQuery("part", "A part.", sql=sql, database="shop")], parameters, partitions
    )


@pytest.mark.parametrize(
    ("every", "key", "begin", "end"),
    [
        ("day", "2026-02-28", "2026-02-28", "2026-03-01"),
        ("week", "2026-01-05", "2026-01-05", "2026-01-12"),
        ("month", "2026-02-01", "2026-02-01", "2026-03-01"),
    ],
)
def test_b7_a_partition_fills_parameters_and_names_the_file(
    every: Any, key: str, begin: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_DATABASE_SHOP", "sqlite://")
    group = divided(
        Partitions(every=every, start="2026-01-01"),
        Parameter("begin", "date", partition="begin"),
        Parameter("until", "date", partition="end"),
        Parameter("key", "text", partition="key"),
        sql="SELECT :begin AS b, :until AS u, :key AS k",
    )
    ran = play(group, tmp_path / "data", partition=key)
    assert ran.success, ran.failure
    path = tmp_path / f"data/lake/steps/lot/part/{key}.parquet"
    assert pq.read_table(path, partitioning=None).to_pydict() == {"b": [begin], "u": [end], "k": [key]}


@pytest.mark.fault("F34")
def test_b7_partition_keys_are_checked_names() -> None:
    for key in ("../up", "a/b", ""):
        with pytest.raises(ParameterError, match="can't be part of a name"):
            Partitions(keys=["fine", key])
    group = divided(
        Partitions(keys=["north"]), Parameter("begin", "date", partition="begin"), sql="SELECT :begin AS b"
    )
    assert ["partitions by keys have no begin" in what for _, what in group.mistakes()] == [True]
    without = Steps(
        "lot",
        "None.",
        [SqlExecute("e", "E.", sql="SELECT :key", database="shop")],
        [Parameter("key", "text", partition="key")],
    )
    assert ["has no partitions=" in what for _, what in without.mistakes()] == [True]


def test_b7_a_partition_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_DATABASE_SHOP", "sqlite://")
    group = divided(
        Partitions(keys=["north"]), Parameter("key", "text", partition="key"), sql="SELECT :key AS k"
    )
    with pytest.raises(dg.DagsterError):
        play(group, tmp_path / "data", partition="north'; DROP TABLE sale; --")
    assert not list(tmp_path.rglob("*.parquet"))
