"""A lake whose star is written by hand, for tests of what comes after it."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from etl_assets.engine.duck import listing, write_parquet
from etl_assets.lake.batches import Batches
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.manifest import FORMAT, Manifest
from etl_assets.star.files import StarFiles, listed, with_files
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import Loaded, Warehouse
from etl_assets.warehouse.dialect import DUCKDB
from etl_assets.warehouse.load import load_star

_versions = count(1)


@dataclass(frozen=True)
class Shelf:
    """A lake whose star is written by hand, and a warehouse."""

    folder: Path
    warehouse: Warehouse
    tables: Mapping[str, StarTable]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> LocalFiles:
        return LocalFiles(self.folder / "lake")

    @property
    def lake_id(self) -> str:
        newest = Batches(self.lake).latest()
        return newest.lake if newest else "none"

    def declared(self, *tables: StarTable) -> "Shelf":
        """The same lake and warehouse, with some tables declared otherwise."""
        return replace(self, tables={**self.tables, **{table.name: table for table in tables}})

    @property
    def star(self) -> StarFiles:
        """The star as it is published now."""
        return StarFiles(self.lake, Batches(self.lake))

    def put(self, name: str, *rows: tuple[Any, ...], batch: int = 1, gone: int = 0) -> None:
        """Publish a file: of a dimension its members, of a fact a batch, each with its values as declared. The last
        `gone` of them are deleted."""
        table, fact = self.tables[name], isinstance(self.tables[name], Fact)
        version = f"{name} {next(_versions)}"
        self._commit(batch)
        flags = [n >= len(rows) - gone for n in range(len(rows))]
        full = [(*row, batch, flag) if fact else (*row, flag) for row, flag in zip(rows, flags, strict=True)]
        star = self.star
        staged = star.staging(name, batch)
        with duckdb.connect() as connection:
            columns = ", ".join(f'"{c.name}" {c.type.duckdb}' for c in table.columns)
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"CREATE TABLE made ({columns})")
            for row in full:
                connection.execute(f"INSERT INTO made VALUES ({', '.join('?' * len(row))})", list(row))
            write_parquet(connection.table("made"), staged.local, {})
        made = listed(staged.path, staged.local, version, batch, len(rows))
        staged.publish()
        held = star.table(name) if fact else None
        kept = held.files if held and held.kind == "fact" else ()
        files = sorted([made, *(file for file in kept if file.batch != batch)], key=lambda file: file.batch)
        star.publish({name: with_files(table, files)}, batch)
        self.versions[name] = version

    def _commit(self, batch: int) -> None:
        """Let there be a batch, of which nothing matters here but that it is committed."""
        batches = Batches(self.lake)
        if batch not in batches.numbers():
            batches.commit(
                Manifest(
                    format=FORMAT,
                    batch=batch,
                    lake="a shelf",
                    run_id="a test",
                    previous=None,
                    sources={},
                    seconds=0,
                    tables={},
                )
            )

    def load(self, *names: str, changed: Mapping[str, pa.Table] | None = None) -> Mapping[str, Loaded]:
        known = changed or {}
        return load_star(
            self.warehouse,
            self.star,
            list(self.tables.values()),
            {name: self.versions[name] for name in names or self.versions},
            "a test",
            lambda table, held: known.get(table.name),
        )

    def rows(self, name: str) -> list[tuple[Any, ...]]:
        """A table's rows, deleted ones as well; of a fact its current ones."""
        place = f"{name}_current" if isinstance(self.tables[name], Fact) else name
        with self.warehouse.reading() as reader:
            if not reader.has(name):
                return []
            columns = listing(self.tables[name].arrow.names)
            return in_order(reader.rows(f"SELECT {columns} FROM star.{place}"))

    def columns(self, name: str) -> Mapping[str, tuple[str, bool]]:
        with self.warehouse.reading() as reader:
            return dict(reader.columns("star", name))

    def everything(self) -> tuple[Any, ...]:
        return {name: self.rows(name) for name in self.tables}, self.books()

    def books(self) -> Mapping[str, list[tuple[Any, ...]]]:
        with self.warehouse.reading() as reader:
            return {
                name: sorted(reader.rows(f"SELECT {columns} FROM star.{name}"))
                for name, columns in {
                    "loads": 'table_name, batch, version, "rows"',
                    "superseded": "table_name, record_id",
                    "inferred_members": "table_name, member_key",
                }.items()
            }

    def stand_ins(self, name: str) -> list[tuple[Any, ...]]:
        """The rows of a dimension that are noted as stand-ins, found as the proofs find them."""
        table = self.tables[name]
        with self.warehouse.reading() as reader:
            return in_order(
                reader.rows(
                    f"SELECT {listing(table.arrow.names, 't.')} FROM star.{name} AS t WHERE EXISTS (SELECT 1 FROM "
                    f"star.inferred_members AS i WHERE i.table_name = '{name}' AND "
                    f"i.member_key = {DUCKDB.member_key(table, 't')})"
                )
            )


def in_order(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows to be compared; drivers show a UUID as text."""
    plain = [tuple(str(v) if isinstance(v, uuid.UUID) else v for v in row) for row in rows]
    return sorted(plain, key=repr)
