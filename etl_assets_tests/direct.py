"""The flow without Dagster, for tests that run it many times: a source, a folder, and inputs of their own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from etl_assets.engine.duck import listing
from etl_assets.lake.manifest import MAIN, Manifest
from etl_assets.proof.certificate import Certifier, TableProof
from etl_assets.proof.findings import Finding
from etl_assets.proof.hops.landed import compare_files, compare_raw
from etl_assets.proof.hops.rebuilt import compare_rebuilt
from etl_assets.proof.hops.source import compare_source
from etl_assets.proof.hops.star import compare_star
from etl_assets.proof.hops.warehouse import compare_warehouse
from etl_assets.proof.verification import Verification, verifying
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest, Notes
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.resource import Lake, OpenLake
from etl_assets.warehouse.assets import version_then
from etl_assets.warehouse.bigquery import bigquery_warehouse
from etl_assets.warehouse.contract import Warehouse
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets.warehouse.load import load_star
from etl_assets.warehouse.postgres import PostgresWarehouse
from etl_assets_tests.lake_layout import star_files

Dump = Mapping[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Direct:
    """What is kept lies in `data`, in the places where the `local` deployment keeps it; the warehouse in a PostgreSQL
    database or BigQuery, and the lake in a bucket, if one is named."""

    url: str
    data: Path
    inputs: Inputs
    warehouse_url: str | None = None
    lake_url: str | None = None

    @property
    def lake(self) -> Lake:
        return Lake(
            url=self.lake_url or str(self.data / "lake"),
            scratch=str(self.data / "scratch"),
            cache=str(self.data / "cache"),
        )

    @property
    def tables(self) -> list[Table]:
        """Those of the database."""
        return [table for table in self.inputs.tables.values() if table.source == MAIN]

    @property
    def lake_id(self) -> str:
        newest = self.lake.batches().latest()
        return newest.lake if newest else "none"

    @property
    def warehouse(self) -> Warehouse:
        if self.warehouse_url and self.warehouse_url.startswith("bigquery:"):
            made = bigquery_warehouse(self.warehouse_url, str(self.data / "scratch"))
            hasty = made.bigquery.model_copy(update={"pause_seconds": 0.01})
            return made.model_copy(update={"bigquery": hasty})
        if self.warehouse_url:
            return PostgresWarehouse(
                url=self.warehouse_url, scratch=str(self.data / "scratch"), wait_seconds=1
            )
        return DuckDBWarehouse(
            path=str(self.data / "warehouse.duckdb"), scratch=str(self.data / "scratch"), wait_seconds=5
        )

    def run(self, *, certified: bool = True, **options: Any) -> Manifest | None:
        """Take a batch and bring star and warehouse up to it; what it proves must be equal."""
        manifest = self.capture(**options)
        self.derive(certified=certified)
        return manifest

    def capture(self, notes: Notes | None = None, **options: Any) -> Manifest | None:
        """Take a batch, however much is deleted or does not fit."""
        scratch = self.data / "scratch"
        options = {"run_id": "a test", "deletion_brake": 1, "quarantine_limit": 1, **options}
        request = CaptureRequest(self.url, self.tables, **options)
        return take_batch(request, self.lake.batches(), scratch, lambda table, size: None, notes)

    def derive(self, *, certified: bool = True, alone: bool = True) -> list[TableProof]:
        """Everything after the capture, as the assets do it. Of who is not `alone` others may publish in between, so that
        what is proven need not be equal."""
        with self.lake.open(self.inputs) as bench:
            builds = list(bench.builder.derive(bench.manifest))
            for build in builds:
                assert build.passed, (build.failure, build.audits)
            bench.publish(builds)
            tables = [definition.schema for definition in self.inputs.star.values()]
            versions = {table.name: bench.builder.version(table.name, bench.manifest) for table in tables}
            loaded = load_star(
                self.warehouse,
                bench.star,
                tables,
                versions,
                "a test",
                bench.changed_members,
                version_then=partial(version_then, bench),
            )
            assert not any(sum(outcome.dangling.values()) for outcome in loaded.values())
            if not certified:
                return []
            with self.warehouse.reading() as reader:
                certifier = Certifier(bench.builder, bench.manifest, reader)
                proofs = certifier.proofs()
                certifier.publish(proofs)
        differences = [proof.differences for proof in proofs if not proof.equal]
        assert not (alone and differences), differences
        return proofs

    # -- proof ---------------------------------------------------------------------------------------------------

    @contextmanager
    def verifier(self, *, under_way: bool = False) -> Iterator[tuple[Verification, OpenLake]]:
        scratch = self.data / "scratch"
        with (
            self.lake.open(self.inputs) as bench,
            verifying(bench, scratch, loading=lambda: under_way) as verifier,
        ):
            yield verifier, bench

    def verified(self, *, thorough: bool = False, source: bool = True) -> list[Finding]:
        """The outcome of every comparison, in the order of the hops."""
        with self.verifier() as (verifier, _):
            found = [*compare_files(verifier), *compare_raw(verifier), *compare_star(verifier)]
            with self.warehouse.glancing() as reader:
                found += compare_warehouse(verifier, reader)
            if source:
                found += compare_source(verifier, self.url, self.tables, thorough=thorough)
            return found

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The warehouse, to look at."""
        with duckdb.connect(str(self.data / "warehouse.duckdb"), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection

    def rebuilt(self) -> list[Finding]:
        with self.verifier() as (verifier, _), self.warehouse.glancing() as live:
            return list(compare_rebuilt(verifier, live))

    # -- what readers see ----------------------------------------------------------------------------------------

    def dump(self) -> Dump:
        """All rows of all star tables of the warehouse, surrogate keys and deletions included."""
        if not self.warehouse.exists:
            return {}
        with self.warehouse.glancing() as reader:
            return {
                name: sorted(
                    reader.rows(f"SELECT {listing(made.schema.arrow.names)} FROM star.{name}"), key=repr
                )
                for name, made in self.inputs.star.items()
                if reader.has(name)
            }

    def lake_dump(self) -> Dump:
        """All rows of all Parquet files that the star's manifest lists."""
        found: dict[str, list[tuple[Any, ...]]] = {}
        with duckdb.connect() as connection:
            for name in self.inputs.star:
                files = list(map(str, star_files(self.data / "lake", name)))
                if files:
                    query = "FROM read_parquet($files) ORDER BY ALL"
                    found[name] = connection.execute(query, {"files": files}).fetchall()
        return found

    def at(self, data: Path) -> "Direct":
        return replace(self, data=data)
