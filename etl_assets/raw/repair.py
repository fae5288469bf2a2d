"""Repair of what is not derived: landed files that are damaged or lost, superseded by what is still known of them.

    find the damage ► claim ► what a copy, the source or a base still say of each file ► land it ► commit what it supersedes

What a file held is what its source (`Witness`) still shows of the state of its batch, and what no other file tells: a
database shows row versions that are older than the batch. A base has the last values of all rows, deleted ones too. What
none of them says is lost, and is named. The tables are read whole by the next run, so that the rows of now are right
whatever was lost.
"""

import hashlib
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb
from psycopg2 import sql

from etl_assets.engine import duck
from etl_assets.engine.duck import listing
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import DELETED, Current, storage, view
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.manifest import MAIN, Control, LandedFile, Manifest, SourceColumn, Superseded, TableState
from etl_assets.lake.names import FileNames
from etl_assets.raw.changes import changed_rows, read_text
from etl_assets.raw.controls import sums
from etl_assets.raw.copying import copy
from etl_assets.raw.landing import Landed, Landing, claimed
from etl_assets.raw.plan import still_tells
from etl_assets.raw.recent import since
from etl_assets.raw.request import CaptureRequest
from etl_assets.raw.writing import BatchWriter, Marker
from etl_assets.source.catalog import Relation, select
from etl_assets.source.identity import check_identity

_NAMED = 1000


@dataclass(frozen=True)
class Damage:
    """A landed file of a batch that is not what its manifest lists. `kind` is that of `Changes`."""

    table: str
    batch: int
    kind: str
    file: LandedFile
    what: str


def find_damage(batches: Batches, latest: Manifest, tables: Iterable[str] | None = None) -> list[Damage]:
    """All landed files that are not what their manifests list, oldest first; of some tables, if these are named. Reads every one
    of them."""
    found = []
    for table in latest.tables if tables is None else tables:
        for manifest in batches.changing(table, latest):
            changes = manifest.changed[table]
            for kind in ("rows", "deletions", "quarantined"):
                file: LandedFile | None = getattr(changes, kind)
                if file and (what := what_is_wrong(batches.files, file.path, file.sha256)):
                    found.append(Damage(table, manifest.batch, kind, file, what))
    return sorted(found, key=lambda damage: (damage.batch, damage.table, damage.kind))


def what_is_wrong(files: Files, path: str, sha256: str) -> str:
    """Why a file is not what was landed; empty if it is."""
    if not files.exists(path):
        return "it is not there"
    try:
        local = files.local(path, fresh=True)
    except LakeError as error:
        return str(error)
    return "" if _digest(local) == sha256 else "it is not what was written"


