"""What the plan of a function's SQL says of it: what a change of its inputs can be compared by."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache

from etl_assets.engine.operators import Node, Opaque, Query, Scan, nodes, parse
from etl_assets.star.change import InputChange, hidden
from etl_assets.star.reach import Anchor, Reach
from etl_assets.star.schema import StarTable

Types = Mapping[str, Mapping[str, str]]
"""Inputs with their columns, as DuckDB types."""


def plan(sql: str | None, types: Types) -> tuple[Query, Node | Opaque]:
    """The query of a function and its tree, or why there is none."""
    if sql is None:
        return Query("", (), ()), Opaque("it computes its frame in memory, and declares no by=")
    return _plan(sql, tuple((name, tuple(columns.items())) for name, columns in types.items()))


@cache
def _plan(
    sql: str, types: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
) -> tuple[Query, Node | Opaque]:
    query = Query("", (), ())
    try:
        query = Query.of(sql)
        tree = parse(query, {name: dict(columns) for name, columns in types})
        seen = [node.occurrence for node in nodes(tree) if isinstance(node, Scan)]
        if len(seen) != len(set(seen)):
            raise Opaque("a table that is read in more than one way")
    except Opaque as error:
        return query, error
    return query, tree


def classified(schema: StarTable, sql: str | None, types: Types, fixed: Collection[str]) -> str:
    """What a change of any input but those that are `fixed` will be compared by, in words: "by row", "by key: …",
    "compared whole: …"."""
    if schema.by is not None:
        return "by row" if schema.by == "row" else f"by key: {', '.join(schema.by_columns or ())}"
    changes = {
        name: InputChange(name, tuple(columns), (), name, None)
        if name in fixed
        else InputChange(name, tuple(columns), (hidden("key"),), name, None, "gone", "come")
        for name, columns in types.items()
    }
    _, tree = plan(sql, types)
    try:
        if isinstance(tree, Opaque):
            raise tree
        reach = Reach(tree, changes)
        anchors = reach.run()
    except Opaque as error:
        return f"compared whole: {error}"
    told = compared_by(tree, changes, anchors)
    return told if told == "by row" else f"{told}: {reach.describe(anchors)}"


def compared_by(tree: Node, changes: Mapping[str, InputChange], anchors: Sequence[Anchor]) -> str:
    """Whether rows are made one by one: nothing that can change is read beside what drives the function."""
    driving = [anchor.node for anchor in anchors]
    alone = all(isinstance(node, Scan) for node in driving)
    beside = [
        node
        for node in nodes(tree)
        if isinstance(node, Scan) and not any(node is d for d in driving) and changes[node.input].keys
    ]
    return "by row" if alone and not beside else "by key"
