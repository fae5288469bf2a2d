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
from etl_assets.steps.sessions import BATCH_ROWS, Bound, IfExists, Session, SessionError, would_alter
from etl_assets.warehouse.duckdb import DuckDBWarehouse

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Later("pyarrow")


_NOT_IN_ARROW = {"TIME WITH TIME ZONE", "BIT", "BIGNUM", "VARINT"}
"""Types of which Arrow would get a part, or bytes that mean nothing elsewhere."""


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
            for name, kind in zip(relation.columns, relation.types, strict=True):
                if str(kind) in _NOT_IN_ARROW:
                    raise SessionError(
                        f"warehouse: column {name} is {kind}, which no frame holds: CAST it in the query"
                    )
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
                self._refuse_rounding(place)
                self._connection.execute(f"INSERT INTO {place} BY NAME FROM step_frame")
            else:
                self._connection.execute(f"CREATE OR REPLACE TABLE {place} AS FROM step_frame")
                found = [name for name, *_ in self._connection.execute(f"DESCRIBE {place}").fetchall()]
                for name, other in zip(frame.column_names, found, strict=True):
                    if name != other:
                        raise SessionError(
                            f"warehouse: a column can't be called {name!r} (it would be {other!r}): two names are equal but for "
                            "capitals, or one has signs that no name has"
                        )
        finally:
            self._connection.unregister("step_frame")

    def _refuse_rounding(self, place: str) -> None:
        """Raises `SessionError` if the table at a place would alter values of the frame."""
        there = {
            name.lower(): kind for name, kind, *_ in self._connection.execute(f"DESCRIBE {place}").fetchall()
        }
        for name, kind, *_ in self._connection.execute("DESCRIBE step_frame").fetchall():
            if kind == "VARCHAR" or there.get(name.lower(), kind) in (kind, "VARCHAR"):
                continue
            column, kept = identifier(name), there[name.lower()]
            zones = "TIMESTAMP" in kind and "TIMESTAMP" in kept and ("ZONE" in kind) is not ("ZONE" in kept)
            altered = self._connection.execute(
                f"SELECT count(*) FROM step_frame WHERE {column} IS DISTINCT FROM CAST(CAST({column} AS {kept}) AS {kind})"
            ).fetchall()
            if zones or altered[0][0]:
                raise would_alter(name, kept)

    def close(self) -> None:
        with self._told():
            self._ended.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise SessionError(f"warehouse: {faults.told(error)}") from None
