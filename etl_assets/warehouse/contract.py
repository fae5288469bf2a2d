"""What a warehouse is, whichever engine stands behind it. How it is loaded is in
`etl_assets.warehouse.load`, once for all.

star.<table>           as declared
star.<fact>_current    the latest version of each row that still exists
star.loads             which version of what was loaded when, by which run, with how many rows
star.superseded        the versions of facts that a later one took the place of
star.inferred_members  members that facts refer to before their dimension has them

An engine gives two things: a `WarehouseReader` that answers questions, and a `LoadSession` in which one load happens.
"""

import datetime
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import dagster as dg
import duckdb
from pydantic import Field

from etl_assets.cost import Cost
from etl_assets.engine.duck import listing, parquet
from etl_assets.errors import EtlError
from etl_assets.lake.current import materialized
from etl_assets.lake.files import Files
from etl_assets.star.schema import Column, StarTable
from etl_assets.warehouse.dialect import DUCKDB, INFERRED, LOADS, SCHEMA, Dialect, current
from etl_assets.warehouse.schemas import Schemas

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ChangedMembers: TypeAlias = "Callable[[StarTable, str], pa.Table | None]"
"""Gives the keys of a dimension's members that changed since a version of it; None if nobody knows."""
Kind = Literal["table", "view"]


class WarehouseError(EtlError):
    """The warehouse can't be opened, or what is to be loaded does not hold together."""


class WarehouseInUse(WarehouseError):
    """Another process holds the warehouse."""


class WarehouseDamaged(WarehouseError):
    """What the warehouse is kept in is not what was written. It was set aside: the next load makes another."""


@dataclass(frozen=True)
class TargetBatch:
    """The batch that a load brings the warehouse up to: whose it is, as of when it shows the source, and the SHA-256 of its
    manifest."""

    batch: int
    source_time: datetime.datetime
    lake: str
    project: str
    manifest: str


@dataclass(frozen=True)
class RowsToLoad:
    """Rows of the lake to be staged: those in Parquet files, `paths` in the lake; with `among` (whose columns are those
    of the table's key) those of its keys only."""

    table: StarTable
    lake: Files
    paths: Sequence[str]
    among: "pa.Table | None" = None

    def source(self, connection: duckdb.DuckDBPyConnection) -> str:
        """What stands after FROM for these rows in a DuckDB connection, which reads the files where they lie."""
        files = parquet([self.lake.local(path) for path in self.paths])
        if self.among is None:
            return files
        names = self.table.key_columns
        keys = typed(connection, [self.table.by_name[name] for name in names], self.among)
        return f"(FROM {files} SEMI JOIN {keys} USING ({listing(names)}))"


@dataclass(frozen=True)
class Loaded:
    """What a load did to one table. `dangling`: by columns, members it refers to that are nowhere and can't be inferred;
    `waits`: the table was left as it was, because its rows would dangle, or rows that refer to it.
    `inferred`: members that stand in until the dimension has them. `rows` counts them too. `cost`: to stage its rows, and of its
    own statements, where the engine runs them one by one (BigQuery does not); the
    one transaction over all tables comes on top."""

    rows: int
    rows_loaded: int
    batches: tuple[int, ...]
    dangling: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    inferred: int = 0
    waits: bool = False
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class HeldTable:
    """What the books say of one table. `batch` is the newest of which rows were loaded, `version` that of its
    file; `loaded_at` is UTC."""

    rows: int
    batch: int
    version: str
    loaded_at: datetime.datetime
    run_id: str


@dataclass(frozen=True)
class HeldTables:
    """What the books say: of what is loaded, by table, and how many members of a dimension are stand-ins."""

    tables: Mapping[str, HeldTable] = field(default_factory=dict)
    stand_ins: Mapping[str, int] = field(default_factory=dict)


def given(connection: duckdb.DuckDBPyConnection, values: "pa.Table | pa.RecordBatchReader") -> str:
    """The name of a temporary table with what Arrow holds."""
    connection.register("given", values)
    try:
        return materialized(connection, "FROM given")
    finally:
        connection.unregister("given")


def typed(connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], values: "pa.Table") -> str:
    """As `given`, with the columns in their declared types: Arrow has a UUID as text."""
    chosen = ", ".join(
        f"{DUCKDB.cast(name, c.type)} AS {name}" for c in columns for name in [DUCKDB.identifier(c.name)]
    )
    return materialized(connection, f"SELECT {chosen} FROM {given(connection, values)}")


