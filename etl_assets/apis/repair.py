"""Repair of the tables of APIs: what their damaged files held is read again from the pages, which the lake keeps."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from etl_assets.apis.declaration import Api
from etl_assets.apis.reading import PagesRead, loaded_takes, read_pages, relation_of
from etl_assets.engine import duck
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import MAIN, Manifest, Superseded
from etl_assets.lake.names import FileNames
from etl_assets.raw.repair import Damage, Known, Mending, find_damage
from etl_assets.raw.writing import BatchWriter
from etl_assets.source.catalog import Relation


def repair_pages(
    apis: Mapping[str, Api], run_id: str, batches: Batches, scratch: Path
) -> Sequence[Superseded]:
    """Supersede what is damaged of the tables of APIs, as a batch of its own; nothing is done if nothing is damaged. No API is
    asked. Raises `EtlError`, and then nothing was committed."""
    started, latest = time.monotonic(), batches.latest()
    if latest is None:
        return ()
    tables = [name for name, state in latest.tables.items() if state.source != MAIN]
    damaged = find_damage(batches, latest, tables)
    if not damaged:
        return ()
    with own_folder(scratch, "pages-") as folder, duck.connect(folder) as connection:
        writer = BatchWriter(
            batches=batches,
            latest=latest,
            naming=FileNames.of_a_run(latest.batch + 1),
            connection=connection,
            names=sorted({one.table for one in damaged}),
        )
        writer.sweep()
        mending = Mending(writer, latest, damaged, _Pages(apis, batches, connection, folder))
        states = mending.mend()
        superseded = list(mending.superseded.values())
        writer.put(
            run_id=run_id,
            project="",
            sources={},
            tables=states,
            seconds=time.monotonic() - started,
            superseded=superseded,
        )
        mending.conclude()
        return superseded


@dataclass(frozen=True)
class _Pages:
    """The pages that batches were loaded from."""

    apis: Mapping[str, Api]
    batches: Batches
    connection: duckdb.DuckDBPyConnection
    folder: Path

    def relation(self, table: str) -> Relation | None:
        return relation_of(self.apis[table]) if table in self.apis else None

    def known(self, damage: Damage, then: Manifest) -> Known | None:
        read = self._read(damage.table, self.batches.changing(damage.table, then))
        return Known(read.newest(self.connection), read.relation.columns, read.longest) if read else None

    def kept_aside(self, damage: Damage) -> duckdb.DuckDBPyRelation | None:
        read = self._read(damage.table, [self.batches.get(damage.batch)])
        return read.kept_aside(self.connection, damage.batch) if read else None

    def _read(self, table: str, loaded_by: Iterable[Manifest]) -> PagesRead | None:
        """The pages that some batches loaded; None for an API that is not declared any more."""
        if table not in self.apis:
            return None
        chosen = loaded_takes(self.batches, table, loaded_by)
        return read_pages(self.apis[table], chosen, self.batches, self.connection, self.folder)
