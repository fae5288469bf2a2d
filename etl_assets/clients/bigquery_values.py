"""What BigQuery's types are in Arrow and in Python, exactly or not at all."""

import datetime as dt
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigquery

from etl_assets import faults
from etl_assets.clients.bigquery_jobs import BigQueryError

# NUMERIC holds 29 digits before the point and 9 behind it, BIGNUMERIC 38 and 38.
_NUMERIC = (29, 9)
_BIGNUMERIC = (38, 38)

_PYTHON: tuple[tuple[type, str], ...] = (
    (bool, "BOOL"),  # before int, of which it is one
    (int, "INT64"),
    (float, "FLOAT64"),
    (str, "STRING"),
    (bytes, "BYTES"),
    (dt.datetime, "DATETIME"),  # before date, of which it is one
    (dt.date, "DATE"),
    (dt.time, "TIME"),
)
_ARROW = {
    "INTEGER": pa.int64(),
    "INT64": pa.int64(),
    "FLOAT": pa.float64(),
    "FLOAT64": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "BOOL": pa.bool_(),
    "STRING": pa.string(),
    "JSON": pa.string(),
    "BYTES": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
}


def parameter(name: str, value: Any) -> bigquery.ScalarQueryParameter | bigquery.ArrayQueryParameter:
    """A query parameter of the type that a Python value has."""
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        return bigquery.ArrayQueryParameter(name, _kind(name, items[0]) if items else "STRING", items)
    return bigquery.ScalarQueryParameter(name, _kind(name, value), value)


def _kind(name: str, value: Any) -> str:
    if value is None:
        return "STRING"
    if isinstance(value, Decimal):
        return "NUMERIC" if _fits(value) else "BIGNUMERIC"
    if isinstance(value, dt.datetime) and value.tzinfo:
        return "TIMESTAMP"
    for python, kind in _PYTHON:
        if isinstance(value, python):
            return kind
    raise BigQueryError(f"the parameter {name} is a {type(value).__name__}, which BigQuery has no type for")


def _fits(value: Decimal) -> bool:
    return -int(value.as_tuple().exponent) <= _NUMERIC[1] and value.adjusted() < _NUMERIC[0]


def fields_for(table: str, schema: pa.Schema) -> list[bigquery.SchemaField]:
    """The columns of a table that holds Arrow's exactly. Raises `BigQueryError` where BigQuery has no such type."""
    return [_field(table, column.name, column.type, column.nullable) for column in schema]


def _field(table: str, name: str, kind: pa.DataType, nullable: bool) -> bigquery.SchemaField:
    types = pa.types
    mode = "NULLABLE" if nullable else "REQUIRED"
    if types.is_dictionary(kind):
        return _field(table, name, kind.value_type, nullable)
    if types.is_list(kind) or types.is_large_list(kind):
        item = _field(table, name, kind.value_type, nullable=True)
        return bigquery.SchemaField(name, item.field_type, "REPEATED", fields=item.fields)
    if types.is_struct(kind):
        parts = [_field(table, part.name, part.type, part.nullable) for part in kind]
        return bigquery.SchemaField(name, "RECORD", mode, fields=parts)
    if types.is_decimal(kind):
        for held, (whole, behind) in (("NUMERIC", _NUMERIC), ("BIGNUMERIC", _BIGNUMERIC)):
            if 0 <= kind.scale <= behind and kind.precision - kind.scale <= whole:
                return bigquery.SchemaField(name, held, mode, precision=kind.precision, scale=kind.scale)
    for is_it, held in (
        (types.is_boolean, "BOOL"),
        (lambda k: types.is_integer(k) and k != pa.uint64(), "INT64"),
        (types.is_floating, "FLOAT64"),
        (lambda k: types.is_string(k) or types.is_large_string(k) or types.is_null(k), "STRING"),
        (lambda k: types.is_binary(k) or types.is_large_binary(k), "BYTES"),
        (types.is_date, "DATE"),
        (types.is_time, "TIME"),
        (lambda k: types.is_timestamp(k) and k.tz is None, "DATETIME"),
        (types.is_timestamp, "TIMESTAMP"),
    ):
        if is_it(kind):
            return bigquery.SchemaField(name, held, mode)
    raise BigQueryError(
        f"{table}: the column {name} is of type {kind}, which BigQuery does not hold; convert it first"
    )


def arrow_schema(fields: Sequence[bigquery.SchemaField]) -> pa.Schema:
    """What columns of BigQuery are in Arrow."""
    return pa.schema([pa.field(field.name, _arrow(field)) for field in fields])


def _arrow(field: bigquery.SchemaField) -> pa.DataType:
    if field.field_type in {"RECORD", "STRUCT"}:
        kind = pa.struct([pa.field(part.name, _arrow(part)) for part in field.fields])
    elif field.field_type == "NUMERIC":
        kind = pa.decimal128(field.precision or 38, (field.scale or 0) if field.precision else 9)
    elif field.field_type == "BIGNUMERIC":
        kind = pa.decimal256(field.precision or 76, (field.scale or 0) if field.precision else 38)
    else:
        kind = _ARROW[field.field_type]
    return pa.list_(kind) if field.mode == "REPEATED" else kind


def parquet(table: str, rows: pa.Table) -> bytes:
    """Rows as a Parquet file that BigQuery reads. Raises `BigQueryError` if an instant is finer than a microsecond."""
    stream = io.BytesIO()
    try:
        pq.write_table(rows, stream, coerce_timestamps="us", compression="zstd")
    except pa.ArrowInvalid as error:
        raise BigQueryError(f"{table}: a value can't be written ({faults.told(error)})") from None
    return stream.getvalue()
