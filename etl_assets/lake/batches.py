"""Numbered, immutable batches, and the manifest that commits each of them.

A batch is committed by its manifest, which is written last and by put-if-absent: a file that no manifest lists
does not exist. A manifest tells what its batch brought, and carries forward what is known of every table, so
that the newest manifest alone says where a lake stands. It names the hash of the manifest before it: one that was
changed, removed or swapped is found by any later one.

`newest` beside them notes which one was written last, so that nobody has to list them all, of which there are more
with every batch. It is derived: what it says is looked at before it is believed, and what came after is found by asking on.
Those of long ago are in checkpoints, and are read as if they lay where they were.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from etl_assets.failpoints import reached
from etl_assets.lake.checkpoints import Checkpoints
from etl_assets.lake.files import AlreadyExists, Files, LakeError
from etl_assets.lake.seal import is_intact, sealed

FORMAT = 2
FORMAT_WITH_CHECKPOINTS = 3
"""The same, in a lake some of whose batches are in checkpoints: who does not know of these must not read it."""
FOLDER = "raw/batches"
OPEN = f"{FOLDER}/open"
"""Where runs say that they have files which no manifest lists yet."""
_NEWEST = f"{FOLDER}/newest"
_ASKED = 64
"""So many batches after the one that is noted are asked for one by one; were there more, all are listed."""
MAIN = "source"
"""The source among a manifest's that the declared tables are read from."""
_PLAIN = re.compile(r"[a-z0-9_]{1,100}")
# Folders beside those of tables.
_TAKEN = {"batches", "quarantine"}


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceColumn(_Value):
    """A column as the source's catalog has it; `type` as PostgreSQL's `format_type` names it."""

    name: str
    type: str
    nullable: bool


class LandedFile(_Value):
    """A CSV file of a batch: header, then `rows` rows, of which none is longer than `longest_row` bytes (0: none is
    unusually long)."""

    path: str
    rows: int
    bytes: int
    sha256: str
    longest_row: int = 0


class TableChanges(_Value):
    """What one batch brought for one table. `quarantined` names the values for which `quarantined_rows` of the
    rows can't be represented in the star as declared; the rows themselves are landed like all others."""

    rows: LandedFile | None
    deletions: LandedFile | None
    quarantined: LandedFile | None
    new: int
    changed: int
    deleted: int
    quarantined_rows: int = 0

    @property
    def files(self) -> tuple[LandedFile, ...]:
        return tuple(file for file in (self.rows, self.deletions, self.quarantined) if file)

    def with_what_stands(self, superseded: "Mapping[str, Superseded]") -> "TableChanges":
        """The same with the files that are read instead, and as many rows as these have."""

        def now(file: LandedFile | None) -> LandedFile | None:
            while file and file.path in superseded:  # what took its place may have been damaged in turn
                file = superseded[file.path].by
            return file

        rows, deletions = now(self.rows), now(self.deletions)
        new = min(self.new, rows.rows if rows else 0)
        return self.model_copy(
            update={
                "rows": rows,
                "deletions": deletions,
                "quarantined": now(self.quarantined),
                "new": new,
                "changed": rows.rows - new if rows else 0,
                "deleted": deletions.rows if deletions else 0,
            }
        )

    @property
    def versions(self) -> int:
        """How many row versions and deletions the batch recorded."""
        return self.new + self.changed + self.deleted


class Control(_Value):
    """Control totals of a column, as PostgreSQL's text: the exact sum of numbers, or the range of times.

    `sum`, `min` and `max` are what the source says; `held` is the sum of what the lake holds. Where both are
    known they are equal, or the batch would not have been committed.
    """

    sum: str | None = None
    held: str | None = None
    min: str | None = None
    max: str | None = None


class TableState(_Value):
    """A table as the lake holds it after a batch.

    `source` names the manifest's source that it is read from. `members` counts the keys ever seen, `versions` counts the
    row versions and deletions recorded so far, this batch included. `changed_in` is the batch that last changed the table
    and `previous` the one before it; `history` is a digest of all files of the table so far, so equal digests mean equal
    content. It was read as `read` says, `why`, and `unusual` if row versions could have told what changed, as a rule.
    `relation` is the table's OID, 0 if its rows were not read from
    the source. `clean_under` identifies the declared types that all values
    of the table so far fit; None if some do not, or were never tested against them.
    """

    source: str = MAIN
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    rows: int
    members: int
    versions: int
    changed_in: int
    previous: int | None
    history: str
    read_in: int
    read: Literal["whole", "horizon", "pages"]
    why: str
    unusual: bool = False
    horizon: int
    relation: int
    partitions: tuple[int, ...]
    layout: str
    controls: dict[str, Control]
    clean_under: str | None
    changes: TableChanges | None

    @property
    def key_columns(self) -> tuple[SourceColumn, ...]:
        return tuple(column for column in self.columns if column.name in self.key)


