"""Files in a bucket: what S3 and GCS have in common.

An object appears whole with its last request, so a file is visible whole or not at all; of several writers that
create the same object, the service lets one win. Here is what makes that hold when requests fail: each is repeated
a bounded number of times, after waits of random length, and where the answer of one got lost, the bucket is asked
what became of it.
"""

import io
import math
import os
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_random_exponential

from etl_assets import addresses
from etl_assets.failpoints import reached
from etl_assets.lake.cache import Cache
from etl_assets.lake.files import AlreadyExists, Files, LakeError, StagedFile, two_may_win

T = TypeVar("T")

BLOCK_BYTES = 8 << 20
_MOMENT_SECONDS = 10
# S3 takes 10,000 parts, so they grow: by 8 MiB after every 1,000, which allows for 400 GiB in one file.
_GROWS_AFTER = 1_000


@dataclass(frozen=True)
class Patience:
    """How long a request is tried: no attempt begins later than `seconds` after the first one."""

    attempts: int = 8
    seconds: float = 120
    first_wait_seconds: float = 0.25
    longest_wait_seconds: float = 20
    connect_seconds: float = 10
    answer_seconds: float = 60


PATIENCE = Patience()


@dataclass(frozen=True)
class StoredObject:
    """An object as it is now; another content has another version."""

    version: str
    bytes: int


@dataclass(frozen=True)
class ListingPage:
    """Part of what follows a prefix: objects by key, folders by prefix, and what to ask for the next page."""

    objects: dict[str, StoredObject]
    folders: Sequence[str]
    token: str | None


@dataclass(frozen=True)
class Unfinished:
    """An upload that was begun and neither finished nor aborted."""

    key: str
    begun: datetime
    abort: Callable[[], None]


class ObjectExists(Exception):
    """There is an object of that key."""


class ObjectChanged(Exception):
    """The version that was asked for is there no longer."""


class ObjectUpload(ABC):
    """An object in the making. Every method may be called again after it failed."""

    @abstractmethod
    def send(self, block: bytes) -> None:
        """Send one part of an upload."""

    @abstractmethod
    def finish(self, block: bytes) -> StoredObject:
        """Send the last block, which holds a byte at least, and make the object visible."""

    @abstractmethod
    def abort(self) -> None:
        """Give up an upload: nothing of it stays."""