class WarehouseReader(ABC):
    """Answers questions about one state of a warehouse.

    SQL is written in DuckDB's dialect, as far as sqlglot can say the same in the engine's; `$name` in it takes
    params['name']. Schemas are called `star` and `reporting` in it, whatever they are. Give subqueries an alias. Values come in exact Python types: Decimal, date, time, datetime.
    """

    @abstractmethod
    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query."""

    @abstractmethod
    def frame(self, sql: str, params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        """The rows of a query, with Arrow types: decimals stay exact."""

    @abstractmethod
    def columns(self, schema: str, table: str) -> Mapping[str, tuple[str, bool]]:
        """The columns that a table or view has, in order: the engine's type as `Type` names it, and whether it may be
        NULL. Empty if there is no such table."""

    @abstractmethod
    def kind(self, schema: str, name: str) -> Kind | None:
        """What there is under a name; None if there is neither a table nor a view."""

    @abstractmethod
    def copy(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], source: str) -> str:
        """Bring rows of `source` (what stands after FROM) to a DuckDB connection, in constant memory; returns the name
        of the temporary table there, whose columns have the declared types."""

    def one(self, sql: str, params: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """The only row of a query."""
        (row,) = self.rows(sql, params)
        return row

    def has(self, table: str) -> bool:
        """Whether schema `star` has a table."""
        return bool(self.columns(SCHEMA, table))


class LoadSession(ABC):
    """One load: what is read in it is one state of the warehouse, nobody else loads meanwhile, and `commit` changes
    everything or nothing. Without `commit` nothing has changed when it ends.

    SQL is the engine's own here; `warehouse_load` writes it in what all engines understand: plain SELECT, INSERT,
    DELETE, JOIN, NOT EXISTS, window functions in subqueries; no QUALIFY, no RETURNING, no BY NAME, every subquery
    with an alias. The three books exist when a session begins.

    What `stage` and `keep` give is outside schema `star`, is seen by this session only, and is gone some time after.
    """

    dialect: Dialect

    @abstractmethod
    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query, of what is committed and staged."""

    @abstractmethod
    def columns(self, table: str) -> Mapping[str, tuple[str, bool]]:
        """As `WarehouseReader.columns`, of schema `star`."""

    @abstractmethod
    def kind(self, name: str) -> Kind | None:
        """As `WarehouseReader.kind`, of schema `star`."""

    def keyed_by(self, table: str) -> Sequence[str] | None:
        """The columns by which the engine itself tells a table's rows apart; None where it does not."""
        return None

    @abstractmethod
    def stage(self, name: str, rows: RowsToLoad) -> str:
        """Make rows of the lake readable in this session, in their declared types. Returns what can stand after FROM
        and be given an alias. `name` tells staged tables apart."""

    @abstractmethod
    def stage_values(self, name: str, columns: Sequence[Column], values: "pa.Table") -> str:
        """The same for a small table in memory."""

    @abstractmethod
    def keep(self, name: str, sql: str) -> str:
        """Compute a query once, to be read several times; returns as `stage`."""

    @abstractmethod
    def create(self, table: StarTable) -> Sequence[str]:
        """Statements that make a table empty and as declared, comments included, in place of one that is declared
        otherwise; with a fact its `_current` view (`Dialect.current_view`), with a dimension none: it may have
        been a fact."""

    def retire(self, names: Sequence[str]) -> Sequence[str]:
        """Statements that remove tables, whatever they were declared as, each with its `_current` view."""
        tables = [name for name in names if self.kind(name) == "table"]
        views = [statement for name in names for statement in self.without_view(name)]
        return [*views, *(f"DROP TABLE IF EXISTS {self.dialect.place(name)}" for name in tables)]

    def without_view(self, name: str) -> list[str]:
        """The statement that removes the `_current` view of a table, if there is one."""
        view = current(name)
        return [f"DROP VIEW IF EXISTS {self.dialect.place(view)}"] if self.kind(view) == "view" else []

    def empty(self, table: StarTable) -> Sequence[str]:
        """Statements that take all rows out of a table."""
        return [f"DELETE FROM {self.dialect.place(table.name)} WHERE true"]

    def put(self, table: StarTable, keys: str, source: str) -> Sequence[str]:
        """Statements after which a dimension has, of the members `keys` (after FROM; its columns are those of the
        table's key), exactly the rows of `source` (a query that gives the table's columns, of these members only)."""
        d = self.dialect
        place, same = d.place(table.name), d.same(table.key_columns, "k", "t")
        names = d.listing([column.name for column in table.columns])
        return [
            f"DELETE FROM {place} AS t WHERE EXISTS (SELECT 1 FROM {keys} AS k WHERE {same})",
            f"INSERT INTO {place} ({names}) {source}",
        ]

    def settle(self, tables: Mapping[str, StarTable], created: set[str], emptied: set[str]) -> Sequence[str]:
        """The last statements of a change, for what holds between tables (foreign keys). `created` and `emptied` name
        those that `create` and `empty` were asked for."""
        return []

    @abstractmethod
    def commit(self, statements: Iterable[str], name: str) -> None:
        """Run the statements in order, all or none, each where possible before the next is asked for. `name` identifies the content of the change: the same name is the
        same change, so that an engine can tell after a lost answer whether it happened."""


