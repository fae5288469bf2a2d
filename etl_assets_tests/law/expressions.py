"""Random expressions over typed columns: computed columns, conditions, totals."""

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from etl_assets_tests.law.trees import Call, Column, Expression, Literal, Total, Type, Types

AMOUNT = "numeric(10,2)"
_instant = dt.datetime.fromisoformat
_CONSTANTS: dict[str, Sequence[Any]] = {
    "int": (0, 1, 2, 5),
    "text": ("a", "", "x,y", "it's", "é"),
    "numeric": (Decimal("1.50"), Decimal("0.00"), Decimal("-0.01")),
    "date": (dt.date(2024, 2, 29), dt.date(1999, 1, 1)),
    "boolean": (True, False),
    "timestamp": (_instant("2024-01-05"), _instant("2024-01-05 12:00:00.5")),
}
KEYABLE = frozenset(_CONSTANTS) - {"boolean"}
"""Families of types of which a key can be made, even where values are NULL."""


def _nowhere(family: str, number: int) -> Any:
    """What stands for NULL in a key: a value that occurs nowhere, another for each number."""
    return {
        "int": -1_000_000 - number,
        "text": f"∅{number}",
        "numeric": Decimal("-99999.99") - number,
        "date": dt.date(1900, 1, 1) + dt.timedelta(days=number),
        "timestamp": _instant("1900-01-01") + dt.timedelta(days=number),
    }[family]


INT, BIGINT, TEXT, DATE, BOOLEAN = map(Type, ("int", "bigint", "text", "date", "boolean"))


def column(types: Types, name: str) -> Column:
    return Column(types[name], name)


def constant(rng: Random, type_: Type) -> Literal:
    return Literal(Type(type_.base), rng.choice(_CONSTANTS[type_.family]))


def known(item: Expression, number: int) -> Expression:
    """An expression with what stands for NULL instead of NULL."""
    if not item.type.nullable:
        return item
    nowhere = Literal(Type(item.type.base), _nowhere(item.type.family, number))
    return Call(Type(item.type.base), "coalesce", (item, nowhere))


def widened(item: Expression) -> Expression:
    """An integer as bigint, anything else as it is: what can be in a union with the like."""
    if item.type.base != "int":
        return item
    return Call(Type("bigint", item.type.nullable), "cast", (item,), "bigint")


def as_text(items: Sequence[Expression]) -> Expression | None:
    """Parts of a key as one text that only they give; None if other parts might give the same."""
    *first, last = items
    if any(item.type.family != "int" for item in first) or last.type.family not in ("int", "text"):
        return None
    text = last if last.type.base == "text" else Call(TEXT.maybe(last.type.nullable), "cast", (last,), "text")
    for item in reversed(first):
        text = Call(TEXT.maybe(text.type.nullable or item.type.nullable), "concat", (item, text), "|")
    return text


def _either(*items: Expression) -> bool:
    return any(item.type.nullable for item in items)


