"""Making the star from batches: find what is still to do, run the functions, audit, stage.

What a star table should be is a function of its code and of the batches; its version names both. A table whose
files carry that version is up to date. Otherwise the missing files are written beside the old ones, audited, and
published by whoever asked (`Build.publish`), so that a reader never sees data that failed its checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.definition import Definition
from etl_assets.engine.duck import identifier, listing, literal
from etl_assets.engine.frames import Frames
from etl_assets.engine.schema import Fact, StarTable
from etl_assets.failpoints import reached
from etl_assets.lake.batches import Manifest
from etl_assets.lake.current import DELETED, materialized, view
from etl_assets.lake.files import StagedFile
from etl_assets.lake.star import BATCH, VERSION, StarFiles, dimension_path, fact_path

# Below this, a dimension is written anew, in the order of its keys.
_UPDATED_FROM_ROWS = 100_000


@dataclass(frozen=True)
class Audit:
    """The outcome of one check of what was staged; `found` counts what violates it."""

    name: str
    found: int
    examples: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.found == 0


@dataclass
class Build:
    """The outcome of building a table: what was staged (nothing, if it was up to date), and its audits."""

    definition: Definition
    version: str
    batch: str
    star: StarFiles
    staged: list[tuple[str, StagedFile]] = field(default_factory=list)
    changed: duckdb.DuckDBPyRelation | None = None
    """The keys of a dimension's members that may differ from those published; None: any may."""
    audits: list[Audit] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(audit.passed for audit in self.audits)

    def publish(self) -> None:
        """Show what was staged, oldest batch first; unless another run, with a newer batch, was faster."""
        held = self.star.dimension(self.definition.name)
        if held and held.batch > self.batch and held.batch in self.star.batches.numbers():
            self.discard()
            return
        for _, file in self.staged:
            file.publish()
            reached("star published")

    def discard(self) -> None:
        for _, file in self.staged:
            file.discard()


