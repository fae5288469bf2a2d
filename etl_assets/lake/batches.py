"""Numbered, immutable batches, and the manifest that commits each of them.

A batch is committed by its manifest, which is written last and by put-if-absent: a file that no manifest lists
does not exist. A manifest tells what its batch brought, and carries forward what is known of every table, so
that the newest manifest alone says where a lake stands.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from etl_assets.lake.files import Files, LakeError

FORMAT = 1
FOLDER = "raw/batches"


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


class Changes(_Value):
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

    `members` counts the keys ever seen, `versions` counts the row versions and deletions recorded so far, this batch included. `changed_in` is the
    batch that last changed the table and `previous` the one before it; `history` is a digest of all files of the
    table so far, so equal digests mean equal content. `relation` is the table's OID, 0 if its rows were not read from
    the source. `clean_under` identifies the declared types that all values
    of the table so far fit; None if some do not, or were never tested against them.
    """

    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    rows: int
    members: int
    versions: int
    changed_in: str
    previous: str | None
    history: str
    read_in: str
    read: Literal["whole", "horizon"]
    why: str
    horizon: int
    relation: int
    partitions: tuple[int, ...]
    layout: str
    controls: dict[str, Control]
    clean_under: str | None
    changes: Changes | None

    @property
    def key_columns(self) -> tuple[SourceColumn, ...]:
        return tuple(column for column in self.columns if column.name in self.key)


class SourceIdentity(_Value):
    """Which server, and which history of it. `None` where the server does not say."""

    system_identifier: str | None
    timeline: int | None
    database: str
    version: str


class Manifest(_Value):
    """What a batch is: the instant it shows, and every table at that instant."""

    format: int
    batch: str
    lake: str
    run_id: str
    source: SourceIdentity
    snapshot: str
    horizon: int
    next_transaction: int
    lsn: str
    server_time: datetime
    seconds: float
    tables: dict[str, TableState]

    @property
    def changed(self) -> dict[str, Changes]:
        """The tables that this batch brought something for."""
        return {name: state.changes for name, state in self.tables.items() if state.changes}


def number(batch: int) -> str:
    return f"{batch:06d}"


def manifest_path(batch: str) -> str:
    return f"{FOLDER}/{batch}.json"


def rows_path(table: str, batch: str) -> str:
    return f"raw/{table}/{batch}.csv"


def deletions_path(table: str, batch: str) -> str:
    return f"raw/{table}/{batch}.deleted.csv"


def quarantine_path(table: str, batch: str) -> str:
    return f"raw/quarantine/{table}/{batch}.csv"


class Batches:
    """The batches of a lake."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._read: dict[str, Manifest] = {}

    def numbers(self) -> list[str]:
        """All committed batches, oldest first."""
        stems = [name.removesuffix(".json") for name in self.files.names(FOLDER) if name.endswith(".json")]
        return [stem for stem in stems if stem.isdecimal()]

    def latest(self) -> Manifest | None:
        numbers = self.numbers()
        return self.get(numbers[-1]) if numbers else None

    def get(self, batch: str) -> Manifest:
        """The manifest of a batch. Raises `LakeError` if it is missing or not a manifest."""
        if batch not in self._read:
            path = manifest_path(batch)
            try:
                manifest = Manifest.model_validate_json(self.files.read(path))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise LakeError(
                    f"{self.files.url}/{path} is no manifest of format {FORMAT} ({where}: {first['msg']}); "
                    "restore the file from a backup"
                ) from error
            if manifest.format != FORMAT or manifest.batch != batch:
                raise LakeError(
                    f"{self.files.url}/{path} is batch {manifest.batch} in format {manifest.format}, "
                    f"not batch {batch} in format {FORMAT}; this version can't read it"
                )
            self._read[batch] = manifest
        return self._read[batch]

    def last_read(self, table: str, upto: Manifest) -> Manifest:
        """The batch that last read a table, up to one that may have left it out."""
        state = upto.tables.get(table)
        return upto if state is None or state.read_in == upto.batch else self.get(state.read_in)

    def commit(self, manifest: Manifest) -> None:
        """Make a batch exist. Raises `AlreadyExists` if another run took its number."""
        self.files.create(manifest_path(manifest.batch), manifest.model_dump_json(indent=1).encode())

    def changing(self, table: str, upto: Manifest, after: str | None = None) -> Iterator[Manifest]:
        """The batches that changed a table, newest first: those up to `upto` and later than `after`."""
        state = upto.tables.get(table)
        batch = state.changed_in if state else None
        while batch and (after is None or batch > after):
            manifest = upto if batch == upto.batch else self.get(batch)
            yield manifest
            batch = manifest.tables[table].previous
