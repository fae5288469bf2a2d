"""Whether a table that is there holds the values of a frame as they are. Databases round what is too fine for a column, and cut
times off days, without a word; what is too large, or of another kind, they refuse themselves."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from etl_assets.steps.sessions import would_alter

Column = sa.types.TypeEngine[Any]
_FINEST = 6  # digits of a second


def refuse_rounding(frame: pa.Table, columns: Mapping[str, Column], dialect: str) -> None:
    """Raises `SessionError` that names a column of a table whose type would alter values of a frame. `dialect`: the database, as
    SQLAlchemy calls it."""
    by_letter = {name.lower(): kind for name, kind in columns.items()}
    for field in frame.schema:
        kind = columns.get(field.name, by_letter.get(field.name.lower()))
        alters = None if kind is None else _altered_by(field.type, kind, dialect)
        if alters and any(alters(value) for value in _values(frame.column(field.name))):
            raise would_alter(field.name, repr(kind))


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return [value for value in column.unique().to_pylist() if value is not None]
    except (OverflowError, ValueError):  # a time that no driver has a value for: it is refused as such
        return []


def _altered_by(source: pa.DataType, target: Column, dialect: str) -> Callable[[Any], bool] | None:
    """Whether a value would come back as another one; None where none does."""
    fraction = pa.types.is_floating(source) or pa.types.is_decimal(source)
    if dialect == "sqlite":
        # It keeps what it is given, but makes a number of the text of a decimal, and doubles of integers.
        decimals = pa.types.is_decimal(source) and isinstance(target, sa.Numeric | sa.Integer)
        integers = pa.types.is_integer(source) and isinstance(target, sa.Float)
        return _is_no_double if decimals or integers else None
    if isinstance(target, sa.Float):
        narrow = isinstance(target, sa.REAL | mysql.FLOAT)
        number = fraction or pa.types.is_integer(source)
        return (_is_no_single if narrow else _is_no_double) if number else None
    if isinstance(target, sa.Numeric):
        scale = target.scale
        return (lambda value: _is_finer(value, scale)) if fraction and scale is not None else None
    if isinstance(target, sa.Integer):
        return (lambda value: _is_finer(value, 0)) if fraction else None
    if pa.types.is_timestamp(source):
        return _altered_instant(source, target, dialect)
    if pa.types.is_time(source) and isinstance(target, sa.Time):
        return _finer_than(_digits(target, dialect))
    return None


def _altered_instant(source: pa.DataType, target: Column, dialect: str) -> Callable[[Any], bool] | None:
    if isinstance(target, sa.Date):
        return lambda value: bool(value.hour or value.minute or value.second or value.microsecond)
    if isinstance(target, sa.Time):
        return lambda _: True
    if not isinstance(target, sa.DateTime):
        return None
    if dialect == "postgresql" and target.timezone is not (source.tz is not None):
        return lambda _: True  # it would be taken for one of the session's zone
    return _finer_than(_digits(target, dialect))


def _digits(target: Column, dialect: str) -> int:
    """How many digits of a second a column has."""
    if dialect in {"mysql", "mariadb"}:
        return getattr(target, "fsp", None) or 0
    found = getattr(target, "precision", None)
    return _FINEST if found is None else int(found)


def _finer_than(digits: int) -> Callable[[Any], bool]:
    return lambda value: bool(value.microsecond % 10 ** (_FINEST - min(digits, _FINEST)))


def _is_finer(value: float | Decimal, scale: int) -> bool:
    number = Decimal(repr(value)) if isinstance(value, float) else value
    return number.is_finite() and number != round(number, scale)


def _is_no_double(value: float | Decimal) -> bool:
    return isinstance(value, int | Decimal) and Decimal(repr(float(value))) != value


def _is_no_single(value: float | Decimal) -> bool:
    return Decimal(repr(pa.scalar(float(value), pa.float32()).as_py())) != Decimal(value)
