"""The declaration of a source table: what a user writes to have it read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from etl_assets.engine.location import caller
from etl_assets.engine.mistakes import refuse
from etl_assets.engine.types import Type, checked
from etl_assets.lake.manifest import MAIN

Drift = Literal["evolve", "freeze"]


@dataclass(frozen=True)
class Table:
    """A table (or view) of the source, and the columns that the star relies on.

    All columns of the table are landed, also those not named here. `columns` says as what type the star takes
    each of them (`?` allows NULL): a text column that holds dates may be declared `date`. `key` is needed only
    where the source has no primary key, as for a view. `exclude` are columns that are not read, for their size or since
    they are nobody's business; what was landed of one before it was named here stays in the lake. When the source
    changes the table's columns, `drift` says whether that is carried along (and announced), or is an error before
    anything is written.

    `as_`: what the project calls it, where its own name can't be the parameter of a function (`Order Details`, `class`), or
    occurs in two schemas; `name` is that from then on, and `source_name` what the source calls it.
    """

    name: str
    description: str
    columns: Mapping[str, str]
    key: tuple[str, ...] = ()
    schema: str = "public"
    drift: Drift = "evolve"
    exclude: Sequence[str] = field(default=(), repr=False)
    as_: str = field(default="", repr=False)
    source_name: str = field(default="", repr=False)
    source: str = field(default=MAIN, repr=False)
    """Which of a manifest's sources it is read from: the database, or an API by its name."""
    where: str = field(default="", init=False, repr=False, compare=False)
    """The file and line of the declaration, as an editor takes them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", caller(1))  # that calls __init__, which calls this
        if not self.source_name:
            object.__setattr__(self, "source_name", self.name)
        if self.as_:
            object.__setattr__(self, "name", self.as_)
        key: Any = self.key
        if isinstance(key, str):
            key = [key]
        elif not isinstance(key, list | tuple) or not all(isinstance(one, str) for one in key):
            refuse(self, f'{self.name}: key= names no columns in an order: write key=("…",)')
            key = ()
        object.__setattr__(self, "key", tuple(key))
        if not self.name or "/" in self.name or self.name.startswith("."):
            refuse(self, f'{self.name!r} can\'t name a table: write as_="…"')
        columns: Any = self.columns
        if not isinstance(columns, Mapping) or not columns:
            refuse(self, f'{self.name}: declare the columns that the star uses: write {{"name": "type", …}}')
            object.__setattr__(self, "columns", {})
        elif missing := set(self.key) - set(self.columns):
            refuse(self, f"{self.name}: key columns {sorted(missing)} are not among its columns")
        if self.drift not in (options := get_args(Drift)):
            refuse(
                self,
                f"{self.name}: drift={self.drift!r} means nothing: write {' or '.join(map(repr, options))}",
            )
        if isinstance(self.exclude, str):
            refuse(self, f"{self.name}: exclude names columns: write exclude=({self.exclude!r},)")
        elif used := {*self.columns, *self.key} & set(self.exclude):
            refuse(self, f"{self.name}: {sorted(used)} can't be left out (exclude=) and used")
        names = Counter(name.lower() for name in self.columns)
        if alike := sorted(name for name in self.columns if names[name.lower()] > 1):
            refuse(
                self,
                f"{self.name}: {', '.join(alike)} are one name where capitals make no other: leave out all but one (exclude=)",
            )
        _ = self.types

    @cached_property
    def types(self) -> Mapping[str, Type]:
        return {name: checked(self, name, declared) for name, declared in self.columns.items()}
