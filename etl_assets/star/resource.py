"""The lake, as assets use it: its batches, its star, and a DuckDB to work on them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import dagster as dg
import duckdb
from pydantic import Field, PrivateAttr

from etl_assets import permissions
from etl_assets.engine import duck
from etl_assets.engine.scratch import own_folder
from etl_assets.faults import without_values
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import Current
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.resource import RawLake
from etl_assets.star.build import Builder
from etl_assets.star.definition import Inputs
from etl_assets.star.files import StarFiles
from etl_assets.star.function import as_frame
from etl_assets.star.outcome import Build, publish
from etl_assets.star.schema import StarTable

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_TOUCHED = 1_000_000
"""So many keys of a dimension's members are handed to the load, in memory."""
Touched: TypeAlias = "dict[str, tuple[str | None, str, pa.Table]]"
"""Dimension -> the version of its file before, the one after, and the keys of the members that may differ."""


@dataclass(frozen=True)
class OpenLake:
    """An open lake: what a step needs to read or build star tables."""

    manifest: Manifest
    builder: Builder
    star: StarFiles
    connection: duckdb.DuckDBPyConnection
    touched: Touched

    def publish(self, builds: Sequence[Build]) -> None:
        """Show what builds staged, all at once, and remember which members they touched, for the load that follows."""
        for build in builds:
            self.touched.pop(build.definition.name, None)
            if build.touched is not None and build.held:
                keys = build.touched.limit(_MOST_TOUCHED + 1).to_arrow_table()
                if keys.num_rows <= _MOST_TOUCHED:  # else the load finds out by itself, within its memory
                    self.touched[build.definition.name] = (build.held.version, build.version, keys)
        publish(self.star, builds, self.connection)

    def changed_members(self, table: StarTable, held: str) -> "pa.Table | None":
        """The keys of a dimension's members that changed since a version of it; None if that is unknown."""
        before, after, keys = self.touched.get(table.name, (None, "", None))
        published = self.star.dimension(table.name)
        if before != held or published is None or published.version != after:
            return None
        return keys


class Lake(RawLake):
    """The lake with its star."""

    most_batches: int = Field(
        default=5_000, description="A star table is not made anew from more batches than this unless told so."
    )
    file_mode: str = Field(
        default="",
        description="Who may read what is written, as ETL_FILE_MODE says; else as the process has it.",
    )
    _stack: ExitStack = PrivateAttr(default_factory=ExitStack)
    _folder: Path = PrivateAttr()
    _database: duckdb.DuckDBPyConnection | None = PrivateAttr(default=None)
    _touched: dict[str, Any] = PrivateAttr(default_factory=dict)

    def star(self) -> StarFiles:
        """The star's files, as the newest manifest lists them."""
        return StarFiles(self.files(), self.batches())

    @contextmanager
    def open(self, inputs: Inputs) -> Iterator[OpenLake]:
        """The lake as its newest batch shows it. Raises `LakeError` if there is none, or other runs removed what this one reads."""
        files = self.files()
        batches = Batches(files)
        manifest = batches.latest()
        if manifest is None:
            raise LakeError(
                f"the lake {files.url} holds no batch yet: materialize the raw assets first (etl run)"
            )
        if self._database is None:
            self._folder = self._stack.enter_context(own_folder(Path(self.scratch), "star-"))
            self._database = self._stack.enter_context(duckdb.connect())
        with (
            without_values(),
            self._database.cursor() as connection,
        ):  # a fresh session, with tables of its own
            duck.configure(connection, self._folder)
            star = StarFiles(files, batches)
            builder = Builder(inputs, Current(batches, connection), star, connection)
            with star.unless_overtaken():
                yield OpenLake(manifest, builder, star, connection, self._touched)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """From here on what the process writes is for whom `file_mode` names, until it is torn down."""
        if self.file_mode:
            self._stack.enter_context(permissions.kept(self.file_mode))

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        self._stack.close()


@dataclass
class Published:
    """What the star's assets hand to the IO manager: all builds of a run, and the lake that they are for. Whichever asset
    comes first shows them all: readers see every table of the star switched at once."""

    bench: OpenLake
    builds: Sequence[Build] = field(default_factory=list)
    done: bool = False

    def publish(self) -> None:
        """Show all builds at once, when the first of their assets is handed on."""
        if not self.done:
            self.bench.publish(self.builds)
            self.done = True


class StarIOManager(dg.ConfigurableIOManager):
    """Publishes what a star asset staged and audited, and loads star tables for whoever asks.

    An input annotated `pandas.DataFrame` is loaded as one (Arrow types), `pyarrow.Table` likewise.
    """

    lake: dg.ResourceDependency[Lake]

    def handle_output(self, context: dg.OutputContext, obj: Published) -> None:
        """Show what was built."""
        obj.publish()

    def load_input(self, context: dg.InputContext) -> Any:
        """A star table as whoever asks for it wants it: a lazy frame, pandas or Arrow."""
        name = context.asset_key.path[-1]
        star = self.lake.star()
        paths = [star.local(path) for path in star.paths_of_any(name)]
        if not paths:
            raise LakeError(f"the lake holds no {name} yet: materialize star/{name} first")
        with without_values():
            return as_frame(duck.read_parquet(duckdb.connect(), paths), context.dagster_type.typing_type)
