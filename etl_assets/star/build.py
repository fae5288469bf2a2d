"""Making the star from batches: find what is still to do, go through the batches, audit, stage.

What a star table is as of a batch is a function of its code and of the batches up to it; its version names both. A table
whose files carry the version of now is up to date. The others go on from the batch that their files show, or, where
these were made by other code, from the first batch: all of them together, batch by batch, so that a table that is made
from another one sees it as of the same batch. Files are written beside the old ones, audited, and published by whoever
asked (`Build.publish`), so that a reader never sees data that failed its checks.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from etl_assets import faults
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.operators import Opaque
from etl_assets.failpoints import reached
from etl_assets.lake.current import Current, forget, made_so_far, materialized, view
from etl_assets.lake.files import LakeError
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.manifest import MAIN, Manifest
from etl_assets.lake.names import number
from etl_assets.later import Later
from etl_assets.star.application import Application, Applied
from etl_assets.star.change import InputChange, shown_key
from etl_assets.star.course import Course, DimensionCourse, FactCourse, Step, audits_of
from etl_assets.star.frames import Arrivals, Frames
from etl_assets.star.function import ContractError, StarFunction, function_fails
from etl_assets.star.lineage import drives
from etl_assets.star.outcome import Audit, Build, Staged, broken
from etl_assets.star.schema import Dimension, Fact
from etl_assets.star.trial import Refuted, Verdict, tried

if TYPE_CHECKING:
    import pyarrow.parquet as pq
else:
    pq = Later("pyarrow.parquet")

_MEND_IT = "its rows are not behind that: change the function or its declaration, and run again"
# What a function, or an expression of it, may raise for some rows and not for all.
_FAILS_IN_PART = (duckdb.DataError, duckdb.ProgrammingError, ContractError)
_MORE_MEMORY = (
    "its rows are not behind that, but how much memory there is: give the process more, or let the function do without columns of "
    "long values"
)
_numbers = count()
# A dimension up to this size is written in the order of its keys; a larger one that is brought up to a batch is not.
_SORTED_ROWS = 100_000
# What a function gives for all rows is put into a file, not into memory, where its first input has more rows than this.
_IN_MEMORY_ROWS = 200_000


class Builder(Frames):
    """Builds star tables as of a manifest."""

    def derive(
        self,
        manifest: Manifest,
        names: Sequence[str] | None = None,
        anew: Collection[str] = (),
        *,
        replay: Collection[str] = (),
        most_batches: int | None = None,
    ) -> Iterator[Build]:
        """Stage what star tables lack (all, or those named), each after those that it is made from. Those in `anew` are
        made again from their first batch, whatever is published. A table that more than `most_batches` would have to be
        gone through for stays as it is, unless it is in `replay`."""
        with ExitStack() as stack:
            derivation = _Derivation(self, manifest, names or list(self.inputs.star), anew, stack)
            if most_batches is not None:
                derivation.limit(most_batches, replay)
            yield from derivation.run()


class _Derivation:
    """One way through the batches."""

    def __init__(
        self,
        builder: Builder,
        manifest: Manifest,
        names: Sequence[str],
        anew: Collection[str],
        stack: ExitStack,
    ) -> None:
        self.builder = builder
        self.inputs = builder.inputs
        self.star = builder.star
        self.connection = builder.connection
        self.manifest = manifest
        self.stack = stack
        self.anew = set(anew)
        self.from_nothing: set[str] = set()
        """The tables that are made from the first batch on."""
        self.folder: Path | None = None
        self.builds: dict[str, Build] = {}
        self.courses: dict[str, Course] = {}
        self.pending: dict[str, list[Manifest]] = {}
        needed = self._needed(names)
        self.order = [d for d in self.inputs.in_order() if d.name in needed]
        self.names = set(names)
        self.without_input: dict[str, Build] = {}
        """The tables that can't be made, as the lake holds nothing of what they are made from; unless all are."""
        lacking = {d.name: self._lacking(d.name) for d in self.order}
        if not all(lacking.values()):
            self.order = [d for d in self.order if not lacking[d.name]]
            self.without_input = {n: self._without(n, tables) for n, tables in lacking.items() if tables}
        for definition in self.order:
            builder.check_columns(definition, manifest)
            self._begin(definition, definition.name in anew)
        self._ghosts()

    def _lacking(self, name: str) -> list[str]:
        """The source tables that a table is made from, and of which the lake holds nothing."""
        lacking = []
        for table in self.builder.sources(name):
            try:
                self.builder.as_of(table, self.manifest)
            except LakeError:
                lacking.append(table)
        return lacking

    def _without(self, name: str, tables: Sequence[str]) -> Build:
        build = Build(self.inputs.star[name], "", self.manifest.batch, self.star, shows=self._published(name))
        called = [table for table in tables if self.inputs.tables[table].source != MAIN]
        why = (
            f"of which no window was fetched yet (etl fetch {' '.join(called)})"
            if called
            else "which was left out when the source was read; what etl run says of it tells why"
        )
        build.failure = f"{name} can't be made: the lake holds nothing of {', '.join(tables)}, {why}"
        return build

    def _needed(self, names: Sequence[str]) -> set[str]:
        """Tables, and those that they are made from."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += [i for i in self.inputs.star[name].inputs if i in self.inputs.star]
        return found

    # -- where each table stands ---------------------------------------------------------------------------------

    def _begin(self, definition: StarFunction, anew: bool) -> None:
        name, schema = definition.name, definition.schema
        version = self.builder.version(name, self.manifest)
        build = Build(definition, version, self.manifest.batch, self.star)
        at = None if anew else self._stands_at(definition, build)
        self.builds[name] = build
        build.shows = at.batch if at else None
        if at is None:
            self.from_nothing.add(name)
        if isinstance(schema, Fact):
            self.courses[name] = FactCourse(schema, self.connection, at, files=self._held(name, at))
        elif isinstance(schema, Dimension):
            self.courses[name] = self._dimension(schema, at)
        self.pending[name] = self.builder.changing(name, self.manifest, at.batch if at else None)

    def _dimension(self, schema: Dimension, at: Manifest | None) -> DimensionCourse:
        course = DimensionCourse(schema, self.connection, at)
        if at:
            (path,) = self.star.paths(schema)
            course.members = view(duck.read_parquet(self.connection, [self.star.local(path)]))
            course.touched = materialized(
                self.connection, f"SELECT {course.keys} FROM {course.members} LIMIT 0"
            )
        return course

    def _stands_at(self, definition: StarFunction, build: Build) -> Manifest | None:
        """The batch that the published files of a table show, if the code of now made them."""
        if wrong := self.star.check(definition.name):
            build.notice = f"made again, because {wrong}"
        held = self.star.shown(definition.schema)
        if isinstance(definition.schema, Dimension):
            build.held = held
        if held is None or held.batch > self.manifest.batch:
            return None
        at = self.builder.batches.get(held.batch)
        return at if self.builder.version(definition.name, at) == held.version else None

    def _held(self, name: str, at: Manifest | None) -> list[Path]:
        found = self.star.table(name)
        return [self.star.local(f.path) for f in found.files if f.batch <= at.batch] if found and at else []

    def _ghosts(self) -> None:
        """A dimension that is further than a table that is made from it is gone through from the first batch too: its
        file does not say what it was before."""
        for definition in reversed(self.order):
            own = self.courses[definition.name]
            if not self.pending[definition.name]:
                continue
            for name in definition.inputs:
                course = self.courses.get(name)
                if not isinstance(course, DimensionCourse) or course.at is None:
                    continue
                since = own.at.batch if own.at else None
                if any(m.batch <= course.at.batch for m in self.builder.changing(name, self.manifest, since)):
                    self.courses[name] = self._dimension(course.schema, None)
                    self.pending[name] = self.builder.changing(name, self.manifest)

    def limit(self, most_batches: int, replay: Collection[str]) -> None:
        """Leave tables as they are that would have to be made from very many batches, until somebody decides."""
        for name in self.from_nothing - set(replay):
            build, course, pending = self.builds[name], self.courses[name], len(self.pending[name])
            if pending <= most_batches:
                continue
            self.pending[name] = []
            course.stopped = True
            build.shows = self._published(name)
            build.failure = too_many(name, pending, most_batches)

    def _published(self, name: str) -> int | None:
        """The batch that published files show of a table, whatever code made them."""
        held = self.star.shown(self.inputs.star[name].schema)
        return held.batch if held else None

    def _stays(self, build: Build) -> str | None:
        """How a table is shown that can't show a batch, in words; None if it is not shown at all."""
        if build.shows:
            return f"stays at batch {number(build.shows)}"
        shown = self._published(build.definition.name)
        return f"stays as other code made it, at batch {number(shown)}" if shown else None

    # -- the way -------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Build]:
        batches = {m.batch: m for pending in self.pending.values() for m in pending}
        several, since = len(batches) > 1, made_so_far()
        if several:
            self._bases_of_our_own()
            for name, course in self.courses.items():
                if isinstance(course, FactCourse) and len(self.pending[name]) > 1:
                    course.keep = True
        try:
            for batch in sorted(batches):
                for definition in self.order:
                    with self._timed(definition):
                        self._batch(definition, batches[batch])
                if several:
                    self._tidy(batches[batch], since)
            for definition in self.order:
                if definition.name in self.names:
                    with self._timed(definition):
                        build = self._finished(definition)
                    yield build
            yield from (build for name, build in self.without_input.items() if name in self.names)
        except BaseException:
            for build in self.builds.values():
                build.discard()
            raise

    @contextmanager
    def _timed(self, definition: StarFunction) -> Iterator[None]:
        """Count what the block takes as a table's."""
        with self.builds[definition.name].cost.counting():
            yield

    def _tidy(self, batch: Manifest, since: int) -> None:
        """After one of many batches: keep what the next ones need, and nothing else."""
        kept = set().union(*(course.settled() for course in self.courses.values()))
        for course in self.courses.values():
            course.last = None
        self.builder.forget()
        forget(self.connection, kept, since)
        for table in batch.changed:
            self.builder.current.compact(table, batch)

    def _bases_of_our_own(self) -> None:
        """Where many batches are gone through, keep what the lake keeps of the newest one for each on the way."""
        folder = self._scratch() / "lake"
        shared = self.builder.current
        own = Current(
            shared.batches,
            self.connection,
            from_batches_alone=shared.from_batches_alone,
            bases=LocalFiles(folder),
        )
        self.builder.current = own
        self.stack.callback(setattr, self.builder, "current", shared)

    def _scratch(self) -> Path:
        if self.folder is None:
            (place,) = duck.one(self.connection, "SELECT current_setting('temp_directory')")
            made = self.stack.enter_context(tempfile.TemporaryDirectory(dir=place, prefix="derive-"))
            self.folder = Path(made)
        return self.folder

    def _batch(self, definition: StarFunction, batch: Manifest) -> None:
        """Bring one table up to a batch."""
        name = definition.name
        course, build = self.courses[name], self.builds[name]
        course.last = None
        if not self.pending[name] or self.pending[name][0].batch != batch.batch:
            return
        self.pending[name].pop(0)
        blocked = [i for i in definition.inputs if i in self.courses and self.courses[i].stopped]
        if blocked:
            course.stopped = True
            build.failure = (
                f"{name} is made from {', '.join(blocked)}, which can't show batch {number(batch.batch)}"
            )
            return
        cause = ""
        try:
            failure = self._step(definition, course, build, batch)
        except function_fails() as error:
            self.builder.star.check_not_overtaken()
            told = faults.told(error).removeprefix(f"{name}: ")
            failure = told if isinstance(error, ContractError) else f"its function fails: {told}"
            build.error = faults.bare(error)
            if isinstance(error, Refuted):
                cause = _MEND_IT
            elif isinstance(error, duckdb.OutOfMemoryException):
                cause = _MORE_MEMORY
        if failure:
            course.stopped, course.last = True, None
            cause = cause or self._cause(definition, course.at, batch)
            stays = self._stays(build)
            stays = f"it {stays}" if stays else "there is no earlier version of it"
            build.failure = f"{name} can't show batch {number(batch.batch)}: {failure}; {cause}; {stays}"
            return
        course.at, course.stopped = batch, False
        build.failure, build.shows = None, batch.batch

    def _cause(self, definition: StarFunction, at: Manifest | None, batch: Manifest) -> str:
        """Which input's rows are behind a failure."""
        found = []
        for table in self.builder.sources(definition.name):
            change = self.builder.change(table, at, batch)
            if at is not None and not change.changed:
                continue
            rows = change.come or change.rows
            key = listing(change.keys)
            some = self.connection.execute(f"SELECT {key} FROM {rows} ORDER BY ALL LIMIT 3").fetchall()
            names = ", ".join(map(shown_key, change.keys))
            keys = "; ".join(", ".join(map(str, row)) for row in some)
            found.append(f"{table} ({names}: {keys}, …)" if keys else table)
        # A reference file counts as code: what it says is other only where a table is made for the first time, or anew.
        files = [self.inputs.references[name].name for name in self.inputs.files(definition.name)]
        found += files if at is None else []
        where = "there" if files and at is None else "in the source"
        return (
            f"behind it are rows that came with {', '.join(found)}: mend them {where} and run again, or let the "
            "function give one complete row for each key"
        )

    def _step(self, definition: StarFunction, course: Course, build: Build, batch: Manifest) -> str | None:
        """What a batch does to a table, taken in; or why it can't be shown."""
        if (arrived := self._arrived(definition, course, batch)) is not None:
            return self._plain(definition, course, build, batch, arrived)
        changes = {name: self._input(definition, name, course, batch) for name in definition.inputs}
        applied = self._applied(definition, course, changes)
        build.how = applied.how
        if course.at is None:
            return self._first(definition, course, build, batch, applied)
        audits = self._audited(course, applied.now) if applied.was else []
        step = None
        if all(audit.passed for audit in audits):
            forced = self._forced(definition, course, batch)
            come, gone, alike = course.compared(applied.now, applied.was or course.current(), forced)
            step = Step(come, gone, course.without(gone, come), applied.how)
            if applied.was is None:  # what did not change was audited before
                audits += self._audited(course, come if alike else applied.now)
            if applied.was is not None:
                audits += self._clash(definition, course, step, batch)
            counted = self._counts(step)
            audits += self._lost(definition, course.at, batch, counted[0] - counted[2])
        build.audits += audits
        if step is None or not all(audit.passed for audit in audits):
            return broken(audits)
        build.count(*counted)
        self._take_in(definition, course, build, batch, step)
        return None

    def _take_in(
        self, definition: StarFunction, course: Course, build: Build, batch: Manifest, step: Step
    ) -> None:
        if isinstance(course, FactCourse):
            rows = course.versions(step, step.come, self._base(definition, course, batch), batch.batch)
            course.add(self._stage(build, rows, batch).local)
        course.advance(step)
        course.last = step

    def _arrived(self, definition: StarFunction, course: Course, batch: Manifest) -> Arrivals | None:
        """What a batch landed, where that is all that a table needs to know: each of its rows is made from one, under
        that one's key, and no other table asks what it was before."""
        if course.at is None or course.stopped or not self.builder.plain(definition, batch):
            return None
        asked = [
            d.name
            for d in self.order
            if definition.name in d.inputs and definition.name not in d.schema.facts_with_versions
        ]
        return None if asked else self.builder.arrivals(definition.inputs[0], course.at, batch)

    def _plain(
        self, definition: StarFunction, course: Course, build: Build, batch: Manifest, arrived: Arrivals
    ) -> str | None:
        """The same as `_step` for such a table."""
        made = []
        for rows in (arrived.come, arrived.left):
            relation = definition.apply(
                self.connection, {definition.inputs[0]: self.connection.sql(f"FROM {rows}")}
            )
            made.append(materialized(self.connection, f"SELECT {course.declared} FROM {view(relation)}"))
        come, left = made
        given, expected, gone = duck.one(
            self.connection,
            f"SELECT (SELECT count(*) FROM {come}), (SELECT count(*) FROM {arrived.come}), (SELECT count(*) FROM {left})",
        )
        audits = [
            *self._audited(course, come),
            Audit("no_row_is_lost_or_added", abs(given - expected)),
        ]
        build.audits += audits
        if not all(audit.passed for audit in audits):
            return broken(audits)
        build.how = f"by row: {given + gone:,} of {definition.inputs[0]}"
        new = min(arrived.changes.new, given)
        build.count(new, given - new, gone)
        self._take_in(definition, course, build, batch, Step(come, left, left, build.how))
        return None

    def _first(
        self, definition: StarFunction, course: Course, build: Build, batch: Manifest, applied: Applied
    ) -> str | None:
        """The first rows of a table. Those of a fact are written at once, and looked at then: nothing is computed twice."""
        staged = None
        rows = applied.now
        if isinstance(course, FactCourse):
            numbered = course.versions(None, rows, 0, batch.batch)
            staged = self._stage(build, numbered, batch)
            rows = duck.parquet([staged.local])
        audits = self._audited(course, rows)
        (total,) = duck.one(self.connection, f"SELECT count(*) FROM {rows}")
        audits += self._lost(definition, None, batch, total)
        build.audits += audits
        if not all(audit.passed for audit in audits):
            if staged:
                build.staged.pop()
                staged.file.discard()
            return broken(audits)
        build.count(total, 0, 0)
        if isinstance(course, FactCourse) and staged:
            course.add(staged.local)
        course.begin(applied)
        return None

    def _input(self, definition: StarFunction, name: str, course: Course, batch: Manifest) -> InputChange:
        if name not in self.courses:
            return self.builder.change(name, course.at, batch)
        versions = name in definition.schema.facts_with_versions
        return self.courses[name].as_input(versions=versions, moved=course.at is not None)

    def _applied(
        self, definition: StarFunction, course: Course, changes: Mapping[str, InputChange]
    ) -> Applied:
        application = Application(definition, self.inputs, self.connection)
        verdict = self._tried(definition, changes)
        if course.at is None:
            applied = application.whole(changes, "it is made for the first time, or anew")
            return applied if isinstance(course, FactCourse) else self._computed(applied, changes)
        if course.stopped:
            return self._computed(application.whole(changes, "it could not show the batch before"), changes)
        try:
            if verdict.parts:
                raise Opaque(verdict.parts)
            return application.to_changes(changes)
        except Opaque as reason:
            told = str(reason)
        except _FAILS_IN_PART as error:
            # On all rows it may not: what it casts after a filter is cast here where the filter was not asked.
            told = f"on the rows that a change reaches alone it fails ({faults.told(error)})"
        return self._computed(application.whole(changes, told), changes)

    def _tried(self, definition: StarFunction, changes: Mapping[str, InputChange]) -> Verdict:
        """What trying a function came to. Where its SQL shows that it goes row by row there is nothing to be wrong about."""
        if self.inputs.is_seen_by_row(definition):
            return Verdict()
        return tried(definition, self.inputs, changes, self.connection, self.star.files)

    def _computed(self, applied: Applied, changes: Mapping[str, InputChange]) -> Applied:
        """What a function gives for all rows, computed once, to be looked at several times."""
        total = max(change.size or self._size(change) for change in changes.values())
        if total <= _IN_MEMORY_ROWS:
            now = materialized(self.connection, f"SELECT * FROM {applied.now}")
        else:
            path = self._scratch() / f"{next(_numbers)}.parquet"
            duck.write_parquet(self.connection.sql(f"FROM {applied.now}"), path, {}, for_now=True)
            now = view(duck.read_parquet(self.connection, [path]))
        return Applied(now, None, applied.how)

    def _size(self, change: InputChange) -> int:
        (rows,) = duck.one(self.connection, f"SELECT count(*) FROM {change.rows}")
        return int(rows)

    def _forced(self, definition: StarFunction, course: Course, batch: Manifest) -> str | None:
        """The keys of a fact's rows that have a new version because their source row has one."""
        carried = self.builder.carried_key(definition, batch) if isinstance(course, FactCourse) else None
        if carried is None:
            return None
        table = definition.inputs[0]
        change = self.builder.change(table, course.at, batch)
        if not change.changed:
            return None
        key = self.builder.as_of(table, batch).tables[table].key
        chosen = ", ".join(f"{identifier(k)} AS {identifier(c)}" for k, c in zip(key, carried, strict=True))
        return f"(SELECT {course.keys} FROM (SELECT {chosen} FROM {change.come}))"

    # -- audits --------------------------------------------------------------------------------------------------

    def _audited(self, course: Course, rows: str) -> list[Audit]:
        _, missing, twice, examples = audits_of(self.connection, course.schema, rows)
        return [
            Audit("keys_are_unique", twice, tuple(examples)),
            Audit("required_values_are_present", missing),
        ]

    def _clash(self, definition: StarFunction, course: Course, step: Step, batch: Manifest) -> list[Audit]:
        """Rows that come with the key of one that stays. There is none where the key is that of the source's rows which a
        change reaches."""
        carried = self.builder.carried_key(definition, batch)
        if carried is not None and drives(definition, self.inputs, carried):
            return []
        keys = course.keys
        came = course.without(step.come, step.gone)
        found = self.connection.execute(
            f"SELECT {keys} FROM {came} SEMI JOIN {course.current()} USING ({keys}) ORDER BY ALL LIMIT 5"
        ).fetchall()
        return [Audit("keys_are_unique", len(found), tuple(", ".join(map(str, key)) for key in found))]

    def _counts(self, step: Step) -> tuple[int, int, int]:
        """Rows that are new, changed and deleted."""
        come, gone, left = duck.one(
            self.connection,
            f"SELECT (SELECT count(*) FROM {step.come}), (SELECT count(*) FROM {step.gone}), "
            f"(SELECT count(*) FROM {step.left})",
        )
        return come - (gone - left), gone - left, left

    def _lost(
        self, definition: StarFunction, at: Manifest | None, batch: Manifest, grown: int
    ) -> list[Audit]:
        """Whether a table grew by as many rows as the one that each of its rows is made from."""
        table = definition.inputs[0]
        if definition.schema.rows != "one per row" or table not in self.inputs.tables:
            return []
        return [Audit("no_row_is_lost_or_added", abs(grown - self._grown(table, at, batch)))]

    def _grown(self, table: str, at: Manifest | None, batch: Manifest) -> int:
        """By how many rows that fit their types a table grew."""
        if at is None:
            now = self.builder.as_of(table, batch)
            if self.builder.clean(table, now):
                return now.tables[table].rows
            return self.builder.count(self.builder.existing(table, now))
        change = self.builder.change(table, at, batch)
        if not change.changed:
            return 0
        (grown,) = duck.one(
            self.connection,
            f"SELECT (SELECT count(*) FROM {change.come}) - (SELECT count(*) FROM {change.gone})",
        )
        return int(grown)

    # -- writing -------------------------------------------------------------------------------------------------

    def _base(self, definition: StarFunction, course: FactCourse, batch: Manifest) -> int:
        """The number after which a batch's versions are numbered."""
        highest = course.highest()
        if not self.builder.plain(definition, batch):
            return highest
        # The versions that the source's table had before: fewer than there are numbers where one batch makes up for others that
        # the table could not show.
        state = self.builder.as_of(definition.inputs[0], batch).tables[definition.inputs[0]]
        first = state.changed_in != batch.batch
        return max(highest, 0 if first or state.changes is None else state.versions - state.changes.versions)

    def _stage(self, build: Build, rows: duckdb.DuckDBPyRelation, batch: Manifest) -> Staged:
        file = self.star.staging(build.definition.name, self.manifest.batch)
        version = self.builder.version(build.definition.name, batch)
        try:
            duck.write_parquet(rows, file.local, {})
            staged = Staged(batch.batch, version, file, pq.read_metadata(file.local).num_rows)
        except BaseException:
            file.discard()
            raise
        build.staged.append(staged)
        reached("star staged")
        return staged

    def _finished(self, definition: StarFunction) -> Build:
        """What was made of a table, staged."""
        name = definition.name
        course, build = self.courses[name], self.builds[name]
        if isinstance(course, DimensionCourse):
            made_before = build.held and build.held.version == build.version and name not in self.anew
            if course.steps and course.at and not made_before:
                self._write_members(course, build, course.at)
            if course.touched:
                build.touched = self.connection.sql(f"FROM {course.touched}")
        build.anew = name in self.from_nothing
        self._hold_back(definition, build)
        return build

    def _hold_back(self, definition: StarFunction, build: Build) -> None:
        """Let a table stay with a dimension that it refers to, where that can't show the newest batch."""
        for name in set(definition.schema.links.values()) - {definition.name}:
            dimension = self.builds.get(name)
            if dimension is None or dimension.passed or not build.staged:
                continue
            shows = dimension.shows
            kept = [
                s for s in build.staged if isinstance(definition.schema, Fact) and shows and s.batch <= shows
            ]
            for staged in build.staged:
                if staged not in kept:
                    staged.file.discard()
            if len(kept) < len(build.staged):
                build.staged, build.shows = kept, dimension.shows
                stays = self._stays(dimension) or "can't be made"
                build.failure = build.failure or (
                    f"{definition.name} refers to {name}, which {stays}: it stays as it is too"
                )

    def _write_members(self, course: DimensionCourse, build: Build, at: Manifest) -> None:
        names = listing([column.name for column in course.schema.columns])
        rows = self.connection.sql(f"SELECT {names} FROM {course.members}")
        if build.held is None or build.held.rows <= _SORTED_ROWS or course.touched is None:
            rows = rows.order(course.keys)
        self._stage(build, rows, at)


def too_many(name: str, pending: int, most_batches: int) -> str:
    """Why a table is not made from so many batches, and what to do."""
    return (
        f"{name} was made by other code, or by none: to make it means to go through {pending:,} batches, more "
        f"than {most_batches:,} (ETL_REPLAY_BATCHES); run again with --replay star/{name}, or, to let it begin "
        f"at the newest batch, without what it was before, with --from-now star/{name}"
    )
