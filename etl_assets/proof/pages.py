"""The pages of APIs, read a second time: does the lake hold the newest version of each record that landed?

The flow writes records as PostgreSQL's text and lets DuckDB choose the newest. Here each value is compared as a value of its
declared type, and the newest is found by going through the pages in the order in which batches loaded them. What the two have
in common is the declaration, and how files of pages are laid out.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from numbers import Integral
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.apis.declaration import Api
from etl_assets.apis.takes import Take, files_of
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing, own
from etl_assets.engine.types import Type
from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import ApiState, Manifest, TakeState

_AT = own("at")
_BATCH_ROWS = 50_000
_MOST_DIGITS = 1_000
_JSON = ("json", "jsonb")
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6}0*)?)?"


def takes_loaded(api: Api, upto: Manifest, batches: Batches) -> list[TakeState]:
    """What batches up to one loaded of an API, oldest first. Of takes that brought nothing no batch tells."""
    states: list[ApiState] = [
        state for manifest in batches.changing(api.name, upto) if (state := manifest.api(api.name))
    ]
    return [take for state in reversed(states) for take in state.takes]


def newest_records(
    api: Api, upto: Manifest, batches: Batches, connection: duckdb.DuckDBPyConnection, folder: Path
) -> str:
    """A FROM clause with the newest version of each record that can be used, in the declared types. Raises `LakeError` if
    pages are not what landed."""
    types = api.table.types
    path = folder / f"pages-{abs(hash(api.name))}.parquet"
    schema = pa.schema([*(pa.field(n, t.arrow) for n, t in types.items()), pa.field(_AT, pa.int64())])
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        rows: list[list[Any]] = []
        for at, values in enumerate(_values(api, takes_loaded(api, upto, batches), batches)):
            rows.append([*values, at])
            if len(rows) == _BATCH_ROWS:
                writer.write_batch(_arrow(rows, schema))
                rows = []
        writer.write_batch(_arrow(rows, schema))
    key = listing(list(api.key))
    return (
        f"(SELECT {listing(list(types))} FROM {duck.parquet([path])} "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {identifier(_AT)} DESC) = 1)"
    )


def _arrow(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _values(api: Api, loaded: Sequence[TakeState], batches: Batches) -> Iterator[list[Any]]:
    """The values of all records that can be used, in the order in which they were loaded."""
    for one in loaded:
        take = Take(batches.files, api.name, one.window, one.take)
        summary = take.summary()
        pages: dict[int, bytes] = {}
        for file in files_of(summary, batches) if summary else ():
            for page in take.read(file):
                if not page.lost:
                    pages.setdefault(page.index, page.body)
        for index in sorted(pages):
            for record in _records(api, _answer(pages[index])):
                values = [
                    _value(type_, _found(record, api.field_of(n))) for n, type_ in api.table.types.items()
                ]
                if _UNFIT not in values:
                    yield values


def _answer(page: bytes) -> Any:
    return json.loads(page, parse_float=_Written) if page else None


def _records(api: Api, answer: Any) -> Sequence[Any]:
    if answer is None:
        return ()
    if callable(api.records):
        return [_said(record) for record in api.records(answer)]
    found = _found(answer, api.records) if api.records else answer
    return found if isinstance(found, list) else ()


def _said(value: Any) -> Any:
    """What a function gave, as the JSON of a page would say it."""
    if isinstance(value, Mapping):
        return {name: _said(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_said, value))
    if isinstance(value, Enum):
        return _said(value.value)
    if isinstance(value, float | Decimal) and not Decimal(value).is_finite():
        return value
    if isinstance(value, float):
        return _Written(float(value).__repr__())
    if isinstance(value, Decimal):
        return value if isinstance(value, _Written) else _Written(str(value))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        return value
    return int(value)


def _found(value: Any, path: str | tuple[str, ...]) -> Any:
    for name in path.split(".") if isinstance(path, str) else path:
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


class _Written(Decimal):
    """A number, and how it is written."""

    def __new__(cls, text: str) -> "_Written":
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


class _Unfit:
    """Stands for a value that its type does not hold."""


_UNFIT = _Unfit()


def _value(type_: Type, value: Any) -> Any:
    if value is None:
        return None if type_.nullable else _UNFIT
    try:
        return _typed(type_, value)
    except (ValueError, TypeError, InvalidOperation, OverflowError, pa.ArrowInvalid):
        return _UNFIT


def _typed(type_: Type, value: Any) -> Any:
    """A value of JSON as one of a declared type. Raises for what the type does not hold."""
    arrow = type_.arrow
    if pa.types.is_integer(arrow) or pa.types.is_decimal(arrow) or type_.name == "numeric":
        number = _number(value)
        if pa.types.is_integer(arrow):
            if number != number.to_integral_value():
                raise ValueError("no whole number")
            pa.scalar(int(number), arrow)
            return int(number)
        if type_.name == "numeric":
            return format(number if number else abs(number), "f")
        return pa.scalar(Decimal(number), arrow).as_py()
    if pa.types.is_floating(arrow):
        number = pa.scalar(float(_number(value)), arrow).as_py()
        if math.isinf(number):
            raise ValueError("too large")
        return number
    if pa.types.is_boolean(arrow):
        return _is_bool({"true": True, "false": False}.get(value) if isinstance(value, str) else value)
    if pa.types.is_date(arrow):
        if not re.fullmatch(_DAY, value):
            raise ValueError("no day")
        return date.fromisoformat(value)
    if pa.types.is_time(arrow):
        if not re.fullmatch(_CLOCK, value):
            raise ValueError("no time of day")
        return time.fromisoformat(value)
    if pa.types.is_timestamp(arrow):
        if not re.fullmatch(f"{_DAY}[T ]{_CLOCK}(Z|[+-][0-9]{{2}}(:?[0-9]{{2}})?)?", value, re.IGNORECASE):
            raise ValueError("no moment")
        moment = datetime.fromisoformat(value.upper())
        if (moment.tzinfo is not None) != (arrow.tz is not None):
            raise ValueError("a zone, or none")
        return moment.astimezone(UTC) if moment.tzinfo else moment
    if type_.name == "uuid":
        return str(UUID(_as_text(value)))
    if type_.name in _JSON:
        _check_json(value)
        return ""
    return _as_text(value)


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise TypeError("no number")
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?", value):
        raise ValueError("no number")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("no number")
    if abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return number


def _check_json(value: Any) -> None:
    """Raises for what PostgreSQL's JSON does not hold: a NUL, half a character, no number, what is no JSON at all."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            if not isinstance(name, str):
                raise TypeError("no name")
            _as_text(name)
            _check_json(one)
    elif isinstance(value, list):
        for one in value:
            _check_json(one)
    elif isinstance(value, int | _Written):
        if isinstance(value, _Written) and not value.is_finite():
            raise ValueError("no number")
    elif value is not None:
        _as_text(value)


