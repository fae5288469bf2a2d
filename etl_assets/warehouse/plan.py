"""What a load has to do: which files of the lake each table lacks, found by comparing the lake with the books."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from etl_assets.star.files import StarFile, StarFiles
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import LoadSession, WarehouseError
from etl_assets.warehouse.dialect import LOADS

VersionThen: TypeAlias = Callable[[str, int], str | None]
"""Gives the version that a table had as of a batch; None if nobody knows."""


@dataclass(frozen=True)
class LoadPlan:
    """Files to load into a table. `create`: there is no such table as declared; `anew`: what it holds is no basis.
    `held`: the version of a dimension that is loaded. `after`: the batch of a fact up to which all is loaded, where the first
    of the files holds some of that too."""

    table: StarTable
    files: Sequence[tuple[int, StarFile]]
    create: bool
    anew: bool
    held: str | None = None
    after: int | None = None


class Planner:
    """What a warehouse held when a load began, beside what the lake has."""

    def __init__(
        self,
        session: LoadSession,
        star: StarFiles,
        anew: Collection[str] = (),
        version_then: VersionThen = lambda table, batch: None,
    ) -> None:
        """`anew`: tables of which nothing that was loaded counts."""
        self.version_then = version_then
        self.session = session
        self.star = star
        self.anew = anew
        self._had: dict[str, Mapping[str, tuple[str, bool]]] = {}

    @cached_property
    def known(self) -> Mapping[str, Mapping[int, str]]:
        """Table -> batch -> version, as the books have it."""
        known: dict[str, dict[int, str]] = {}
        for name, batch, version in self.session.rows(
            f"SELECT table_name, batch, version FROM {self.session.dialect.place(LOADS.name)}"
        ):
            known.setdefault(name, {})[int(batch)] = version
        return known

    def plan(self, table: StarTable, version: str) -> LoadPlan:
        """Which files a table lacks."""
        star = self.star
        behind = WarehouseError(
            f"the lake's {table.name} is not up to date: materialize star/{table.name} first"
        )
        create = not self.is_declared(table)
        known = {} if create or table.name in self.anew else self.known.get(table.name, {})
        if not isinstance(table, Fact):
            file = star.dimension(table.name)
            if file is None or file.version != version:
                raise behind
            held = next(iter(known.values()), None)
            files = [] if version in known.values() else [(file.batch, file)]
            return LoadPlan(table, files, create, create, held)
        held_files = star.fact_files(table.name)
        if not held_files or held_files[-1].version != version:
            raise behind
        last = max(known, default=0)
        # As in the lake, the newest batch that both hold vouches for those before it.
        vouching = star.fact(table.name, last) if known else None
        anew = vouching is None or self._version(vouching, table.name, last) != known[last]
        files = [(file.batch, file) for file in held_files if anew or file.batch > last]
        partly = not anew and bool(files) and files[0][1].first <= last
        return LoadPlan(table, files, create, anew, after=last if partly else None)

    def _version(self, file: StarFile, table: str, batch: int) -> str | None:
        """The version of a fact as of a batch that one of its files holds, maybe with later ones."""
        return file.version if file.batch == batch else self.version_then(table, batch)

    def is_declared(self, table: StarTable) -> bool:
        """Whether the warehouse has the table as declared."""
        held = list(self.columns(table.name).items())
        return held == self.session.dialect.declared(table) and self.is_keyed(table)

    def is_keyed(self, table: StarTable) -> bool:
        """Whether the warehouse has the table with the key that is declared."""
        key = self.session.keyed_by(table.name)
        return self.has(table, table.primary_key) and (key is None or set(key) == set(table.primary_key))

    def has(self, table: StarTable, names: Sequence[str]) -> bool:
        """Whether the warehouse has the table with columns of the types that are declared."""
        return self.session.dialect.declares(self.columns(table.name), table, names)

    def columns(self, table: str) -> Mapping[str, tuple[str, bool]]:
        """The columns that a table had when this load began."""
        if table not in self._had:
            self._had[table] = self.session.columns(table)
        return self._had[table]
