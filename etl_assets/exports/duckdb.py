"""Reporting tables in DuckDB, beside the star they were computed from, and the IO manager that keeps reports there."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import dagster as dg
import duckdb
from pydantic import PrivateAttr

from etl_assets import faults
from etl_assets.cost import PROCESSOR, SECONDS, Cost
from etl_assets.engine.duck import identifier, listing, literal
from etl_assets.engine.preview import markdown
from etl_assets.errors import EtlError
from etl_assets.exports.publishing import PublishResult, ReportTables
from etl_assets.failpoints import reached
from etl_assets.later import Later
from etl_assets.warehouse.duckdb import DuckDBWarehouse

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
else:
    pd = Later("pandas")
    pa = Later("pyarrow")

_PREVIEW_ROWS = 10


class ReportTablesError(EtlError):
    """A reporting table can't be read or written."""


class DuckDBReportTables(ReportTables):
    """The reports' schema of the warehouse."""

    warehouse: dg.ResourceDependency[DuckDBWarehouse]
    _keeping: ExitStack | None = PrivateAttr(default=None)
    _descriptions: dict[str, str] = PrivateAttr(default_factory=dict)
    """The comments on the tables, as long as the warehouse is kept open and nobody else writes."""

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """From the first report that is published or read on: before, the warehouse may be loaded, and others may wait for it."""
        with ExitStack() as self._keeping:
            try:
                yield
            finally:
                self._keeping = None

    def publish(self, name: str, frame: "pd.DataFrame", description: str) -> PublishResult:
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        schema = self.warehouse.schemas.reporting
        place = f"{identifier(schema)}.{identifier(name)}"
        with _naming(schema, name), self._connected() as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)}")
            unchanged = self._descriptions.get(name) == description and _content(connection, place).equals(
                table
            )
            if not unchanged:
                connection.register("unpublished", table)
                with _transaction(connection):
                    columns = listing(table.column_names)
                    connection.execute(
                        f"CREATE OR REPLACE TABLE {place} AS SELECT {columns} FROM unpublished"
                    )
                    connection.execute(f"COMMENT ON TABLE {place} IS {literal(description)}")
                connection.unregister("unpublished")
                self._descriptions[name] = description
        return PublishResult(f"{schema}.{name}", table.num_rows, table.nbytes, unchanged)

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        known = self._keeping is not None and self.warehouse.is_kept_open
        if self._keeping is not None and not known:
            self._keeping.enter_context(self.warehouse.kept_open())
        with self.warehouse.connect() as connection:
            if not known:
                self._descriptions = _described(connection, self.warehouse.schemas.reporting)
            yield connection

    def read(self, name: str) -> "pd.DataFrame":
        schema = self.warehouse.schemas.reporting
        with _naming(schema, name), self._connected() as connection:
            if name not in self._descriptions:
                raise ReportTablesError(f"there is no {schema}.{name} yet: materialize exports/{name} first")
            place = f"{identifier(schema)}.{identifier(name)}"
            frame: pd.DataFrame = _content(connection, place).to_pandas(types_mapper=pd.ArrowDtype)
            return frame

    def standing(self) -> str | None:
        if not self.warehouse.exists:
            return "none"
        schema = self.warehouse.schemas.reporting
        with self.warehouse.glancing() as reader:
            found = reader.rows(
                "SELECT table_name, coalesce(comment, ''), sql FROM duckdb_tables() "
                "WHERE database_name = current_database() AND schema_name = $schema ORDER BY table_name",
                {"schema": schema},
            )
            held = [
                (
                    name,
                    *told,
                    *reader.rows(
                        f"SELECT count(*), sum(hash(t)) FROM {identifier(schema)}.{identifier(name)} AS t"
                    ),
                )
                for name, *told in found
            ]
        return hashlib.sha256(repr(held).encode()).hexdigest()


class ReportIOManager(dg.ConfigurableIOManager):
    """Publishes the report that an asset made, and loads it for the assets that ask for it."""

    tables: dg.ResourceDependency[ReportTables]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["ReportIOManager"]:
        """The manager for a run."""
        with self.tables.kept_open():
            yield self

    def handle_output(self, context: dg.OutputContext, obj: "pd.DataFrame") -> None:
        """Publish a report, and say what was published. What it cost to make and to publish is said as one."""
        spec, made = context.asset_spec, context.output_metadata
        cost = Cost(*(made[name].value for name in (SECONDS, PROCESSOR) if name in made))
        with cost.counting():
            published = self.tables.publish(context.asset_key.path[-1], obj, spec.description or "")
        # The history would grow by an unchanged one at every run, though it is the same.
        told = {} if published.unchanged else {"preview": dg.MetadataValue.md(preview(obj))}
        context.add_output_metadata(
            {
                "dagster/row_count": published.rows,
                "dagster/table_name": published.where,
                "bytes": published.bytes,
                "unchanged": published.unchanged,
                **cost.figures(),
                **cost.rate(published.rows),
                **told,
            }
        )

    def load_input(self, context: dg.InputContext) -> "pd.DataFrame":
        """A report as it was published."""
        return self.tables.read(context.asset_key.path[-1])


def preview(frame: "pd.DataFrame") -> str:
    """The first rows as a Markdown table."""

    rows = frame.head(_PREVIEW_ROWS).itertuples(index=False, name=None)
    return markdown(list(frame.columns), [[None if cell is pd.NA else cell for cell in row] for row in rows])


def _described(connection: duckdb.DuckDBPyConnection, schema: str) -> dict[str, str]:
    """The comments on the reporting tables, by table."""
    found = connection.execute(
        "SELECT table_name, coalesce(comment, '') FROM duckdb_tables() "
        "WHERE database_name = current_database() AND schema_name = $schema",
        {"schema": schema},
    ).fetchall()
    return dict(found)


def _content(connection: duckdb.DuckDBPyConnection, place: str) -> "pa.Table":
    return connection.table(place).to_arrow_table()


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    reached("report publishing")
    connection.commit()
    reached("report published")


@contextmanager
def _naming(schema: str, name: str) -> Iterator[None]:
    """Say which table it was that DuckDB refused."""
    try:
        yield
    except (duckdb.Error, faults.Fault) as error:
        raise ReportTablesError(f"{schema}.{name}: {faults.told(error)}").with_traceback(
            error.__traceback__
        ) from None
