"""Let the n-th call of the operating system that touches a folder fail, in this process, for good or once.

What Python does is noticed by its audit hooks (open, rename, link, remove, list, make and remove folders) and by `os.fsync`.
DuckDB opens its files by itself: a full disk and a limit on open files are what it meets.
"""

import errno
import os
import sys
from pathlib import Path

_CALLS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir"}


class Refusing:
    """Counts calls that touch `folder`; the n-th of them fails, with `lasting` all that follow do too."""

    def __init__(self, folder: Path, nth: int, *, lasting: bool) -> None:
        self.folder, self.nth, self.lasting = str(folder), nth, lasting
        self.calls = 0

    def begin(self) -> None:
        """From now on. An audit hook can't be taken back: the process is to end soon."""
        sync = os.fsync

        def checked_sync(handle: int) -> None:
            self.count(str(Path(f"/proc/self/fd/{handle}").readlink()))
            sync(handle)

        os.fsync = checked_sync  # type: ignore[assignment]
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _CALLS and isinstance(arguments[0], str | bytes | os.PathLike):
            self.count(os.fsdecode(arguments[0]))

    def count(self, path: str) -> None:
        """Raise the error of a disk that fails, if it is this call's turn."""
        if path.startswith(self.folder):
            self.calls += 1
            if self.calls == self.nth or (self.lasting and self.calls > self.nth):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
