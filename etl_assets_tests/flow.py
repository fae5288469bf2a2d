"""The main flow as a test drives it: a source, a folder for all that is kept, and runs of the real definitions."""

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import dagster as dg
import duckdb
import psycopg2
import pytest

from etl_assets.definitions import definitions
from etl_assets.project import load
from etl_assets.settings import Settings
from etl_assets.star.definition import Inputs
from etl_assets_tests import oracle
from etl_assets_tests.hiring import BICYCLES
from etl_assets_tests.lake_layout import star_files
from etl_assets_tests.oracle import Content, Model, Moment, Row, Rows, parse_csv

STAGES = ("raw", "star", "warehouse")


@dataclass(frozen=True)
class Run:
    """What a run did, read from its events."""

    result: dg.ExecuteInProcessResult
    instance: dg.DagsterInstance

    @property
    def success(self) -> bool:
        return self.result.success

    @cached_property
    def materializations(self) -> Mapping[str, dg.AssetMaterialization]:
        """By asset key, as `star/dim_staff`."""
        made = [e.materialization for e in self.result.get_asset_materialization_events()]
        return {m.asset_key.to_user_string(): m for m in made}

    @property
    def versions(self) -> Mapping[str, str]:
        return {key: m.tags["dagster/data_version"] for key, m in self.materializations.items() if m.tags}

    @cached_property
    def error_lines(self) -> Sequence[str]:
        """The messages of all errors and their causes, first error first."""

        def chain(error: Any) -> Iterator[str]:
            while error:
                yield error.message.strip()
                error = error.cause or error.context

        failures = [event.event_specific_data for event in self.result.all_events if event.is_step_failure]
        return [line for failure in failures for line in chain(getattr(failure, "error", None))]

    @property
    def error(self) -> str:
        """What the first error says that is meant for people: one of ours, without the name of its class."""
        ours = (line for line in self.error_lines if line.startswith("etl_assets."))
        return next(ours, "").partition(": ")[2]

    @cached_property
    def events(self) -> str:
        """Everything that is kept of the run: events with metadata and tracebacks, messages, configuration."""
        run = self.instance.get_run_by_id(self.result.run_id)
        entries = self.instance.all_logs(self.result.run_id)
        return "\n".join(
            [str(run), dg.serialize_value(run), *map(str, entries), *map(dg.serialize_value, entries)]
        )