class SourceIdentity(_Value):
    """Which server, which history of it, and which database. `None` where the server does not say."""

    system_identifier: str | None
    timeline: int | None
    database: str
    version: str
    database_oid: int | None = None
    started: datetime | None = None


class SourceState(_Value):
    """A source at the instant that a batch shows of it. Transaction ids are 64 bits wide."""

    identity: SourceIdentity
    snapshot: str
    horizon: int
    next_transaction: int
    lsn: str
    server_time: datetime


class TakeState(_Value):
    """The pages of one window of an API that a batch loaded: what they took, and what came of their records.

    `records` = those that were landed or known already, `duplicates` of their keys, and `quarantined`, which can't be used.
    `total`: how many there are as the API said, None if it does not. `sha256` identifies all that the pages say.
    """

    window: str
    take: int
    pages: int
    calls: int
    failed_calls: int
    waited_seconds: float
    records: int
    duplicates: int
    quarantined: int
    total: int | None
    sha256: str


class ApiState(_Value):
    """An API as of the last batch that loaded pages of it, which is the one that last read its table. `server_time`: when
    the newest of these pages was asked for."""

    kind: Literal["api"] = "api"
    server_time: datetime
    takes: tuple[TakeState, ...]


class Superseded(_Value):
    """A landed file that is not what its manifest lists any more, and what is read instead: `by`, or nothing. `lost` names
    the keys of rows that could not be brought back."""

    path: str
    sha256: str
    by: LandedFile | None
    reason: str
    lost: tuple[str, ...] = ()


class Manifest(_Value):
    """What a batch is: the instant it shows, and every table at that instant.

    `previous` is the SHA-256 of the manifest before, None of the first batch; of a lake that was begun in format 1, where
    manifests did not name each other, `folded` is one digest of all of these. `project` is whose lake it is.
    `superseded` names all files so far that are read otherwise than they were landed.
    """

    format: int
    batch: int
    lake: str
    run_id: str
    project: str = ""
    previous: str | None
    folded: str | None = None
    sources: dict[str, SourceState | ApiState]
    seconds: float
    tables: dict[str, TableState]
    superseded: tuple[Superseded, ...] = ()

    @property
    def database(self) -> SourceState | None:
        """The database that the declared tables are read from; None as long as only APIs were."""
        state = self.sources.get(MAIN)
        return state if isinstance(state, SourceState) else None

    @property
    def main(self) -> SourceState:
        """The database. Raises `LakeError` if none was read."""
        if self.database is None:
            raise LakeError(
                f"batch {number(self.batch)} holds nothing of a database: it was made from APIs only"
            )
        return self.database

    def api(self, name: str) -> ApiState | None:
        """An API as of this batch; None if nothing of it was loaded."""
        state = self.sources.get(name)
        return state if isinstance(state, ApiState) else None

    @property
    def source(self) -> SourceIdentity:
        return self.main.identity

    @property
    def snapshot(self) -> str:
        return self.main.snapshot

    @property
    def horizon(self) -> int:
        return self.main.horizon

    @property
    def next_transaction(self) -> int:
        return self.main.next_transaction

    @property
    def lsn(self) -> str:
        return self.main.lsn

    @property
    def server_time(self) -> datetime:
        """When what the batch read was so: by the clock of the database, if that was read in it."""
        read = {state.source for state in self.tables.values() if state.read_in == self.batch}
        if self.database and (MAIN in read or not read):
            return self.database.server_time
        return max(state.server_time for name, state in self.sources.items() if name in read or not read)

    def with_what_stands(self, superseded: Mapping[str, Superseded]) -> "Manifest":
        """The same, with other files in the place of those that were superseded later; `superseded` by path. Of a table
        that has other rows by that nothing is known but its files: how many they are, and that all fit, are not."""
        own = {one.path for one in self.superseded}
        later = [path for path in superseded if path not in own]
        replaced = {}
        for name, state in self.tables.items():
            update: dict[str, object] = {}
            if state.changes and any(file.path in superseded for file in state.changes.files):
                update["changes"] = state.changes.with_what_stands(superseded)
            if any(is_of(path, name) and batch_of(path) <= self.batch for path in later):
                update["clean_under"] = None
            if update:
                replaced[name] = state.model_copy(update=update)
        return self.model_copy(update={"tables": {**self.tables, **replaced}}) if replaced else self

    @property
    def changed(self) -> dict[str, TableChanges]:
        """The tables that this batch brought something for."""
        return {name: state.changes for name, state in self.tables.items() if state.changes}


