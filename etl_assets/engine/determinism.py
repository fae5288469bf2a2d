"""Whether a star function gives the same for the same rows, whatever their order and however many threads work on them.

Two readers of the same lake must see the same star, and what is made again must be what was made. So what depends on the
order of rows, on chance or on the clock is refused, as far as the function's SQL shows it, with what to write instead.
What it does not show, ties in an order above all, is found by applying the function twice (`etl_assets.star.trial`).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from etl_assets.engine.operators import Node, Select, nodes, text, volatile_names

# Aggregates that take one of several rows, or line rows up.
_OF_ORDER = {
    "any_value",
    "arbitrary",
    "array_agg",
    "first",
    "group_concat",
    "last",
    "list",
    "listagg",
    "string_agg",
}
# Aggregates whose outcome hangs on the order in which they meet the rows, even of exact numbers.
_ROUNDING = {
    "corr",
    "covar_pop",
    "covar_samp",
    "entropy",
    "geomean",
    "geometric_mean",
    "kurtosis",
    "kurtosis_pop",
    "product",
    "sem",
    "skewness",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "var_pop",
    "var_samp",
    "variance",
}
_APPROXIMATE = {"approx_count_distinct", "approx_quantile", "approx_top_k", "reservoir_quantile", "mode"}
_SUMS = {"avg", "favg", "fsum", "kahan_sum", "mean", "sum", "sumkahan"}
# Windows whose outcome names single rows of an order.
_BY_PLACE = {"row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value", "first", "last"}
_NO_ORDER = "{name} over rows without an order names any of them: give it an order by the key (order_by=)"
_CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}


def undetermined(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[str]:
    """What in the SQL of a function does not say one thing; each with what to do about it."""
    ((tree,),) = connection.execute("SELECT json_serialize_sql($sql)", {"sql": sql}).fetchall()
    for node in _nodes(json.loads(tree)):
        kind, name = node.get("class"), str(node.get("function_name", "")).lower()
        modifiers = [modifier["type"] for modifier in node.get("modifiers") or []]
        if "LIMIT_MODIFIER" in modifiers and "ORDER_MODIFIER" not in modifiers:
            yield "the first rows of no order are any rows: sort by the key first"
        if kind == "FUNCTION":
            yield from _function(node, name)
        elif kind == "WINDOW":
            yield from _window(node, name)
        elif kind == "COLUMN_REF" and node["column_names"][-1].lower() in _CLOCKS:
            yield f"{node['column_names'][-1]} gives something else tomorrow: take the time from a column"
        elif node.get("sample"):
            yield "a sample is another one each time: filter by a column"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from _nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from _nodes(child)


def _function(node: Mapping[str, Any], name: str) -> Iterator[str]:
    if name in volatile_names() or name in _CLOCKS:
        yield f"{name}() gives something else each time: take it from a column"
    ordered = node.get("order_bys", {}).get("orders")
    if name in _OF_ORDER and not ordered:
        yield f"{name} takes rows in whatever order they come: give it an order, or take min or max"
    if name in _ROUNDING | _APPROXIMATE:
        yield (
            f"{name} is rounded otherwise, or chosen otherwise, when rows come in another order: annotate a parameter "
            "pandas.DataFrame and compute it there, in the order of the key"
        )


def _window(node: Mapping[str, Any], name: str) -> Iterator[str]:
    if name in _ROUNDING | _APPROXIMATE:
        yield f"{name} over a window depends on the order of rows: compute it in a function that asks for pandas"
    by_place = name in _BY_PLACE or "ROWS" in f"{node.get('start')} {node.get('end')}".upper()
    if by_place and not node.get("orders") and not _over_all(node) and name != "row_number":
        yield _NO_ORDER.format(name=name)


def _over_all(node: Mapping[str, Any]) -> bool:
    """Whether a window adds up its whole partition."""
    frame = f"{node.get('start')} {node.get('end')}".upper()
    aggregate = str(node.get("type")) == "WINDOW_AGGREGATE"
    return aggregate and frame.startswith("UNBOUNDED_PRECEDING") and frame.endswith("UNBOUNDED_FOLLOWING")


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


def may_depend_on_order(sql: str) -> bool:
    """Whether a second look at the SQL is worth its time."""
    return any(name in sql.lower() for name in (*_SUMS, "row_number"))


def floats_added_up(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[str]:
    """Sums and means of floating-point numbers, whose last digits depend on the order of rows."""
    try:
        parsed = sqlglot.parse_one(sql, read="duckdb")
    except SqlglotError:
        return
    for select in parsed.find_all(exp.Select):  # each stands alone: nothing is shared between them
        sums = [
            node
            for projection in select.expressions
            for node in projection.find_all(exp.Sum, exp.Avg)
            if node.find_ancestor(exp.Select) is select
        ]
        if not sums:
            continue
        probe = select.copy()
        for name in ("group", "having", "qualify", "order", "distinct"):
            probe.set(name, None)
        probe.set("expressions", [exp.alias_(node.this.copy(), f"a{i}") for i, node in enumerate(sums)])
        try:
            kinds = connection.sql(text(probe)).types
        except duckdb.Error:  # sqlglot writes something otherwise; applying the function twice shows it too
            continue
        for node, kind in zip(sums, kinds, strict=True):
            if str(kind) in {"FLOAT", "DOUBLE"}:
                yield (
                    f"{text(node)} adds up floating-point numbers, whose last digits depend on the order of rows: declare "
                    "the column numeric(p,s), or annotate a parameter pandas.DataFrame and add up there"
                )
