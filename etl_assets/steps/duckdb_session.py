"""A session in a warehouse that is a DuckDB file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import duckdb

from etl_assets import faults
from etl_assets.engine.duck import identifier
from etl_assets.later import Later
from etl_assets.steps.dialects import DUCKDB
from etl_assets.steps.sessions import BATCH_ROWS, Bound, IfExists, Session, SessionError
from etl_assets.warehouse.duckdb import DuckDBWarehouse

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Later("pyarrow")


class DuckDBSession(Session):
    """A connection that stays open. While it is, no other process can open the file."""

    def __init__(self, warehouse: DuckDBWarehouse) -> None:
        if not warehouse.exists:
            raise SessionError(f"there is no warehouse {warehouse.where} yet: run the flow first (etl run)")
        self._ended = ExitStack()
        self._connection = self._ended.enter_context(warehouse.connect())

    def read(self, query: Bound) -> Iterator[pa.Table]:
        sql, names = query.read([DUCKDB]).numbered()
        with self._told():
            relation = self._connection.sql(sql, params=[query.values[name] for name in names] or None)
            if relation is None:
                raise SessionError("warehouse: the query answers nothing: is it a statement?")
            reader = relation.to_arrow_reader(BATCH_ROWS)
            try:
                yield reader.schema.empty_table()
                for batch in reader:
                    yield pa.Table.from_batches([batch])
            finally:
                reader.close()

    def execute(self, query: Bound) -> int | None:
        sql, names = query.read([DUCKDB]).numbered()
        with self._told():
            found = self._connection.execute(sql, [query.values[name] for name in names])
            # All that is answered is fetched: the connection is busy until it is.
            rows = found.fetchall() if found.description else []
            counts = found.description and found.description[0][0] == "Count"
            return int(rows[0][0]) if counts and rows else None

    def write(self, table: str, frame: pa.Table, if_exists: IfExists) -> int:
        schema, _, name = table.rpartition(".")
        place = f"{identifier(schema or 'main')}.{identifier(name)}"
        with self._told():
            self._connection.begin()
            try:
                self._put(schema or "main", name, place, frame, if_exists)
                self._connection.commit()
            except BaseException:
                self._connection.rollback()
                raise
        return int(frame.num_rows)

    def _put(self, schema: str, name: str, place: str, frame: pa.Table, if_exists: IfExists) -> None:
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)}")
        there = self._connection.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = $1 AND table_name = $2",
            [schema, name],
        ).fetchall()
        exists = there[0][0] > 0
        if exists and if_exists == "fail":
            raise SessionError(
                f'warehouse: there is a table {schema}.{name} already: write if_exists="replace" or "append" if that is meant'
            )
        self._connection.register("step_frame", frame)
        try:
            if exists and if_exists == "append":
                self._connection.execute(f"INSERT INTO {place} BY NAME FROM step_frame")
            else:
                self._connection.execute(f"CREATE OR REPLACE TABLE {place} AS FROM step_frame")
        finally:
            self._connection.unregister("step_frame")

    def close(self) -> None:
        with self._told():
            self._ended.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise SessionError(f"warehouse: {faults.told(error)}") from None
