"""A tree as Narwhals runs it: what somebody would write in a star function by hand."""

from collections.abc import Mapping
from typing import Any

import narwhals as nw

from etl_assets_tests.law import trees
from etl_assets_tests.law.trees import Column, Expression, Literal, Relation, Total, Type


def run(tree: Relation, inputs: Mapping[str, Any]) -> Any:
    """The lazy frame that a tree gives for lazy frames."""
    if isinstance(tree, trees.Input):
        return inputs[tree.name]
    if isinstance(tree, trees.Select):
        return run(tree.of, inputs).select(*(expression(item).alias(name) for name, item in tree.items))
    if isinstance(tree, trees.Filter):
        return run(tree.of, inputs).filter(expression(tree.condition))
    if isinstance(tree, trees.Join):
        return _join(tree, run(tree.left, inputs), run(tree.right, inputs))
    if isinstance(tree, trees.Union):
        return nw.concat([run(part, inputs) for part in tree.parts], how="vertical")
    if isinstance(tree, trees.Group):
        return run(tree.of, inputs).group_by(*tree.by).agg(*(_total(t).alias(t.name) for t in tree.totals))
    if isinstance(tree, trees.Window):
        return run(tree.of, inputs).with_columns(*(_over(t).alias(t.name) for t in tree.totals))
    if isinstance(tree, trees.Explode):
        parts = nw.col(tree.column).str.split(tree.separator).alias(tree.name)
        return run(tree.of, inputs).with_columns(parts).explode(tree.name)
    return run(tree.of, inputs).unique()


def _join(tree: trees.Join, left: Any, right: Any) -> Any:
    if tree.how == "cross":
        return left.join(right, how="cross")
    on = {"left_on": [pair[0] for pair in tree.on], "right_on": [pair[1] for pair in tree.on]}
    return left.join(right, how=tree.how, **on)


def _total(total: Total) -> nw.Expr:
    if total.kind == "len":
        return nw.len().cast(narwhals_type(total.type))
    found: nw.Expr = getattr(nw.col(total.column), total.kind)()
    return found if total.kind in ("min", "max") else found.cast(narwhals_type(total.type))


def _over(total: Total) -> nw.Expr:
    if total.kind == "rank":
        ranked = nw.col(total.column).rank("ordinal")
        return ranked.over(*total.partition) if total.partition else ranked
    found = nw.len() if total.kind == "len" else getattr(nw.col(total.column), total.kind)()
    found = found.over(*total.partition) if total.partition else found
    return found if total.kind in ("min", "max") else found.cast(narwhals_type(total.type))


def expression(item: Expression) -> nw.Expr:
    if isinstance(item, Column):
        return nw.col(item.name)
    if isinstance(item, Literal):
        made = nw.lit(item.value)
        return (
            made
            if item.value is not None and item.type.base == "text"
            else made.cast(narwhals_type(item.type))
        )
    a, *others = map(expression, item.arguments)
    b, c = (*others, a, a)[:2]
    match item.operation:
        case "add":
            return (_wide(a, item.type) + _wide(b, item.type)).cast(narwhals_type(item.type))
        case "subtract":
            return (_wide(a, item.type) - _wide(b, item.type)).cast(narwhals_type(item.type))
        case "multiply" if item.type.family == "numeric":
            return a.cast(nw.Decimal(19, 2)) * b.cast(nw.Decimal(19, 2))
        case "multiply":
            return _wide(a, item.type) * _wide(b, item.type)
        case "coalesce":
            return nw.coalesce(a, *others)
        case "case":
            return nw.when(a).then(b).otherwise(c)
        case "concat":
            return nw.concat_str([a.cast(nw.String), b.cast(nw.String)], separator=item.option)
        case "cast":
            return a.cast(narwhals_type(item.type))
        case "len_chars":
            return a.str.len_chars().cast(narwhals_type(item.type))
        case "year" | "month" | "day" | "hour" as part:
            taken: nw.Expr = getattr(a.dt, part)()
            return taken.cast(narwhals_type(item.type))
        case "date":
            return a.dt.date()
        case "is_null":
            return a.is_null()
        case "not":
            return ~a
        case "and":
            return a & b
        case "or":
            return a | b
        case "eq":
            return a == b
        case "ne":
            return a != b
        case "lt":
            return a < b
        case "ge":
            return a >= b
    raise NotImplementedError(item.operation)


def _wide(operand: nw.Expr, type_: Type) -> nw.Expr:
    """An operand in the type of the result, so that nothing overflows on the way."""
    return operand.cast(narwhals_type(type_))


def narwhals_type(type_: Type) -> Any:
    if type_.base.startswith("numeric"):
        precision, scale = type_.base.removeprefix("numeric(").removesuffix(")").split(",")
        return nw.Decimal(int(precision), int(scale))
    return {
        "int": nw.Int32,
        "bigint": nw.Int64,
        "text": nw.String,
        "date": nw.Date,
        "boolean": nw.Boolean,
        "timestamp": nw.Datetime,
    }[type_.base]
