"""Reporting tables in BigQuery."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pandas as pd
import pyarrow as pa
from google.cloud import bigquery

from etl_assets.clients.bigquery import BigQuery
from etl_assets.clients.bigquery_jobs import BigQueryError, explaining
from etl_assets.exports.duckdb import ReportTablesError
from etl_assets.exports.publishing import PublishResult, ReportTables
from etl_assets.failpoints import reached
from etl_assets.warehouse.bigquery import BigQueryWarehouse
from etl_assets.warehouse.schemas import REPORTING


class BigQueryReportTables(ReportTables):
    """Dataset `reporting` of the warehouse. Each table is replaced by one load job: its readers see the old one or the
    new one. Tables in BigQuery have no order; and a whole number is an INT64 there, whatever it was."""

    warehouse: dg.ResourceDependency[BigQueryWarehouse]

    def publish(self, name: str, frame: pd.DataFrame, description: str) -> PublishResult:
        rows = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        place = self.warehouse.datasets.table(REPORTING, name)
        resource: BigQuery = self.warehouse.bigquery
        with _explained(place):
            with resource.client() as client:
                resource.dataset(client, self.warehouse.datasets.dataset(REPORTING))
                held = resource.held(client, place)
                unchanged = (
                    held is not None
                    and (held.description or "") == description
                    and _same(rows, resource.content(client, held))
                )
            if not unchanged:
                reached("report publishing")
                resource.export(frame, place, "replace", description=description)
                reached("report published")
        return PublishResult(
            f"{self.warehouse.schemas.reporting}.{name}", rows.num_rows, rows.nbytes, unchanged
        )

    def read(self, name: str) -> pd.DataFrame:
        place = self.warehouse.datasets.table(REPORTING, name)
        resource: BigQuery = self.warehouse.bigquery
        with _explained(place), resource.client() as client:
            held: bigquery.Table | None = resource.held(client, place)
            if held is None:
                raise ReportTablesError(f"there is no {place} yet: materialize exports/{name} first")
            frame: pd.DataFrame = resource.content(client, held).to_pandas(types_mapper=pd.ArrowDtype)
            return frame


def _same(rows: pa.Table, held: pa.Table) -> bool:
    """Whether a table holds exactly these rows, in whatever order."""
    if rows.column_names != held.column_names:
        return False
    return sorted(map(repr, rows.to_pylist())) == sorted(map(repr, held.to_pylist()))


@contextmanager
def _explained(place: str) -> Iterator[None]:
    try:
        with explaining(place):
            yield
    except BigQueryError as error:
        raise ReportTablesError(str(error)) from None
