"""Making the star from batches: find what is still to do, run the functions, audit, stage.

What a star table should be is a function of its code and of the batches; its version names both. A table whose
files carry that version is up to date. Otherwise the missing files are written beside the old ones, audited, and
published by whoever asked (`Build.publish`), so that a reader never sees data that failed its checks.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.definition import Definition, Inputs, reference
from etl_assets.engine.duck import identifier, listing, literal
from etl_assets.engine.schema import Fact
from etl_assets.engine.typing import typed
from etl_assets.lake.batches import LandedFile, Manifest
from etl_assets.lake.current import DELETED, Current, view
from etl_assets.lake.files import LakeError, StagedFile
from etl_assets.lake.star import BATCH, VERSION, StarFiles, dimension_path, fact_path


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
    staged: list[tuple[str, StagedFile]] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(audit.passed for audit in self.audits)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.staged]

    def publish(self) -> None:
        """Show what was staged, oldest batch first."""
        for _, file in self.staged:
            file.publish()

    def discard(self) -> None:
        for _, file in self.staged:
            file.discard()


class Builder:
    """Builds star tables as of a manifest."""

    def __init__(
        self, inputs: Inputs, current: Current, star: StarFiles, connection: duckdb.DuckDBPyConnection
    ) -> None:
        self.inputs = inputs
        self.current = current
        self.batches = current.batches
        self.star = star
        self.connection = connection

    # -- versions ------------------------------------------------------------------------------------------------

    def version(self, name: str, manifest: Manifest) -> str:
        """What identifies an input, or a star table, as of a manifest."""
        if name in self.inputs.tables:
            return self._newest_change(name, manifest).tables[name].history
        if name in self.inputs.references:
            return hashlib.sha256(self.inputs.references[name].read_bytes()).hexdigest()
        definition = self.inputs.star[name]
        if isinstance(definition.schema, Fact):
            # A fact is made batch by batch: it stands as its newest batch left it.
            manifest = self._newest_change(definition.inputs[0], manifest)
        parts = [definition.code_version, *(self.version(i, manifest) for i in definition.inputs)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]

    def _newest_change(self, table: str, manifest: Manifest) -> Manifest:
        if table not in manifest.tables:
            raise LakeError(
                f"the lake holds nothing of the source's table {table}: materialize raw/{table} first"
            )
        return self.batches.get(manifest.tables[table].changed_in)

    # -- building ------------------------------------------------------------------------------------------------

    def build(self, definition: Definition, manifest: Manifest) -> Build:
        """Stage what a table lacks."""
        build = Build(definition, self.version(definition.name, manifest), manifest.batch)
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
        first, *others = definition.inputs
        context = {name: self.read(name, manifest) for name in others}
        if first in self.inputs.tables:
            fold = self.current.fold(first, manifest)
            types = self.inputs.tables[first].types
            parts = []
            for deleted in (False, True):
                members = typed(fold.relation.filter(f"{DELETED} = {deleted}"), types, fold.columns)
                made = definition.apply(self.connection, {first: members, **context})
                parts.append(made.project(f"*, {deleted} AS deleted"))
            relation = parts[0].union(parts[1])
            expected = manifest.tables[first].members
        else:
            made = definition.apply(self.connection, {first: self.read(first, manifest), **context})
            relation = made.project("*, false AS deleted")
            expected = None
        names = [column.name for column in definition.schema.columns]
        ordered = relation.project(listing(names)).order(identifier(definition.schema.key))
        self._stage(build, dimension_path(definition.name), ordered, build.version, manifest.batch, expected)

    def _build_fact(self, definition: Definition, schema: Fact, manifest: Manifest, build: Build) -> None:
        source, *others = definition.inputs
        for missing in self._missing_batches(definition, manifest):
            state = missing.tables[source]
            changes = missing.changed[source]
            types = self.inputs.tables[source].types
            context = {name: self.read(name, missing) for name in others}
            parts = []
            if changes.rows:
                parts.append((self.current.read(changes.rows, state.columns), "false"))
            if changes.deletions:
                parts.append((self._last_values(source, changes.deletions, missing), "true"))
            made = [
                definition.apply(
                    self.connection, {source: typed(rows, types, state.columns), **context}
                ).project(f"*, {literal(missing.batch)} AS batch, {deleted} AS deleted")
                for rows, deleted in parts
            ]
            # The surrogate key continues where the versions of earlier batches end: it depends on batches alone.
            expected = changes.versions
            before = state.versions - expected
            union = self.connection.sql(" UNION ALL ".join(f"FROM {view(part)}" for part in made))
            names = [column.name for column in schema.columns if column.name != schema.record]
            numbered = self.connection.sql(
                f"SELECT {before} + row_number() OVER () AS {identifier(schema.record)}, {listing(names)} "
                f"FROM (FROM {view(union)} ORDER BY {identifier(schema.key)})"
            )
            version = self.version(definition.name, missing)
            self._stage(
                build, fact_path(definition.name, missing.batch), numbered, version, missing.batch, expected
            )

    def _missing_batches(self, definition: Definition, manifest: Manifest) -> list[Manifest]:
        """The batches that changed a fact's table and that the fact does not hold as its code now makes them."""
        source = definition.inputs[0]
        held = self.star.fact_batches(definition.name)
        after = None
        if held and held[-1] in self.batches.numbers():
            newest = self.star.fact(definition.name, held[-1])
            if newest and newest.version == self.version(definition.name, self.batches.get(held[-1])):
                # Files are published oldest first, so the newest vouches for those before it.
                after = held[-1]
        return list(self.batches.changing(source, manifest, after=after))[::-1]

    def _last_values(self, table: str, deletions: LandedFile, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        """The rows that a batch deleted, as they last were."""
        state = manifest.tables[table]
        keys = self.current.read(deletions, tuple(c for c in state.columns if c.name in state.key))
        fold = self.current.fold(table, manifest)
        return self.connection.sql(
            f"SELECT f.* EXCLUDE ({DELETED}) FROM {view(fold.relation)} f SEMI JOIN {view(keys)} USING "
            f"({listing(state.key)})"
        )

    # -- inputs --------------------------------------------------------------------------------------------------

    def read(self, name: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        """An input as star functions see it: a source table's members (deleted ones included, since history
        refers to them), a star table, or a reference file."""
        if name in self.inputs.references:
            return reference(self.connection, self.inputs.references[name])
        if name in self.inputs.tables:
            fold = self.current.fold(name, manifest)
            return typed(fold.relation, self.inputs.tables[name].types, fold.columns)
        paths = self.star.paths(name)
        if not paths:
            return self.inputs.empty(self.connection, name)
        return self.connection.read_parquet([str(self.star.files.local(path)) for path in paths])

    # -- staging and audits --------------------------------------------------------------------------------------

    def _stage(
        self,
        build: Build,
        path: str,
        relation: duckdb.DuckDBPyRelation,
        version: str,
        batch: str,
        expected: int | None,
    ) -> None:
        staged = self.star.files.staging(path)
        build.staged.append((path, staged))
        notes = {VERSION.decode(): version, BATCH.decode(): batch}
        duck.write_parquet(relation, staged.local, notes)
        written = self.connection.read_parquet(str(staged.local))
        build.audits.extend(self._audits(build.definition, written, expected))

    def _audits(
        self,
        definition: Definition,
        written: duckdb.DuckDBPyRelation,
        expected: int | None,
    ) -> list[Audit]:
        schema = definition.schema
        key = identifier(schema.key)
        source = view(written)
        required = [c.name for c in schema.columns if not c.type.nullable]
        nulls = " + ".join(f"count(*) FILTER ({identifier(name)} IS NULL)" for name in required)
        rows, without_value, distinct = duck.one(
            self.connection, f"SELECT count(*), {nulls}, count(DISTINCT {key}) FROM {source}"
        )
        duplicated: tuple[str, ...] = ()
        if rows != distinct:
            found = self.connection.execute(
                f"SELECT {key} FROM {source} GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 5"
            ).fetchall()
            duplicated = tuple(str(value) for (value,) in found)
        audits = [
            Audit("keys_are_unique", rows - distinct, duplicated),
            Audit("required_values_are_present", without_value),
        ]
        if expected is not None:
            audits.append(Audit("no_row_is_lost_or_added", abs(expected - rows)))
        return audits


def merged(audits: list[Audit]) -> Mapping[str, Audit]:
    """The audits of several files of one table, added up by name."""
    result: dict[str, Audit] = {}
    for audit in audits:
        before = result.get(audit.name, Audit(audit.name, 0))
        result[audit.name] = Audit(
            audit.name, before.found + audit.found, (before.examples + audit.examples)[:5]
        )
    return result
