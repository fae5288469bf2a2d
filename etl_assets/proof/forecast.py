"""What the next run would do, found without doing it: how each table would be read, what of the star and the warehouse would
be made anew, and why. Nothing is claimed, committed or written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from etl_assets.apis.declaration import Api
from etl_assets.apis.due import due
from etl_assets.apis.takes import waiting
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.names import number
from etl_assets.proof import changed
from etl_assets.raw.brakes import FEW_ROWS
from etl_assets.raw.controls import source_totals
from etl_assets.raw.plan import plan
from etl_assets.raw.recent import since
from etl_assets.raw.writing import check_project
from etl_assets.source.connection import find_names
from etl_assets.source.identity import check_identity
from etl_assets.source.snapshot import take_snapshot
from etl_assets.source.table import Table
from etl_assets.star.build import Builder, too_many
from etl_assets.star.schema import Fact
from etl_assets.warehouse.contract import HeldTable, Warehouse, WarehouseError, WarehouseReader
from etl_assets.warehouse.dialect import BATCHES, SCHEMA
from etl_assets.warehouse.load import not_ours


@dataclass(frozen=True)
class Read:
    """How a table would be read, and why. `held` are the rows of it that the lake has, None if it has none; `rows` those that
    the source has now; `written` those that were written since the last batch, None where all would be compared."""

    table: str
    read: str
    why: str
    rows: int
    held: int | None
    written: int | None

    @property
    def changes(self) -> bool:
        """Whether there is anything to land, as far as it shows without comparing."""
        return self.written is None or self.written > 0 or self.rows != self.held


@dataclass(frozen=True)
class Ask:
    """What is to be done for an API: windows whose pages `waiting` to be loaded, and windows that are `due`."""

    api: str
    waiting: int
    due: int


@dataclass(frozen=True)
class Make:
    """What would become of a table of the star or the warehouse: "nothing", "update", "anew", or "waits" for somebody to
    decide, and why."""

    table: str
    what: str
    why: str


def reads(
    url: str, tables: Sequence[Table], batches: Batches, *, whole: bool = False, one_history: bool = False
) -> Iterator[Read]:
    """Raises `SourceError` as the run would."""
    latest = batches.latest()
    with take_snapshot(url, tables, lake=None, run_id="plan", connections=1, wait_seconds=0) as snapshot:
        if latest:
            check_identity(latest, snapshot.instant)
        for name, relation in snapshot.relations.items():
            last = batches.last_read(name, latest) if latest else None
            how = plan(relation, last, snapshot.instant, whole=whole, one_history=one_history)
            condition = since(how.horizon) if how.read == "horizon" else None
            (connection,) = snapshot.connections
            find_names(connection, as_role=not relation.by_version)
            totals = source_totals(connection, relation, condition)
            held = latest.tables.get(name) if latest else None
            yield Read(
                name,
                how.read,
                how.why,
                totals.rows,
                held.rows if held else None,
                totals.recent if condition else None,
            )


def check_lake(batches: Batches, project: str) -> None:
    """Raises `LakeError` for a lake of another project, as the run would."""
    if latest := batches.latest():
        check_project(latest, project, batches.files)


def check_warehouse(
    warehouse: Warehouse, reader: WarehouseReader, latest: Manifest | None, project: str
) -> None:
    """Raises `WarehouseError` for a warehouse that was filled from another lake, as the run would."""
    if not reader.has(BATCHES.name):
        return
    lake = latest.lake if latest else ""
    book = reader.rows(f"SELECT DISTINCT lake, project FROM {SCHEMA}.{BATCHES.name}")
    if others := [(of, whose) for of, whose in book if of != lake]:
        raise WarehouseError(not_ours(warehouse, lake or "to come", project, others))


def braked(reads: Sequence[Read], share: float) -> Iterator[str]:
    """The tables of which so many rows are gone that the deletion brake stops the run, for sure: there may be more."""
    for read in reads:
        gone = (read.held or 0) - read.rows
        if gone > max(share * (read.held or 0), FEW_ROWS):
            yield (
                f"{gone:,} of {read.held:,} rows of {read.table} are gone from the source, more than {share:.0%}: it needs "
                f"--allow-deletions {read.table}"
            )


def reports(queries: Mapping[str, Sequence[str]], loads: Sequence[Make]) -> Iterator[Make]:
    """What would become of each report; `queries` says which tables of the star it reads."""
    becomes = {load.table: load.what for load in loads}
    for name, tables in queries.items():
        other = [table for table in tables if becomes.get(table, "nothing") not in ("nothing", "waits")]
        told = f"it reads {', '.join(other)}" if other else "what it reads stays as it is"
        yield Make(name, "anew" if other else "nothing", told)


def asks(apis: Sequence[Api], batches: Batches, now: datetime) -> Iterator[Ask]:
    """What the lake says of APIs; none is called."""
    for api in apis:
        yield Ask(api.name, len(waiting(batches.files, api.name)), len(list(due(api, batches.files, now))))


def makes(
    builder: Builder, manifest: Manifest, changing: Mapping[str, str], most_batches: int
) -> Iterator[Make]:
    """What would become of each star table; `changing` says of source tables what is expected of them. None is made anew
    from more than `most_batches`, nor what is made from one that would have to be."""
    stay: set[str] = set()
    for definition in builder.inputs.in_order():
        name = definition.name
        what, why, batches = _make(builder, manifest, name, changing)
        if what == "anew" and batches > most_batches:
            what, why = "waits", too_many(name, batches, most_batches)
        elif what != "nothing" and (blocked := [one for one in definition.inputs if one in stay]):
            what, why = "waits", f"{name} is made from {', '.join(blocked)}, which waits"
        if what == "waits":
            stay.add(name)
        yield Make(name, what, why)


def _make(
    builder: Builder, manifest: Manifest, name: str, changing: Mapping[str, str]
) -> tuple[str, str, int]:
    """What would become of a star table, why, and of how many batches."""
    expected = [table for table in builder.sources(name) if table in changing]
    held = builder.star.shown(builder.inputs.star[name].schema)
    try:
        if held is None:
            damage = builder.star.damaged.get(name)
            pending = builder.changing(name, manifest)
            told = damage or "the lake has no file of it as it is declared"
            return "anew", told, len(pending) + bool(expected)
        at = builder.batches.get(held.batch)
        known = builder.version(name, at) == held.version
        pending = builder.changing(name, manifest, held.batch) if known else builder.changing(name, manifest)
    except LakeError as error:
        lacking = [table for table in builder.sources(name) if table not in manifest.tables]
        told = f"it is made from {', '.join(lacking)} now, of which the lake holds nothing yet"
        return "anew", told if lacking else str(error), len(builder.changing(name, manifest)) + 1
    if not known:
        told = (
            f"{'; '.join(changed.reasons(builder, builder.inputs.star[name], held, at))}: {len(pending):,} batches are gone "
            "through again"
        )
        return "anew", told, len(pending) + bool(expected)
    reasons = [f"{len(pending):,} batches are landed and not in it"] if pending else []
    reasons += [f"{table}: {changing[table]}" for table in expected]
    if not reasons:
        return "nothing", f"it shows batch {number(held.batch)}", 0
    return "update", "; ".join(reasons), len(pending) + bool(expected)


def loads(
    builder: Builder, makes: Sequence[Make], held: Mapping[str, HeldTable], reader: WarehouseReader | None
) -> Iterator[Make]:
    """What would become of each table of the warehouse, and what it would lose by that."""
    expected = {make.table: make for make in makes}
    for name, definition in builder.inputs.star.items():
        schema, loaded, made = definition.schema, held.get(name), expected[name]
        if made.what == "waits":
            yield Make(name, "waits", "as the star")
            continue
        if reader is None or loaded is None:
            yield Make(name, "anew", "the warehouse has nothing of it")
            continue
        had, declares = reader.columns(SCHEMA, name), [column.name for column in schema.columns]
        if lost := [column for column in had if column not in declares]:
            yield Make(name, "anew", f"loses {', '.join(lost)}, which it is no longer declared with")
        elif added := [column for column in declares if column not in had]:
            yield Make(name, "anew", f"gets {', '.join(added)}")
        elif made.what != "nothing":
            rows = "its versions are replaced" if isinstance(schema, Fact) else "its members are replaced"
            yield Make(name, made.what, rows if made.what == "anew" else "what changes in the star")
        else:
            shown = builder.star.shown(schema)
            same = shown is not None and shown.version == loaded.version
            yield Make(
                name, "nothing" if same else "update", "as the star" if same else "it lacks what the star has"
            )
    for name in held.keys() - builder.inputs.star.keys():
        yield Make(name, "nothing", "no longer declared: it stays, until etl retire")
