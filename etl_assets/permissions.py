"""Who else of this machine may read what is written here: nobody, unless ETL_FILE_MODE says so.

The kernel sees to it: what a process creates gets no more than its umask leaves, whoever of the many libraries creates it.
What is there already stays as it is; `etl doctor` tells of what others can read.
"""

import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

PRIVATE = "private"
MODES: Mapping[str, int] = MappingProxyType({PRIVATE: 0o077, "group": 0o027, "public": 0o022})
"""What is taken from the owner's group, and from all others: by the names that ETL_FILE_MODE can have."""


_lock = threading.Lock()
_inside: list[int] = []  # what the umask was before, for each block that runs


def apply(mode: str) -> None:
    """Let what this process and its children create from now on be for those whom a mode names."""
    os.umask(MODES[mode])


@contextmanager
def kept(mode: str) -> Iterator[None]:
    """The same while the block runs, in a process that is not ours alone. Blocks may overlap, in several threads."""
    with _lock:
        if not _inside:
            _inside.append(os.umask(MODES[mode]))
        else:
            _inside.append(_inside[0])
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                os.umask(before)


def new_file(folder: Path, prefix: str, suffix: str = "") -> Path:
    """An empty file with a name that no other has. (Those of `tempfile` are private whatever the umask.)"""
    path = folder / f"{prefix}{secrets.token_hex(8)}{suffix}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return path


def is_open(path: Path, mode: str) -> bool:
    """Whether others than a mode names can read something that is there: by its own bits, and by those of the folders
    that lead to it."""
    if not path.exists():
        return False
    more = path.stat().st_mode & MODES[mode]
    reads = (bool(more & 0o040), bool(more & 0o004))
    enters = [path.parent.stat().st_mode, *(folder.stat().st_mode for folder in path.parent.parents)]
    return any(
        read and all(bits & (0o010 | 0o001 if group else 0o001) for bits in enters)
        for group, read in zip((True, False), reads, strict=True)
    )
