"""Rows that a change may have touched, named by the values of expressions: how these are said in terms of what is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from etl_assets.engine.operators import (
    Expression,
    Node,
    Opaque,
    Select,
    Union,
    aggregates,
    column,
    columns_of,
    substituted,
    text,
    used,
)

ROW = "t"
"""What SQL here calls a row of a table, ..."""
VALUE = "v"
"""... and a row of values by which rows are known."""


@dataclass(frozen=True)
class Touched:
    """The rows of a node that may have changed: those in which `expressions` have the values of a row of `table`
    (its columns are v0, v1, …). Unless they are the `same`, these are equal to values that the rows have, and what is
    computed of them may be another."""

    expressions: tuple[Expression, ...]
    table: str
    same: bool = True


def is_over_rows(expression: Expression) -> bool:
    """Whether an expression is computed of several rows, or gives several."""
    return aggregates(expression) or any(expression.find_all(exp.Window, exp.Explode, exp.Unnest))


def _made_of(expression: Expression, known: set[str]) -> bool:
    """Whether an expression is computed of certain expressions alone."""
    if text(expression) in known:
        return True
    if isinstance(expression, exp.Column):
        return False
    return all(
        _made_of(child, known)
        for child in expression.iter_expressions()
        if not isinstance(child, exp.DataType)
    )


def in_values(expression: Expression, touched: Touched) -> str | None:
    """The SQL of an expression in terms of the values of touched rows; None if they do not say it."""
    known = {text(e): f"v{i}" for i, e in enumerate(touched.expressions)}
    if not used(expression) and not any(expression.find_all(exp.Column)):
        return None  # a constant tells no rows apart
    if not (_made_of(expression, set(known)) if touched.same else text(expression) in known):
        return None

    def replace(node: Expression) -> Expression:
        name = known.get(text(node))
        return column(name, VALUE) if name else node

    return text(expression.copy().transform(replace))


def as_values(values: Sequence[str]) -> str:
    """Values as the columns v0, v1, … of a SELECT."""
    return ", ".join(f"{value} AS v{i}" for i, value in enumerate(values))


def of_row(expression: Expression) -> Expression:
    """An expression over the columns of a scan, as it stands in a query that calls the scan's row `t`."""

    def replace(node: Expression) -> Expression:
        return column(node.name, ROW) if isinstance(node, exp.Column) else node

    return expression.copy().transform(replace)


def same_values(touched: Touched) -> str:
    """The condition that a row `t` has the values of a row `v`; NULL is the same as NULL."""
    return " AND ".join(
        f"{text(of_row(e))} IS NOT DISTINCT FROM {VALUE}.v{i}" for i, e in enumerate(touched.expressions)
    )


def _plain(expression: Expression) -> Expression:
    """An expression without the alias by which its columns are called."""

    def replace(node: Expression) -> Expression:
        return column(node.name) if isinstance(node, exp.Column) else node

    return expression.copy().transform(replace)


def without_alias(touched: Touched) -> Touched:
    """What is touched, by expressions whose columns have no alias before them."""
    return replace(touched, expressions=tuple(_plain(e) for e in touched.expressions))


def chosen_by(touched: Touched, of: frozenset[str]) -> Touched | None:
    """What is touched, by those expressions alone that use only certain aliases."""
    at = [i for i, e in enumerate(touched.expressions) if used(e) and used(e) <= of]
    if not at:
        return None
    if len(at) == len(touched.expressions):
        return touched
    chosen = ", ".join(f"v{i} AS v{n}" for n, i in enumerate(at))
    return Touched(
        tuple(touched.expressions[i] for i in at),
        f"(SELECT DISTINCT {chosen} FROM {touched.table})",
        touched.same,
    )


def seen_below(node: Select, touched: Touched) -> Touched:
    """What is touched in what a select gives, in terms of what it reads."""
    down = [substituted(e, node.columns) for e in touched.expressions]
    at = [i for i, e in enumerate(down) if not is_over_rows(e) and used(e)]
    if not at:
        raise Opaque("what is computed of several rows")
    chosen = ", ".join(f"v{i} AS v{n}" for n, i in enumerate(at))
    return Touched(
        tuple(down[i] for i in at), f"(SELECT DISTINCT {chosen} FROM {touched.table})", touched.same
    )


def by_position(node: Union, part: Node, touched: Touched) -> Touched:
    """What is touched in what a union gives, in terms of one of its parts."""
    names = dict(zip(node.columns, columns_of(part), strict=True))
    renamed = {name: column(own) for name, own in names.items()}
    return replace(touched, expressions=tuple(substituted(e, renamed) for e in touched.expressions))
