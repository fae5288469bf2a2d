"""BigQuery's types, as the stand-in keeps them in DuckDB and sends them as JSON.

A column of a table is a *field*, as the REST API has it: name, type, mode, and `fields` if it is a record.
"""

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
from sqlglot import exp

Field = dict[str, Any]

_STANDARD = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_DUCKDB = {
    "INTEGER": "BIGINT",
    "FLOAT": "DOUBLE",
    "STRING": "VARCHAR",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "TIME": "TIME",
    "DATETIME": "TIMESTAMP",
    "TIMESTAMP": "TIMESTAMPTZ",
    "BYTES": "BLOB",
    "JSON": "JSON",
}
_ARROW = {
    "INTEGER": pa.int64(),
    "FLOAT": pa.float64(),
    "STRING": pa.string(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "BYTES": pa.binary(),
    "JSON": pa.string(),
}
_BIGQUERY = {stored: name for name, stored in _DUCKDB.items()} | {
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "INTEGER": "INTEGER",
    "SMALLINT": "INTEGER",
    "TINYINT": "INTEGER",
    "HUGEINT": "INTEGER",  # what DuckDB makes of a sum of integers
    "FLOAT": "FLOAT",
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DIGITS, _SCALE = 38, 9  # of NUMERIC
_BIG_SCALE = 18  # the service's BIGNUMERIC has 38 digits behind the point; DuckDB has 38 in all


def legacy_name(name: str) -> str:
    """The name that the REST API answers with: INTEGER, where a query says INT64."""
    return _STANDARD.get(name.upper(), name.upper())


def decimals(field: Field) -> tuple[int, int]:
    """Precision and scale of a NUMERIC or BIGNUMERIC column."""
    if "precision" in field:
        return int(field["precision"]), int(field.get("scale", 0))
    return _DIGITS, _SCALE if field["type"] == "NUMERIC" else _BIG_SCALE


def duckdb_type(field: Field) -> str:
    """What a column is in DuckDB. Raises KeyError for types that the stand-in does not have."""
    kind = legacy_name(field["type"])
    if kind == "RECORD":
        parts = ", ".join(f'"{part["name"]}" {duckdb_type(part)}' for part in field["fields"])
        stored = f"STRUCT({parts})"
    elif kind in {"NUMERIC", "BIGNUMERIC"}:
        stored = "DECIMAL({},{})".format(*decimals(field))
    else:
        stored = _DUCKDB[kind]
    return stored + ("[]" if field.get("mode") == "REPEATED" else "")


def arrow_type(field: Field) -> pa.DataType:
    """What a column is in Arrow, before it is handed to DuckDB."""
    kind = legacy_name(field["type"])
    if kind == "RECORD":
        held = pa.struct([(part["name"], arrow_type(part)) for part in field["fields"]])
    elif kind in {"NUMERIC", "BIGNUMERIC"}:
        held = pa.decimal128(*decimals(field))
    else:
        held = _ARROW[kind]
    return pa.list_(held) if field.get("mode") == "REPEATED" else held


def field_of(name: str, stored: Any) -> Field:
    """The field that a DuckDB column is shown as; `stored` is a type of DuckDB's Python API."""
    if stored.id in {"list", "array"}:
        return field_of(name, dict(stored.children)["child"]) | {"mode": "REPEATED"}
    field: Field = {"name": name, "mode": "NULLABLE"}
    if stored.id == "struct":
        return field | {"type": "RECORD", "fields": [field_of(part, kind) for part, kind in stored.children]}
    if stored.id == "decimal":
        return field | {"type": "NUMERIC" if dict(stored.children)["scale"] <= _SCALE else "BIGNUMERIC"}
    return field | {"type": _BIGQUERY.get(str(stored), "STRING")}


def fields_of(relation: duckdb.DuckDBPyRelation) -> list[Field]:
    return [field_of(name, kind) for name, kind in zip(relation.columns, relation.types, strict=True)]


def row(values: Sequence[Any], fields: Sequence[Field], *, int64_timestamps: bool) -> dict[str, Any]:
    """A row as the REST API sends it."""
    return {
        "f": [{"v": _cell(v, f, int64_timestamps)} for v, f in zip(values, fields, strict=True)],
    }


def _cell(value: Any, field: Field, int64: bool) -> Any:
    if field.get("mode") == "REPEATED":
        return [{"v": _cell(item, {**field, "mode": "NULLABLE"}, int64)} for item in value or []]
    if value is None:
        return None
    match field["type"]:
        case "RECORD":
            parts = field["fields"]
            return row([value[part["name"]] for part in parts], parts, int64_timestamps=int64)
        case "BOOLEAN":
            return str(value).lower()
        case "BYTES":
            return base64.b64encode(value).decode()
        case "TIMESTAMP":
            microseconds = (value - _EPOCH) // dt.timedelta(microseconds=1)
            return str(microseconds) if int64 else repr(microseconds / 1e6)
        case "NUMERIC" | "BIGNUMERIC":
            plain = format(value, "f")
            return plain.rstrip("0").rstrip(".") if "." in plain else plain
        case "DATE" | "TIME" | "DATETIME":
            return value.isoformat()
    return str(value)


def parameter(kind: Mapping[str, Any], given: Mapping[str, Any]) -> exp.Expr:
    """A query parameter as an expression of BigQuery's SQL."""
    if kind["type"] == "ARRAY":
        items = [parameter(kind["arrayType"], item) for item in given.get("arrayValues", [])]
        return exp.cast(
            exp.Array(expressions=items), f"ARRAY<{kind['arrayType']['type']}>", dialect="bigquery"
        )
    value = given.get("value")
    if value is None:
        return exp.cast(exp.Null(), kind["type"], dialect="bigquery")
    if kind["type"] == "BYTES":
        return exp.func("FROM_BASE64", exp.Literal.string(value))
    if kind["type"] in {"NUMERIC", "BIGNUMERIC"}:
        # As wide as the value: a plain NUMERIC would be DuckDB's DECIMAL(18, 3).
        scale = max(0, -int(Decimal(value).as_tuple().exponent))
        return exp.cast(exp.Literal.string(value), f"DECIMAL({_DIGITS}, {scale})")
    return exp.cast(exp.Literal.string(value), kind["type"], dialect="bigquery")
