"""Local copies of what is kept in a bucket, for engines that read files and for what is read again and again.

A copy lies at `<path>/<version>/<name>` and appears there by a rename, so it is whole; several processes share it.
Everything here may be deleted at any time when nothing runs.
"""

import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

# Beyond this, the copies that were not used for longest are removed; but none that a running process may still
# have in hand, so a run that needs more has it.
_CACHE_BYTES = 20 << 30
_IN_USE_SECONDS = 6 * 3600
_UNFINISHED = ".unfinished-"
_ABANDONED_SECONDS = 86_400


class Cache:
    """The local copies of one lake."""

    def __init__(self, folder: Path, url: str, bound_bytes: int = _CACHE_BYTES) -> None:
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", url)[-60:].strip("-.")
        self.folder = folder / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        self.bound_bytes = bound_bytes

    def get(self, path: str, version: str, size: int) -> Path | None:
        """The copy of a version of a file, if it is here and has its size."""
        copy = self._place(path, version)
        try:
            if copy.stat().st_size != size:
                return None
            os.utime(copy)
        except OSError:  # whoever makes a copy then will say what is wrong
            return None
        return copy

    def any(self, path: str) -> Path | None:
        """The copy of whichever version of a file was used last."""
        name = PurePosixPath(path).name
        found = []
        for copy in (self.folder / path).glob(f"*/{name}"):
            with suppress(FileNotFoundError):
                found.append((copy.stat().st_mtime_ns, copy))
        if not found:
            return None
        _, copy = max(found)
        with suppress(FileNotFoundError):
            os.utime(copy)
            return copy
        return None

    def new(self, path: str) -> Path:
        """An empty file that may become a copy of `path`, or of nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{_UNFINISHED}{PurePosixPath(path).name}-", dir=self.folder)
        os.close(handle)
        return Path(name)

    def adopt(self, local: Path, path: str, version: str) -> Path:
        """Make a file that `new` gave the copy of a version."""
        place = self._place(path, version)
        with local.open("rb") as content:
            os.fsync(content.fileno())  # what bears its name is whole, after a crash of the machine too
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            return local.replace(place)
        except FileNotFoundError:  # another process tidied up, and the folder was still empty
            place.parent.mkdir(parents=True, exist_ok=True)
            return local.replace(place)

    def forget(self, path: str) -> None:
        """Remove the local copy of a file."""
        shutil.rmtree(self.folder / path, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes left, and the copies beyond the bound, least recently used first."""
        now = time.time()
        copies, total = [], 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if name.startswith(_UNFINISHED):
                        if status.st_mtime < now - _ABANDONED_SECONDS:
                            path.unlink()
                    else:
                        copies.append((status.st_mtime, status.st_size, path))
                        total += status.st_size
        for used, size, copy in sorted(copies):
            if total <= self.bound_bytes or used > now - _IN_USE_SECONDS:
                break
            copy.unlink(missing_ok=True)
            with suppress(OSError):
                copy.parent.rmdir()
            total -= size

    def _place(self, path: str, version: str) -> Path:
        safe = re.sub(r"[^A-Za-z0-9-]", "", version)
        return self.folder / path / safe / PurePosixPath(path).name
