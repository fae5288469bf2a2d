"""Records of an answer as rows of a table: text as PostgreSQL writes it, exactly, or the record is named and kept aside.

A value is never altered: `5.0` is a whole number, `1.005` is no `numeric(10,2)`, and a time without a zone is no
`timestamptz`. What JSON has as text may be any type, in the form that ISO 8601 or JSON itself gives it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from etl_assets.apis.answers import Number
from etl_assets.apis.declaration import Api
from etl_assets.apis.paging import dig, names_of
from etl_assets.engine.types import EXACT, Type
from etl_assets.lake.manifest import SourceColumn
from etl_assets.later import Later

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Later("pyarrow")

MOST_SHOWN = 200
"""So many characters of a value stand in a report."""
_UNFIT = (ValueError, TypeError, OverflowError, InvalidOperation, RecursionError)
_MOST_DIGITS = 1_000
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK = r"([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)"
_MOMENT = re.compile(
    rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})[T ]{_CLOCK}(Z|[+-][0-9]{{2}}(?::?[0-9]{{2}})?)?", re.IGNORECASE
)
_TIME = re.compile(_CLOCK)
_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")
_BITS = {"smallint": 16, "int": 32, "bigint": 64}
_BOOLEANS = {True: "t", False: "f", "true": "t", "false": "f"}


class Misfit(Exception):
    """A value of a record that its declared type does not hold, and why. An empty column: the record as a whole."""

    def __init__(self, column: str, value: str | None, reason: str) -> None:
        super().__init__(f"{column} {reason}")
        self.column, self.value, self.reason = column, value, reason


@dataclass(frozen=True)
class Rows:
    """How records of an API become rows."""

    api: Api

    @cached_property
    def columns(self) -> tuple[SourceColumn, ...]:
        """The columns, with the types in which PostgreSQL would hold them."""
        return tuple(
            SourceColumn(name=name, type=type_.postgres, nullable=type_.nullable)
            for name, type_ in self.api.table.types.items()
        )

    @cached_property
    def amounts(self) -> tuple[int, ...]:
        """The places of the columns whose sums are compared."""
        types = self.api.table.types
        return tuple(i for i, name in enumerate(types) if types[name].is_amount and name not in self.api.key)

    @cached_property
    def _fields(self) -> list[tuple[str, tuple[str, ...], str, Callable[[Any], str], bool]]:
        found = []
        for name, type_ in self.api.table.types.items():
            path = names_of(self.api.field_of(name))
            found.append((name, path, path[0] if len(path) == 1 else "", self._writers[name], type_.nullable))
        return found

    @cached_property
    def _writers(self) -> dict[str, Callable[[Any], str]]:
        return {name: _writer(type_) for name, type_ in self.api.table.types.items()}

    def row(self, record: Any) -> list[str | None]:
        """A record as a row. Raises `Misfit`."""
        if not isinstance(record, Mapping):
            raise Misfit("", _shown(record), "is no record")
        row: list[str | None] = []
        for name, path, alone, write, nullable in self._fields:
            value = record.get(alone) if alone else dig(record, path)
            if value is None:
                if not nullable:
                    what = "is NULL" if not alone or alone in record else "is missing"
                    raise Misfit(name, None, f"{what}, and must have a value")
                row.append(None)
                continue
            try:
                row.append(write(value))
            except _UNFIT:
                raise Misfit(name, _shown(value), f"is no {self.api.table.types[name].name}") from None
        return row

    def key(self, record: Any) -> str:
        """The key of a record that is kept aside, as far as it has one: parts with commas between. Empty if it has none."""
        parts = [dig(record, self.api.field_of(name)) for name in self.api.key]
        if any(part is None or isinstance(part, dict | list) for part in parts):
            return ""
        texts = [self._as_row(name, part) for name, part in zip(self.api.key, parts, strict=True)]
        if len(texts) > 1:
            texts = ['"' + t.replace('"', '""') + '"' if set(t) & set(',"') else t for t in texts]
        return ",".join(texts)

    def _as_row(self, name: str, value: Any) -> str:
        """A value as a row has it, or as a report has it if it fits none."""
        try:
            return self._writers[name](value)[:MOST_SHOWN]
        except _UNFIT:
            return _shown(value) or ""

    def unknown(self, record: Any) -> set[str]:
        """The fields of a record that nothing is declared for."""
        known = {names_of(self.api.field_of(name))[0] for name in self.api.columns}
        return set(record) - known if isinstance(record, Mapping) else set()


def _shown(value: Any) -> str | None:
    """A value as a report has it."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")[:MOST_SHOWN]


