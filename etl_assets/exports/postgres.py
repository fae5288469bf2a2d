"""Reporting tables in PostgreSQL, beside the star they were computed from."""

import hashlib
from collections import Counter
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow as pa
from psycopg2.extensions import cursor as Cursor

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, literal
from etl_assets.exports.duckdb import ReportTablesError
from etl_assets.exports.publishing import PublishResult, ReportTables
from etl_assets.failpoints import reached
from etl_assets.star.schema import Column
from etl_assets.warehouse.contract import given
from etl_assets.warehouse.postgres import (
    PostgresWarehouse,
    copy_in,
    create_schema,
    declared,
)
from etl_assets.warehouse.postgres_reader import PostgresReader
from etl_assets.warehouse.schemas import REPORTING

_TYPES = {
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.binary(): "bytea",
    pa.date32(): "date",
    pa.time64("us"): "time",
    pa.timestamp("us"): "timestamp",
    pa.timestamp("us", "UTC"): "timestamptz",
}


class PostgresReportTables(ReportTables):
    """The reports' schema of the warehouse."""

    warehouse: dg.ResourceDependency[PostgresWarehouse]

    def publish(self, name: str, frame: pd.DataFrame, description: str) -> PublishResult:
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        schema = self.warehouse.schemas.reporting
        columns = [Column(field.name, _declared(field, f"{schema}.{name}")) for field in table.schema]
        with self.warehouse.connect() as connection, connection.cursor() as cursor:
            place = f"{identifier(schema)}.{identifier(name)}"
            create_schema(cursor, schema)
            # Of two that publish the same table, the second waits for the first.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (place,))
            reader = PostgresReader(cursor, Path(self.warehouse.scratch), self.warehouse.schemas)
            alike = _alike(reader, name, columns)
            unchanged = (
                alike
                and _described(cursor, place) == description
                and _counted(reader.frame(f"SELECT * FROM {REPORTING}.{identifier(name)}")) == _counted(frame)
            )
            if not unchanged:
                if alike:  # what others built on the table stays, and who reads meanwhile sees the old rows
                    cursor.execute(f"DELETE FROM {place}")
                else:
                    cursor.execute(f"DROP TABLE IF EXISTS {place}")
                    cursor.execute(f"CREATE TABLE {place} ({declared(columns)})")
                cursor.execute(f"COMMENT ON TABLE {place} IS {literal(description)}")
                scratch = Path(self.warehouse.scratch)
                with duck.connect(scratch) as lake:
                    copy_in(cursor, place, columns, lake, given(lake, table), scratch)
                reached("report publishing")
                connection.commit()
                reached("report published")
        return PublishResult(f"{schema}.{name}", table.num_rows, table.nbytes, unchanged)

    def standing(self) -> str | None:
        schema = self.warehouse.schemas.reporting
        with self.warehouse.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT c.relname, obj_description(c.oid), (SELECT string_agg(concat_ws(' ', a.attname, "
                "format_type(a.atttypid, a.atttypmod)), ',' ORDER BY a.attnum) FROM pg_attribute a "
                "WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) FROM pg_class c "
                "WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind IN ('r', 'p') ORDER BY c.relname",
                (identifier(schema),),
            )
            held: list[object] = []
            for name, *told in cursor.fetchall():
                cursor.execute(
                    f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {identifier(schema)}.{identifier(name)} AS t"
                )
                held.append((name, told, cursor.fetchall()))
        return hashlib.sha256(repr(held).encode()).hexdigest()

    def read(self, name: str) -> pd.DataFrame:
        with self.warehouse.reading() as reader:
            if not reader.columns(REPORTING, name):
                place = f"{self.warehouse.schemas.reporting}.{name}"
                raise ReportTablesError(f"there is no {place} yet: materialize exports/{name} first")
            return reader.frame(f"SELECT * FROM {REPORTING}.{identifier(name)}")


def _declared(field: pa.Field, report: str) -> str:
    """The column type, as it is declared, that holds what an Arrow field does."""
    if pa.types.is_decimal(field.type):
        return f"numeric({field.type.precision},{field.type.scale})?"
    if field.type not in _TYPES:
        raise ReportTablesError(f"{report}: nothing in PostgreSQL holds {field.name}, a {field.type}")
    return f"{_TYPES[field.type]}?"


def _alike(reader: PostgresReader, name: str, columns: list[Column]) -> bool:
    """Whether there is a table with these columns."""
    return list(reader.columns(REPORTING, name).items()) == [
        (c.name, (c.type.postgres, True)) for c in columns
    ]


def _described(cursor: Cursor, place: str) -> str | None:
    cursor.execute("SELECT coalesce(obj_description(to_regclass(%s)), '')", (place,))
    ((description,),) = cursor.fetchall()
    return str(description)


def _counted(frame: pd.DataFrame) -> Counter[tuple[str, ...]]:
    """The rows, which have no order in the table."""
    return Counter(tuple(map(repr, row)) for row in frame.itertuples(index=False, name=None))