def _is_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else None
    if text is None and isinstance(value, int | _Written):
        text = value.text if isinstance(value, _Written) else str(value)
    if text is None:
        raise TypeError("no text")
    text.encode()
    if "\0" in text:
        raise ValueError("NUL")
    return text


def compared(api: Api) -> list[str]:
    """The columns that are compared: of JSON, blanks and the spelling of numbers are nobody's business."""
    return [name for name, type_ in api.table.types.items() if type_.name not in _JSON]


def keys_without_page(api: Api, upto: Manifest, batches: Batches) -> list[list[str]]:
    """The keys of rows of which no page told any more when lost pages were superseded, as text."""
    keys = set[tuple[str, ...]]()
    for one in takes_loaded(api, upto, batches):
        take = Take(batches.files, api.name, one.window, one.take)
        summary = take.summary()
        for file in files_of(summary, batches) if summary else ():
            if batches.superseded() and file not in summary.files:  # type: ignore[union-attr]
                for page in take.read(file):
                    keys.update(map(tuple, json.loads(page.body)) if page.lost else ())
    return [list(key) for key in sorted(keys)]


def altered(api: Api, upto: Manifest, batches: Batches) -> Iterator[str]:
    """The windows whose pages are not those that were loaded, in words."""
    for one in takes_loaded(api, upto, batches):
        summary = Take(batches.files, api.name, one.window, one.take).summary()
        if summary is None or summary.sha256 != one.sha256:
            yield f"the pages of {one.window} are not those that were loaded"
