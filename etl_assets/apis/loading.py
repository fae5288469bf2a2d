"""Loading: the records of complete takes, as a batch of the lake's one numbering.

    read the pages in order ► rows, and records kept aside ► the newest of each key ► what the lake does not hold ► commit

Nothing is asked of an API here, so a load that fails costs nothing but itself. Records that are absent from a later take
are not deleted: what counts is the newest version of each key that landed. If the declaration changes what a column is, or how
records are taken out of an answer, all pages that are kept are read again, and what none of them says any more is deleted.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from etl_assets import faults
from etl_assets.apis.accepting import check_misfits, check_whole
from etl_assets.apis.declaration import Api
from etl_assets.apis.reading import (
    PagesRead,
    all_takes,
    layout_of,
    loaded_takes,
    read_pages,
)
from etl_assets.apis.records import Rows
from etl_assets.apis.states import api_state, check_goes_on, table_state
from etl_assets.apis.takes import LOADED, DamagedPages, Take, takes, to_load
from etl_assets.engine import duck
from etl_assets.engine.duck import listing
from etl_assets.engine.scratch import own_folder
from etl_assets.errors import EtlError
from etl_assets.failpoints import reached
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import DELETED, Current, view
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import LandedFile, Manifest, TableChanges, TableState, TakeState
from etl_assets.lake.names import FileNames
from etl_assets.raw.brakes import EVERY
from etl_assets.raw.changes import changed_rows, missing_keys, no_keys
from etl_assets.raw.controls import Sums, sums
from etl_assets.raw.writing import BatchWriter, Overtaken, check_project

_ATTEMPTS = 5
_MEMORY_BYTES = 256 << 20


@dataclass(frozen=True)
class Load:
    """What to load: the complete takes of `apis`, for a run. `allow_misfits`: of these APIs (or all) more records may be
    kept aside than their limits say. `project`: whose lake it is."""

    apis: Sequence[Api]
    run_id: str
    project: str = ""
    allow_misfits: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """What became of a load. `takes`: what was read of each API, whether a batch has it or it was known. `failures`: APIs
    that were left out, and why. `unknown`: fields of records that nothing is declared for. `seconds`: how long each took to read
    and to land."""

    manifest: Manifest | None = None
    takes: dict[str, tuple[TakeState, ...]] = field(default_factory=dict)
    failures: dict[str, EtlError] = field(default_factory=dict)
    unknown: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def load_pages(load: Load, batches: Batches, scratch: Path) -> Outcome:
    """Commit what is new in the complete takes. Raises `EtlError` if the lake can't be read or written; an API whose pages
    can't be used is left out, and named."""
    for attempt in range(_ATTEMPTS):
        with (
            own_folder(scratch, "pages-") as folder,
            duck.connect(folder) as connection,
        ):
            # So much before it spills, however many records there are.
            connection.execute("SET memory_limit = $limit", {"limit": f"{_MEMORY_BYTES}B"})
            try:
                return _Loading(load, Batches(batches.files), connection, folder).run()
            except Overtaken:  # another run took the number, and nothing is lost
                time.sleep(0.1 * attempt)
            except OSError as error:
                raise LakeError(
                    f"pages can't be loaded: {error.filename or folder}: {error.strerror}; see that the disk of ETL_DATA has room, "
                    "and run again"
                ) from error
            except duckdb.Error as error:  # it would quote records
                raise LakeError(f"pages can't be loaded: {faults.told(error)}; run again") from None
    raise LakeError(f"other runs committed {_ATTEMPTS} batches in a row meanwhile; run again")


