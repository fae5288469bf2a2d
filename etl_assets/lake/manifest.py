"""What the manifest of a batch says: of its sources, of each table, and of the files that landed."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from etl_assets.lake.files import LakeError
from etl_assets.lake.names import batch_of, is_of, number
from etl_assets.lake.seal import is_intact

FORMAT = 2
FORMAT_WITH_CHECKPOINTS = 3
"""The same, in a lake some of whose batches are in checkpoints: who does not know of these must not read it."""
_MOST_TABLES = 12  # that a sentence names
MAIN = "source"
"""The source among a manifest's that the declared tables are read from."""


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
    """A batch in a sentence: which, as of when, and how many rows of each table came (+), changed (~) and went (-), of the tables
    with most of them where there are many; not `told`: that nothing came since."""
    tables = [
        " ".join([name, *(f"{sign}{rows:,}" for sign, rows in zip("+~-", _rows(c), strict=True) if rows)])
        for name, c in manifest.changed.items()
    ]
    if len(tables) > _MOST_TABLES:
        changes = list(manifest.changed.values())
        most = sorted(range(len(tables)), key=lambda i: -sum(_rows(changes[i])))[:_MOST_TABLES]
        rows = sum(sum(_rows(c)) for i, c in enumerate(changes) if i not in most)
        tables = [tables[i] for i in sorted(most)]
        tables.append(f"and {rows:,} rows of {len(changes) - len(most):,} more tables")
    moment = f"{manifest.server_time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    which = f"batch {number(manifest.batch)} as of {moment}"
    return f"{which}: {', '.join(tables) or 'no row changed'}" if told else f"nothing came since {which}"


def _rows(changes: TableChanges) -> tuple[int, int, int]:
    return changes.new, changes.changed, changes.deleted


def parsed(content: bytes, where: str) -> Manifest:
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
