"""Where the schemas of a warehouse are in BigQuery, and how what is there is read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlglot
from google.cloud import bigquery
from sqlglot import exp

from etl_assets.clients.bigquery import BigQuery
from etl_assets.clients.bigquery_jobs import BigQueryError, explaining
from etl_assets.warehouse.contract import Kind, WarehouseError
from etl_assets.warehouse.dialect import LAST_CHANGE, SCHEMA, Dialect
from etl_assets.warehouse.schemas import REPORTING, Schemas

_NAMES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
_KINDS: Mapping[str, Kind] = {"TABLE": "table", "VIEW": "view"}


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
class Datasets:
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


def last_change(resource: BigQuery, client: bigquery.Client, datasets: Datasets) -> str | None:
    """What the last load of the warehouse was, read without a query; None before the first one."""
    place = datasets.table(SCHEMA, LAST_CHANGE)
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
