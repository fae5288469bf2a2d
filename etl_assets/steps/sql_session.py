"""A session in any database that SQLAlchemy can talk to: PostgreSQL, MySQL, MariaDB, SQLite, SQL Server."""

import re
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
import pyarrow as pa
import sqlalchemy as sa
from psycopg2 import extensions
from sqlalchemy import exc
from sqlalchemy.pool import NullPool

from etl_assets import faults
from etl_assets.steps import dialects
from etl_assets.steps.appending import refuse_rounding
from etl_assets.steps.dialects import POSTGRES, POSTGRES_BACKSLASHES, LexicalRules
from etl_assets.steps.parameters import Value
from etl_assets.steps.sessions import BATCH_ROWS, Bound, IfExists, Session, SessionError
from etl_assets.steps.sql_values import (
    arrow,
    bound,
    bound_type,
    column_type,
    refuse_doubles,
    refuse_names,
    rows,
    storable,
)

# Numbers of MySQL's errors whose texts name tables, columns, users and hosts, and no values.
_MYSQL_SYNTAX = 1064
_MONTHS = re.compile(r"mon|year")
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
        if self._engine.driver == "psycopg2":
            exact = extensions.new_type(extensions.PYINTERVAL.values, "INTERVAL", _interval)
            extensions.register_type(exact, self._connection.connection.driver_connection)

    def read(self, query: Bound) -> Iterator[pa.Table]:
        with self._told(), self._connection.begin():
            clause, values = self._bound(query)
            options = {"stream_results": True, "max_row_buffer": BATCH_ROWS}
            with self._connection.execute(clause, values, execution_options=options) as result:
                if not result.returns_rows:
                    raise SessionError(f"{self.database}: the query answers nothing: is it a statement?")
                names = list(result.keys())
                refuse_doubles(names)
                empty = True
                for part in result.partitions(BATCH_ROWS):
                    empty = False
                    yield arrow(names, part)
                if empty:
                    yield arrow(names, [])

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
        values = {name: bound(name, query.values[name], self._dialect) for name in reading.parameters}
        types = {name: bound_type(query.parameters[name], values[name], self._dialect) for name in values}
        return reading.clause(types), values

    def _reads(self, sql: str) -> Sequence[LexicalRules]:
        """How the database reads a statement. Whether a backslash means something is asked: a session may change it."""
        if "\\" in sql and self._dialect == "postgresql":
            conforming = self._connection.scalar(sa.text("SHOW standard_conforming_strings"))
            return [POSTGRES if conforming == "on" else POSTGRES_BACKSLASHES]
        if "\\" in sql and self._dialect in {"mysql", "mariadb"}:
            return [dialects.mysql(str(self._connection.scalar(sa.text("SELECT @@sql_mode"))))]
        return dialects.dialects(self._dialect)

    def write(self, table: str, frame: pa.Table, if_exists: IfExists) -> int:
        schema, _, name = table.rpartition(".")
        refuse_names([name, *([schema] if schema else []), *frame.column_names], self._dialect)
        given, frame = frame, storable(frame, self._dialect)
        with self._told():
            if if_exists == "append" and self._exists(name, schema):
                refuse_rounding(given, self._columns(name, schema), self._dialect)
                columns: list[Any] = [
                    sa.column(field.name, column_type(field.type)) for field in frame.schema
                ]
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
                f'{self.database}: there is a table {f"{schema}.{name}".lstrip(".")} already: write if_exists="replace" or "append" if that is meant'
            )
        columns = [sa.Column(field.name, column_type(field.type), nullable=True) for field in frame.schema]
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
                self._connection.execute(sa.insert(table), rows(batch))

    def _exists(self, name: str, schema: str) -> bool:
        with self._connection.begin():
            return bool(sa.inspect(self._connection).has_table(name, schema=schema or None))

    def _columns(self, name: str, schema: str) -> dict[str, sa.types.TypeEngine[Any]]:
        with self._connection.begin():
            found = sa.inspect(self._connection).get_columns(name, schema=schema or None)
            return {one["name"]: one["type"] for one in found}

    def _has_schema(self, schema: str) -> bool:
        return bool(sa.inspect(self._connection).has_schema(schema))

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


def _interval(text: str | bytes | None, cursor: Any) -> Any:
    """A duration of PostgreSQL as Python has it. Raises `SessionError` for months, which the driver would take for 30 days."""
    if text and _MONTHS.search(str(text)):
        raise SessionError(
            "an interval has months or years, whose days nobody knows: CAST it to text in the query"
        )
    return extensions.PYINTERVAL(text, cursor)


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
