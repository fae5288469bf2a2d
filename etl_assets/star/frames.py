"""What star functions read: source tables and reference files as of a batch, what a batch changed in them, and what
identifies them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.typing import Typing, types_version
from etl_assets.lake.current import DELETED, Current, materialized, view
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import Manifest, SourceColumn, TableChanges
from etl_assets.lake.names import number
from etl_assets.star.change import InputChange, hidden, shown_key
from etl_assets.star.definition import Inputs, reference
from etl_assets.star.files import StarFiles
from etl_assets.star.function import StarFunction
from etl_assets.star.lineage import carried_key

# What the rules say that make a table from its function. Tables that are more than the rows of one source table under
# that table's key were made by others before, and are made anew.
_RULES = "the law, of keys in capitals too"
# How reference files are read: rows that begin with # were taken for comments before.
_READING = b"as it is written "
# Rows in quarantine that are named.
_NAMED = 3


@dataclass(frozen=True)
class Arrivals:
    """What a batch landed of a table: rows that are new or changed, as they are (`come`), and rows that left, as they were
    (`left`); both names of relations with the declared columns."""

    come: str
    left: str
    changes: TableChanges


class Frames:
    """The inputs of star functions, from the batches of a lake."""

    def __init__(
        self, inputs: Inputs, current: Current, star: StarFiles, connection: duckdb.DuckDBPyConnection
    ) -> None:
        self.inputs = inputs
        self.current = current
        self.batches = current.batches
        self.star = star
        self.connection = connection
        self._changes: dict[tuple[str, str, str | None], InputChange] = {}

    def forget(self) -> None:
        """Let go of what was found out about older batches."""
        self._changes.clear()
        self.current.forget()

    # -- what identifies an input --------------------------------------------------------------------------------

    def version(self, name: str, manifest: Manifest) -> str:
        """What identifies an input, or a star table, as of a manifest."""
        if name in self.inputs.tables:
            content = self.batches.content(name, self.as_of(name, manifest))
            return f"{content}:{types_version(self.inputs.tables[name].types)}"
        if name in self.inputs.references:
            return hashlib.sha256(_READING + self.inputs.references[name].read_bytes()).hexdigest()
        definition = self.inputs.star[name]
        parts = [definition.code_version, *(self.version(i, manifest) for i in definition.inputs)]
        if not self.plain(definition, manifest):
            parts.append(_RULES)
        if baseline := self.star.baseline(name):
            parts.append(f"from {number(baseline)}")
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]

    def carried_key(self, definition: StarFunction, manifest: Manifest) -> Sequence[str] | None:
        """The columns of a star table's key that carry the key of its first input, a source table, in that key's order;
        None where the star's key is another."""
        table = definition.inputs[0]
        if table not in self.inputs.tables:
            return None
        return carried_key(definition, self.inputs, self.as_of(table, manifest).tables[table].key)

    def plain(self, definition: StarFunction, manifest: Manifest) -> bool:
        """Whether each row of a star table is made from one row of its only input, and has that row's key."""
        return self.inputs.by_row(definition) and self.carried_key(definition, manifest) is not None

    def as_of(self, table: str, manifest: Manifest) -> Manifest:
        """The manifest that says what a function sees of a source table as of a batch: that of the batch, or, where the
        table was declared later, that of the batch that first read it. Raises `LakeError` if none has."""
        if table in manifest.tables:
            return manifest
        for batch in self.batches.numbers():
            if batch > manifest.batch and table in (later := self.batches.get(batch)).tables:
                return later
        raise LakeError(
            f"the lake holds nothing of the source's table {table}: materialize raw/{table} first (etl run)"
        )

    def sources(self, name: str) -> list[str]:
        """The source tables that a star table is made from, by way of other star tables too, in declared order."""
        return self.inputs.sources(name)

    def changing(self, name: str, upto: Manifest, after: int | None = None) -> list[Manifest]:
        """The batches, oldest first, as of which a star table may be another than before: those that changed a source
        table that it is made from, up to one and later than another; without `after` from the first on that has any."""
        found = self._changing(name, upto, after)
        if after is None and (baseline := self.star.baseline(name)) and baseline <= upto.batch:
            found = {batch: m for batch, m in found.items() if batch > baseline}
            found[baseline] = self.batches.get(baseline)
        return [found[batch] for batch in sorted(found)]

    def _changing(self, name: str, upto: Manifest, after: int | None) -> dict[int, Manifest]:
        if not self.sources(name):
            # What is made of reference files alone is there from the first batch on: they count as code.
            first_batch = self.batches.numbers()[0]
            return {} if after else {first_batch: self.batches.get(first_batch)}
        found: dict[int, Manifest] = {}
        firsts = []
        for one in self.inputs.star[name].inputs:
            if one in self.inputs.star and self.sources(one):
                # A table of the star begins when what it is made from does, however early the others begin.
                found.update(self._changing(one, upto, after))
            elif one in self.inputs.tables:
                own = [m for m in self.batches.changing(one, upto, after=after) if m.batch <= upto.batch]
                # What a table held when it was first read counts for the batches before, too.
                if own and own[-1].tables[one].previous is None:
                    firsts.append(own.pop())
                found.update((m.batch, m) for m in own)
        if after is None and firsts:
            first = min(firsts, key=lambda m: m.batch)
            found[first.batch] = first
        return found

    # -- rows ----------------------------------------------------------------------------------------------------

    def existing(self, table: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        """The rows that exist in the source and fit their declared types, typed."""
        return self._rows(table, manifest)

    def reference(self, name: str) -> duckdb.DuckDBPyRelation:
        """The rows of a reference file."""
        return reference(self.connection, self.inputs.references[name])

    def change(self, name: str, was: Manifest | None, now: Manifest) -> InputChange:
        """A source table or reference file as of a batch, and what is other than as of an earlier one; without one
        nothing is said of that."""
        if name in self.inputs.references:
            rows = self.reference(name)
            return InputChange(name, tuple(rows.columns), (), view(rows))
        now = self.as_of(name, now)
        state = now.tables[name]
        before = self.as_of(name, was).tables[name].history if was else None
        known = (name, state.history, before)
        if known not in self._changes:
            self._changes[known] = self._change(name, was, now)
        return self._changes[known]

    def _change(self, name: str, was: Manifest | None, now: Manifest) -> InputChange:
        state = now.tables[name]
        columns, keys = tuple(self.inputs.tables[name].types), tuple(hidden(key) for key in state.key)
        rows = view(self._rows(name, now, hide=True))

        def pick(wanted: str) -> str:
            names = ", ".join(f"{identifier(k)} AS {identifier(shown_key(k))}" for k in keys)
            only = self.connection.sql(f"SELECT {names} FROM {wanted}")
            return view(self._rows(name, now, only, hide=True))

        if was is None or (was := self.as_of(name, was)).tables[name].history == state.history:
            return InputChange(name, columns, keys, rows, pick, size=state.rows)
        batches = list(self.batches.changing(name, now, after=was.tables[name].changed_in))
        touched_keys = self._touched_keys(name, batches)
        if len(batches) == 1 and batches[0].tables[name].columns == state.columns:
            landed = batches[0].changed[name].rows
            come = (
                self._typed(name, now, self.current.read([landed], self.columns(name, now)))
                if landed
                else None
            )
        else:
            come = self._rows(name, now, touched_keys, hide=True)
        gone = self._rows(name, was, touched_keys, hide=True)
        names = listing([*columns, *keys])
        return InputChange(
            name,
            columns,
            keys,
            rows,
            pick,
            materialized(self.connection, f"SELECT {names} FROM {view(gone)}"),
            materialized(
                self.connection,
                f"SELECT {names} FROM {view(come)}" if come else f"SELECT {names} FROM {view(gone)} LIMIT 0",
            ),
            reshaped=self._shape(name, was) != self._shape(name, now),
            size=state.rows,
        )

    def arrivals(self, table: str, was: Manifest, now: Manifest) -> "Arrivals | None":
        """What one batch landed of a table, without a look at what it takes the place of; None where that is not all
        there is to know."""
        batches = list(self.batches.changing(table, now, after=was.tables[table].changed_in))
        if len(batches) != 1 or table not in was.tables or self._shape(table, was) != self._shape(table, now):
            return None
        (batch,) = batches
        changes, columns = batch.changed[table], self.columns(table, batch)
        names = listing(list(self.inputs.tables[table].types))
        come = view(self.existing(table, now).limit(0))
        ended = []
        if changes.rows:
            landed = self.current.read([changes.rows], columns)
            typed = self._typed(table, batch, landed, hide=False)
            come = materialized(self.connection, f"SELECT {names} FROM {view(typed)}")
            if not self.clean(table, batch):
                misfits = landed.filter(f"NOT ({self.typing(table, batch).exact})")
                ended.append(misfits.project(listing(batch.tables[table].key)))
        if changes.deletions:
            keys = self.current.read([changes.deletions], batch.tables[table].key_columns)
            ended.append(keys.project(listing(batch.tables[table].key)))
        left = view(self.existing(table, now).limit(0))
        if ended:
            only = self.connection.sql(" UNION ".join(f"FROM {view(part)}" for part in ended))
            rows = self._rows(table, was, only)
            left = materialized(self.connection, f"SELECT {names} FROM {view(rows)}")
        return Arrivals(come, left, changes)

    def _touched_keys(self, table: str, batches: list[Manifest]) -> duckdb.DuckDBPyRelation:
        """The keys of the rows that batches brought or deleted."""
        parts = [
            self.current.read([file], batch.tables[table].key_columns).project(
                listing(batch.tables[table].key)
            )
            for batch in batches
            for file in (batch.changed[table].rows, batch.changed[table].deletions)
            if file
        ]
        return self.connection.sql(" UNION ".join(f"FROM {view(part)}" for part in parts))

    def _shape(self, table: str, manifest: Manifest) -> dict[str, str]:
        """The source's types of the declared columns: where they change, rows may read otherwise that nobody wrote."""
        declared = self.inputs.tables[table].types
        return {c.name: c.type for c in manifest.tables[table].columns if c.name in declared}

    def _rows(
        self,
        table: str,
        manifest: Manifest,
        only: duckdb.DuckDBPyRelation | None = None,
        *,
        hide: bool = False,
    ) -> duckdb.DuckDBPyRelation:
        columns = self.columns(table, manifest)
        rows = self.current.fold(table, manifest, only=only, columns=columns).relation.filter(
            f"NOT {DELETED}"
        )
        return self._typed(table, manifest, rows, hide=hide)

    def _typed(
        self, table: str, manifest: Manifest, rows: duckdb.DuckDBPyRelation, *, hide: bool = True
    ) -> duckdb.DuckDBPyRelation:
        """The declared columns of rows that fit, and their keys as the lake has them."""
        kept = {hidden(key): key for key in manifest.tables[table].key} if hide else {}
        only_exact = not self.clean(table, manifest)
        return self.typing(table, manifest).typed(rows, only_exact=only_exact, kept=kept)

    def misfits(self, table: str, manifest: Manifest) -> int:
        """How many rows that exist in the source can't be represented as declared."""
        if self.clean(table, manifest):
            return 0
        fold = self.current.fold(table, manifest, columns=self.columns(table, manifest))
        misfits = fold.relation.filter(f"NOT {DELETED} AND NOT ({self.typing(table, manifest).exact})")
        return self.count(misfits)

    def count(self, relation: duckdb.DuckDBPyRelation) -> int:
        """How many rows a relation has."""
        (rows,) = duck.one(self.connection, f"SELECT count(*) FROM {view(relation)}")
        return int(rows)

    # -- types ---------------------------------------------------------------------------------------------------

    def typing(self, table: str, manifest: Manifest) -> Typing:
        """How the declared columns of a table are typed as of a batch."""
        return Typing(self.inputs.tables[table].types, self.columns(table, manifest))

    def columns(self, table: str, manifest: Manifest) -> tuple[SourceColumn, ...]:
        """The columns of a table as of a manifest. One that is declared now and that the table did not have then is
        NULL in all rows."""
        had = manifest.tables[table].columns
        lacking = self.inputs.tables[table].types.keys() - {column.name for column in had}
        return (*had, *(SourceColumn(name=name, type="text", nullable=True) for name in sorted(lacking)))

    def check_columns(self, definition: StarFunction, manifest: Manifest) -> None:
        """Refuse to make a table from columns that were not captured yet. Raises `LakeError`."""
        for table in definition.inputs:
            if table in self.inputs.tables:
                had = {column.name for column in self.as_of(table, manifest).tables[table].columns}
                if lacking := sorted(self.inputs.tables[table].types.keys() - had):
                    raise LakeError(
                        f"the lake does not hold {', '.join(lacking)} of the source's table {table} yet: "
                        f"materialize raw/{table} first"
                    )

    def clean(self, table: str, manifest: Manifest) -> bool:
        """Whether every value of a table so far is known to fit its declared type."""
        return manifest.tables[table].clean_under == types_version(self.inputs.tables[table].types)

    def quarantined(self, batch: Manifest, tables: Sequence[str]) -> Iterator[str]:
        """The tables of which a batch has rows that do not fit: how many, and which they are, in words."""
        for table in tables:
            changes = batch.changed.get(table)
            if changes and changes.quarantined:
                report = view(duck.read_csv(self.connection, [self.current.landed(changes.quarantined)]))
                some = self.connection.execute(
                    f'SELECT key, string_agg("column", \', \' ORDER BY "column") FROM {report} GROUP BY key '
                    f"ORDER BY key LIMIT {_NAMED}"
                ).fetchall()
                key = ", ".join(batch.tables[table].key)
                named = "; ".join(f"{row} ({columns})" for row, columns in some)
                more = ", …" if changes.quarantined_rows > len(some) else ""
                yield f"{changes.quarantined_rows:,} of {table}, {key} {named}{more}"
