"""One session per database for the steps of a run: what one does there, a temporary table or a setting, the next ones see.

A database is `warehouse`, or any that SQLAlchemy can talk to: ETL_DATABASE_<NAME> has its URL.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from etl_assets.errors import EtlError
from etl_assets.steps.dialects import LexicalRules
from etl_assets.steps.parameters import Parameter, Value
from etl_assets.steps.statement import Reading, Statement

if TYPE_CHECKING:
    import pyarrow as pa

WAREHOUSE = "warehouse"
BATCH_ROWS = 10_000
IfExists = Literal["fail", "replace", "append"]


class SessionError(EtlError):
    """A database can't be reached, or refuses a statement."""


def would_alter(column: str, kind: object) -> SessionError:
    """The error for a frame of which a table that is there would not hold the values as they are. `kind`: the column's type."""
    return SessionError(
        f"column {column} of the table is {kind}, which would round or cut values of the frame: bring them to that type in a "
        "step before, or give the table another"
    )


@dataclass(frozen=True)
class Bound:
    """A statement with the values of its parameters."""

    statement: Statement
    parameters: Mapping[str, Parameter]
    values: Mapping[str, Value]

    def read(self, dialects: Sequence[LexicalRules]) -> Reading:
        """The statement as a database reads it that may have several dialects. Raises `SessionError` where in one of them a
        parameter stands where nothing is bound."""
        readings = [self.statement.read(dialect) for dialect in dialects]
        for reading in readings:
            for mistake in reading.mistakes(self.parameters):
                raise SessionError(f"as {reading.dialect.name} reads it, {mistake}")
        return readings[0]


class Session(ABC):
    """A session in a database. Each call is a transaction of its own: done whole, or not at all."""

    @abstractmethod
    def read(self, query: Bound) -> Iterator[pa.Table]:
        """What a query answers, some rows at a time; one table at least, which has the columns."""

    @abstractmethod
    def execute(self, query: Bound) -> int | None:
        """Run a statement. The rows that it affected, where the database says so."""

    @abstractmethod
    def write(self, table: str, frame: pa.Table, if_exists: IfExists) -> int:
        """Write a frame to a table, `name` or `schema.name`. The rows written. Raises `SessionError` if there is one and
        `if_exists` says fail."""

    @abstractmethod
    def close(self) -> None:
        """End the session: temporary tables are gone."""


def setting_of(database: str) -> str:
    """The setting that has the URL of a database."""
    return "ETL_WAREHOUSE_URL" if database == WAREHOUSE else f"ETL_DATABASE_{database.upper()}"


def url_of(database: str) -> str:
    """The URL of a database, as the environment has it. Raises `SessionError` if it is not there."""
    setting = setting_of(database)
    url = os.environ.get(setting, "").strip()
    if not url:
        raise SessionError(f"{setting} is not set: it is the URL of the database {database}")
    return url


@dataclass
class Sessions:
    """The sessions of a run by database, opened when they are first needed. To be closed by who made it."""

    open: Callable[[str], Session]
    _opened: dict[str, Session] = field(default_factory=dict)

    def of(self, database: str) -> Session:
        """The session in a database."""
        if database not in self._opened:
            self._opened[database] = self.open(database)
        return self._opened[database]

    def close(self) -> list[str]:
        """End all of them. What went wrong, a line each."""
        told = []
        while self._opened:
            database, session = self._opened.popitem()
            try:
                session.close()
            except EtlError as error:
                told.append(f"the session in {database} did not end well: {error}")
        return told
