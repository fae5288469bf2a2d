"""Deployments: which real thing stands behind each resource. The only file that names a deployment."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from etl_assets.resources.lake import Lake, StarIOManager
from etl_assets.resources.report_tables import DuckDBReportTables, ReportIOManager
from etl_assets.resources.source import EmbeddedSource, Source
from etl_assets.resources.warehouse import DuckDBWarehouse
from etl_assets.resources.workbook import XlsxWorkbook
from etl_assets.settings import Settings, SettingsError, duckdb_path

Resources = Mapping[str, Any]


def local(settings: Settings) -> Resources:
    """Everything on this machine; the source is the embedded demo unless one is named."""
    scratch = str(settings.data / "scratch")
    source = (
        Source(url=dg.EnvVar("ETL_SOURCE_URL"), scratch=scratch)  # the UI shows the name only
        if settings.source_url
        else EmbeddedSource(folder=str(settings.data / "source"), scratch=scratch)
    )
    lake = Lake(url=settings.lake_url, scratch=scratch)
    warehouse = DuckDBWarehouse(path=str(duckdb_path(settings.warehouse_url)), scratch=scratch)
    report_tables = DuckDBReportTables(warehouse=warehouse)
    return {
        "source": source,
        "lake": lake,
        "star_io": StarIOManager(lake=lake),
        "warehouse": warehouse,
        "reports": ReportIOManager(tables=report_tables),
        "workbook": XlsxWorkbook(path=str(settings.data / "reports.xlsx")),
    }


def production(settings: Settings) -> Resources:
    """As `local`, but nothing is assumed: source, lake and warehouse must be named."""
    if settings.unset:
        raise SettingsError(f"ETL_DEPLOYMENT=production needs {', '.join(settings.unset)} to be set")
    return local(settings)


DEPLOYMENTS = {"local": local, "production": production}


def resources(settings: Settings) -> Resources:
    """The resources of the deployment that the settings name."""
    if settings.deployment not in DEPLOYMENTS:
        raise SettingsError(
            f"ETL_DEPLOYMENT={settings.deployment} is not a deployment; there are {', '.join(DEPLOYMENTS)}"
        )
    return DEPLOYMENTS[settings.deployment](settings)
