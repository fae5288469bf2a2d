"""What is wrong with a declaration. It is an error where the declaration stands; while a project is read it is noted, so that
all that is wrong is told at once.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

_Column = TypeVar("_Column")


@dataclass
class Noted:
    """What is wrong below a folder: where (file:line) and what. `wrong`: the declarations that it is wrong with."""

    root: Path
    found: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[object] = field(default_factory=list)

    def has(self, *declared: object) -> bool:
        """Whether something is wrong with one of these."""
        return any(one is other for one in declared for other in self.wrong)

    def place(self) -> str:
        """The innermost line below the folder that is being carried out; empty if none is."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if Path(frame.f_code.co_filename).is_relative_to(self.root):
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return ""


_noting: ContextVar[Noted | None] = ContextVar("noting", default=None)


@contextmanager
def noting(root: Path) -> Iterator[Noted]:
    """Note what is wrong with the declarations of a project while the block runs."""
    noted = Noted(root)
    token = _noting.set(noted)
    try:
        yield noted
    finally:
        _noting.reset(token)


def refuse(declared: object, what: str) -> None:
    """Say what is wrong with a declaration, and what to write. Raises `ValueError` unless its project is being read."""
    noted = _noting.get()
    where = noted.place() if noted else ""
    if noted is None or not where:
        raise ValueError(what)
    noted.found.append((where, what))
    noted.wrong.append(declared)


def columns_of(declared: object, name: str, given: Any, kind: type[_Column]) -> Sequence[_Column]:
    """The columns that a declaration has; what is something else is refused."""
    columns: Sequence[Any] = [given] if isinstance(given, kind | str) else given
    for one in columns:
        if not isinstance(one, kind):
            refuse(
                declared,
                f'{name}: {one!r} declares no column: write columns=[{kind.__name__}("name", "type"), …]',
            )
            return [one for one in columns if isinstance(one, kind)]
    return columns
