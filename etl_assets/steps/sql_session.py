"""A session in any database that SQLAlchemy can talk to: PostgreSQL, MySQL, MariaDB, SQLite, SQL Server."""

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql
from sqlalchemy.pool import NullPool

from etl_assets import faults
from etl_assets.steps import dialects
from etl_assets.steps.dialects import POSTGRES, POSTGRES_BACKSLASHES, Dialect
from etl_assets.steps.parameters import Value
from etl_assets.steps.sessions import BATCH_ROWS, Bound, IfExists, Session, SessionError

_PLAIN = (str, bytes, bool, int, float, Decimal, date, datetime, time, timedelta, list)
# Numbers of MySQL's errors whose texts name tables, columns, users and hosts, and no values.
_MYSQL_SYNTAX = 1064
_MYSQL_TELLING = {1044, 1045, 1049, 1050, 1051, 1054, 1109, 1142, 1146, 1305, 2002, 2003, 2006, 2013}


class SqlSession(Session):
    """A connection that stays open, with a transaction per call."""

    def __init__(self, url: str, database: str, setting: str) -> None:
        self.database = database
        self.setting = setting
        with self._told():
            self._engine = sa.create_engine(url, poolclass=NullPool, hide_parameters=True)
            self._connection = self._engine.connect()
        self._dialect = self._engine.dialect.name

    def read(self, query: Bound) -> Iterator[pa.Table]:
        with self._told(), self._connection.begin():
            clause, values = self._bound(query)
            options = {"stream_results": True, "max_row_buffer": BATCH_ROWS}
            with self._connection.execute(clause, values, execution_options=options) as result:
                if not result.returns_rows:
                    raise SessionError(f"{self.database}: the query answers nothing: is it a statement?")
                names = list(result.keys())
                _refuse_doubles(names)
                empty = True
                for rows in result.partitions(BATCH_ROWS):
                    empty = False
                    yield _arrow(names, rows)
                if empty:
                    yield _arrow(names, [])

    def execute(self, query: Bound) -> int | None:
        with self._told(), self._connection.begin():
            clause, values = self._bound(query)
            found = self._connection.execute(clause, values)
            affected = None if found.returns_rows or found.rowcount < 0 else int(found.rowcount)
            found.close()
            return affected

    def _bound(self, query: Bound) -> tuple[sa.TextClause, dict[str, Value]]:
        """A statement as SQLAlchemy takes it, and the values that it binds."""
        reading = query.read(self._reads(query.statement.sql))
        return reading.clause(query.parameters), {name: query.values[name] for name in reading.parameters}

    def _reads(self, sql: str) -> Sequence[Dialect]:
        """How the database reads a statement. Whether a backslash means something is asked: a session may change it."""
        if "\\" in sql and self._dialect == "postgresql":
            conforming = self._connection.scalar(sa.text("SHOW standard_conforming_strings"))
            return [POSTGRES if conforming == "on" else POSTGRES_BACKSLASHES]
        if "\\" in sql and self._dialect in {"mysql", "mariadb"}:
            return [dialects.mysql(str(self._connection.scalar(sa.text("SELECT @@sql_mode"))))]
        return dialects.dialects(self._dialect)

    def write(self, table: str, frame: pa.Table, if_exists: IfExists) -> int:
        schema, _, name = table.rpartition(".")
        frame = self._storable(frame)
        with self._told():
            if if_exists == "append" and self._exists(name, schema):
                columns: list[Any] = [sa.column(field.name, _type(field.type)) for field in frame.schema]
                with self._connection.begin():
                    self._insert(sa.table(name, *columns, schema=schema or None), frame)
                return int(frame.num_rows)
            return self._written_anew(name, schema, frame, if_exists)

    def _written_anew(self, name: str, schema: str, frame: pa.Table, if_exists: IfExists) -> int:
        """Fill another table, then put it into the place of the one that is meant: in databases that end a transaction with
        each CREATE too, nobody sees half a table."""
        there = self._exists(name, schema)
        if there and if_exists == "fail":
            raise SessionError(
                f'{self.database}: there is a table {name} already: write if_exists="replace" or "append" if that is meant'
            )
        columns = [sa.Column(field.name, _type(field.type), nullable=True) for field in frame.schema]
        filled = sa.Table(
            f"{name[:40]}_{uuid.uuid4().hex[:12]}", sa.MetaData(), *columns, schema=schema or None
        )
        try:
            with self._connection.begin():
                if schema and self._dialect == "postgresql" and not self._has_schema(schema):
                    self._connection.execute(sa.schema.CreateSchema(schema))
                filled.create(self._connection)
                self._insert(filled, frame)
                self._take_place(filled, name, schema, there)
        except BaseException:
            if self._dialect in {"mysql", "mariadb"}:  # what it created is not rolled back
                with self._connection.begin():
                    filled.drop(self._connection, checkfirst=True)
            raise
        return int(frame.num_rows)

    def _take_place(self, filled: sa.Table, name: str, schema: str, there: bool) -> None:
        quote = self._engine.dialect.identifier_preparer.quote
        prefix = f"{quote(schema)}." if schema else ""
        new, meant = f"{prefix}{quote(filled.name)}", f"{prefix}{quote(name)}"
        if self._dialect in {"mysql", "mariadb"}:
            old = f"{prefix}{quote(filled.name + '_old')}"
            swap = (
                f"RENAME TABLE {meant} TO {old}, {new} TO {meant}"
                if there
                else f"RENAME TABLE {new} TO {meant}"
            )
            self._driver(swap)
            if there:
                self._driver(f"DROP TABLE {old}")
            return
        if there:
            self._driver(f"DROP TABLE {meant}")
        if self._dialect == "mssql":
            self._connection.execute(
                sa.text("EXEC sp_rename :old, :new"),
                {"old": f"{schema}.{filled.name}".lstrip("."), "new": name},
            )
        else:
            self._driver(f"ALTER TABLE {new} RENAME TO {quote(name)}")

    def _driver(self, statement: str) -> None:
        """A statement made of quoted names; no value is in it."""
        self._connection.execute(sa.text(statement.replace(":", "\\:")))

    def _insert(self, table: Any, frame: pa.Table) -> None:
        for batch in frame.to_batches(max_chunksize=BATCH_ROWS):
            if batch.num_rows:
                self._connection.execute(sa.insert(table), batch.to_pylist())

    def _exists(self, name: str, schema: str) -> bool:
        with self._connection.begin():
            return bool(sa.inspect(self._connection).has_table(name, schema=schema or None))

    def _has_schema(self, schema: str) -> bool:
        return bool(sa.inspect(self._connection).has_schema(schema))

    def _storable(self, frame: pa.Table) -> pa.Table:
        """A frame in types that the database has: SQLite has no decimals, MySQL and SQLite no time zones."""
        for n, one in enumerate(frame.schema):
            column = frame.column(n)
            if pa.types.is_dictionary(one.type):
                column = pc.cast(column, one.type.value_type)
            elif pa.types.is_null(one.type) or (self._dialect == "sqlite" and pa.types.is_decimal(one.type)):
                column = pc.cast(column, pa.string())
            elif self._dialect in {"sqlite", "mysql", "mariadb"} and getattr(one.type, "tz", None):
                column = pc.cast(column, pa.timestamp(one.type.unit, "UTC")).cast(pa.timestamp("us"))
            if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
                column = _microseconds(one.name, column)
            frame = frame.set_column(n, one.name, column)
        return frame

    def close(self) -> None:
        with self._told():
            self._connection.close()
            self._engine.dispose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say what the database refused in one line without values, or that it can't be reached."""
        try:
            yield
        except exc.NoSuchModuleError:
            raise SessionError(f"{self.setting}: there is no driver for such a URL: {_DRIVERS}") from None
        except exc.ArgumentError:
            raise SessionError(f"{self.setting} can't be read: {_DRIVERS}") from None
        except ModuleNotFoundError as error:
            raise SessionError(
                f"{self.setting}: its driver is not installed: pip install {error.name}"
            ) from None
        except exc.DBAPIError as error:
            raise SessionError(f"{self.database}: {told(error.orig)}") from None
        except exc.SQLAlchemyError as error:
            raise SessionError(f"{self.database}: {type(error).__name__}") from None


