"""The warehouse in PostgreSQL: rows come by COPY into temporary tables, and everything else is one transaction.

Keys are enforced: the key of a dimension and the surrogate key of a fact are primary keys, and each reference is a
foreign key, checked when the transaction commits. The role needs CREATE on the database (or a schema `star` that it
may create tables in) and TEMPORARY, and it owns what it made.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pyarrow as pa
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from pydantic import Field

from etl_assets import addresses, faults
from etl_assets.clients.secrets import SecretError, database_url
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier
from etl_assets.engine.scratch import own_folder
from etl_assets.failpoints import reached
from etl_assets.preflight import CheckResult, probed
from etl_assets.source.connection import SourceError, connect, unverified
from etl_assets.star.schema import Column, Fact, StarTable
from etl_assets.warehouse.contract import (
    Kind,
    LoadSession,
    RowsToLoad,
    Warehouse,
    WarehouseError,
    WarehouseInUse,
    WarehouseReader,
    given,
)
from etl_assets.warehouse.dialect import (
    BATCHES,
    BOOKS,
    SUPERSEDED,
    ControlTable,
    Dialect,
    current,
    is_outdated,
)
from etl_assets.warehouse.postgres_reader import BUFFER_BYTES, PostgresReader, columns_of, kind_of
from etl_assets.warehouse.schemas import Schemas


class PostgresDialect(Dialect):
    """Bytes are written by a function of its own."""

    def hexadecimal(self, value: str) -> str:
        return f"encode({value}, 'hex')"


SETTING = "ETL_WAREHOUSE_URL"
_DIALECT = PostgresDialect("postgres")
_LOADING = 0x65746C  # the number of the advisory lock of whoever loads, beside that of the schema; locks are per database
_ADVICE = {
    errorcodes.INSUFFICIENT_PRIVILEGE: f"grant it to the role of {SETTING} (docs/warehouses.md lists the rights)",
    errorcodes.UNTRANSLATABLE_CHARACTER: "the database's encoding does not have every character of the source: name one that was made "
    "with ENCODING 'UTF8'",
    errorcodes.READ_ONLY_SQL_TRANSACTION: f"name the primary in {SETTING}, or ALTER ROLE … SET default_transaction_read_only = off",
    errorcodes.DEPENDENT_OBJECTS_STILL_EXIST: "drop what depends on it, run again, and create it anew",
}
# The second keeps bytes as they come.
_EVERY_CHARACTER = {"UTF8", "SQL_ASCII"}
_names = count()


class PostgresWarehouse(Warehouse):
    """A database of a PostgreSQL server (13 or newer)."""

    url: str = Field(
        json_schema_extra={"dagster__is_secret": True}, description="postgresql://user:password@host/database"
    )
    scratch: str = Field(description="Folder for what is on its way.")
    wait_seconds: float = Field(default=30, ge=0, description="How long to wait for another load to end.")

    @property
    def where(self) -> str:
        return addresses.database(self.url)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection in a transaction that ends with it."""
        Path(self.scratch).mkdir(parents=True, exist_ok=True)
        try:
            connection = connect(
                database_url(self.url, SETTING), "etl warehouse", setting=SETTING, as_source=False
            )
        except (SourceError, SecretError) as error:  # their texts speak of the setting
            raise WarehouseError(str(error)) from None
        with closing(connection), explained(self.where):
            connection.autocommit = False
            yield connection

    def standing(self) -> str | None:
        schema = identifier(self.schemas.star)
        with self.connect() as connection, connection.cursor() as cursor:
            # How often rows were written: the server counts it, and tells it within seconds.
            cursor.execute(
                "SELECT c.relname, c.oid, c.relfilenode, c.xmin::text, pg_stat_get_tuples_inserted(c.oid) "
                "+ pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid), "
                "(SELECT string_agg(concat(a.attnum, ':', a.xmin), ',' ORDER BY a.attnum) FROM pg_attribute a "
                "WHERE a.attrelid = c.oid) FROM pg_class c "
                "WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind IN ('r', 'p', 'v') ORDER BY c.relname",
                (schema,),
            )
            found = cursor.fetchall()
            newest: Sequence[object] = ()
            if BATCHES.name in {name for name, *_ in found}:
                cursor.execute(f"SELECT * FROM {schema}.{BATCHES.name} ORDER BY batch DESC LIMIT 1")
                newest = cursor.fetchall()
        return hashlib.sha256(repr([found, newest, self.noted()]).encode()).hexdigest()

    def check(self) -> Iterator[CheckResult]:
        """Try to make what a load makes; what is tried is rolled back."""
        connected = probed("connect", self._connected)
        yield connected
        if connected.state == "ok":
            with self.connect() as connection:
                advice = unverified(connection, SETTING)
                encoding = connection.info.parameter_status("server_encoding")
            if advice:
                yield CheckResult("tls", advice, "advice")
            if encoding not in _EVERY_CHARACTER:
                yield CheckResult(
                    "encoding",
                    f"the database's encoding is {encoding}: rows with a character that it does not have can't be loaded; name "
                    "one that was made with ENCODING 'UTF8'",
                    "advice",
                )
            yield probed("load", self._rehearsed)

    def _connected(self) -> str:
        with self.connect() as connection:
            return f"{self.where}: PostgreSQL {connection.info.parameter_status('server_version')}"

    def _rehearsed(self) -> str:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE doctor (id integer) ON COMMIT DROP")
            names = [self.schemas.star, self.schemas.reporting]
            for name in names:
                create_schema(cursor, name)
                cursor.execute(f"CREATE TABLE {identifier(name)}.doctor_{uuid.uuid4().hex} (id integer)")
            cursor.execute(
                "SELECT schemaname || '.' || tablename, tableowner::text FROM pg_tables "
                "WHERE schemaname = ANY(%s) AND NOT pg_has_role(tableowner, 'USAGE') LIMIT 1",
                (names,),
            )
            foreign = cursor.fetchone()
            connection.rollback()
        if foreign:
            raise WarehouseError(
                f"{self.where}: {foreign[0]} belongs to {foreign[1]}; give it to the role of {SETTING}"
            )
        return f"schemas {' and '.join(names)} can be made and filled"

    @contextmanager
    def reading(self) -> Iterator[WarehouseReader]:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield PostgresReader(cursor, Path(self.scratch), self.schemas)

    @contextmanager
    def session(self) -> Iterator[LoadSession]:
        with (
            self.connect() as connection,
            connection.cursor() as cursor,
            duck.connect(Path(self.scratch)) as lake,
        ):
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{self.wait_seconds:.0f}s",))
            try:
                cursor.execute(
                    "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOADING, self.schemas.star)
                )
            except psycopg2.errors.LockNotAvailable:
                raise WarehouseInUse(
                    f"{self.where}: another run is loading schema {self.schemas.star}; try again when it is done"
                ) from None
            session = PostgresLoadSession(cursor, lake, Path(self.scratch), self.schemas)
            d = session.dialect
            for book in BOOKS:
                if is_outdated(book, held := session.columns(book.name), d):
                    # In place: others may have been granted to read it.
                    cursor.execute(f"ALTER TABLE {d.place(book.name)} {_carrying_on(book, held, d)}")
                if not session.columns(book.name):
                    create_schema(cursor, d.schema)
                    for statement in [*_create(book, d), _primary_key(book.name, book.key, d)]:
                        cursor.execute(statement)
            yield session