class Builder(Frames):
    """Builds star tables as of a manifest."""

    def build(self, definition: Definition, manifest: Manifest) -> Build:
        """Stage what a table lacks."""
        self.check_columns(definition, manifest)
        build = Build(definition, self.version(definition.name, manifest), manifest.batch, self.star)
        try:
            if isinstance(definition.schema, Fact):
                self._build_fact(definition, definition.schema, manifest, build)
            else:
                self._build_dimension(definition, manifest, build)
        except BaseException:
            build.discard()
            raise
        return build

    def _build_dimension(self, definition: Definition, manifest: Manifest, build: Build) -> None:
        held = self.star.dimension(definition.name)
        if held and held.version == build.version:
            return
        path, names = dimension_path(definition.name), listing([c.name for c in definition.schema.columns])
        first = definition.inputs[0]
        if first not in self.inputs.tables:
            context = {name: self.read(name, manifest) for name in definition.inputs}
            made = definition.apply(self.connection, context).project("*, false AS deleted").project(names)
            ordered = made.order(identifier(definition.schema.key))
            self._stage(build, path, ordered, build.version, manifest.batch, None)
            return
        clean = self.clean(first, manifest)
        expected = manifest.tables[first].members if clean else self.count(self.members(first, manifest))
        changed = None
        if held and clean and held.rows > _UPDATED_FROM_ROWS:
            changed = self.changed_keys(definition, held, manifest)
        if changed is None:
            rows = self._dimension_rows(definition, manifest, None).project(names)
            ordered = rows.order(identifier(definition.schema.key))
            self._stage(build, path, ordered, build.version, manifest.batch, expected)
            return
        # A large dimension: the members that no batch touched are taken over from the file that is there.
        kept = self.connection.read_parquet(str(self.star.files.local(path)))
        new = materialized(
            self.connection,
            f"SELECT {names} FROM {view(self._dimension_rows(definition, manifest, changed))}",
        )
        build.changed = self.named(definition, self.connection.sql(f"FROM {changed}"), manifest)
        replaced = view(build.changed)
        rows = self.connection.sql(
            f"SELECT {names} FROM {view(kept)} ANTI JOIN {replaced} USING ({identifier(definition.schema.key)}) "
            f"UNION ALL FROM {new}"
        )
        audited = self.connection.sql(f"FROM {new}")
        self._stage(build, path, rows, build.version, manifest.batch, expected, audited)

    def _dimension_rows(
        self, definition: Definition, manifest: Manifest, only: str | None
    ) -> duckdb.DuckDBPyRelation:
        """The members of a dimension, those that are gone flagged; with `only`, those with certain source keys."""
        first, *others = definition.inputs
        context = {name: self.read(name, manifest) for name in others}
        parts = []
        for deleted in (False, True):
            members = self.members(first, manifest, f"{DELETED} = {deleted}", only)
            made = definition.apply(self.connection, {first: members, **context})
            parts.append(made.project(f"*, {deleted} AS deleted"))
        return parts[0].union(parts[1])

    def _build_fact(self, definition: Definition, schema: Fact, manifest: Manifest, build: Build) -> None:
        source, *others = definition.inputs
        self.star.remove_strays(definition.name)
        missing = self._missing_batches(definition, manifest)
        ending = {m.batch: relation for m in missing if (relation := self._ending(definition, m)) is not None}
        past = _Past(self.connection, schema, list(ending.values()))
        if missing:
            earlier = [b for b in self.star.fact_batches(definition.name) if b < missing[0].batch]
            past.remember([self.star.files.local(fact_path(definition.name, batch)) for batch in earlier])
        for batch in missing:
            state, changes = batch.tables[source], batch.changed[source]
            # The surrogate key continues where the versions of earlier batches end: it depends on batches alone.
            before = state.versions - changes.versions
            parts = []
            expected = changes.new + changes.changed - changes.quarantined_rows
            if changes.rows:
                context = {name: self.read(name, batch) for name in others}
                rows = self.typing(source, batch).typed(
                    self.current.read([changes.rows], self.columns(source, batch)),
                    only_exact=not self.clean(source, batch),
                )
                made = definition.apply(self.connection, {source: rows, **context})
                parts.append(made.project(f"*, {literal(batch.batch)} AS batch, false AS deleted"))
                if not self.clean(source, batch):
                    expected = self.count(rows)
            if batch.batch in ending and past.rows:
                endings = past.last_rows(ending[batch.batch], batch.batch)
                parts.append(endings)
                expected += duck.one(self.connection, f"SELECT count(*) FROM {view(endings)}")[0]
            if not parts:  # only deletions of rows that the fact never showed
                parts.append(self.inputs.empty(self.connection, definition.name))
            names = [column.name for column in schema.columns if column.name != schema.record]
            union = " UNION ALL ".join(f"SELECT {listing(names)} FROM {view(part)}" for part in parts)
            numbered = self.connection.sql(
                f"SELECT {before} + row_number() OVER (ORDER BY {identifier(schema.key)}) AS "
                f"{identifier(schema.record)}, {listing(names)} FROM ({union}) ORDER BY 1"
            )
            version = self.version(definition.name, batch)
            path = fact_path(definition.name, batch.batch)
            self._stage(build, path, numbered, version, batch.batch, expected)
            past.remember([build.staged[-1][1].local])

    def _missing_batches(self, definition: Definition, manifest: Manifest) -> list[Manifest]:
        """The batches that changed a fact's table and that the fact does not hold as its code now makes them."""
        source = definition.inputs[0]
        held = self.star.fact_batches(definition.name)
        after = None
        if held:
            newest = self.star.fact(definition.name, held[-1])
            if newest and newest.version == self.version(definition.name, self.batches.get(held[-1])):
                # Files are published oldest first, so the newest vouches for those before it.
                after = held[-1]
        return list(self.batches.changing(source, manifest, after=after))[::-1]

    def _ending(self, definition: Definition, batch: Manifest) -> duckdb.DuckDBPyRelation | None:
        """The keys, as the fact names them, of rows whose latest version a batch ended without one that the star
        can show: those deleted, and those quarantined."""
        source = definition.inputs[0]
        state, changes = batch.tables[source], batch.changed[source]
        ended = []
        if changes.deletions:
            ended.append(
                self.current.read([changes.deletions], state.key_columns).project(listing(state.key))
            )
        if changes.rows and not self.clean(source, batch):
            rows = self.current.read([changes.rows], self.columns(source, batch))
            misfits = rows.filter(f"NOT ({self.typing(source, batch).exact})")
            ended.append(misfits.project(listing(state.key)))
        if not ended:
            return None
        keys = self.connection.sql(" UNION ALL ".join(f"FROM {view(relation)}" for relation in ended))
        return self.named(definition, keys, batch)

    def _stage(
        self,
        build: Build,
        path: str,
        relation: duckdb.DuckDBPyRelation,
        version: str,
        batch: str,
        expected: int | None,
        audited: duckdb.DuckDBPyRelation | None = None,
    ) -> None:
        """Write and audit a file. `audited` are the rows to look at, where the others were when they were new."""
        # Another run may be staging here right now; what is older than a day was left by a kill.
        self.star.files.sweep(path.rpartition("/")[0], older_than_seconds=86_400)
        staged = self.star.files.staging(path)
        build.staged.append((path, staged))
        notes = {VERSION.decode(): version, BATCH.decode(): batch}
        duck.write_parquet(relation, staged.local, notes)
        reached("star staged")
        written = self.connection.read_parquet(str(staged.local))
        build.audits.extend(_audits(self.connection, build.definition.schema, audited or written))
        if expected is not None:
            build.audits.append(Audit("no_row_is_lost_or_added", abs(expected - self.count(written))))


