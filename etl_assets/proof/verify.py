"""Verification: everything the lake and the warehouse claim, recomputed from storage and from the live source.

    files      every landed file is the one its manifest lists
    raw        the rows held are as many, and add up to as much, as the source said in the batch's snapshot
    star       every function, applied whole to the inputs as of the batch, gives what the star shows, in all columns
    warehouse  is the star, history included
    source     what is held, plus what changed since, is what the source holds now

The inputs are read from the landed files by `etl_assets.proof.landed`, which has nothing in common with what the flow
does but the declared types: a star function meets them here for the first time. Nothing is claimed, and nothing waited
for: what is compared is the batch that was the newest when the verification began. What runs publish and load meanwhile
is no difference: the files of that batch are kept, and a warehouse is compared with what it was loaded from.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import duckdb
import pyarrow as pa

from etl_assets import faults
from etl_assets.apis.declaration import Api
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.scratch import own_folder
from etl_assets.engine.sums import added_up
from etl_assets.lake.batches import MAIN, Batches, Manifest, TableState, number
from etl_assets.lake.certificates import VERIFIED, certificate_path, noted, verified_path
from etl_assets.lake.current import Current, materialized, view
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.seal import sealed
from etl_assets.proof.landed import LANDED_IN, LandedTable, landed_table
from etl_assets.proof.pages import altered, compared, keys_without_page, newest_records
from etl_assets.proof.parts import PARTS, Parts, in_words, of_parts
from etl_assets.proof.totals import amount, current_rows, digest_of, loaded_rows
from etl_assets.raw.controls import Unproven, proven
from etl_assets.raw.plan import ReadPlan, plan
from etl_assets.raw.reading import Folding, Reader
from etl_assets.source.catalog import LeftOut
from etl_assets.source.connection import SourceError
from etl_assets.source.identity import check_identity
from etl_assets.source.snapshot import take_snapshot
from etl_assets.source.table import Table
from etl_assets.star.build import Builder, publish
from etl_assets.star.course import latest_versions
from etl_assets.star.definition import ContractError, StarFunction
from etl_assets.star.files import StarFiles, kind_of
from etl_assets.star.lineage import carried_key
from etl_assets.star.resource import OpenLake
from etl_assets.star.schema import Column, Dimension, Fact, StarTable
from etl_assets.warehouse.contract import (
    BATCHES,
    SCHEMA,
    HeldTable,
    Warehouse,
    WarehouseError,
    WarehouseInUse,
    WarehouseReader,
    noted_in,
)
from etl_assets.warehouse.duckdb import DuckDBReader, DuckDBWarehouse
from etl_assets.warehouse.load import load_star

# Differences that are told in full.
TOLD = 3
# Beside the columns of a table: whether a side of a comparison has the row.
_HERE = duck.own("here")
# A warehouse that can't be read while it is loaded is looked at again.
_AGAIN = 3
# What the engine may use here before it spills: the process as a whole stays below a GiB.
_MEMORY_BYTES = 400 << 20
_ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class _Edition:
    """The files that a table of the warehouse was loaded from, and the batch that they show."""

    paths: Sequence[Path]
    batch: int


@dataclass(frozen=True)
class Finding:
    """The outcome of one comparison of a table at a hop. `difference` is empty where all is equal. `skipped`: nothing was
    compared, since a run is at it."""

    table: str
    hop: str
    compared: str
    difference: str = ""
    skipped: bool = False

    @property
    def equal(self) -> bool:
        return not self.difference


@contextmanager
def verifying(
    bench: OpenLake,
    scratch: Path,
    only: Collection[str] | None = None,
    loading: Callable[[], bool] = lambda: False,
    parts: Parts = MappingProxyType({}),
) -> Iterator["Verifier"]:
    """A verifier of the newest batch, of which nothing goes away while the block lasts. `loading` tells whether a run is
    under way: then the newest batch may be one that the star does not show yet, and the one before is verified."""
    with bench.star.held():
        under_way = (
            loading()
        )  # asked first: whatever is behind the newest batch of now is so for good, or is told of here
        manifest, star = bench.builder.batches.latest() or bench.manifest, bench.star.manifest
        verifier = Verifier(bench.builder, manifest, scratch, only, under_way=under_way, parts=parts)
        if under_way and star and star.batch < manifest.batch and verifier.is_behind():
            before = bench.builder.batches.get(star.batch)
            verifier = Verifier(bench.builder, before, scratch, only, under_way=True, parts=parts)
        with verifier:
            yield verifier


class Verifier:
    """Recomputes what a lake claims as of a manifest. `scratch` is a folder for what is made meanwhile; `only` names the
    source and star tables to compare (None: all), `parts` those of which only parts of the keys are compared. `under_way`: a
    run was, when this began.

    Used in a `with` block: what is made meanwhile goes with it.
    """

    def __init__(
        self,
        builder: Builder,
        manifest: Manifest,
        scratch: Path,
        only: Collection[str] | None = None,
        *,
        under_way: bool = False,
        parts: Parts = MappingProxyType({}),
    ) -> None:
        self.builder = builder
        self.inputs = builder.inputs
        self.batches = builder.batches
        self.manifest = manifest
        self.scratch = scratch
        self.only = only
        self.under_way = under_way
        self.parts = parts
        self._stack = ExitStack()
        self._room = _MEMORY_BYTES
        self._landed: dict[str, LandedTable] = {}
        self._expected: dict[tuple[str, bool], str] = {}
        self._begun: dict[tuple[str, int], str] = {}

    def __enter__(self) -> Self:
        self.folder = self._stack.enter_context(own_folder(self.scratch, "verify-"))
        self.connection = self._stack.enter_context(duck.connect(self.folder))
        self.connection.execute("SET memory_limit = $limit", {"limit": f"{self._room}B"})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _wanted(self, name: str) -> bool:
        return self.only is None or name in self.only

    # -- files and raw -------------------------------------------------------------------------------------------

    def files(self) -> Iterator[Finding]:
        """Compare the manifests with each other, every landed file with the SHA-256 in its manifest, and what is kept of
        a table beside them with its checksum."""
        wrong = [*self.batches.chain(self.manifest), *self._vouched()]
        yield Finding("all tables", "manifests", f"{self.manifest.batch:,} manifests", "; ".join(wrong))
        for table in filter(self._wanted, self.manifest.tables):
            count = 0
            difference = ""
            try:
                for batch in self.batches.changing(table, self.manifest):
                    for file in batch.changed[table].files:
                        self.builder.current.landed(file, fresh=True)
                        count += 1
                if unsound := self.builder.current.without_unsound(table):
                    difference = (
                        f"{', '.join(unsound)} was damaged; it is removed, and made again when it is needed"
                    )
            except LakeError as error:
                difference = str(error)
            yield Finding(table, "files", f"{count} files", difference)

    def _vouched(self) -> Iterator[str]:
        """Whether star and certificate were made from the manifest as it is now: nothing names that of the newest batch
        but they."""
        own, batch = self.batches.sha256(self.manifest.batch), self.manifest.batch
        star = self.builder.star.manifest
        told = noted(self.batches.files, path := certificate_path(batch))
        if told is None and self.batches.files.exists(path):
            yield f"the certificate {path} is damaged: etl run makes it again"
        for what, seen in (
            ("the star", star.raw if star and star.batch == batch else own),
            ("the certificate", told.get("manifest", own) if told else own),
        ):
            if seen != own:
                yield f"manifest {number(batch)} is not the one that {what} was made from: it was changed or swapped"
        if star and star.batch > batch and self.only is None and batch == self.batches.newest():
            yield f"the star was made from batch {number(star.batch)}, whose manifest is not there"

    def raw(self) -> Iterator[Finding]:
        """Compare the rows held with the source's totals in the batch's snapshot."""
        for name, state in self.manifest.tables.items():
            if name in self.inputs.tables and self._wanted(name):
                yield _or_unreadable(name, "raw", partial(self._raw, name, state))

    def _raw(self, name: str, state: TableState) -> Finding:
        types = self.inputs.tables[name].types
        sums = [c for c, control in state.controls.items() if control.held is not None and c in types]
        ranges = [c for c, control in state.controls.items() if control.min is not None and c in types]
        landed = self._read(name)
        rows = duck.parquet([landed.path])
        ask = partial(duck.one, self.connection)
        count, values = added_up(ask, rows, {c: amount(c, types[c]) for c in sums})
        ends = ", ".join(f"min({identifier(c)})::VARCHAR, max({identifier(c)})::VARCHAR" for c in ranges)
        found = ask(f"SELECT {ends} FROM {rows}") if ranges else ()
        differences = []
        if count + landed.misfits != state.rows:
            differences.append(f"{count + landed.misfits:,} rows are held, the source had {state.rows:,}")
        for column, value in values.items():
            if value != Decimal(state.controls[column].sum or 0):
                differences.append(
                    f"{column} adds up to {value}, in the source to {state.controls[column].sum}"
                )
        for i, column in enumerate(ranges):
            low, high = found[2 * i : 2 * i + 2]
            control = state.controls[column]
            if not landed.misfits and (low, high) != (control.min, control.max):
                differences.append(
                    f"{column} is in {low} … {high}, in the source in {control.min} … {control.max}"
                )
        compared = (
            f"{state.rows:,} rows, {len(sums)} sums, {len(ranges)} ranges, {landed.misfits} quarantined"
        )
        return Finding(name, "raw", compared, "; ".join(differences))

    def _read(self, name: str) -> LandedTable:
        if name not in self._landed:
            table = self.inputs.tables[name]
            landed = landed_table(table, self.manifest, self.batches, self.connection, self.folder)
            self._make_room(landed.longest)
            self._landed[name] = landed
        return self._landed[name]

    def _make_room(self, longest: int) -> None:
        """Both sides of a comparison hold a row, and so does what reads it."""
        room = min(_ROWS_AT_ONCE * longest, duck.memory_bytes())
        if room > self._room:
            self._room = room
            self.connection.execute("SET memory_limit = $limit", {"limit": f"{room}B"})
            duck.one_at_a_time(self.connection, longest)

    # -- star ----------------------------------------------------------------------------------------------------

    def star(self) -> Iterator[Finding]:
        """Compare what the star shows with what its functions give."""
        for definition in self.inputs.in_order():
            if self._wanted(definition.name):
                yield self._unless_gone(definition.name, "star", partial(self._star, definition))

    def facts(self) -> Iterator[Finding]:
        """The same of the facts that are made from nothing but source tables, whose files say what they were."""
        for definition in self.inputs.in_order():
            if isinstance(definition.schema, Fact) and not self.inputs.star.keys() & definition.inputs:
                yield _or_unreadable(definition.name, "star", partial(self._star, definition))

    def _star(self, definition: StarFunction) -> Finding:
        schema, star = definition.schema, self.builder.star
        if behind := self._behind(definition):
            return Finding(schema.name, "star", "nothing", behind)
        expected = self._applied(definition, in_parts=True)
        found = self._in_parts(schema, self._shown(schema))
        names = [c.name for c in schema.declared]
        finding = self._compare(schema, "star", expected, f"(SELECT {listing(names)} FROM {found})", names)
        if finding.equal:
            finding = self._deleted(definition, finding, expected)
        return finding if star.paths(schema) else replace(finding, difference="the star does not have it")

    def is_behind(self) -> bool:
        """Whether a table of the star does not show the batch."""
        try:
            return any(self._behind(made) for made in self.inputs.star.values() if self._wanted(made.name))
        except LakeError:
            return False

    def _unless_gone(self, table: str, hop: str, compare: Callable[[], Finding]) -> Finding:
        """A comparison. Where the lake could not be told to keep what is compared, and runs removed it, nothing was."""
        finding = _or_unreadable(table, hop, compare)
        star = self.builder.star
        if finding.equal or table not in star.damaged or self._newest_star().manifest == star.manifest:
            return finding
        return Finding(table, hop, "nothing: runs published it anew meanwhile", skipped=True)

    def _newest_star(self) -> StarFiles:
        return StarFiles(self.builder.star.files, self.batches)

    def _behind(self, definition: StarFunction) -> str:
        """Why what is published of a table is not to be compared; empty if it is of the batch."""
        name, star = definition.name, self.builder.star
        shown = star.shown(definition.schema)
        if shown is None:
            paths = star.paths(definition.schema)
            wrong = star.damaged.get(name) or "it is no longer as declared"
            return (wrong if paths else "the star does not have it") + ": run etl run"
        if shown.version == self.builder.version(name, self.manifest):
            return ""
        return (
            f"the star shows batch {number(shown.batch)} of it, or what other code made, not batch "
            f"{number(self.manifest.batch)}: run etl run"
        )

    def _applied(self, definition: StarFunction, *, in_parts: bool = False) -> str:
        """A FROM clause with what a function gives for all rows of its inputs, computed once; `in_parts`: of it the rows
        that are compared."""
        name, schema = definition.name, definition.schema
        if in_parts and name in self.parts and (name, False) in self._expected:
            return self._in_parts(schema, self._expected[name, False])
        wanted = (name, in_parts and name in self.parts)
        if wanted not in self._expected:
            made = definition.apply(
                self.connection, {n: self._input(definition, n) for n in definition.inputs}
            ).project(listing([column.name for column in schema.declared]))
            if wanted[1]:
                made = self.connection.sql(f"FROM {self._in_parts(schema, view(made))}")
            path = self.folder / f"star-{len(self._expected)}.parquet"
            duck.write_parquet(made, path, {}, for_now=True)
            self._expected[wanted] = duck.parquet([path])
        return self._expected[wanted]

    def _in_parts(self, schema: StarTable, rows: str) -> str:
        return of_parts(schema, rows, self.parts)

    def _input(self, definition: StarFunction, name: str) -> duckdb.DuckDBPyRelation:
        """An input as of the batch, in the order of its keys for a function that computes in memory."""
        keys: Sequence[str] = ()
        if name in self.inputs.references:
            rows = self.builder.reference(name).to_arrow_table()
            self.connection.register(f"reference {name}", rows)
            relation = self.connection.table(identifier(f"reference {name}"))
        elif name in self.inputs.tables:
            landed, types = self._read(name), self.inputs.tables[name].types
            keys = landed.keys
            chosen = ", ".join(
                f"CAST({identifier(n)} AS {t.duckdb}) AS {identifier(n)}" for n, t in types.items()
            )
            relation = self.connection.sql(
                f"SELECT {chosen}, {listing(keys)} FROM {duck.parquet([landed.path])}"
            )
        else:
            relation, keys = self._star_input(definition, self.inputs.star[name])
        if self.inputs.queries[definition.name] is None:
            relation = relation.order(listing(keys) if keys else "ALL")
        return relation.project(
            listing([c for c in relation.columns if c not in keys or name in self.inputs.star])
        )

    def _star_input(
        self, definition: StarFunction, other: StarFunction
    ) -> tuple[duckdb.DuckDBPyRelation, Sequence[str]]:
        schema, keys = other.schema, other.schema.key_columns
        if not isinstance(schema, Fact):
            expected = self._applied(other)
            return self.connection.sql(f"SELECT *, false AS deleted FROM {expected}"), keys
        # Of a fact the function sees numbers and batches too. What its rows are was compared before.
        rows = duck.parquet(self._paths(self.builder.star, schema))
        if schema.name in definition.schema.facts_with_versions:
            return self.connection.sql(f"FROM {rows}"), schema.primary_key
        return self.connection.sql(f"FROM {self._shown(schema)}"), keys

    def _deleted(self, definition: StarFunction, finding: Finding, expected: str) -> Finding:
        """Compare which keys are marked as deleted with those that were landed once and are no longer given. Of a table
        whose key is not the source's own, only a rebuild can say that."""
        schema = definition.schema
        table = definition.inputs[0]
        if table not in self.inputs.tables or table not in self.manifest.tables:
            return finding
        state = self.manifest.tables[table]
        carried = carried_key(definition, self.inputs, state.key)
        if carried is None or not set(state.key) <= self.inputs.tables[table].types.keys():
            return finding
        own = ", ".join(
            f"CAST({identifier(k)} AS {schema.by_name[c].type.duckdb}) AS {identifier(c)}"
            for k, c in zip(state.key, carried, strict=True)
        )
        keys = listing(schema.key_columns)
        once = self._once(table, state.key, self.builder.star.baseline(schema.name))
        gone = f"(SELECT DISTINCT {keys} FROM (SELECT {own} FROM {once}) ANTI JOIN {expected} USING ({keys}))"
        gone = self._in_parts(schema, gone)
        marked = f"(SELECT {keys} FROM {self._in_parts(schema, self._everything(schema))} WHERE deleted)"
        if isinstance(schema, Fact):
            marked = f"(SELECT DISTINCT {keys} FROM {marked} ANTI JOIN {expected} USING ({keys}))"
        return self._compare(
            schema, "star", gone, marked, schema.key_columns, "deleted keys", finding.compared
        )

    def _once(self, table: str, key: Sequence[str], begins: int | None) -> str:
        """A FROM clause with the keys that a source table had once: where a star table begins at a batch later than the
        first, those that it had in that batch or after it."""
        once = duck.parquet([self._read(table).once])
        if begins is None or begins > self.manifest.batch:
            return once
        if (table, begins) not in self._begun:
            with own_folder(self.folder, "begun-") as folder:
                landed = landed_table(
                    self.inputs.tables[table], self.batches.get(begins), self.batches, self.connection, folder
                )
                there = f"SELECT {listing(key)} FROM {duck.parquet([landed.path])}"
                later = f"SELECT {listing(key)} FROM {once} WHERE {LANDED_IN} > {begins}"
                query = f"{there} UNION {later}"
                self._begun[table, begins] = materialized(self.connection, query)
        return self._begun[table, begins]

    def _shown(self, schema: StarTable) -> str:
        """A FROM clause with the rows that the star shows as existing."""
        if isinstance(schema, Fact):
            return latest_versions(schema, self._paths(self.builder.star, schema))
        return f"(FROM {self._everything(schema)} WHERE NOT deleted)"

    def _everything(self, schema: StarTable) -> str:
        paths = self._paths(self.builder.star, schema)
        return duck.parquet(paths) if paths else view(self.inputs.empty(self.connection, schema.name))

    def _paths(self, star: StarFiles, schema: StarTable) -> list[Path]:
        return [star.local(path) for path in star.paths(schema)]

    # -- warehouse -----------------------------------------------------------------------------------------------

    def loaded(self, warehouse: Warehouse) -> list[Finding]:
        """Compare a warehouse, of which runs may load the next batch meanwhile."""
        for left in reversed(range(_AGAIN)):
            try:
                with warehouse.resting() as reader:
                    return list(self.warehouse(reader))
            except WarehouseInUse:
                if not left:
                    raise
        raise AssertionError

    def warehouse(self, reader: WarehouseReader) -> Iterator[Finding]:
        """Compare the warehouse's tables, history included, with the star's files, and what it shows as current with
        what the functions give."""
        yield from self._book(reader)
        held, newest = noted_in(reader).tables, self._newest_star()
        with newest.held():  # it holds what is loaded, whatever was published since this began
            for definition in self.inputs.star.values():
                name = definition.name
                if self._wanted(name):
                    loaded = self._loaded_from(definition.schema, held.get(name), newest)
                    compare = partial(self._warehouse, definition, reader, loaded, held.get(name))
                    yield self._unless_gone(name, "warehouse", compare)

    def _book(self, reader: WarehouseReader) -> Iterator[Finding]:
        """Whether the warehouse was loaded from the manifests as they are now: its book of batches names each."""
        if "manifest" not in reader.columns(SCHEMA, BATCHES.name):
            return  # an older version loaded it
        found = reader.rows(
            f"SELECT batch, manifest FROM {SCHEMA}.{BATCHES.name} WHERE lake = $lake AND manifest IS NOT NULL ORDER BY batch",
            {"lake": self.manifest.lake},
        )
        wrong, committed = [], set(self.batches.numbers())
        for batch, seen in found:
            if batch not in committed:
                wrong.append(f"it was loaded up to batch {number(batch)}, whose manifest is not there")
                continue
            with suppress(LakeError):  # damage is told of where manifests are compared with each other
                if self.batches.sha256(batch) != seen:
                    wrong.append(
                        f"manifest {number(batch)} is not the one it was loaded from: it was changed or swapped"
                    )
        if found:
            yield Finding(
                "all tables", "warehouse", f"{len(found):,} batches that it notes", "; ".join(wrong)
            )

    def _loaded_from(self, schema: StarTable, held: HeldTable | None, newest: StarFiles) -> "_Edition | None":
        """What a table of the warehouse was loaded from, where that is another version than the one that is verified, for
        a run that goes on; None else."""
        star = self.builder.star
        ours, shown = star.manifest, star.table(schema.name)
        if held is None or (shown and shown.files[-1].version == held.version):
            return None
        for manifest in newest.history():
            table = manifest.tables.get(schema.name)
            if table is None or table.kind != kind_of(schema) or table.files[-1].version != held.version:
                continue
            later = ours is None or (manifest.batch, manifest.edition) > (ours.batch, ours.edition)
            if later or self.under_way:
                paths = [newest.local(file.path) for file in table.files]
                return _Edition(paths, table.files[-1].batch)
            break
        return None

    def _warehouse(
        self,
        definition: StarFunction,
        reader: WarehouseReader,
        loaded: "_Edition | None",
        held: HeldTable | None,
    ) -> Finding:
        schema = definition.schema
        if loaded:
            return self._as_loaded(schema, reader, loaded)
        paths = self._paths(self.builder.star, schema)
        if not paths or not reader.has(schema.name):
            return Finding(schema.name, "warehouse", "nothing", "the warehouse does not have it: run etl run")
        names = [c.name for c in schema.columns]
        finding = self._loaded(
            schema, reader, self._in_parts(schema, duck.parquet(paths)), loaded_rows(schema, reader), names
        )
        if not finding.equal and (lag := self._lag(schema, held)):
            return replace(finding, difference=f"{lag}; {finding.difference}")
        if not finding.equal or self._behind(definition):
            return finding
        shown = self._current(schema, reader, self._applied(definition, in_parts=True))
        return finding if shown.equal else shown

    def _lag(self, schema: StarTable, held: HeldTable | None) -> str:
        """What a table of the warehouse was loaded from, in words, where that is not what the star shows; else nothing."""
        shown = self.builder.star.table(schema.name)
        if held is None or shown is None or shown.files[-1].version == held.version:
            return ""
        batch = shown.files[-1].batch
        other = " as other code made it" if batch == held.batch else ""
        return f"it shows batch {number(held.batch)}{other}, and the star batch {number(batch)}: run etl run"

    def _as_loaded(self, schema: StarTable, reader: WarehouseReader, edition: "_Edition") -> Finding:
        """Compare a table that a run brought to another batch meanwhile, or has not brought to this one yet."""
        names, files = [c.name for c in schema.columns], self._in_parts(schema, duck.parquet(edition.paths))
        finding = self._loaded(schema, reader, files, loaded_rows(schema, reader), names)
        if finding.equal:
            existing = f"(FROM {files} WHERE NOT deleted)"
            if isinstance(schema, Fact):
                existing = self._in_parts(schema, latest_versions(schema, edition.paths))
            shown = self._current(schema, reader, existing)
            finding = finding if shown.equal else shown
        return replace(finding, compared=f"{finding.compared}, as of batch {number(edition.batch)}")

    def _current(self, schema: StarTable, reader: WarehouseReader, expected: str) -> Finding:
        """Compare what a table of the warehouse shows as current."""
        current = f"star.{identifier(schema.name + '_current')}"
        if not isinstance(schema, Fact):
            current = current_rows(schema, loaded_rows(schema, reader))
        shown = self._loaded(schema, reader, expected, current, [c.name for c in schema.declared])
        return shown if shown.equal else replace(shown, difference=f"what is current: {shown.difference}")

    def _loaded(
        self, schema: StarTable, reader: WarehouseReader, expected: str, rows: str, names: Sequence[str]
    ) -> Finding:
        """Compare rows of the lake (those that are compared) with rows of the warehouse."""
        if isinstance(reader, DuckDBReader):
            rows = self._in_parts(schema, rows)
            if self._digest(schema, expected, names) == reader.one(digest_of(schema, rows, names)):
                return Finding(schema.name, "warehouse", self._size(schema, expected))
        with self._copied(schema, reader, rows, names) as copy:
            return self._compare(schema, "warehouse", expected, self._in_parts(schema, copy), names)

    @contextmanager
    def _copied(
        self, schema: StarTable, reader: WarehouseReader, rows: str, names: Sequence[str]
    ) -> Iterator[str]:
        """Rows of a warehouse, beside the lake's for as long as they are compared."""
        copy = reader.copy(self.connection, [schema.by_name[name] for name in names], rows)
        try:
            yield copy
        finally:
            self.connection.execute(f"DROP TABLE {copy}")

    # -- comparing -----------------------------------------------------------------------------------------------

    def _compare(
        self,
        schema: StarTable,
        hop: str,
        expected: str,
        found: str,
        names: Sequence[str],
        what: str = "all columns",
        before: str = "",
    ) -> Finding:
        """Compare all rows. A difference names the table's keys, columns and both values."""
        compared = before or self._size(schema, expected, what)
        if self._digest(schema, expected, names) == self._digest(schema, found, names):
            return Finding(schema.name, hop, compared)
        return Finding(schema.name, hop, compared, self._told(schema, expected, found, names, what))

    def _digest(self, schema: StarTable, rows: str, names: Sequence[str]) -> tuple[object, ...]:
        """How many rows there are, and a sum over all values of each, whatever their order."""
        return duck.one(self.connection, digest_of(schema, rows, names))

    def _size(self, schema: StarTable, rows: str, what: str = "all columns") -> str:
        (count,) = duck.one(self.connection, f"SELECT count(*) FROM {rows}")
        parts = self.parts.get(schema.name)
        return f"{count:,} rows, {what}" + (f", {in_words(parts)}" if parts else "")

    def _told(self, schema: StarTable, expected: str, found: str, names: Sequence[str], what: str) -> str:
        """Which keys differ, and how."""
        keys = [key for key in schema.primary_key if key in names] or list(schema.key_columns)
        same = " AND ".join(f"e.{identifier(k)} = f.{identifier(k)}" for k in keys)
        differs = " OR ".join(f"e.{identifier(n)} IS DISTINCT FROM f.{identifier(n)}" for n in names)
        either = ", ".join(
            f"coalesce(e.{identifier(k)}, f.{identifier(k)}) AS k{i}" for i, k in enumerate(keys)
        )
        values = ", ".join(
            f"CAST(e.{identifier(n)} AS VARCHAR) AS e{i}, CAST(f.{identifier(n)} AS VARCHAR) AS f{i}"
            for i, n in enumerate(names)
        )
        sides = (
            f"(SELECT *, true AS {_HERE} FROM {rows}) {side}"
            for rows, side in ((expected, "e"), (found, "f"))
        )
        joined = f"{' FULL JOIN '.join(sides)} ON {same}"
        one, other = f"e.{_HERE} IS NULL", f"f.{_HERE} IS NULL"
        condition = f"{one} OR {other} OR ({differs})"
        (count,) = duck.one(self.connection, f"SELECT count(*) FROM {joined} WHERE {condition}")
        if not count:
            return "the same keys occur more often than once"
        order = ", ".join(f"k{i}" for i in range(len(keys)))
        query = (
            f"SELECT {either}, {one} AS lacking, {other} AS missing, {values} FROM {joined} WHERE {condition} "
            f"ORDER BY {order} LIMIT {TOLD}"
        )
        rows = self.connection.execute(query).fetchall()
        return _counted(count, [_difference(keys, names, row, what) for row in rows])

    # -- source --------------------------------------------------------------------------------------------------

    def source(self, url: str, tables: Sequence[Table], *, thorough: bool) -> Iterator[Finding]:
        """Compare what is held with what the source holds now. What changed there since the batch is no
        difference; a row that differs and has no recent version is one."""
        held = [
            table
            for table in tables
            if table.name in self.manifest.tables and table.source == MAIN and self._wanted(table.name)
        ]
        if not held:
            return
        with (
            take_snapshot(url, held, lake=None, run_id="verify", connections=1, wait_seconds=60) as snapshot,
            own_folder(self.scratch, "verify-") as folder,
        ):
            try:
                check_identity(self.manifest, snapshot.instant)
            except SourceError as error:
                yield Finding("all tables", "source", "nothing", str(error))
                return
            current = Current(self.batches, self.connection)
            for name, relation in snapshot.relations.items():
                state = self.manifest.tables[name]
                reader = Reader(
                    relation, snapshot.connections[0], self.connection, folder, lambda table, size: None
                )
                how = plan(relation, self.batches.last_read(name, self.manifest), snapshot.instant)
                fold, long = partial(current.fold, name, self.manifest), current.is_long(name, self.manifest)
                try:
                    yield self._source(reader, how, state, fold, thorough=thorough, long=long)
                except LeftOut as why:
                    yield Finding(name, "source", "nothing", str(why))

    def _source(
        self, reader: Reader, how: ReadPlan, state: TableState, fold: Folding, *, thorough: bool, long: bool
    ) -> Finding:
        name = reader.table
        found = reader.again(how, state, fold, long=long)
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
            whole = reader.again(ReadPlan("whole", "verification"), state, fold, long=long)
            silent = self.connection.sql(
                f"SELECT {key} FROM {view(whole.changed.rows)} ANTI JOIN {view(changed.rows)} USING ({key})"
            )
            rows = silent.order(key).fetchall()
            if rows:
                return Finding(
                    name, "source", compared, f"{len(rows):,} rows differ unexplained, key {_from_to(rows)}"
                )
        return Finding(name, "source", compared)

    def pages(self, apis: Iterable[Api]) -> Iterator[Finding]:
        """Compare what is held of APIs with their pages, as they landed. No API is asked."""
        for api in apis:
            if api.name in self.manifest.tables and self._wanted(api.name):
                yield _or_unreadable(api.name, "source", partial(self._pages, api))

    def _pages(self, api: Api) -> Finding:
        if wrong := "; ".join(altered(api, self.manifest, self.batches)):
            return Finding(api.name, "source", "its pages", wrong)
        schema = Dimension(api.name, "", list(api.key), [Column(n, t) for n, t in api.columns.items()])
        expected = newest_records(api, self.manifest, self.batches, self.connection, self.folder)
        found = duck.parquet([self._read(api.name).path])
        lost = keys_without_page(api, self.manifest, self.batches)
        if not lost:
            return self._compare(schema, "source", expected, found, compared(api))
        keys = self._keys_as(schema, lost)
        apart = f"({keys} ANTI JOIN {expected} USING ({listing(schema.key_columns)}))"
        (count,) = duck.one(self.connection, f"SELECT count(*) FROM {apart}")
        found = f"(FROM {found} ANTI JOIN {apart} USING ({listing(schema.key_columns)}))"
        finding = self._compare(schema, "source", expected, found, compared(api))
        return replace(finding, compared=f"{finding.compared}; {count:,} rows of lost pages not compared")

    def _keys_as(self, schema: StarTable, keys: Sequence[Sequence[str]]) -> str:
        """A query of keys that are told as text."""
        name = f"keys {schema.name}"
        columns = zip(*keys, strict=True)
        told = pa.table(
            {n: pa.array(c, pa.string()) for n, c in zip(schema.key_columns, columns, strict=True)}
        )
        self.connection.register(name, told)
        typed = ", ".join(
            f"CAST({identifier(n)} AS {schema.by_name[n].type.duckdb}) AS {identifier(n)}"
            for n in schema.key_columns
        )
        return f"SELECT {typed} FROM {identifier(name)}"

    # -- rebuild -------------------------------------------------------------------------------------------------

    def rebuild(self, live: WarehouseReader) -> Iterator[Finding]:
        """Go through all batches again in a scratch place, and compare: content, deleted rows and surrogate keys. The
        warehouse is built in DuckDB, whatever the live one is: they have the same content."""
        with own_folder(self.scratch, "rebuild-") as folder:
            star = StarFiles(LocalFiles(folder), self.batches, decided_in=self.builder.star.files)
            current = Current(Batches(self.batches.files), self.connection, from_batches_alone=True)
            builder = Builder(self.inputs, current, star, self.connection)
            builds = list(builder.derive(self.manifest))
            publish(star, builds, self.connection)
            shown = {build.definition.name: build.version for build in builds if build.passed}
            tables = [definition.schema for definition in self.inputs.star.values()]
            for schema in tables:
                again, have = (self._everything_in(place, schema) for place in (star, self.builder.star))
                names = [c.name for c in schema.columns]
                yield _or_unreadable(
                    schema.name,
                    "rebuilt star",
                    partial(self._compare, schema, "rebuilt star", again, have, names),
                )
            warehouse = DuckDBWarehouse(path=str(folder / "warehouse.duckdb"), scratch=str(self.scratch))
            load_star(warehouse, star, tables, shown, "etl verify")
            held, newest = noted_in(live).tables, self._newest_star()
            with warehouse.reading() as made:
                for name in shown:
                    schema, hop = self.inputs.star[name].schema, "rebuilt warehouse"
                    if self._loaded_from(schema, held.get(name), newest):
                        yield Finding(name, hop, "nothing: a run loaded another batch", skipped=True)
                    else:
                        yield _or_unreadable(name, hop, partial(self._rebuilt, schema, made, live))

    def _everything_in(self, star: StarFiles, schema: StarTable) -> str:
        paths = self._paths(star, schema)
        return duck.parquet(paths) if paths else view(self.inputs.empty(self.connection, schema.name))

    def _rebuilt(self, schema: StarTable, made: WarehouseReader, live: WarehouseReader) -> Finding:
        place, names = f"star.{identifier(schema.name)}", [c.name for c in schema.columns]
        with (
            self._copied(schema, made, place, names) as again,
            self._copied(schema, live, place, names) as have,
        ):
            return self._compare(schema, "rebuilt warehouse", again, have, names)


