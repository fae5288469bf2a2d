"""What a run is told: parameters with a type and a default. SQL gets them as bound values, paths and tables as checked names.

Nothing here pastes a value into SQL. Where a value becomes a part of a name (a file, a key of a bucket, a table), it is made
of letters, digits and a few signs, or refused.
"""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Literal

from etl_assets.engine.location import caller
from etl_assets.engine.types import Type
from etl_assets.errors import EtlError

Value = str | int | float | bool | Decimal | dt.date | dt.datetime | None
_TYPES = ("text", "int", "bigint", "double", "boolean", "date", "timestamp")
_INTEGERS = {"int": 31, "bigint": 63}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[\w=+@-][\w=+@. -]{0,200}")
_EVERY = ("day", "week", "month")
_LONGEST_SHOWN = 60


class ParameterError(EtlError):
    """A parameter has a value that it can't have."""


@dataclass(frozen=True)
class Parameter:
    """A value that a run is given, in the launchpad or by `etl steps`.

    `type`: text, int, bigint, double, numeric(p,s), boolean, date or timestamp; with `?` behind it the value may be left out,
    and is NULL then. Without `?` and without a `default` each run must say it. `one_of`: the texts that it may be.
    `partition`: it is not said but follows from the run's partition: `key`, or `begin` and `end` of a day, week or month (the
    end is the first day after it).
    """

    name: str
    type: str
    description: str = ""
    default: Value = None
    one_of: Sequence[str] = ()
    partition: Literal["", "key", "begin", "end"] = ""
    where: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", caller(1))
        if not self.name.isidentifier() or not self.name.isascii():
            raise ValueError(f"{self.name!r} can't name a parameter: write a word of letters, digits and _")
        if self.kind.name not in _TYPES and not self.kind.name.startswith("numeric("):
            raise ValueError(f"{self.name}: a parameter is {', '.join(_TYPES)} or numeric(p,s)")
        if self.partition not in ("", "key", "begin", "end"):
            raise ValueError(f"{self.name}: partition is key, begin or end, not {self.partition!r}")
        wanted = {"key": "text", "begin": "date", "end": "date"}.get(self.partition)
        if wanted and self.type != wanted:
            raise ValueError(f"{self.name}: the {self.partition} of a partition is a {wanted}")
        if self.one_of and self.kind.name != "text":
            raise ValueError(f"{self.name}: one_of is for texts")
        if self.default is not None:
            object.__setattr__(self, "default", self.read(self.default))

    @cached_property
    def kind(self) -> Type:
        return Type(self.type)

    @property
    def is_required(self) -> bool:
        """Whether each run must say it."""
        return self.default is None and not self.kind.nullable and not self.partition

    def read(self, value: object) -> Value:
        """A value as its type. Raises `ParameterError` for one that it can't have."""
        if value is None:
            if not self.kind.nullable:
                raise ParameterError(f"parameter {self.name}: it has no value: say one")
            return None
        try:
            read = _read(self.kind, value)
        except (ValueError, InvalidOperation, OverflowError):
            shown = repr(value)
            cut = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
            raise ParameterError(
                f"parameter {self.name}: {cut} is no {self.kind.name}{_FORMS.get(self.kind.name, '')}"
            ) from None
        if self.one_of and read not in self.one_of:
            raise ParameterError(f"parameter {self.name}: it is one of {', '.join(self.one_of)}")
        return read


_FORMS = {
    "date": ": write YYYY-MM-DD",
    "timestamp": ": write YYYY-MM-DD HH:MM:SS",
    "boolean": ": write true or false",
}


def _read(kind: Type, value: object) -> Value:
    name = kind.name
    if name == "text":
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        return value
    if name in _INTEGERS:
        if isinstance(value, bool | float):
            raise ValueError
        number = int(str(value))
        if not -(1 << _INTEGERS[name]) <= number < 1 << _INTEGERS[name]:
            raise OverflowError
        return number
    if name == "boolean":
        if isinstance(value, bool):
            return value
        return (
            {"true": True, "false": False}[str(value).lower()]
            if str(value).lower() in {"true", "false"}
            else _no()
        )
    if name == "double":
        return float(str(value))
    if name == "date":
        return value if type(value) is dt.date else _date(str(value))
    if name == "timestamp":
        return value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(str(value))
    return _decimal(kind, value)


