"""Checksums of files that are derived: enough to find what an accident did to them, and quick to compute."""

from pathlib import Path
from typing import Any

import google_crc32c

_BLOCK_BYTES = 1 << 20


def checksum(path: Path) -> str:
    """The CRC-32C of a file's content, in eight hexadecimal digits. Raises `OSError`."""
    found: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            found.update(block)
    return str(found.hexdigest().decode())
