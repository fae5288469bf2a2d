"""Verification: everything the lake and the warehouse claim, recomputed from storage and from the live source.

    files      every landed file is the one its manifest lists
    raw        the rows held are as many, and add up to as much, as the source said in the batch's snapshot
    star       what the functions make of the rows held is what the star shows as current
    warehouse  is the star, history included
    source     what is held, plus what changed since, is what the source holds now

By default counts, sums and ranges are compared; thoroughly, all rows are.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from etl_assets.capture.controls import Unproven, proven
from etl_assets.capture.landing import lsn
from etl_assets.capture.plan import Plan, plan
from etl_assets.capture.reading import Folding, Reader
from etl_assets.capture.snapshot import take_snapshot
from etl_assets.capture.table import Table
from etl_assets.engine import duck
from etl_assets.engine.build import Builder
from etl_assets.engine.definition import Definition
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.schema import Fact, StarTable
from etl_assets.lake.batches import Batches, Manifest, TableState
from etl_assets.lake.current import Current, view
from etl_assets.lake.files import LakeError
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.star import StarFiles
from etl_assets.proof.totals import add_up, amounts, as_decimal, current_rows, loaded_rows
from etl_assets.resources.duckdb_warehouse import DuckDBReader, DuckDBWarehouse
from etl_assets.resources.warehouse import WarehouseError, WarehouseReader
from etl_assets.resources.warehouse_load import load_star


@dataclass(frozen=True)
class Finding:
    """The outcome of one comparison of a table at a hop. `difference` is empty where all is equal."""

    table: str
    hop: str
    compared: str
    difference: str = ""

    @property
    def equal(self) -> bool:
        return not self.difference


class Verifier:
    """Recomputes what a lake claims as of a manifest. `scratch` is a folder for what is made meanwhile."""

    def __init__(
        self, builder: Builder, manifest: Manifest, connection: duckdb.DuckDBPyConnection, scratch: Path
    ) -> None:
        self.builder = builder
        self.inputs = builder.inputs
        self.batches = builder.batches
        self.manifest = manifest
        self.connection = connection
        self.scratch = scratch
        self.lake = DuckDBReader(connection)

    # -- files and raw -------------------------------------------------------------------------------------------

    def files(self) -> Iterator[Finding]:
        """Compare every landed file with the SHA-256 in its manifest."""
        for table in self.manifest.tables:
            count = 0
            difference = ""
            try:
                for batch in self.batches.changing(table, self.manifest):
                    changes = batch.changed[table]
                    for file in (changes.rows, changes.deletions, changes.quarantined):
                        if file:
                            self.builder.current.landed(file, fresh=True)
                            count += 1
            except LakeError as error:
                difference = str(error)
            yield Finding(table, "files", f"{count} files", difference)

    def raw(self) -> Iterator[Finding]:
        """Compare the rows held with the source's totals in the batch's snapshot."""
        for name, state in self.manifest.tables.items():
            if name in self.inputs.tables:
                yield _or_unreadable(name, "raw", partial(self._raw, name, state))

    def _raw(self, name: str, state: TableState) -> Finding:
        types = self.inputs.tables[name].types
        sums = [c for c, control in state.controls.items() if control.held is not None and c in types]
        ranges = [c for c, control in state.controls.items() if control.min is not None and c in types]
        misfits = self.builder.misfits(name, self.manifest)
        rows = view(self.builder.existing(name, self.manifest))
        chosen = ", ".join(
            [
                "count(*)",
                *(f"coalesce(sum({identifier(c)}), 0)::VARCHAR" for c in sums),
                *(f"min({identifier(c)})::VARCHAR, max({identifier(c)})::VARCHAR" for c in ranges),
            ]
        )
        count, *values = duck.one(self.connection, f"SELECT {chosen} FROM {rows}")
        differences = []
        if count + misfits != state.rows:
            differences.append(f"{count + misfits:,} rows are held, the source had {state.rows:,}")
        for column, value in zip(sums, values, strict=False):
            if Decimal(value) != Decimal(state.controls[column].sum or 0):
                differences.append(
                    f"{column} adds up to {value}, in the source to {state.controls[column].sum}"
                )
        for i, column in enumerate(ranges):
            low, high = values[len(sums) + 2 * i : len(sums) + 2 * i + 2]
            control = state.controls[column]
            if not misfits and (low, high) != (control.min, control.max):
                differences.append(
                    f"{column} is in {low} … {high}, in the source in {control.min} … {control.max}"
                )
        compared = f"{state.rows:,} rows, {len(sums)} sums, {len(ranges)} ranges, {misfits} quarantined"
        return Finding(name, "raw", compared, "; ".join(differences))

    # -- star and warehouse --------------------------------------------------------------------------------------

    def star(self, *, thorough: bool) -> Iterator[Finding]:
        """Compare what the star shows as current with what its functions make of the rows held."""
        for definition in self.inputs.star.values():
            yield _or_unreadable(definition.name, "star", partial(self._star, definition, thorough=thorough))

    def _star(self, definition: Definition, *, thorough: bool) -> Finding:
        schema = definition.schema
        if not self.builder.star.paths(schema.name):
            return Finding(schema.name, "star", "nothing", "the star does not have it: run etl run")
        current = current_rows(schema, self._files(self.builder.star, schema))
        names = [c.name for c in schema.declared]
        with self._made(definition) as made:
            if thorough:
                return self._row_by_row(schema, "star", made, current, names)
            columns = self._amounts(definition)
            expected, found = add_up(self.lake, made, columns), add_up(self.lake, current, columns)
            difference = ""
            if expected != found:
                keys = self._row_by_row(schema, "star", made, current, names).difference
                difference = f"shows {found}; the rows held make {expected}; {keys}"
            return Finding(schema.name, "star", str(expected), difference)

    @contextmanager
    def _made(self, definition: Definition) -> Iterator[str]:
        """What a function makes of the rows held."""
        schema, (first, *others) = definition.schema, definition.inputs
        if isinstance(schema, Fact) and any(name in self.inputs.tables for name in others):
            # Each of its rows shows what other tables held in the row's own batch, so it is made batch by batch.
            with tempfile.TemporaryDirectory(dir=self.scratch, prefix="verify-") as folder:
                star = StarFiles(LocalFiles(Path(folder)), self.batches)
                builder = Builder(self.inputs, self.builder.current, star, self.connection)
                builder.build(definition, self.manifest).publish()
                yield current_rows(schema, self._files(star, schema))
            return
        context = {name: self.builder.read(name, self.manifest) for name in others}
        which = self.builder.existing if first in self.inputs.tables else self.builder.read
        yield view(definition.apply(self.connection, {first: which(first, self.manifest), **context}))

    def _amounts(self, definition: Definition) -> dict[str, str]:
        """For `add_up`: the columns whose sums are compared."""
        if definition.inputs[0] not in self.inputs.tables:
            return {}
        return as_decimal(amounts(definition, self.inputs, self.manifest), definition.schema)

    def warehouse(self, reader: WarehouseReader, *, thorough: bool) -> Iterator[Finding]:
        """Compare the warehouse's tables, history included, with the star's files."""
        for definition in self.inputs.star.values():
            compare = partial(self._warehouse, definition, reader, thorough=thorough)
            yield _or_unreadable(definition.name, "warehouse", compare)

    def _warehouse(self, definition: Definition, reader: WarehouseReader, *, thorough: bool) -> Finding:
        schema = definition.schema
        paths = [self.builder.star.files.local(path) for path in self.builder.star.paths(schema.name)]
        if not paths or not reader.has(schema.name):
            return Finding(schema.name, "warehouse", "nothing", "the warehouse does not have it: run etl run")
        files = duck.parquet(paths)
        finding = self._loaded(definition, reader, files, loaded_rows(schema, reader), thorough=thorough)
        if finding.equal and isinstance(schema, Fact):
            # The view is what analysts query, and what it leaves out stands in a table of its own.
            name, current = f"star.{identifier(schema.name + '_current')}", current_rows(schema, files)
            shown = self._loaded(definition, reader, current, name, thorough=thorough)
            if not shown.equal:
                return replace(shown, difference=f"{schema.name}_current: {shown.difference}")
        return finding

    def _loaded(
        self,
        definition: Definition,
        reader: WarehouseReader,
        files: str,
        name: str,
        *,
        thorough: bool,
    ) -> Finding:
        schema = definition.schema
        if thorough:
            return self._rows_of(reader, name, schema, files)
        sums = self._amounts(definition)
        expected, found = add_up(self.lake, files, sums), add_up(reader, name, sums)
        difference = ""
        if expected != found:
            keys = self._rows_of(reader, name, schema, files).difference
            difference = f"has {found}; the star has {expected}; {keys}"
        return Finding(schema.name, "warehouse", str(expected), difference)

    def _rows_of(self, reader: WarehouseReader, name: str, schema: StarTable, files: str) -> Finding:
        with self._copied(schema, reader, name) as copy:
            return self._row_by_row(schema, "warehouse", files, copy, [c.name for c in schema.columns])

    @contextmanager
    def _copied(self, schema: StarTable, reader: WarehouseReader, rows: str) -> Iterator[str]:
        """Rows of a warehouse, beside the lake's for as long as they are compared."""
        copy = reader.copy(self.connection, schema.columns, rows)
        try:
            yield copy
        finally:
            self.connection.execute(f"DROP TABLE {copy}")

    def _row_by_row(
        self,
        schema: StarTable,
        hop: str,
        expected: str,
        found: str,
        columns: Sequence[str],
    ) -> Finding:
        """Compare all rows. A difference names how many keys differ, and from which to which."""
        key = identifier(schema.key)
        names = listing(columns)
        differing = (
            f"(SELECT {names} FROM {expected} EXCEPT ALL SELECT {names} FROM {found}) UNION ALL "
            f"(SELECT {names} FROM {found} EXCEPT ALL SELECT {names} FROM {expected})"
        )
        keys, first, last = duck.one(
            self.connection, f"SELECT count(DISTINCT {key}), min({key}), max({key}) FROM ({differing})"
        )
        (rows,) = duck.one(self.connection, f"SELECT count(*) FROM {expected}")
        difference = f"{keys:,} keys differ, {schema.key} {first} to {last}" if keys else ""
        return Finding(schema.name, hop, f"{rows:,} rows, all columns", difference)

    # -- source --------------------------------------------------------------------------------------------------

    def source(self, url: str, tables: Sequence[Table], *, thorough: bool) -> Iterator[Finding]:
        """Compare what is held with what the source holds now. What changed there since the batch is no
        difference; a row that differs and has no recent version is one."""
        held = [table for table in tables if table.name in self.manifest.tables]
        with (
            take_snapshot(
                url, held, lake=self.manifest.lake, run_id="verify", connections=1, wait_seconds=60
            ) as snapshot,
            tempfile.TemporaryDirectory(dir=self.scratch, prefix="verify-") as folder,
        ):
            for name, relation in snapshot.relations.items():
                state = self.manifest.tables[name]
                reader = Reader(
                    relation, snapshot.connections[0], self.connection, Path(folder), lambda table, size: None
                )
                last = self.batches.last_read(name, self.manifest)
                behind = lsn(snapshot.instant.lsn) < lsn(last.lsn)
                how = plan(relation, last, snapshot.instant, lsn_behind=behind)
                fold = partial(self.builder.current.fold, name, self.manifest)
                yield self._source(reader, how, state, fold, thorough=thorough)

    def _source(
        self, reader: Reader, how: Plan, state: TableState, fold: Folding, *, thorough: bool
    ) -> Finding:
        name = reader.table
        found = reader.again(how, state, fold)
        changed = found.changed
        since = (
            f"{changed.new:,} new, {changed.changed:,} changed and {found.deleted:,} deleted since the batch"
        )
        compared = f"{found.totals.rows:,} rows, read {found.plan.read}; {since}"
        key = listing(reader.relation.key)
        if how.read == "horizon" and found.plan.read == "whole":
            differ = self.connection.sql(
                f"SELECT {key} FROM {view(changed.rows)} UNION ALL SELECT {key} FROM {view(found.gone)}"
            )
            keys = _from_to(differ.order(key).fetchall())
            return Finding(
                name,
                "source",
                compared,
                f"rows differ that have not changed since the batch, among key {keys}",
            )
        try:
            clean = state.clean_under is not None
            proven(
                reader.relation, found.totals, found.held or state, found.added, found.removed, clean=clean
            )
        except Unproven as error:
            return Finding(name, "source", compared, str(error))
        if thorough and how.read == "horizon":
            whole = reader.again(Plan("whole", "verification"), state, fold)
            silent = self.connection.sql(
                f"SELECT {key} FROM {view(whole.changed.rows)} ANTI JOIN {view(changed.rows)} USING ({key})"
            )
            rows = silent.order(key).fetchall()
            if rows:
                return Finding(
                    name, "source", compared, f"{len(rows):,} rows differ unexplained, key {_from_to(rows)}"
                )
        return Finding(name, "source", compared)

    # -- rebuild -------------------------------------------------------------------------------------------------

    def rebuild(self, live: WarehouseReader) -> Iterator[Finding]:
        """Build star and warehouse from all batches in a scratch place, and compare: content and surrogate keys. The
        warehouse is built in DuckDB, whatever the live one is: they have the same content."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="rebuild-") as folder:
            star = StarFiles(LocalFiles(Path(folder)), self.batches)
            current = Current(Batches(self.batches.files), self.connection, from_batches_alone=True)
            builder = Builder(self.inputs, current, star, self.connection)
            for definition in in_order(self.inputs.star):
                build = builder.build(definition, self.manifest)
                build.publish()
            for definition in self.inputs.star.values():
                schema = definition.schema
                again = self._files(star, schema)
                have = self._files(self.builder.star, schema)
                columns = [c.name for c in schema.columns]
                yield self._row_by_row(schema, "rebuilt star", again, have, columns)
            warehouse = DuckDBWarehouse(
                path=str(Path(folder) / "warehouse.duckdb"), scratch=str(self.scratch)
            )
            tables = [definition.schema for definition in self.inputs.star.values()]
            versions = {table.name: builder.version(table.name, self.manifest) for table in tables}
            load_star(warehouse, star, tables, versions, "etl verify")
            with warehouse.reading() as made:
                for table in tables:
                    compare = partial(self._rebuilt, table, made, live)
                    yield _or_unreadable(table.name, "rebuilt warehouse", compare)

    def _rebuilt(self, schema: StarTable, made: WarehouseReader, live: WarehouseReader) -> Finding:
        place = f"star.{identifier(schema.name)}"
        with self._copied(schema, made, place) as again, self._copied(schema, live, place) as have:
            names = [c.name for c in schema.columns]
            return self._row_by_row(schema, "rebuilt warehouse", again, have, names)

    def _files(self, star: StarFiles, schema: StarTable) -> str:
        paths = [str(star.files.local(path)) for path in star.paths(schema.name)]
        return (
            view(self.connection.read_parquet(paths))
            if paths
            else view(self.inputs.empty(self.connection, schema.name))
        )


def _or_unreadable(table: str, hop: str, compare: Callable[[], Finding]) -> Finding:
    """A comparison. Where what is to be compared can't be read, that is the difference."""
    try:
        return compare()
    except (LakeError, WarehouseError, duckdb.Error, pa.ArrowInvalid) as error:
        return Finding(table, hop, "nothing", " ".join(str(error).split()))


def _from_to(keys: Sequence[tuple[object, ...]]) -> str:
    """The first and the last of sorted keys."""
    return " to ".join(",".join(map(str, key)) for key in (keys[0], keys[-1])) if keys else "unknown"


def in_order(definitions: Mapping[str, Definition]) -> list[Definition]:
    """Star tables such that each comes after those it is made from."""
    remaining = dict(definitions)
    ordered: list[Definition] = []
    while remaining:
        for name, definition in list(remaining.items()):
            if not any(other in remaining for other in definition.inputs):
                ordered.append(remaining.pop(name))
    return ordered
