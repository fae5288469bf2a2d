"""The lake, as assets use it: its batches, its star, and a DuckDB to work on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
from pydantic import Field, PrivateAttr

from etl_assets.checked import Checkup, room
from etl_assets.engine import duck
from etl_assets.engine.build import Build, Builder
from etl_assets.engine.definition import Inputs, as_frame
from etl_assets.engine.schema import StarTable
from etl_assets.lake.batches import Batches, Manifest
from etl_assets.lake.checkup import check_files
from etl_assets.lake.current import Current
from etl_assets.lake.files import Files, LakeError, open_files
from etl_assets.lake.star import StarFile, StarFiles


@dataclass(frozen=True)
class Workbench:
    """An open lake: what a step needs to read or build star tables."""

    manifest: Manifest
    builder: Builder
    star: StarFiles
    connection: duckdb.DuckDBPyConnection

    def changed_members(self, table: StarTable, held: StarFile) -> pa.Table | None:
        """The keys of a dimension's members that changed since a file of it was made; None if that is unknown."""
        definition = self.builder.inputs.star[table.name]
        keys = self.builder.changed_keys(definition, held, self.manifest)
        if keys is None:
            return None
        return self.builder.named(
            definition, self.connection.sql(f"FROM {keys}"), self.manifest
        ).to_arrow_table()


class Lake(dg.ConfigurableResource):
    """Where raw batches and the star are kept."""

    url: str = Field(description="A folder, s3://bucket/prefix or gs://bucket/prefix.")
    scratch: str = Field(description="Folder for what does not fit into memory.")
    cache: str = Field(description="Folder for local copies of what is kept in a bucket.")
    _database: duckdb.DuckDBPyConnection | None = PrivateAttr(default=None)

    def files(self) -> Files:
        return open_files(self.url, Path(self.cache))

    def check(self, inputs: Inputs) -> Iterator[Checkup]:
        """Try all that is done to files."""
        yield from check_files(self.files())
        yield room("scratch", Path(self.scratch), "ETL_DATA")

    def batches(self) -> Batches:
        return Batches(self.files())

    def star(self) -> StarFiles:
        return StarFiles(self.files(), self.batches())

    @contextmanager
    def open(self, inputs: Inputs) -> Iterator[Workbench]:
        """The lake as its newest batch shows it. Raises `LakeError` if there is none."""
        files = self.files()
        batches = Batches(files)
        manifest = batches.latest()
        if manifest is None:
            raise LakeError(
                f"the lake {files.url} holds no batch yet: materialize the raw assets first (etl run)"
            )
        scratch = Path(self.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        if self._database is None:
            self._database = duck.connect(scratch)
        with self._database.cursor() as connection:  # a fresh session, with tables of its own
            duck.configure(connection, scratch)
            star = StarFiles(files, batches)
            yield Workbench(
                manifest, Builder(inputs, Current(batches, connection), star, connection), star, connection
            )

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._database is not None:
            self._database.close()


class StarIOManager(dg.ConfigurableIOManager):
    """Publishes what a star asset staged and audited, and loads star tables for whoever asks.

    An input annotated `pandas.DataFrame` is loaded as one (Arrow types), `pyarrow.Table` likewise.
    """

    lake: dg.ResourceDependency[Lake]

    def handle_output(self, context: dg.OutputContext, obj: Build) -> None:
        obj.publish()

    def load_input(self, context: dg.InputContext) -> Any:
        name = context.asset_key.path[-1]
        star = self.lake.star()
        paths = [str(star.files.local(path)) for path in star.paths(name)]
        if not paths:
            raise LakeError(f"the lake holds no {name} yet: materialize star/{name} first")
        return as_frame(duckdb.connect().read_parquet(paths), context.dagster_type.typing_type)