def _audits(
    connection: duckdb.DuckDBPyConnection, schema: StarTable, rows: duckdb.DuckDBPyRelation
) -> list[Audit]:
    """Look at rows before they are published."""
    key, source = identifier(schema.key), view(rows)
    required = [c.name for c in schema.columns if not c.type.nullable]
    nulls = " + ".join(f"count(*) FILTER ({identifier(name)} IS NULL)" for name in required)
    count, without_value, distinct = duck.one(
        connection, f"SELECT count(*), {nulls}, count(DISTINCT {key}) FROM {source}"
    )
    duplicated: tuple[str, ...] = ()
    if count != distinct:
        found = connection.execute(
            f"SELECT {key} FROM {source} GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 5"
        ).fetchall()
        duplicated = tuple(str(value) for (value,) in found)
    return [
        Audit("keys_are_unique", count - distinct, duplicated),
        Audit("required_values_are_present", without_value),
    ]


class _Past:
    """The rows of a fact, in earlier batches, of those keys whose deletion is to be recorded."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, schema: Fact, ending: list[duckdb.DuckDBPyRelation]
    ) -> None:
        self.connection = connection
        self.schema = schema
        self.names = listing([column.name for column in schema.columns])
        self.keys = None
        self.rows: list[str] = []
        if ending:
            self.keys = materialized(
                connection, " UNION ".join(f"FROM {view(relation)}" for relation in ending)
            )

    def remember(self, files: list[Path]) -> None:
        """Take note of what published or staged files hold of these keys."""
        if self.keys and files:
            rows = self.connection.read_parquet([str(file) for file in files])
            self.rows.append(
                materialized(
                    self.connection,
                    f"SELECT {self.names} FROM {view(rows)} SEMI JOIN {self.keys} "
                    f"USING ({identifier(self.schema.key)})",
                )
            )

    def last_rows(self, keys: duckdb.DuckDBPyRelation, batch: str) -> duckdb.DuckDBPyRelation:
        """The last version of each key, as the row that records its deletion in `batch`."""
        past = " UNION ALL ".join(f"FROM {rows}" for rows in self.rows)
        kept = f"* EXCLUDE ({identifier(self.schema.record)}, batch, deleted)"
        return self.connection.sql(
            f"SELECT {kept}, {literal(batch)} AS batch, true AS deleted FROM ("
            f"FROM ({past}) SEMI JOIN {view(keys)} USING ({identifier(self.schema.key)}) "
            f"QUALIFY row_number() OVER (PARTITION BY {identifier(self.schema.key)} "
            f"ORDER BY {identifier(self.schema.record)} DESC) = 1) WHERE NOT deleted"
        )


def merged(audits: list[Audit]) -> Mapping[str, Audit]:
    """The audits of several files of one table, added up by name."""
    result: dict[str, Audit] = {}
    for audit in audits:
        before = result.get(audit.name, Audit(audit.name, 0))
        result[audit.name] = Audit(
            audit.name, before.found + audit.found, (before.examples + audit.examples)[:5]
        )
    return result
