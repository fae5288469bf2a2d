"""What the lake holds of a table: the latest version of every row it ever saw, computed from the batches.

The batches alone define it. So that the cost follows the change and not the table, a fold of the older batches
is kept as `current/<table>/<batch>-<checksum>.parquet` (the base); it is derived, believed only if it is what its name
says, and may be deleted at any time.
Integers are kept as integers, everything else as PostgreSQL's own text: both exact.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing, literal
from etl_assets.engine.pieces import are_long, pieces
from etl_assets.lake.batches import Batches
from etl_assets.lake.checksum import checksum
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.holding import all_held
from etl_assets.lake.manifest import LandedFile, Manifest, SourceColumn
from etl_assets.lake.names import folder_of, number
from etl_assets.later import Later

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa = Later("pyarrow")
    pq = Later("pyarrow.parquet")

DELETED = duck.own("deleted")
BATCH = duck.own("batch")
_HISTORY = b"etl.history"
# A base is written anew when the batches after it hold this share of its rows, or are this many.
_COMPACT_SHARE = 0.2
_COMPACT_ROWS = 20_000
_COMPACT_BATCHES = 32
_ABANDONED_SECONDS = 86_400
# A value of more bytes than this can stand for itself by its hash, behind what no value begins with that stands as it is.
_LONG_BYTES = 64 << 10
_BY_HASH = duck.own("sha256")
_BASE = re.compile(r"([0-9]+)-([0-9a-f]{8})\.parquet")

_names = count()


def storage(source_type: str) -> str:
    """The DuckDB type in which text of a PostgreSQL type is held: it gives the same text back."""
    return "BIGINT" if source_type in {"smallint", "integer", "bigint"} else "VARCHAR"


def shortened(value: str) -> str:
    """The SQL of a text that is equal for equal texts, and short: the text itself, or what identifies a long one."""
    told = f"strlen({value}) > {_LONG_BYTES} OR starts_with({value}, {literal(_BY_HASH)})"
    return f"CASE WHEN {told} THEN {literal(_BY_HASH)} || sha256({value}) ELSE {value} END"


def is_worth_a_base(rows: LandedFile) -> bool:
    """Whether so many rows, of a table that has no base, are kept as one: long ones are not."""
    return rows.rows >= _COMPACT_ROWS and not are_long(rows.bytes, rows.rows, rows.longest_row)


def write_base(rows: duckdb.DuckDBPyRelation, path: Path, history: str) -> None:
    """Write a base: a table's rows as the lake holds them, with `DELETED`, and the digest of the files that they come from.

    They stand in whatever order they come: a sort would cost more than it gives to the joins that read this. Likewise a base is
    read often and kept briefly: quick to decode counts for more than small.
    """
    duck.write_parquet(rows, path, {_HISTORY.decode(): history}, for_now=True)


def view(relation: duckdb.DuckDBPyRelation) -> str:
    """The quoted name of a view over a relation, never used before (relations are bound by name, late)."""
    name = f"step_{next(_names)}"
    relation.create_view(name, replace=False)
    return identifier(name)


def materialized(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """The name of a temporary table with the rows of a query, for what is looked at more than once."""
    name = f"kept_{next(_names)}"
    connection.execute(f"CREATE TEMP TABLE {name} AS {query}")
    return name


def forget(connection: duckdb.DuckDBPyConnection, kept: Collection[str], since: int) -> None:
    """Drop what `view` and `materialized` made after a point (see `made_so_far`), but for what is kept."""
    known = {name.strip('"') for name in kept}
    for kind, prefix in (("view", "step"), ("table", "kept")):
        names = connection.execute(
            f"SELECT {kind}_name FROM duckdb_{kind}s() WHERE starts_with({kind}_name, $prefix)",
            {"prefix": f"{prefix}_"},
        ).fetchall()
        for (name,) in names:
            number = name.removeprefix(f"{prefix}_")
            if number.isdecimal() and int(number) > since and name not in known:
                connection.execute(f"DROP {kind} IF EXISTS {identifier(name)}")


def made_so_far() -> int:
    """A point in time, for `forget`."""
    return next(_names)


@dataclass(frozen=True)
class Base:
    """A fold of the batches up to one, as a file that says in its name what its content adds up to."""

    path: str
    batch: int
    checksum: str


@dataclass(frozen=True)
class Fold:
    """A table's content after a batch: `relation` has the source's columns and `DELETED`."""

    relation: duckdb.DuckDBPyRelation
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]

    def kept(self, connection: duckdb.DuckDBPyConnection) -> "Fold":
        """The same, computed once; for small folds that are looked at more than once."""
        table = materialized(connection, f"FROM {view(self.relation)}")
        return replace(self, relation=connection.sql(f"FROM {table}"))


class Current:
    """The content of the tables of a lake, as DuckDB relations."""

    def __init__(
        self,
        batches: Batches,
        connection: duckdb.DuckDBPyConnection,
        *,
        from_batches_alone: bool = False,
        bases: Files | None = None,
    ) -> None:
        """`bases`: where the folds of older batches are kept, the lake itself unless another place is given."""
        self.batches = batches
        self.from_batches_alone = from_batches_alone and bases is None
        self.bases = bases or batches.files
        self.connection = connection
        self._verified: set[str] = set()
        self.damaged: set[str] = set()
        """Bases that are not what they were written as; they were not believed."""
        self._known_deltas: dict[tuple[object, ...], tuple[str | None, str | None]] = {}
        self._pieces: dict[str, Sequence[Path]] = {}

    def forget(self) -> None:
        """Let go of what was computed for older batches."""
        self._known_deltas.clear()

    def landed(self, file: LandedFile, *, fresh: bool = False) -> Path:
        """The local path of a landed file, after checking that it is what its manifest says; with `fresh`, that the
        lake's own file is."""
        path = self.batches.files.local(file.path, fresh=fresh)
        if file.path not in self._verified:
            # A local copy may be of what a killed run had landed under the same number.
            if self._digest(path, file) != file.sha256 and (
                self._digest(path := self.batches.files.local(file.path, fresh=True), file) != file.sha256
            ):
                raise LakeError(
                    f"{self.batches.files.url}/{file.path} is not the file its manifest lists (SHA-256 differs); "
                    "etl repair supersedes it by what is still known"
                )
            self._verified.add(file.path)
        return path

    def _digest(self, path: Path, file: LandedFile) -> str:
        try:
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise LakeError(
                f"{self.batches.files.url}/{file.path} can't be read: {error.strerror}; etl repair supersedes it "
                "by what is still known"
            ) from error

    def read(
        self,
        files: Sequence[LandedFile],
        columns: tuple[SourceColumn, ...],
        was: tuple[SourceColumn, ...] = (),
    ) -> duckdb.DuckDBPyRelation:
        """Landed files by header: `columns` in that order, NULL for those a file does not have, and the batch. Where
        a column was another type when the files landed (`was`), NULL for text that the type of now can't hold."""
        return self.connection.sql(self._rows(files, columns, was, ()))

    # From here on queries are put together as text: each relation on the way would open all files to be bound.

    def _rows(
        self,
        files: Sequence[LandedFile],
        columns: tuple[SourceColumn, ...],
        was: tuple[SourceColumn, ...],
        short: tuple[str, ...],
    ) -> str:
        before = {c.name: storage(c.type) for c in was}
        by_header: dict[tuple[str, ...], list[Path]] = {}
        longest = max((file.longest_row for file in files), default=0)
        duck.one_at_a_time(self.connection, longest)
        for file in files:
            path = self.landed(file)
            if file.path not in self._pieces:
                self._pieces[file.path] = pieces(self.connection, path, file.rows, file.longest_row)
            by_header.setdefault(tuple(duck.header(path)), []).extend(self._pieces[file.path])
        parts = []
        for have, paths in by_header.items():
            chosen = [
                (
                    "NULL"
                    if c.name not in have
                    else shortened(identifier(c.name))
                    if c.name in short and storage(c.type) == "VARCHAR"
                    else f"CAST({identifier(c.name)} AS {storage(c.type)})"
                    if before.get(c.name, storage(c.type)) == storage(c.type)
                    # DuckDB lets the CSV reader do a TRY_CAST of a column alone, and that raises.
                    else f"TRY_CAST(nullif({identifier(c.name)}, '') AS {storage(c.type)})"
                )
                + f" AS {identifier(c.name)}"
                for c in columns
            ]
            # The end of the name is ours, whatever stands before it.
            batch = (
                f"CAST(regexp_extract({duck.FILE}, '([0-9]+)(-[0-9a-f]+)?([.]deleted)?[.]csv$', 1) AS BIGINT) "
                f"AS {BATCH}"
            )
            parts.append(f"SELECT {', '.join([*chosen, batch])} FROM {duck.csv_rows(paths, longest=longest)}")
        return _union(parts)

    def fold(
        self,
        table: str,
        upto: Manifest,
        only: duckdb.DuckDBPyRelation | None = None,
        columns: tuple[SourceColumn, ...] = (),
        short: tuple[str, ...] = (),
    ) -> Fold:
        """A table after the batch of a manifest: one row per key ever seen, `DELETED` where the source has it
        no longer (the values are then the last ones). With `only`, just the rows whose keys occur there; with
        `columns`, as a later batch that has these will see it; the values of the columns `short` are `shortened`."""
        columns, key = columns or upto.tables[table].columns, listing(upto.tables[table].key)
        names = listing([column.name for column in columns])
        base = self._base(table, upto, columns)
        chosen = f" SEMI JOIN {view(only)} USING ({key})" if only is not None else ""
        # Without a base all rows ever landed go through what follows, so they are chosen before.
        later, gone = self._deltas(
            table, upto, columns, short, base.batch if base else None, "" if base else chosen
        )
        parts = []
        if base:
            # Chosen right at the scan, so that few rows go through what follows.
            rows = duck.parquet([self.bases.local(base.path)])
            held = ", ".join(f"{as_held(c, short)} AS {identifier(c.name)}" for c in columns)
            kept = f"(SELECT {held}, {DELETED}, CAST({base.batch} AS BIGINT) AS {BATCH} FROM {rows}){chosen}"
            parts.append(f"FROM {kept} ANTI JOIN {later} USING ({key})" if later else f"FROM {kept}")
        if later:
            parts.append(f"FROM {later}{chosen if base else ''}")
        if not parts:
            if not self.batches.has_superseded(table, upto):
                raise LakeError(f"the lake lists no file of {table}: its first batch is damaged")
            # Nothing could be brought back of what the files up to here held.
            nothing = ", ".join(f"CAST(NULL AS {storage(c.type)}) AS {identifier(c.name)}" for c in columns)
            parts.append(f"SELECT {nothing}, false AS {DELETED}, CAST(0 AS BIGINT) AS {BATCH} LIMIT 0")
        content = " UNION ALL ".join(parts)
        if gone:
            content = (
                f"SELECT c.* EXCLUDE ({DELETED}), c.{DELETED} OR coalesce(d.{BATCH} > c.{BATCH}, false) AS {DELETED} "
                f"FROM ({content}) c LEFT JOIN {gone} d USING ({key})"
            )
        relation = self.connection.sql(f"SELECT {names}, {DELETED} FROM ({content})")
        return Fold(relation, columns, upto.tables[table].key)

    def _deltas(
        self,
        table: str,
        upto: Manifest,
        columns: tuple[SourceColumn, ...],
        short: tuple[str, ...],
        base_batch: int | None,
        chosen: str = "",
    ) -> tuple[str | None, str | None]:
        """FROM clauses with what the batches after the base brought: the latest row of each key, and the batch that
        last deleted it. Beside a base they are small and looked at more than once, so they are computed once. `chosen`: a
        join that leaves some of the keys."""
        known = (table, upto.tables[table].changed_in, columns, short, base_batch, chosen)
        if known not in self._known_deltas:
            key = listing(upto.tables[table].key)
            batches = list(self.batches.changing(table, upto, after=base_batch))
            rows = self._landed("rows", table, batches, columns, short)
            if rows:
                rows = f"SELECT * EXCLUDE ({BATCH}), false AS {DELETED}, {BATCH} FROM ({rows}){chosen}"
                if sum(m.changed[table].rows is not None for m in batches) > 1:
                    rows += f" QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {BATCH} DESC) = 1"
            keyed = tuple(c for c in columns if c.name in upto.tables[table].key)
            gone = self._landed("deletions", table, batches, keyed, ())
            if gone:
                gone = f"SELECT {key}, max({BATCH}) AS {BATCH} FROM ({gone}) GROUP BY ALL"
            self._known_deltas[known] = tuple(  # type: ignore[assignment]
                query and (materialized(self.connection, query) if base_batch else f"({query})")
                for query in (rows, gone)
            )
        return self._known_deltas[known]

    def _landed(
        self,
        kind: str,
        table: str,
        batches: Sequence[Manifest],
        columns: tuple[SourceColumn, ...],
        short: tuple[str, ...],
    ) -> str | None:
        """The files of one kind that batches landed, read together where their columns were the same."""
        by_columns: dict[tuple[SourceColumn, ...], list[LandedFile]] = {}
        for manifest in batches:
            if file := getattr(manifest.changed[table], kind):
                by_columns.setdefault(manifest.tables[table].columns, []).append(file)
        return _union([self._rows(files, columns, was, short) for was, files in by_columns.items()]) or None

    def compact(self, table: str, upto: Manifest) -> None:
        """Write the base anew where reading the batches after it would cost too much."""
        base = self._base(table, upto, upto.tables[table].columns)
        deltas = list(self.batches.changing(table, upto, after=base.batch if base else None))
        rows = sum(m.changed[table].versions for m in deltas)
        held = upto.tables[table].versions - rows
        if rows < max(_COMPACT_ROWS, _COMPACT_SHARE * held) and len(deltas) < _COMPACT_BATCHES:
            return
        if self.is_long(table, upto):
            return
        content, history = self.fold(table, upto).relation, self.batches.content(table, upto)
        self._keep(table, upto, lambda path: write_base(content, path, history))

    def is_long(self, table: str, upto: Manifest) -> bool:
        """Whether the rows that batches after the base landed are so long together that they can't be worked on as others are."""
        base = self._base(table, upto, upto.tables[table].columns)
        deltas = self.batches.changing(table, upto, after=base.batch if base else None)
        landed = [file for m in deltas if (file := m.changed[table].rows)]
        sizes = [(file.bytes, file.rows, file.longest_row) for file in landed]
        return bool(sizes) and are_long(*(sum(one) for one in zip(*sizes, strict=True)))

    def adopt(self, table: str, upto: Manifest, made: Path) -> None:
        """Keep a base of a table that was made while the batch was landed (see `write_base`)."""
        self._keep(table, upto, lambda path: shutil.move(made, path))

    def _keep(self, table: str, upto: Manifest, write: Callable[[Path], object]) -> None:
        folder, batch = _folder(table), upto.tables[table].changed_in
        staged = self.bases.staging(f"{folder}/{number(batch)}.parquet")
        try:
            write(staged.local)
            staged.publish(f"{folder}/{number(batch)}-{checksum(staged.local)}.parquet")
        finally:
            staged.discard()
        # The one before stays: whoever is still at an older batch reads that. So does what a verification may read.
        older = [one for one in self._bases(table) if one.batch < batch]
        needed = [held.batch for held in all_held(self.bases)] if older[:-1] else []
        for one, next_one in pairwise(older):
            if not any(one.batch <= at < next_one.batch for at in needed):
                self.bases.remove(one.path)
        self.bases.sweep(folder, older_than_seconds=_ABANDONED_SECONDS)

    def _bases(self, table: str) -> list[Base]:
        """The bases of a table, oldest first. What has another name was made by an older version, and is none."""
        found = [(name, _BASE.fullmatch(name)) for name in self.bases.names(_folder(table))]
        known = [Base(f"{_folder(table)}/{name}", int(told[1]), told[2]) for name, told in found if told]
        return sorted(known, key=lambda one: one.batch)

    def newest_base(self, table: str, upto: Manifest) -> Base | None:
        """The newest fold that is kept of a table and is what these batches give."""
        return self._base(table, upto, upto.tables[table].columns)

    def _base(self, table: str, upto: Manifest, columns: tuple[SourceColumn, ...]) -> Base | None:
        """The newest base that these batches give, and that keeps all `columns` as they are held now."""
        if self.from_batches_alone:
            return None
        wanted = {(c.name, storage(c.type)) for c in columns} | {
            (DELETED, "VARCHAR")
        }  # others call it otherwise
        for base in reversed(self._bases(table)):
            if base.batch <= upto.tables[table].changed_in and self._fits(base, table, wanted):
                return base
        return None

    def without_unsound(self, table: str) -> list[str]:
        """Remove the bases of a table that are not what they were written as, and tell which."""
        unsound = [one.path for one in self._bases(table) if not self._is_sound(one)]
        for path in unsound:
            with suppress(LakeError):  # who may only read tells of it
                self.bases.remove(path)
        return unsound

    def _is_sound(self, base: Base) -> bool:
        try:
            return checksum(self.bases.local(base.path)) == base.checksum
        except OSError:
            return False

    def _fits(self, base: Base, table: str, wanted: set[tuple[str, str]]) -> bool:
        """Whether a base is whole, of these batches, and keeps some columns as they are held now."""
        if not self.batches.is_committed(base.batch) or base.path in self.damaged:
            return False
        try:
            local = self.bases.local(base.path)
            if base.path not in self._verified and checksum(local) != base.checksum:
                raise pa.ArrowInvalid(f"{base.path} is damaged")
            self._verified.add(base.path)
            schema = pq.read_schema(local)
        except (pa.ArrowInvalid, OSError):  # it is derived, so the batches are read instead
            self.damaged.add(base.path)
            return False
        kept = {(f.name, "BIGINT" if pa.types.is_int64(f.type) else "VARCHAR") for f in schema}
        footer = schema.metadata or {}
        content = self.batches.content(table, self.batches.get(base.batch))
        same = footer.get(_HISTORY, b"").decode() == content
        return same and wanted <= kept


def as_held(column: SourceColumn, short: Collection[str]) -> str:
    """The SQL of a column's values as they are held; of those that are `short`, of what stands for them."""
    name = identifier(column.name)
    return shortened(name) if column.name in short and storage(column.type) == "VARCHAR" else name


def _folder(table: str) -> str:
    return f"current/{folder_of(table)}"


def _union(queries: Sequence[str]) -> str:
    return " UNION ALL ".join(queries)
