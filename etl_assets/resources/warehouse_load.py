"""Loading the star into a warehouse, the same in every engine: read the books, plan, stage what is missing, find the
members that facts are ahead of, and only then change anything: all tables at once.

What a load leaves:
    dimensions   as their file; what is the same stays untouched, so that cost follows the change
    facts        all versions of all batches; `star.superseded` notes which of them are not the latest
    references   each leads somewhere: where the dimension does not have the member yet, a stand-in takes the place,
                 and `star.inferred_members` notes it until the member comes
"""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from etl_assets.engine.schema import Fact, StarTable
from etl_assets.lake.star import StarFile, StarFiles
from etl_assets.resources.warehouse import (
    INFERRED,
    LOADS,
    SCHEMA,
    SUPERSEDED,
    ChangedMembers,
    Loaded,
    Rows,
    Session,
    Warehouse,
)
from etl_assets.resources.warehouse_plan import Plan, Planner

UNKNOWN = "unknown"


def load_star(
    warehouse: Warehouse,
    star: StarFiles,
    tables: Sequence[StarTable],
    versions: Mapping[str, str],
    run_id: str,
    changed: ChangedMembers = lambda table, held: None,
) -> dict[str, Loaded]:
    """Bring tables up to what the lake's star holds, all in one transaction.

    `tables` is the whole star; `versions` names those to load, with the version that each must have: a star that is
    behind is refused. A member that a fact refers to and that no dimension has is inferred; where that can't be, it is
    reported in `Loaded.dangling`, and then nothing is changed. `changed` spares comparing whole dimensions.
    """
    with warehouse.session() as session:
        return _Load(session, star, {table.name: table for table in tables}, run_id, changed).run(versions)


@dataclass(frozen=True)
class _Staged:
    """Where the rows to load stand. `keys`: of a dimension that is not loaded anew, the members to replace."""

    rows: str
    keys: str | None = None


