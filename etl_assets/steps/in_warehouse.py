"""The session in a project's own warehouse: SQL says `star` and `reporting`, whatever these schemas are called there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot.errors import SqlglotError

from etl_assets.steps.sessions import Bound, IfExists, Session, SessionError
from etl_assets.steps.statement import Statement
from etl_assets.warehouse.schemas import Schemas

if TYPE_CHECKING:
    import pyarrow as pa


class WarehouseSession(Session):
    """Another session, asked in the names that the warehouse has. `dialect`: of its SQL, as sqlglot names it."""

    def __init__(self, session: Session, schemas: Schemas, dialect: str) -> None:
        self._session = session
        self._schemas = schemas
        self._dialect = dialect

    def read(self, query: Bound) -> Iterator[pa.Table]:
        return self._session.read(self._written(query))

    def execute(self, query: Bound) -> int | None:
        return self._session.execute(self._written(query))

    def write(self, table: str, frame: pa.Table, if_exists: IfExists) -> int:
        schema, _, _ = table.rpartition(".")
        if schema in (self._schemas.star, self._schemas.reporting, self._schemas.staging):
            raise SessionError(f"schema {schema} of the warehouse is the platform's: write another one")
        return self._session.write(table, frame, if_exists)

    def close(self) -> None:
        self._session.close()

    def _written(self, query: Bound) -> Bound:
        try:
            sql = self._schemas.rewritten(query.statement.sql, self._dialect)
        except SqlglotError:  # a statement of this database alone: it is asked as it is
            return query
        return replace(query, statement=Statement(sql))
