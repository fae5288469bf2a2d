"""The operational PostgreSQL: the one that `ETL_SOURCE_URL` names, or the embedded demo."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr

from etl_assets.capture.copying import Progress
from etl_assets.capture.landing import Request, take_batch
from etl_assets.capture.table import Table
from etl_assets.engine.duck import sweep
from etl_assets.lake.batches import Batches, Manifest


class Source(dg.ConfigurableResource):
    """A PostgreSQL to read from. Nothing is opened before it is needed."""

    url: str = Field(json_schema_extra={"dagster__is_secret": True}, description="PostgreSQL URL.")
    scratch: str = Field(description="Folder for what is compared before it is landed.")
    deletion_brake: float = Field(
        default=0.2, ge=0, le=1, description="Share of a table's rows above which deletions stop a batch."
    )
    wait_seconds: float = Field(
        default=60, ge=0, description="How long to wait for another run of the same lake."
    )

    def address(self) -> str:
        """The URL to connect to."""
        return self.url

    def take_batch(
        self,
        tables: Sequence[Table],
        batches: Batches,
        run_id: str,
        progress: Progress,
        allow_deletions: frozenset[str] = frozenset(),
        whole: bool = False,
    ) -> Manifest | None:
        """Land what changed in the tables (see `etl_assets.capture.landing`)."""
        scratch = Path(self.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        sweep(scratch, older_than_seconds=86_400)  # what killed runs left: it holds rows
        request = Request(
            url=self.address(),
            tables=tables,
            run_id=run_id,
            deletion_brake=self.deletion_brake,
            allow_deletions=allow_deletions,
            whole=whole,
            wait_seconds=self.wait_seconds,
        )
        return take_batch(request, batches, scratch, progress)


class EmbeddedSource(Source):
    """A real PostgreSQL with a generated ToteSys, started when a run first needs it and stopped with the run."""

    url: str = ""
    folder: str = Field(description="Where its data is kept.")
    _running: ExitStack = PrivateAttr(default_factory=ExitStack)
    _address: str | None = PrivateAttr(default=None)

    def address(self) -> str:
        if self._address is None:
            from etl_assets.source.demo.totesys import serve_totesys

            self._address = self._running.enter_context(serve_totesys(Path(self.folder)))
        return self._address

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        self._address = None
        self._running.close()
