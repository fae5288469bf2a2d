"""Writing a batch, whatever it comes from: its files, the marker that says that they are not listed yet, its manifest.

The files of a run have names that no other run can write, so runs of several machines, sources or ages can't spoil each
other's: of those that took the same number one commits it. What a killed run left is removed once its number is committed.
"""

import hashlib
import json
import shutil
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.errors import EtlError
from etl_assets.failpoints import reached
from etl_assets.lake import checkpoints
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import Current
from etl_assets.lake.files import AlreadyExists, Files, LakeError
from etl_assets.lake.manifest import (
    FORMAT,
    FORMAT_WITH_CHECKPOINTS,
    ApiState,
    LandedFile,
    Manifest,
    SourceState,
    Superseded,
    TableChanges,
    TableState,
)
from etl_assets.lake.names import FOLDER, OPEN, FileNames, number

# The folder of manifests has more files with every batch, so it is not looked through at each of them.
_SWEPT_EVERY = 64
_ABANDONED_SECONDS = 86_400
_COPIED_BYTES = 1 << 20


class Overtaken(LakeError):
    """Another run committed the batch of this number meanwhile. Nothing was committed, and the next attempt may find room."""


def check_project(latest: Manifest, project: str, files: Files) -> None:
    """Raises `LakeError` if a lake is that of another project."""
    if latest.project and project and latest.project != project:
        raise LakeError(
            f"the lake {files.url} is that of the project {latest.project}, and this is {project}: name another lake "
            "(ETL_LAKE_URL, or ETL_DATA for all that is kept); if that one is to be carried on under the new name, etl run "
            "--adopt; nothing was read"
        )


def _carried(latest: Manifest | None) -> dict[str, TableState]:
    """The tables of the manifest before, as they stand when a batch does not read them."""
    states = latest.tables if latest else {}
    return {name: state.model_copy(update={"changes": None}) for name, state in states.items()}


@dataclass
class Marker:
    """The file that says of a run that it has files which no manifest lists yet."""

    files: Files
    naming: FileNames
    tables: Sequence[str]
    is_set: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self) -> None:
        """Say that there are files that no manifest lists yet. Once is enough."""
        with self._lock:
            if not self.is_set:
                self.files.create(self.naming.marker, json.dumps({"tables": list(self.tables)}).encode())
                self.is_set = True