def in_words(manifest: Manifest, *, told: bool) -> str:
    """A batch in a sentence: which, as of when, and how many rows of each table came (+), changed (~) and went (-); not `told`:
    that nothing came since."""
    tables = [
        " ".join(
            [
                name,
                *(
                    f"{sign}{rows:,}"
                    for sign, rows in (("+", c.new), ("~", c.changed), ("-", c.deleted))
                    if rows
                ),
            ]
        )
        for name, c in manifest.changed.items()
    ]
    moment = f"{manifest.server_time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    which = f"batch {number(manifest.batch)} as of {moment}"
    return f"{which}: {', '.join(tables) or 'no row changed'}" if told else f"nothing came since {which}"


def number(batch: int) -> str:
    """A batch as people and paths call it: with six digits, or more where these are not enough."""
    return f"{batch:06d}"


def manifest_path(batch: int) -> str:
    """The path of a batch's manifest."""
    return f"{FOLDER}/{number(batch)}.json"


def folder_of(table: str) -> str:
    """The name of a table's folder. Names that a file system may take for the same, that it does not take, or that are
    folders of ours get a digest of what they are."""
    if _PLAIN.fullmatch(table) and table not in _TAKEN:
        return table
    readable = re.sub(r"[^a-z0-9_]+", "_", table.lower())[:60].strip("_")
    return f"{readable}~{hashlib.sha256(table.encode()).hexdigest()[:10]}"


def is_of(path: str, table: str) -> bool:
    """Whether a landed file is one with rows or deletions of a table. Pages of an API lie deeper in its folder."""
    return path.rpartition("/")[0] == f"raw/{folder_of(table)}"


def batch_of(path: str) -> int:
    """The batch that a landed file is of."""
    told = re.match("[0-9]+", path.rpartition("/")[2])
    return int(told[0]) if told else 0


@dataclass(frozen=True)
class FileNames:
    """The names of the files that one run lands for a batch. No other run can write them: `token` is its own."""

    batch: int
    token: str

    @classmethod
    def of_a_run(cls, batch: int) -> "FileNames":
        """Names for a batch with a token that no other run has."""
        return cls(batch, secrets.token_hex(6))

    def rows(self, table: str) -> str:
        """The path of a table's new and changed rows."""
        return f"raw/{folder_of(table)}/{self._stem}.csv"

    def deletions(self, table: str) -> str:
        """The path of the keys of a table's deleted rows."""
        return f"raw/{folder_of(table)}/{self._stem}.deleted.csv"

    def quarantine(self, table: str) -> str:
        """The path of a table's quarantined values."""
        return f"raw/quarantine/{folder_of(table)}/{self._stem}.csv"

    @property
    def marker(self) -> str:
        """A file that is there while the run has files that no manifest lists yet; it names their folders."""
        return f"{OPEN}/{self._stem}.open"

    @property
    def _stem(self) -> str:
        return f"{number(self.batch)}-{self.token}"


