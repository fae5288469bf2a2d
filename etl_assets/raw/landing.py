"""Taking a batch: everything that changed in the declared tables, as one instant of the source shows it.

    claim ► snapshot ► read each table ► compare with what is held ► land the files ► commit the manifest

Nothing exists before the manifest does. The files of a run have names that no other run can write, so runs of several
machines, sources or ages can't spoil each other's: of those that took the same number one commits it. While a run has
files that no manifest lists, a marker says so; what a killed run left is removed once its number is committed, which
happens soon: a run that finds such a marker takes the number even if it brings nothing.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import duckdb
from psycopg2.extensions import connection as Connection

from etl_assets import faults
from etl_assets.cost import Cost
from etl_assets.engine import duck
from etl_assets.engine.duck import listing, literal
from etl_assets.engine.scratch import own_folder
from etl_assets.engine.typing import Typing, types_version
from etl_assets.failpoints import reached
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import DELETED, Current, is_worth_a_base, materialized, view, write_base
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import (
    MAIN,
    Control,
    LandedFile,
    Manifest,
    SourceState,
    Superseded,
    TableChanges,
    TableState,
)
from etl_assets.lake.names import FileNames, number
from etl_assets.permissions import new_file
from etl_assets.raw.brakes import EVERY, FEW_ROWS, Stopped, TooManyDeletions, TooManyMisfits, TooMuch
from etl_assets.raw.changes import read_text
from etl_assets.raw.controls import SourceTotals, proven, sums_and_misfits
from etl_assets.raw.copying import Progress
from etl_assets.raw.plan import ReadPlan, keys_written_otherwise, plan
from etl_assets.raw.reading import Reader, doubled_all_the_same
from etl_assets.raw.request import CaptureRequest, Notes
from etl_assets.raw.writing import BatchWriter, check_project, history_of
from etl_assets.source.catalog import LeftOut, Relation, check_readable
from etl_assets.source.connection import SourceInterrupted, hang_up
from etl_assets.source.identity import check_identity, older_by
from etl_assets.source.snapshot import CONNECTIONS, UNTOLD, ClaimLost, Snapshot, take_snapshot

UNBORN = "a lake without batches"


def take_batch(
    request: CaptureRequest,
    batches: Batches,
    scratch: Path,
    progress: Progress,
    notes: Notes | None = None,
) -> Manifest | None:
    """Take a batch and commit it; None when nothing changed. A table whose rows can't be told apart is left out of it,
    unless there is no other, and noted. Raises `EtlError`, and then nothing was committed."""
    notes = notes or Notes()
    started = time.monotonic()
    latest = batches.latest()
    lake, begun = (latest.lake, latest.batch) if latest else (UNBORN, 0)
    connections = min(CONNECTIONS, len(request.tables))
    with claimed(request, lake, scratch, connections=connections) as (snapshot, folder, connection):
        reached("snapshot taken")
        batches = Batches(batches.files)
        latest = batches.latest()  # another run may have committed while this one waited
        if (latest.lake if latest else UNBORN) != lake:
            raise SourceInterrupted("another run has just begun this lake; run it again")
        if latest and not request.adopt:
            snapshot.still_claimed()  # else the batch that this snapshot seems to lag behind is another run's
            if latest.batch > begun and older_by(
                latest, snapshot.instant
            ):  # a server of its own granted it the claim
                raise SourceInterrupted(
                    f"batch {number(latest.batch)} was committed by another run after this one had taken its snapshot; run it "
                    "again"
                )
            check_identity(latest, snapshot.instant)
            check_project(latest, request.project, batches.files)
        landing = Landing.of(request, snapshot, batches, latest, connection, folder, progress)
        contested = landing.sweep()
        try:
            landed, unread = landing.land()
            if unread and not landed:
                raise next(iter(unread.values()))
            renamed = latest is not None and request.adopt and latest.project != request.project
            worth = not latest or contested or renamed or any(t.worth_a_batch for t in landed.values())
        except BaseException as error:
            landing.withdraw()
            if isinstance(error, LakeError) and landing.is_overtaken:
                raise landing.overtaken() from error  # whatever it is: others removed what this run had landed
            raise
        notes.left_out.update(unread)
        notes.costs.update({name: table.cost for name, table in landed.items()})
        notes.copy_seconds.update({n: t.copy_seconds for n, t in landed.items() if t.copy_seconds})
        notes.strays.update({name: table.strays for name, table in landed.items() if table.strays})
        notes.damaged.update({n: ", ".join(sorted(t.damaged)) for n, t in landed.items() if t.damaged})
        for path in (path for table in landed.values() for path in table.damaged):
            batches.files.remove(path)
        if not worth:
            return None
        return landing.commit(landed, seconds=time.monotonic() - started)


@contextmanager
def claimed(
    request: CaptureRequest, lake: str, scratch: Path, *, connections: int = 1
) -> Iterator[tuple[Snapshot, Path, duckdb.DuckDBPyConnection]]:
    """What fills a lake works with, while no other run may: the source's snapshot, a folder below `scratch` that is gone
    afterwards, and a DuckDB that spills into it."""
    with (
        take_snapshot(
            request.url,
            request.tables,
            lake=lake,
            run_id=request.run_id,
            connections=connections,
            wait_seconds=request.wait_seconds,
        ) as snapshot,
        own_folder(scratch, "capture-") as folder,
        duck.connect(folder) as connection,
    ):
        yield snapshot, folder, connection


@dataclass(frozen=True)
class Landed:
    """A table with what a batch brings for it, not committed yet."""

    state: TableState
    worth_a_batch: bool
    strays: int = 0
    cost: Cost = field(default_factory=Cost)
    copy_seconds: float = 0.0
    damaged: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Landing(BatchWriter):
    """The tables of one batch on their way into the lake."""

    request: CaptureRequest
    snapshot: Snapshot
    folder: Path
    progress: Progress

    @classmethod
    def of(
        cls,
        request: CaptureRequest,
        snapshot: Snapshot,
        batches: Batches,
        latest: Manifest | None,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        progress: Progress = lambda table, size: None,
    ) -> "Landing":
        """What a run lands as the batch after the latest one."""
        return cls(
            batches=batches,
            latest=latest,
            naming=FileNames.of_a_run(latest.batch + 1 if latest else 1),
            connection=connection,
            names=[table.name for table in request.tables],
            request=request,
            snapshot=snapshot,
            folder=folder,
            progress=progress,
        )

    def land(self) -> tuple[dict[str, Landed], dict[str, LeftOut]]:
        """Land all tables, as many at a time as there are connections to the source; and those that are left out."""
        free: SimpleQueue[Connection] = SimpleQueue()
        for connection in self.snapshot.connections:
            free.put(connection)
        relations = self.snapshot.relations.items()
        plans = {name: self._plan(relation) for name, relation in relations if relation.key}

        def land_with_a_free_connection(name: str) -> Landed | LeftOut | Stopped:
            source = free.get()
            cost = Cost()
            try:
                check_readable(self.snapshot.relations[name])
                with self.connection.cursor() as duck, cost.counting(time.thread_time):
                    reader = Reader(self.snapshot.relations[name], source, duck, self.folder, self.progress)
                    landed = self._land_table(reader, plans[name])
                return replace(landed, cost=cost)
            except (LeftOut, Stopped) as why:
                return why
            except OSError as error:
                raise LakeError(
                    f"table {name} can't be landed: {error.filename or self.folder}: {error.strerror}; see that the disk of "
                    "ETL_DATA has room; nothing was committed"
                ) from error
            except duckdb.Error as error:  # no room, or a row that is too long; it would quote the row
                long = "Maximum line size" in str(error)
                told = (
                    "a row is longer than the Maximum line size that can be read"
                    if long
                    else faults.told(error)
                )
                raise LakeError(f"table {name} can't be landed: {told}; nothing was committed") from None
            finally:
                free.put(source)

        with ThreadPoolExecutor(len(self.snapshot.connections)) as pool:
            working = {name: pool.submit(land_with_a_free_connection, name) for name, _ in relations}
            try:
                wait(working.values(), return_when=FIRST_EXCEPTION)
                done = {name: future.result() for name, future in working.items() if not _pending(future)}
                if stopped := [why for why in done.values() if isinstance(why, Stopped)]:
                    raise TooMuch(stopped)
                return (
                    {name: table for name, table in done.items() if isinstance(table, Landed)},
                    {name: why for name, why in done.items() if isinstance(why, LeftOut)},
                )
            finally:
                # After an error, or when the run is told to stop, nobody waits for tables that are still being read.
                pool.shutdown(wait=False, cancel_futures=True)
                while any(future.running() for future in working.values()):
                    for connection in self.snapshot.connections:
                        hang_up(connection)
                    time.sleep(0.05)

    def commit(
        self, landed: Mapping[str, Landed], *, seconds: float, superseded: Sequence[Superseded] = ()
    ) -> Manifest:
        """Make the batch exist. Raises `Overtaken` if another run took its number, `ClaimLost` if the claim on the lake is
        lost; what was landed is removed then."""
        instant = self.snapshot.instant
        try:
            self.snapshot.still_claimed()
        except ClaimLost:
            self.withdraw()
            raise
        on_disk = self.snapshot.flushed()
        state = SourceState(
            identity=instant.source,
            snapshot=instant.snapshot,
            horizon=instant.horizon,
            next_transaction=instant.next_transaction,
            lsn=UNTOLD if instant.lsn == UNTOLD else on_disk,
            server_time=instant.server_time,
        )
        return self.put(
            run_id=self.request.run_id,
            project=self.request.project,
            sources={MAIN: state},
            tables={name: table.state for name, table in landed.items()},
            seconds=seconds,
            superseded=superseded,
        )

    def _plan(self, relation: Relation) -> ReadPlan:
        # Compared with the instant at which this very table was read: later batches may have left it out.
        instant, last = self.snapshot.instant, self.latest
        if last:
            last = self.batches.last_read(relation.table.name, last)
        request = self.request
        return plan(relation, last, instant, whole=request.whole, one_history=request.one_history)

    def _land_table(self, reader: Reader, plan: ReadPlan) -> Landed:
        relation = reader.relation
        table = relation.table.name
        held = self.latest.tables.get(table) if self.latest else None
        rows_path, deletions_path = self.naming.rows(table), self.naming.deletions(table)
        if self.latest is None or held is None:
            self.marker.set()
            copied, totals = reader.first(lambda: self.files.writing(rows_path))
            rows = LandedFile(
                path=rows_path,
                rows=copied.rows,
                bytes=copied.bytes,
                sha256=copied.sha256,
                longest_row=copied.longest_row,
            )
            landed = self.begin(relation, reader.duck, plan, rows, totals)
            return replace(landed, copy_seconds=copied.copy_seconds)
        current = Current(self.batches, reader.duck)
        fold = partial(current.fold, table, self.latest, columns=relation.columns)
        long = current.is_long(table, self.latest)
        found = reader.again(plan, held, fold, self.request.share, long=long)
        self._brake(relation, held, found.deleted)
        changed = found.changed
        brought = None
        if changed.new or changed.changed or found.deleted:
            rows_file = self._land(
                changed.rows, rows_path, changed.new + changed.changed, found.longest, found.texts
            )
            quarantined, misfits = (
                self._quarantine(relation, reader.duck, rows_file, held.rows) if rows_file else (None, 0)
            )
            brought = TableChanges(
                rows=rows_file,
                deletions=self._land(found.gone, deletions_path, found.deleted),
                quarantined=quarantined,
                quarantined_rows=misfits,
                new=changed.new,
                changed=changed.changed,
                deleted=found.deleted,
            )
        held = found.held or held
        clean = held.clean_under is not None and not (brought and brought.quarantined_rows)
        controls = proven(relation, found.totals, held, found.added, found.removed, clean=clean)
        members = held.members + changed.first_seen
        state = self._state(relation, held, found.plan, found.totals.rows, controls, members, brought)
        worth_a_batch = brought is not None or found.plan.renews
        return Landed(
            state,
            worth_a_batch,
            found.strays,
            copy_seconds=found.copy_seconds,
            damaged=frozenset(current.damaged),
        )

    def begin(
        self,
        relation: Relation,
        connection: duckdb.DuckDBPyConnection,
        plan: ReadPlan,
        rows: LandedFile,
        totals: SourceTotals | None,
    ) -> Landed:
        """A table of which nothing was held, with all its rows landed. Their sums are proven against `totals`, where
        there is somebody to say them."""
        landed = self._landed(relation, connection, rows)
        if is_worth_a_base(rows):
            landed = self._base(relation, connection, rows, landed)
        if relation.unique and (doubled := _doubled(connection, relation, landed, rows.rows)):
            self.files.remove(rows.path)
            raise doubled_all_the_same(relation, doubled)
        exact = Typing(relation.table.types, relation.columns).exact
        added, misfits = sums_and_misfits(connection, relation, landed, exact)
        quarantined, misfits = (
            self._quarantine(relation, connection, rows, 0, landed) if misfits else (None, 0)
        )
        changes = TableChanges(
            rows=rows,
            deletions=None,
            quarantined=quarantined,
            new=rows.rows,
            changed=0,
            deleted=0,
            quarantined_rows=misfits,
        )
        if totals is None:
            totals = SourceTotals(
                rows.rows, {name: Control(sum=str(amount)) for name, amount in added.items()}
            )
        controls = proven(relation, totals, None, added, {}, clean=not misfits)
        state = self._state(relation, None, plan, totals.rows, controls, rows.rows, changes)
        return Landed(state, worth_a_batch=True)

    def _landed(
        self, relation: Relation, connection: duckdb.DuckDBPyConnection, rows: LandedFile
    ) -> duckdb.DuckDBPyRelation:
        """A file that this run landed, read again from where it lies."""
        path = self.files.local(rows.path)
        return read_text(connection, path, relation.columns, rows.longest_row, rows.rows)

    def _base(
        self,
        relation: Relation,
        connection: duckdb.DuckDBPyConnection,
        rows: LandedFile,
        landed: duckdb.DuckDBPyRelation,
    ) -> duckdb.DuckDBPyRelation:
        """The same rows from the base that is made of them: text is read once, and what follows reads that."""
        path = new_file(self.folder, "base-", ".parquet")
        changes = TableChanges(
            rows=rows, deletions=None, quarantined=None, new=rows.rows, changed=0, deleted=0
        )
        write_base(landed.project(f"*, false AS {DELETED}"), path, history_of(None, self.batch, changes))
        self.bases[relation.table.name] = path
        return duck.read_parquet(connection, [path]).project(listing(relation.names))

    def _brake(self, relation: Relation, held: TableState, deleted: int) -> None:
        share, table = self.request.deletion_brake, relation.table.name
        if deleted > max(share * held.rows, FEW_ROWS) and not {table, EVERY} & self.request.allow_deletions:
            other = "; ".join(keys_written_otherwise(held, relation.columns))
            why = f" (its key {other}: one that is written otherwise is another key)" if other else ""
            raise TooManyDeletions(
                table,
                f"{deleted:,} of {held.rows:,} rows of {table} are gone from the source, more than {share:.0%}{why}",
                "--allow-deletions",
            )

    def _quarantine(
        self,
        relation: Relation,
        connection: duckdb.DuckDBPyConnection,
        rows: LandedFile,
        held: int,
        landed: duckdb.DuckDBPyRelation | None = None,
    ) -> tuple[LandedFile | None, int]:
        """Name the values of landed rows that don't fit their declared types, and count these rows. `landed`: the rows, where
        somebody has read them already."""
        table = relation.table
        if landed is None:
            landed = self._landed(relation, connection, rows)
        misfits = Typing(table.types, relation.columns).misfits(landed, relation.key)
        if misfits is None:
            return None, 0
        found = materialized(connection, f"SELECT * FROM {view(misfits)}")
        values, count = duck.one(connection, f"SELECT count(*), count(DISTINCT key) FROM {found}")
        limit = self.request.quarantine_limit
        few = max(limit * max(rows.rows, held), FEW_ROWS)
        if count > few and not {table.name, EVERY} & self.request.allow_misfits:
            example = duck.one(connection, f'SELECT key, "column", reason FROM {found} ORDER BY ALL LIMIT 1')
            raise TooManyMisfits(
                table.name,
                f"{count:,} rows of {table.name} hold values that don't fit their declared types (the {example[1]} of "
                f"{example[0]} {example[2]}), more than {limit:.0%} of it: mend them in the source, or declare a wider type "
                f"({table.where})",
                "--allow-misfits",
            )
        report = connection.sql(
            f'SELECT {literal(table.name)} AS "table", key, "column", value, reason, '
            f"{literal(number(self.batch))} AS batch FROM {found} ORDER BY ALL"
        )
        return self._land(report, self.naming.quarantine(table.name), values), count

    def _land(
        self,
        relation: duckdb.DuckDBPyRelation,
        path: str,
        rows: int,
        longest: int = 0,
        texts: Sequence[duckdb.DuckDBPyRelation] = (),
    ) -> LandedFile | None:
        return self.write(relation, path, rows, longest, texts) if rows else None

    def _state(
        self,
        relation: Relation,
        held: TableState | None,
        plan: ReadPlan,
        rows: int,
        controls: dict[str, Control],
        members: int,
        changes: TableChanges | None,
    ) -> TableState:
        versions, history = (held.versions, held.history) if held else (0, "")
        types = types_version(relation.table.types)
        fits = (held is None or held.clean_under == types) and not (changes and changes.quarantined_rows)
        if changes:
            versions += changes.versions
            history = history_of(held, self.batch, changes)
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
            read=plan.read,
            why=plan.why,
            unusual=plan.unusual,
            horizon=self.snapshot.instant.horizon,
            relation=relation.oid,
            partitions=relation.partitions,
            layout=relation.layout,
            controls=controls,
            clean_under=types if fits else None,
            changes=changes,
        )


def _doubled(
    connection: duckdb.DuckDBPyConnection, relation: Relation, rows: duckdb.DuckDBPyRelation, count: int
) -> int:
    """How many of the rows have a key that another has."""
    key, read = listing(relation.key), view(rows)
    (hashes,) = duck.one(connection, f"SELECT count(DISTINCT hash({key})) FROM {read}")  # half the cost
    if hashes == count:
        return 0
    (different,) = duck.one(connection, f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM {read})")
    return int(count - different)


def _pending(future: Future[Landed | LeftOut | Stopped]) -> bool:
    """Whether an error elsewhere overtook a future; `result` of those that ended raises what went wrong."""
    return not future.done()