@dataclass(frozen=True, kw_only=True)
class BatchWriter:
    """What a run lands of some tables, and the manifest that commits it."""

    batches: Batches
    latest: Manifest | None
    naming: FileNames
    connection: duckdb.DuckDBPyConnection
    names: Sequence[str]
    marker: Marker = field(init=False)
    bases: dict[str, Path] = field(default_factory=dict)
    """Bases that were made of tables on the way, to be kept once the batch exists."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "marker", Marker(self.files, self.naming, self.names))

    @property
    def files(self) -> Files:
        return self.batches.files

    @property
    def batch(self) -> int:
        return self.naming.batch

    def sweep(self) -> bool:
        """Remove what killed runs left of batches that are committed; whether somebody else has files of the one to come,
        which nobody may remove before it is. Where a lake is begun, raises `LakeError` if none can be kept there."""
        contested = False
        if self.latest is None:
            self.files.check_that_one_wins()
        marked = self.files.names(OPEN)
        if self.latest and marked:
            self.files.sweep(FOLDER, beginning=number(self.latest.batch))
        elif self.latest and self.latest.batch % _SWEPT_EVERY == 0:
            self.files.sweep(FOLDER, older_than_seconds=_ABANDONED_SECONDS)
        for name in marked:
            stem, marks, _ = name.partition(".open")
            taken, _, token = stem.partition("-")
            if not marks or not taken.isdecimal():
                continue
            if int(taken) >= self.batch:
                contested = True
            else:
                left = FileNames(int(taken), token)
                remove_unlisted(self.batches, left, _marked(self.batches, left))
        return contested

    def withdraw(self) -> None:
        """Remove what this run has landed, after it failed and before it tried to commit: a manifest that was sent may
        arrive late."""
        if self.marker.is_set:
            with suppress(EtlError):  # what made it fail may be the lake; the next run sweeps
                # By what it knows itself: while it slept others may have removed the marker, and it landed more since.
                remove_unlisted(self.batches, self.naming, self.marker.tables)

    @property
    def is_overtaken(self) -> bool:
        """Whether another run has committed the batch of this number, as far as the lake can be asked."""
        with suppress(EtlError):
            return self.batches.is_committed(self.batch)
        return False

    def overtaken(self) -> Overtaken:
        return Overtaken(
            f"batch {number(self.batch)} of the lake {self.files.url} was committed by another run meanwhile; this one "
            "brought nothing: run it again"
        )

    def write(
        self,
        relation: duckdb.DuckDBPyRelation,
        path: str,
        rows: int,
        longest: int = 0,
        texts: Sequence[duckdb.DuckDBPyRelation] = (),
    ) -> LandedFile:
        """Land what DuckDB computes. `longest`: the bytes of the longest row as PostgreSQL wrote it, if it is long. `texts`: the
        rows in parts, where they are too long to be held at once."""
        self.marker.set()
        staged = self.files.staging(path)
        try:
            _write(texts or [relation], staged.local)
            with staged.local.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = staged.local.stat().st_size
            staged.publish()
        finally:
            staged.discard()
        # DuckDB may quote what PostgreSQL does not.
        longest += 2 * len(relation.columns) if longest else 0
        return LandedFile(path=path, rows=rows, bytes=size, sha256=digest, longest_row=longest)

    def put(
        self,
        *,
        run_id: str,
        project: str,
        sources: Mapping[str, SourceState | ApiState],
        tables: Mapping[str, TableState],
        seconds: float,
        superseded: Sequence[Superseded] = (),
    ) -> Manifest:
        """Make the batch exist, and what is derived from it: `sources` and `tables` as it found them, all others as they were.
        Now and then old batches are moved into a checkpoint then; `LakeError` says which of them is damaged. Raises `Overtaken` if another run took its number; what was landed is removed then. After any other error it stays: the
        manifest may arrive late."""
        latest, batches = self.latest, Batches(self.files)
        first_of_format = latest is not None and latest.format < FORMAT
        manifest = Manifest(
            format=FORMAT_WITH_CHECKPOINTS if checkpoints.may_be(self.batch) else FORMAT,
            batch=self.batch,
            lake=latest.lake if latest else uuid.uuid4().hex,
            run_id=run_id,
            project=project or (latest.project if latest else ""),
            previous=batches.sha256(latest.batch) if latest else None,
            folded=batches.folded(latest.batch) if latest and first_of_format else None,
            sources={**(latest.sources if latest else {}), **sources},
            seconds=round(seconds, 3),
            tables={**_carried(latest), **tables},
            superseded=(*(latest.superseded if latest else ()), *superseded),
        )
        try:
            batches.commit(manifest)
        except AlreadyExists as error:
            self.withdraw()
            raise self.overtaken() from error
        if self.marker.is_set:
            self.files.remove(self.naming.marker)
        current = Current(batches, self.connection)
        for table in manifest.changed:
            if made := self.bases.get(table):
                current.adopt(table, manifest, made)
            else:
                current.compact(table, manifest)
            reached("base kept")
        if checkpoints.is_due(self.batch):
            batches.fold()
        return manifest


def _write(parts: Sequence[duckdb.DuckDBPyRelation], path: Path) -> None:
    """Write rows, one part after the other."""
    first, *others = parts
    duck.write_csv(first, path)
    more = path.with_suffix(".more")
    for part in others:
        if duck.write_csv(part, more, headed=False):
            with path.open("ab") as target, more.open("rb") as source:
                shutil.copyfileobj(source, target, _COPIED_BYTES)
        more.unlink()


def history_of(held: TableState | None, batch: int, changes: TableChanges) -> str:
    """The digest of all files of a table so far, once a batch brought changes."""
    landed = {"rows": changes.rows, "deletions": changes.deletions}
    links = [f"{kind}:{file.sha256}" for kind, file in landed.items() if file]
    history = held.history if held else ""
    return hashlib.sha256(" ".join([history, number(batch), *links]).encode()).hexdigest()


def remove_unlisted(batches: Batches, naming: FileNames, tables: Sequence[str]) -> None:
    """Remove the files that a run landed for tables, and that the manifest of their batch, if there is one, does not list;
    the marker last."""
    files = batches.files
    listed: set[str] = set()
    if batches.is_committed(naming.batch):
        listed = {
            file.path for changes in batches.get(naming.batch).changed.values() for file in changes.files
        }
    for table in tables:
        for path in (naming.rows(table), naming.deletions(table), naming.quarantine(table)):
            if path not in listed:
                files.remove(path)
                folder, _, name = path.rpartition("/")
                files.sweep(folder, beginning=name)
    files.remove(naming.marker)


def _marked(batches: Batches, naming: FileNames) -> Sequence[str]:
    """The tables that a run's marker names; all that the lake has if it is damaged."""
    if not batches.files.exists(naming.marker):
        return ()
    try:
        told = json.loads(batches.files.read(naming.marker))["tables"]
    except (ValueError, KeyError, TypeError):
        latest = batches.latest()
        told = latest.tables if latest else ()
    return [str(table) for table in told]
