"""Where columns come from, and which facts a calendar spans."""

import inspect
import time
from typing import Any

import narwhals as nw
import pytest

from etl_assets.project import Column, Table, calendar, dimension, fact
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.lineage import carried_key, column_lineage

WIDE = {"id": "int", **{f"c{number}": "numeric(10,2)?" for number in range(600)}}


@dimension(key="id", columns=[Column(name, type_) for name, type_ in WIDE.items()])
def dim_wide(wide: nw.LazyFrame) -> nw.LazyFrame:
    """One row is wide."""
    return wide.select(*WIDE)


@dimension(key=["a", "b"], columns=[Column("a", "int"), Column("b", "int")])
def dim_pair(pair: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a pair."""
    return pair.select("a", "b")


@fact(
    key="id",
    record="event_record_id",
    columns=[
        Column("id", "int"),
        Column("a", "int"),
        Column("b", "int"),
        Column("day", "date", references="dim_date"),
    ],
    references={("a", "b"): "dim_pair"},
)
def fact_event(event: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of an event."""
    return event.select("id", "a", "b", "day")


def test_a_wide_table_is_followed_in_the_time_that_its_columns_take() -> None:
    inputs = Inputs({"wide": Table("wide", "", WIDE)}, {"dim_wide": dim_wide}, {})
    started = time.process_time()
    origins = column_lineage(dim_wide, inputs)
    assert time.process_time() - started < 10  # when each column cost a copy of all of them it took a minute
    assert origins["c599"].columns == [("wide", "c599")]
    assert origins["c599"].unchanged


def test_a_calendar_spans_a_fact_that_refers_to_another_dimension_by_two_columns() -> None:
    star = {"dim_pair": dim_pair, "fact_event": fact_event}
    made = calendar().spanning(star)
    tables = {
        "pair": Table("pair", "", {"a": "int", "b": "int"}),
        "event": Table("event", "", {"id": "int", "a": "int", "b": "int", "day": "date"}),
    }
    assert Inputs(tables, {**star, "dim_date": made}, {}).star["dim_date"].inputs == ["fact_event"]


@dimension(key="ID", columns=[Column("ID", "int"), Column("Größe", "text?")])
def dim_size(Größen: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a size."""
    return Größen.select("ID", "Größe")


@dimension(key="id", columns=[Column("id", "int"), Column("0", "bigint?")], rows="any")
def dim_turned(pair: nw.LazyFrame) -> Any:
    """One row is what there is of an a."""
    turned = "FROM (PIVOT (SELECT a AS id, b FROM pair) ON b IN (0) USING count(*) GROUP BY id)"
    return nw.from_native(nw.to_native(pair).query("pair", turned))


@dimension(
    key=["a", "what"], columns=[Column("a", "int"), Column("what", "text"), Column("n", "int?")], rows="any"
)
def dim_bare(pair: nw.LazyFrame) -> Any:
    """One row is a value of an a."""
    return nw.from_native(
        nw.to_native(pair).query("pair", "UNPIVOT (SELECT a, b FROM pair) ON b INTO NAME what VALUE n")
    )


@pytest.mark.parametrize("function", [dim_turned, dim_bare])
def test_of_columns_that_can_not_be_told_nothing_is_told(function: StarFunction) -> None:
    inputs = Inputs({"pair": Table("pair", "", {"a": "int", "b": "int"})}, {function.name: function}, {})
    assert column_lineage(function, inputs) == {}
    assert inputs.classified(function) == "compared whole: a query of its own (.query)"


def test_names_are_told_as_they_are_declared() -> None:
    inputs = Inputs(
        {"Größen": Table("Größen", "", {"ID": "int", "Größe": "text?"})}, {"dim_size": dim_size}, {}
    )
    origins = column_lineage(dim_size, inputs)
    assert {name: origin.columns for name, origin in origins.items()} == {
        "ID": [("Größen", "ID")],
        "Größe": [("Größen", "Größe")],
    }
    assert carried_key(dim_size, inputs, ["ID"]) == ["ID"]


@pytest.mark.parametrize("table", ["select", "table", "order", "odd"])
@pytest.mark.parametrize("column", ["id", "order", 'the "id"', "a.b"])
def test_names_that_mean_something_in_sql_are_told_or_nothing_is(table: str, column: str) -> None:
    def dim_odd(**frames: nw.LazyFrame) -> nw.LazyFrame:
        return frames[table].select(nw.col(column).alias("id"))

    parameter = inspect.Parameter(table, inspect.Parameter.KEYWORD_ONLY)
    dim_odd.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    declared = dimension(key="id", description="One row is odd.", columns=[Column("id", "int")])(dim_odd)
    inputs = Inputs({table: Table(table, "", {column: "int"})}, {"dim_odd": declared}, {})
    origins = column_lineage(declared, inputs)
    assert [origin.columns for origin in origins.values()] in ([[(table, column)]], [])
    assert origins or table in ("select", "table", "order") or "." in column