def _no() -> bool:
    raise ValueError


def _date(text: str) -> dt.date:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise ValueError
    return dt.date.fromisoformat(text)


def _decimal(kind: Type, value: object) -> Decimal:
    precision, scale = (int(n) for n in re.findall(r"\d+", kind.name))
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError
    exact = number.quantize(Decimal(1).scaleb(-scale))
    if exact != number or len(exact.as_tuple().digits) > precision:
        raise ValueError
    return exact


# -- partitions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partitions:
    """What a group of steps is divided into: each day, week or month from `start` on, or `keys`. A week begins on a Monday."""

    every: Literal["", "day", "week", "month"] = ""
    start: str = ""
    keys: Sequence[str] = ()

    def __post_init__(self) -> None:
        if bool(self.every) == bool(self.keys):
            raise ValueError('write Partitions(every="month", start="2025-01-01"), or Partitions(keys=[…])')
        if self.every and self.every not in _EVERY:
            raise ValueError(f"partitions are every {', '.join(_EVERY)}, not {self.every!r}")
        if self.every:
            try:
                _date(self.start)
            except ValueError:
                raise ValueError(f"start={self.start!r} is no date: write YYYY-MM-DD") from None
        for key in self.keys:
            checked(key, "a partition")


@dataclass(frozen=True)
class Part:
    """The partition of a run: its key, and the days that it begins with and ends before; None for one of `keys`."""

    key: str
    begin: dt.date | None = None
    end: dt.date | None = None


def values(
    parameters: Sequence[Parameter], given: Mapping[str, object], part: Part | None
) -> dict[str, Value]:
    """The value of each parameter: what is given, NULL too, else its default; those that follow from the partition from there.
    Raises `ParameterError` that names all that are wrong."""
    found: dict[str, Value] = {}
    wrong = []
    for one in parameters:
        try:
            if one.partition:
                found[one.name] = one.read(getattr(part, one.partition) if part else None)
            else:
                found[one.name] = one.read(given.get(one.name, one.default))
        except ParameterError as error:
            wrong.append(str(error))
    if wrong:
        raise ParameterError("; ".join(wrong))
    return found


# -- names -------------------------------------------------------------------------------------------------------------


def placeholders(template: str) -> list[str]:
    """The parameters that a template names in braces. Raises `ValueError` for a brace that stands alone."""
    found = _PLACEHOLDER.findall(template)
    if set(_PLACEHOLDER.sub("", template)) & set("{}"):
        raise ValueError(f"{template!r} has a brace that stands alone: write {{parameter}}")
    return found


def named(template: str, known: Mapping[str, Value]) -> str:
    """A template with values in the place of `{parameter}`, each a checked part of a name. Raises `ParameterError`."""
    return _PLACEHOLDER.sub(lambda found: checked(known[found[1]], f"parameter {found[1]}"), template)


def told(template: str, known: Mapping[str, Value]) -> str:
    """A template for people with values in the place of `{parameter}`, as they are."""
    return _PLACEHOLDER.sub(lambda found: _shown(known[found[1]]), template)


def checked(value: Value, what: str) -> str:
    """A value as part of a name: it leads nowhere else. Raises `ParameterError`."""
    text = _shown(value)
    if not _NAME.fullmatch(text) or text != text.strip() or ".." in text:
        raise ParameterError(
            f"{what}: {text[:_LONGEST_SHOWN]!r} can't be part of a name: letters, digits, and . _ = + @ - within can"
        )
    return text


def _shown(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        zone = "Z" if value.tzinfo else ""  # one instant, one name
        at = value.astimezone(dt.UTC) if value.tzinfo else value
        return f"{at:%Y-%m-%dT%H%M%S}{f'.{at:%f}' if at.microsecond else ''}{zone}"
    return str(value).lower() if isinstance(value, bool) else str(value)