def record_verified(verifier: Verifier, findings: Sequence[Finding]) -> None:
    """Note in the lake which star tables were found equal as of a batch, and what code made them, beside those that were
    before."""
    builder, batch = verifier.builder, verifier.manifest.batch
    equal = {f.table for f in findings if f.hop == "star" and f.equal and not f.skipped}
    codes = {name: made.code_version for name, made in builder.inputs.star.items() if name in equal}
    if not codes:
        return
    files, path = builder.star.files, verified_path(batch)
    told = noted(files, path) if files.exists(path) else None
    before = told["tables"] if told else {}
    differ = {f.table for f in findings if not f.equal}
    whole = {name: code for name, code in codes.items() if name not in verifier.parts}
    tables = {name: code for name, code in before.items() if name not in differ} | whole
    if whole:
        with files.writing(path) as stream:
            stream.write(sealed(json.dumps({"batch": number(batch), "tables": tables}, indent=1).encode()))
    _note_last_verified(files, batch, codes, verifier.parts)


def _note_last_verified(files: Files, batch: int, codes: Mapping[str, str], parts: Parts) -> None:
    """Note of tables, with their code versions, that they were found equal as of a batch, in the note of all. One that is
    verified by parts was as of the oldest batch of them, once each was."""
    told = (noted(files, VERIFIED) if files.exists(VERIFIED) else None) or {"tables": {}}
    tables, by_parts = told["tables"], told.get("parts", {})
    for name, code in codes.items():
        if name not in parts:
            tables[name] = [number(batch), code]
            continue
        known = {part: note for part, note in by_parts.get(name, {}).items() if note[1] == code}
        known |= {str(part): [number(batch), code] for part in parts[name]}
        by_parts[name] = known
        if len(known) == PARTS:
            tables[name] = [min((note[0] for note in known.values()), key=int), code]
    with files.writing(VERIFIED) as stream:
        stream.write(sealed(json.dumps({"tables": tables, "parts": by_parts}, indent=1).encode()))


