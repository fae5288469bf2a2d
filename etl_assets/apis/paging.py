"""How an API divides its answer into pages, and how the next one is asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PATH = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_HEADER = re.compile(r"[A-Za-z0-9-]+")

Path = str | tuple[str, ...]
"""Where something stands in a JSON answer: names with dots between (`meta.next`), or one by one, if a name has a dot or a blank
in it (`("@odata.nextLink",)`)."""


@dataclass(frozen=True)
class Header:
    """What stands in a header of an answer, and not in its JSON: `Header("X-Total-Count")`."""

    name: str

    def __post_init__(self) -> None:
        if not _HEADER.fullmatch(self.name):
            raise ValueError(f"Header({self.name!r}) is no name of a header: write it as X-Total-Count")


def check_path(what: str, path: Path | Header) -> None:
    """Raise `ValueError` for a path that leads nowhere."""
    if isinstance(path, Header):
        return
    if not (all(path) and path if isinstance(path, tuple) else _PATH.fullmatch(path)):
        raise ValueError(
            f"{what}={path!r} is no path into the answer: write names with dots between, as meta.next, or one by one, as "
            '("@odata.nextLink",), if they have dots or blanks themselves'
        )


def in_words(path: Path | Header) -> str:
    """A path as a message names it."""
    if isinstance(path, Header):
        return f"the header {path.name}"
    return path if isinstance(path, str) else " > ".join(path)


def names_of(path: Path) -> tuple[str, ...]:
    """The names that lead to a place, one by one; none for the answer itself."""
    return path if isinstance(path, tuple) else tuple(path.split(".")) if path else ()


def dig(answer: Any, path: Path) -> Any:
    """What stands at a path of a JSON value; None where there is nothing. Without a path the value itself."""
    for name in names_of(path):
        if isinstance(answer, Mapping):
            answer = answer.get(name)
        elif isinstance(answer, list) and name.isdecimal() and int(name) < len(answer):
            answer = answer[int(name)]
        else:
            return None
    return answer


@dataclass(frozen=True)
class OnePage:
    """The answer is whole."""


@dataclass(frozen=True)
class PageNumber:
    """Pages have numbers, from `first` on: `?page=3&per_page=100`. `size` names the parameter that says how many records a
    page has, if there is one, and `records` how many. In a body that is posted the parameters are paths, with dots between."""

    parameter: str = "page"
    size: str = ""
    records: int = 100
    first: int = 1

    def __post_init__(self) -> None:
        _check_size(self.records)

    def parameters(self, index: int, begins: int) -> dict[str, str | int]:
        """The parameters of the page with an index, from 0 on."""
        return {self.parameter: self.first + index} | _size(self.size, self.records)


@dataclass(frozen=True)
class Offset:
    """Pages begin at a record: `?offset=200&limit=100`."""

    parameter: str = "offset"
    size: str = "limit"
    records: int = 100

    def __post_init__(self) -> None:
        _check_size(self.records)

    def parameters(self, index: int, begins: int) -> dict[str, str | int]:
        """The parameters of the page that begins at a record, from 0 on."""
        return {self.parameter: begins} | _size(self.size, self.records)


@dataclass(frozen=True)
class Cursor:
    """Each answer says, at the path `next` or in a header, what the parameter of the following page is; after the last it says
    nothing."""

    next: Path | Header
    parameter: str = "cursor"
    size: str = ""
    records: int = 100

    def __post_init__(self) -> None:
        check_path("next", self.next)
        _check_size(self.records)

    def parameters(self) -> dict[str, str | int]:
        """The parameters of every page, beside the cursor."""
        return _size(self.size, self.records)


@dataclass(frozen=True)
class Link:
    """Each answer says where the following page is: in its header `Link` (`rel="next"`), or at the path `next`. It must be
    on the same server."""

    next: Path = ""
    size: str = ""
    records: int = 100

    def __post_init__(self) -> None:
        if self.next:
            check_path("next", self.next)
        _check_size(self.records)

    def parameters(self) -> dict[str, str | int]:
        """The parameters of the first page."""
        return _size(self.size, self.records)


Numbered = PageNumber | Offset
"""Pages that can be asked for in any order."""
Followed = Cursor | Link
"""Pages of which each leads to the next."""
Paging = OnePage | PageNumber | Offset | Cursor | Link


def _check_size(records: int) -> None:
    if records < 1:
        raise ValueError(f"records={records}: a page has one record at least")


def _size(parameter: str, records: int) -> dict[str, str | int]:
    return {parameter: records} if parameter else {}