class Expressions:
    """Random expressions over columns."""

    def __init__(self, rng: Random, types: Types) -> None:
        self.rng = rng
        self.types = types

    def of(self, *families: str) -> list[Column]:
        return [column(self.types, n) for n, t in self.types.items() if t.family in families]

    def _or_constant(self, type_: Type, others: Sequence[Column]) -> Expression:
        """One of the columns, or a constant of a type."""
        choices: list[Expression] = [*others, constant(self.rng, type_)]
        return self.rng.choice(choices)

    def any(self, *families: str) -> Column | None:
        found = self.of(*families)
        return self.rng.choice(found) if found else None

    # -- conditions ----------------------------------------------------------------------------------------------

    def condition(self, depth: int = 1) -> Expression:
        """Something true, false or unknown of a row."""
        kind = self.rng.random()
        if depth and kind < 0.3:
            a, b = self.condition(0), self.condition(0)
            return Call(BOOLEAN.maybe(_either(a, b)), self.rng.choice(("and", "or")), (a, b))
        if depth and kind < 0.4:
            a = self.condition(0)
            return Call(BOOLEAN.maybe(a.type.nullable), "not", (a,))
        one = column(self.types, self.rng.choice(list(self.types)))
        if kind < 0.55:
            return Call(BOOLEAN, "is_null", (one,))
        if one.type.family == "boolean":
            return one
        alike = [other for other in self.of(one.type.family) if other != one and other.type == one.type]
        other = self.rng.choice(alike) if alike and self.rng.random() < 0.4 else constant(self.rng, one.type)
        operation = self.rng.choice(("eq", "ne", "ne", "lt", "ge"))
        return Call(BOOLEAN.maybe(_either(one, other)), operation, (one, other))

    # -- computed columns ----------------------------------------------------------------------------------------

    def computed(self) -> Expression:
        makers: list[Callable[[], Expression | None]] = [
            self._sum, self._sum, self._scaled, self._amount, self._text, self._length, self._part, self._day, self._case,
            self._case, self._filled, self._filled, self._flag,
        ]  # fmt: skip
        while True:
            if made := self.rng.choice(makers)():
                return made

    def _sum(self) -> Expression | None:
        if not (a := self.any("int")):
            return None
        b = self._or_constant(INT, self.of("int"))
        return Call(BIGINT.maybe(_either(a, b)), self.rng.choice(("add", "subtract")), (a, b))

    def _scaled(self) -> Expression | None:
        if not (a := self.any("int")):
            return None
        return Call(
            BIGINT.maybe(a.type.nullable), "multiply", (a, Literal(BIGINT, self.rng.choice((-1, 2, 3))))
        )

    def _amount(self) -> Expression | None:
        amounts = [c for c in self.of("numeric") if c.type.base == AMOUNT]
        if not amounts:
            return None
        a, b = self.rng.choice(amounts), self._or_constant(Type(AMOUNT), amounts)
        operation = self.rng.choice(("add", "subtract", "multiply"))
        base = "numeric(38,4)" if operation == "multiply" else "numeric(20,2)"
        return Call(Type(base, _either(a, b)), operation, (a, b))

    def _text(self) -> Expression | None:
        if not (a := self.any("text", "int")):
            return None
        b = self._or_constant(TEXT, self.of("text", "int"))
        return Call(TEXT.maybe(_either(a, b)), "concat", (a, b), self.rng.choice(("-", " ", ", ")))

    def _length(self) -> Expression | None:
        a = self.any("text")
        return a and Call(INT.maybe(a.type.nullable), "len_chars", (a,))

    def _part(self) -> Expression | None:
        if not (a := self.any("date", "timestamp")):
            return None
        names = ("year", "month", "day") if a.type.family == "date" else ("year", "month", "hour")
        return Call(INT.maybe(a.type.nullable), self.rng.choice(names), (a,))

    def _day(self) -> Expression | None:
        a = self.any("timestamp")
        return a and Call(DATE.maybe(a.type.nullable), "date", (a,))

    def _case(self) -> Expression:
        a = column(self.types, self.rng.choice(list(self.types)))
        alike = [c for c in self.of(a.type.family) if c.type.base == a.type.base]
        b = self._or_constant(a.type, alike)
        return Call(a.type.maybe(b.type.nullable), "case", (self.condition(), a, b))

    def _filled(self) -> Expression:
        a = column(self.types, self.rng.choice(list(self.types)))
        return Call(Type(a.type.base), "coalesce", (a, constant(self.rng, a.type)))

    def _flag(self) -> Expression:
        made = self.condition()
        if self.rng.random() < 0.5:
            return made
        return Call(INT.maybe(made.type.nullable), "cast", (made,), "int")

    # -- totals --------------------------------------------------------------------------------------------------

    def total(self, name: str, partition: tuple[str, ...] = ()) -> Total:
        names = list(self.types)
        # Of what was joined or computed before rather than of what was there from the start.
        names += 2 * [name for name in names if name[:1] in "rx" and name[1:2].isdecimal()]
        one = column(self.types, self.rng.choice(names))
        kinds = ["len", "count", "count", "n_unique"]
        if one.type.family in ("numeric", "int"):
            kinds += ["sum", "sum", "min", "max"]
        elif one.type.family != "boolean":
            kinds += ["min", "max"]
        kind = self.rng.choice(kinds)
        type_ = BIGINT
        if kind in ("min", "max"):
            type_ = one.type
        elif kind == "sum" and one.type.family == "numeric":
            scale = one.type.base.partition(",")[2].rstrip(")")
            type_ = Type(f"numeric(38,{scale})")
        return Total(name, kind, one.name, type_, partition)
