"""The embedded PostgreSQL of the demo as the source of a deployment that names none."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr

from etl_assets.errors import first_line
from etl_assets.preflight import CheckResult
from etl_assets.source.connection import SourceError
from etl_assets.source.resource import PostgresSource
from etl_assets.source.table import Table


class EmbeddedSource(PostgresSource):
    """A real PostgreSQL with a generated ToteSys, started when it is first needed and stopped by its last user."""

    url: str = ""
    folder: str = Field(description="Where its data is kept.")
    one_history: bool = True  # it is started and stopped by us, for each command if nobody keeps it
    _running: ExitStack = PrivateAttr(default_factory=ExitStack)
    _address: str | None = PrivateAttr(default=None)

    def address(self) -> str:
        if self._address is None:
            from etl_assets.totesys.demo.totesys import serve_totesys

            with _told():
                self._address = self._running.enter_context(serve_totesys(Path(self.folder)))
        return self._address

    def check(self, tables: Sequence[Table]) -> Iterator[CheckResult]:
        if not Path(self.folder).exists():
            yield CheckResult("connect", f"the embedded demo; the first run makes it in {self.folder}")
            return
        yield from super().check(tables)

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
