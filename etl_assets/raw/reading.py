"""Reading one table of a snapshot, and finding what changed in it.

    whole:    all rows ► compare with what is held ► what is held and was not read is gone
    horizon:  rows with a recent version ► compare ► if the count says that rows are gone, find out which

The second way is checked each time: what is held, plus what is new, less what is gone must be as many rows as the
source counts in the same snapshot. Where that fails, the table is read whole.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import duckdb
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.pieces import pieces
from etl_assets.engine.types import EXACT
from etl_assets.engine.typing import Typing, types_version
from etl_assets.lake.current import Fold, as_held, storage, view
from etl_assets.lake.manifest import Control, SourceColumn, TableState
from etl_assets.raw import keys
from etl_assets.raw.changes import (
    Changed,
    changed_rows,
    missing_bits,
    missing_keys,
    no_keys,
    read_pieces,
    read_text,
)
from etl_assets.raw.controls import SourceTotals, Sums, Unproven, check_rows, proven, source_totals, sums
from etl_assets.raw.copying import Copied, Progress, copy
from etl_assets.raw.plan import ReadPlan
from etl_assets.raw.recent import Share, since
from etl_assets.raw.sizes import undeclared
from etl_assets.source.catalog import NoKey, Relation, check_readable, select
from etl_assets.source.connection import explained, find_names

_LARGE_ROWS = threading.Lock()


class Folding(Protocol):
    """What the lake holds of a table (see `Current.fold`)."""

    def __call__(
        self,
        only: duckdb.DuckDBPyRelation | None = None,
        *,
        columns: tuple[SourceColumn, ...] = ...,
        short: tuple[str, ...] = ...,
    ) -> Fold: ...


@dataclass(frozen=True)
class Found:
    """What reading a table found. `gone` are the keys of rows that are held and no longer in the source; `added` and
    `removed` are the amounts of the rows that came, and of those that they replace or that went. `held` is what was
    held, where it was looked at anew."""

    plan: ReadPlan
    totals: SourceTotals
    changed: Changed
    gone: duckdb.DuckDBPyRelation
    deleted: int
    added: Sums
    removed: Sums
    held: TableState | None = None
    longest: int = 0
    copy_seconds: float = 0.0
    """Of a table that was read whole, the seconds in which nothing but the COPY went on."""
    texts: Sequence[duckdb.DuckDBPyRelation] = ()
    """Where rows are so long that `changed` has what stands for their values: the same rows as they are, in parts of few."""
    strays: int = 0
    """Rows that were other than what is held, though no row version said that they changed; found by a sweep."""


@dataclass(frozen=True)
class _Read:
    """Rows that were copied, as they are compared. `pieces`: as they are, where that is something else."""

    rows: duckdb.DuckDBPyRelation
    copied: Copied
    pieces: Sequence[duckdb.DuckDBPyRelation] = ()


def doubled_all_the_same(relation: Relation, doubled: int) -> NoKey:
    """The error for a key that the source sees to, and that does not tell rows apart all the same."""
    name = relation.table.name
    return NoKey(
        f"{doubled:,} values of the primary key of {name} ({', '.join(relation.key)}) occur in several rows, which its index "
        f"should not let happen: it is damaged (after another version of the C library or ICU, say). Remove the rows that are "
        f"too many in the source, then REINDEX TABLE {name}; nothing of it was read"
    )


@dataclass(frozen=True)
class Reader:
    """Reads one table with one connection to the source and one to DuckDB."""

    relation: Relation
    source: Connection
    duck: duckdb.DuckDBPyConnection
    folder: Path
    progress: Progress

    @property
    def table(self) -> str:
        return self.relation.table.name

    def first(self, target: Callable[[], AbstractContextManager]) -> tuple[Copied, SourceTotals]:
        """Copy a table of which nothing is held yet straight to where it belongs."""
        self._begin()
        totals = source_totals(self.source, self.relation)
        with self._alone(totals), target() as stream:
            copied = copy(self.source, select(self.relation), stream, self.relation, self.progress)
        check_rows(self.relation, copied.rows, totals)
        return copied, totals

    def again(
        self,
        plan: ReadPlan,
        held: TableState,
        fold: Folding,
        share: Share | None = None,
        *,
        long: bool = False,
    ) -> Found:
        """Find what changed since what is held, which `fold` gives: all of it, or the rows with certain keys. Rows of a
        `share` are compared whatever their versions say. `long`: the rows held are so long together that they can't be
        worked on as others are."""
        strays = 0
        self._begin()
        recent = since(plan.horizon) if plan.read == "horizon" else None
        totals = source_totals(self.source, self.relation, recent)
        if long or totals.long:
            totals = replace(totals, large=True, long=True)
            fold = partial(fold, short=self._short)
        if recent is not None:
            with self._alone(totals):
                found = self._untouched(plan, held, totals) or self._since(plan, held, fold, totals)
                if share:
                    strays = self._strays(recent, share, fold, totals)
            if found and not strays and self._adds_up(found, held):
                return found
            why = "the source has changes that no recent version explains"
            plan = replace(plan, read="whole", why=why, renews=True, unusual=True)
        with self._alone(totals):
            return replace(self._whole(plan, held, fold, totals), strays=strays)

    def _strays(self, recent: sql.Composable, share: Share, fold: Folding, totals: SourceTotals) -> int:
        """How many rows of a share have no recent version and are other than what is held."""
        old = sql.SQL("NOT ({}) AND {}").format(recent, share.rows(self.source, self.relation))
        rows = self._copied("share", select(self.relation, [old]), totals).rows
        changed = changed_rows(self.duck, rows, fold(only=rows))
        return changed.new + changed.changed

    def _alone(self, totals: SourceTotals) -> AbstractContextManager[object]:
        """Tables with large rows are read one after the other: one such row fills much of the memory."""
        return _LARGE_ROWS if totals.large else nullcontext()

    def _whole(self, plan: ReadPlan, held: TableState, fold: Folding, totals: SourceTotals) -> Found:
        """All rows, compared with all that is held."""
        read = self._copied("whole", select(self.relation), totals)
        everything = read.rows
        check_rows(self.relation, read.copied.rows, totals)
        all_held = fold()
        changed = self._changed(everything, all_held, held, fold)
        gone, deleted = missing_keys(self.duck, everything, all_held)
        if held.rows + changed.new - deleted != totals.rows:
            self._tell_apart()
        found = self._found(plan, totals, changed, gone, deleted, all_held.relation, fold)
        return replace(
            found,
            held=self._looked_at_anew(held, everything, all_held),
            longest=read.copied.longest_row,
            copy_seconds=read.copied.copy_seconds,
            texts=self._texts(read, changed),
        )

    def _changed(
        self, everything: duckdb.DuckDBPyRelation, all_held: Fold, held: TableState, fold: Folding
    ) -> Changed:
        """What changed, also by columns that are another type now: the star shows rows as they were landed. So a
        value that is written otherwise now is a change, and so is one that fits its declared type only now, or no
        longer."""
        now, types = self.relation.columns, self.relation.table.types
        before = {c.name: c for c in held.columns if c.name not in self.relation.key}
        was = tuple(before.get(c.name, c) for c in now)
        # What is read, as it would have been held then.
        held_then = {
            c.name: f"CAST({identifier(c.name)} AS VARCHAR)"
            if storage(w.type) == "VARCHAR"
            # As in `Current`: a TRY_CAST of a column alone would raise in the CSV reader.
            else f"TRY_CAST(nullif({identifier(c.name)}, '') AS {storage(w.type)})"
            for c, w in zip(now, was, strict=True)
            if storage(c.type) != storage(w.type)
        }
        if held_then:
            all_held = fold(columns=was)
        fitted, fits = Typing(types, was, held_then).exact, Typing(types, now).exact
        refits = f"({fitted}) <> ({fits})" if fitted != fits else "false"
        return changed_rows(self.duck, everything, all_held, refits)

    def _looked_at_anew(
        self, held: TableState, everything: duckdb.DuckDBPyRelation, all_held: Fold
    ) -> TableState:
        """What is held, its sums and whether its values fit recomputed from the rows: the way back for a table that
        once had misfits."""
        typing = Typing(self.relation.table.types, self.relation.columns)
        # What is gone stays a member, with its last values; that includes what this very read finds to be gone.
        key = listing(self.relation.key)
        gone = self.duck.sql(f"FROM {view(all_held.relation)} ANTI JOIN {view(everything)} USING ({key})")
        misfits = sum(self._count(rows.filter(f"NOT ({typing.exact})")) for rows in (everything, gone))
        amounts = sums(self.duck, self.relation, all_held.relation)
        controls = {
            name: held.controls.get(name, Control()).model_copy(update={"held": str(amount)})
            for name, amount in amounts.items()
        }
        return held.model_copy(
            update={
                "controls": {**held.controls, **controls},
                "clean_under": None if misfits else types_version(self.relation.table.types),
            }
        )

    def _count(self, rows: duckdb.DuckDBPyRelation) -> int:
        (count,) = duck.one(self.duck, f"SELECT count(*) FROM {view(rows)}")
        return int(count)

    def _begin(self) -> None:
        """See names as whoever made the table did, where they count, and see to it that its rows can be told apart: a
        declared key that the source does not enforce would let rows of the same key hide one another."""
        check_readable(self.relation)
        find_names(self.source, as_role=not self.relation.by_version)
        if not self.relation.unique:
            self._tell_apart()

    def _tell_apart(self) -> None:
        with explained(f"reading table {self.table}"), self.source.cursor() as cursor:
            cursor.execute(keys.doubled(self.relation))
            (doubled,) = cursor.fetchall()[0]
        if doubled:
            if self.relation.unique:
                raise doubled_all_the_same(self.relation, doubled)
            heirs = " (tables that inherit from it have rows too)" if self.relation.partitions else ""
            raise NoKey(
                f"{doubled:,} values of the key of {self.table} ({', '.join(self.relation.key)}) occur in several rows or "
                f"are NULL{heirs}; declare a key that tells its rows apart (key=), or a view that does; nothing of it was "
                "read"
            )

    def _untouched(self, plan: ReadPlan, held: TableState, totals: SourceTotals) -> Found | None:
        """That nothing changed, if the scan for the totals says so; None if it is to be looked at."""
        if totals.recent or totals.rows != held.rows:
            return None
        columns = ", ".join(f"NULL::{storage(c.type)} AS {identifier(c.name)}" for c in self.relation.columns)
        nothing = self.duck.sql(f"SELECT {columns} WHERE false")
        gone = nothing.project(listing(self.relation.key))
        return Found(plan, totals, Changed(nothing, 0, 0, 0), gone, 0, {}, {})

    def _since(self, plan: ReadPlan, held: TableState, fold: Folding, totals: SourceTotals) -> Found | None:
        """What has a recent version; None if that does not account for the source's count."""
        read = self._copied("recent", select(self.relation, totals.conditions), totals)
        rows = read.rows
        before = fold(only=rows).kept(self.duck)
        changed = changed_rows(self.duck, rows, before)
        deleted = held.rows + changed.new - totals.rows
        if deleted < 0:
            return None
        gone, missing = self._gone(fold()) if deleted else (no_keys(before), 0)
        if missing != deleted:
            return None
        found = self._found(plan, totals, changed, gone, deleted, before.relation, fold)
        return replace(found, longest=read.copied.longest_row, texts=self._texts(read, changed))

    def _found(
        self,
        plan: ReadPlan,
        totals: SourceTotals,
        changed: Changed,
        gone: duckdb.DuckDBPyRelation,
        deleted: int,
        before: duckdb.DuckDBPyRelation,
        fold: Folding,
    ) -> Found:
        """What was found, and its amounts. `before` holds the rows as they were that changed, among others."""
        if not self.relation.amounts:  # the queries alone cost much where there are many columns
            return Found(plan, totals, changed, gone, deleted, {}, {})
        added = sums(self.duck, self.relation, changed.rows)
        key = listing(self.relation.key)
        replaced = self.duck.sql(f"FROM {view(before)} SEMI JOIN {view(changed.rows)} USING ({key})")
        removed = dict(sums(self.duck, self.relation, replaced))
        if deleted:
            for name, amount in sums(self.duck, self.relation, fold(only=gone).relation).items():
                removed[name] = EXACT.add(removed[name], amount)
        return Found(plan, totals, changed, gone, deleted, added, removed)

    def _adds_up(self, found: Found, held: TableState) -> bool:
        try:
            proven(
                self.relation,
                found.totals,
                held,
                found.added,
                found.removed,
                clean=held.clean_under is not None,
            )
        except Unproven:
            return False
        return True

    def _gone(self, fold: Fold) -> tuple[duckdb.DuckDBPyRelation, int]:
        """The keys that are held and not in the source."""
        key = self.relation.key
        types = {c.name: c.type for c in self.relation.columns}
        if len(key) == 1 and storage(types[key[0]]) == "BIGINT":
            # 64 keys travel as one number: far less than the keys themselves.
            present, _ = self._file("bits", keys.bitmap(self.relation, key[0]))
            return missing_bits(self.duck, present, fold)
        columns = [c for c in self.relation.columns if c.name in key]
        path, copied = self._file("keys", keys.every(self.relation))
        return missing_keys(self.duck, read_text(self.duck, path, columns, copied.longest_row), fold)

    def _copied(self, what: str, query: sql.Composable, totals: SourceTotals) -> _Read:
        path, copied = self._file(what, query)
        columns, longest = self.relation.columns, copied.longest_row
        if not totals.long:
            return _Read(read_text(self.duck, path, columns, longest), copied)
        paths = pieces(self.duck, path, copied.rows, longest)
        short = self._short
        chosen = ", ".join(f"{as_held(c, short)} AS {identifier(c.name)}" for c in columns)
        rows = read_pieces(self.duck, paths, columns, longest).project(chosen)
        return _Read(rows, copied, [read_pieces(self.duck, [path], columns, longest) for path in paths])

    def _texts(self, read: _Read, changed: Changed) -> Sequence[duckdb.DuckDBPyRelation]:
        """What changed as it is, in as many parts as the rows that were read."""
        key = listing(self.relation.key)
        came = view(changed.rows.project(key)) if read.pieces else ""
        return [self.duck.sql(f"FROM {view(piece)} SEMI JOIN {came} USING ({key})") for piece in read.pieces]

    @property
    def _short(self) -> tuple[str, ...]:
        return undeclared(self.relation)

    def _file(self, what: str, query: sql.Composable) -> tuple[Path, Copied]:
        path = self.folder / f"{self.table}.{what}.csv"
        with path.open("wb") as target:
            return path, copy(self.source, query, target, self.relation, self.progress)
