"""Checkpoints: what lay beside old batches, many of them in one file, byte for byte.

A manifest a batch is half a million files a year, and each is nearly the one before. So those of long ago are kept as
`raw/batches/checkpoints/000001-000500.tar.xz`, an archive that any `tar` unpacks, with their certificates. Nothing is lost by
that: a manifest still names the hash of the one before it, and is read as if it lay where it was. A checkpoint is written, and
read back, before anything that it holds is removed; a number that it covers is taken for good.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from lzma import LZMAError

from etl_assets.lake.files import AlreadyExists, Files, LakeError
from etl_assets.lake.seal import is_intact

_NAME = re.compile(r"([0-9]+)-([0-9]+)\.tar\.xz")
_OF_A_BATCH = re.compile(r"([0-9]+)(?:\.[a-z]+)?\.json")
AT_ONCE = 500
"""So many batches are in a checkpoint, or fewer that make `_BYTES`."""
KEPT = 1000
"""So many of the newest batches stay as they are: they are asked for one by one."""
_BYTES = 64 << 20


def is_due(batch: int) -> bool:
    """Whether the run that commits a batch moves old ones into checkpoints."""
    return may_be(batch) and batch % AT_ONCE == 0


def may_be(batch: int) -> bool:
    """Whether a lake with so many batches may have checkpoints, which older versions of etl-assets do not know."""
    return batch >= KEPT + AT_ONCE


class Checkpoints:
    """What is kept of old batches in the folder of the manifests."""

    def __init__(self, files: Files, folder: str) -> None:
        self.files = files
        self.folder = folder
        self._known: tuple[range, ...] = ()
        self._open: tuple[range, Mapping[str, bytes]] | None = None

    def ranges(self) -> tuple[range, ...]:
        """The batches that each checkpoint covers, oldest first, as the lake says now."""
        found = [_NAME.fullmatch(name) for name in self.files.names(self._below)]
        covered = [range(int(told[1]), int(told[2]) + 1) for told in found if told]
        self._known = tuple(sorted(covered, key=lambda one: one.start))
        return self._known

    def covering(self, batch: int) -> range | None:
        """The batches of the checkpoint that a batch is in; None if it is in none."""

        def found() -> range | None:
            return next((covered for covered in self._known if batch in covered), None)

        return found() or (found() if self.ranges() else None)

    def read(self, name: str) -> bytes | None:
        """What lay beside the manifests under a name that begins with the number of its batch; None if no checkpoint has it.
        Raises `LakeError` if the checkpoint can't be read."""
        told = _OF_A_BATCH.fullmatch(name)
        covered = self.covering(int(told[1])) if told else None
        if covered is None:
            return None
        if self._open is None or self._open[0] != covered:
            self._open = covered, self._unpacked(covered)
        return self._open[1].get(name)

    def content(self, path: str) -> bytes:
        """What lies at a path, or lay there before a checkpoint took it. Raises `LakeError` if nothing did."""
        try:
            return self.files.read(path)
        except LakeError:
            if self.files.exists(path) or (kept := self.read(path.rpartition("/")[2])) is None:
                raise
            return kept

    def fold(self, newest: int) -> None:
        """Move all but the newest batches into checkpoints. Raises `LakeError` if a manifest is missing, damaged or does not
        follow the one before; then it stays where it is, and all after it."""
        there, ranges = _by_batch(self.files.names(self.folder)), self.ranges()
        self._clear(there)
        begin, before = (ranges[-1].stop, self._sha256(ranges[-1].stop - 1)) if ranges else (1, None)
        while begin + AT_ONCE - 1 <= newest - KEPT:
            covered, content, before = self._gathered(range(begin, begin + AT_ONCE), there, before)
            packed = _packed(content)
            try:
                self.files.create(self._path(covered), packed)
            except AlreadyExists:
                return  # another run folds the same
            if self._unpacked(covered) != content:
                raise LakeError(
                    f"{self.files.url}/{self._path(covered)} is not what was written: nothing was removed"
                )
            self._remove(content)
            begin = covered.stop

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _below(self) -> str:
        return f"{self.folder}/checkpoints"

    def _path(self, covered: range) -> str:
        return f"{self._below}/{covered.start:06d}-{covered.stop - 1:06d}.tar.xz"

    def _sha256(self, batch: int) -> str:
        content = self.read(f"{batch:06d}.json")
        return hashlib.sha256(content or b"").hexdigest()

    def _gathered(
        self, wanted: range, there: Mapping[int, Sequence[str]], before: str | None
    ) -> tuple[range, dict[str, bytes], str | None]:
        """What lies beside some batches, of as many as may be in one file; and the hash of the last manifest."""
        content: dict[str, bytes] = {}
        size = 0
        batch = wanted.start
        for batch in wanted:
            manifest = f"{batch:06d}.json"
            for name in {manifest, *there.get(batch, ())}:
                content[name] = self.files.read(f"{self.folder}/{name}")
                size += len(content[name])
            self._follows(manifest, content[manifest], before)
            before = hashlib.sha256(content[manifest]).hexdigest()
            if size > _BYTES:
                break
        return range(wanted.start, batch + 1), content, before

    def _follows(self, name: str, content: bytes, before: str | None) -> None:
        """Whether a manifest is whole and names the one before it. Raises `LakeError` if not."""
        told = json.loads(content) if is_intact(content) else None
        # Those of format 1 named none.
        if told is None or (before and told.get("previous") not in {None, before}):
            raise LakeError(
                f"{self.files.url}/{self.folder}/{name} is damaged, or not the one after its predecessor; restore it from a backup"
            )

    def _unpacked(self, covered: range) -> dict[str, bytes]:
        path = self._path(covered)
        try:
            with tarfile.open(fileobj=io.BytesIO(self.files.read(path)), mode="r:xz") as archive:
                members = [
                    (member.name, archive.extractfile(member)) for member in archive if member.isfile()
                ]
                return {name: stream.read() for name, stream in members if stream}
        except (tarfile.TarError, LZMAError, EOFError, OSError) as error:
            raise LakeError(f"{self.files.url}/{path} is damaged; restore the file from a backup") from error

    def _clear(self, there: Mapping[int, Sequence[str]]) -> None:
        """Remove what a run that was killed left beside the checkpoint that holds it."""
        for batch, names in there.items():
            if any(batch in covered for covered in self._known):
                self._remove({name: self.read(name) or b"" for name in names})

    def _remove(self, content: Mapping[str, bytes]) -> None:
        """Remove files that are what a checkpoint holds. Another content is evidence of something, and stays."""
        for name, held in content.items():
            path = f"{self.folder}/{name}"
            if self.files.exists(path) and self.files.read(path) == held:
                self.files.remove(path)


def _by_batch(names: Sequence[str]) -> dict[int, list[str]]:
    """The names of files that lie beside each batch, its manifest among them."""
    found: dict[int, list[str]] = {}
    for name in names:
        if told := _OF_A_BATCH.fullmatch(name):
            found.setdefault(int(told[1]), []).append(name)
    return found


def _packed(content: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, held in _in_order(content):
            member = tarfile.TarInfo(name)
            member.size = len(held)
            archive.addfile(member, io.BytesIO(held))
    return packed.getvalue()


def _in_order(content: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Those of a kind together: each is nearly the one before."""
    for name in sorted(content, key=lambda name: (name.partition(".")[2], name)):
        yield name, content[name]
