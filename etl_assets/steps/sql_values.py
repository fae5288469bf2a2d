"""Values of frames and parameters as databases hold them, and rows of databases as frames.

What a database would keep as something else without a word (a number of fewer digits, another instant, NULL for NaN) is
brought to what it holds, or refused. `dialect`: a database as SQLAlchemy calls it.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql

from etl_assets.steps.parameters import Parameter, Value
from etl_assets.steps.sessions import SessionError

_PLAIN = (str, bytes, bool, int, float, Decimal, date, datetime, time, timedelta, list)
_MIXED = ({date, datetime}, {str, bytes})
"""What Arrow would bring to one type: a text to its bytes, a moment to its day."""
_MYSQLS = ("mysql", "mariadb")
_WITHOUT_ZONES = {"sqlite", *_MYSQLS}
_FINITE_ONLY = {*_MYSQLS, "mssql"}
_LARGEST = 2**63 - 1
_LONGEST_SHOWN = 60
_MOST_DIGITS = {"mysql": 65, "mariadb": 65, "mssql": 38}


# -- a name ------------------------------------------------------------------------------------------------------------


def refuse_names(names: Iterable[str], dialect: str) -> None:
    """Raises `SessionError` for a name of a table or a column that a database has not, or would cut without a word."""
    for name in names:
        shown = repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…")
        if not name or "\0" in name or (dialect in _MYSQLS and name != name.rstrip()):
            raise SessionError(f"no table and no column can be called {shown}: give it another name")
        size, most, kind = (
            (len(name.encode()), 63, "bytes") if dialect == "postgresql" else (len(name), 64, "characters")
        )
        if dialect in {"postgresql", *_MYSQLS} and size > most:
            raise SessionError(
                f"no table and no column can be called {shown}: it has {size} {kind}, and the database keeps {most}; give it a "
                "shorter name"
            )


# -- a frame's column --------------------------------------------------------------------------------------------------


def storable(frame: pa.Table, dialect: str) -> pa.Table:
    """A frame in types that a database has. Raises `SessionError` that names a column whose values it can't hold."""
    for n, one in enumerate(frame.schema):
        try:
            column = _stored(one.name, frame.column(n), dialect)
        except pa.ArrowException:
            raise SessionError(
                f"column {one.name} has values that no database holds: bring them to a text first"
            ) from None
        frame = frame.set_column(n, one.name, column)
    return frame


