"""What steps run with, as a resource: the lake, the warehouse, where messages go, folders on this machine."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from etl_assets.clients.alerts import Alert, Alerts, channel
from etl_assets.clients.secrets import ENGINES, database_url
from etl_assets.lake.certificates import uncertified
from etl_assets.star.resource import Lake
from etl_assets.steps.duckdb_session import DuckDBSession
from etl_assets.steps.group import Steps
from etl_assets.steps.in_warehouse import WarehouseSession
from etl_assets.steps.keeping import Keeping
from etl_assets.steps.messages import channel_setting
from etl_assets.steps.parameters import Value
from etl_assets.steps.places import FilePlaces
from etl_assets.steps.sessions import WAREHOUSE, Session, SessionError, Sessions, setting_of, url_of
from etl_assets.steps.work import Notice, Work
from etl_assets.warehouse.contract import Warehouse
from etl_assets.warehouse.duckdb import DuckDBWarehouse


class StepSurroundings(dg.ConfigurableResource):
    """The surroundings of steps. Nothing is opened before a step asks."""

    lake: dg.ResourceDependency[Lake]
    warehouse: dg.ResourceDependency[Warehouse]
    alerts: dg.ResourceDependency[Alerts]
    folder: str = Field(description="Where files on this machine lie whose paths are relative.")
    ui_url: str = Field(description="Where links in messages lead to.")

    def work(self, group: Steps, values: Mapping[str, Value], partition: str, run_id: str) -> Work:
        """The surroundings of a run of a group. Its sessions are to be closed."""
        files = self.lake.files()
        return Work(
            group=group.name,
            parameters=group.known,
            values=values,
            kinds=group.kinds,
            sessions=Sessions(self.session),
            keeping=Keeping(files, group.name, partition, Path(self.lake.scratch)),
            places=FilePlaces(files, Path(self.lake.cache)),
            send=lambda notice: self._send(notice, run_id),
            unproven=self._unproven,
            folder=Path(self.folder),
        )

    def session(self, database: str) -> Session:
        """A session in the warehouse, or in a database of the settings. Raises `SessionError`, `SecretError`."""
        from etl_assets.steps.sql_session import open_sql  # here, since SQLAlchemy takes its time to import
        from etl_assets.warehouse.postgres import PostgresWarehouse

        if database != WAREHOUSE:
            setting = setting_of(database)
            return open_sql(database, setting, database_url(url_of(database), setting, ENGINES))
        if isinstance(self.warehouse, DuckDBWarehouse):
            return WarehouseSession(DuckDBSession(self.warehouse), self.warehouse.schemas, "duckdb")
        if isinstance(self.warehouse, PostgresWarehouse):
            setting = setting_of(WAREHOUSE)
            asked = open_sql(WAREHOUSE, setting, database_url(self.warehouse.url, setting))
            return WarehouseSession(asked, self.warehouse.schemas, "postgres")
        raise SessionError(
            f"steps have no session in the warehouse {self.warehouse.where}: name another database (database=…, docs/steps.md)"
        )

    def _unproven(self, tables: Sequence[str]) -> str | None:
        return uncertified(self.lake.files(), self.lake.batches(), tables) if tables else None

    def _send(self, notice: Notice, run_id: str) -> str:
        setting = channel_setting(notice.to)
        through = channel(os.environ[setting], setting) if notice.to else self.alerts
        link = "" if notice.exact else f"{self.ui_url}/runs/{run_id}"
        through.send(Alert(notice.subject, notice.text, link, run_id, good=notice.good, exact=notice.exact))
        return through.where