class Bucket(ABC):
    """The requests that are made of a bucket, none of them repeated here. Keys are full names of objects."""

    url: str
    errors: tuple[type[Exception], ...]
    """What a request may raise when it fails."""

    @abstractmethod
    def page(self, prefix: str, token: str | None, delimiter: str = "/") -> ListingPage:
        """Some of the keys, with their objects, that follow `prefix` with no further delimiter, and some of what others
        begin with up to there."""

    @abstractmethod
    def find(self, key: str) -> StoredObject | None:
        """What is known of an object; None if there is none."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The content of an object; None if there is none."""

    @abstractmethod
    def get_range(self, key: str, version: str, start: int, length: int) -> bytes:
        """Bytes of an object that has this version. Raises `ObjectChanged` if it has not."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> None:
        """Raises `ObjectExists` if there is an object already."""

    @abstractmethod
    def put(self, key: str, content: bytes) -> StoredObject:
        """Make an object of some bytes, in the place of one that there may be."""

    @abstractmethod
    def upload(self, key: str) -> ObjectUpload:
        """Begin an object that is sent in parts."""

    @abstractmethod
    def unfinished(self, prefix: str) -> list[Unfinished]:
        """The uploads that killed writers left, of keys with a prefix."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; that there is none is no error."""

    @abstractmethod
    def passes(self, error: BaseException) -> bool:
        """Whether an error may be gone the next time."""

    @abstractmethod
    def reason(self, error: Exception) -> str:
        """What went wrong and what to do about it, in one line without a secret."""


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """The parts of `s3://bucket/prefix`."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", bucket):
        raise LakeError(
            f"ETL_LAKE_URL: {addresses.bucket(url)} names no bucket; write {scheme}://bucket/prefix"
        )
    if prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
        raise LakeError(
            f"ETL_LAKE_URL: {addresses.bucket(url)} has an empty part, or one of dots; write {scheme}://bucket/prefix"
        )
    return bucket, prefix


class ObjectFiles(Files):
    """The objects of a bucket below a prefix."""

    def __init__(self, bucket: Bucket, prefix: str, cache: Path, patience: Patience) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"{bucket.url}/{prefix}".rstrip("/")
        self.patience = patience
        self.cache = Cache(cache, self.url)
        self._listed: dict[str, tuple[float, StoredObject]] = {}

    def names(self, folder: str) -> list[str]:
        return list(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        prefix, asked = f"{self._key(folder)}/", time.monotonic()
        found: dict[str, StoredObject] = {}
        for page in self._pages(folder):
            found |= page.objects
        found.pop(prefix, None)  # some tools mark a folder by an object whose name ends there
        self._listed |= {key: (asked, stored) for key, stored in found.items()}
        return {key.removeprefix(prefix): found[key].bytes for key in sorted(found)}

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        start, token = f"{self.prefix}{prefix}", None
        while True:
            page = self.ask("list", prefix, partial(self.bucket.page, start, token, ""))
            for key in sorted(page.objects):
                if not key.endswith("/"):  # some tools mark a folder by an object whose name ends there
                    yield key.removeprefix(self.prefix), page.objects[key].bytes
            token = page.token
            if token is None:
                return

    def folders(self, folder: str) -> list[str]:
        prefix = f"{self._key(folder)}/"
        inside = {
            name.removeprefix(prefix).rstrip("/") for page in self._pages(folder) for name in page.folders
        }
        return sorted(inside - {""})

    def _pages(self, folder: str) -> Iterator[ListingPage]:
        """All that lies directly in a folder."""
        prefix, token = f"{self._key(folder)}/", None
        while True:
            page = self.ask("list", folder, partial(self.bucket.page, prefix, token))
            yield page
            token = page.token
            if token is None:
                return

    def read(self, path: str) -> bytes:
        key = self._key(path)
        content = self.ask("read", path, lambda: self.bucket.get(key))
        if content is None:
            raise self._missing(path)
        return content

    def create(self, path: str, content: bytes) -> None:
        key = self._key(path)
        attempts = 0

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            self.bucket.create(key, content)

        reached("manifest written")
        try:
            self.ask("create", path, attempt)
        except ObjectExists:
            # An attempt whose answer was lost may have been ours that won. What is created names its run, so equal
            # content is ours.
            if attempts == 1 or self.read(path) != content:
                raise AlreadyExists(f"{self.url}/{path} exists already") from None

    def check_that_one_wins(self) -> None:
        name = f"doctor-{uuid.uuid4().hex}"
        key = self._key(name)
        try:
            with suppress(ObjectExists):  # an attempt whose answer was lost was the first
                self.ask("create", name, lambda: self.bucket.create(key, b"first\n"))
            with suppress(ObjectExists):
                self.ask("create", name, lambda: self.bucket.create(key, b"second\n"))
                raise LakeError(two_may_win(self.url))
        finally:
            self.remove(name)

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        stream = self._stream(path)
        try:
            yield cast(BinaryIO, stream)
            self._finish(path, stream)
        except BaseException:
            stream.give_up()
            raise

    def staging(self, path: str) -> StagedFile:
        self._inside(path)

        def publish(local: Path, path: str) -> None:
            stream = self._stream(path)
            try:
                with local.open("rb") as content:
                    while block := content.read(BLOCK_BYTES):
                        stream.write(block)
                stored = self._finish(path, stream)
            except BaseException:
                stream.give_up()
                raise
            with suppress(OSError):  # published it is; this would only spare to fetch it
                self.cache.adopt(local, path, stored.version)

        with self._room(path):
            return StagedFile(self.cache.new(path), path, publish)

    def local(self, path: str, *, fresh: bool = False) -> Path:
        self._inside(path)
        if _is_landed(path) and not fresh and (copy := self.cache.any(path)):
            return copy
        for attempt in range(self.patience.attempts):
            stored = self._just_listed(path) if attempt == 0 and not fresh else None
            stored = stored or self._find(path)
            if stored is None:
                raise self._missing(path)
            if copy := self.cache.get(path, stored.version, stored.bytes):
                return copy
            with suppress(ObjectChanged):  # replaced meanwhile: the new version then
                return self._download(path, stored)
        raise LakeError(f"can't read {self.url}/{path}: it is replaced faster than it can be read")

    def reading(self, path: str) -> BinaryIO | None:
        stored = self._find(path)
        if stored is None:
            return None
        copy = self.cache.get(path, stored.version, stored.bytes)
        return copy.open("rb") if copy else cast(BinaryIO, _Ranges(self, path, stored))

    def remove(self, path: str) -> None:
        key = self._key(path)
        self._listed.pop(key, None)
        self.ask("delete", path, lambda: self.bucket.delete(key))

    def remove_folder(self, folder: str) -> None:
        self._inside(folder)  # there is no such thing in a bucket

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def sweep(self, *folders: str, beginning: str = "", older_than_seconds: float = 0) -> None:
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        mine = {self._key(folder) for folder in folders}
        for upload in self.ask("list uploads to", "", lambda: self.bucket.unfinished(self.prefix)):
            # The bucket's clock may be ahead of ours; who alone writes there need not look at it.
            old = not older_than_seconds or upload.begun <= before
            folder, _, name = upload.key.rpartition("/")
            if old and folder in mine and name.startswith(beginning):
                self.ask("abort an upload to", upload.key.removeprefix(self.prefix), upload.abort)
        self.cache.sweep()

    # -- requests ------------------------------------------------------------------------------------------------

    def range(self, path: str, stored: StoredObject, start: int, length: int) -> bytes:
        """Part of a version of a file. Raises `ObjectChanged` if the file has another by now."""
        key = self._key(path)
        return self.ask("read", path, lambda: self.bucket.get_range(key, stored.version, start, length))

    def _key(self, path: str) -> str:
        return f"{self.prefix}{self._inside(path)}"

    def _find(self, path: str) -> StoredObject | None:
        key = self._key(path)
        return self.ask("read", path, lambda: self.bucket.find(key))

    def _just_listed(self, path: str) -> StoredObject | None:
        """What a listing a moment ago said of a file: who reads all files of a folder need not ask after each."""
        asked, stored = self._listed.get(self._key(path), (-math.inf, None))
        return stored if time.monotonic() - asked < _MOMENT_SECONDS else None

    def _missing(self, path: str) -> LakeError:
        return LakeError(f"can't read {self.url}/{path}: there is no such object")

    def _download(self, path: str, stored: StoredObject) -> Path:
        with self._room(path):
            local = self.cache.new(path)
            try:
                with local.open("wb") as copy:
                    for start in range(0, stored.bytes, BLOCK_BYTES):
                        copy.write(self.range(path, stored, start, min(BLOCK_BYTES, stored.bytes - start)))
                return self.cache.adopt(local, path, stored.version)
            finally:
                local.unlink(missing_ok=True)

    @contextmanager
    def _room(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"can't keep a copy of {self.url}/{path} in {self.cache.folder}: {error.strerror}; see that ETL_DATA can "
                "be written by this user and has room"
            ) from error

    def _stream(self, path: str) -> "_Blocks":
        key = self._key(path)
        return _Blocks(self, path, lambda: self.bucket.upload(key))

    def _finish(self, path: str, stream: "_Blocks") -> StoredObject:
        key = self._key(path)
        reached("file written")
        self._listed.pop(key, None)
        stored = stream.finish(lambda content: self.bucket.put(key, content))
        reached("file published")
        if _is_landed(path):
            self.cache.forget(path)  # of what a killed run had landed under the same number
        return stored

    def ask(self, action: str, path: str, request: Callable[[], T]) -> T:
        """The answer to a request, which is repeated while there is hope. Raises `LakeError`."""
        patience = self.patience
        attempts = Retrying(
            retry=retry_if_exception(self.bucket.passes),
            stop=stop_after_attempt(patience.attempts) | stop_before_delay(patience.seconds),
            wait=wait_random_exponential(patience.first_wait_seconds, patience.longest_wait_seconds),
            reraise=True,
        )
        try:
            return attempts(request)
        except self.bucket.errors as error:
            times = attempts.statistics["attempt_number"]
            tried = f" (tried {times} times)" if times > 1 else ""
            raise LakeError(f"can't {action} {self.url}/{path}: {self.bucket.reason(error)}{tried}") from None


class _Blocks(io.RawIOBase):
    """Sends what is written to it in blocks; what fits into one becomes an object by a single request."""

    def __init__(self, files: ObjectFiles, path: str, begin: Callable[[], ObjectUpload]) -> None:
        self._files = files
        self._path = path
        self._begin = begin
        self._upload: ObjectUpload | None = None
        self._sent = 0
        self._waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        view = memoryview(content).cast("B")  # type: ignore[arg-type]
        size = BLOCK_BYTES * (1 + self._sent // _GROWS_AFTER)
        for start in range(0, view.nbytes, size):
            self._waiting += view[start : start + size]
            if len(self._waiting) > size:  # something is left for the last block
                block = bytes(self._waiting[:size])
                del self._waiting[:size]
                self._send(block)
        return view.nbytes

    def finish(self, put: Callable[[bytes], StoredObject]) -> StoredObject:
        rest = bytes(self._waiting)
        self._waiting.clear()
        if self._upload is None:
            return self._files.ask("write", self._path, lambda: put(rest))
        return self._files.ask("write", self._path, partial(self._upload.finish, rest))

    def give_up(self) -> None:
        """Leave no trace. Where that fails too, `sweep` will remove it; the error that led here says what is wrong."""
        if self._upload is not None:
            with suppress(LakeError):
                self._files.ask("abort an upload to", self._path, self._upload.abort)

    def _send(self, block: bytes) -> None:
        if self._upload is None:
            self._upload = self._files.ask("write", self._path, self._begin)
        self._files.ask("write", self._path, partial(self._upload.send, block))
        self._sent += 1


class _Ranges(io.RawIOBase):
    """Reads of a version of a file what is asked for, and no more."""

    def __init__(self, files: ObjectFiles, path: str, stored: StoredObject) -> None:
        self._files = files
        self._path = path
        self._stored = stored
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._stored.bytes}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        length = min(view.nbytes, self._stored.bytes - self._position)
        if length <= 0:
            return 0
        try:
            view[:length] = self._files.range(self._path, self._stored, self._position, length)
        except ObjectChanged as error:
            raise LakeError(
                f"can't read {self._files.url}/{self._path}: it was replaced meanwhile; run it again"
            ) from error
        self._position += length
        return length


def _is_landed(path: str) -> bool:
    """Whether a file is one that a manifest vouches for by its SHA-256."""
    return path.startswith("raw/") and path.endswith(".csv")
