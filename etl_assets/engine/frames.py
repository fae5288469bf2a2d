"""What star functions read: the inputs of a star table as of a manifest, and what identifies them."""

import hashlib

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.definition import Definition, Inputs, reference
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.schema import Fact
from etl_assets.engine.typing import Typing, types_version
from etl_assets.lake.batches import Manifest, SourceColumn
from etl_assets.lake.current import DELETED, Current, materialized, view
from etl_assets.lake.files import LakeError
from etl_assets.lake.star import StarFile, StarFiles


class Frames:
    """The inputs of star functions, from the batches of a lake and the star's own files."""

    def __init__(
        self, inputs: Inputs, current: Current, star: StarFiles, connection: duckdb.DuckDBPyConnection
    ) -> None:
        self.inputs = inputs
        self.current = current
        self.batches = current.batches
        self.star = star
        self.connection = connection

    def version(self, name: str, manifest: Manifest) -> str:
        """What identifies an input, or a star table, as of a manifest."""
        if name in self.inputs.tables:
            history = self._newest_change(name, manifest).tables[name].history
            return f"{history}:{types_version(self.inputs.tables[name].types)}"
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

    def read(self, name: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        """An input as star functions see it: a source table's members (deleted ones included, since history
        refers to them), a star table, or a reference file."""
        if name in self.inputs.references:
            return reference(self.connection, self.inputs.references[name])
        if name in self.inputs.tables:
            return self.members(name, manifest)
        paths = self.star.paths(name)
        if not paths:
            return self.inputs.empty(self.connection, name)
        return self.connection.read_parquet([str(self.star.files.local(path)) for path in paths])

    def members(
        self, table: str, manifest: Manifest, which: str = "true", only: str | None = None
    ) -> duckdb.DuckDBPyRelation:
        """The rows of a source table that can be represented, typed: all ever seen, or `which` of them (a condition);
        with `only`, those whose keys are in that table."""
        keys = self.connection.sql(f"FROM {only}") if only else None
        columns = self.columns(table, manifest)
        rows = self.current.fold(table, manifest, only=keys, columns=columns).relation.filter(which)
        return self.typing(table, manifest).typed(rows, only_exact=not self.clean(table, manifest))

    def misfits(self, table: str, manifest: Manifest) -> int:
        """How many rows that exist in the source can't be represented as declared."""
        if self.clean(table, manifest):
            return 0
        fold = self.current.fold(table, manifest, columns=self.columns(table, manifest))
        misfits = fold.relation.filter(f"NOT {DELETED} AND NOT ({self.typing(table, manifest).exact})")
        return self.count(misfits)

    def existing(self, table: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        """The rows that exist in the source, typed."""
        return self.members(table, manifest, f"NOT {DELETED}")

    def changed_keys(self, definition: Definition, held: StarFile, manifest: Manifest) -> str | None:
        """The name of a table with the keys of the first input's rows that changed since a file was made from it.
        None where that does not say which rows of the file differ: other code, or another input changed too."""
        first, *others = definition.inputs
        if first not in self.inputs.tables or held.batch not in self.batches.numbers():
            return None
        was = self.batches.get(held.batch)
        if first not in was.tables or self.version(definition.name, was) != held.version:
            return None
        if was.tables[first].columns != manifest.tables[first].columns:
            return None  # rows that are gone may read otherwise since
        if any(self.version(name, was) != self.version(name, manifest) for name in others):
            return None
        key, parts = listing(manifest.tables[first].key), []
        for batch in self.batches.changing(first, manifest, after=was.tables[first].changed_in):
            changes, columns = batch.changed[first], batch.tables[first].key_columns
            for file in (changes.rows, changes.deletions):
                if file:
                    parts.append(self.current.read([file], columns).project(key))
        if not parts:
            return None
        return materialized(self.connection, " UNION ".join(f"FROM {view(part)}" for part in parts))

    def named(
        self, definition: Definition, keys: duckdb.DuckDBPyRelation, manifest: Manifest | None = None
    ) -> duckdb.DuckDBPyRelation:
        """Source keys as a star table names them: its function says how, the other columns do not matter. Of keys as
        the lake holds them as of a manifest, NULL for one that does not fit its declared type."""
        first = definition.inputs[0]
        source = {column.name: column.type for column in manifest.tables[first].columns} if manifest else {}
        chosen = []
        for name, type_ in self.inputs.tables[first].types.items():
            value = "NULL"
            if name in keys.columns and not manifest:
                value = f"TRY_CAST({identifier(name)} AS {type_.duckdb})"
            elif name in keys.columns:
                decoded = type_.decode(identifier(name), source[name])
                value = f"CASE WHEN {decoded.exact} THEN {decoded.value} END"
            chosen.append(f"CAST({value} AS {type_.duckdb}) AS {identifier(name)}")
        context = {name: self.inputs.empty(self.connection, name) for name in definition.inputs[1:]}
        made = definition.apply(self.connection, {first: keys.project(", ".join(chosen)), **context})
        return made.project(identifier(definition.schema.key))

    def count(self, relation: duckdb.DuckDBPyRelation) -> int:
        (rows,) = duck.one(self.connection, f"SELECT count(*) FROM {view(relation)}")
        return int(rows)

    def typing(self, table: str, manifest: Manifest) -> Typing:
        return Typing(self.inputs.tables[table].types, self.columns(table, manifest))

    def columns(self, table: str, manifest: Manifest) -> tuple[SourceColumn, ...]:
        """The columns of a table as of a manifest. One that is declared now and that the table did not have then is
        NULL in all rows."""
        had = manifest.tables[table].columns
        lacking = self.inputs.tables[table].types.keys() - {column.name for column in had}
        return (*had, *(SourceColumn(name=name, type="text", nullable=True) for name in sorted(lacking)))

    def check_columns(self, definition: Definition, manifest: Manifest) -> None:
        """Refuse to make a table from columns that were not captured yet. Raises `LakeError`."""
        for table in definition.inputs:
            if table in self.inputs.tables and table in manifest.tables:
                had = {column.name for column in manifest.tables[table].columns}
                if lacking := sorted(self.inputs.tables[table].types.keys() - had):
                    raise LakeError(
                        f"the lake does not hold {', '.join(lacking)} of the source's table {table} yet: "
                        f"materialize raw/{table} first"
                    )

    def clean(self, table: str, manifest: Manifest) -> bool:
        """Whether every value of a table so far is known to fit its declared type."""
        return manifest.tables[table].clean_under == types_version(self.inputs.tables[table].types)