class Batches:
    """The batches of a lake. `superseded`: read these files otherwise, whatever the newest manifest says of them."""

    def __init__(self, files: Files, superseded: Mapping[str, Superseded] | None = None) -> None:
        self.files = files
        self.checkpoints = Checkpoints(files, FOLDER)
        self._read: dict[int, tuple[Manifest, str]] = {}
        self._given = superseded
        self._superseded = superseded

    def numbers(self) -> list[int]:
        """All committed batches, oldest first."""
        stems = [name.removesuffix(".json") for name in self.files.names(FOLDER) if name.endswith(".json")]
        # Listed after them: what was moved meanwhile is seen twice rather than never.
        folded = {batch for covered in self.checkpoints.ranges() for batch in covered}
        return sorted(folded.union(int(stem) for stem in stems if stem.isdecimal()))

    def newest(self) -> int | None:
        """The newest committed batch; None of an empty lake. What it costs does not depend on how many there are."""
        noted = self._noted()
        # None of the newest is in a checkpoint: the files alone are asked for.
        if noted is not None and self.files.exists(manifest_path(noted)):
            for batch in range(noted, noted + _ASKED):
                if not self.files.exists(manifest_path(batch + 1)):
                    return batch
        # Nothing is noted, the lake was set back, or an older version went on with it.
        return max(self.numbers(), default=None)

    def is_committed(self, batch: int) -> bool:
        """Whether there is the manifest of a batch."""
        return self.files.exists(manifest_path(batch)) or self.checkpoints.covering(batch) is not None

    def before(self, batch: int, at_most: int = 1) -> list[Manifest]:
        """The manifests of the batches right before one, oldest first; those that are lost are left out."""
        numbers = range(max(1, batch - at_most), batch)
        return [self.get(number) for number in numbers if self.is_committed(number)]

    def _noted(self) -> int | None:
        """The batch that is noted as the newest; None if none is, or if the note is damaged."""
        try:
            content = self.files.read(_NEWEST) if self.files.exists(_NEWEST) else b""
            told = json.loads(content)["batch"] if is_intact(content) else None
        except (ValueError, KeyError, TypeError, LakeError):
            return None
        return told if isinstance(told, int) and told > 0 else None

    def latest(self) -> Manifest | None:
        """The newest manifest; None of an empty lake. Raises `LakeError` as `get` does."""
        newest = self.newest()
        self._superseded = self._given  # else the newest manifest says it
        return self.get(newest) if newest else None

    def get(self, batch: int) -> Manifest:
        """The manifest of a batch, with the files that are read today: some may have been superseded. Raises `LakeError`
        if it is missing or is not the manifest of that batch."""
        manifest = self._get(batch)[0]
        if self._superseded is None:
            newest = self._get(self.newest() or batch)[0]
            self._superseded = {one.path: one for one in newest.superseded}
        return manifest.with_what_stands(self._superseded) if self._superseded else manifest

    def content(self, table: str, upto: Manifest) -> str:
        """A digest of what a table's files up to a batch are read as today: equal digests mean equal content."""
        history = upto.tables[table].history
        self.get(upto.batch)  # whereby it is known what is superseded
        told = [
            f"{path}:{one.by and one.by.sha256}"
            for path, one in (self._superseded or {}).items()
            if is_of(path, table)
        ]
        return hashlib.sha256(" ".join([history, *sorted(told)]).encode()).hexdigest() if told else history

    def has_superseded(self, table: str, upto: Manifest) -> bool:
        """Whether files of a table are read otherwise than a batch, or one before it, lists them."""
        self.get(upto.batch)
        return any(is_of(path, table) for path in self._superseded or {})

    def superseded(self) -> Mapping[str, Superseded]:
        """All files, by path, that are read otherwise than they were landed."""
        if self._superseded is None and (newest := self.newest()):
            self.get(newest)
        return self._superseded or {}

    def instead_of(self, path: str) -> LandedFile | None:
        """What is read in the place of a file that was superseded; None for one that was not, or of which nothing is known."""
        found, superseded = None, self.superseded()
        while one := superseded.get(path):
            found, path = one.by, one.by.path if one.by else ""
        return found

    def sha256(self, batch: int) -> str:
        """The hash by which the next manifest names that of a batch."""
        return self._get(batch)[1]

    def _get(self, batch: int) -> tuple[Manifest, str]:
        if batch not in self._read:
            path = manifest_path(batch)
            content = self._content(path)
            manifest = _parsed(content, f"{self.files.url}/{path}")
            if manifest.batch != batch:
                raise LakeError(
                    f"{self.files.url}/{path} is the manifest of batch {number(manifest.batch)}; restore the file from a "
                    "backup"
                )
            self._read[batch] = manifest, hashlib.sha256(content).hexdigest()
        return self._read[batch]

    def _content(self, path: str) -> bytes:
        try:
            return self.checkpoints.content(path)
        except LakeError as error:
            if self.files.exists(path) or self.checkpoints.covering(batch_of(path)) is not None:
                raise
            raise LakeError(
                f"{self.files.url}/{path} is not there; restore the file from a backup"
            ) from error

    def folded(self, upto: int) -> str:
        """One digest of all manifests up to a batch, for the first one after them that names what was before."""
        digest = hashlib.sha256()
        for batch in self.numbers():
            if batch <= upto:
                digest.update(f"{number(batch)} {self.sha256(batch)}\n".encode())
        return digest.hexdigest()

    def chain(self, upto: Manifest) -> Iterator[str]:
        """What is wrong with the manifests up to one, in words: all of them are there and name each other."""
        numbers = {batch for batch in self.numbers() if batch <= upto.batch}
        lacking = [number(b) for b in range(1, upto.batch + 1) if b not in numbers]
        if lacking:
            shown = f"{', '.join(lacking[:5])}{', …' if len(lacking) > 5 else ''}"
            yield f"the manifests of {shown} are not there; restore them from a backup"
        for batch in sorted(numbers):
            try:
                manifest = upto if batch == upto.batch else self.get(batch)
                before = self.sha256(batch - 1) if batch - 1 in numbers else None
            except LakeError as error:
                yield str(error)
                continue
            if manifest.format >= FORMAT and before is not None and manifest.previous != before:
                yield (
                    f"manifest {number(batch - 1)} is not the one that manifest {number(batch)} was written after: one "
                    "of them was changed or swapped; restore it from a backup"
                )
            if manifest.folded is not None and not lacking and manifest.folded != self.folded(batch - 1):
                yield f"the manifests before {number(batch)} are not those that it was written after"

    def last_read(self, table: str, upto: Manifest) -> Manifest:
        """The batch that last read a table, up to one that may have left it out."""
        state = upto.tables.get(table)
        return upto if state is None or state.read_in == upto.batch else self.get(state.read_in)

    def commit(self, manifest: Manifest) -> None:
        """Make a batch exist. Raises `AlreadyExists` if another run took its number."""
        path = manifest_path(manifest.batch)
        self._ask_checkpoints(manifest.batch)
        self.files.create(path, sealed(manifest.model_dump_json(indent=1).encode()))
        try:
            self._ask_checkpoints(manifest.batch)  # it may have slept between the two
        except AlreadyExists:
            self.files.remove(path)
            raise
        reached("manifest committed")
        with self.files.writing(_NEWEST) as stream:
            stream.write(sealed(json.dumps({"batch": manifest.batch}).encode()))

    def _ask_checkpoints(self, batch: int) -> None:
        """Raise `AlreadyExists` if a batch is in a checkpoint: a run that slept for long may find no manifest where its own
        would go. None is asked as long as the note says that nothing newer was committed."""
        noted = self._noted()
        if (noted is None or noted >= batch) and self.checkpoints.covering(batch) is not None:
            raise AlreadyExists(f"{self.files.url}/{manifest_path(batch)} is in a checkpoint")

    def fold(self) -> None:
        """Move what lies beside old batches into checkpoints. Raises `LakeError` if a manifest is not as it was written."""
        if newest := self.newest():
            self.checkpoints.fold(newest)

    def changing(self, table: str, upto: Manifest, after: int | None = None) -> Iterator[Manifest]:
        """The batches that changed a table, newest first: those up to `upto` and later than `after`."""
        state = upto.tables.get(table)
        batch = state.changed_in if state else None
        while batch and (after is None or batch > after):
            manifest = upto if batch == upto.batch else self.get(batch)
            yield manifest
            batch = manifest.tables[table].previous


