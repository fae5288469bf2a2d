"""Pages as they are kept: each as it was received, with a line of JSON about it before its bytes. Not here: where their files lie,
and how far a window is (`takes`)."""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_BEGINS = re.compile(rb'^\{"page": ', re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A page as it was received. `index`: from 0 on. `records`: how many it has. `total`: how many there are in all, as the
    API said in it. `following`: how the next page is asked for, where a page says that. `calls`: when each call for it was
    made (seconds since 1970). `machine`: which journal has these calls, "" if none is known. `lost`: it is not known any more,
    and `body` is a list of the keys of rows that no page tells of since."""

    index: int
    body: bytes
    records: int
    total: int | None
    following: str | None
    calls: tuple[float, ...]
    machine: str = ""
    lost: bool = False

    def about(self) -> dict[str, Any]:
        """What stands before its bytes."""
        return {
            "page": self.index,
            "records": self.records,
            "total": self.total,
            "following": self.following,
            "calls": self.calls,
            "machine": self.machine,
            "bytes": len(self.body),
            "sha256": hashlib.sha256(self.body).hexdigest(),
            **({"lost": True} if self.lost else {}),
        }


@dataclass(frozen=True)
class PagesFile:
    """A file of pages, as the mark of a complete take lists it."""

    path: str
    pages: int
    sha256: str


def pieces_of(page: Page) -> tuple[bytes, ...]:
    """A page as a file has it."""
    return json.dumps(page.about()).encode(), b"\n", page.body, b"\n"


def pages_in(content: bytes) -> Iterator[Page | None]:
    """The pages of what a file has, in the order in which they landed; None for one that is not what landed, and for all behind
    it."""
    stream = io.BytesIO(content)
    while line := stream.readline():
        page = _page(line, stream)
        yield page
        if page is None:
            return


def _page(line: bytes, stream: BinaryIO) -> Page | None:
    """The page that a line is about, and whose bytes follow; None if they are not what landed."""
    try:
        about = json.loads(line)
        body = stream.read(about["bytes"])
        page = Page(
            about["page"],
            body,
            about["records"],
            about["total"],
            about["following"],
            tuple(about["calls"]),
            about.get("machine", ""),
            about.get("lost", False),
        )
        intact = hashlib.sha256(body).hexdigest() == about["sha256"] and stream.read(1) == b"\n"
    except (ValueError, KeyError, TypeError):
        return None
    return page if intact else None


def legible_in(content: bytes) -> list[Page]:
    """The pages of what a damaged file has that are what landed all the same."""
    begins = [match.start() for match in _BEGINS.finditer(content)]
    return [page for begin in begins if (page := next(pages_in(content[begin:])))]
