"""A path that means nothing else to who is given it: the driver of SQLite takes a `?` in one for the end of it."""

import hashlib
import os
import tempfile
from pathlib import Path

from etl_assets.errors import EtlError


class UnsafeLink(EtlError):
    """Somebody else could lead us elsewhere."""


def plain(folder: Path) -> Path:
    """A folder by a path without `?`: its own, or a link to it in a folder that only this user can write to.

    The link is made when it is not there, so it may vanish between two runs. Raises `UnsafeLink`.
    """
    if "?" not in str(folder):
        return folder
    place = Path(tempfile.gettempdir(), f"etl-assets-links-{os.geteuid()}")
    place.mkdir(mode=0o700, exist_ok=True)
    owner = place.lstat()
    if owner.st_uid != os.geteuid() or owner.st_mode & 0o077 or place.is_symlink():
        raise UnsafeLink(f"{place} belongs to others or can be written by them: remove it, or set TMPDIR")
    link = place / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    unfinished = place / f"{link.name}-{os.getpid()}"
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(folder, target_is_directory=True)
    unfinished.replace(link)
    return link
