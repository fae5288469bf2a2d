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
from collections.abc import Iterator, Mapping

from etl_assets.failpoints import reached
from etl_assets.lake.checkpoints import Checkpoints
from etl_assets.lake.files import AlreadyExists, Files, LakeError
from etl_assets.lake.manifest import FORMAT, LandedFile, Manifest, Superseded, parsed
from etl_assets.lake.names import FOLDER, batch_of, is_of, manifest_path, number
from etl_assets.lake.seal import is_intact, sealed

_NEWEST = f"{FOLDER}/newest"
_ASKED = 64
"""So many batches after the one that is noted are asked for one by one; were there more, all are listed."""


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
            manifest = parsed(content, f"{self.files.url}/{path}")
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
