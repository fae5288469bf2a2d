"""COPY from the source into a file, in constant memory, counted and hashed on the way."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.capture.catalog import Relation
from etl_assets.capture.connection import explained
from etl_assets.failpoints import reached
from etl_assets.lake.files import buffered

Progress = Callable[[str, int], None]
"""Called now and then with a table's name and the bytes that were read of it since the last call."""


@dataclass(frozen=True)
class Copied:
    rows: int
    bytes: int
    sha256: str


def select(relation: Relation, where: sql.Composable | None = None) -> sql.Composed:
    """All columns of a relation, in the catalog's order."""
    return sql.SQL("SELECT {} FROM {}{}").format(
        sql.SQL(", ").join(sql.Identifier(name) for name in relation.names),
        sql.Identifier(relation.table.schema, relation.table.name),
        sql.SQL(" WHERE ") + where if where else sql.SQL(""),
    )


def copy(
    connection: Connection, query: sql.Composable, target: BinaryIO, table: str, progress: Progress
) -> Copied:
    """Write the rows of `query` to `target` as CSV with a header, in PostgreSQL's own text."""
    digest = hashlib.sha256()
    size = 0

    def block(content: memoryview) -> None:
        nonlocal size
        digest.update(content)
        target.write(content)
        size += content.nbytes
        progress(table, content.nbytes)
        reached("block copied")

    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(query).as_string(connection)
    with explained(f"reading table {table}"), connection.cursor() as cursor, buffered(block) as writer:
        cursor.copy_expert(statement, writer)
        rows = cursor.rowcount
    return Copied(rows, size, digest.hexdigest())
