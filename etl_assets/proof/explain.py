"""The way of one row: the source as it is, what each batch brought of it and where that stands in the lake, the
versions of it in the star, and what the warehouse has.

Everything is looked up, nothing is remembered for this. No output: `etl explain` prints a `Story`.
"""

import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from etl_assets.apis.answers import records_in
from etl_assets.apis.declaration import Api
from etl_assets.apis.records import Rows
from etl_assets.apis.takes import Take, files_of
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.errors import EtlError
from etl_assets.lake.current import BATCH, storage, view
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import LandedFile, Manifest, SourceColumn
from etl_assets.lake.names import number
from etl_assets.source.catalog import describe
from etl_assets.source.connection import connect, explained, find_names
from etl_assets.source.table import Table
from etl_assets.star.frames import Frames
from etl_assets.star.function import StarFunction
from etl_assets.star.lineage import carried_key
from etl_assets.star.schema import Fact
from etl_assets.warehouse.contract import WarehouseReader
from etl_assets.warehouse.duckdb import DuckDBReader

_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")

Row = Mapping[str, str | None]
"""A source row in PostgreSQL's text."""


class UnknownTable(EtlError):
    """Neither a source table nor a star table."""


class WrongKey(EtlError):
    """A key that has not as many parts as the table's."""


@dataclass(frozen=True)
class Arrival:
    """A batch brought a version of the row, or its deletion (then `values` is the key). The record begins at `line`
    (1 is the first) of `file`."""

    batch: str
    server_time: datetime
    file: str
    line: int
    deleted: bool
    values: Row


@dataclass(frozen=True)
class QuarantinedValue:
    """A value of the row that can't be represented as declared, and the line of the report that says so."""

    batch: str
    column: str
    value: str | None
    reason: str
    file: str
    line: int


@dataclass(frozen=True)
class Version:
    """A row of a star table. Dimensions have neither `record` nor `batch`. `current`: this is what counts now."""

    table: str
    file: str | None
    record: int | None
    batch: str | None
    deleted: bool
    current: bool
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Story:
    """All there is to know of a row. `table` is the source table, None for a star table that is made from none;
    `source` is None if the source does not have it, or was not asked. `context_of`: star tables that look the row up."""

    table: str | None
    key: Sequence[str]
    asked_source: bool
    source: Row | None
    arrivals: Sequence[Arrival]
    misfits: Sequence[QuarantinedValue]
    star: Sequence[Version]
    warehouse: Sequence[Version] | None
    context_of: Sequence[str]
    pages: Sequence[str] = ()
    """Of the record of an API: the pages of the batch that last brought it which have it, as file and page."""

    @property
    def seen(self) -> bool:
        return bool(self.source or self.arrivals or self.star or self.warehouse)

    @property
    def newer_in_source(self) -> Sequence[str] | None:
        """The columns in which the source differs from the newest version landed; None if nothing can be compared."""
        newest = self.arrivals[-1] if self.arrivals else None
        if newest is None or newest.deleted or self.source is None:
            return None
        return [name for name in self.source if self.source[name] != newest.values.get(name)]