class _Loading:
    """One attempt to commit a batch."""

    def __init__(
        self, load: Load, batches: Batches, connection: duckdb.DuckDBPyConnection, folder: Path
    ) -> None:
        self.load = load
        self.batches = batches
        self.files = batches.files
        self.connection = connection
        self.folder = folder
        self.started = time.monotonic()
        self.anew: set[str] = set()
        """The APIs of which all pages are read."""
        self.latest = batches.latest()
        if self.latest:
            check_project(self.latest, load.project, self.files)
        self.naming = FileNames.of_a_run(self.latest.batch + 1 if self.latest else 1)
        self.writer = BatchWriter(
            batches=batches,
            latest=self.latest,
            naming=self.naming,
            connection=connection,
            names=[api.name for api in load.apis],
        )

    def run(self) -> Outcome:
        """Read, compare, land, commit; then say of the takes that they are loaded."""
        outcome, read = Outcome(), []
        for api in self.load.apis:
            try:
                with _counted(outcome, api):
                    one = self._read(api)
                if one:
                    read.append(one)
                    outcome.takes[api.name] = tuple(counts.state() for counts in one.counts)
                    outcome.unknown[api.name] = tuple(sorted(one.unknown))
            except EtlError as error:
                outcome.failures[api.name] = error
        if read:
            self.writer.sweep()
        states: dict[str, TableState] = {}
        try:
            for one in read:
                with _counted(outcome, one.api):
                    state = self._landed(one)
                if state:
                    states[one.api.name] = state
        except BaseException:
            self.writer.withdraw()
            raise
        if states:
            outcome.manifest = self._commit(states, read)
        reached("pages landed")
        for one in read:
            batch = outcome.manifest.batch if outcome.manifest and one.api.name in states else None
            for counts in one.counts:
                counts.take.loaded(batch, counts.digest)
        return outcome

    # -- from pages to rows ----------------------------------------------------------------------------------------------

    def _read(self, api: Api) -> PagesRead | None:
        """The takes of an API that wait, or all that there are if its columns are others than they were; None if there is
        nothing to load. Raises `EtlError` for what can't be used."""
        held = self.latest.tables.get(api.name) if self.latest else None
        rows = Rows(api)
        check_goes_on(api, held)
        again = held is not None and (held.columns != rows.columns or held.layout != layout_of(api))
        chosen = all_takes(self.batches, api.name) if again else to_load(self.files, api.name)
        if again:
            self.anew.add(api.name)
        if not chosen:
            return None
        read = self._read_pages(api, chosen)
        check_whole(read, self.connection)
        if not {api.name, EVERY} & self.load.allow_misfits:
            check_misfits(read)
        return read

    def _read_pages(self, api: Api, chosen: list[Take]) -> PagesRead:
        """Takes as rows, but for those that are damaged and were fetched anew since. Raises `EtlError`."""
        try:
            read = read_pages(api, chosen, self.batches, self.connection, self.folder)
            if any(counts.lacking for counts in read.counts):
                self.anew.discard(api.name)  # what lost pages alone held is kept
            return read
        except DamagedPages as error:
            damaged = error.take
            if not any(take.window == damaged.window and take.number > damaged.number for take in chosen):
                raise
            damaged.reject(str(error))
            self.anew.discard(api.name)  # what it alone held is kept
            return self._read_pages(api, [take for take in chosen if take != damaged])

    # -- from rows to a batch --------------------------------------------------------------------------------------------

    def _landed(self, read: PagesRead) -> TableState | None:
        """A table with what the batch brings for it; None if it brings nothing."""
        name, relation = read.api.name, read.relation
        held = self.latest.tables.get(name) if self.latest else None
        key = listing(relation.key)
        newest = read.newest(self.connection)
        removed: Sums = {}
        deleted, deletions = 0, None
        if held is None or self.latest is None:
            (new,) = duck.one(self.connection, f"SELECT count(*) FROM {view(newest)}")
            rows, changed, first_seen = newest.order(key), 0, new
        else:
            # As they were read: a number that is another type now is another text.
            fold = Current(self.batches, self.connection).fold(name, self.latest, columns=relation.columns)
            found = changed_rows(self.connection, newest, fold)
            rows, new, changed, first_seen = found.rows, found.new, found.changed, found.first_seen
            if name in self.anew:
                gone, deleted = missing_keys(self.connection, newest, fold)
                if deleted:
                    deletions = self.writer.write(gone, self.naming.deletions(name), deleted)
            else:
                gone = no_keys(fold)
            left = self.connection.sql(
                f"FROM {view(fold.relation)} SEMI JOIN (SELECT {key} FROM {view(rows)} UNION ALL FROM {view(gone)}) "
                f"USING ({key}) WHERE NOT {DELETED}"
            )
            removed = sums(self.connection, relation, left)
        same = held and (held.columns, held.layout) == (relation.columns, relation.layout)
        brings = new + changed + deleted or self._new_quarantine(read) or self._stands_for_lost_pages(read)
        if same and not brings:
            return None
        file = self.writer.write(rows, self.naming.rows(name), new + changed, read.longest)
        added = sums(self.connection, relation, self.connection.sql(f"FROM {view(rows)}"))
        quarantined = self._quarantined(read)
        changes = TableChanges(
            rows=file,
            deletions=deletions,
            quarantined=quarantined,
            new=new,
            changed=changed,
            deleted=deleted,
            quarantined_rows=read.bad if quarantined else 0,
        )
        return table_state(read, held, self.naming.batch, changes, first_seen, added, removed)

    def _new_quarantine(self, read: PagesRead) -> bool:
        """Whether records are kept aside that no batch has told of: the newest take of a window before may have had the
        same."""
        for counts in read.counts:
            before = [
                t
                for t in takes(self.files, read.api.name, counts.take.window)
                if t.number < counts.take.number
            ]
            known = next((t.known_quarantine() for t in reversed(before) if t.state == LOADED), "")
            if counts.digest and counts.digest != known:
                return True
        return False

    def _stands_for_lost_pages(self, read: PagesRead) -> bool:
        """Whether a take is of a window of which pages are lost that rows came from, the first one since: the verification
        reads only what a batch names."""
        for take in (counts.take for counts in read.counts):
            folder = f"{take.folder.rpartition('/')[0]}/"
            lost = [
                int(path.removeprefix(folder).partition("/")[0])
                for path, one in self.batches.superseded().items()
                if one.lost and path.startswith(folder)
            ]
            loaded_by = self.batches.changing(read.api.name, self.latest) if lost and self.latest else ()
            known = {
                t.number
                for t in loaded_takes(self.batches, read.api.name, loaded_by)
                if t.window == take.window
            }
            if lost and max(lost) >= max(known, default=0):
                return True
        return False

    def _quarantined(self, read: PagesRead) -> LandedFile | None:
        if not read.bad:
            return None
        report = read.kept_aside(self.connection, self.naming.batch)
        (values,) = duck.one(self.connection, f"SELECT count(*) FROM {view(report)}")
        return self.writer.write(report, self.naming.quarantine(read.api.name), values)

    def _commit(self, states: dict[str, TableState], read: Sequence[PagesRead]) -> Manifest:
        return self.writer.put(
            run_id=self.load.run_id,
            project=self.load.project,
            sources={one.api.name: api_state(one) for one in read if one.api.name in states},
            tables=states,
            seconds=time.monotonic() - self.started,
        )


@contextmanager
def _counted(outcome: Outcome, api: Api) -> Iterator[None]:
    """A block whose time is that of a table."""
    began = time.monotonic()
    try:
        yield
    finally:
        outcome.seconds[api.name] = outcome.seconds.get(api.name, 0.0) + time.monotonic() - began
