"""Verification: everything the lake and the warehouse claim, recomputed from storage and from the live source.

What is common to its hops is here; each hop is a function of `etl_assets.proof.hops`:

    files      every landed file is the one its manifest lists
    raw        the rows held are as many, and add up to as much, as the source said in the batch's snapshot
    star       every function, applied whole to the inputs as of the batch, gives what the star shows, in all columns
    warehouse  is the star, history included
    exports    each published report is what its query gives
    source     what is held, plus what changed since, is what the source holds now; and the pages of APIs have what is held
    rebuilt    star and warehouse, made once more from all batches, are those that are shown

The inputs are read from the landed files by `etl_assets.proof.landed`, which has nothing in common with what the flow
does but the declared types: a star function meets them here for the first time. Nothing is claimed, and nothing waited
for: what is compared is the batch that was the newest when the verification began. What runs publish and load meanwhile
is no difference: the files of that batch are kept, and a warehouse is compared with what it was loaded from.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.current import view
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.names import number
from etl_assets.proof.findings import TOLD, Finding, counted, difference_of, or_unreadable
from etl_assets.proof.landed import LandedTable, landed_table
from etl_assets.proof.parts import Parts, in_words, of_parts
from etl_assets.proof.totals import digest_of
from etl_assets.star.build import Builder
from etl_assets.star.course import latest_versions
from etl_assets.star.files import StarFiles
from etl_assets.star.function import StarFunction
from etl_assets.star.resource import OpenLake
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import WarehouseReader

# Beside the columns of a table: whether a side of a comparison has the row.
_HERE = duck.own("here")
# What the engine may use here before it spills: the process as a whole stays below a GiB.
_MEMORY_BYTES = 400 << 20
_ROWS_AT_ONCE = 4


@contextmanager
def verifying(
    bench: OpenLake,
    scratch: Path,
    only: Collection[str] | None = None,
    loading: Callable[[], bool] = lambda: False,
    parts: Parts = MappingProxyType({}),
) -> Iterator["Verification"]:
    """A verification of the newest batch, of which nothing goes away while the block lasts. `loading` tells whether a run is
    under way: then the newest batch may be one that the star does not show yet, and the one before is verified."""
    with bench.star.held():
        # Asked first: whatever is behind the newest batch of now is so for good, or is told of here.
        under_way = loading()
        manifest, star = bench.builder.batches.latest() or bench.manifest, bench.star.manifest
        verification = Verification(bench.builder, manifest, scratch, only, under_way=under_way, parts=parts)
        if under_way and star and star.batch < manifest.batch and verification.is_behind():
            before = bench.builder.batches.get(star.batch)
            verification = Verification(bench.builder, before, scratch, only, under_way=True, parts=parts)
        with verification:
            yield verification


class Verification:
    """Recomputes what a lake claims as of a manifest. `scratch` is a folder for what is made meanwhile; `only` names the
    source and star tables to compare (None: all), `parts` those of which only parts of the keys are compared. `under_way`: a
    run was, when this began.

    Used in a `with` block: what is made meanwhile goes with it.
    """

    def __init__(
        self,
        builder: Builder,
        manifest: Manifest,
        scratch: Path,
        only: Collection[str] | None = None,
        *,
        under_way: bool = False,
        parts: Parts = MappingProxyType({}),
    ) -> None:
        self.builder = builder
        self.inputs = builder.inputs
        self.batches = builder.batches
        self.manifest = manifest
        self.scratch = scratch
        self.only = only
        self.under_way = under_way
        self.parts = parts
        self._stack = ExitStack()
        self._room = _MEMORY_BYTES
        self._landed: dict[str, LandedTable] = {}
        # What hops made and may need again: what functions give, and the keys that tables began with.
        self.expected: dict[tuple[str, bool], str] = {}
        self.begun: dict[tuple[str, int], str] = {}

    def __enter__(self) -> Self:
        self.folder = self._stack.enter_context(own_folder(self.scratch, "verify-"))
        self.connection = self._stack.enter_context(duck.connect(self.folder))
        self.connection.execute("SET memory_limit = $limit", {"limit": f"{self._room}B"})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wanted(self, name: str) -> bool:
        """Whether a table is to be compared."""
        return self.only is None or name in self.only

    def landed(self, name: str) -> LandedTable:
        """A source table as of the batch, read from its landed files once. Raises `LakeError`."""
        if name not in self._landed:
            table = self.inputs.tables[name]
            landed = landed_table(table, self.manifest, self.batches, self.connection, self.folder)
            self._make_room(landed.longest)
            self._landed[name] = landed
        return self._landed[name]

    def _make_room(self, longest: int) -> None:
        """Both sides of a comparison hold a row, and so does what reads it."""
        room = min(_ROWS_AT_ONCE * longest, duck.memory_bytes())
        if room > self._room:
            self._room = room
            self.connection.execute("SET memory_limit = $limit", {"limit": f"{room}B"})
            duck.one_at_a_time(self.connection, longest)

    def is_behind(self) -> bool:
        """Whether a table of the star does not show the batch."""
        try:
            return any(self.behind(made) for made in self.inputs.star.values() if self.wanted(made.name))
        except LakeError:
            return False

    def behind(self, definition: StarFunction) -> str:
        """Why what is published of a table is not to be compared; empty if it is of the batch."""
        name, star = definition.name, self.builder.star
        shown = star.shown(definition.schema)
        if shown is None:
            paths = star.paths(definition.schema)
            wrong = star.damaged.get(name) or "it is no longer as declared"
            return (wrong if paths else "the star does not have it") + ": run etl run"
        if shown.version == self.builder.version(name, self.manifest):
            return ""
        return (
            f"the star shows batch {number(shown.batch)} of it, or what other code made, not batch "
            f"{number(self.manifest.batch)}: run etl run"
        )

    def newest_star(self) -> StarFiles:
        """The star as it is published now."""
        return StarFiles(self.builder.star.files, self.batches)

    def unless_gone(self, table: str, hop: str, compare: Callable[[], Finding]) -> Finding:
        """A comparison. Where the lake could not be told to keep what is compared, and runs removed it, nothing was."""
        finding = or_unreadable(table, hop, compare)
        star = self.builder.star
        if finding.equal or table not in star.damaged or self.newest_star().manifest == star.manifest:
            return finding
        return Finding(table, hop, "nothing: runs published it anew meanwhile", skipped=True)

    def shown(self, schema: StarTable) -> str:
        """A FROM clause with the rows that the star shows as existing."""
        if isinstance(schema, Fact):
            return latest_versions(schema, self.paths(self.builder.star, schema))
        return f"(FROM {self.everything(schema)} WHERE NOT deleted)"

    def everything(self, schema: StarTable) -> str:
        """A FROM clause with all rows that the star has of a table."""
        return self.everything_in(self.builder.star, schema)

    def everything_in(self, star: StarFiles, schema: StarTable) -> str:
        """The same of another star."""
        paths = self.paths(star, schema)
        return duck.parquet(paths) if paths else view(self.inputs.empty(self.connection, schema.name))

    def paths(self, star: StarFiles, schema: StarTable) -> list[Path]:
        """The files of a table, on this machine."""
        return [star.local(path) for path in star.paths(schema)]

    def in_parts(self, schema: StarTable, rows: str) -> str:
        """Of rows those whose keys are compared."""
        return of_parts(schema, rows, self.parts)

    def compare(
        self,
        schema: StarTable,
        hop: str,
        expected: str,
        found: str,
        names: Sequence[str],
        what: str = "all columns",
        before: str = "",
    ) -> Finding:
        """Compare all rows. A difference names the table's keys, columns and both values."""
        compared = before or self.size(schema, expected, what)
        if self.digest(schema, expected, names) == self.digest(schema, found, names):
            return Finding(schema.name, hop, compared)
        return Finding(schema.name, hop, compared, self._told(schema, expected, found, names, what))

    def digest(self, schema: StarTable, rows: str, names: Sequence[str]) -> tuple[object, ...]:
        """How many rows there are, and a sum over all values of each, whatever their order."""
        return duck.one(self.connection, digest_of(schema, rows, names))

    def size(self, schema: StarTable, rows: str, what: str = "all columns") -> str:
        """What was compared, in words."""
        (count,) = duck.one(self.connection, f"SELECT count(*) FROM {rows}")
        parts = self.parts.get(schema.name)
        return f"{count:,} rows, {what}" + (f", {in_words(parts)}" if parts else "")

    def _told(self, schema: StarTable, expected: str, found: str, names: Sequence[str], what: str) -> str:
        """Which keys differ, and how."""
        keys = [key for key in schema.primary_key if key in names] or list(schema.key_columns)
        same = " AND ".join(f"e.{identifier(k)} = f.{identifier(k)}" for k in keys)
        differs = " OR ".join(f"e.{identifier(n)} IS DISTINCT FROM f.{identifier(n)}" for n in names)
        either = ", ".join(
            f"coalesce(e.{identifier(k)}, f.{identifier(k)}) AS k{i}" for i, k in enumerate(keys)
        )
        values = ", ".join(
            f"CAST(e.{identifier(n)} AS VARCHAR) AS e{i}, CAST(f.{identifier(n)} AS VARCHAR) AS f{i}"
            for i, n in enumerate(names)
        )
        sides = (
            f"(SELECT *, true AS {_HERE} FROM {rows}) {side}"
            for rows, side in ((expected, "e"), (found, "f"))
        )
        joined = f"{' FULL JOIN '.join(sides)} ON {same}"
        one, other = f"e.{_HERE} IS NULL", f"f.{_HERE} IS NULL"
        condition = f"{one} OR {other} OR ({differs})"
        (count,) = duck.one(self.connection, f"SELECT count(*) FROM {joined} WHERE {condition}")
        if not count:
            return "the same keys occur more often than once"
        order = ", ".join(f"k{i}" for i in range(len(keys)))
        query = (
            f"SELECT {either}, {one} AS lacking, {other} AS missing, {values} FROM {joined} WHERE {condition} "
            f"ORDER BY {order} LIMIT {TOLD}"
        )
        rows = self.connection.execute(query).fetchall()
        return counted(count, [difference_of(keys, names, row, what) for row in rows])

    @contextmanager
    def copied(
        self, schema: StarTable, reader: WarehouseReader, rows: str, names: Sequence[str]
    ) -> Iterator[str]:
        """Rows of a warehouse, beside the lake's for as long as they are compared."""
        copy = reader.copy(self.connection, [schema.by_name[name] for name in names], rows)
        try:
            yield copy
        finally:
            self.connection.execute(f"DROP TABLE {copy}")
