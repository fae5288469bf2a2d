"""Folders for what a process has no room for in memory; they hold rows, and go with whoever made them, however that ends.

Whoever uses one holds a lock on it, which the kernel lets go of when the process ends. So what others left can be told from
what they work with, whatever any clock says and however long they take.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from etl_assets.errors import EtlError

_SPILLED = re.compile(r"duckdb_temp_([0-9]+)_.*")
"""What DuckDB calls the files of a process that it spills into a folder."""


class ScratchError(EtlError):
    """There is no folder to work in."""


@contextmanager
def own_folder(scratch: Path, prefix: str) -> Iterator[Path]:
    """An empty folder in scratch, which is made if need be; it is gone afterwards, or at the next sweep if it can't be
    removed. Raises `ScratchError`."""
    with ExitStack() as stack:
        try:
            folder = _made(stack, scratch, prefix)
        except OSError as error:
            raise ScratchError(
                f"no folder to work in can be made in {scratch}: {error.strerror}; see that this user can write there and that "
                "the disk has room (ETL_DATA)"
            ) from error
        yield folder


def _made(stack: ExitStack, scratch: Path, prefix: str) -> Path:
    while True:
        scratch.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=scratch, prefix=prefix, ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        with suppress(FileNotFoundError):  # a sweep came between making and locking it
            lock = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if folder.stat().st_ino == os.fstat(lock).st_ino:
                return folder


def sweep(scratch: Path) -> None:
    """Remove what ended processes left in scratch."""
    for left in scratch.iterdir():
        with suppress(OSError):  # another sweep was first, or somebody works with it
            if left.is_dir():
                _remove_unless_locked(left)
            elif (spilled := _SPILLED.fullmatch(left.name)) and not psutil.pid_exists(int(spilled[1])):
                left.unlink()


def _remove_unless_locked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
