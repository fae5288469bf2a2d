"""Deployments: which real thing stands behind each resource. The only file that names a deployment."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from etl_assets import addresses, permissions
from etl_assets.apis.resource import Apis
from etl_assets.automation.alerts import alerts
from etl_assets.clients.sheets import ENDPOINT
from etl_assets.errors import SettingsError
from etl_assets.exports.duckdb import DuckDBReportTables, ReportIOManager
from etl_assets.exports.postgres import PostgresReportTables
from etl_assets.exports.publishing import ReportTables, Workbook
from etl_assets.exports.sheets import Sheets
from etl_assets.exports.workbook import XlsxWorkbook
from etl_assets.settings import Settings, duckdb_path, warehouse_engine
from etl_assets.source.resource import Source
from etl_assets.star.resource import Lake, StarIOManager
from etl_assets.totesys.demo.resource import EmbeddedSource
from etl_assets.warehouse.contract import Warehouse
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets.warehouse.postgres import PostgresWarehouse

Resources = Mapping[str, Any]


def local(settings: Settings) -> Resources:
    """Everything on this machine; the source is the embedded demo unless one is named."""
    scratch = str(settings.data / "scratch")
    source = (
        Source(
            url=dg.EnvVar("ETL_SOURCE_URL"), scratch=scratch, one_history=settings.one_history
        )  # the UI shows the name only
        if settings.source_url
        else EmbeddedSource(folder=str(settings.data / "source"), scratch=scratch)
    )
    lake = Lake(
        url=settings.lake_url,
        scratch=scratch,
        cache=str(settings.data / "cache"),
        most_batches=settings.replay_batches,
    )
    warehouse, report_tables = _warehouse(settings, scratch)
    return {
        "source": source,
        "apis": Apis(scratch=scratch),
        "lake": lake,
        "star_io": StarIOManager(lake=lake),
        "warehouse": warehouse,
        "reports": ReportIOManager(tables=report_tables),
        "alerts": alerts(settings.alerts_url),
        "workbook": _workbook(settings),
    }


def production(settings: Settings) -> Resources:
    """As `local`, but nothing is assumed: source, lake and warehouse must be named."""
    if settings.unset:
        raise SettingsError(f"ETL_DEPLOYMENT=production needs {', '.join(settings.unset)} to be set")
    return local(settings)


def _warehouse(settings: Settings, scratch: str) -> tuple[Warehouse, ReportTables]:
    """The engine that the URL names, and the place for reporting tables in it."""
    engine = warehouse_engine(settings.warehouse_url)
    if engine == "bigquery":
        # Here, since Google's client takes its time to import.
        from etl_assets.exports.bigquery import BigQueryReportTables
        from etl_assets.warehouse.bigquery import bigquery_warehouse

        bigquery = bigquery_warehouse(settings.warehouse_url, scratch)
        return bigquery, BigQueryReportTables(warehouse=bigquery)
    if engine == "postgresql":
        postgres = PostgresWarehouse(url=dg.EnvVar("ETL_WAREHOUSE_URL"), scratch=scratch)
        return postgres, PostgresReportTables(warehouse=postgres)
    duckdb = DuckDBWarehouse(path=str(duckdb_path(settings.warehouse_url)), scratch=scratch)
    return duckdb, DuckDBReportTables(warehouse=duckdb)


def _workbook(settings: Settings) -> Workbook:
    """A Google spreadsheet if one is named, else a file."""
    if settings.spreadsheet is None:
        return XlsxWorkbook(path=str(settings.data / "reports.xlsx"))
    # The UI shows the variable's name only: an address may hold a password.
    endpoint = dg.EnvVar("ETL_SHEETS_ENDPOINT") if settings.sheets_endpoint else ENDPOINT
    return Sheets(spreadsheet=settings.spreadsheet, endpoint=endpoint)


DEPLOYMENTS = {"local": local, "production": production}


def resources(settings: Settings) -> Resources:
    """The resources of the deployment that the settings name. What they write is for those whom ETL_FILE_MODE names."""
    if settings.deployment not in DEPLOYMENTS:
        raise SettingsError(
            f"ETL_DEPLOYMENT={addresses.word(settings.deployment)} is not a deployment; there are {', '.join(DEPLOYMENTS)}"
        )
    permissions.apply(settings.file_mode)
    return DEPLOYMENTS[settings.deployment](settings)