class _Load:
    """One load of some tables of the star."""

    def __init__(
        self,
        session: Session,
        star: StarFiles,
        tables: Mapping[str, StarTable],
        run_id: str,
        changed: ChangedMembers,
    ) -> None:
        self.session = session
        self.dialect = session.dialect
        self.star = star
        self.tables = tables
        self.run_id = run_id
        self.changed = changed
        self.planner = Planner(session, star)
        self.plans: dict[str, Plan] = {}
        self.staged: dict[str, _Staged] = {}

    def run(self, versions: Mapping[str, str]) -> dict[str, Loaded]:
        found = [self.planner.plan(self.tables[name], version) for name, version in versions.items()]
        self.plans = {plan.table.name: plan for plan in found if plan.files}
        if not self.plans:
            return self._outcome(found)
        self.staged = {name: self._stage(plan) for name, plan in self.plans.items()}
        lost = self._lost()
        missing, count = self._missing(lost)
        dangling = self._dangling(missing, count)
        if dangling:
            return self._outcome(found, dangling)
        self.session.commit(self._statements(lost, missing, count), self._name())
        return self._outcome(found)

    # -- staging -------------------------------------------------------------------------------------------------

    def _stage(self, plan: Plan) -> _Staged:
        table, d = plan.table, self.dialect
        rows = Rows(table, self.star.files, [file.path for _, file in plan.files])
        if isinstance(table, Fact) or plan.anew:
            return _Staged(self.session.stage(table.name, rows))
        among = self.changed(table, plan.held) if plan.held else None
        if among is not None:
            keys = self.session.stage_values(f"{table.name}_members", [table.by_name[table.key]], among)
            return _Staged(
                self.session.stage(table.name, Rows(table, rows.lake, rows.paths, among)),
                keys,
            )
        whole = self.session.stage(table.name, rows)
        key, place = d.identifier(table.key), d.place(table.name)
        differs = " OR ".join(
            f"t.{d.identifier(c.name)} IS DISTINCT FROM s.{d.identifier(c.name)}" for c in table.columns
        )
        keys = self.session.keep(
            f"{table.name}_members",
            f"SELECT coalesce(t.{key}, s.{key}) AS {key} FROM {whole} AS s FULL JOIN {place} AS t "
            f"ON t.{key} = s.{key} WHERE {differs}",
        )
        return _Staged(whole, keys)

    def _lost(self) -> dict[str, str]:
        """The members that dimensions no longer have (they don't fit their types any more): dimension -> where their
        keys stand. Facts may refer to them."""
        d = self.dialect
        parts = []
        for name, staged in self.staged.items():
            if staged.keys:
                key = d.identifier(self.tables[name].key)
                parts.append(
                    f"SELECT {d.literal(name)} AS table_name, {self._as_text(f'k.{key}')} AS member_key "
                    f"FROM {staged.keys} AS k LEFT JOIN {staged.rows} AS s ON s.{key} = k.{key} WHERE s.{key} IS NULL"
                )
        if not parts:
            return {}
        lost = self.session.keep("lost", " UNION ALL ".join(parts))
        found = self.session.rows(f"SELECT DISTINCT table_name FROM {lost}")
        return {name: self._members(lost, name) for (name,) in found}

    # -- references ----------------------------------------------------------------------------------------------

    def _missing(self, lost: Mapping[str, str]) -> tuple[str, Mapping[str, int]]:
        """The members that facts will refer to and that their dimensions will not have: where they stand, with the
        name of the dimension, and how many there are of each.

        Of rows that were loaded before, only references to what is lost need a second look; all of them if the
        dimension starts from nothing.
        """
        parts = []
        for name, dimension in self.tables.items():
            referring = self._referring(name, lost.get(name))
            if not referring:
                continue
            present, key = [], self.dialect.identifier(dimension.key)
            if name in self.staged:
                present.append(f"SELECT s.{key} AS member FROM {self.staged[name].rows} AS s")
            if name in lost:
                present.append(
                    f"SELECT t.{key} AS member FROM {self.dialect.place(name)} AS t LEFT JOIN {lost[name]} AS l "
                    f"ON l.member = t.{key} WHERE l.member IS NULL"
                )
            elif not self._created(name):
                present.append(f"SELECT t.{key} AS member FROM {self.dialect.place(name)} AS t")
            absent = f"SELECT DISTINCT r.member FROM ({' UNION ALL '.join(referring)}) AS r WHERE r.member IS NOT NULL"
            if present:
                absent = (
                    f"SELECT m.member FROM ({absent}) AS m LEFT JOIN ({' UNION ALL '.join(present)}) AS p "
                    "ON p.member = m.member WHERE p.member IS NULL"
                )
            parts.append(
                f"SELECT {self.dialect.literal(name)} AS table_name, {self._as_text('a.member')} AS member_key "
                f"FROM ({absent}) AS a"
            )
        if not parts:
            return "", {}
        missing = self.session.keep("missing", " UNION ALL ".join(parts))
        found = self.session.rows(f"SELECT table_name, count(*) FROM {missing} GROUP BY table_name")
        return missing, dict(found)

    def _referring(self, name: str, lost: str | None) -> list[str]:
        """Queries that give the members of a dimension that facts will refer to, as far as they may be missing."""
        d = self.dialect
        queries = []
        for fact in self.tables.values():
            for column, dimension in fact.references.items():
                if dimension != name:
                    continue
                member = f"f.{d.identifier(column)}"
                if fact.name in self.staged:
                    queries.append(f"SELECT {member} AS member FROM {self.staged[fact.name].rows} AS f")
                if not self._stays(fact, column):
                    continue
                place = d.place(fact.name)
                if name in self.plans and self.plans[name].create:
                    queries.append(f"SELECT {member} AS member FROM {place} AS f")
                elif lost:
                    queries.append(
                        f"SELECT {member} AS member FROM {place} AS f JOIN {lost} AS l ON l.member = {member}"
                    )
        return queries

    def _stays(self, fact: StarTable, column: str) -> bool:
        """Whether rows of a fact that are loaded already will still be there, with a column."""
        plan = self.plans.get(fact.name)
        return not (plan and plan.anew) and column in self.planner.columns(fact.name)

    def _created(self, name: str) -> bool:
        """Whether a dimension starts from nothing."""
        plan = self.plans.get(name)
        return plan.create if plan else not self.planner.columns(name)

    def _dangling(self, missing: str, count: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Fact -> column -> how many members it refers to that can't be inferred."""
        dangling: dict[str, dict[str, int]] = {}
        d = self.dialect
        for name in count:
            if self._stand_in(self.tables[name]) is not None:
                continue
            members = self._members(missing, name)
            for fact in self.tables.values():
                sources = [self.staged[fact.name].rows] if fact.name in self.staged else []
                for column, dimension in fact.references.items():
                    if dimension != name:
                        continue
                    stays = [d.place(fact.name)] if self._stays(fact, column) else []
                    for source in [*sources, *stays]:
                        member = f"f.{d.identifier(column)}"
                        ((found,),) = self.session.rows(
                            f"SELECT count(DISTINCT {member}) FROM {source} AS f JOIN {members} AS m ON m.member = {member}"
                        )
                        if found:
                            dangling.setdefault(fact.name, {})[column] = found
        return dangling

    def _stand_in(self, table: StarTable) -> str | None:
        """The columns of an inferred member `m`, given its key; None where a required value can't be left open."""
        d = self.dialect
        chosen = []
        for column in table.columns:
            if column.name == table.key:
                value = "m.member"
            elif column.name == "deleted":
                value = "false"
            elif column.type.nullable:
                value = d.cast("NULL", column.type)
            elif column.type.name == "text":
                value = d.literal(UNKNOWN)
            else:
                return None
            chosen.append(f"{value} AS {d.identifier(column.name)}")
        return ", ".join(chosen)

    # -- changing ------------------------------------------------------------------------------------------------

    def _statements(self, lost: Mapping[str, str], missing: str, count: Mapping[str, int]) -> list[str]:
        """The whole change."""
        session = self.session
        statements: list[str] = []
        created = {name for name, plan in self.plans.items() if plan.create}
        created |= {name for name in count if self._created(name)}
        emptied = {
            name
            for name, plan in self.plans.items()
            if isinstance(plan.table, Fact) and plan.anew and not plan.create
        }
        for name in sorted(created):
            statements += session.create(self.tables[name])
        for name in sorted(emptied):
            statements += session.empty(self.tables[name])
        for name, staged in self.staged.items():
            plan = self.plans[name]
            if isinstance(plan.table, Fact):
                statements += self._supersede(plan.table, plan, staged)
                statements.append(self._insert(plan.table, staged.rows))
            elif staged.keys:
                statements += session.put(plan.table, staged.keys, self._replacing(plan.table, staged))
            else:
                statements.append(self._insert(plan.table, staged.rows))
        for name in count:
            statements += self._infer(self.tables[name], self._members(missing, name), name in created)
        statements += self._note(lost, missing, count)
        return [*statements, *session.settle(self.tables, created, emptied)]

    def _insert(self, table: StarTable, rows: str) -> str:
        names = self.dialect.listing([column.name for column in table.columns])
        return f"INSERT INTO {self.dialect.place(table.name)} ({names}) SELECT {names} FROM {rows} AS s"

    def _replacing(self, table: StarTable, staged: _Staged) -> str:
        d = self.dialect
        names = d.listing([column.name for column in table.columns], "s.")
        key = d.identifier(table.key)
        return f"SELECT {names} FROM {staged.rows} AS s WHERE s.{key} IN (SELECT k.{key} FROM {staged.keys} AS k)"

    def _supersede(self, table: Fact, plan: Plan, staged: _Staged) -> list[str]:
        """Note which versions the staged ones take the place of, before they are inserted."""
        d = self.dialect
        key, record, place = d.identifier(table.key), d.identifier(table.record), d.place(table.name)
        book, mine = f"{SCHEMA}.{SUPERSEDED.name}", f"table_name = {d.literal(table.name)}"
        statements = [f"DELETE FROM {book} WHERE {mine}"] if plan.anew else []
        if plan.anew and len(plan.files) == 1:
            return statements  # a batch has one version of a key
        versions = f"SELECT s.{key} AS k, s.{record} AS r FROM {staged.rows} AS s"
        if not plan.anew:
            versions += (
                f" UNION ALL SELECT f.{key} AS k, f.{record} AS r FROM {place} AS f "
                f"WHERE f.{key} IN (SELECT s.{key} FROM {staged.rows} AS s) "
                f"AND NOT EXISTS (SELECT 1 FROM {book} AS b WHERE b.{mine} AND b.record_id = f.{record})"
            )
        return [
            *statements,
            f"INSERT INTO {book} (table_name, record_id) SELECT {d.literal(table.name)}, n.r FROM (SELECT v.r, "
            f"row_number() OVER (PARTITION BY v.k ORDER BY v.r DESC) AS nth FROM ({versions}) AS v) AS n WHERE n.nth > 1",
        ]

    def _infer(self, table: StarTable, members: str, created: bool) -> Sequence[str]:
        """Put stand-ins."""
        d = self.dialect
        rows = f"SELECT {self._stand_in(table)} FROM {members} AS m"
        if created:
            names = d.listing([column.name for column in table.columns])
            return [f"INSERT INTO {d.place(table.name)} ({names}) {rows}"]
        keys = f"(SELECT m.member AS {d.identifier(table.key)} FROM {members} AS m)"
        return self.session.put(table, keys, rows)

    def _note(self, lost: Mapping[str, str], missing: str, count: Mapping[str, int]) -> list[str]:
        """Bring the books up to date."""
        d = self.dialect
        inferred = f"{SCHEMA}.{INFERRED.name}"
        statements = []
        for name in self._inferred:
            mine = f"table_name = {d.literal(name)}"
            if name in self.plans and self.plans[name].create:
                statements.append(f"DELETE FROM {inferred} WHERE {mine}")
                continue
            known = [f"SELECT m.member FROM {self._members(missing, name)} AS m"] if name in count else []
            if name in lost:
                known.append(f"SELECT l.member FROM {lost[name]} AS l")
            if name in self.staged:
                key = d.identifier(self.tables[name].key)
                known.append(f"SELECT s.{key} AS member FROM {self.staged[name].rows} AS s")
            if known:
                statements.append(
                    f"DELETE FROM {inferred} WHERE {mine} AND member_key IN "
                    f"(SELECT {self._as_text('n.member')} FROM ({' UNION ALL '.join(known)}) AS n)"
                )
        if count:
            statements.append(
                f"INSERT INTO {inferred} (table_name, member_key) SELECT m.table_name, m.member_key FROM {missing} AS m"
            )
        book = f"{SCHEMA}.{LOADS.name}"
        fresh = [name for name, plan in self.plans.items() if plan.anew or not isinstance(plan.table, Fact)]
        if fresh:
            statements.append(
                f"DELETE FROM {book} WHERE table_name IN ({', '.join(d.literal(name) for name in fresh)})"
            )
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        entries = [
            (name, batch, file.version, file.rows, now, self.run_id)
            for name, plan in self.plans.items()
            for batch, file in plan.files
        ]
        schema = pa.schema([pa.field(c.name, c.type.arrow) for c in LOADS.columns])
        columns = [
            pa.array(values, f.type) for values, f in zip(zip(*entries, strict=True), schema, strict=True)
        ]
        made = self.session.stage_values("loads", LOADS.columns, pa.table(columns, schema=schema))
        names = d.listing(schema.names)
        statements.append(f"INSERT INTO {book} ({names}) SELECT {names} FROM {made} AS l")
        return statements

    def _name(self) -> str:
        """Identifies the change: what is loaded, onto what."""
        content = [
            (name, sorted(self.planner.known.get(name, {}).items()), [(b, f.version) for b, f in plan.files])
            for name, plan in sorted(self.plans.items())
        ]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    # -- what it came to -----------------------------------------------------------------------------------------

    @cached_property
    def _inferred(self) -> Mapping[str, int]:
        """How many members of each dimension were inferred before this load."""
        return self._count_inferred()

    def _count_inferred(self) -> dict[str, int]:
        found = self.session.rows(
            f"SELECT table_name, count(*) FROM {SCHEMA}.{INFERRED.name} GROUP BY table_name"
        )
        return dict(found)

    def _outcome(
        self, plans: Sequence[Plan], dangling: Mapping[str, Mapping[str, int]] | None = None
    ) -> dict[str, Loaded]:
        inferred = self._count_inferred()
        held = dict(
            self.session.rows(
                f"SELECT table_name, CAST(sum({self.dialect.identifier('rows')}) AS "
                f"{self.dialect.type(LOADS.columns[3].type)}) FROM {SCHEMA}.{LOADS.name} GROUP BY table_name"
            )
        )
        files: dict[str, Sequence[tuple[str, StarFile]]] = dict.fromkeys(dangling or {}, ())
        files |= {plan.table.name: plan.files for plan in plans}
        return {
            name: Loaded(
                held.get(name, 0) + inferred.get(name, 0),
                sum(file.rows for _, file in loaded),
                tuple(batch for batch, _ in loaded),
                (dangling or {}).get(name, {}),
                inferred.get(name, 0),
            )
            for name, loaded in files.items()
        }

    # -- SQL -----------------------------------------------------------------------------------------------------

    def _as_text(self, value: str) -> str:
        return self.dialect.cast(value, INFERRED.columns[1].type)

    def _members(self, noted: str, name: str) -> str:
        """What stands after FROM for the members of a dimension that are noted by name and as text, as `member`."""
        key = self.tables[name].by_name[self.tables[name].key].type
        return (
            f"(SELECT {self.dialect.cast('n.member_key', key)} AS member FROM {noted} AS n "
            f"WHERE n.table_name = {self.dialect.literal(name)})"
        )
