"""Where the references of a load will lead, and which tables must wait because some would lead nowhere.

A reference leads somewhere if its dimension will have the member, or if a stand-in can take its place. A reference that
has a NULL part leads nowhere and need not. Members are handled in the dimension's columns: as it calls its key.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import LoadSession
from etl_assets.warehouse.plan import LoadPlan, Planner

_MANY = 16
"""References of one table that are read from all of its columns; more of them are set apart first."""


@dataclass(frozen=True)
class StagingTables:
    """Where the rows to load stand. `keys`: of a dimension that is not loaded anew, the members to replace."""

    rows: str
    keys: str | None = None


@dataclass(frozen=True)
class Broken:
    """References that would dangle: how many members the rows to load refer to (`staged`), and how many the rows that
    are loaded and stay (`held`)."""

    table: str
    columns: tuple[str, ...]
    dimension: str
    staged: int
    held: int


def unfillable(table: StarTable) -> list[str]:
    """The columns for which a stand-in has no value: required ones that are not text, or that refer to a dimension."""
    refers = {name for columns in table.links for name in columns}
    given = {
        *table.key_columns,
        "deleted",
        *(c.name for c in table.columns if c.type.name == "text"),
    } - refers
    return [c.name for c in table.columns if not c.type.nullable and c.name not in given]


class References:
    """The references between tables as they will be after a load of `plans`. `missing`, by dimension: a query of the
    members that are referred to and that it will not have."""

    def __init__(
        self,
        session: LoadSession,
        planner: Planner,
        tables: Mapping[str, StarTable],
        plans: Mapping[str, LoadPlan],
        staged: Mapping[str, StagingTables],
    ) -> None:
        self.session = session
        self.dialect = session.dialect
        self.planner = planner
        self.tables = tables
        self.plans = plans
        self.staged = staged
        self.missing: Mapping[str, str] = {}
        self._narrow: dict[str, str] = {}
        self._lost = self._find_lost()
        self._numbers = count()

    @property
    def lost(self) -> Mapping[str, str]:
        """The members that dimensions will no longer have (they don't fit their types any more): dimension -> where
        their keys stand. Facts may refer to them."""
        return {name: keys for name, keys in self._lost.items() if name in self.staged}

    def leave_out(self) -> Mapping[str, list[Broken]]:
        """Take the tables out of the load that would leave references dangling: table -> why.

        Where rows to load dangle, their table waits. Where rows dangle that are loaded already, the dimension does.
        """
        plans, staged = self.plans, self.staged
        ahead: dict[str, list[Broken]] = {}
        vanished: dict[str, list[Broken]] = {}
        while True:
            waiting = ahead.keys() | vanished.keys()
            self.plans = {name: plan for name, plan in plans.items() if name not in waiting}
            self.staged = {name: rows for name, rows in staged.items() if name not in waiting}
            broken = self._broken()
            behind = [one for one in broken if one.held and one.dimension in self.plans]
            for one in behind:
                vanished.setdefault(one.dimension, []).append(one)
            if behind:
                ahead = {}  # rows may well fit the dimension as it was
                continue
            early = [one for one in broken if one.staged]
            for one in early:
                ahead.setdefault(one.table, []).append(one)
            if not early:
                return ahead | vanished

    def is_created(self, name: str) -> bool:
        """Whether a table starts from nothing."""
        plan = self.plans.get(name)
        return plan.create if plan else not self.planner.columns(name)

    def stands_in(self, name: str) -> bool:
        """Whether a dimension can have stand-ins after this load."""
        table = self.tables[name]
        there = self.is_created(name) or name in self.plans or self.planner.is_declared(table)
        return there and not unfillable(table)

    def idle(self, stand_ins: Collection[str], book: str) -> Mapping[str, str]:
        """The stand-ins that nothing refers to after this load: dimension -> where their keys stand. `stand_ins` names the
        dimensions that have some, `book` lists them. Facts keep all versions: only where one is loaded anew, or a dimension
        refers to another, may something refer to a member no longer. None are given as long as one of the tables that are
        loaded is no longer declared, or not as it is loaded: what such a table refers to is not known here."""
        if not stand_ins or not all(self._is_as_declared(name) for name in self.planner.known):
            return {}
        anew = any(plan.anew for plan in self.plans.values())
        queries: dict[str, str] = {}
        for name in stand_ins:
            if name not in self.tables:
                continue
            links = list(self._links(name))
            moved = any(t.name in self.plans and not isinstance(t, Fact) for t, _ in links)
            plan = self.plans.get(name)
            if (anew or moved) and not (plan and plan.anew) and not self.is_created(name):
                queries |= self._unreferred(name, links, book)
        return {name: self.session.keep(f"idle_{name}", query) for name, query in self._some(queries).items()}

    def _is_as_declared(self, name: str) -> bool:
        """Whether a table is declared, and the warehouse will have it with these columns."""
        table = self.tables.get(name)
        return table is not None and (name in self.plans or self.planner.is_declared(table))

    def _unreferred(
        self, name: str, links: Sequence[tuple[StarTable, tuple[str, ...]]], book: str
    ) -> Mapping[str, str]:
        """A query of the stand-ins of a dimension that are what they were, and that no row refers to."""
        d, key = self.dialect, self.tables[name].key_columns
        referring = []
        for table, columns in links:
            stays = self._stays(table)
            if stays and not self.planner.has(table, columns):
                return {}  # it can't be told what its rows refer to
            staged = self.staged[table.name].rows if table.name in self.staged else None
            referring += [
                f"SELECT {self._as_members(columns, name)} FROM {rows} AS f"
                for rows in (staged, stays)
                if rows
            ]
        noted = f"b.table_name = {d.literal(name)} AND b.member_key = {d.member_key(self.tables[name], 't')}"
        apart = [f"({' UNION ALL '.join(referring)})"] if referring else []
        apart += [keys] if name in self.staged and (keys := self.staged[name].keys) else []
        others = [
            f"AND NOT EXISTS (SELECT 1 FROM {rows} AS r WHERE {d.same(key, 'r', 't')})" for rows in apart
        ]
        return {
            name: f"SELECT {d.listing(key, 't.')} FROM {d.place(name)} AS t JOIN {book} AS b ON {noted} "
            f"WHERE 1 = 1 {' '.join(others)}"
        }

    # -- members that are not there ------------------------------------------------------------------------------

    def _find_lost(self) -> dict[str, str]:
        d = self.dialect
        queries = {}
        for name, staged in self.staged.items():
            if staged.keys:
                key = self.tables[name].key_columns
                queries[name] = (
                    f"SELECT {d.listing(key, 'k.')} FROM {staged.keys} AS k LEFT JOIN {staged.rows} AS s "
                    f"ON {d.same(key, 's', 'k')} WHERE s.{d.identifier(key[0])} IS NULL"
                )
        return {name: self.session.keep(f"lost_{name}", query) for name, query in self._some(queries).items()}

    def _find_missing(self) -> Mapping[str, str]:
        queries = {name: query for name in self.tables if (query := self._absent(name))}
        return self._some(queries)

    def _some(self, queries: Mapping[str, str]) -> dict[str, str]:
        """Those queries that have rows, found by one question."""
        if not queries:
            return {}
        counts = [
            f"SELECT {self.dialect.literal(name)} AS table_name, count(*) AS members FROM ({query}) AS q"
            for name, query in queries.items()
        ]
        return {name: queries[name] for name, found in self.session.rows(" UNION ALL ".join(counts)) if found}

    def _absent(self, name: str) -> str | None:
        """The members of a dimension that will be referred to and that it will not have; None if none is.

        Of rows that were loaded before, only references to what is lost need a second look; all of them if the
        dimension starts from nothing.
        """
        d, key = self.dialect, self.tables[name].key_columns
        if (
            not self.is_created(name)
            and name not in self.plans
            and not self.planner.is_keyed(self.tables[name])
        ):
            return None  # nothing there can be compared, see _incomparable
        referring = self._referring(name)
        if not referring:
            return None
        absent = (
            f"SELECT DISTINCT {d.listing(key, 'r.')} FROM ({' UNION ALL '.join(referring)}) AS r "
            f"WHERE {d.present(key, 'r')}"
        )
        present = self._present(name)
        if not present:
            return absent
        return (
            f"SELECT {d.listing(key, 'm.')} FROM ({absent}) AS m LEFT JOIN ({' UNION ALL '.join(present)}) AS p "
            f"ON {d.same(key, 'p', 'm')} WHERE p.{d.identifier(key[0])} IS NULL"
        )

    def _present(self, name: str) -> list[str]:
        """Queries that give the members that a dimension will have."""
        d, key = self.dialect, self.tables[name].key_columns
        queries = []
        if name in self.staged:
            queries.append(f"SELECT {d.listing(key, 's.')} FROM {self.staged[name].rows} AS s")
        if not self.is_created(name):
            held = f"SELECT {d.listing(key, 't.')} FROM {d.place(name)} AS t"
            if name in self.lost:
                held += (
                    f" LEFT JOIN {self.lost[name]} AS l ON {d.same(key, 'l', 't')} "
                    f"WHERE l.{d.identifier(key[0])} IS NULL"
                )
            queries.append(held)
        return queries

    def _referring(self, name: str) -> list[str]:
        """Queries that give the members of a dimension that will be referred to, as far as they may be missing."""
        d, key = self.dialect, self.tables[name].key_columns
        links = list(self._links(name))
        queries = [
            f"SELECT {self._as_members(columns, name)} FROM {self._referring_rows(table)} AS f"
            for table, columns in links
            if table.name in self.staged
        ]
        every = self.is_created(name) and (name in self.plans or bool(queries))
        for table, columns in links:
            held = self._held(table, columns)
            if held and every:
                queries.append(f"SELECT {self._as_members(columns, name)} FROM {held} AS f")
            elif held and name in self.lost:
                members = f"(SELECT {self._as_members(columns, name)} FROM {held} AS f)"
                queries.append(
                    f"SELECT {d.listing(key, 'r.')} FROM {members} AS r JOIN {self.lost[name]} AS l "
                    f"ON {d.same(key, 'l', 'r')}"
                )
        return queries

    def _referring_rows(self, table: StarTable) -> str:
        """Where the references of staged rows are read: of a table with many, beside the rest, since each is a scan."""
        rows = self.staged[table.name].rows
        if len(table.links) <= _MANY:
            return rows
        if table.name not in self._narrow:
            d = self.dialect
            names = d.listing(sorted({name for columns in table.links for name in columns}), "s.")
            kept = self.session.keep(f"{table.name}_references", f"SELECT {names} FROM {rows} AS s")
            self._narrow[table.name] = kept
        return self._narrow[table.name]

    # -- who refers to them --------------------------------------------------------------------------------------

    def _broken(self) -> list[Broken]:
        self.missing = self._find_missing()
        found = [*self._dangling(), *self._incomparable()]
        return [one for one in found if one.staged or one.held]

    def _dangling(self) -> Iterator[Broken]:
        """References to members that are missing and can't be inferred."""
        for name, query in self.missing.items():
            if self.stands_in(name):
                continue
            members = self.session.keep(f"missing_{next(self._numbers)}_{name}", query)
            for table, columns in self._links(name):
                staged = self.staged[table.name].rows if table.name in self.staged else None
                held = self._held(table, columns)
                counts = [self._count(name, members, source, columns) for source in (staged, held)]
                yield Broken(table.name, columns, name, *counts)

    def _count(self, name: str, members: str, source: str | None, columns: Sequence[str]) -> int:
        """How many of some members of a dimension rows refer to."""
        if source is None:
            return 0
        d, key = self.dialect, self.tables[name].key_columns
        ((found,),) = self.session.rows(
            f"SELECT count(*) FROM {members} AS m WHERE EXISTS (SELECT 1 FROM "
            f"(SELECT {self._as_members(columns, name)} FROM {source} AS f) AS r WHERE {d.same(key, 'r', 'm')})"
        )
        return int(found)

    def _incomparable(self) -> Iterator[Broken]:
        """References between a table and a dimension of which only one is loaded, when the dimension's key is declared
        otherwise than it was: what the one holds can't be found in the other, so that they must be loaded together."""
        for name, dimension in self.tables.items():
            if not self.planner.columns(name) or self.planner.is_keyed(dimension):
                continue
            for table, columns in self._links(name):
                if name in self.plans and not self.planner.has(table, columns):
                    stays = self._stays(table)
                    yield Broken(table.name, columns, name, 0, self._rows(f"{stays} AS f") if stays else 0)
                elif name not in self.plans and table.name in self.staged:
                    refers = f"{self.staged[table.name].rows} AS f WHERE {self.dialect.present(columns, 'f')}"
                    yield Broken(table.name, columns, name, self._rows(refers), 0)

    def _rows(self, source: str) -> int:
        ((found,),) = self.session.rows(f"SELECT count(*) FROM {source}")
        return int(found)

    def _links(self, name: str) -> Iterator[tuple[StarTable, tuple[str, ...]]]:
        """The tables that refer to a dimension, with the columns by which they do."""
        for table in self.tables.values():
            for columns, dimension in table.links.items():
                if dimension == name:
                    yield table, columns

    def _held(self, table: StarTable, columns: Sequence[str]) -> str | None:
        """What stands after FROM for the rows that are loaded already and stay, if they have columns as declared."""
        return self._stays(table) if self.planner.has(table, columns) else None

    def _stays(self, table: StarTable) -> str | None:
        plan, staged, d = self.plans.get(table.name), self.staged.get(table.name), self.dialect
        if not self.planner.columns(table.name) or (plan and plan.anew):
            return None
        if staged is None or staged.keys is None:
            return d.place(table.name)
        replaced = f"SELECT 1 FROM {staged.keys} AS k WHERE {d.same(table.key_columns, 'k', 't')}"
        return f"(SELECT t.* FROM {d.place(table.name)} AS t WHERE NOT EXISTS ({replaced}))"

    def _as_members(self, columns: Sequence[str], name: str) -> str:
        """The columns of a reference in rows `f`, called as those of the dimension's key."""
        d, key = self.dialect, self.tables[name].key_columns
        return ", ".join(
            f"f.{d.identifier(column)} AS {d.identifier(called)}"
            for column, called in zip(columns, key, strict=True)
        )