class Explainer:
    """Follows a row of a table, which is a source table or a star table, through the lake of a builder."""

    def __init__(self, frames: Frames, manifest: Manifest, name: str) -> None:
        self.frames = frames
        self.inputs = frames.inputs
        self.manifest = manifest
        self.name = name
        if name not in {*self.inputs.tables, *self.inputs.star}:
            raise UnknownTable(
                f"there is no table {name}; there are {', '.join([*self.inputs.tables, *self.inputs.star])}"
            )

    @cached_property
    def table(self) -> Table | None:
        """The source table whose row it is."""
        first = self.name if self.name in self.inputs.tables else self.inputs.star[self.name].inputs[0]
        return self.inputs.tables.get(first)

    @cached_property
    def made(self) -> list[StarFunction]:
        """The star tables of which each row is made from a row of the source table."""
        if self.name in self.inputs.star:
            return [self.inputs.star[self.name]]
        return [made for made in self.inputs.star.values() if made.inputs[0] == self.name]

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The columns of the key."""
        if self.table is None:
            return self.inputs.star[self.name].schema.key_columns
        if self.table.name not in self.manifest.tables:
            raise LakeError(f"the lake holds nothing of {self.table.name} yet: run etl run")
        key = self.manifest.tables[self.table.name].key
        if self.name in self.inputs.star:
            carried = carried_key(self.made[0], self.inputs, key)
            if carried is None or list(carried) != list(self.made[0].schema.key_columns):
                raise UnknownTable(
                    f"the key of {self.name} is none of the source's: ask for {self.table.name}"
                )
        return key

    def parsed(self, text: str) -> list[str]:
        """The parts of a key that somebody wrote, `a,b` if it has several. Raises `WrongKey`."""
        parts = [text] if len(self.key) == 1 else next(csv.reader([text]), [])
        if len(parts) != len(self.key):
            raise WrongKey(
                f"the key of {self.name} is {','.join(self.key)}: write it like that, in this order"
            )
        if self.table is None:
            return parts
        return [
            str(int(part)) if name in self._integers and _INTEGER.fullmatch(part) else part
            for name, part in zip(self.key, parts, strict=True)
        ]

    @cached_property
    def _integers(self) -> set[str]:
        """The columns of the source table that hold integers."""
        columns = self.manifest.tables[self.table.name].columns if self.table else ()
        return {column.name for column in columns if storage(column.type) == "BIGINT"}

    def story(
        self,
        key: Sequence[str],
        source_url: str | None,
        warehouse: WarehouseReader | None,
        api: Api | None = None,
    ) -> Story:
        """Look up everything. Without a `source_url` the source is not asked, without `warehouse` that isn't. `api`: the one
        whose record it is; it is not asked, its pages are looked through."""
        source = source_row(source_url, self.table, key) if source_url and self.table else None
        if source:  # as it is landed: to the source 1.5 may be 1.50, and k one of char(5)
            key = [source[name] or part for name, part in zip(self.key, key, strict=True)]
        arrivals = list(self._arrivals(self.table.name, key)) if self.table else []
        wanted = {made.name: found for made in self.made if (found := self._named(made, key)) is not None}
        return Story(
            table=self.table.name if self.table else None,
            key=key,
            asked_source=source_url is not None and self.table is not None,
            source=source,
            arrivals=arrivals,
            misfits=list(self._misfits(self.table.name, key)) if self.table else [],
            star=[v for name, value in wanted.items() for v in self._published(name, value)],
            warehouse=None
            if warehouse is None
            else [v for name, value in wanted.items() for v in self._loaded(warehouse, name, value)],
            context_of=[
                made.name
                for made in self.inputs.star.values()
                if self.name in self.inputs.tables and self.name in made.inputs[1:]
            ],
            pages=list(self._pages(api, key, arrivals[-1])) if api and arrivals else [],
        )

    def _named(self, made: StarFunction, key: Sequence[str]) -> tuple[object, ...] | None:
        """The key as a star table has it, None if it can't have it, or if it is not made of the source's key alone."""
        carried = self.key if self.table is None else carried_key(made, self.inputs, self.key)
        if carried is None:
            return None
        if any(n in self._integers and not _INTEGER.fullmatch(k) for n, k in zip(self.key, key, strict=True)):
            return None  # DuckDB would round 7.4
        types = made.schema.by_name
        values = dict(zip(carried, key, strict=True))
        chosen = ", ".join(
            f"TRY_CAST(${name} AS {types[column].type.duckdb})"
            for name, column in ((f"key_{i}", column) for i, column in enumerate(made.schema.key_columns))
        )
        params = {f"key_{i}": values[column] for i, column in enumerate(made.schema.key_columns)}
        found = duck.one(self.frames.connection, f"SELECT {chosen}", params)
        return None if None in found else found

    # -- the lake ------------------------------------------------------------------------------------------------

    def _arrivals(self, table: str, key: Sequence[str]) -> Iterator[Arrival]:
        batches = list(self.frames.batches.changing(table, self.manifest))[::-1]
        holding = {
            kind: self._holding([f for m in batches if (f := getattr(m.changed[table], kind))], key)
            for kind in ("rows", "deletions")
        }
        for manifest in batches:
            for kind, where in holding.items():
                file: LandedFile | None = getattr(manifest.changed[table], kind)
                if file is None or manifest.batch not in where:
                    continue
                local = self.frames.current.landed(file)
                yield Arrival(
                    number(manifest.batch),
                    manifest.server_time,
                    file.path,
                    line_of(local, self.key, key),
                    kind == "deletions",
                    self._record(file, duck.header(local), key),
                )

    def _holding(self, files: Sequence[LandedFile], key: Sequence[str]) -> set[int]:
        """The batches among landed files that have a record with a key."""
        if not files:
            return set()
        rows = view(self.frames.current.read(files, _as_text(self.key)))
        condition, values = _equals(self.key, key)
        found = self.frames.connection.execute(f"SELECT {BATCH} FROM {rows} WHERE {condition}", values)
        return {batch for (batch,) in found.fetchall()}

    def _record(self, file: LandedFile, columns: Sequence[str], key: Sequence[str]) -> Row:
        rows = view(self.frames.current.read([file], _as_text(columns)))
        condition, values = _equals(self.key, key)
        record = duck.one(
            self.frames.connection, f"SELECT {listing(columns)} FROM {rows} WHERE {condition}", values
        )
        return dict(zip(columns, record, strict=True))

    def _misfits(self, table: str, key: Sequence[str]) -> Iterator[QuarantinedValue]:
        whole = ",".join(key)  # as the report has it
        for manifest in list(self.frames.batches.changing(table, self.manifest))[::-1]:
            file = manifest.changed[table].quarantined
            for key_of, misfit in read_report(self.frames, manifest, file) if file else ():
                if key_of == whole:
                    yield misfit

    def _pages(self, api: Api, key: Sequence[str], arrival: Arrival) -> Iterator[str]:
        """The pages that the batch of an arrival loaded and that have the record."""
        state, rows = self.frames.batches.get(int(arrival.batch)).api(api.name), Rows(api)
        for one in state.takes if state else ():
            take = Take(self.frames.batches.files, api.name, one.window, one.take)
            summary = take.summary()
            for file in files_of(summary, self.frames.batches) if summary else ():
                for page in take.read(file):
                    if page.lost:
                        continue
                    if ",".join(key) in map(rows.key, records_in(api, page.body)):
                        yield f"{file.path}, page {page.index + 1}"

    # -- star and warehouse --------------------------------------------------------------------------------------

    def _published(self, name: str, value: tuple[object, ...]) -> Iterator[Version]:
        star, schema = self.frames.star, self.inputs.star[name].schema
        paths = [star.local(path) for path in star.paths(schema)]
        if paths:
            lake = DuckDBReader(self.frames.connection)
            yield from self._versions(lake, name, duck.parquet(paths), value, files=True)

    def _loaded(self, warehouse: WarehouseReader, name: str, value: tuple[object, ...]) -> Iterator[Version]:
        if warehouse.has(name):
            yield from self._versions(warehouse, name, f"star.{identifier(name)}", value, files=False)

    def _versions(
        self, reader: WarehouseReader, name: str, rows: str, value: tuple[object, ...], *, files: bool
    ) -> Iterator[Version]:
        schema = self.inputs.star[name].schema
        columns = [column.name for column in schema.columns]
        found = reader.rows(
            f"SELECT {listing(columns)} FROM {rows} WHERE "
            + " AND ".join(f"{identifier(key)} = $key_{i}" for i, key in enumerate(schema.key_columns))
            + f" ORDER BY {listing(schema.primary_key)}",
            {f"key_{i}": part for i, part in enumerate(value)},
        )
        for i, row in enumerate(found, 1):
            values = dict(zip(columns, row, strict=True))
            deleted = bool(values.pop("deleted"))
            record, batch = None, None
            held = self.frames.star.dimension(name)
            if isinstance(schema, Fact):
                record, batch = values.pop(schema.record), values.pop("batch")
                held = self.frames.star.fact(name, batch)
            current = i == len(found) and not deleted
            path = held.path if files and held else None
            yield Version(name, path, record, number(batch) if batch else None, deleted, current, values)


def source_row(url: str, table: Table, key: Sequence[str]) -> Row | None:
    """The row as the source has it now, None if it has none."""
    with closing(connect(url, "etl explain")) as connection, explained(f"reading table {table.name}"):
        relation = describe(connection, [table])[table.name]
        # format() writes a value as COPY does; a cast to text drops blanks and spells out booleans.
        text = sql.SQL("CASE WHEN num_nonnulls({0}) > 0 THEN format('%%s', {0}) END")

        def query(own: sql.SQL) -> sql.Composed:
            return sql.SQL("SELECT {} FROM {} WHERE {}").format(
                sql.SQL(", ").join(text.format(_beside_values(name)) for name in relation.names),
                _beside_values(table.schema, table.source_name),
                sql.SQL(" AND ").join(
                    own.format(_beside_values(name)) + sql.SQL(" = %s") for name in relation.key
                ),
            )

        with connection.cursor() as cursor:
            cursor.execute("BEGIN READ ONLY")
            find_names(connection, as_role=not relation.by_version)
            cursor.execute("SAVEPOINT asked")
            try:
                cursor.execute(query(sql.SQL("{}")), list(key))
            except psycopg2.DataError:  # no value of the key's type
                return None
            except (psycopg2.errors.UndefinedFunction, psycopg2.errors.FeatureNotSupported):
                # A type of which no unknown value is compared: a composite, or one whose operators an extension brought.
                cursor.execute("ROLLBACK TO SAVEPOINT asked")
                cursor.execute(query(text), list(key))
            row = cursor.fetchone()
        return dict(zip(relation.names, row, strict=True)) if row else None


def _beside_values(*names: str) -> sql.Identifier:
    """A name in a statement that is given values, in which a lone % would stand for one."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def quarantined(
    frames: Frames, manifest: Manifest, tables: Sequence[str]
) -> Iterator[tuple[str, str, QuarantinedValue]]:
    """All (table, key, misfit) that committed batches reported, newest batch first."""
    reports = [
        (changing.batch, table, changing, file)
        for table in tables
        if table in manifest.tables
        for changing in frames.batches.changing(table, manifest)
        if (file := changing.changed[table].quarantined)
    ]
    for _, table, changing, file in sorted(reports, key=lambda report: (-int(report[0]), report[1])):
        for key, misfit in read_report(frames, changing, file):
            yield table, key, misfit


