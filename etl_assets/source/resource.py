"""The operational PostgreSQL that `ETL_SOURCE_URL` names."""

from collections.abc import Iterator, Sequence

import dagster as dg
from pydantic import Field

from etl_assets.clients.secrets import database_url
from etl_assets.faults import without_values
from etl_assets.preflight import CheckResult
from etl_assets.source.connection import SourceError
from etl_assets.source.position import Position, read_position
from etl_assets.source.preflight import check_source
from etl_assets.source.table import Table


class PostgresSource(dg.ConfigurableResource):
    """A PostgreSQL to read from. Nothing is opened before it is needed."""

    url: str = Field(json_schema_extra={"dagster__is_secret": True}, description="PostgreSQL URL.")
    scratch: str = Field(description="Folder for what is compared before it is landed.")
    deletion_brake: float = Field(
        default=0.2, ge=0, le=1, description="Share of a table's rows above which deletions stop a batch."
    )
    quarantine_limit: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of a table's rows above which values that don't fit their declared types stop a batch.",
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

    def check(self, tables: Sequence[Table]) -> Iterator[CheckResult]:
        """Try all that a capture of the tables needs."""
        return check_source(self.address, tables, one_history=self.one_history)

    def keep_up(self) -> None:
        """For a process that asks again and again: the source is not to be started and stopped for each question."""

    def position(self, tables: Sequence[Table]) -> Position:
        """Where the source stands (see `etl_assets.source.position`)."""
        with without_values():
            return read_position(self.address(), tables)


class UnnamedSource(PostgresSource):
    """The source of a project as long as nobody has named one: whoever needs it is told what to set."""

    url: str = ""

    def address(self) -> str:
        raise SourceError(
            "the project's source is not named: set ETL_SOURCE_URL=postgresql://user@host:port/database, in .env or the environment"
        )