class PostgresLoadSession(LoadSession):
    """A load inside a transaction."""

    def __init__(
        self, cursor: Cursor, lake: duckdb.DuckDBPyConnection, scratch: Path, schemas: Schemas
    ) -> None:
        self.dialect = replace(_DIALECT, schema=schemas.star)
        self.cursor = cursor
        self.lake = lake
        self.scratch = scratch

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        self.cursor.execute(sql)
        return self.cursor.fetchall()

    def columns(self, table: str) -> Mapping[str, tuple[str, bool]]:
        return columns_of(self.cursor, self.dialect.schema, table)

    def kind(self, name: str) -> Kind | None:
        return kind_of(self.cursor, self.dialect.schema, name)

    def keyed_by(self, table: str) -> Sequence[str]:
        self.cursor.execute(
            "SELECT a.attname FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey) "
            "WHERE c.contype = 'p' AND c.conrelid = to_regclass(%s)",
            (self.dialect.place(table),),
        )
        return [name for (name,) in self.cursor.fetchall()]

    def stage(self, name: str, rows: RowsToLoad) -> str:
        return self._copy(name, rows.table.columns, rows.source(self.lake))

    def stage_values(self, name: str, columns: Sequence[Column], values: pa.Table) -> str:
        return self._copy(name, columns, given(self.lake, values))

    def keep(self, name: str, sql: str) -> str:
        kept = f"kept_{next(_names)}_{name}"  # the number first: PostgreSQL cuts long names off
        self.cursor.execute(f"CREATE TEMP TABLE {identifier(kept)} ON COMMIT DROP AS {sql}")
        return self._counted(kept)

    def create(self, table: StarTable) -> Sequence[str]:
        place = self.dialect.place(table.name)
        view = self.dialect.place(current(table.name))
        return [
            *self._released(table.name, "confrelid"),
            *self.without_view(table.name),
            f"DROP TABLE IF EXISTS {place}",
            *_create(table, self.dialect),
            *(
                [f"CREATE VIEW {view} AS {self.dialect.current_view(table)}"]
                if isinstance(table, Fact)
                else []
            ),
        ]

    def retire(self, names: Sequence[str]) -> Sequence[str]:
        released = [statement for name in names for statement in self._released(name, "confrelid")]
        return [*released, *super().retire(names)]

    def empty(self, table: StarTable) -> Sequence[str]:
        # Its references are checked by one join when it is full again, not row by row. TRUNCATE would be faster, but
        # who reads in a snapshot from before would see nothing.
        return [*self._released(table.name, "conrelid"), *super().empty(table)]

    def put(self, table: StarTable, keys: str, source: str) -> Sequence[str]:
        # In place: a member that is deleted and inserted again would be looked for in all facts.
        names, key, d = [column.name for column in table.columns], table.key_columns, self.dialect
        place = d.place(table.name)
        updates = ", ".join(
            f"{identifier(name)} = EXCLUDED.{identifier(name)}" for name in names if name not in key
        )
        return [
            f"INSERT INTO {place} ({d.listing(names)}) {source} "
            f"ON CONFLICT ({d.listing(key)}) DO UPDATE SET {updates}",
            f"DELETE FROM {place} AS t WHERE EXISTS (SELECT 1 FROM {keys} AS k WHERE {d.same(key, 'k', 't')}) "
            f"AND NOT EXISTS (SELECT 1 FROM ({source}) AS s WHERE {d.same(key, 's', 't')})",
        ]

    def settle(self, tables: Mapping[str, StarTable], created: set[str], emptied: set[str]) -> Sequence[str]:
        keys, indexes, references = [], [], []
        for name in sorted(created):
            table = tables[name]
            keys.append(_primary_key(name, table.primary_key, self.dialect))
            if table.key_columns != table.primary_key:
                indexes.append(
                    f"CREATE INDEX ON {self.dialect.place(name)} ({self.dialect.listing(table.key_columns)})"
                )
        for table in tables.values():
            for columns, dimension in table.links.items():
                if {table.name, dimension} & (created | emptied) and self._agree(
                    table, columns, tables[dimension], created
                ):
                    references.append(_foreign_key(table.name, columns, tables[dimension], self.dialect))
        if not (keys or references):
            return []
        return [
            "SET CONSTRAINTS ALL IMMEDIATE",  # no table can be altered while checks of it are waiting
            *keys,
            *indexes,
            *references,
            *(
                f"ANALYZE {self.dialect.place(name)}"
                for name in (*sorted(created | emptied), SUPERSEDED.name)
            ),
        ]

    def _agree(
        self, table: StarTable, columns: Sequence[str], dimension: StarTable, created: set[str]
    ) -> bool:
        """Whether a table and the dimension that it refers to are there as declared, as far as the reference goes: a
        table that is not loaded now may be declared otherwise meanwhile."""
        refers = table.name in created or self.dialect.declares(self.columns(table.name), table, columns)
        key = dimension.key_columns
        return refers and (
            dimension.name in created
            or (
                self.dialect.declares(self.columns(dimension.name), dimension, key)
                and set(self.keyed_by(dimension.name)) == set(key)
            )
        )

    def commit(self, statements: Iterable[str], name: str) -> None:
        for statement in statements:
            reached("warehouse loading")
            self.cursor.execute(statement)
        self.cursor.connection.commit()
        reached("warehouse committed")

    def _copy(self, name: str, columns: Sequence[Column], source: str) -> str:
        """A temporary table with rows of the lake's DuckDB."""
        staged = f"staged_{next(_names)}_{name}"
        place = identifier(staged)
        self.cursor.execute(f"CREATE TEMP TABLE {place} ({declared(columns)}) ON COMMIT DROP")
        copy_in(self.cursor, place, columns, self.lake, source, self.scratch)
        return self._counted(staged)

    def _counted(self, table: str) -> str:
        """A temporary table, with what the planner must know of it: nobody else tells it."""
        place = identifier(table)
        self.cursor.execute(f"ANALYZE {place}")
        return place

    def _released(self, table: str, side: str) -> list[str]:
        """Statements that drop the star's foreign keys that refer to a table (confrelid) or are of it (conrelid)."""
        self.cursor.execute(
            f"SELECT r.relname, c.conname FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid "
            f"WHERE c.contype = 'f' AND c.{side} = to_regclass(%s) AND c.connamespace = to_regnamespace(%s)",
            (self.dialect.place(table), self.dialect.identifier(self.dialect.schema)),
        )
        return [
            f"ALTER TABLE {self.dialect.place(name)} DROP CONSTRAINT {identifier(constraint)}"
            for name, constraint in self.cursor.fetchall()
        ]


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn the driver's errors into one line, which quotes no row."""
    try:
        yield
    except psycopg2.Error as error:
        line = faults.told(error)
        if error.pgcode == errorcodes.DEPENDENT_OBJECTS_STILL_EXIST and error.diag.message_detail:
            line += f" ({' '.join(error.diag.message_detail.split())})"  # names of views
        if error.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
            raise WarehouseInUse(f"{where}: {line}; somebody holds a table, try again later") from None
        advice = _ADVICE.get(error.pgcode or "")
        if advice is None and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
            advice = "run again: it finds out what was committed"
        raise WarehouseError(f"{where}: {line}" + (f"; {advice}" if advice else "")).with_traceback(
            error.__traceback__
        ) from None


