"""Loading the star into a warehouse, the same in every engine: read the books, plan, stage what is missing, find the
members that facts are ahead of, and only then change anything: all tables at once, but for those that must wait.

What a load leaves:
    dimensions   as their file; what is the same stays untouched, so that cost follows the change
    facts        all versions of all batches; `star.superseded` notes which of them are not the latest
    references   each leads somewhere: where the dimension does not have the member yet, a stand-in takes the place,
                 and `star.inferred_members` notes it until the member comes, or nothing refers to it any more. What can
                 have no stand-in makes its fact wait: that stays whole as it was, the others are loaded
"""

import datetime
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from etl_assets.cost import Cost
from etl_assets.later import Later
from etl_assets.star.files import StarFile, StarFiles
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import (
    ChangedMembers,
    Loaded,
    LoadSession,
    RowsToLoad,
    TargetBatch,
    Warehouse,
    WarehouseError,
    WarehouseReader,
)
from etl_assets.warehouse.dialect import BATCHES, INFERRED, LOADS, SCHEMA, SUPERSEDED
from etl_assets.warehouse.plan import LoadPlan, Planner, VersionThen
from etl_assets.warehouse.references import Broken, References, StagingTables

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Later("pyarrow")

UNKNOWN = "unknown"


def load_star(
    warehouse: Warehouse,
    star: StarFiles,
    tables: Sequence[StarTable],
    versions: Mapping[str, str],
    run_id: str,
    changed: ChangedMembers = lambda table, held: None,
    anew: Collection[str] = (),
    batch: TargetBatch | None = None,
    *,
    adopt: bool = False,
    version_then: VersionThen = lambda table, batch: None,
) -> dict[str, Loaded]:
    """Bring tables up to what the lake's star holds, all in one transaction.

    `tables` is the whole star; `versions` names those to load, with the version that each must have: a star that is
    behind is refused. A member that a fact refers to and that no dimension has is inferred. Where that can't be, it is
    reported in `Loaded.dangling`, and the fact waits; a dimension that no longer has members that rows loaded before
    refer to waits too. `changed` spares comparing whole dimensions. Of the tables in
    `anew` nothing that was loaded counts. `batch` is noted; what was loaded from another lake is refused, unless it is to be
    adopted: then nothing that was loaded counts. `version_then` spares loading a fact anew that stopped at a batch whose file
    was merged with others since.
    """
    with warehouse.session() as session:
        others = of_others(session, batch.lake) if batch else []
        if batch and others and not adopt:
            raise WarehouseError(not_ours(warehouse, batch.lake, batch.project, others))
        load = _Load(
            session,
            star,
            {table.name: table for table in tables},
            run_id,
            changed,
            [table.name for table in tables] if others else anew,
            batch,
            version_then,
        )
        return load.run(versions)


def of_others(session: LoadSession, lake: str) -> list[tuple[str, str]]:
    """The other lakes that the star was filled from, with their projects, as the book of batches says."""
    book = session.dialect.place(BATCHES.name)
    return [
        (of, project)
        for of, project in session.rows(f"SELECT DISTINCT lake, project FROM {book}")
        if of != lake
    ]


def not_ours(warehouse: Warehouse, lake: str, project: str, others: Sequence[tuple[str, str]]) -> str:
    """That a warehouse is another project's, and what to do."""
    other, of = others[0]
    ours = f"the lake {lake[:8]} of the project {project}"
    return (
        f"schema {warehouse.schemas.star} of the warehouse {warehouse.where} was filled from the lake {other[:8]} of the project "
        f"{of}, and this is {ours}: name another schema (ETL_WAREHOUSE_SCHEMA) or another warehouse (ETL_WAREHOUSE_URL); "
        "if what is there is to be replaced, etl run --adopt"
    )


