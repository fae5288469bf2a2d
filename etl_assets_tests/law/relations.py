"""A tree as DuckDB's own relations, for functions that leave Narwhals for SQL: other words for the same."""

import re
import zlib
from collections.abc import Mapping

import duckdb

from etl_assets_tests.law import trees
from etl_assets_tests.law.trees import Column, Expression, Literal, Relation, Total, Type

_PLAIN = re.compile(r"[a-z]+[0-9]*(_[a-z0-9]+)*")
_WORDS = {"order", "day"}


def run(tree: Relation, inputs: Mapping[str, duckdb.DuckDBPyRelation]) -> duckdb.DuckDBPyRelation:
    if isinstance(tree, trees.Input):
        return inputs[tree.name]
    if isinstance(tree, trees.Join):
        return _join(tree, run(tree.left, inputs), run(tree.right, inputs))
    if isinstance(tree, trees.Union):
        first, *others = (run(part, inputs) for part in tree.parts)
        for other in others:
            first = first.union(other)
        return first
    made, write = run(tree.of, inputs), Writer(_style(tree))
    if isinstance(tree, trees.Select):
        return made.project(", ".join(f"{write(item)} AS {quoted(name)}" for name, item in tree.items))
    if isinstance(tree, trees.Filter):
        return made.filter(write(tree.condition))
    if isinstance(tree, trees.Group):
        by = ", ".join(map(write.name, tree.by))
        totals = ", ".join(f"{write.total(t)} AS {quoted(t.name)}" for t in tree.totals)
        named = ", ".join(f"{write.name(name)} AS {quoted(name)}" for name in tree.by)
        return made.aggregate(f"{named}, {totals}", by)
    if isinstance(tree, trees.Window):
        return made.project(
            ", ".join(["*", *(f"{write.total(t, t.partition)} AS {quoted(t.name)}" for t in tree.totals)])
        )
    if isinstance(tree, trees.Explode):
        column, separator = write.name(tree.column), _text(tree.separator)
        parts = f"CASE WHEN {column} IS NULL THEN [NULL] ELSE string_split({column}, {separator}) END"
        return made.project(f"*, unnest({parts}) AS {quoted(tree.name)}")
    return made.distinct()


def _join(
    tree: trees.Join, left: duckdb.DuckDBPyRelation, right: duckdb.DuckDBPyRelation
) -> duckdb.DuckDBPyRelation:
    style = _style(tree)
    write = Writer(style)
    if tree.how == "inner" and style % 3 == 0:
        return _crossed(tree, left, right, write)
    one, other = left.set_alias("l"), right.set_alias("r")
    pairs = [(f"l.{write.name(a)}", f"r.{write.name(b)}") for a, b in tree.on]
    on = " AND ".join(f"{a} = {b}" if style % 2 else f"{b} = {a}" for a, b in pairs)
    if tree.how == "cross":
        made = one.cross(other)
    elif tree.how == "left" and style % 5 == 0:
        made = other.join(one, on, how="right")
    else:
        made = one.join(other, on, how="outer" if tree.how == "full" else tree.how)
    shown = [f"l.{write.name(name)} AS {quoted(name)}" for name in tree.left.types]
    shown += [f"r.{write.name(name)} AS {quoted(name)}" for name in tree.added]
    return made.project(", ".join(shown))


def _crossed(
    tree: trees.Join, left: duckdb.DuckDBPyRelation, right: duckdb.DuckDBPyRelation, write: "Writer"
) -> duckdb.DuckDBPyRelation:
    """An inner join as a cross join with a condition afterwards."""
    names = {name: f"r__{place}" for place, name in enumerate(tree.right.types)}
    renamed = right.project(", ".join(f"{write.name(n)} AS {quoted(to)}" for n, to in names.items()))
    on = " AND ".join(f"{write.name(a)} = {quoted(names[b])}" for a, b in tree.on)
    shown = [quoted(name) for name in tree.left.types]
    shown += [f"{quoted(names[name])} AS {quoted(name)}" for name in tree.added]
    return left.cross(renamed).filter(on).project(", ".join(shown))


def _style(tree: Relation) -> int:
    """A number that is always the same for a tree, to write the like in different ways."""
    return zlib.crc32(repr(tree).encode())


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_type(type_: Type) -> str:
    names = {"int": "INTEGER", "bigint": "BIGINT", "text": "VARCHAR", "date": "DATE", "boolean": "BOOLEAN"}
    return names.get(type_.base) or type_.base.upper().replace("NUMERIC", "DECIMAL")


class Writer:
    """Writes expressions as SQL. SQL does not care how names are written, and people don't either."""

    def __init__(self, style: int) -> None:
        self.loud = style % 16 == 1
        self.plain = style % 3 == 2

    def name(self, name: str) -> str:
        if not _PLAIN.fullmatch(name) or name in _WORDS or not (self.loud or self.plain):
            return quoted(name)
        return name.upper() if self.loud else name

    def __call__(self, item: Expression) -> str:
        if isinstance(item, Column):
            return self.name(item.name)
        if isinstance(item, Literal):
            return _literal(item)
        written = [self(argument) for argument in item.arguments]
        a, b, c = (*written, "", "", "")[:3]
        type_ = sql_type(item.type)
        match item.operation:
            case "add" | "subtract" as operation:
                sign = "+" if operation == "add" else "-"
                return f"CAST(CAST({a} AS {type_}) {sign} CAST({b} AS {type_}) AS {type_})"
            case "multiply":
                wide = "DECIMAL(19,2)" if item.type.family == "numeric" else type_
                return f"CAST(CAST({a} AS {wide}) * CAST({b} AS {wide}) AS {type_})"
            case "case":
                return f"CASE WHEN {a} THEN {b} ELSE {c} END"
            case "concat":
                return f"(CAST({a} AS VARCHAR) || {_text(item.option)} || CAST({b} AS VARCHAR))"
            case "is_null":
                return f"({a} IS NULL)"
            case "not":
                return f"(NOT {a})"
            case "cast" | "date":
                return f"CAST({a} AS {type_})"
            case "len_chars":
                return f"CAST(length({a}) AS {type_})"
            case "year" | "month" | "day" | "hour" as part:
                return f"CAST(extract({part} FROM {a}) AS {type_})"
            case "coalesce":
                return f"coalesce({', '.join(written)})"
        signs = {"and": "AND", "or": "OR", "eq": "=", "ne": "<>", "lt": "<", "ge": ">="}
        return f"({a} {signs[item.operation]} {b})"

    def total(self, total: Total, partition: tuple[str, ...] | None = None) -> str:
        by = f"PARTITION BY {', '.join(map(self.name, partition))}" if partition else ""
        over = "" if partition is None else f" OVER ({by})"
        column = self.name(total.column)
        match total.kind:
            case "rank":
                order = f"{by} ORDER BY {column}"
                return f"row_number() OVER ({order})"
            case "len":
                made = f"count(*){over}"
            case "count":
                made = f"count({column}){over}"
            case "n_unique":
                made = f"count(DISTINCT {column}){over} + max(CASE WHEN {column} IS NULL THEN 1 ELSE 0 END){over}"
            case "sum":
                made = f"coalesce(sum({column}){over}, 0)"
            case _:
                return f"{total.kind}({column}){over}"
        return f"CAST({made} AS {sql_type(total.type)})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _literal(item: Literal) -> str:
    if item.type.base == "text":
        return _text(item.value)
    value = str(item.value) if item.type.family in ("int", "numeric", "boolean") else _text(str(item.value))
    return f"CAST({value} AS {sql_type(item.type)})"
