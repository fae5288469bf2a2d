"""The warehouse in a DuckDB file. It reads the lake's Parquet where it lies: nothing is staged that need not be."""

import hashlib
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from pydantic import Field

from etl_assets.engine.duck import configure, literal, type_name
from etl_assets.engine.scratch import own_folder
from etl_assets.failpoints import reached
from etl_assets.faults import Fault, without_values
from etl_assets.lake.current import materialized
from etl_assets.later import Later
from etl_assets.preflight import CheckResult, room
from etl_assets.star.schema import Column, Fact, StarTable
from etl_assets.warehouse.contract import (
    Kind,
    LoadSession,
    RowsToLoad,
    Warehouse,
    WarehouseDamaged,
    WarehouseError,
    WarehouseInUse,
    WarehouseReader,
    given,
    typed,
)
from etl_assets.warehouse.dialect import (
    BATCHES,
    BOOKS,
    DUCKDB,
    LOADS,
    SCHEMA,
    ControlTable,
    Dialect,
    carried_on,
    current,
    is_outdated,
)
from etl_assets.warehouse.schemas import Schemas

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
else:
    pd = Later("pandas")
    pa = Later("pyarrow")

_DATABASE = "etl_warehouse"
_HELD = ("lock on", "already attached", "same database file")  # the last: opened by this very process
_DAMAGE = re.compile(
    r"(computed )?checksum \S* ?does not match|not a valid DuckDB database|Could not read (enough|all) bytes|Corrupt database file|file is corrupt"
    r"|Failure while replaying WAL|Failed to deserialize"
)
_SYSTEM = {"information_schema", "pg_catalog"}
_ALONE = Schemas()
_KEPT_OPEN: dict[str, tuple[duckdb.DuckDBPyConnection, Path]] = {}
"""What keeps a file open, by its path, and where that spills: DuckDB opens a file once in a process."""
_KINDS: Mapping[str, Kind] = {"BASE TABLE": "table", "VIEW": "view"}


