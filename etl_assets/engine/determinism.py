"""Whether a star function gives the same for the same rows, whatever their order and however many threads work on them.

Two readers of the same lake must see the same star, and what is made again must be what was made. So what depends on the
order of rows, on chance, on the clock, on a setting or on what no parameter names is refused, as far as the plan that
DuckDB makes of the function's SQL shows it, with what to write instead. What is not known to be safe is refused too. Whether
an order leaves rows side by side depends on the data: that is found by applying the function several times
(`etl_assets.star.trial`), to many rows where the plan does not show that it makes no difference.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import duckdb
from sqlglot import exp

from etl_assets.engine.operators import Node, Select, nodes, text, volatile_names

Item = Mapping[str, Any]

# Aggregates whose outcome is the same in whatever order they meet the rows.
_EXACT = {
    "bit_and", "bit_or", "bit_xor", "bitstring_agg", "bool_and", "bool_or", "count", "count_if", "count_star", "countif",
    "histogram", "histogram_exact", "mad", "max", "median", "min", "quantile", "quantile_cont", "quantile_disc", "regr_count",
}  # fmt: skip
# Those of which that is so unless they add up floating-point numbers.
_SUMS = {"avg", "decimal_average", "mean", "sum", "sum_no_overflow"}
# Those that take one of several rows, or line rows up.
_OF_ORDER = {
    "any_value", "arbitrary", "array_agg", "first", "group_concat", "last", "list", "listagg", "string_agg",
}  # fmt: skip
# Those that take a value from the row that comes first by another one.
_OF_EXTREME = {
    f"{name}{nulls}" for name in ("arg_max", "arg_min", "argmax", "argmin", "max_by", "min_by")
    for nulls in ("", "_null", "_nulls_last")
}  # fmt: skip
# Those that choose by chance, even of values in an order.
_APPROXIMATE = {"approx_count_distinct", "approx_quantile", "approx_top_k", "reservoir_quantile"}
# Windows whose outcome names single rows of an order.
_BY_PLACE = {"ntile", "lag", "lead", "first_value", "last_value", "nth_value", "fill"}
_VALUES_BY_PLACE = {"first_value", "last_value"}
# What a function may read beside its parameters: numbers in a row, and a list's items.
_ROWS_OF_THEIR_OWN = {"generate_series", "range", "repeat", "unnest"}
_SCHEMAS = {"raw", "star", "reference"}
# What the engine calls consistent, and is not from one day, or one release, to the next. age() is so with one argument.
_OF_THE_DAY = {"current_localtime", "current_localtimestamp", "version"}
_AGE = "age"
# What is written without brackets.
_WORDS = {
    "current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp",
    "current_user", "localtime", "localtimestamp", "session_user",
}  # fmt: skip

_FAILS = "error"

_NO_ORDER = "{name} over rows without an order names any of them: give it an order by the key (order_by=)"


class Tie(str):
    """What is refused only where rows are found of which the order does not say which comes first."""

    __slots__ = ()


_UNORDERED = "{name} takes rows in whatever order they come: give it an order, or take min or max"
_TIES = (
    "{name} takes any of the rows that its order leaves side by side: let the order end with the value itself (ORDER BY day, "
    "name), so that what is side by side is alike"
)
_TIED = (
    "{name} takes any of the rows that come first together: let the value be part of what it goes by, as in {name}(name, "
    "row(day, name))"
)
_CHANGING = "{name} gives something else each time: take it from a column"
_ROUNDED = (
    "{name} is rounded otherwise, or chosen otherwise, when rows come in another order: annotate a parameter "
    "pandas.DataFrame and compute it there, in the order of the key"
)
_FLOATS = (
    "{name} adds up floating-point numbers, whose last digits depend on the order of rows: declare the column numeric(p,s), "
    "or annotate a parameter pandas.DataFrame and add up there"
)
_BESIDE = "{name} reads what no parameter names: declare a source table, or a reference file, and name it as a parameter"
_UNKNOWN = "{name} is not known to give the same for the same rows: annotate a parameter pandas.DataFrame and compute it there"


def undetermined(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[str]:
    """What in the SQL of a function does not say one thing, or, a `Tie`, may not; each with what to do about it."""
    ((tree,),) = connection.execute("SELECT json_serialize_sql($sql)", {"sql": sql}).fetchall()
    written = _Written()
    written.read(json.loads(tree))
    beside = sorted(written.tables - _ROWS_OF_THEIR_OWN)
    yield from [_BESIDE.format(name=name) for name in beside]
    ((made,),) = connection.execute("SELECT json_serialize_plan($sql)", {"sql": sql}).fetchall()
    plan = json.loads(made)
    if plan.get("error"):
        why = " ".join(str(plan.get("error_message")).split())[:80]
        if not beside:
            yield f"its SQL can't be looked into ({why}): annotate a parameter pandas.DataFrame and compute it there"
        return
    # These are constants in the plan.
    words = (written.columns & _WORDS) - set(_columns_read(plan["plans"]))
    yield from [_CHANGING.format(name=name) for name in sorted(written.functions & _changing() | words)]
    yield from _Plan(written).look(plan["plans"])


@dataclass
class _Written:
    """What stands in a text: names of functions, of functions that give rows, of columns. A plan has also what DuckDB adds."""

    functions: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    unsorted: bool = False
    """Whether there is a LIMIT without an ORDER BY beside it."""

    def read(self, value: Any) -> None:
        if isinstance(value, dict):
            if name := value.get("function_name"):
                self.functions.add(str(name).lower())
            if value.get("type") == "TABLE_FUNCTION":
                self.tables.add(str(value["function"]["function_name"]).lower())
            if value.get("class") == "COLUMN_REF":
                self.columns.add(str(value["column_names"][-1]).lower())
            kinds = {modifier["type"] for modifier in value.get("modifiers") or []}
            self.unsorted |= "LIMIT_MODIFIER" in kinds and "ORDER_MODIFIER" not in kinds
        for child in _below(value):
            self.read(child)


def _below(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _columns_read(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value.get("type") == "LOGICAL_GET":
        yield from (str(name).lower() for name in value["names"])
    for child in _below(value):
        yield from _columns_read(child)


class _Plan:
    """Looks through a plan."""

    def __init__(self, written: _Written) -> None:
        self.written = written

    def look(self, value: Any, groups: Sequence[Any] = (), *, of_list: bool = False) -> Iterator[str]:
        """`groups`: what all rows that are aggregated have in common; `of_list`: they are the items of a list, in its
        order."""
        if isinstance(value, list):
            for child in value:
                yield from self.look(child, groups, of_list=of_list)
        elif isinstance(value, dict):
            yield from self._item(value, groups, of_list)
            groups = value["groups"] if value.get("type") == "LOGICAL_AGGREGATE_AND_GROUP_BY" else groups
            for name, child in value.items():
                yield from self.look(child, groups, of_list=of_list or name == "function_data")

    def _item(self, item: Item, groups: Sequence[Any], of_list: bool) -> Iterator[str]:
        kind, name = item.get("expression_class"), _name(item)
        if kind == "BOUND_FUNCTION":
            yield from self._function(item, name)
        elif kind == "BOUND_AGGREGATE" and of_list:
            yield from [_ROUNDED.format(name=name)] if name in _APPROXIMATE else []
        elif kind == "BOUND_AGGREGATE":
            yield from self._aggregate(item, name, _expressions(item.get("order_bys")), groups)
        elif kind == "BOUND_WINDOW":
            yield from self._window(item, name)
        elif kind is None:
            yield from self._rows(item, name)

    def _function(self, item: Item, name: str) -> Iterator[str]:
        if len(item["qname"]["path"]) == 1 or name == _FAILS:  # an operator; what fails gives nothing
            return
        if name in _changing() or (name == _AGE and len(item["children"]) == 1):
            yield _CHANGING.format(name=name)
        elif name not in scalar_names():
            yield _UNKNOWN.format(name=name)

    def _aggregate(self, item: Item, name: str, order: Sequence[Any], groups: Sequence[Any]) -> Iterator[str]:
        if name in _SUMS:
            kinds = {argument["id"] for argument in item["arguments"]}
            if kinds & {"FLOAT", "DOUBLE"} or (name == "sum" and item["return_type"]["id"] == "DOUBLE"):
                yield _FLOATS.format(name=name)
        elif name in _OF_ORDER:
            if not order and (
                name != "first" or name in self.written.functions
            ):  # a query for a value has a first of its own
                yield _UNORDERED.format(name=name)
            elif order and not _determined(item["children"][0], [*order, *groups]):
                yield Tie(_TIES.format(name=name))
        elif name in _OF_EXTREME:
            value, by = item["children"][:2]
            if not _determined(value, [*_parts(by), *groups]):
                yield Tie(_TIED.format(name=name))
        elif name not in _EXACT:
            yield _ROUNDED.format(name=name)

    def _window(self, item: Item, name: str) -> Iterator[str]:
        order = [*_expressions(item), *_expressions({"orders": item.get("arg_orders")})]
        alike = [*order, *item["partitions"]]
        if item["type"] == "WINDOW_AGGREGATE":
            yield from self._aggregate(item, name, order, item["partitions"])
            frame = f"{item['start']} {item['end']}"
            over_all = frame == "UNBOUNDED_PRECEDING UNBOUNDED_FOLLOWING"
            if "ROWS" in frame and not order and not over_all:
                yield _NO_ORDER.format(name=name)
            return
        name = str(item["type"]).removeprefix("WINDOW_").lower()
        if name in _BY_PLACE and not order:
            yield _NO_ORDER.format(name=name)
        elif name in _VALUES_BY_PLACE and not _determined(item["children"][0], alike):
            yield Tie(_TIES.format(name=name))

    def _rows(self, item: Item, name: str) -> Iterator[str]:
        kind = item.get("type")
        if kind == "LOGICAL_LIMIT" and self.written.unsorted and not _sorted(item):
            yield "the first rows of no order are any rows: sort by the key first"
        elif kind == "LOGICAL_SAMPLE":
            yield "a sample is another one each time: filter by a column"
        elif kind == "LOGICAL_POSITIONAL_JOIN":
            yield "a positional join puts side by side what comes in whatever order: join by a key"
        elif (
            kind == "LOGICAL_DISTINCT"
            and item.get("distinct_type") == "DISTINCT_ON"
            and not item.get("order_by")
        ):
            yield _UNORDERED.format(name="DISTINCT ON")
        elif kind == "LOGICAL_GET":
            path = (item.get("function_data") or {}).get("qualified_name", {}).get("path", [])
            is_input = name == "seq_scan" and len(path) > 1 and path[-2] in _SCHEMAS
            if not is_input and name not in _ROWS_OF_THEIR_OWN:
                yield _BESIDE.format(name=name)


def _name(item: Item) -> str:
    path = (item.get("qname") or {}).get("path") or [""]
    return str(path[-1]).lower()


def _expressions(order: Item | None) -> list[Any]:
    return [one["expression"] for one in (order or {}).get("orders") or []]


def _parts(by: Item) -> list[Any]:
    """What is compared where values are compared: of a row its parts, one after the other."""
    return [by, *(by["children"] if _name(by) in ("row", "struct_pack") else [])]


def _sorted(limit: Item) -> bool:
    """Whether what is cut off has an order."""
    (below,) = limit["children"]
    while below["type"] == "LOGICAL_PROJECTION":
        (below,) = below["children"]
    return bool(below["type"] == "LOGICAL_ORDER_BY")


def _determined(value: Any, by: Sequence[Any]) -> bool:
    """Whether rows that are alike in some expressions are so in a value too."""
    if _bare(value) in [_bare(one) for one in by]:
        return True
    if value.get("expression_class") == "BOUND_CONSTANT":
        return True
    below = value.get("children") or ([value["child"]] if value.get("child") else [])
    return bool(below) and all(_determined(child, by) for child in below)


def _bare(expression: Any) -> Any:
    """An expression without what is said of where it stands."""
    if isinstance(expression, dict):
        beside = {"alias", "query_location", "query_location_length"}
        return {name: _bare(child) for name, child in expression.items() if name not in beside}
    return [_bare(child) for child in expression] if isinstance(expression, list) else expression


@cache
def scalar_names() -> frozenset[str]:
    """The names of DuckDB's own functions of values."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT function_name FROM duckdb_functions() WHERE function_type = 'scalar'"
        ).fetchall()
    return frozenset(name for (name,) in rows)


@cache
def _changing() -> frozenset[str]:
    """The names of DuckDB's functions that do not always give the same for the same values, by way of others too."""
    known = (volatile_names() | _OF_THE_DAY) - {_FAILS}
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT function_name, macro_definition FROM duckdb_functions() WHERE function_type = 'macro'"
        ).fetchall()
    names = known | {"current_timestamp"}
    return known | {name for name, text in rows if names & set(re.findall(r"\w+", text))}


def numbered_anyhow(tree: Node) -> Iterator[str]:
    """Rows that are numbered without an order although they may differ. (Among rows that are the same in every column it
    does not matter which of them is the first: that is how distinct rows are told.)"""
    for node in nodes(tree):
        if not isinstance(node, Select):
            continue
        others = {text(e) for e in node.columns.values() if not any(e.find_all(exp.Window))}
        for expression in node.columns.values():
            for window in expression.find_all(exp.Window):
                alike = {text(e) for e in window.args.get("partition_by") or ()}
                if (
                    isinstance(window.this, exp.RowNumber)
                    and not window.args.get("order")
                    and not others <= alike
                ):
                    yield _NO_ORDER.format(name="row_number")