def differing_rows(
    keys: Sequence[str],
    names: Sequence[str],
    expected: Mapping[tuple[object, ...], Sequence[object]],
    found: Mapping[tuple[object, ...], Sequence[object]],
) -> str:
    """Which keys differ of rows in memory, by key in the order of `names`, and how; empty if none does."""
    differ = sorted((k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)), key=str)
    told = []
    for key in differ[:TOLD]:
        nothing = [None] * len(names)
        pairs = zip(expected.get(key, nothing), found.get(key, nothing), strict=True)
        values = [value for pair in pairs for value in pair]
        row = [*key, key not in expected, key not in found, *values]
        told.append(_difference(keys, names, row, "all columns"))
    return _counted(len(differ), told)


def _counted(count: int, told: Sequence[str]) -> str:
    if not count:
        return ""
    more = f"; {count - TOLD:,} more" if count > TOLD else ""
    return f"{count:,} {'keys differ' if count > 1 else 'key differs'}: {'; '.join(told)}{more}"


def _difference(keys: Sequence[str], names: Sequence[str], row: Sequence[object], what: str) -> str:
    """One key that differs: where it is missing, or in which columns it has which value, and should have which."""
    key = ", ".join(f"{name} {value}" for name, value in zip(keys, row, strict=False))
    lacking, missing = row[len(keys)], row[len(keys) + 1]
    if lacking:
        return f"{key} is there and should not be" + (f" ({what})" if what != "all columns" else "")
    if missing:
        return f"{key} is missing" + (f" ({what})" if what != "all columns" else "")
    values = row[len(keys) + 2 :]
    pairs = zip(names, values[::2], values[1::2], strict=True)
    told = [
        f"{name} is {found} and should be {expected}" for name, expected, found in pairs if expected != found
    ]
    return f"{key}: " + ", ".join(told)


def _or_unreadable(table: str, hop: str, compare: Callable[[], Finding]) -> Finding:
    """A comparison. Where what is to be compared can't be read, that is the difference."""
    try:
        return compare()
    except _unreadable() as error:
        return Finding(table, hop, "nothing", faults.told(error))


def _unreadable() -> tuple[type[Exception], ...]:
    arrow = faults.raised_by("pyarrow.lib", "ArrowInvalid")
    return (LakeError, WarehouseError, ContractError, faults.Fault, duckdb.Error, OSError, *arrow)


def _from_to(keys: Sequence[tuple[object, ...]]) -> str:
    """The first and the last of sorted keys."""
    return " to ".join(",".join(map(str, key)) for key in (keys[0], keys[-1])) if keys else "unknown"


def differing(bench: OpenLake, scratch: Path) -> list[str]:
    """The star tables of which what is published is not what their functions give for all rows."""
    with verifying(bench, scratch) as verifier:
        return [finding.table for finding in verifier.star() if not finding.equal]
