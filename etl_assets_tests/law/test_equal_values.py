"""Values that are equal and not the same: 1 and 1.00, a day and its first instant, 0.0 and -0.0. What is computed of the one
is not what is computed of the other, so that a change can't be followed by it."""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from random import Random
from typing import Any

import duckdb
import narwhals as nw
import pyarrow as pa
import pytest

from etl_assets.source.table import Table
from etl_assets.star.application import Application
from etl_assets.star.change import InputChange, hidden
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.schema import Column, Dimension

CHANGES = 25
ROWS = 8
COLUMNS = {
    "id": "int", "team": "int?", "figure": "text?", "word": "text?", "day": "date?", "moment": "timestamp?", "amount": "numeric(10,2)?",
    "weight": "double?",
}  # fmt: skip
TABLES = {name: Table(name, "", COLUMNS) for name in ("one", "other")}
VALUES: Mapping[str, tuple[Any, ...]] = {
    "team": (None, 1, 2, 3),
    "figure": (None, "1", "01", "2"),
    "word": (None, "1", "2", "a"),
    "day": (None, dt.date(2024, 1, 1), dt.date(2024, 1, 2)),
    "moment": (None, *map(dt.datetime.fromisoformat, ("2024-01-01", "2024-01-02", "2024-01-02 05:00"))),
    "amount": (None, Decimal("1.00"), Decimal("2.00"), Decimal("1.50")),
    "weight": (None, 0.0, -0.0, 1.0),
}
ARROW = {t.name: pa.field(t.name, t.type.arrow) for t in (Column(n, c) for n, c in COLUMNS.items())}
SAID = {"said": "text", "number": "bigint?"}

Rows = Mapping[int, Mapping[str, Any]]


def a_number_and_a_decimal(one: nw.LazyFrame, other: nw.LazyFrame) -> Any:
    joined = one.join(
        other.select("amount", "id"), left_on="team", right_on="amount", how="left", suffix="_of_other"
    )
    return joined.group_by(nw.col("team").cast(nw.String).alias("said")).agg(
        nw.col("id_of_other").count().alias("number")
    )


def a_day_and_an_instant(one: nw.LazyFrame, other: nw.LazyFrame) -> Any:
    joined = one.join(
        other.select("moment", "id"), left_on="day", right_on="moment", how="left", suffix="_of_other"
    )
    return joined.group_by(nw.col("day").cast(nw.String).alias("said")).agg(
        nw.col("id_of_other").count().alias("number")
    )


def a_sign_of_nothing(one: nw.LazyFrame, other: nw.LazyFrame) -> Any:
    joined = one.join(other.select("weight", "id"), on="weight", how="left", suffix="_of_other")
    return joined.group_by(nw.col("weight").cast(nw.String).alias("said")).agg(
        nw.col("id_of_other").count().alias("number")
    )


def equal_to_what_is_equal(one: nw.LazyFrame, other: nw.LazyFrame) -> Any:
    """The figure 1 is equal to the team 1, and so is the figure 01; the two figures are not equal."""
    teams = nw.to_native(other).set_alias("t")
    figures = nw.to_native(one).filter("figure = '01' AND weight = 1").set_alias("f")
    known = teams.join(figures, "t.team = f.figure").project("t.team").distinct().set_alias("k")
    joined = nw.to_native(other).set_alias("o").join(known, "o.figure = k.team", how="left")
    return nw.from_native(joined.project("o.id::VARCHAR AS said, k.team::BIGINT AS number"))


def a_union_of_numbers(one: nw.LazyFrame, other: nw.LazyFrame) -> Any:
    both = nw.to_native(one).project("team AS x").union(nw.to_native(other).project("amount AS x"))
    return nw.from_native(both.aggregate("x::VARCHAR AS said, count(*) AS number", "x::VARCHAR"))


def a_union_of_days(one: nw.LazyFrame, other: nw.LazyFrame) -> Any:
    both = nw.to_native(one).project("day AS x").union(nw.to_native(other).project("moment AS x"))
    return nw.from_native(both.aggregate("x::VARCHAR AS said, count(*) AS number", "x::VARCHAR"))


def a_union_of_numbers_and_texts(one: nw.LazyFrame, other: nw.LazyFrame) -> Any:
    both = nw.to_native(one).project("team AS x").union(nw.to_native(other).project("word AS x"))
    return nw.from_native(both.aggregate("x AS said, count(*) AS number", "x"))