class DuckDBWarehouse(Warehouse):
    """A DuckDB file."""

    path: str = Field(description="The database file.")
    scratch: str = Field(description="Folder for what does not fit into memory.")
    wait_seconds: float = Field(
        default=30, ge=0, description="How long to wait for another process to let go."
    )

    @property
    def where(self) -> str:
        return self.path

    @property
    def exists(self) -> bool:
        return Path(self.path).exists()

    def size_bytes(self) -> int:
        return Path(self.path).stat().st_size

    def standing(self) -> str | None:
        if not self.exists:
            return "none"
        with self.glancing() as reader:
            found = reader.rows(
                "SELECT table_name, sql FROM duckdb_tables() "
                "WHERE database_name = current_database() AND schema_name = $schema UNION ALL "
                "SELECT view_name, sql FROM duckdb_views() "
                "WHERE database_name = current_database() AND schema_name = $schema ORDER BY ALL",
                {"schema": self.schemas.star},
            )
            tables = [name for name, sql in found if sql.startswith("CREATE TABLE")]
            rows = [reader.rows(f"SELECT count(*) FROM {DUCKDB.place(name)}") for name in tables]
            books = {BATCHES.name, LOADS.name} <= set(tables)
            newest = (
                reader.rows(f"SELECT * FROM {SCHEMA}.{BATCHES.name} ORDER BY batch DESC LIMIT 1")
                if books
                else []
            )
        return hashlib.sha256(repr([found, rows, newest, self.noted()]).encode()).hexdigest()

    def check(self) -> Iterator[CheckResult]:
        """Try to make a schema and a table; what is tried is rolled back."""
        if not self.exists:
            yield room("create", Path(self.path).parent, "ETL_WAREHOUSE_URL")
            return
        try:
            told = self._rehearsed()
        except WarehouseInUse as error:
            yield CheckResult("load", f"{error}; a run waits {self.wait_seconds:.0f} s for it", "advice")
        except WarehouseError as error:
            yield CheckResult("load", str(error), "missing")
        else:
            yield CheckResult("load", told)

    def _rehearsed(self) -> str:
        with closing(self._open(read_only=False)) as connection:
            name = f"doctor_{uuid.uuid4().hex}"
            for statement in (
                "BEGIN",
                f"CREATE SCHEMA {name}",
                f"CREATE TABLE {name}.t (id INTEGER)",
                "ROLLBACK",
            ):
                connection.execute(statement)
        return f"{self.path}: schemas and tables can be made"

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that may write. One process at a time can hold one."""
        with self._damage_set_aside():
            if self.is_kept_open:
                with self._another() as connection:
                    yield connection
            else:
                with self._opened() as (connection, _):
                    yield connection

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """While the block runs, the file stays open from one `connect` to the next: to open it takes longer the more tables it
        has. Other processes wait that long. After a failure it is opened anew all the same."""
        with self._damage_set_aside(), self._opened() as _KEPT_OPEN[self.path]:
            try:
                yield
            finally:
                _KEPT_OPEN.pop(self.path, None)

    @property
    def is_kept_open(self) -> bool:
        """Whether this process keeps the file open."""
        return self.path in _KEPT_OPEN

    @contextmanager
    def _another(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection beside the one that keeps the file open."""
        kept, folder = _KEPT_OPEN[self.path]
        try:
            with kept.cursor() as connection:
                if self._hides_a_schema:
                    connection.execute(f"USE {_DATABASE}")
                configure(connection, folder)
                yield connection
        except BaseException:
            _KEPT_OPEN.pop(self.path, None)
            kept.close()  # DuckDB may refuse whatever comes after it
            raise

    @contextmanager
    def _opened(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
        """A connection that is first to the file in this process, and the folder that it spills to."""
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        Path(self.scratch).mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                connection = self._open(read_only=False)
                break
            except WarehouseInUse:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
        try:
            with own_folder(Path(self.scratch), "warehouse-") as folder:
                configure(connection, folder)
                yield connection, folder
        finally:
            with suppress(duckdb.Error):  # that it can't be closed says no more than what made it so
                connection.close()

    @contextmanager
    def _damage_set_aside(self) -> Iterator[None]:
        """Nobody is to believe a damaged file, or to be stopped by it: it is derived. Who has it alone renames it."""
        try:
            with without_values():
                yield
        except (WarehouseError, Fault) as error:
            if not (damage := _DAMAGE.search(str(error))):
                raise
            aside = f"{self.path}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}"
            for path in (self.path, f"{self.path}.wal"):
                if Path(path).exists():
                    Path(path).rename(path.replace(self.path, aside, 1))
            raise WarehouseDamaged(
                f"the warehouse {self.path} is damaged ({damage[0]}): it was set aside as {aside}, and the next etl run "
                "makes it anew from the lake (tables of your own that were in it are there only)"
            ) from error

    @contextmanager
    def reading(self) -> Iterator[WarehouseReader]:
        with self.connect() as connection:
            yield DuckDBReader(connection, self.schemas)

    @contextmanager
    def resting(self) -> Iterator[WarehouseReader]:
        """The same in a copy of the file: who reads that itself keeps everybody from loading."""
        with own_folder(Path(self.scratch), "warehouse-") as folder, self._damage_set_aside():
            copy = folder / "copy.duckdb"
            with self.connect():  # nobody writes meanwhile
                for path in (self.path, f"{self.path}.wal"):
                    if Path(path).exists():
                        shutil.copyfile(path, path.replace(self.path, str(copy), 1))
            with (
                closing(self.model_copy(update={"path": str(copy)})._open(read_only=False)) as connection,
                own_folder(Path(self.scratch), "warehouse-") as spill,
            ):
                configure(connection, spill)
                yield DuckDBReader(connection, self.schemas)

    @contextmanager
    def glancing(self) -> Iterator[WarehouseReader]:
        if self.is_kept_open:
            with self.reading() as reader:
                yield reader
            return
        connection = self._open(read_only=True)
        try:
            configure(connection, Path(self.scratch))
            with without_values():
                yield DuckDBReader(connection, self.schemas)
        finally:
            connection.close()

    @contextmanager
    def session(self) -> Iterator[LoadSession]:
        with self.connect() as connection:
            connection.execute("BEGIN")  # closing the connection ends what is not committed
            session = DuckDBLoadSession(connection, self.schemas)
            d = session.dialect
            for book in BOOKS:
                if is_outdated(book, held := session.columns(book.name), d):
                    kept = session.keep(book.name, carried_on(book, held, d))
                    for statement in [*_create(book, d), f"INSERT INTO {d.place(book.name)} FROM {kept}"]:
                        connection.execute(statement)
                if not session.columns(book.name):
                    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {d.identifier(d.schema)}")
                    for statement in _create(book, d):
                        connection.execute(statement)
            yield session

    @property
    def _hides_a_schema(self) -> bool:
        """Whether the file is called like a schema, as `star.duckdb` is: DuckDB would take what is meant for the other."""
        schemas = {*_SYSTEM, self.schemas.star, self.schemas.reporting}
        return Path(self.path).name.partition(".")[0].lower() in schemas

    def _open(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        try:
            if not self._hides_a_schema:
                return duckdb.connect(self.path, read_only=read_only)
            # By a name of ours: DuckDB's own would be the file's.
            connection = duckdb.connect()
            how = " (READ_ONLY)" if read_only else ""
            connection.execute(f"ATTACH {literal(self.path)} AS {_DATABASE}{how}")
            connection.execute(f"USE {_DATABASE}")
            return connection
        except duckdb.Error as error:
            reason = " ".join(str(error).split())
            held = any(sign in reason.lower() for sign in _HELD)
            kind = WarehouseInUse if held else WarehouseError
            raise kind(
                f"can't open the warehouse {self.path}: {reason}; close what holds it, or set ETL_WAREHOUSE_URL"
            ) from None


class DuckDBReader(WarehouseReader):
    """Asks a connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, schemas: Schemas = _ALONE) -> None:
        self.connection = connection
        self.schemas = schemas

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self.connection.execute(self._written(sql), dict(params or {})).fetchall()

    def frame(self, sql: str, params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        found: pa.Table = self.connection.sql(self._written(sql), params=dict(params or {})).to_arrow_table()
        frame: pd.DataFrame = found.to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def columns(self, schema: str, table: str) -> Mapping[str, tuple[str, bool]]:
        return self.columns_by_table(schema, table).get(table, {})

    def columns_by_table(
        self, schema: str, only: str | None = None
    ) -> Mapping[str, Mapping[str, tuple[str, bool]]]:
        """The columns of each table and view of a schema, or of one. DuckDB goes through all of them for one of them too."""
        found: dict[str, dict[str, tuple[str, bool]]] = {}
        for table, name, kind, nullable in self.rows(
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE table_catalog = "
            "current_database() AND table_schema = $schema AND ($only IS NULL OR table_name = $only) ORDER BY ordinal_position",
            {"schema": self.schemas.called(schema), "only": only},
        ):
            found.setdefault(table, {})[name] = (type_name(kind), nullable == "YES")
        return found

    def kind(self, schema: str, name: str) -> Kind | None:
        found = self.rows(
            "SELECT table_type FROM information_schema.tables WHERE table_catalog = current_database() "
            "AND table_schema = $schema AND table_name = $name",
            {"schema": self.schemas.called(schema), "name": name},
        )
        return _KINDS.get(found[0][0]) if found else None

    def copy(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], source: str) -> str:
        names = DUCKDB.listing([column.name for column in columns])
        sql = self._written(f"SELECT {names} FROM {source}")
        return given(connection, self.connection.sql(sql).to_arrow_reader())

    def _written(self, sql: str) -> str:
        return self.schemas.rewritten(sql, DUCKDB.name)


class DuckDBLoadSession(LoadSession):
    """A load inside a transaction of a connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, schemas: Schemas) -> None:
        self.connection = connection
        self.dialect = replace(DUCKDB, schema=schemas.star)
        self.reader = DuckDBReader(connection, schemas)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    @cached_property
    def _had(self) -> Mapping[str, Mapping[str, tuple[str, bool]]]:
        """The columns of each table when the load began: but for its books it makes and drops nothing before it commits."""
        return self.reader.columns_by_table(SCHEMA)

    def columns(self, table: str) -> Mapping[str, tuple[str, bool]]:
        return self._had.get(table, {})

    def kind(self, name: str) -> Kind | None:
        return self.reader.kind(SCHEMA, name)

    def stage(self, name: str, rows: RowsToLoad) -> str:
        source = rows.source(self.connection)
        return source if rows.among is None else self.keep(name, f"FROM {source}")

    def stage_values(self, name: str, columns: Sequence[Column], values: "pa.Table") -> str:
        return typed(self.connection, columns, values)

    def keep(self, name: str, sql: str) -> str:
        return materialized(self.connection, sql)

    def create(self, table: StarTable) -> Sequence[str]:
        if not isinstance(table, Fact):
            return [*self.without_view(table.name), *_create(table, self.dialect)]
        view = f"{self.dialect.place(current(table.name))} AS {self.dialect.current_view(table)}"
        return [*_create(table, self.dialect), f"CREATE OR REPLACE VIEW {view}"]

    def commit(self, statements: Iterable[str], name: str) -> None:
        for statement in statements:
            reached("warehouse loading")
            self.connection.execute(statement)
        self.connection.execute("COMMIT")
        reached("warehouse committed")


def _create(table: StarTable | ControlTable, dialect: Dialect) -> list[str]:
    place = dialect.place(table.name)
    columns = ", ".join(
        f"{dialect.identifier(c.name)} {c.type.duckdb}{'' if c.type.nullable else ' NOT NULL'}"
        for c in table.columns
    )
    return [
        f"CREATE OR REPLACE TABLE {place} ({columns})",
        *dialect.comments(table),
    ]