@dataclass(frozen=True)
class Flow:
    url: str
    data: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    model: Model = BICYCLES

    @property
    def lake(self) -> Path:
        return self.data / "lake"

    @property
    def environment(self) -> Mapping[str, str]:
        """All settings of it."""
        return {
            "ETL_PROJECT": self.model.project,
            "ETL_SOURCE_URL": self.url,
            "ETL_DATA": str(self.data),
            **self.settings,
        }

    @property
    def tables(self) -> Sequence[str]:
        """Those of the star."""
        return (*self.model.dimensions, *self.model.facts)

    @property
    def inputs(self) -> Inputs:
        return load(self.model.project).inputs

    @property
    def moment(self) -> Moment:
        """The source as it is now, and as the star must show it."""
        return self.model.moment(self.url)

    def definitions(self) -> dg.Definitions:
        return definitions(Settings.read(self.environment))

    def run(self, *selected: str, config: Mapping[str, Any] | None = None, keep_events: bool = False) -> Run:
        """Run the main flow, or of it the stages (`raw`) and assets (`raw/staff`) that are selected."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            defs = self.definitions()
            keys = [spec.key for spec in defs.resolve_all_asset_specs() if spec.key.path[0] in STAGES]
            chosen = [k for k in keys if not selected or {k.path[0], k.to_user_string()} & set(selected)]
            with dg.DagsterInstance.ephemeral() as instance:
                result = defs.resolve_job_def("etl").execute_in_process(
                    instance=instance,
                    raise_on_error=False,
                    asset_selection=chosen,
                    run_config=dict(config or {}),
                )
                run = Run(result, instance)
                if not run.success or keep_events:
                    _ = run.events  # while there is an instance to ask
                return run

    # -- the lake, read without the product's help ---------------------------------------------------------------

    def files(self, under: str = "") -> Mapping[str, tuple[int, int, str]]:
        """Path in the lake -> size, time of the last change, SHA-256."""
        found = [path for path in (self.lake / under).rglob("*") if path.is_file()]
        return {
            str(path.relative_to(self.lake)): (
                path.stat().st_size,
                path.stat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in found
        }

    def manifests(self) -> Sequence[Mapping[str, Any]]:
        return [
            json.loads(path.read_text())
            for path in sorted((self.lake / "raw/batches").glob("*.json"))
            if path.stem.isdigit()
        ]

    def changes(self, manifest: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """What a batch brought, by table."""
        return {name: state["changes"] for name, state in manifest["tables"].items() if state["changes"]}

    def landed(self, listed: Mapping[str, Any] | None) -> Sequence[Row]:
        """The rows of a file that a manifest lists."""
        return list(parse_csv((self.lake / listed["path"]).read_text("utf-8"))) if listed else []

    def folds(self) -> Iterator[Content]:
        """The source as the raw batches tell it, after each of them."""
        state: dict[str, dict[int, Row]] = {}
        for manifest in self.manifests():
            for table in manifest["tables"]:
                state.setdefault(table, {})
            for table, changes in self.changes(manifest).items():
                key = f"{table}_id"
                state[table].update({int(str(row[key])): row for row in self.landed(changes["rows"])})
                for row in self.landed(changes["deletions"]):
                    del state[table][int(str(row[key]))]
            yield {table: dict(rows) for table, rows in state.items()}

    def fold(self) -> Content:
        return list(self.folds())[-1]

    def star_files(self, name: str) -> Sequence[str]:
        return list(map(str, star_files(self.lake, name)))

    def lake_rows(self, name: str, columns: Sequence[str]) -> list[tuple[object, ...]]:
        """A star table as its Parquet files have it; of a fact the current state."""
        key = columns[0]
        if name in self.model.facts:
            record = self.model.facts[name][1]
            source = (
                f"(SELECT * FROM read_parquet($files) QUALIFY row_number() OVER "
                f"(PARTITION BY {key} ORDER BY {record} DESC) = 1)"
            )
        else:
            source = "read_parquet($files)"
        with duckdb.connect() as connection:
            return connection.execute(
                f"SELECT {', '.join(columns)} FROM {source} WHERE NOT deleted ORDER BY {key}",
                {"files": self.star_files(name)},
            ).fetchall()

    # -- the warehouse -------------------------------------------------------------------------------------------

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.data / "warehouse.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def warehouse_rows(self, name: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """A star table's present content, as analysts query it."""
        source = (
            f"star.{name}_current" if name in self.model.facts else f"(FROM star.{name} WHERE NOT deleted)"
        )
        return self.query(f"SELECT {', '.join(columns)} FROM {source} ORDER BY {columns[0]}")

    def dump(self) -> Mapping[str, list[tuple[Any, ...]]]:
        """All rows of all star tables of the warehouse, surrogate keys and deleted rows included."""
        return {name: self.query(f"FROM star.{name} ORDER BY ALL") for name in self.tables}

    def lake_dump(self) -> Mapping[str, list[tuple[Any, ...]]]:
        """All rows of all Parquet files of the lake."""
        with duckdb.connect() as connection:
            return {
                name: connection.execute(
                    "FROM read_parquet($files) ORDER BY ALL", {"files": self.star_files(name)}
                ).fetchall()
                for name in self.tables
            }


def exact(rows: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Rows in which 1 is not True and not Decimal('1')."""
    return [tuple((type(value).__name__, value) for value in row) for row in rows]


def same(expected: Rows, found: Sequence[tuple[object, ...]]) -> bool:
    return exact(found) == exact(expected.rows)


def as_role(url: str, role: str, password: str) -> str:
    """The URL for another role of the same database."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}"))


def execute(url: str, statement: str, *values: object) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


def assert_equal_to(source: Moment, flow: Flow) -> None:
    """Warehouse and lake show what PostgreSQL computes from the source."""
    for name, expected in source.star.items():
        assert expected.rows, f"{name} is empty: nothing is compared"
        assert same(expected, flow.warehouse_rows(name, expected.columns)), name
        assert same(expected, flow.lake_rows(name, expected.columns)), name
    assert flow.fold() == source.content


def assert_calendar(dates: frozenset[dt.date], flow: Flow) -> None:
    expected = oracle.calendar(flow.url, dates)
    assert same(expected, flow.warehouse_rows("dim_date", expected.columns))
    assert same(expected, flow.lake_rows("dim_date", expected.columns))
