"""What a load has to do: which files of the lake each table lacks, found by comparing the lake with the books."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from etl_assets.star.files import StarFile, StarFiles
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import LOADS, LoadSession, WarehouseError


@dataclass(frozen=True)
class LoadPlan:
    """Files to load into a table. `create`: there is no such table as declared; `anew`: what it holds is no basis.
    `held`: the version of a dimension that is loaded."""

    table: StarTable
    files: Sequence[tuple[int, StarFile]]
    create: bool
    anew: bool
    held: str | None = None


class Planner:
    """What a warehouse held when a load began, beside what the lake has."""

    def __init__(self, session: LoadSession, star: StarFiles, anew: Collection[str] = ()) -> None:
        """`anew`: tables of which nothing that was loaded counts."""
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
        batches = star.fact_batches(table.name)
        newest = star.fact(table.name, batches[-1]) if batches else None
        if newest is None or newest.version != version:
            raise behind
        last = max(known, default=0)
        # As in the lake, the newest batch that both hold vouches for those before it.
        vouching = star.fact(table.name, last) if last in batches else None
        anew = vouching is None or vouching.version != known[last]
        missing = [batch for batch in batches if anew or batch > last]
        files = [(batch, file) for batch in missing if (file := star.fact(table.name, batch))]
        if len(files) != len(missing):
            raise behind
        return LoadPlan(table, files, create, anew)

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