def read_report(
    frames: Frames, manifest: Manifest, file: LandedFile
) -> Iterator[tuple[str, QuarantinedValue]]:
    """What a quarantine report says, with the key of the row that each of its records is about."""
    local = frames.current.landed(file)
    rows = duck.read_csv(frames.connection, [local]).project('key, "column", value, reason')
    values = {(key, column): (value, reason) for key, column, value, reason in rows.fetchall()}
    columns = duck.header(local)
    key_at, column_at = columns.index("key"), columns.index("column")
    for line, fields in _records(local):
        if line > 1:
            key, column = fields[key_at], fields[column_at]
            yield key, QuarantinedValue(number(manifest.batch), column, *values[key, column], file.path, line)


def line_of(path: Path, columns: Sequence[str], values: Sequence[str]) -> int:
    """The line (1 is the first) of a CSV file at which the record begins that has these values in these columns."""
    at = [duck.header(path).index(name) for name in columns]
    # Quoting only ever doubles quotes: a record without these bytes need not be taken apart.
    needed = [value.replace('"', '""').encode() for value in values]
    for line, fields in _records(path, needed):
        if line > 1 and [fields[i] for i in at] == list(values):
            return line
    raise LakeError(f"{path} has no record with {','.join(columns)} {','.join(values)}")


def _records(path: Path, needed: Sequence[bytes] = ()) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file that contain some bytes, with the line at which each begins. A line ends with a
    line feed, as for editors; in quotes it does not end the record."""
    csv.field_size_limit(sys.maxsize)
    with path.open("rb") as lines:
        parts: list[bytes] = []
        begins, quotes = 1, 0
        for number, line in enumerate(lines, 1):
            if not parts:
                begins = number
            parts.append(line)
            quotes += line.count(b'"')
            if quotes % 2:
                continue
            record = b"".join(parts)
            parts, quotes = [], 0
            if all(part in record for part in needed):
                yield begins, next(csv.reader([record.decode()]))


def _as_text(names: Sequence[str]) -> tuple[SourceColumn, ...]:
    return tuple(SourceColumn(name=name, type="text", nullable=True) for name in names)


def _equals(columns: Sequence[str], values: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A condition for DuckDB, and the values that it binds."""
    condition = " AND ".join(f"{identifier(name)} = $key_{i}" for i, name in enumerate(columns))
    return condition, {f"key_{i}": value for i, value in enumerate(values)}
