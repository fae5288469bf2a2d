"""Files by URL, with the two promises everything else rests on: a file is visible whole or not at all, and of
several writers that create the same path one wins.
"""

import io
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from etl_assets.errors import EtlError
from etl_assets.failpoints import reached

BUFFER_BYTES = 1 << 20
_UNFINISHED = ".unfinished-"


class LakeError(EtlError):
    """A file of the lake can't be read or written."""


class AlreadyExists(LakeError):
    """Another writer was first."""


class _Sink(io.RawIOBase):
    """Hands on what a buffered writer collects, in blocks of `BUFFER_BYTES`."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, block: object) -> int:
        view = memoryview(block)  # type: ignore[arg-type]
        self._write(view)
        return view.nbytes


def buffered(write: Callable[[memoryview], object]) -> io.BufferedWriter:
    """A writer for producers that write a row at a time (COPY does): `write` gets whole blocks."""
    return io.BufferedWriter(_Sink(write), BUFFER_BYTES)


class Files(ABC):
    """A folder or bucket. Paths are relative, with `/` between the parts."""

    url: str

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The names of the files directly in `folder`, sorted; none if there is no such folder."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The content of a file. Raises `LakeError` if there is none."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> None:
        """Write a new file, durably. Raises `AlreadyExists` if the path is taken, whoever took it."""

    @abstractmethod
    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A stream whose content becomes the file when the block ends well, and vanishes when it does not."""

    @abstractmethod
    def staging(self, path: str) -> "StagedFile":
        """A local file for an engine to write, published to `path` later in one step."""

    @abstractmethod
    def local(self, path: str) -> Path:
        """A local file with the content of `path`, for engines that read files."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def sweep(self, folder: str, older_than_seconds: float = 0) -> None:
        """Remove what killed writers left in a folder. At any age only for who alone writes there."""


class StagedFile:
    """A file in the making. `publish` shows it whole; `discard` forgets it."""

    def __init__(self, local: Path, publish: Callable[[Path], None]) -> None:
        self.local = local
        self._publish = publish

    def publish(self) -> None:
        self._publish(self.local)

    def discard(self) -> None:
        self.local.unlink(missing_ok=True)


class LocalFiles(Files):
    """A folder of this machine, or one mounted on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def _resolve(self, path: str) -> Path:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise LakeError(f"{path!r} does not lie in the lake {self.url}")
        return self.root / pure

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._resolve(folder)) as entries:
                return sorted(e.name for e in entries if e.is_file() and not e.name.startswith(_UNFINISHED))
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
                os.link(local, target)  # fails when the target exists, unlike a rename
            except FileExistsError as error:
                raise AlreadyExists(f"{self.url}/{path} exists already") from error
            finally:
                local.unlink(missing_ok=True)
            _sync(target.parent)

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

        def publish(local: Path) -> None:
            with self._explained(path):
                reached("file written")
                _sync(local)
                local.replace(target)
                reached("file published")
                _sync(target.parent)

        with self._explained(path):
            return StagedFile(self._unfinished(target), publish)

    def local(self, path: str) -> Path:
        return self._resolve(path)

    def remove(self, path: str) -> None:
        with self._explained(path):
            self._resolve(path).unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        return self._resolve(path).exists()

    def _unfinished(self, target: Path) -> Path:
        """An empty file beside the target, so that the rename stays within one file system."""
        target.parent.mkdir(parents=True, exist_ok=True)
        # No suffix: whoever reads `*.parquet` must not meet it.
        handle, name = tempfile.mkstemp(prefix=f"{_UNFINISHED}{target.name}-", dir=target.parent)
        os.fchmod(handle, 0o644)
        os.close(handle)
        return Path(name)

    def sweep(self, folder: str, older_than_seconds: float = 0) -> None:
        before = time.time() - older_than_seconds
        for leftover in self._resolve(folder).glob(f"{_UNFINISHED}*"):
            with suppress(FileNotFoundError):
                if leftover.stat().st_mtime <= before:
                    leftover.unlink()

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"can't write {self.url}/{path}: {error.strerror}; see that the lake (ETL_LAKE_URL) can be written "
                "by this user and has room"
            ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_files(url: str) -> Files:
    """The files under a URL: a folder (`data/lake`, `file:///srv/lake`)."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalFiles(Path(url).absolute())
    if scheme == "file":
        return LocalFiles(Path(rest).absolute())
    raise LakeError(f"ETL_LAKE_URL: no lake can be kept at {scheme}://; use a folder")
