"""What a lake holds beside what its source says of itself: both as PostgreSQL's own text, the latter by plain SQL."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.engine import duck
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import DELETED, Current
from etl_assets.lake.files import Files
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.opening import open_files
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.table import Table

_EXACT = "-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c extra_float_digits=1 -c bytea_output=hex"


@dataclass(frozen=True)
class Content:
    """Column names in their order, and how often each row of text (None for NULL) occurs."""

    columns: tuple[str, ...]
    rows: Counter[tuple[str | None, ...]]


def connect(url: str) -> Connection:
    """A connection in which every statement is a transaction, with the settings under which text is exact."""
    connection = psycopg2.connect(url, options=_EXACT)
    connection.autocommit = True
    return connection


def execute(url: str, *statements: str) -> None:
    """Run statements, each a transaction of its own (or several that a `;` parts)."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def said(connection: Connection, table: str, schema: str = "public") -> Content:
    """A table as PostgreSQL writes it out at this moment, by the output functions of its types."""
    name = sql.Identifier(schema, table)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(name))
        columns = tuple(column.name for column in cursor.description or ())
        # num_nulls() tells a NULL from a composite value whose fields are all NULL, which IS NULL does not.
        text = [
            sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN format('%s', {0}) END").format(sql.Identifier(c))
            for c in columns
        ]
        cursor.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(text), name))
        return Content(columns, Counter(cursor.fetchall()))


@dataclass(frozen=True)
class Lake:
    """A lake in a folder, filled from the source at `url`."""

    url: str
    folder: Path
    reading: duckdb.DuckDBPyConnection | None = None
    """What the lake is read with, if that is shared: opening one costs as much as a read."""

    @property
    def path(self) -> Path:
        return self.folder / "lake"

    @property
    def files(self) -> Files:
        return open_files(str(self.path), self.path)

    def sync(self, *tables: Table, **options: Any) -> Manifest | None:
        """Take a batch as a run does."""
        request = CaptureRequest(self.url, tables, options.pop("run_id", "a test"), **options)
        progress = lambda table, size: None  # noqa: E731
        return take_batch(request, Batches(self.files), self.folder, progress)

    def committed(self, *tables: Table, **options: Any) -> Manifest:
        """Take a batch that must be there."""
        manifest = self.sync(*tables, **options)
        assert manifest is not None
        return manifest

    def latest(self) -> Manifest:
        manifest = Batches(self.files).latest()
        assert manifest is not None
        return manifest

    def everything(self) -> dict[str, bytes]:
        """The files of the lake and what is in them."""
        files = (path for path in sorted(self.path.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in files}

    def forget_bases(self) -> None:
        """Remove what is derived from the batches."""
        shutil.rmtree(self.path / "current", ignore_errors=True)

    def held(self, table: Table | str, upto: Manifest | None = None) -> Content:
        """The rows that the lake holds and does not hold for deleted."""
        content = self.ever_held(table, upto)
        assert content.columns[-1] == DELETED
        living = {row[:-1]: times for row, times in content.rows.items() if row[-1] == "false"}
        return Content(content.columns[:-1], Counter(living))

    def ever_held(self, table: Table | str, upto: Manifest | None = None) -> Content:
        """As `held`, with the deleted rows, and whether they are as the last column."""
        name = table if isinstance(table, str) else table.name
        with self._duck() as connection:
            relation = Current(Batches(self.files), connection).fold(name, upto or self.latest()).relation
            text = ", ".join(f"CAST({duck.identifier(c)} AS VARCHAR)" for c in relation.columns)
            return Content(tuple(relation.columns), Counter(relation.project(text).fetchall()))

    def is_exact(self, *tables: Table) -> bool:
        """Compare every table; fails with the rows that are too many or too few."""
        with closing(connect(self.url)) as connection:
            for table in tables:
                told, held = said(connection, table.source_name, table.schema), self.held(table)
                assert held.columns == told.columns
                assert (held.rows - told.rows, told.rows - held.rows) == (Counter(), Counter()), table.name
                assert self.latest().tables[table.name].rows == told.rows.total()
        return True

    @contextmanager
    def _duck(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if self.reading is not None:
            yield self.reading
            return
        with duck.connect(self.folder) as connection:
            yield connection
