"""What the lake's star holds: the manifest of the star, and the Parquet files that it lists.

    star/batches/<batch>.json             which files make every table, whole; a further edition of a batch has -2, -3, …
    star/<table>/<batch>-<token>.parquet  of a dimension all members, of a fact the versions that a batch brought, or that
                                          many did, up to that one (see `merging`)

A file that the newest manifest does not list does not exist. So all tables are switched at once, by one put, and a reader
never sees one table of now beside another of before. Every file is listed with its size and checksum: the star is derived,
and what is not as listed is not believed, but made again.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from etl_assets.lake.batches import Batches
from etl_assets.lake.checksum import checksum
from etl_assets.lake.files import AlreadyExists, Files, LakeError, StagedFile
from etl_assets.lake.holding import Held, all_held, holding
from etl_assets.lake.names import folder_of, number
from etl_assets.lake.seal import is_intact, sealed
from etl_assets.star.schema import Fact, StarTable

STAR = "star"
FOLDER = f"{STAR}/batches"
BASELINES = f"{STAR}/baselines"
TRIALS = "current/trials"
FORMAT = 3
_OF_ONE_BATCH = 2
"""The format of manifests that list no file of several batches: older versions read it."""
NO_TABLES = {"baselines", "batches"}
"""Folders of the star that hold no rows."""
_EDITION = re.compile(r"([0-9]+)(?:-([0-9]+))?\.json")
_AGAIN = 5
# The content of a table's files is looked through for damage at every run if there is not more of it than this.
_READ_BYTES = 256 << 20
_ABANDONED_SECONDS = 86_400
_MANIFESTS = 20
"""So many of the newest manifests are kept, for a lake that is set back by some batches."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StarFile(_Value):
    """A file of a table. `version` identifies the code and the data it was made from, `batch` the newest of them. One of a
    fact that holds what several batches brought, `batches` in number, names the oldest of them as `since`."""

    path: str
    version: str
    batch: int
    rows: int
    bytes: int
    checksum: str
    since: int | None = None
    batches: int = 1

    @property
    def first(self) -> int:
        """The oldest batch that brought what the file holds."""
        return self.since or self.batch


class TableFiles(_Value):
    """The files that make a table: of a dimension one, of a fact what batches brought, oldest first."""

    kind: Literal["dimension", "fact"]
    files: tuple[StarFile, ...]


class StarManifest(_Value):
    """All tables of the star at once. `raw` is the SHA-256 of the manifest of `batch`, the newest that went into it;
    `previous` that of the star's manifest before this one. Several editions of one batch differ in code, or in which
    tables were made."""

    format: int
    batch: int
    edition: int
    raw: str
    previous: str | None
    tables: dict[str, TableFiles]

    @property
    def path(self) -> str:
        return manifest_path(self.batch, self.edition)


def manifest_path(batch: int, edition: int) -> str:
    """The path of a manifest of the star; a batch may have several editions."""
    return f"{FOLDER}/{number(batch)}{f'-{edition}' if edition > 1 else ''}.json"