FUNCTIONS = (
    a_number_and_a_decimal,
    a_day_and_an_instant,
    a_sign_of_nothing,
    a_union_of_numbers,
    a_union_of_days,
    a_union_of_numbers_and_texts,
)


def declared(function: Callable[..., Any]) -> StarFunction:
    columns = [Column(name, type_) for name, type_ in SAID.items()]
    return star_table(Dimension("made", "", "said", columns, rows="any"))(function)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_what_is_equal_and_not_the_same_does_not_lead_astray(
    function: Callable[..., Any], connection: duckdb.DuckDBPyConnection
) -> None:
    definition = declared(function)
    application = Application(definition, inputs := Inputs(TABLES, {"made": definition}, {}), connection)
    assert inputs.classified(definition).startswith("by key")
    rng, left_alone = Random(7), 0
    for _ in range(CHANGES):
        was = {name: {key: _row(rng, key) for key in range(ROWS)} for name in TABLES}
        now = {name: dict(rows) for name, rows in was.items()}
        changed = now[rng.choice(list(TABLES))]
        for key in rng.sample(range(ROWS), 2):
            changed[key] = _row(rng, key)
        del changed[rng.choice(list(changed))]
        before, after = (
            _given(connection, application, {n: _change(connection, n, r, r) for n, r in state.items()})
            for state in (was, now)
        )
        applied = application.to_changes({n: _change(connection, n, was[n], now[n]) for n in TABLES})
        assert applied.was is not None
        left_out = before - _counted(connection, applied.was)
        assert left_out == after - _counted(connection, applied.now)
        left_alone += left_out.total()
    assert left_alone, "all rows were computed each time"


def test_what_is_equal_to_something_equal_need_not_be_equal_to_it(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    definition = declared(equal_to_what_is_equal)
    application = Application(definition, Inputs(TABLES, {"made": definition}, {}), connection)
    nothing: dict[str, Any] = dict.fromkeys(VALUES)
    others = {0: {**nothing, "id": 0, "team": 1}, 1: {**nothing, "id": 1, "figure": "1"}}
    was = {0: {**nothing, "id": 0}}
    now = {0: {**nothing, "id": 0, "figure": "01", "weight": 1.0}}
    changes = {
        "one": _change(connection, "one", was, now),
        "other": _change(connection, "other", others, others),
    }
    applied = application.to_changes(changes)
    assert applied.was is not None
    assert _counted(connection, applied.was) == Counter({("1", None): 1})
    assert _counted(connection, applied.now) == Counter({("1", 1): 1})


def _row(rng: Random, key: int) -> Mapping[str, Any]:
    return {"id": key} | {name: rng.choice(values) for name, values in VALUES.items()}


def _change(connection: duckdb.DuckDBPyConnection, name: str, was: Rows, now: Rows) -> InputChange:
    changed = [key for key in was.keys() | now.keys() if repr(was.get(key)) != repr(now.get(key))]
    rows, gone, come = (
        _table(connection, [state[key] for key in keys if key in state])
        for state, keys in ((now, list(now)), (was, changed), (now, changed))
    )
    keys = (hidden("id"),)
    if not changed:
        return InputChange(name, tuple(COLUMNS), keys, rows)
    return InputChange(name, tuple(COLUMNS), keys, rows, gone=gone, come=come)


def _table(connection: duckdb.DuckDBPyConnection, rows: list[Mapping[str, Any]]) -> str:
    (number,) = connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall()[0]
    schema = pa.schema([*ARROW.values(), pa.field(hidden("id"), pa.int32())])
    held = pa.Table.from_pylist([{**row, hidden("id"): row["id"]} for row in rows], schema)
    connection.from_arrow(held).create(f"rows_{number}")
    return f"rows_{number}"


def _given(
    connection: duckdb.DuckDBPyConnection, application: Application, changes: Mapping[str, InputChange]
) -> Counter[tuple[Any, ...]]:
    return _counted(connection, application.whole(changes, "").now)


def _counted(connection: duckdb.DuckDBPyConnection, rows: str) -> Counter[tuple[Any, ...]]:
    return Counter(connection.execute(f"FROM {rows}").fetchall())