_DRIVERS = (
    "write postgresql://user:password@host/database, mysql+pymysql://…, sqlite:///path or mssql+pyodbc://…, with special "
    "characters of user and password as %40 for @"
)


def open_sql(database: str, setting: str, url: str) -> SqlSession:
    """A session in the database behind a URL. Raises `SessionError`."""
    # As libpq has it too; SQLAlchemy does not.
    known = url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url
    return SqlSession(known, database, setting)


def told(error: BaseException | None) -> str:
    """What a driver says, in one line without values."""
    if error is None:
        return "it failed"
    if isinstance(error, psycopg2.Error):
        return faults.told(error)
    line = " ".join(str(error).split())
    if isinstance(error, sqlite3.OperationalError | sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return line  # values are bound apart from the text
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    if number in _MYSQL_TELLING:
        return f"{error.args[1]} ({number})"
    if number == _MYSQL_SYNTAX:
        return f"there is a mistake in the SQL ({number})"
    return f"{type(error).__name__}{f' {number}' if number is not None else ''}"


def _refuse_doubles(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SessionError(f"the query has two columns {', '.join(twice)}: give one another name (AS)")


def _arrow(names: Sequence[str], rows: Sequence[Any]) -> pa.Table:
    """Rows as Arrow has them; what it has no type for is text."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.table({name: _column(name, values) for name, values in zip(names, columns, strict=True)})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if not kinds <= set(_PLAIN):
        values = [_plain(value) for value in values]
    try:
        return pa.array(values)
    except pa.ArrowException:
        told = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise SessionError(
            f"column {name} has values that no one type holds ({told}): CAST it in the query"
        ) from None


def _microseconds(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as databases have them. Raises `SessionError` for one that is finer."""
    try:
        return pc.cast(column, pa.timestamp("us", column.type.tz))
    except pa.ArrowInvalid:
        raise SessionError(
            f"column {name} has times with fractions of a microsecond, which no database holds: round them first"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC)
    return value if value is None or isinstance(value, _PLAIN) else str(value)


_TYPES: Sequence[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], sa.types.TypeEngine[Any]]]] = (
    (pa.types.is_boolean, lambda _: sa.Boolean()),
    (pa.types.is_int64, lambda _: sa.BigInteger()),
    (pa.types.is_unsigned_integer, lambda _: sa.Numeric(20, 0)),
    (pa.types.is_integer, lambda _: sa.Integer()),
    (pa.types.is_floating, lambda _: sa.Double()),
    (pa.types.is_decimal, lambda kind: sa.Numeric(kind.precision, kind.scale)),
    (pa.types.is_date, lambda _: sa.Date()),
    (
        pa.types.is_timestamp,
        lambda kind: sa.DateTime(timezone=kind.tz is not None).with_variant(
            mysql.DATETIME(fsp=6), "mysql", "mariadb"
        ),
    ),
    (pa.types.is_time, lambda _: sa.Time().with_variant(mysql.TIME(fsp=6), "mysql", "mariadb")),
    (
        lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
        lambda _: sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb"),
    ),
    (
        lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
        lambda _: sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"),
    ),
)


def _type(kind: pa.DataType) -> sa.types.TypeEngine[Any]:
    for fits, made in _TYPES:
        if fits(kind):
            return made(kind)
    raise SessionError(f"a table can't have a column of type {kind}: bring it to a text or a number first")
