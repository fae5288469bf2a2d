"""What a tree gives, computed in Python row by row: SQL's rules, written from the standard and nothing of the engine."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

from etl_assets_tests.law import trees
from etl_assets_tests.law.trees import Call, Column, Expression, Literal, Relation, Total

Values = dict[str, Any]
_EXACT = Context(prec=60)


def interpret(tree: Relation, inputs: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Values]:
    """The rows that a tree gives for the rows of its inputs."""
    return _RELATIONS[type(tree)](tree, inputs)


# -- expressions -------------------------------------------------------------------------------------------------


def value(expression: Expression, row: Values) -> Any:
    if isinstance(expression, Column):
        return row[expression.name]
    if isinstance(expression, Literal):
        return expression.value
    if expression.operation in _LAZY:
        return _LAZY[expression.operation](expression, row)
    arguments = [value(argument, row) for argument in expression.arguments]
    if None in arguments:
        return None
    return _STRICT[expression.operation](*arguments, *([expression.option] if expression.option else []))


def _coalesce(call: Call, row: Values) -> Any:
    return next((v for v in (value(a, row) for a in call.arguments) if v is not None), None)


def _case(call: Call, row: Values) -> Any:
    condition, then, otherwise = call.arguments
    return value(then if value(condition, row) is True else otherwise, row)


def _and(call: Call, row: Values) -> bool | None:
    found = [value(argument, row) for argument in call.arguments]
    return False if False in found else None if None in found else True


def _or(call: Call, row: Values) -> bool | None:
    found = [value(argument, row) for argument in call.arguments]
    return True if True in found else None if None in found else False


_LAZY: dict[str, Callable[[Call, Values], Any]] = {
    "coalesce": _coalesce,
    "case": _case,
    "and": _and,
    "or": _or,
    "is_null": lambda call, row: value(call.arguments[0], row) is None,
}


def _text(operand: Any) -> str:
    """An integer or a text as text."""
    assert isinstance(operand, int | str), operand
    assert not isinstance(operand, bool)
    return str(operand)


def _number(operand: Any, type_: str) -> Any:
    return str(operand) if type_ == "text" else int(operand)


_STRICT: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: _EXACT.add(a, b) if isinstance(a, Decimal) else a + b,
    "subtract": lambda a, b: _EXACT.subtract(a, b) if isinstance(a, Decimal) else a - b,
    # A decimal of Python's may be -0.00; SQL knows one zero.
    "multiply": lambda a, b: _EXACT.plus(_EXACT.multiply(a, b)) if isinstance(a, Decimal) else a * b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "ge": lambda a, b: a >= b,
    "not": lambda a: not a,
    "concat": lambda a, b, separator: _text(a) + separator + _text(b),
    "cast": _number,
    "len_chars": len,
    "year": lambda day: day.year,
    "month": lambda day: day.month,
    "day": lambda day: day.day,
    "hour": lambda instant: instant.hour,
    "date": lambda instant: instant.date(),
}


# -- relations ---------------------------------------------------------------------------------------------------


def _input(tree: trees.Input, inputs: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Values]:
    return [{name: row[name] for name, _ in tree.given} for row in inputs[tree.name]]


def _select(tree: trees.Select, inputs: Any) -> list[Values]:
    return [{name: value(item, row) for name, item in tree.items} for row in interpret(tree.of, inputs)]


def _filter(tree: trees.Filter, inputs: Any) -> list[Values]:
    return [row for row in interpret(tree.of, inputs) if value(tree.condition, row) is True]


def _join(tree: trees.Join, inputs: Any) -> list[Values]:
    left, right = interpret(tree.left, inputs), interpret(tree.right, inputs)
    by_key: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, row in enumerate(right):
        by_key[tuple(row[name] for _, name in tree.on)].append(place)

    def found(row: Values) -> list[int]:
        key = tuple(row[name] for name, _ in tree.on)
        return [] if None in key else by_key.get(key, [])  # NULL equals nothing, not even NULL

    matches = [found(row) for row in left]
    if tree.how in ("semi", "anti"):
        return [
            row for row, places in zip(left, matches, strict=True) if bool(places) == (tree.how == "semi")
        ]
    rows = []
    for row, places in zip(left, matches, strict=True):
        rows += [{**row, **{name: right[place][name] for name in tree.added}} for place in places]
        if not places and tree.how in ("left", "full"):
            rows.append({**row, **dict.fromkeys(tree.added)})
    if tree.how == "full":
        met = {place for places in matches for place in places}
        lone = [row for place, row in enumerate(right) if place not in met]
        rows += [{**dict.fromkeys(tree.left.types), **row} for row in lone]
    return rows


def _union(tree: trees.Union, inputs: Any) -> list[Values]:
    return [row for part in tree.parts for row in interpret(part, inputs)]


def _group(tree: trees.Group, inputs: Any) -> list[Values]:
    groups = _grouped(interpret(tree.of, inputs), tree.by)
    return [
        {**dict(zip(tree.by, key, strict=True)), **{t.name: total(t, rows) for t in tree.totals}}
        for key, rows in groups.items()
    ]


def _window(tree: trees.Window, inputs: Any) -> list[Values]:
    rows = interpret(tree.of, inputs)
    found = [dict(row) for row in rows]
    for asked in tree.totals:
        groups = _grouped(rows, asked.partition)
        for row, result in zip(rows, found, strict=True):
            group = groups[tuple(row[name] for name in asked.partition)]
            if asked.kind == "rank":
                result[asked.name] = 1 + sum(other[asked.column] < row[asked.column] for other in group)
            else:
                result[asked.name] = total(asked, group)
    return found


def _grouped(rows: Sequence[Values], by: Sequence[str]) -> dict[tuple[Any, ...], list[Values]]:
    """Rows by the values of columns; NULL is a value like others here."""
    groups: dict[tuple[Any, ...], list[Values]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    return groups


def total(asked: Total, rows: Sequence[Values]) -> Any:
    """A number for rows. As Narwhals has it, the sum of nothing is 0, and NULL counts as one of the distinct values."""
    if asked.kind == "len":
        return len(rows)
    values = [row[asked.column] for row in rows]
    known = [v for v in values if v is not None]
    if asked.kind == "n_unique":
        return len(set(values))
    if asked.kind == "count":
        return len(known)
    if asked.kind == "sum":
        return sum(known, Decimal(0)) if asked.type.family == "numeric" else sum(known)
    return {"min": min, "max": max}[asked.kind](known, default=None)


def _distinct(tree: trees.Distinct, inputs: Any) -> list[Values]:
    rows = interpret(tree.of, inputs)
    return list({tuple(row.items()): row for row in rows}.values())


def _explode(tree: trees.Explode, inputs: Any) -> list[Values]:
    rows = []
    for row in interpret(tree.of, inputs):
        text = row[tree.column]
        rows += [{**row, tree.name: p} for p in ([None] if text is None else text.split(tree.separator))]
    return rows


_RELATIONS: dict[type, Callable[..., list[Values]]] = {
    trees.Input: _input,
    trees.Select: _select,
    trees.Filter: _filter,
    trees.Join: _join,
    trees.Union: _union,
    trees.Group: _group,
    trees.Window: _window,
    trees.Distinct: _distinct,
    trees.Explode: _explode,
}
