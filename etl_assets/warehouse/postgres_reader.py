"""Asking a PostgreSQL that is the warehouse, in the SQL that is written once for all engines."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import sqlglot
from psycopg2.extensions import cursor as Cursor
from sqlglot import exp

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.current import materialized
from etl_assets.star.schema import Column
from etl_assets.warehouse.contract import Kind, WarehouseReader
from etl_assets.warehouse.schemas import Schemas

BUFFER_BYTES = 1 << 20
_ARROW = {
    16: pa.bool_(),
    17: pa.binary(),
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    700: pa.float32(),
    701: pa.float64(),
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
}
_KINDS: Mapping[str, Kind] = {"r": "table", "p": "table", "v": "view"}
_NUMERIC = 1700
_MOST_DIGITS = 38  # of a decimal in Arrow


class PostgresReader(WarehouseReader):
    """Asks in one transaction."""

    def __init__(self, cursor: Cursor, scratch: Path, schemas: Schemas) -> None:
        self.cursor = cursor
        self.scratch = scratch
        self.schemas = schemas

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        self.cursor.execute(self._written(sql), dict(params) if params else None)
        return [
            tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
            for row in self.cursor.fetchall()
        ]

    def frame(self, sql: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        rows = self.rows(sql, params)
        columns = self.cursor.description or ()
        values = zip(*rows, strict=True) if rows else ([] for _ in columns)
        arrays = [_array(column, list(found)) for column, found in zip(columns, values, strict=True)]
        table = pa.table(arrays, names=[column.name for column in columns])
        frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def columns(self, schema: str, table: str) -> Mapping[str, tuple[str, bool]]:
        return columns_of(self.cursor, self.schemas.called(schema), table)

    def kind(self, schema: str, name: str) -> Kind | None:
        return kind_of(self.cursor, self.schemas.called(schema), name)

    def copy(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], source: str) -> str:
        names = listing([column.name for column in columns])
        query = self._written(f"SELECT {names} FROM {source}")
        with own_folder(self.scratch, "warehouse-") as folder:
            file = folder / "rows.csv"
            with file.open("wb") as stream:
                self.cursor.copy_expert(
                    f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)", stream, BUFFER_BYTES
                )
            chosen = ", ".join(f"{_typed(c)} AS {identifier(c.name)}" for c in columns)
            return materialized(connection, f"SELECT {chosen} FROM {duck.csv_rows([file])}")

    def _written(self, sql: str) -> str:
        return in_postgres(self.schemas.rewritten(sql, "duckdb"))


@cache
def in_postgres(sql: str) -> str:
    """A query in DuckDB's dialect, in PostgreSQL's; `$name` becomes the driver's `%(name)s`."""
    parsed = sqlglot.parse_one(sql, dialect="duckdb")
    placeholders = list(parsed.find_all(exp.Placeholder))
    for placeholder in placeholders:
        placeholder.replace(exp.Var(this=f"\x00{placeholder.name}\x00"))
    for node in list(parsed.find_all(exp.Hex)):  # which sqlglot leaves as it is
        written = exp.func("encode", node.this, exp.Literal.string("hex"))
        node.replace(written if isinstance(node, exp.LowerHex) else exp.Upper(this=written))
    text = parsed.sql(dialect="postgres")
    # The driver looks for % only where there is something to fill in.
    return re.sub("\x00(.*?)\x00", r"%(\1)s", text.replace("%", "%%")) if placeholders else text


def columns_of(cursor: Cursor, schema: str, table: str) -> Mapping[str, tuple[str, bool]]:
    """The columns of a table or view: type, and whether it may be NULL."""
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (f"{identifier(schema)}.{identifier(table)}",),
    )
    return {name: (kind, nullable) for name, kind, nullable in cursor.fetchall()}


def kind_of(cursor: Cursor, schema: str, name: str) -> Kind | None:
    """Whether there is a table or a view of a name."""
    cursor.execute(
        "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)",
        (f"{identifier(schema)}.{identifier(name)}",),
    )
    found = cursor.fetchone()
    return _KINDS.get(found[0]) if found else None


def _typed(column: Column) -> str:
    """DuckDB's SQL for the value of a text that PostgreSQL wrote."""
    name = identifier(column.name)
    return (
        f"unhex(substr({name}, 3))"
        if column.type.name == "bytea"
        else f"CAST({name} AS {column.type.duckdb})"
    )


def _array(column: Any, values: list[Any]) -> pa.Array:
    """Values of the driver with their exact Arrow type."""
    if column.type_code == _NUMERIC and column.precision and column.precision <= _MOST_DIGITS:
        return pa.array(values, pa.decimal128(column.precision, column.scale))
    if column.type_code == _NUMERIC:  # computed: as many places as any of them has
        places = [-int(v.as_tuple().exponent) for v in values if isinstance(v, Decimal) and v.is_finite()]
        return pa.array(values, pa.decimal128(_MOST_DIGITS, max([0, *places])))
    if column.type_code in _ARROW:
        return pa.array(values, _ARROW[column.type_code])
    return pa.array([None if value is None else str(value) for value in values], pa.string())