def create_schema(cursor: Cursor, name: str) -> None:
    """Create a schema if there is none. IF NOT EXISTS would ask for the right to create where nothing is to create."""
    cursor.execute("SELECT to_regnamespace(%s) IS NULL", (identifier(name),))
    if cursor.fetchall() == [(True,)]:
        cursor.execute(f"CREATE SCHEMA {identifier(name)}")


def copy_in(
    cursor: Cursor,
    place: str,
    columns: Sequence[Column],
    lake: duckdb.DuckDBPyConnection,
    source: str,
    scratch: Path,
) -> None:
    """COPY rows of a DuckDB (what stands after FROM) into a table, by way of a file: DuckDB writes it on all cores, and
    memory stays constant."""
    chosen = ", ".join(f"{_as_text(c)} AS {identifier(c.name)}" for c in columns)
    with own_folder(scratch, "warehouse-") as folder:
        file = folder / "rows.csv"
        relation = lake.sql(f"SELECT {chosen} FROM {source}")
        # To servers before PostgreSQL 17 a line of \. ends what comes, unless it stands in quotes.
        texts = [
            name for name, kind in zip(relation.columns, relation.types, strict=True) if kind == "VARCHAR"
        ]
        sent = duck.write_csv(relation, file, quoted=texts)
        with file.open("rb") as stream:
            cursor.copy_expert(f"COPY {place} FROM STDIN (FORMAT csv, HEADER)", stream, BUFFER_BYTES)
        if cursor.rowcount != sent:
            raise WarehouseError(
                f"of {sent:,} rows for {place} {cursor.rowcount:,} arrived; nothing was loaded, please report this"
            )