def _stored(name: str, column: pa.ChunkedArray, dialect: str) -> pa.ChunkedArray:
    column = _simple(column)
    kind = column.type
    if pa.types.is_floating(kind):
        _refuse_no_numbers(name, column, dialect)
    elif pa.types.is_timestamp(kind):
        column = _microseconds(name, column, pa.timestamp("us", kind.tz))
        if kind.tz and dialect in _WITHOUT_ZONES:
            column = pc.cast(column, pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    elif pa.types.is_time64(kind):
        column = _microseconds(name, column, pa.time64("us"))
    elif dialect == "sqlite" and pa.types.is_uint64(kind):
        if (pc.max(column).as_py() or 0) > _LARGEST:
            raise SessionError(
                f"column {name} has whole numbers above {_LARGEST}, which SQLite does not hold: bring them to a text first"
            )
        column = pc.cast(column, pa.int64())
    elif pa.types.is_decimal(kind) and kind.precision > (most := _MOST_DIGITS.get(dialect, kind.precision)):
        raise SessionError(
            f"column {name} is a decimal of {kind.precision} digits, and this database has at most {most}: CAST it first"
        )
    elif dialect == "sqlite" and pa.types.is_decimal(kind):
        column = pc.cast(column, pa.string())
    elif dialect == "postgresql" and _is_text(kind) and pc.any(pc.match_substring(column, "\0")).as_py():
        raise SessionError(
            f"column {name} has a text with the character 0, which PostgreSQL does not hold: take it out"
        )
    return column


def _simple(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in one of the types that a value has one of."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_string_view(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind):
        return pc.cast(column, pa.binary())
    if pa.types.is_decimal(kind) and kind.scale < 0:
        return pc.cast(column, pa.decimal256(kind.precision - kind.scale, 0))
    return pc.cast(column, pa.float32()) if pa.types.is_float16(kind) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _refuse_no_numbers(name: str, column: pa.ChunkedArray, dialect: str) -> None:
    if dialect in {"sqlite", *_FINITE_ONLY} and pc.any(pc.is_nan(column)).as_py():
        raise SessionError(f"column {name} has NaN, which this database does not hold: make it NULL first")
    if dialect in _FINITE_ONLY and pc.any(pc.is_inf(column)).as_py():
        raise SessionError(f"column {name} has infinity, which this database does not hold")


def _microseconds(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Times as databases have them. Raises `SessionError` for one that is finer."""
    try:
        return pc.cast(column, kind)
    except pa.ArrowInvalid:
        raise SessionError(
            f"column {name} has times with fractions of a microsecond, which no database holds: round them first"
        ) from None


_TYPES: Sequence[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], sa.types.TypeEngine[Any]]]] = (
    (pa.types.is_boolean, lambda _: sa.Boolean()),
    (pa.types.is_uint64, lambda _: sa.Numeric(20, 0)),
    (lambda kind: pa.types.is_int64(kind) or pa.types.is_uint32(kind), lambda _: sa.BigInteger()),
    (pa.types.is_integer, lambda _: sa.Integer()),
    (pa.types.is_floating, lambda _: sa.Double()),
    (pa.types.is_decimal, lambda kind: sa.Numeric(kind.precision, kind.scale)),
    (pa.types.is_date, lambda _: sa.Date()),
    (pa.types.is_timestamp, lambda kind: _instant(has_zone=kind.tz is not None)),
    (pa.types.is_time, lambda _: sa.Time().with_variant(mysql.TIME(fsp=6), *_MYSQLS)),
    (
        lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
        lambda _: (
            sa.LargeBinary()
            .with_variant(mysql.LONGBLOB(), *_MYSQLS)
            .with_variant(mssql.VARBINARY("max"), "mssql")  # type: ignore[no-untyped-call]
        ),
    ),
    (
        _is_text,
        lambda _: (
            sa.Text()
            .with_variant(mysql.LONGTEXT(charset="utf8mb4"), *_MYSQLS)
            .with_variant(mssql.NVARCHAR(), "mssql")
        ),
    ),
)


def _instant(*, has_zone: bool) -> sa.types.TypeEngine[Any]:
    # SQL Server's own DATETIME has steps of 3 milliseconds.
    made = mssql.DATETIMEOFFSET if has_zone else mssql.DATETIME2
    exact: sa.types.TypeEngine[Any] = made(6)
    return (
        sa.DateTime(timezone=has_zone)
        .with_variant(mysql.DATETIME(fsp=6), *_MYSQLS)
        .with_variant(exact, "mssql")
    )


def column_type(kind: pa.DataType) -> sa.types.TypeEngine[Any]:
    """The type of a table's column that holds a frame's. Raises `SessionError`."""
    for fits, made in _TYPES:
        if fits(kind):
            return made(kind)
    raise SessionError(f"a table can't have a column of type {kind}: bring it to a text or a number first")


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as drivers take them. Raises `SessionError` for a time that they have no value for."""
    try:
        found: list[dict[str, Any]] = batch.to_pylist()
    except (OverflowError, ValueError):
        raise SessionError(
            "a column has a day or an instant before the year 1 or after 9999: bring it to a text first"
        ) from None
    return found


# -- a parameter -------------------------------------------------------------------------------------------------------


def bound(name: str, value: Value, dialect: str) -> Value:
    """The value of a parameter as a database gets it. Raises `SessionError` for one that it would change."""
    if isinstance(value, float) and not math.isfinite(value):
        if dialect in _FINITE_ONLY or (dialect == "sqlite" and math.isnan(value)):
            raise SessionError(f"parameter {name}: {value} is no number that this database holds")
    elif isinstance(value, datetime) and value.tzinfo and dialect in _WITHOUT_ZONES:
        return value.astimezone(UTC).replace(tzinfo=None)  # as frames are written there
    elif isinstance(value, Decimal) and dialect == "sqlite":
        return _number(name, value)
    return value


def _number(name: str, value: Decimal) -> int | float:
    """A decimal as one of the numbers that SQLite has."""
    if value == value.to_integral_value() and abs(value) <= _LARGEST:
        return int(value)
    if Decimal(repr(float(value))) != value:
        raise SessionError(
            f"parameter {name} has more digits than SQLite's numbers: declare it text, and compare it with texts"
        )
    return float(value)


def bound_type(parameter: Parameter, value: Value, dialect: str) -> sa.types.TypeEngine[Any]:
    """The type that a parameter has in a database."""
    name = parameter.kind.name
    if name in _BOUND_TYPES:
        return _BOUND_TYPES[name]()
    if name == "timestamp":
        return _instant(has_zone=isinstance(value, datetime) and value.tzinfo is not None)
    if dialect == "sqlite":  # SQLAlchemy would make a float of it
        return sa.types.NullType()
    precision, scale = (int(n) for n in re.findall(r"\d+", name))
    return sa.Numeric(precision, scale)


_BOUND_TYPES: dict[str, Callable[[], sa.types.TypeEngine[Any]]] = {
    "text": lambda: sa.String().with_variant(mssql.NVARCHAR(), "mssql"),
    "int": sa.BigInteger,
    "bigint": sa.BigInteger,
    "double": sa.Double,
    "boolean": sa.Boolean,
    "date": sa.Date,
}


# -- rows as a frame ---------------------------------------------------------------------------------------------------


def refuse_doubles(names: Sequence[str]) -> None:
    """Raises `SessionError` for two columns of one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SessionError(f"the query has two columns {', '.join(twice)}: give one another name (AS)")


def arrow(names: Sequence[str], rows: Sequence[Any]) -> pa.Table:
    """Rows as Arrow has them; what it has no type for is text. Raises `SessionError`."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.table({name: _column(name, values) for name, values in zip(names, columns, strict=True)})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if any(mixed <= kinds for mixed in _MIXED):
        raise _no_one_type(name, kinds)
    if datetime in kinds or not kinds <= set(_PLAIN):
        values = [_plain(value) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError):
        raise _no_one_type(name, kinds) from None


def _no_one_type(name: str, kinds: Collection[type]) -> SessionError:
    told = ", ".join(sorted(kind.__name__ for kind in kinds))
    return SessionError(f"column {name} has values that no one type holds ({told}): CAST it in the query")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC)  # those of one column may be in several zones
    return value if value is None or isinstance(value, _PLAIN) else str(value)