def kept_copy(files: Files, path: str, sha256: str) -> Path | None:
    """The copy that this machine kept of a landed file in a bucket; None if there is none, or it is another file."""
    try:
        kept = files.local(path)
        return kept if _digest(kept) == sha256 else None
    except (LakeError, OSError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Known:
    """What a witness knows of the rows of a table as of a batch, as text. `longest`: bytes of the longest row, 0 if none is
    unusually long."""

    rows: duckdb.DuckDBPyRelation
    columns: tuple[SourceColumn, ...]
    longest: int


class Witness(Protocol):
    """Where rows came from, asked again."""

    def relation(self, table: str) -> Relation | None:
        """The table as it is compared; None if it is not there any more."""

    def known(self, damage: Damage, then: Manifest) -> Known | None:
        """What is known of all rows of the damaged file's table as of its batch, `then`; None for nothing."""

    def kept_aside(self, damage: Damage) -> duckdb.DuckDBPyRelation | None:
        """What the damaged file said of values that don't fit; None if that is not known."""


def repair(request: CaptureRequest, batches: Batches, scratch: Path) -> Sequence[Superseded]:
    """Supersede what is damaged of a database's tables, as a batch of its own; nothing is done if nothing is damaged. Raises
    `EtlError`, and then nothing was committed."""
    started = time.monotonic()
    latest = batches.latest()
    if latest is None or not _of_the_database(batches, latest):
        return ()
    with claimed(request, latest.lake, scratch) as (snapshot, folder, connection):
        batches = Batches(batches.files)
        latest = batches.latest() or latest
        check_identity(latest, snapshot.instant)
        landing = Landing.of(request, snapshot, batches, latest, connection, folder)
        landing.sweep()
        mending = Mending(landing, latest, _of_the_database(batches, latest), _Database(landing))
        states = {table: Landed(state, worth_a_batch=True) for table, state in mending.mend().items()}
        superseded = list(mending.superseded.values())
        landing.commit(states, seconds=time.monotonic() - started, superseded=superseded)
        mending.conclude()
        return superseded


def _of_the_database(batches: Batches, latest: Manifest) -> list[Damage]:
    return find_damage(batches, latest, [n for n, state in latest.tables.items() if state.source == MAIN])


@dataclass(frozen=True)
class _Database:
    """A snapshot of the source: it shows rows that have not changed since a batch."""

    landing: Landing

    def relation(self, table: str) -> Relation | None:
        return self.landing.snapshot.relations.get(table)

    def known(self, damage: Damage, then: Manifest) -> Known | None:
        relation = self.relation(damage.table)
        if relation is None or not still_tells(relation, then, self.landing.snapshot.instant):
            return None
        old = sql.SQL("NOT ({})").format(since(then.tables[damage.table].horizon))
        path = self.landing.folder / f"{damage.table}.known.csv"
        with path.open("wb") as target:
            copied = copy(
                self.landing.snapshot.connections[0],
                select(relation, [old]),
                target,
                relation,
                lambda *_: None,
            )
        rows = read_text(self.landing.connection, path, relation.columns, copied.longest_row)
        return Known(rows, relation.columns, copied.longest_row)

    def kept_aside(self, damage: Damage) -> None:
        """The next run, which reads the table whole, tells of them again."""


class Mending:
    """What is read instead of the damaged files, as it becomes known: at first nothing."""

    def __init__(
        self, writer: BatchWriter, latest: Manifest, damaged: Sequence[Damage], witness: Witness
    ) -> None:
        self.writer = writer
        self.latest = latest
        self.damaged = damaged
        self.witness = witness
        self.connection = writer.connection
        self.superseded: dict[str, Superseded] = {
            d.file.path: Superseded(path=d.file.path, sha256=d.file.sha256, by=None, reason=d.what)
            for d in damaged
        }
        self.markers: list[Marker] = []

    def mend(self) -> dict[str, TableState]:
        """Land what is known of each file; how the tables stand then."""
        lost: dict[str, tuple[str, ...]] = {}
        for damage in self.damaged:
            self._note(damage, self._copy(damage) or self._from_the_source(damage))
        last_of_rows = {damage.table: damage for damage in self.damaged if damage.kind == "rows"}
        for table, damage in last_of_rows.items():
            self._add_from_a_base(damage)
            lost[damage.file.path] = self._lost(table)
        for path, keys in lost.items():
            self.superseded[path] = self.superseded[path].model_copy(update={"lost": keys})
        return {table: self._state(table) for table in {damage.table for damage in self.damaged}}

    def conclude(self) -> None:
        """After the commit: nothing of ours is unlisted."""
        for marker in self.markers:
            self.writer.files.remove(marker.naming.marker)

    def _note(self, damage: Damage, by: LandedFile | None) -> None:
        had, has = damage.file.rows, by.rows if by else 0
        self.superseded[damage.file.path] = Superseded(
            path=damage.file.path,
            sha256=damage.file.sha256,
            by=by,
            reason=f"{damage.what}; {has:,} of {had:,} {'values' if damage.kind == 'quarantined' else 'rows'} are known",
        )

    # -- what is still known -------------------------------------------------------------------------------------

    def _copy(self, damage: Damage) -> LandedFile | None:
        """A copy that this machine kept of a file in a bucket."""
        files, path = self.writer.files, self._path(damage)
        kept = kept_copy(files, damage.file.path, damage.file.sha256)
        if kept is None:
            return None
        with kept.open("rb") as source, files.writing(path) as target:
            shutil.copyfileobj(source, target)
        return damage.file.model_copy(update={"path": path})

    def _from_the_source(self, damage: Damage) -> LandedFile | None:
        """Rows that the source shows as of the batch, and that no other file up to it tells."""
        if damage.kind == "quarantined":
            report = self.witness.kept_aside(damage)
            return None if report is None else self._land(damage, report, 0)
        if damage.kind != "rows":
            return None
        then = self._as_read(self.writer.batches.get(damage.batch))
        known = self.witness.known(damage, then)
        if known is None:
            return None
        rows = known.rows
        if self._has_files(damage.table, then):
            held = self._current().fold(damage.table, then, columns=known.columns)
            rows = changed_rows(self.connection, rows, held).rows
        return self._land(damage, rows.order(listing(self.latest.tables[damage.table].key)), known.longest)

    def _add_from_a_base(self, damage: Damage) -> None:
        """Rows whose keys no file tells, with the last values that a base has of them."""
        state = self.latest.tables[damage.table]
        base = Current(self.writer.batches, self.connection).newest_base(damage.table, self.latest)
        if base is None or base.batch < damage.batch:
            return
        path = self.writer.files.local(base.path)
        kept = duck.parquet([path])
        names, key = listing([c.name for c in state.columns]), listing(state.key)
        told = f"SELECT {names} FROM {kept}"
        if self._has_files(damage.table, self.latest):
            told += f" ANTI JOIN {view(self._current().fold(damage.table, self._as_read(self.latest)).relation)} USING ({key})"
        rows = self.connection.sql(told)
        if by := self.superseded[damage.file.path].by:
            before = self._current().read([by], state.columns).project(names)
            rows = self.connection.sql(f"FROM {view(before)} UNION ALL FROM {view(rows)}")
        self._note(damage, self._land(damage, rows.order(key), damage.file.longest_row))

    def _land(self, damage: Damage, rows: duckdb.DuckDBPyRelation, longest: int) -> LandedFile | None:
        (count,) = duck.one(self.connection, f"SELECT count(*) FROM {view(rows)}")
        return self.writer.write(rows, self._path(damage), count, longest) if count else None

    def _path(self, damage: Damage) -> str:
        """A name as the damaged file's, of its batch, that no other run can write."""
        naming = FileNames.of_a_run(damage.batch)
        marker = Marker(self.writer.files, naming, [damage.table])
        marker.set()
        self.markers.append(marker)
        by_kind = {"rows": naming.rows, "deletions": naming.deletions, "quarantined": naming.quarantine}
        return by_kind[damage.kind](damage.table)

    def _lost(self, table: str) -> tuple[str, ...]:
        """The keys of rows that were deleted, and of which nothing is known but that."""
        state, batches = self.latest.tables[table], self._batches()
        deletions = [
            file
            for m in batches.changing(table, batches.get(self.latest.batch))
            if (file := m.changed[table].deletions)
        ]
        if not deletions:
            return ()
        key = listing(state.key)
        gone = self._current().read(deletions, state.key_columns).project(key)
        query = f"SELECT DISTINCT {key} FROM {view(gone)}"
        if self._has_files(table, self.latest):
            query += f" ANTI JOIN {view(self._current().fold(table, self._as_read(self.latest)).relation)} USING ({key})"
        found = self.connection.sql(f"{query} ORDER BY {key} LIMIT {_NAMED}").fetchall()
        return tuple(", ".join(map(str, row)) for row in found)

    # -- how a table stands --------------------------------------------------------------------------------------

    def _state(self, table: str) -> TableState:
        """A table as the files that are read from now on have it."""
        state = self.latest.tables[table]
        rows, members = 0, 0
        controls = state.controls
        if self._has_files(table, self.latest):
            held = self._current().fold(table, self._as_read(self.latest)).relation
            rows, members = duck.one(
                self.connection, f"SELECT count(*) FILTER (NOT {DELETED}), count(*) FROM {view(held)}"
            )
            if relation := self.witness.relation(table):
                controls = self._controls(relation, state, held)
        return state.model_copy(
            update={
                "rows": rows,
                "members": members,
                "controls": controls,
                "clean_under": None,
                "changes": None,
            }
        )

    def _controls(
        self, relation: Relation, state: TableState, held: duckdb.DuckDBPyRelation
    ) -> dict[str, Control]:
        had = {c.name: storage(c.type) for c in state.columns}
        if any(had.get(name) is None for name in relation.amounts):
            return state.controls
        amounts = sums(self.connection, relation, held)
        return state.controls | {
            name: state.controls.get(name, Control()).model_copy(update={"held": str(amount)})
            for name, amount in amounts.items()
        }

    def _batches(self) -> Batches:
        """The batches as they are read by what is known so far."""
        return Batches(self.writer.files, {**{s.path: s for s in self.latest.superseded}, **self.superseded})

    def _as_read(self, manifest: Manifest) -> Manifest:
        return self._batches().get(manifest.batch)

    def _current(self) -> Current:
        return Current(self._batches(), self.connection, from_batches_alone=True)

    def _has_files(self, table: str, upto: Manifest) -> bool:
        return any(m.changed[table].rows for m in self._batches().changing(table, self._as_read(upto)))