def _writer(type_: Type) -> Callable[[Any], str]:
    """What writes a value of a type, or raises."""
    name = type_.name
    if name in _BITS:
        bits = _BITS[name]
        return lambda value: _whole(value, bits)
    if pa.types.is_decimal(type_.arrow):
        precision, scale = type_.arrow.precision, type_.arrow.scale
        return lambda value: _decimal(value, precision, scale)
    return _WRITERS.get(name, _text)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    if not text and not isinstance(value, str):
        raise TypeError("neither text nor a number")
    text.encode()  # half of a surrogate pair is no text
    if "\0" in text:
        raise ValueError("PostgreSQL's text has no NUL")
    return str(text)


def _exact(value: Any) -> Decimal:
    """The number that a value is."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("no number")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError("no number")
    number = EXACT.create_decimal(value)
    if abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return number


def _whole(value: Any, bits: int) -> str:
    if type(value) is not int:
        number = _exact(value)
        value = int(number)
        if value != number:
            raise ValueError("no whole number")
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise OverflowError
    return str(value)


def _decimal(value: Any, precision: int, scale: int) -> str:
    number = _exact(value)
    exact = EXACT.quantize(number, Decimal(1).scaleb(-scale))
    if exact != number or (exact and exact.adjusted() >= precision - scale):
        raise ValueError("too many digits")
    return format(exact if exact else abs(exact), "f")  # there is no -0


def _numeric(value: Any) -> str:
    number = _exact(value)
    return format(number if number else abs(number), "f")


def _boolean(value: Any) -> str:
    if isinstance(value, bool) or value in ("true", "false"):
        return _BOOLEANS[value]
    raise ValueError("neither true nor false")


def _float(value: Any) -> float:
    number = float(_exact(value))
    if number in (float("inf"), float("-inf")):
        raise OverflowError
    return number


def _double(value: Any) -> str:
    return repr(_float(value))


def _real(value: Any) -> str:
    narrow = pa.scalar(_float(value), pa.float32())
    if narrow.as_py() in (float("inf"), float("-inf")):
        raise OverflowError
    return str(narrow.cast(pa.string()).as_py())


def _date(value: Any) -> str:
    if not _DAY.fullmatch(value):
        raise ValueError("no day")
    return date.fromisoformat(value).isoformat()


def _clock(text: str) -> time:
    hours, _, behind = text.partition(".")
    if behind.strip("0") and len(behind.rstrip("0")) > 6:
        raise ValueError("finer than a microsecond")
    return time.fromisoformat(hours).replace(microsecond=int(behind[:6].ljust(6, "0")))


def _time_of_day(value: Any) -> str:
    if not _TIME.fullmatch(value):
        raise ValueError("no time of day")
    return _clock(value).isoformat()


def _moment(value: Any, *, zone: bool) -> str:
    found = _MOMENT.fullmatch(value)
    if not found or bool(found[3]) is not zone:
        raise ValueError("no time, or with a zone where there should be none, or without")
    moment = datetime.combine(date.fromisoformat(found[1]), _clock(found[2]))
    if not zone:
        return str(moment)
    offset = found[3].upper().replace("Z", "+00:00")
    zoned = datetime.fromisoformat(moment.isoformat() + (offset if len(offset) != 3 else f"{offset}:00"))
    return f"{zoned.astimezone(UTC).replace(tzinfo=None)}+00"


def _uuid(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return str(UUID(value))


def _json(value: Any) -> str:
    """JSON as it was written, but for the blanks."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("no name")
        return (
            "{"
            + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_json(v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _json_text(value: Any) -> str:
    text = _json(value)
    text.encode()
    if _NUL.search(text):
        raise ValueError("PostgreSQL's text has no NUL")
    return text


_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "numeric": _numeric,
    "boolean": _boolean,
    "double": _double,
    "real": _real,
    "date": _date,
    "time": _time_of_day,
    "timestamp": lambda value: _moment(value, zone=False),
    "timestamptz": lambda value: _moment(value, zone=True),
    "uuid": _uuid,
    "json": _json_text,
    "jsonb": _json_text,
}
