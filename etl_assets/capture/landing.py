"""Taking a batch: everything that changed in the declared tables, as one instant of the source shows it.

    claim ► snapshot ► read each table ► compare with what is held ► land the files ► commit the manifest

Nothing exists before the manifest does. A run that is killed leaves files that no manifest lists; the next run
takes the same number and writes over them.
"""

import hashlib
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import duckdb
from psycopg2.extensions import connection as Connection

from etl_assets.capture.catalog import Relation
from etl_assets.capture.changes import changed_rows, missing_keys, read_text
from etl_assets.capture.connection import SourceInterrupted
from etl_assets.capture.copying import Progress, copy, select
from etl_assets.capture.snapshot import Snapshot, take_snapshot
from etl_assets.capture.table import Table
from etl_assets.engine import duck
from etl_assets.errors import EtlError
from etl_assets.lake import batches as paths
from etl_assets.lake.batches import Batches, Changes, LandedFile, Manifest, TableState
from etl_assets.lake.current import Current

CONNECTIONS = 4
_UNBORN = "a lake without batches"


class TooManyDeletions(EtlError):
    """The deletion brake: a batch would delete more of a table than is plausible."""


@dataclass(frozen=True)
class Request:
    """What to capture: `tables` of the source at `url`, for a run.

    `deletion_brake` is the share of a table's rows above which deletions stop the batch, unless the table is in
    `allow_deletions`. `wait_seconds`: how long another run that fills the same lake is waited for.
    """

    url: str
    tables: Sequence[Table]
    run_id: str
    deletion_brake: float = 0.2
    allow_deletions: frozenset[str] = frozenset()
    wait_seconds: float = 60.0


def take_batch(request: Request, batches: Batches, scratch: Path, progress: Progress) -> Manifest | None:
    """Take a batch and commit it; None when nothing changed. Raises `EtlError`, and then nothing was committed."""
    started = time.monotonic()
    latest = batches.latest()
    lake = latest.lake if latest else _UNBORN
    with (
        take_snapshot(
            request.url,
            request.tables,
            lake=lake,
            run_id=request.run_id,
            connections=min(CONNECTIONS, len(request.tables)),
            wait_seconds=request.wait_seconds,
        ) as snapshot,
        tempfile.TemporaryDirectory(dir=scratch, prefix="capture-") as folder,
        duck.connect(Path(folder)) as connection,
    ):
        batches = Batches(batches.files)
        latest = batches.latest()  # another run may have committed while this one waited
        if (latest.lake if latest else _UNBORN) != lake:
            raise SourceInterrupted("another run has just begun this lake; run it again")
        batch = paths.number(int(latest.batch) + 1 if latest else 1)
        landing = _Landing(request, snapshot, batches, latest, batch, connection, Path(folder), progress)
        tables = landing.land()
        if latest and not any(state.changes for state in tables.values()):
            return None
        instant = snapshot.instant
        manifest = Manifest(
            format=paths.FORMAT,
            batch=batch,
            lake=latest.lake if latest else uuid.uuid4().hex,
            run_id=request.run_id,
            source=instant.source,
            snapshot=instant.snapshot,
            horizon=instant.horizon,
            next_transaction=instant.next_transaction,
            lsn=instant.lsn,
            server_time=instant.server_time,
            seconds=round(time.monotonic() - started, 3),
            tables={**_carried(latest), **tables},
        )
        batches.commit(manifest)
        for table in manifest.changed:
            landing.current.compact(table, manifest)
    return manifest


def _carried(latest: Manifest | None) -> dict[str, TableState]:
    """The tables of the manifest before, as they stand when a batch does not read them."""
    states = latest.tables if latest else {}
    return {name: state.model_copy(update={"changes": None}) for name, state in states.items()}


