"""The warehouse in BigQuery: a dataset for the star, one for reports, and one for what is staged. A load is in `bigquery_load`."""

import re
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import sqlglot
from google.api_core.exceptions import NotFound
from google.cloud import bigquery
from pydantic import Field
from sqlglot import exp

from etl_assets.clients.bigquery import BigQuery
from etl_assets.clients.bigquery_jobs import ONCE, BigQueryError, explaining
from etl_assets.errors import SettingsError
from etl_assets.preflight import CheckResult, probed
from etl_assets.star.schema import Column
from etl_assets.warehouse.contract import (
    DUCKDB,
    LAST_CHANGE,
    SCHEMA,
    Dialect,
    Kind,
    LoadSession,
    Warehouse,
    WarehouseError,
    WarehouseInUse,
    WarehouseReader,
    given,
)
from etl_assets.warehouse.schemas import REPORTING, Schemas

_NAMES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
_KINDS: Mapping[str, Kind] = {"TABLE": "table", "VIEW": "view"}
_PROJECT = re.compile(r"[a-z][a-z0-9.:-]{4,62}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_]*")


class BigQueryDialect(Dialect):
    """Texts are escaped by a backslash, and bytes are written by a function of its own."""

    def literal(self, text: str) -> str:
        """A text as BigQuery's SQL has it."""
        return exp.Literal.string(text).sql("bigquery")

    def hexadecimal(self, value: str) -> str:
        """The SQL of bytes as hexadecimal digits."""
        return f"to_hex({value})"


DIALECT = BigQueryDialect("bigquery", "`")


@dataclass(frozen=True)
class Places:
    """Where the schemas are: dataset `star`, or `<prefix>_star`, and so on."""

    project: str
    prefix: str
    schemas: Schemas

    def dataset(self, schema: str) -> str:
        """The dataset that stands for a schema."""
        called = self.schemas.called(schema)
        return f"{self.prefix}_{called}" if self.prefix else called

    def table(self, schema: str, name: str) -> str:
        """A table of a dataset, quoted."""
        return f"{self.dataset(schema)}.{name}"

    @property
    def staging(self) -> str:
        return self.dataset(self.schemas.staging)

    def rewritten(self, sql: str, dialect: str = "bigquery", moved: Mapping[str, str] | None = None) -> str:
        """SQL about schemas `star` and `reporting` as BigQuery understands it; `moved` tables of `star` are elsewhere."""

        def placed(node: exp.Expr) -> exp.Expr:
            if isinstance(node, exp.Table) and node.db and not node.catalog:
                dataset, name = node.db, node.name
                if dataset == SCHEMA and moved and name in moved:
                    dataset, _, name = moved[name].partition(".")
                elif dataset in {SCHEMA, REPORTING}:
                    dataset = self.dataset(dataset)
                for part, value in (("catalog", self.project), ("db", dataset), ("this", name)):
                    node.set(part, exp.to_identifier(value, quoted=True))
            elif isinstance(node, exp.Placeholder) and node.name:
                return exp.Parameter(this=exp.var(node.name))
            return node

        return sqlglot.parse_one(sql, read=dialect).transform(placed).sql("bigquery")


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
    def places(self) -> Places:
        return Places(self.bigquery.project or "", self.prefix, self.schemas)

    @property
    def exists(self) -> bool:
        with wrapped(), self.bigquery.client() as client, explaining(self.where):
            name = f"{client.project}.{self.places.dataset(SCHEMA)}"
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
                name = self.places.dataset(schema)
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
            before = last_change(self.bigquery, client, self.places)
            reader = BigQueryReader(self.bigquery, client, self.places)
            yield reader
            if reader.asked > 1 and last_change(self.bigquery, client, self.places) != before:
                raise WarehouseInUse(f"{self.where} was loaded while it was read: run again")

    @contextmanager
    def session(self) -> Iterator[LoadSession]:
        from etl_assets.warehouse.bigquery_load import open_session

        with wrapped(), open_session(self.bigquery, self.places, self.scratch) as session:
            yield session


class BigQueryReader(WarehouseReader):
    """Asks by queries."""

    def __init__(self, resource: BigQuery, client: bigquery.Client, places: Places) -> None:
        self.resource = resource
        self.client = client
        self.places = places
        self.asked = 0

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return tuples(self._table(sql, params))

    def frame(self, sql: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._table(sql, params).to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def columns(self, schema: str, table: str) -> Mapping[str, tuple[str, bool]]:
        self.asked += 1
        with explaining(f"{schema}.{table}"):
            return columns(self.resource.held(self.client, self.places.table(schema, table)))

    def kind(self, schema: str, name: str) -> Kind | None:
        self.asked += 1
        with explaining(f"{schema}.{name}"):
            return kind(self.resource.held(self.client, self.places.table(schema, name)))

    def copy(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], source: str) -> str:
        self.asked += 1
        wanted = pa.schema([pa.field(column.name, column.type.arrow) for column in columns])
        names = DUCKDB.listing([column.name for column in columns])
        sql = self.places.rewritten(f"SELECT {names} FROM {source}", "duckdb")
        copied = given(connection, wanted.empty_table())
        with explaining(source):
            for page in self.resource.pages(self.client, sql):
                connection.register("page", page.cast(wanted))
                connection.execute(f"INSERT INTO {copied} FROM page")
                connection.unregister("page")
        return copied

    def _table(self, sql: str, params: Mapping[str, Any] | None) -> pa.Table:
        self.asked += 1
        return self.resource.ask(self.client, self.places.rewritten(sql, "duckdb"), params)


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


def last_change(resource: BigQuery, client: bigquery.Client, places: Places) -> str | None:
    """What the last load of the warehouse was, read without a query; None before the first one."""
    place = places.table(SCHEMA, LAST_CHANGE)
    with explaining(place):
        table = resource.held(client, place)
        if table is None:
            return None

        return str(resource.content(client, table)["name"][0])


def columns(table: bigquery.Table | None) -> Mapping[str, tuple[str, bool]]:
    """The columns of a table, with the types that `Type` names, and whether they may be NULL."""
    if table is None:
        return {}
    return {field.name: (_type(field), field.mode != "REQUIRED") for field in table.schema}


def kind(table: bigquery.Table | None) -> Kind | None:
    """What something is that was found under a name."""
    return _KINDS.get(table.table_type) if table else None


def _type(field: bigquery.SchemaField) -> str:
    name = _NAMES.get(field.field_type, field.field_type)
    return f"{name}({field.precision},{field.scale or 0})" if field.precision else name


def tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows as Python's values."""
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@contextmanager
def wrapped() -> Iterator[None]:
    """Let errors of BigQuery come out as those of a warehouse."""
    try:
        yield
    except BigQueryError as error:
        raise WarehouseError(str(error)) from None
