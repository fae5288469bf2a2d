"""The operational PostgreSQL: the one that `ETL_SOURCE_URL` names, or the embedded demo."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr

from etl_assets.clients.secrets import database_url
from etl_assets.engine.duck import sweep
from etl_assets.failures import first_line
from etl_assets.faults import without_values
from etl_assets.lake.batches import Batches, Manifest
from etl_assets.preflight import Checkup
from etl_assets.raw.copying import Progress
from etl_assets.raw.landing import Notes, Request, take_batch
from etl_assets.raw.recent import Share
from etl_assets.source.connection import SourceError
from etl_assets.source.position import Position, read_position
from etl_assets.source.preflight import check_source
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs


class Source(dg.ConfigurableResource):
    """A PostgreSQL to read from. Nothing is opened before it is needed."""

    url: str = Field(json_schema_extra={"dagster__is_secret": True}, description="PostgreSQL URL.")
    scratch: str = Field(description="Folder for what is compared before it is landed.")
    deletion_brake: float = Field(
        default=0.2, ge=0, le=1, description="Share of a table's rows above which deletions stop a batch."
    )
    one_history: bool = Field(
        default=False,
        description="Servers behind the URL are replicas of one another, so that a switch between them is no reason to "
        "read tables whole.",
    )
    wait_seconds: float = Field(
        default=60, ge=0, description="How long to wait for another run of the same lake."
    )

    def address(self) -> str:
        """The URL to connect to; asked for anew each time, as a secret that it names may have been rotated."""
        return database_url(self.url, "ETL_SOURCE_URL")

    def check(self, inputs: Inputs) -> Iterator[Checkup]:
        """Try all that a capture needs."""
        return check_source(self.address, list(inputs.tables.values()))

    def keep_up(self) -> None:
        """For a process that asks again and again: the source is not to be started and stopped for each question."""

    def position(self, tables: Sequence[Table]) -> Position:
        """Where the source stands (see `etl_assets.source.position`)."""
        with without_values():
            return read_position(self.address(), tables)

    def take_batch(
        self,
        tables: Sequence[Table],
        batches: Batches,
        run_id: str,
        progress: Progress,
        notes: Notes | None = None,
        *,
        allow_deletions: frozenset[str] = frozenset(),
        allow_misfits: frozenset[str] = frozenset(),
        whole: bool = False,
        adopt: bool = False,
        share: Share | None = None,
    ) -> Manifest | None:
        """Land what changed in the tables (see `etl_assets.raw.landing`)."""
        scratch = Path(self.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        sweep(scratch, older_than_seconds=86_400)  # what killed runs left: it holds rows
        request = Request(
            url=self.address(),
            tables=tables,
            run_id=run_id,
            deletion_brake=self.deletion_brake,
            allow_deletions=allow_deletions,
            allow_misfits=allow_misfits,
            whole=whole,
            wait_seconds=self.wait_seconds,
            adopt=adopt,
            one_history=self.one_history,
            share=share,
        )
        with without_values():
            return take_batch(request, batches, scratch, progress, notes)


class EmbeddedSource(Source):
    """A real PostgreSQL with a generated ToteSys, started when it is first needed and stopped by its last user."""

    url: str = ""
    folder: str = Field(description="Where its data is kept.")
    _running: ExitStack = PrivateAttr(default_factory=ExitStack)
    _address: str | None = PrivateAttr(default=None)

    def address(self) -> str:
        if self._address is None:
            from etl_assets.totesys.demo.totesys import serve_totesys

            with _told():
                self._address = self._running.enter_context(serve_totesys(Path(self.folder)))
        return self._address

    def check(self, inputs: Inputs) -> Iterator[Checkup]:
        if not Path(self.folder).exists():
            yield Checkup("connect", f"the embedded demo; the first run makes it in {self.folder}")
            return
        yield from super().check(inputs)

    def keep_up(self) -> None:
        from etl_assets.totesys.demo.totesys import keep_serving

        with _told():
            self._address = keep_serving(Path(self.folder))

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        self._address = None
        self._running.close()


@contextmanager
def _told() -> Iterator[None]:
    """Say in one line why the embedded server does not start; its log has the rest."""
    from etl_assets.stand_ins.postgres import EmbeddedPostgresError

    try:
        yield
    except EmbeddedPostgresError as error:
        raise SourceError(first_line(str(error))) from error