def _parsed(content: bytes, where: str) -> Manifest:
    """A manifest of this format, or of the one before. Raises `LakeError`."""
    try:
        told = json.loads(content)
        made_by = told["format"] if isinstance(told, dict) else None
    except (ValueError, KeyError):
        made_by = None
    if not isinstance(made_by, int) or made_by < 1:
        raise LakeError(f"{where} is no manifest; restore the file from a backup")
    if made_by > FORMAT_WITH_CHECKPOINTS:
        raise LakeError(
            f"{where} was made by a newer version of etl-assets (format {made_by}, this version reads up to {FORMAT_WITH_CHECKPOINTS}): "
            "upgrade this one; nothing is damaged"
        )
    if not is_intact(content):
        raise LakeError(f"{where} is damaged (it is not what was written); restore the file from a backup")
    told.pop("seal", None)
    try:
        return Manifest.model_validate(_of_format_1(told) if made_by == 1 else told)
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = (
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else "something is missing in it"
        )
        raise LakeError(
            f"{where} is no manifest of format {made_by} ({reason}); restore the file from a backup"
        ) from error


def _of_format_1(told: dict[str, Any]) -> dict[str, Any]:
    """A manifest of format 1 in the form of now: it knew one source, and wrote numbers as text."""
    state = {name: told[name] for name in ("snapshot", "horizon", "next_transaction", "lsn", "server_time")}
    tables = {
        name: {
            **table,
            "changed_in": int(table["changed_in"]),
            "previous": int(table["previous"]) if table["previous"] else None,
            "read_in": int(table["read_in"]),
        }
        for name, table in told["tables"].items()
    }
    return {
        "format": 1,
        "batch": int(told["batch"]),
        "lake": told["lake"],
        "run_id": told["run_id"],
        "previous": None,
        "sources": {MAIN: {"identity": told["source"], **state}},
        "seconds": told["seconds"],
        "tables": tables,
    }