class Warehouse(dg.ConfigurableResource, ABC):
    """Where analysts query the star. It is only ever changed in one transaction over all tables.

    Errors of the engine come out as `WarehouseError`, one line without a secret.
    """

    star_schema: str = Field(
        default=SCHEMA, description="The schema of the star; reports have one beside it."
    )

    @property
    def schemas(self) -> Schemas:
        """The schemas in which the star and its reports are."""
        return Schemas(self.star_schema)

    @property
    @abstractmethod
    def where(self) -> str:
        """How people call it: a path, a URL without its password."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[WarehouseReader]:
        """One state of the warehouse, to ask."""

    @abstractmethod
    def session(self) -> AbstractContextManager[LoadSession]:
        """A load. Waits while another one runs; raises `WarehouseInUse` if that takes too long."""

    @property
    def exists(self) -> bool:
        """Whether there is anything to read; else `reading` would make it."""
        return True

    def standing(self) -> str | None:
        """What identifies what is loaded: another text after every load, and when a table is dropped or altered. None where
        that can't be told cheaply. Raises `WarehouseInUse`."""
        return None

    def size_bytes(self) -> int | None:
        """What it takes, as far as it says."""
        return None

    @contextmanager
    def resting(self) -> Iterator[WarehouseReader]:
        """As `reading`, for who asks for long: loads go on meanwhile."""
        with self.reading() as reader:
            yield reader

    @contextmanager
    def glancing(self) -> Iterator[WarehouseReader]:
        """As `reading`, but raises `WarehouseInUse` at once rather than wait."""
        with self.reading() as reader:
            yield reader

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        """The rows of a query, as `WarehouseReader.frame`."""
        with self.reading() as reader:
            return reader.frame(sql, params)

    def held(self) -> Mapping[str, HeldTable]:
        """What is loaded, by table. Waits for nobody: raises `WarehouseInUse`."""
        return self.noted().tables

    def noted(self) -> HeldTables:
        """What the books say. Waits for nobody: raises `WarehouseInUse`."""
        if not self.exists:
            return HeldTables()
        with self.glancing() as reader:
            return noted_in(reader)


def noted_in(reader: WarehouseReader) -> HeldTables:
    """What the books say, of a warehouse that is open."""
    if not reader.has(LOADS.name):
        return HeldTables()
    found = reader.rows(
        "SELECT l.table_name, n.total, l.batch, l.version, n.newest, l.run_id FROM star.loads AS l JOIN "
        '(SELECT table_name, CAST(sum("rows") AS BIGINT) AS total, max(batch) AS batch, '
        "max(loaded_at) AS newest FROM star.loads GROUP BY table_name) AS n "
        "ON n.table_name = l.table_name AND n.batch = l.batch ORDER BY l.table_name"
    )
    inferred = reader.rows(
        f"SELECT table_name, count(*) FROM star.{INFERRED.name} GROUP BY table_name ORDER BY table_name"
    )
    tables = {name: HeldTable(total, int(batch), *rest) for name, total, batch, *rest in found}
    return HeldTables(tables, dict(inferred))