class _Landing:
    """The tables of one batch on their way into the lake."""

    def __init__(
        self,
        request: Request,
        snapshot: Snapshot,
        batches: Batches,
        latest: Manifest | None,
        batch: str,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.request = request
        self.snapshot = snapshot
        self.files = batches.files
        self.latest = latest
        self.batch = batch
        self.connection = connection
        self.folder = folder
        self.progress = progress
        self.current = Current(batches, connection)

    def land(self) -> dict[str, TableState]:
        """Read all tables, several at a time, and compare each as soon as it has been read."""
        free: SimpleQueue[Connection] = SimpleQueue()
        for connection in self.snapshot.connections:
            free.put(connection)

        def read(relation: Relation) -> LandedFile:
            connection = free.get()
            try:
                return self._read(relation, connection)
            finally:
                free.put(connection)

        states = {}
        with ThreadPoolExecutor(len(self.snapshot.connections)) as pool:
            reading = {pool.submit(read, relation): relation for relation in self.snapshot.relations.values()}
            try:
                for done in as_completed(reading):
                    relation = reading[done]
                    states[relation.table.name] = self._state(relation, done.result())
            except BaseException:
                for connection in self.snapshot.connections:
                    connection.cancel()
                pool.shutdown(cancel_futures=True)
                raise
        return {table.name: states[table.name] for table in self.request.tables}

    def _held(self, relation: Relation) -> TableState | None:
        return self.latest.tables.get(relation.table.name) if self.latest else None

    def _read(self, relation: Relation, connection: Connection) -> LandedFile:
        """The whole table as a file: straight into the lake when it holds nothing of it yet."""
        table = relation.table.name
        if self._held(relation):
            path = self.folder / f"{table}.csv"
            with path.open("wb") as target:
                copied = copy(connection, select(relation), target, table, self.progress)
            where = str(path)
        else:
            where = paths.rows_path(table, self.batch)
            with self.files.writing(where) as target:
                copied = copy(connection, select(relation), target, table, self.progress)
        return LandedFile(path=where, rows=copied.rows, bytes=copied.bytes, sha256=copied.sha256)

    def _state(self, relation: Relation, read: LandedFile) -> TableState:
        table = relation.table.name
        held = self._held(relation)
        if self.latest is None or held is None:
            landed = Changes(rows=read, deletions=None, new=read.rows, changed=0, deleted=0)
            return self._known(
                relation, None, read.rows, read.rows, landed, "the lake holds nothing of it yet"
            )
        fold = self.current.fold(table, self.latest)
        rows = read_text(self.connection, Path(read.path), relation.columns)
        changed = changed_rows(self.connection, rows, fold)
        gone, deleted = missing_keys(self.connection, rows, fold)
        self._brake(table, held.rows, deleted)
        changes = None
        if changed.new or changed.changed or deleted:
            changes = Changes(
                rows=self._land(
                    changed.rows, paths.rows_path(table, self.batch), changed.new + changed.changed
                ),
                deletions=self._land(gone, paths.deletions_path(table, self.batch), deleted),
                new=changed.new,
                changed=changed.changed,
                deleted=deleted,
            )
        members = held.members + changed.first_seen
        return self._known(
            relation, held, read.rows, members, changes, "all rows are compared with those held"
        )

    def _brake(self, table: str, held: int, deleted: int) -> None:
        share = self.request.deletion_brake
        if deleted > share * held and table not in self.request.allow_deletions:
            raise TooManyDeletions(
                f"{deleted:,} of {held:,} rows of {table} are gone from the source, more than {share:.0%}: is that "
                f"meant? Then run again with --allow-deletions {table}; nothing was committed"
            )

    def _land(self, relation: duckdb.DuckDBPyRelation, path: str, rows: int) -> LandedFile | None:
        if not rows:
            return None
        staged = self.files.staging(path)
        try:
            duck.write_csv(relation, staged.local)
            with staged.local.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = staged.local.stat().st_size
            staged.publish()
        finally:
            staged.discard()
        return LandedFile(path=path, rows=rows, bytes=size, sha256=digest)

    def _known(
        self,
        relation: Relation,
        held: TableState | None,
        rows: int,
        members: int,
        changes: Changes | None,
        why: str,
    ) -> TableState:
        instant = self.snapshot.instant
        versions, history = (held.versions, held.history) if held else (0, "")
        if changes:
            versions += changes.versions
            landed: Mapping[str, LandedFile | None] = {"rows": changes.rows, "deletions": changes.deletions}
            links = [f"{kind}:{file.sha256}" for kind, file in landed.items() if file]
            history = hashlib.sha256(" ".join([history, self.batch, *links]).encode()).hexdigest()
        return TableState(
            columns=relation.columns,
            key=relation.key,
            rows=rows,
            members=members,
            versions=versions,
            changed_in=self.batch if changes or not held else held.changed_in,
            previous=(held.changed_in if changes else held.previous) if held else None,
            history=history,
            read_in=self.batch,
            read="whole",
            why=why,
            horizon=instant.horizon,
            relation=relation.oid,
            controls={},
            changes=changes,
        )
