"""Files in a folder: whole or not at all by a rename, one winner by a hard link."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from etl_assets.failpoints import reached
from etl_assets.lake.files import AlreadyExists, Files, LakeError, StagedFile
from etl_assets.permissions import new_file

_UNFINISHED = ".unfinished-"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class LocalFiles(Files):
    """A folder of this machine, or one mounted on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def _resolve(self, path: str) -> Path:
        return self.root / self._inside(path)

    def names(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self._entries(folder) if _is_whole(entry))

    def sizes(self, folder: str) -> dict[str, int]:
        found = {}
        for entry in self._entries(folder):
            if _is_whole(entry):
                with suppress(FileNotFoundError):  # removed a moment ago
                    found[entry.name] = entry.stat().st_size
        return dict(sorted(found.items()))

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder, _, beginning = prefix.rpartition("/")
        inside = [entry for entry in self._entries(folder) if entry.name.startswith(beginning)]
        # As a bucket orders keys: `a.csv` comes before what is in `a`.
        for entry in sorted(inside, key=lambda entry: f"{entry.name}/" if entry.is_dir() else entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from self.walk(f"{path}/")
            elif _is_whole(entry):
                with suppress(FileNotFoundError):  # removed a moment ago
                    yield path, entry.stat().st_size

    def folders(self, folder: str) -> list[str]:
        # One that holds nothing is none, as in a bucket.
        inside = [entry.name for entry in self._entries(folder) if entry.is_dir()]
        return sorted(name for name in inside if self._entries(f"{folder}/{name}"))

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._resolve(folder)) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LakeError(
                f"can't read {self.url}/{folder}: {error.strerror}; check ETL_LAKE_URL"
            ) from error

    def read(self, path: str) -> bytes:
        try:
            return self._resolve(path).read_bytes()
        except OSError as error:
            raise LakeError(f"can't read {self.url}/{path}: {error.strerror}") from error

    def create(self, path: str, content: bytes) -> None:
        target = self._resolve(path)
        with self._explained(path):
            local = self._unfinished(target)
            try:
                local.write_bytes(content)
                reached("manifest written")
                _sync(local)
                self._link(local, target)
            except FileExistsError as error:
                raise AlreadyExists(f"{self.url}/{path} exists already") from error
            finally:
                local.unlink(missing_ok=True)
            _sync(target.parent)

    def check_that_one_wins(self) -> None:
        pass  # the kernel sees to it

    def _link(self, local: Path, target: Path) -> None:
        """Give a file its name, unless there is one of that name: a rename would take its place."""
        try:
            os.link(local, target)
        except FileExistsError:
            # Of a server whose answer got lost it is asked again, and says so of what it did itself.
            if not (target.exists() and target.samefile(local)):
                raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise LakeError(
                f"the file system of {self.url} has no hard links ({error.strerror}), by which of several writers one wins: keep the "
                "lake on one that has (ext4, XFS, APFS, NFS …; exFAT and some network shares have none), or in a bucket (ETL_LAKE_URL)"
            ) from error

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        staged = self.staging(path)
        try:
            with self._explained(path), staged.local.open("wb") as stream:
                yield stream
            staged.publish()
        finally:
            staged.discard()

    def staging(self, path: str) -> StagedFile:
        target = self._resolve(path)

        def publish(local: Path, path: str) -> None:
            target = self._resolve(path)
            with self._explained(path):
                reached("file written")
                _sync(local)
                local.replace(target)
                reached("file published")
                _sync(target.parent)

        with self._explained(path):
            return StagedFile(self._unfinished(target), path, publish)

    def local(self, path: str, *, fresh: bool = False) -> Path:
        return self._resolve(path)

    def reading(self, path: str) -> BinaryIO | None:
        try:
            return self._resolve(path).open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LakeError(f"can't read {self.url}/{path}: {error.strerror}") from error

    def remove(self, path: str) -> None:
        with self._explained(path):
            self._resolve(path).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        with suppress(OSError):  # it is not there, or holds something
            self._resolve(folder).rmdir()

    def exists(self, path: str) -> bool:
        return self._resolve(path).exists()

    def _unfinished(self, target: Path) -> Path:
        """An empty file beside the target, so that the rename stays within one file system."""
        target.parent.mkdir(parents=True, exist_ok=True)
        # No suffix: whoever reads `*.parquet` must not meet it.
        return new_file(target.parent, f"{_UNFINISHED}{target.name}-")

    def sweep(self, *folders: str, beginning: str = "", older_than_seconds: float = 0) -> None:
        for folder in folders:
            left = [*self._resolve(folder).glob(f"{_UNFINISHED}*")]
            if left and older_than_seconds:
                left = _older(left, older_than_seconds)
            for leftover in left:
                if leftover.name.startswith(f"{_UNFINISHED}{beginning}"):
                    leftover.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"can't write {self.url}/{path}: {error.strerror}; see that the lake (ETL_LAKE_URL) can be written "
                "by this user and has room"
            ) from error


def _older(files: list[Path], seconds: float) -> list[Path]:
    """Those of a folder's files that are older, by the clock of the file system: it is common to all machines that mount it,
    while this one's own may be wrong, and another one's file would be removed while it is written."""
    found = []
    with suppress(OSError), tempfile.TemporaryFile(dir=files[0].parent) as probe:
        now = os.fstat(probe.fileno()).st_mtime
        for file in files:
            with suppress(FileNotFoundError):
                if file.stat().st_mtime <= now - seconds:
                    found.append(file)
    return found


def _is_whole(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a file that was finished."""
    return entry.is_file() and not entry.name.startswith(_UNFINISHED)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
