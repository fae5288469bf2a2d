"""COPY from the source into a file, in constant memory, counted and hashed on the way."""

import csv
import hashlib
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from psycopg2 import extensions, sql
from psycopg2.errors import CharacterNotInRepertoire, UntranslatableCharacter
from psycopg2.extensions import connection as Connection

from etl_assets.failpoints import reached
from etl_assets.lake.files import BUFFER_BYTES, buffered
from etl_assets.raw.sizes import MAX_ROW_BYTES, check
from etl_assets.source.catalog import Relation
from etl_assets.source.connection import SourceError, explained

Progress = Callable[[str, int], None]
"""Called now and then with a table's name and the bytes that were read of it since the last call."""


@dataclass(frozen=True)
class Copied:
    """What was copied. `longest_row`: no row has more bytes; 0 where none is unusually long. `copy_seconds`: in which nothing
    but the COPY went on, as `psql \\copy` to nowhere would take."""

    rows: int
    bytes: int
    sha256: str
    longest_row: int = 0
    copy_seconds: float = 0.0


def copy(
    connection: Connection, query: sql.Composable, target: BinaryIO, relation: Relation, progress: Progress
) -> Copied:
    """Write the rows of `query` to `target` as CSV with a header, in PostgreSQL's own text."""
    digest = hashlib.sha256()
    table = relation.table.name
    size = largest = 0
    written_seconds = 0.0

    def block(content: memoryview) -> None:
        nonlocal size, largest, written_seconds
        began = time.monotonic()
        digest.update(content)
        largest = max(
            largest, content.nbytes
        )  # of a row that is larger than a block all comes at once but its begin
        target.write(content)
        size += content.nbytes
        progress(table, content.nbytes)
        reached("block copied")
        written_seconds += time.monotonic() - began

    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(query).as_string(connection)
    with explained(f"reading table {table}"), connection.cursor() as cursor:
        try:
            started = time.monotonic()
            with buffered(block) as writer:
                cursor.copy_expert(statement, writer)
        except (CharacterNotInRepertoire, UntranslatableCharacter) as error:
            raise _no_text(connection, statement, relation) from error
        copy_seconds = time.monotonic() - started - written_seconds
        rows = cursor.rowcount
    if largest > 2 * MAX_ROW_BYTES:  # CSV may write each character twice
        check(connection, relation, largest, 0)
    longest = largest + BUFFER_BYTES if largest > BUFFER_BYTES else 0
    return Copied(rows, size, digest.hexdigest(), longest, copy_seconds)


def _no_text(connection: Connection, statement: str, relation: Relation) -> SourceError:
    """An error that names the value that can't be read as text. The transaction has failed already."""
    encoding = connection.info.parameter_status("server_encoding") or ""
    codec = "utf-8" if encoding == "SQL_ASCII" else extensions.encodings.get(encoding, "utf-8")
    table = relation.table.name
    rows = _Undecodable(codec)
    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")
        cursor.execute("SET client_encoding = 'SQL_ASCII'")  # bytes as they are
        cursor.copy_expert(statement, rows)
    for column, value in rows.found.items():
        try:
            value.decode(codec)
        except UnicodeDecodeError as wrong:
            key = ", ".join(rows.found[name].decode(codec, "backslashreplace") for name in relation.key)
            return SourceError(
                f"the {column} of row ({key}) of {table} holds bytes that are no text (byte {wrong.start + 1}, in a "
                f"database whose encoding is {encoding}): mend the value in the source, or leave the column out in "
                f"the table's declaration (exclude=({column!r},)); nothing was committed"
            )
    return SourceError(f"table {table} holds bytes that are no text; nothing was committed")


class _Undecodable:
    """Gets rows of a COPY one by one and keeps the first that is no text: its values by column. A table may be larger than the
    memory, and than where temporary files lie."""

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self.found: dict[str, bytes] = {}
        self._header: list[bytes] = []

    def write(self, row: bytes) -> int:
        if not self._header:
            self._header = _values(row)
        elif not self.found:
            try:
                row.decode(self.codec)
            except UnicodeDecodeError:
                names = [name.decode(self.codec, "backslashreplace") for name in self._header]
                self.found = dict(zip(names, _values(row), strict=True))
        return len(row)


def _values(row: bytes) -> list[bytes]:
    csv.field_size_limit(sys.maxsize)
    (values,) = csv.reader(io.StringIO(row.decode("latin-1"), newline=""))
    return [value.encode("latin-1") for value in values]