def declared(columns: Sequence[Column]) -> str:
    return ", ".join(
        f"{identifier(c.name)} {c.type.postgres}{'' if c.type.nullable else ' NOT NULL'}" for c in columns
    )


def _create(table: StarTable | ControlTable, dialect: Dialect) -> list[str]:
    return [
        f"CREATE TABLE {dialect.place(table.name)} ({declared(table.columns)})",
        *dialect.comments(table),
    ]


def _carrying_on(book: ControlTable, held: Mapping[str, tuple[str, bool]], dialect: Dialect) -> str:
    """What makes an outdated book, with the columns that it has, one of now."""
    changes = []
    for column in book.columns:
        name, kind = dialect.identifier(column.name), dialect.type(column.type)
        if column.name not in held:
            changes.append(f"ADD COLUMN {declared([column])}")
        elif held[column.name][0] != kind:
            changes.append(f"ALTER COLUMN {name} TYPE {kind} USING {dialect.cast(name, column.type)}")
    return ", ".join(changes)


def _primary_key(table: str, key: Sequence[str], dialect: Dialect) -> str:
    return f"ALTER TABLE {dialect.place(table)} ADD PRIMARY KEY ({dialect.listing(key)})"


def _foreign_key(table: str, columns: Sequence[str], dimension: StarTable, dialect: Dialect) -> str:
    return (
        f"ALTER TABLE {dialect.place(table)} ADD FOREIGN KEY ({dialect.listing(columns)}) REFERENCES "
        f"{dialect.place(dimension.name)} ({dialect.listing(dimension.key_columns)}) DEFERRABLE INITIALLY DEFERRED"
    )


def _as_text(column: Column) -> str:
    """DuckDB's SQL for the text of a value as PostgreSQL reads it."""
    name = identifier(column.name)
    return f"'\\x' || lower(hex({name}))" if column.type.name == "bytea" else name
