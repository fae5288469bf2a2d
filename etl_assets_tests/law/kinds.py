"""Types of source columns, what they are declared as, and a few values of each: so few that everything collides."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from random import Random
from typing import Any


class Misfit:
    """What a text means that its declared type can't hold."""


@dataclass(frozen=True)
class Kind:
    """A type of the source, the type that it is declared as, and PostgreSQL's texts with what they mean."""

    source: str
    declared: str
    values: tuple[tuple[str, Any], ...]

    @cached_property
    def meaning(self) -> Mapping[str, Any]:
        return dict(self.values)

    @cached_property
    def fitting(self) -> list[str]:
        return [text for text, value in self.values if value is not Misfit]

    @cached_property
    def misfits(self) -> list[str]:
        return [text for text, value in self.values if value is Misfit]

    def few(self, rng: Random) -> "Kind":
        """The same with at most four of its values, and one that does not fit if there are such."""
        fitting = rng.sample(self.fitting, min(4, len(self.fitting)))
        chosen = {*fitting, *self.misfits[: rng.choice((1, 2))]}
        return Kind(self.source, self.declared, tuple(p for p in self.values if p[0] in chosen))


def _numbers(*texts: str) -> tuple[tuple[str, Any], ...]:
    return tuple((text, int(text)) for text in texts)


def _texts(texts: Iterable[str]) -> tuple[tuple[str, Any], ...]:
    return tuple((text, text) for text in texts)


def _amounts(*texts: str) -> tuple[tuple[str, Any], ...]:
    return tuple((text, Decimal(text)) for text in texts)


def _days(*texts: str) -> tuple[tuple[str, Any], ...]:
    return tuple((text, dt.date.fromisoformat(text)) for text in texts)


def _instants(*texts: str) -> tuple[tuple[str, Any], ...]:
    return tuple((text, dt.datetime.fromisoformat(text)) for text in texts)


def _wrong(*texts: str) -> tuple[tuple[str, Any], ...]:
    return tuple((text, Misfit) for text in texts)


AWKWARD = (
    "",
    " ",
    "a",
    "A",
    "a|",
    "|a",
    'q"q',
    "x,y",
    "line\nbreak",
    "NULL",
    "é",
    "🧾",
    "it's",
    "\\.",
    "0",
    "%",
)

INT = Kind("integer", "int", _numbers("0", "1", "2", "3", "-7", "2147483647"))
BIGINT = Kind("bigint", "bigint", _numbers("0", "1", "2", "5000000000", "-3"))
TEXT = Kind("text", "text", _texts(AWKWARD))
AMOUNT = Kind("numeric(10,2)", "numeric(10,2)", _amounts("0.00", "1.50", "-0.01", "1.10", "99999999.99"))
DAY = Kind("date", "date", _days("2024-02-29", "2024-03-01", "2023-12-31", "1999-01-01"))
FLAG = Kind("boolean", "boolean", (("t", True), ("f", False)))
INSTANT = Kind(
    "timestamp without time zone",
    "timestamp",
    _instants("2024-01-05 12:00:00.5", "2024-01-05 00:00:00", "2024-02-29 23:59:59"),
)
PLAIN = (INT, BIGINT, TEXT, AMOUNT, DAY, FLAG, INSTANT)

LOOSE = (
    Kind("text", "date", (*_days("2024-02-29", "2024-03-01"), *_wrong("soon", "2024-02-30", ""))),
    Kind("text", "int", (*_numbers("1", "2", "3"), *_wrong("1e3", " 2", "1.0"))),
    Kind("bigint", "int", (*_numbers("1", "2", "7"), *_wrong("99999999999"))),
    Kind("numeric", "numeric(10,2)", (*_amounts("1.5", "1.10", "0", "2.00"), *_wrong("1.005", "NaN"))),
    Kind("date", "date", (*_days("2024-02-29", "2024-03-01"), *_wrong("infinity"))),
    Kind(
        "timestamp without time zone", "timestamp", (*_instants("2024-01-05 12:00:00"), *_wrong("-infinity"))
    ),
    Kind("text", "boolean", (("true", True), ("false", False), *_wrong("yes"))),
)

KEYS = {
    "int": Kind("integer", "int", _numbers(*map(str, range(1, 31)), "-1", "2147483647")),
    "bigint": Kind("bigint", "bigint", _numbers(*map(str, range(1, 31)), "-1", "9000000000")),
    "text": Kind("text", "text", _texts((*AWKWARD, *"bcdefghijk"))),
}
