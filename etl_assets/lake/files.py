"""Files by URL, with the two promises everything else rests on: a file is visible whole or not at all, and of
several writers that create the same path one wins.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from etl_assets import addresses
from etl_assets.errors import EtlError

BUFFER_BYTES = 1 << 20


class LakeError(EtlError):
    """A file of the lake can't be read or written."""


class AlreadyExists(LakeError):
    """Another writer was first."""


def two_may_win(url: str) -> str:
    """What is wrong with a place where of several writers who create a file each is told that it won."""
    return (
        f"{url} lets two writers create the same file: no lake can be kept there (ETL_LAKE_URL). A service that speaks S3 must obey "
        "If-None-Match when it is given an object"
    )


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
    def sizes(self, folder: str) -> dict[str, int]:
        """The same files, with the bytes of each."""

    @abstractmethod
    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The paths of all files that begin with `prefix`, however deep they lie, in order, with the bytes of each."""

    @abstractmethod
    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in `folder` that hold something, sorted; as `names` otherwise."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The content of a file. Raises `LakeError` if there is none."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> None:
        """Write a new file, durably. Raises `AlreadyExists` if the path is taken, whoever took it."""

    @abstractmethod
    def check_that_one_wins(self) -> None:
        """Raise `LakeError` where of several writers who `create` a file more than one may be told that it won."""

    @abstractmethod
    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A stream whose content becomes the file when the block ends well, and vanishes when it does not."""

    @abstractmethod
    def staging(self, path: str) -> "StagedFile":
        """A local file for an engine to write, published to `path` later in one step."""

    @abstractmethod
    def local(self, path: str, *, fresh: bool = False) -> Path:
        """A local file with the content of `path`, for engines that read files. Of a landed file, which does not
        change once a manifest lists it, this may be a copy that was made earlier; with `fresh` it is asked after."""

    @abstractmethod
    def reading(self, path: str) -> BinaryIO | None:
        """A stream to seek in, for who wants little of a file that may be large; None if there is no such file."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Remove a folder, unless it holds something. For who alone writes there."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is a file at a path."""

    @abstractmethod
    def sweep(self, *folders: str, beginning: str = "", older_than_seconds: float = 0) -> None:
        """Remove what killed writers left in folders of files whose names have a certain beginning. At any age only for
        who alone writes these."""

    def _inside(self, path: str) -> PurePosixPath:
        """A path that lies below the URL. Raises `LakeError` for all others."""
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise LakeError(f"{path!r} does not lie in the lake {self.url}")
        return pure


class StagedFile:
    """A file in the making. `publish` shows it whole; `discard` forgets it."""

    def __init__(self, local: Path, path: str, publish: Callable[[Path, str], None]) -> None:
        self.local = local
        self.path = path
        self._publish = publish

    def publish(self, path: str | None = None) -> None:
        """Show the file; under another name in the same folder, where that depends on the content."""
        self.path = path or self.path
        self._publish(self.local, self.path)

    def discard(self) -> None:
        """Remove what was staged, if it was not published."""
        self.local.unlink(missing_ok=True)


def parts(url: str) -> tuple[str, str]:
    """`s3`, `gs` or `file`, and what stands behind it. Raises `LakeError` for what is more than a place, which it does not
    repeat: it may hold a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "file", url
    if scheme not in {"s3", "gs", "file"}:
        raise LakeError(
            f"ETL_LAKE_URL: no lake can be kept at {addresses.scheme(url)}://; use a folder, s3://bucket/prefix or "
            "gs://bucket/prefix"
        )
    first = rest.partition("/")[0]
    if set(first) & set("@:") or (scheme != "file" and set(rest) & set("?#")):
        raise LakeError(
            "ETL_LAKE_URL has more than a folder, or a bucket and a prefix: credentials and endpoints are found as the "
            "service's own tools find them (docs/lakes.md)"
        )
    return scheme, rest
