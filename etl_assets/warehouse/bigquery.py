"""The warehouse in BigQuery: a dataset for the star, one for reports, and one for what is staged. A load is in `bigquery_load`."""

import re
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
from google.api_core.exceptions import NotFound
from google.cloud import bigquery
from pydantic import Field

from etl_assets.clients.bigquery import BigQuery
from etl_assets.clients.bigquery_jobs import ONCE, explaining
from etl_assets.errors import SettingsError
from etl_assets.preflight import CheckResult, probed
from etl_assets.star.schema import Column
from etl_assets.warehouse.bigquery_load import open_session
from etl_assets.warehouse.bigquery_places import (
    Datasets,
    columns,
    kind,
    last_change,
    tuples,
    wrapped,
)
from etl_assets.warehouse.contract import (
    Kind,
    LoadSession,
    Warehouse,
    WarehouseError,
    WarehouseInUse,
    WarehouseReader,
    given,
)
from etl_assets.warehouse.dialect import DUCKDB, SCHEMA
from etl_assets.warehouse.schemas import REPORTING

_PROJECT = re.compile(r"[a-z][a-z0-9.:-]{4,62}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_]*")


class BigQueryWarehouse(Warehouse):
    """Datasets of a project."""

    bigquery: dg.ResourceDependency[BigQuery]
    prefix: str = Field(
        default="", description="Datasets are <prefix>_star and <prefix>_reporting; else star, reporting."
    )
    scratch: str = Field(description="Folder for what does not fit into memory.")

    @property
    def where(self) -> str:
        return f"bigquery://{self.bigquery.project}/{self.prefix}".rstrip("/")

    @property
    def datasets(self) -> Datasets:
        return Datasets(self.bigquery.project or "", self.prefix, self.schemas)

    @property
    def exists(self) -> bool:
        with wrapped(), self.bigquery.client() as client, explaining(self.where):
            name = f"{client.project}.{self.datasets.dataset(SCHEMA)}"
            try:
                self.bigquery.patience.retrying(
                    lambda: client.get_dataset(name, retry=ONCE, timeout=self.bigquery.request_seconds)
                )
            except NotFound:
                return False
        return True

    def check(self) -> Iterator[CheckResult]:
        """Try to ask, and to make a table in each dataset that is there; it is removed at once."""
        asked = probed("query", self._asked)
        yield asked
        if asked.state == "ok":
            for schema in (SCHEMA, REPORTING, self.schemas.staging):
                name = self.datasets.dataset(schema)
                yield probed(f"dataset {name}", partial(self._rehearsed, name))

    def _asked(self) -> str:
        with wrapped(), self.bigquery.client() as client:
            self.bigquery.ask(client, "SELECT 1 AS one")
        return f"{self.where}: queries are answered"

    def _rehearsed(self, dataset: str) -> str:
        seconds, patience = self.bigquery.request_seconds, self.bigquery.patience
        with wrapped(), self.bigquery.client() as client, explaining(dataset):
            place = f"{client.project}.{dataset}"
            try:
                found = patience.retrying(lambda: client.get_dataset(place, retry=ONCE, timeout=seconds))
            except NotFound:
                if self.bigquery.location:
                    return f"the first run makes it in {self.bigquery.location}"
                raise WarehouseError(f"there is no dataset {place}: create it, or set its location") from None
            tried = bigquery.Table(
                f"{place}.doctor_{uuid.uuid4().hex}", [bigquery.SchemaField("id", "INT64")]
            )
            try:
                patience.retrying(
                    lambda: client.create_table(tried, exists_ok=True, retry=ONCE, timeout=seconds)
                )
            finally:
                patience.retrying(
                    lambda: client.delete_table(tried, not_found_ok=True, retry=ONCE, timeout=seconds)
                )
        return f"in {found.location}: tables can be made and removed"

    @contextmanager
    def reading(self) -> Iterator[WarehouseReader]:
        """Questions are asked one by one. If a load comes between two of them this raises `WarehouseInUse`."""
        with wrapped(), self.bigquery.client() as client:
            before = last_change(self.bigquery, client, self.datasets)
            reader = BigQueryReader(self.bigquery, client, self.datasets)
            yield reader
            if reader.asked > 1 and last_change(self.bigquery, client, self.datasets) != before:
                raise WarehouseInUse(f"{self.where} was loaded while it was read: run again")

    @contextmanager
    def session(self) -> Iterator[LoadSession]:
        with wrapped(), open_session(self.bigquery, self.datasets, self.scratch) as session:
            yield session


class BigQueryReader(WarehouseReader):
    """Asks by queries."""

    def __init__(self, resource: BigQuery, client: bigquery.Client, datasets: Datasets) -> None:
        self.resource = resource
        self.client = client
        self.datasets = datasets
        self.asked = 0

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return tuples(self._table(sql, params))

    def frame(self, sql: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._table(sql, params).to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def columns(self, schema: str, table: str) -> Mapping[str, tuple[str, bool]]:
        self.asked += 1
        with explaining(f"{schema}.{table}"):
            return columns(self.resource.held(self.client, self.datasets.table(schema, table)))

    def kind(self, schema: str, name: str) -> Kind | None:
        self.asked += 1
        with explaining(f"{schema}.{name}"):
            return kind(self.resource.held(self.client, self.datasets.table(schema, name)))

    def copy(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], source: str) -> str:
        self.asked += 1
        wanted = pa.schema([pa.field(column.name, column.type.arrow) for column in columns])
        names = DUCKDB.listing([column.name for column in columns])
        sql = self.datasets.rewritten(f"SELECT {names} FROM {source}", "duckdb")
        copied = given(connection, wanted.empty_table())
        with explaining(source):
            for page in self.resource.pages(self.client, sql):
                connection.register("page", page.cast(wanted))
                connection.execute(f"INSERT INTO {copied} FROM page")
                connection.unregister("page")
        return copied

    def _table(self, sql: str, params: Mapping[str, Any] | None) -> pa.Table:
        self.asked += 1
        return self.resource.ask(self.client, self.datasets.rewritten(sql, "duckdb"), params)


def bigquery_warehouse(url: str, scratch: str, star_schema: str = SCHEMA) -> BigQueryWarehouse:
    """The warehouse that `bigquery://project[/prefix][?location=EU]` names. Raises `SettingsError`."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # its text repeats the address
        parts = urllib.parse.urlsplit("")
    given = dict(urllib.parse.parse_qsl(parts.query))
    prefix = parts.path.strip("/")
    if (
        parts.scheme != "bigquery"
        or not _PROJECT.fullmatch(parts.netloc)
        or not _PREFIX.fullmatch(prefix)
        or set(given) - {"location"}
    ):
        raise SettingsError(
            "ETL_WAREHOUSE_URL: write bigquery://project, bigquery://project/prefix, "
            "and ?location=EU behind it where the datasets are not there yet"
        )
    resource = BigQuery(project=parts.netloc, location=given.get("location"))
    return BigQueryWarehouse(bigquery=resource, prefix=prefix, scratch=scratch, star_schema=star_schema)
