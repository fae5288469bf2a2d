"""Deployments: which real thing stands behind each resource. The only file that names a deployment."""

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from etl_assets import addresses
from etl_assets.apis.resource import Apis
from etl_assets.clients.alerts import Alerts, alerts
from etl_assets.errors import SettingsError
from etl_assets.exports.duckdb import DuckDBReportTables, ReportIOManager
from etl_assets.exports.publishing import ReportTables, Workbook
from etl_assets.exports.workbook import XlsxWorkbook
from etl_assets.project import SHIPPED, load, place
from etl_assets.settings import Settings, duckdb_path, warehouse_engine
from etl_assets.source.resource import PostgresSource, UnnamedSource
from etl_assets.star.resource import Lake, StarIOManager
from etl_assets.steps.resource import StepSurroundings
from etl_assets.totesys.demo.resource import EmbeddedSource
from etl_assets.warehouse.contract import Warehouse
from etl_assets.warehouse.duckdb import DuckDBWarehouse

Resources = Mapping[str, Any]


def local(settings: Settings) -> Resources:
    """Everything on this machine; the source of the project that ships is the embedded demo unless one is named."""
    scratch = str(settings.data / "scratch")
    lake = Lake(
        url=settings.lake_url,
        scratch=scratch,
        cache=str(settings.data / "cache"),
        most_batches=settings.replay_batches,
        file_mode=settings.file_mode,
    )
    warehouse, report_tables = _warehouse(settings, scratch)
    told = _alerts(settings)
    return {
        "source": _source(settings, scratch),
        "apis": Apis(scratch=scratch),
        "lake": lake,
        "star_io": StarIOManager(lake=lake),
        "warehouse": warehouse,
        "reports": ReportIOManager(tables=report_tables),
        "alerts": told,
        "steps": StepSurroundings(
            lake=lake,
            warehouse=warehouse,
            alerts=told,
            folder=str(settings.data / "files"),
            ui_url=settings.ui_url,
        ),
        "workbook": _workbook(settings),
    }


def production(settings: Settings) -> Resources:
    """As `local`, but nothing is assumed: lake and warehouse must be named, and the source of a project that reads tables."""
    needless = set() if load(settings.project).tables else {"ETL_SOURCE_URL"}
    if unset := [name for name in settings.unset if name not in needless]:
        raise SettingsError(f"ETL_DEPLOYMENT=production needs {', '.join(unset)} to be set")
    return local(settings)


def _source(settings: Settings, scratch: str) -> PostgresSource:
    """The database that the URL names. Without one the project that ships has its demo, and nobody else."""
    if settings.source_url:
        return PostgresSource(
            url=_variable(settings, "ETL_SOURCE_URL", settings.source_url),
            scratch=scratch,
            one_history=settings.one_history,
        )
    if place(settings.project) == SHIPPED:
        return EmbeddedSource(folder=str(settings.data / "source"), scratch=scratch)
    return UnnamedSource(scratch=scratch)


def _warehouse(settings: Settings, scratch: str) -> tuple[Warehouse, ReportTables]:
    """The engine that the URL names, and the place for reporting tables in it. Only its client is imported."""
    engine, schema = warehouse_engine(settings.warehouse_url), settings.warehouse_schema
    if engine == "bigquery":
        from etl_assets.exports.bigquery import BigQueryReportTables
        from etl_assets.warehouse.bigquery import bigquery_warehouse

        bigquery = bigquery_warehouse(settings.warehouse_url, scratch, schema)
        return bigquery, BigQueryReportTables(warehouse=bigquery)
    if engine == "postgresql":
        from etl_assets.exports.postgres import PostgresReportTables
        from etl_assets.warehouse.postgres import PostgresWarehouse

        postgres = PostgresWarehouse(
            url=_variable(settings, "ETL_WAREHOUSE_URL", settings.warehouse_url),
            scratch=scratch,
            star_schema=schema,
        )
        return postgres, PostgresReportTables(warehouse=postgres)
    duckdb = DuckDBWarehouse(
        path=str(duckdb_path(settings.warehouse_url)), scratch=scratch, star_schema=schema
    )
    return duckdb, DuckDBReportTables(warehouse=duckdb)


def _alerts(settings: Settings) -> Alerts:
    if settings.alerts_url is None:
        return alerts(None)
    return alerts(settings.alerts_url, _variable(settings, "ETL_ALERTS_URL", settings.alerts_url))


def _variable(settings: Settings, name: str, value: str) -> dg.EnvVar:
    """A setting that may hold a password, as the variable that has it: the UI shows the variable's name only. What a
    component was given for its project alone gets a variable of its own in this process."""
    if os.environ.get(name, "").strip() != value:
        name = "_".join([name, *map(str.upper, settings.key_prefix), "GIVEN"])
        os.environ[name] = value
    return dg.EnvVar(name)


def _workbook(settings: Settings) -> Workbook:
    """A Google spreadsheet if one is named, else a file."""
    if settings.spreadsheet is None:
        return XlsxWorkbook(path=str(settings.data / "reports.xlsx"))
    from etl_assets.clients.sheets import ENDPOINT
    from etl_assets.exports.sheets import Sheets

    # The UI shows the variable's name only: an address may hold a password.
    endpoint = (
        _variable(settings, "ETL_SHEETS_ENDPOINT", settings.sheets_endpoint)
        if settings.sheets_endpoint
        else ENDPOINT
    )
    return Sheets(spreadsheet=settings.spreadsheet, endpoint=endpoint)


DEPLOYMENTS = {"local": local, "production": production}


def resources(settings: Settings) -> Resources:
    """The resources of the deployment that the settings name."""
    if settings.deployment not in DEPLOYMENTS:
        raise SettingsError(
            f"ETL_DEPLOYMENT={addresses.word(settings.deployment)} is not a deployment; there are {', '.join(DEPLOYMENTS)}"
        )
    return DEPLOYMENTS[settings.deployment](settings)