class _Load:
    """One load of some tables of the star."""

    def __init__(
        self,
        session: LoadSession,
        star: StarFiles,
        tables: Mapping[str, StarTable],
        run_id: str,
        changed: ChangedMembers,
        anew: Collection[str],
        batch: TargetBatch | None,
        version_then: VersionThen,
    ) -> None:
        self.batch = batch
        self.session = session
        self.dialect = session.dialect
        self.star = star
        self.tables = tables
        self.run_id = run_id
        self.changed = changed
        self.planner = Planner(session, star, anew, version_then)
        self.plans: Mapping[str, LoadPlan] = {}
        self.costs: dict[str, Cost] = {}
        """What it took to stage each table, and to run its statements."""
        self.own: dict[int, str] = {}
        """Of the statements that are one table's, by their place among all, the table."""
        self.staged: Mapping[str, StagingTables] = {}

    def run(self, versions: Mapping[str, str]) -> dict[str, Loaded]:
        found = [self.planner.plan(self.tables[name], version) for name, version in versions.items()]
        plans = {plan.table.name: plan for plan in found if plan.files}
        note = self._note_batch()
        if not plans:
            if note:
                self.session.commit(note, self._name())
            return self._outcome(found, {})
        staged = {name: self._stage_counted(plan) for name, plan in plans.items()}
        references = References(self.session, self.planner, self.tables, plans, staged)
        waiting = references.leave_out()
        self.plans, self.staged = references.plans, references.staged
        if self.plans:
            self.session.commit(self._counted([*self._statements(references), *note]), self._name())
        return self._outcome(found, waiting)

    # -- staging -------------------------------------------------------------------------------------------------

    def _stage_counted(self, plan: LoadPlan) -> StagingTables:
        cost = self.costs[plan.table.name] = Cost()
        with cost.counting():
            return self._stage(plan)

    def _stage(self, plan: LoadPlan) -> StagingTables:
        table, d = plan.table, self.dialect
        rows = RowsToLoad(table, self.star.files, [file.path for _, file in plan.files])
        if isinstance(table, Fact) or plan.anew:
            staged = self.session.stage(table.name, rows)
            if plan.after is not None:
                later = f"SELECT * FROM {staged} AS s WHERE s.{d.identifier('batch')} > {plan.after}"
                staged = self.session.keep(f"{table.name}_later", later)
            return StagingTables(staged)
        among = self.changed(table, plan.held) if plan.held else None
        if among is not None:
            columns = [table.by_name[name] for name in table.key_columns]
            keys = self.session.stage_values(f"{table.name}_members", columns, among)
            return StagingTables(
                self.session.stage(table.name, RowsToLoad(table, rows.lake, rows.paths, among)),
                keys,
            )
        whole = self.session.stage(table.name, rows)
        members = ", ".join(
            f"coalesce(t.{name}, s.{name}) AS {name}" for name in map(d.identifier, table.key_columns)
        )
        differs = " OR ".join(
            f"t.{d.identifier(c.name)} IS DISTINCT FROM s.{d.identifier(c.name)}" for c in table.columns
        )
        keys = self.session.keep(
            f"{table.name}_members",
            f"SELECT {members} FROM {whole} AS s FULL JOIN {d.place(table.name)} AS t "
            f"ON {d.same(table.key_columns, 't', 's')} WHERE {differs}",
        )
        return StagingTables(whole, keys)

    # -- changing ------------------------------------------------------------------------------------------------

    def _statements(self, references: References) -> list[str]:
        """The whole change."""
        session = self.session
        statements: list[str] = []
        missing = {
            name: session.keep(f"missing_{name}", query)
            for name, query in references.missing.items()
            if references.stands_in(name)
        }
        created = {name for name, plan in self.plans.items() if plan.create}
        created |= {name for name in missing if references.is_created(name)}
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
            plan, before = self.plans[name], len(statements)
            if isinstance(plan.table, Fact):
                statements += self._supersede(plan.table, plan, staged)
                statements.append(self._insert(plan.table, staged.rows))
            elif staged.keys:
                statements += session.put(plan.table, staged.keys, self._replacing(plan.table, staged))
            else:
                statements.append(self._insert(plan.table, staged.rows))
            self.own |= dict.fromkeys(range(before, len(statements)), name)
        for name, members in missing.items():
            statements += self._infer(self.tables[name], members, name in created)
        noted = self._count_inferred()
        statements += self._note_inferred(noted, references.lost, missing, created)
        for name, members in references.idle(noted, self.dialect.place(INFERRED.name)).items():
            statements += self._remove_inferred(self.tables[name], members)
        statements += self._note_loads()
        return [*statements, *session.settle(self.tables, created, emptied)]

    def _counted(self, statements: Sequence[str]) -> Iterator[str]:
        """The statements; while one is run that is a table's own, it is counted as its cost."""
        for nth, statement in enumerate(statements):
            with self.costs[self.own[nth]].counting() if nth in self.own else nullcontext():
                yield statement

    def _insert(self, table: StarTable, rows: str) -> str:
        names = self.dialect.listing([column.name for column in table.columns])
        return f"INSERT INTO {self.dialect.place(table.name)} ({names}) SELECT {names} FROM {rows} AS s"

    def _replacing(self, table: StarTable, staged: StagingTables) -> str:
        d = self.dialect
        names = d.listing([column.name for column in table.columns], "s.")
        same = d.same(table.key_columns, "k", "s")
        return f"SELECT {names} FROM {staged.rows} AS s WHERE EXISTS (SELECT 1 FROM {staged.keys} AS k WHERE {same})"

    def _supersede(self, table: Fact, plan: LoadPlan, staged: StagingTables) -> list[str]:
        """Note which versions the staged ones take the place of, before they are inserted."""
        d = self.dialect
        key, record = table.key_columns, d.identifier(table.record)
        book, mine = d.place(SUPERSEDED.name), f"table_name = {d.literal(table.name)}"
        statements = [f"DELETE FROM {book} WHERE {mine}"] if plan.anew else []
        if plan.anew and len(plan.files) == 1:
            return statements  # a batch has one version of a key
        versions = f"SELECT {d.listing(key, 's.')}, s.{record} FROM {staged.rows} AS s"
        if not plan.anew:
            versions += (
                f" UNION ALL SELECT {d.listing(key, 'f.')}, f.{record} FROM {d.place(table.name)} AS f "
                f"WHERE EXISTS (SELECT 1 FROM {staged.rows} AS s WHERE {d.same(key, 's', 'f')}) "
                f"AND NOT EXISTS (SELECT 1 FROM {book} AS b WHERE b.{mine} AND b.record_id = f.{record})"
            )
        return [
            *statements,
            f"INSERT INTO {book} (table_name, record_id) SELECT {d.literal(table.name)}, n.r FROM "
            f"(SELECT v.{record} AS r, row_number() OVER (PARTITION BY {d.listing(key, 'v.')} ORDER BY v.{record} DESC) "
            f"AS nth FROM ({versions}) AS v) AS n WHERE n.nth > 1",
        ]

    def _infer(self, table: StarTable, members: str, created: bool) -> Sequence[str]:
        """Put stand-ins: their key, NULL where that is allowed, `UNKNOWN` for text."""
        d = self.dialect
        values = {
            column.name: d.cast("NULL", column.type) if column.type.nullable else d.literal(UNKNOWN)
            for column in table.columns
        }
        values |= {name: f"m.{d.identifier(name)}" for name in table.key_columns} | {"deleted": "false"}
        chosen = ", ".join(f"{value} AS {d.identifier(name)}" for name, value in values.items())
        rows = f"SELECT {chosen} FROM {members} AS m"
        if created:
            names = d.listing([column.name for column in table.columns])
            return [f"INSERT INTO {d.place(table.name)} ({names}) {rows}"]
        return self.session.put(table, members, rows)

    def _remove_inferred(self, table: StarTable, members: str) -> Sequence[str]:
        """Take stand-ins away, and out of their book."""
        d = self.dialect
        none = f"SELECT {d.listing([c.name for c in table.columns], 't.')} FROM {d.place(table.name)} AS t WHERE 1 = 0"
        return [
            *self.session.put(table, members, none),
            f"DELETE FROM {d.place(INFERRED.name)} WHERE table_name = {d.literal(table.name)} AND member_key IN "
            f"(SELECT {d.member_key(table, 'm')} FROM {members} AS m)",
        ]

    def _note_inferred(
        self,
        noted: Collection[str],
        lost: Mapping[str, str],
        missing: Mapping[str, str],
        created: set[str],
    ) -> list[str]:
        """Bring the book of stand-ins up to date; `noted` names the dimensions that it lists some of."""
        d, book = self.dialect, self.dialect.place(INFERRED.name)
        statements = []
        for name in noted:
            mine = f"table_name = {d.literal(name)}"
            if name in created:
                statements.append(f"DELETE FROM {book} WHERE {mine}")
                continue
            rows = [self.staged[name].rows] if name in self.staged else []
            known = [places[name] for places in (lost, missing) if name in places]
            members = [
                f"SELECT {d.member_key(self.tables[name], 'n')} AS member_key FROM {place} AS n"
                for place in [*rows, *known]
            ]
            if members:
                statements.append(
                    f"DELETE FROM {book} WHERE {mine} AND member_key IN "
                    f"(SELECT k.member_key FROM ({' UNION ALL '.join(members)}) AS k)"
                )
        if missing:
            inferred = [
                f"SELECT {d.literal(name)} AS table_name, {d.member_key(self.tables[name], 'm')} AS member_key "
                f"FROM {members} AS m"
                for name, members in missing.items()
            ]
            statements.append(
                f"INSERT INTO {book} (table_name, member_key) SELECT i.table_name, i.member_key "
                f"FROM ({' UNION ALL '.join(inferred)}) AS i"
            )
        return statements

    def _note_loads(self) -> list[str]:
        """Bring the book of loads up to date."""
        d, statements = self.dialect, []
        book = d.place(LOADS.name)
        fresh = [name for name, plan in self.plans.items() if plan.anew or not isinstance(plan.table, Fact)]
        if fresh:
            statements.append(
                f"DELETE FROM {book} WHERE table_name IN ({', '.join(d.literal(name) for name in fresh)})"
            )
        statements += self._fold_loads()
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        entries = [
            (name, batch, file.version, self._rows(plan, file), now, self.run_id)
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

    def _rows(self, plan: LoadPlan, file: StarFile) -> int:
        """How many rows of a file are loaded."""
        if plan.after is None or file.first > plan.after:
            return file.rows
        book = self.dialect.place(LOADS.name)
        rows = self.dialect.identifier("rows")
        ((held,),) = self.session.rows(
            f"SELECT sum({rows}) FROM {book} WHERE table_name = {self.dialect.literal(plan.table.name)} "
            f"AND batch >= {file.first}"
        )
        return file.rows - int(held or 0)

    def _fold_loads(self) -> list[str]:
        """One entry in the place of those of the batches whose files the lake has merged: there are not more with every
        batch. What was loaded of a file in parts is folded once all of it is."""
        d, statements = self.dialect, []
        book, rows = d.place(LOADS.name), d.identifier("rows")
        for name, plan in self.plans.items():
            known = self.planner.known.get(name, {})
            if plan.anew or not isinstance(plan.table, Fact):
                continue
            for file in self.star.fact_files(name):
                held = [batch for batch in known if file.first <= batch <= file.batch]
                if len(held) > 1 and max(held) == file.batch:
                    mine = f"table_name = {d.literal(name)} AND batch"
                    statements += [
                        f"DELETE FROM {book} WHERE {mine} >= {file.first} AND batch < {file.batch}",
                        f"UPDATE {book} SET {rows} = {file.rows} WHERE {mine} = {file.batch}",
                    ]
        return statements

    def _note_batch(self) -> list[str]:
        """Bring the book of batches up to date; nothing where the batch is noted."""
        d, book, batch = self.dialect, self.dialect.place(BATCHES.name), self.batch
        if batch is None:
            return []
        known = self.session.rows(f"SELECT lake, manifest FROM {book} WHERE batch = {batch.batch}")
        if any(lake == batch.lake and noted in {None, batch.manifest} for lake, noted in known):
            return []
        values: dict[str, object] = {
            "batch": batch.batch,
            "source_time": batch.source_time.astimezone(datetime.UTC).replace(tzinfo=None),
            "run_id": self.run_id,
            "lake": batch.lake,
            "project": batch.project,
            "certified": None,
            "manifest": batch.manifest,
        }
        schema = pa.schema([pa.field(c.name, c.type.arrow) for c in BATCHES.columns])
        rows = pa.Table.from_pylist([values], schema=schema)
        made = self.session.stage_values("batches", BATCHES.columns, rows)
        names = d.listing(schema.names)
        others = f"DELETE FROM {book} WHERE lake <> {d.literal(batch.lake)} OR batch >= {batch.batch}"
        return [others, f"INSERT INTO {book} ({names}) SELECT {names} FROM {made} AS b"]

    def _name(self) -> str:
        """Identifies the change: what is loaded, onto what."""
        content = [
            (name, sorted(self.planner.known.get(name, {}).items()), [(b, f.version) for b, f in plan.files])
            for name, plan in sorted(self.plans.items())
        ]
        return hashlib.sha256(repr([content, self.batch]).encode()).hexdigest()[:16]

    # -- what it came to -----------------------------------------------------------------------------------------

    def _count_inferred(self) -> dict[str, int]:
        found = self.session.rows(
            f"SELECT table_name, count(*) FROM {self.dialect.place(INFERRED.name)} GROUP BY table_name"
        )
        return dict(found)

    def _outcome(
        self, found: Sequence[LoadPlan], waiting: Mapping[str, Sequence[Broken]]
    ) -> dict[str, Loaded]:
        dangling: dict[str, dict[tuple[str, ...], int]] = {}
        for name, broken in ((name, one) for name, reasons in waiting.items() for one in reasons):
            counts = dangling.setdefault(broken.table, {})
            members = broken.staged if name == broken.table else broken.held
            counts[broken.columns] = max(counts.get(broken.columns, 0), members)
        inferred = self._count_inferred()
        held = dict(
            self.session.rows(
                f"SELECT table_name, CAST(sum({self.dialect.identifier('rows')}) AS "
                f"{self.dialect.type(LOADS.columns[3].type)}) FROM {self.dialect.place(LOADS.name)} GROUP BY table_name"
            )
        )
        files: dict[str, Sequence[tuple[int, StarFile]]] = dict.fromkeys(dangling, ())
        files |= {plan.table.name: plan.files for plan in found}
        files |= dict.fromkeys(waiting, ())
        return {
            name: Loaded(
                held.get(name, 0) + inferred.get(name, 0),
                sum(file.rows for _, file in loaded),
                tuple(batch for batch, _ in loaded),
                dangling.get(name, {}),
                inferred.get(name, 0),
                name in waiting,
                self.costs.get(name, Cost()),
            )
            for name, loaded in files.items()
        }


def is_noted_certified(reader: WarehouseReader, batch: int) -> bool:
    """Whether the book of batches says that all tables were found equal as of one, or knows nothing of it."""
    if not reader.has(BATCHES.name):
        return True
    known = reader.rows(f"SELECT certified FROM {SCHEMA}.{BATCHES.name} WHERE batch = {batch}")
    return not known or known[0][0] is not None


def note_certified(warehouse: Warehouse, batch: int) -> None:
    """Note in the book of batches that all tables were found equal as of one."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    with warehouse.session() as session:
        (certified,) = (column.type for column in BATCHES.columns if column.name == "certified")
        moment = session.dialect.cast(session.dialect.literal(now.isoformat(" ")), certified)
        noted = f"UPDATE {session.dialect.place(BATCHES.name)} SET certified = {moment} WHERE batch = {batch}"
        session.commit([noted], f"certified {batch}")
