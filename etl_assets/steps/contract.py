"""What a step is: something that a run makes, by name, after what it needs. What the kinds of steps do is beside this file."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from etl_assets.engine.code_version import declared_version
from etl_assets.engine.location import caller
from etl_assets.errors import EtlError
from etl_assets.steps.parameters import Parameter
from etl_assets.steps.work import Work

if TYPE_CHECKING:
    import pyarrow as pa

Output = Literal["frame", "text", "bytes", "json", ""]
"""What a step hands to those after it; nothing, if it only does something."""
T = TypeVar("T")
_LARGEST_PICTURE = 400_000


class StepError(EtlError):
    """A step can't be done."""


@dataclass(frozen=True)
class Picture:
    """A PNG that the interface shows beside a step's other figures."""

    png: bytes

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("a picture is a PNG: save it as one")
        if len(self.png) > _LARGEST_PICTURE:
            raise ValueError(
                f"a picture is kept in Dagster's history: it has {len(self.png):,} bytes and may have {_LARGEST_PICTURE:,}; make it smaller"
            )

    @property
    def address(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class StepResult(Generic[T]):
    """What a function of a project gives, with figures for the interface: numbers are plotted over the runs, a `Picture` is
    shown."""

    value: T
    metadata: Mapping[str, int | float | str | bool | Picture] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """What a step made: figures for the interface, and a version of the content; `table` is a part of it to be looked at."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    table: pa.Table | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Step(ABC):
    """A step by its name within its group, and what the interface says of it.

    `after`: steps before it in the group that it needs beside those whose results it takes. `deps`: assets elsewhere, as
    `warehouse/dim_staff`, that it reads. `always`: it runs whatever failed before it in its group; what was made by an earlier
    run is never taken for what this one failed to make.
    """

    name: str
    description: str
    after: Sequence[str] = field(default=(), kw_only=True)
    deps: Sequence[str] = field(default=(), kw_only=True)
    always: bool = field(default=False, kw_only=True)
    where: str = field(default="", init=False, repr=False, compare=False)
    """The file and line of the declaration, as an editor takes them."""

    kinds: ClassVar[frozenset[str]] = frozenset()
    does_without: ClassVar[bool] = False
    """Whether it can be done where a step failed whose result it takes: it says so, or gets nothing in its place."""
    output: ClassVar[Output] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", self.where or caller(1))
        if not (self.name.isidentifier() and self.name.isascii()):
            raise ValueError(f"{self.name!r} can't name a step: write a word of letters, digits and _")
        if not self.description.strip():
            raise ValueError(f"{self.name}: it has no description: say what it is or does")
        for several in ("after", "deps"):
            if isinstance(getattr(self, several), str):
                raise ValueError(f"{self.name}: {several} names several: write {several}=[…]")
        self.check()

    def check(self) -> None:  # noqa: B027  most kinds have something to refuse
        """Refuse a declaration that contradicts itself. Raises `ValueError`."""

    @property
    def gives(self) -> Output:
        """What it hands to those after it."""
        return self.output

    @property
    def inputs(self) -> Sequence[str]:
        """The steps whose results it takes."""
        return ()

    @property
    def works_in(self) -> str:
        """The database that it works in; none, if it works in none."""
        return ""

    @property
    def changes_session(self) -> bool:
        """Whether later steps in the same database depend on what it did there."""
        return False

    @property
    def settings(self) -> Sequence[str]:
        """The settings that must be there for it."""
        return ()

    @property
    def stores(self) -> Sequence[str]:
        """The object stores that it reaches, `s3` and `gs`: somebody must be known there."""
        return ()

    @property
    def code_version(self) -> str:
        """A version of the declaration."""
        return declared_version(repr(self))

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        """What is wrong with it in a group that has these parameters."""
        yield from ()

    def star_tables(self, star: Collection[str]) -> list[str]:
        """The tables of the star that it reads in the warehouse."""
        return []

    def shown(self) -> Mapping[str, str]:
        """What of the declaration the interface shows, as Markdown."""
        return {}

    @abstractmethod
    def make(self, work: Work) -> Made:
        """Do it. Whatever it raises is its failure."""


def inputs_told(wrong: str, known: Collection[str]) -> str:
    """What there is instead of an input that does not exist."""
    from difflib import get_close_matches

    near = get_close_matches(wrong, known, 1)
    return f"did you mean {near[0]}?" if near else f"before it are {', '.join(known) or 'none'}"