class StarFiles:
    """The star's files of a lake, as its newest manifest lists them. `decided_in`: the lake that says from which batch on
    each table is made, where that is another one."""

    def __init__(self, files: Files, batches: Batches, decided_in: Files | None = None) -> None:
        self.files = files
        self.batches = batches
        self.decided_in = decided_in or files
        self.damaged: dict[str, str] = {}
        """Tables with a file that is not as listed, and what is wrong with it."""
        self._baselines: dict[str, int | None] = {}
        self._sizes: dict[str, Mapping[str, int]] = {}
        self._checked: set[str] = set()

    # -- the manifest --------------------------------------------------------------------------------------------

    @cached_property
    def manifest(self) -> StarManifest | None:
        """The newest manifest that can be believed; None if there is none: then everything is made again."""
        return self._newest()[0]

    def _newest(self) -> tuple[StarManifest | None, str | None]:
        """The newest manifest that can be read, and was made from a batch as it is now (the lake may have been set back),
        with its SHA-256. Its files are there still: those of the manifest before the newest are kept."""
        for place in reversed(self._places()):
            if found := self._believable(place):
                return found
        return None, None

    def _believable(self, place: tuple[int, int]) -> tuple[StarManifest, str] | None:
        """The manifest of a batch and edition, with its SHA-256; None if it is damaged, or of a batch that is gone."""
        if not self.batches.is_committed(place[0]):
            return None
        path = manifest_path(*place)
        content = self.files.read(path)
        found = self._parsed(content, path)
        if found is None or found.raw != self.batches.sha256(found.batch):
            return None
        return found, hashlib.sha256(content).hexdigest()

    def _read(self, path: str) -> StarManifest | None:
        return self._parsed(self.files.read(path), path)

    def _places(self) -> list[tuple[int, int]]:
        """The batches and editions of which there is a manifest, in order."""
        listed = [told for name in self.files.names(FOLDER) if (told := _EDITION.fullmatch(name))]
        return sorted((int(told[1]), int(told[2] or 1)) for told in listed)

    def _parsed(self, content: bytes, path: str) -> StarManifest | None:
        try:
            told = json.loads(content)
            made_by = told["format"]
        except (ValueError, KeyError, TypeError):
            return None
        if isinstance(made_by, int) and made_by > FORMAT:
            raise LakeError(
                f"{self.files.url}/{path} was made by a newer version of etl-assets (format {made_by}, this version reads "
                f"up to {FORMAT}): upgrade this one; nothing is damaged"
            )
        told.pop("seal", None)
        try:
            return StarManifest.model_validate(told) if is_intact(content) else None
        except ValidationError:
            return None

    def table(self, name: str) -> TableFiles | None:
        """The files of a table; None if there are none."""
        return self.manifest.tables.get(name) if self.manifest else None

    def publish(self, changes: Mapping[str, TableFiles | None], batch: int) -> None:
        """Show other files of some tables (None: none any more), all at once, as of a batch. A table that another run
        published meanwhile, of the same batch or a later one, stays as that run made it."""
        before = {name: self.manifest.tables.get(name) if self.manifest else None for name in changes}
        for _ in range(_AGAIN):
            newest, digest = self._newest()
            tables = dict(newest.tables) if newest else {}
            if not self._places():
                self._remove_older_layout()
            for name, files in changes.items():
                if tables.get(name) != before[name] and newest and newest.batch >= batch:
                    continue
                if files is None:
                    tables.pop(name, None)
                else:
                    tables[name] = files
            if newest and tables == newest.tables:
                self._remove_later(newest)
                break
            if newest is None and not tables:
                break
            shown = max(newest.batch, batch) if newest else batch
            editions = [edition for place, edition in self._places() if place == shown]
            several = any(file.since for table in tables.values() for file in table.files)
            manifest = StarManifest(
                format=FORMAT if several else _OF_ONE_BATCH,
                batch=shown,
                edition=max(editions, default=0) + 1,
                raw=self.batches.sha256(shown),
                previous=digest,
                tables=tables,
            )
            try:
                self.files.create(
                    manifest.path, sealed(manifest.model_dump_json(exclude_defaults=True).encode())
                )
            except AlreadyExists:
                continue
            self._tidy(newest, manifest)
            break
        else:
            raise LakeError(f"the star of {self.files.url} is being published by other runs; run it again")
        self.reread()

    def history(self) -> Iterator[StarManifest]:
        """The manifests that are kept and can be believed, newest first."""
        for place in reversed(self._places()):
            if found := self._believable(place):
                yield found[0]

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Look at what is published now, and keep it for as long as the block lasts, whatever runs publish meanwhile."""

        def newest() -> Held:
            self.reread()
            return Held(self.batches.newest() or 0, self.manifest.path if self.manifest else None)

        with holding(self.files, newest) as held:
            yield held

    @contextmanager
    def unless_overtaken(self) -> Iterator[None]:
        """What fails in the block since other runs removed files meanwhile ends as a `LakeError` that says so."""
        try:
            yield
        except Exception:
            self.check_not_overtaken()
            raise

    def check_not_overtaken(self) -> None:
        """Raises `LakeError` if other runs published meanwhile and removed files that this one reads. Those of the manifest
        before the newest are kept, so it happens to a run that was suspended, or slow, while two others ended."""
        newest, _ = self._newest()
        if newest is None or self.manifest is None or newest.path == self.manifest.path:
            return
        if not all(
            self.files.exists(file.path) for table in self.manifest.tables.values() for file in table.files
        ):
            raise LakeError(
                f"other runs brought the star of {self.files.url} to batch {number(newest.batch)} while this one was at it, and "
                "removed files that it read: run it again"
            )

    def reread(self) -> None:
        """Look again at what is published."""
        for name in ("manifest", "_by_path"):
            self.__dict__.pop(name, None)
        self._sizes.clear()

    def _tidy(self, before: StarManifest | None, now: StarManifest) -> None:
        """Remove what neither the newest manifest lists nor the one before it, of tables that were changed: files of
        killed runs, of manifests that nobody reads any more; and manifests that would pass for newer ones, or are old.
        What a verification is at stays."""
        self._remove_later(now)
        held = {one.star for one in all_held(self.files) if one.star}
        for place in self._places()[:-_MANIFESTS]:
            if manifest_path(*place) not in held:
                self.files.remove(manifest_path(*place))
        read = [found for path in held if self.files.exists(path) if (found := self._read(path))]
        folders = []
        for name, files in now.tables.items():
            was = before.tables.get(name) if before else None
            if was == files:
                continue
            kept = (was, files, *(one.tables.get(name) for one in read))
            listed = {file.path for one in kept if one for file in one.files}
            folder = f"{STAR}/{folder_of(name)}"
            for entry in self.files.names(folder):
                batch = re.match(r"([0-9]+)[-.]", entry)
                if f"{folder}/{entry}" not in listed and batch and int(batch[1]) < now.batch:
                    self.files.remove(f"{folder}/{entry}")
            folders.append(folder)
        if folders:
            self.files.sweep(*folders, older_than_seconds=_ABANDONED_SECONDS)

    def _remove_older_layout(self) -> None:
        """Remove the rows of a star that had no manifest, but one file per dimension and one per fact and batch: before
        the first manifest is there, so that what an interrupted removal left is found again."""
        for name in self.files.names(STAR):
            if name.endswith(".parquet"):
                self.files.remove(f"{STAR}/{name}")
        for folder in self.files.folders(STAR):
            for name in self.files.names(f"{STAR}/{folder}"):
                if folder not in NO_TABLES and re.fullmatch(r"[0-9]+\.parquet", name):
                    self.files.remove(f"{STAR}/{folder}/{name}")

    def _remove_later(self, now: StarManifest) -> None:
        """Remove manifests that would pass for newer ones: damaged, or of a batch that is gone."""
        for place in self._places():
            if place > (now.batch, now.edition) and self._believable(place) is None:
                self.files.remove(manifest_path(*place))

    # -- files ---------------------------------------------------------------------------------------------------

    def staging(self, table: str, batch: int) -> StagedFile:
        """A file in the making, under a name that no other run can write. `batch`: up to which the run brings the star, whatever
        the file holds. A run that publishes removes files of lower ones, and what a run to a higher one has made stays."""
        return self.files.staging(f"{STAR}/{folder_of(table)}/{number(batch)}-{secrets.token_hex(6)}.parquet")

    def dimension(self, name: str) -> StarFile | None:
        """The file of a dimension, None if there is none that can be believed."""
        found = self.table(name)
        return found.files[-1] if found and found.kind == "dimension" and self._sound(name, found) else None

    def fact_files(self, name: str) -> Sequence[StarFile]:
        """The files of a fact, in the order of its batches; none if one of them can't be believed."""
        found = self.table(name)
        return found.files if found and found.kind == "fact" and self._sound(name, found) else ()

    def fact(self, name: str, batch: int) -> StarFile | None:
        """The file of a fact with what a batch brought; None if it brought nothing."""
        found = self.table(name)
        return next((f for f in found.files if f.first <= batch <= f.batch), None) if found else None

    def shown(self, table: StarTable) -> StarFile | None:
        """The file that says where a table stands: that of a dimension, of a fact the newest; None if there is none, or
        one of them can't be believed."""
        found = self.table(table.name)
        if found is None or found.kind != kind_of(table) or not self._sound(table.name, found):
            return None
        return found.files[-1]

    def paths(self, table: StarTable) -> list[str]:
        """All files of a table, in the order of its batches."""
        found = self.table(table.name)
        return [file.path for file in found.files] if found and found.kind == kind_of(table) else []

    def paths_of_any(self, name: str) -> list[str]:
        """The same for who does not know what a table is declared as."""
        found = self.table(name)
        return [file.path for file in found.files] if found else []

    def local(self, path: str) -> Path:
        """A file to be read by an engine. Raises `LakeError` if it is not as listed."""
        name, file = self._by_path.get(path, ("", None))
        if file and not self._believed(name, file):
            raise LakeError(f"{self.files.url}/{self.damaged[name]}: run etl run, which makes it again")
        return self.files.local(path)

    @cached_property
    def _by_path(self) -> Mapping[str, tuple[str, StarFile]]:
        tables = self.manifest.tables if self.manifest else {}
        return {file.path: (name, file) for name, table in tables.items() for file in table.files}

    def check(self, name: str) -> str | None:
        """What is wrong with the files of a table, None if nothing is. Content is read unless it is very much; then only
        that is found which is lost or cut, until the content is needed."""
        found = self.table(name)
        if found and self._sound(name, found) and sum(file.bytes for file in found.files) <= _READ_BYTES:
            all(self._believed(name, file) for file in found.files)
        return self.damaged.get(name)

    def _sound(self, name: str, table: TableFiles) -> bool:
        """Whether all files of a table are there, with as many bytes as listed."""
        if name in self.damaged:
            return False
        for file in table.files:
            folder, _, entry = file.path.rpartition("/")
            if folder not in self._sizes:
                self._sizes[folder] = self.files.sizes(folder)
            size = self._sizes[folder].get(entry)
            if size != file.bytes:
                told = (
                    "is not there" if size is None else f"has {size:,} bytes and should have {file.bytes:,}"
                )
                self.damaged[name] = f"{file.path} {told}"
                return False
        return True

    def _believed(self, name: str, file: StarFile) -> bool:
        """Whether a file's content is as listed."""
        if name in self.damaged:
            return False
        if file.path not in self._checked:
            try:
                same = checksum(self.files.local(file.path)) == file.checksum
            except (OSError, LakeError):
                same = False
            if not same:
                self.damaged[name] = f"{file.path} is damaged (its checksum differs)"
                return False
            self._checked.add(file.path)
        return True

    # -- baselines -----------------------------------------------------------------------------------------------

    def baseline(self, name: str) -> int | None:
        """The batch from which on a table is made, if that was decided not to be the first one."""
        if name not in self._baselines:
            path = baseline_path(name)
            self._baselines[name] = self._begins_at(name, path) if self.decided_in.exists(path) else None
        return self._baselines[name]

    def _begins_at(self, name: str, path: str) -> int:
        content = self.decided_in.read(path)
        try:
            kept = json.loads(content)["batch"] if is_intact(content) else None
        except (ValueError, KeyError, TypeError):
            kept = None
        if not isinstance(kept, int):
            raise LakeError(
                f"{self.decided_in.url}/{path} is damaged; restore the file from a backup, or decide again from which batch on "
                f"{name} is made: etl run --from-now {name}"
            )
        return kept

    def begin_at(self, name: str, batch: int) -> None:
        """Decide that a table is made from a batch on, now and whenever it is made again."""
        with self.files.writing(baseline_path(name)) as stream:
            stream.write(sealed(json.dumps({"batch": batch}).encode()))
        self._baselines[name] = batch


def listed(path: str, local: Path, version: str, batch: int, rows: int) -> StarFile:
    """A file as the manifest lists it."""
    return StarFile(
        path=path,
        version=version,
        batch=batch,
        rows=rows,
        bytes=local.stat().st_size,
        checksum=checksum(local),
    )


def kind_of(table: StarTable) -> Literal["dimension", "fact"]:
    """What files a table has: one, or one per batch."""
    return "fact" if isinstance(table, Fact) else "dimension"


def with_files(table: StarTable, files: Iterable[StarFile]) -> TableFiles:
    """A table with its files, as a manifest of the star lists them."""
    return TableFiles(kind=kind_of(table), files=tuple(files))


def baseline_path(name: str) -> str:
    """Where it is noted at which batch a table begins."""
    return f"{BASELINES}/{folder_of(name)}.json"


def trial_path(name: str) -> str:
    """Where it is noted how a function was tried."""
    return f"{TRIALS}/{folder_of(name)}.json"
