"""Star tables on their way through the batches: what each shows as of a batch, and what the next batch makes of it.

A dimension is one relation, of which members are replaced, added and flagged. A fact is a list of files, to which each
batch adds one with the versions that it brought.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.lake.current import materialized, view
from etl_assets.lake.manifest import Manifest
from etl_assets.star.application import Applied
from etl_assets.star.change import InputChange, hidden
from etl_assets.star.schema import Dimension, Fact, StarTable

# Beside a key, what stands for the values of its row.
_HASH = duck.own("hash")


@dataclass(frozen=True)
class Step:
    """What a batch does to a star table, as tables of its declared columns. `come`: rows that are new, or have a new
    version. `gone`: what was shown of those and of rows that leave. `left`: what was shown of rows that leave."""

    come: str
    gone: str
    left: str
    how: str


@dataclass
class Course(ABC):
    """A star table as of a batch (`at`; None: before the first one)."""

    schema: StarTable
    connection: duckdb.DuckDBPyConnection
    at: Manifest | None
    stopped: bool = False
    """Whether the table could not show the batch after `at`; then the next one that it can show is compared whole."""
    last: Step | None = None
    """What the newest batch did to it; None if nothing, or if it is its first one."""

    @property
    def declared(self) -> str:
        return listing([column.name for column in self.schema.declared])

    @property
    def keys(self) -> str:
        return listing(self.schema.key_columns)

    @abstractmethod
    def current(self) -> str:
        """A FROM clause with the rows that exist, in declared columns."""

    @abstractmethod
    def advance(self, step: Step) -> None:
        """Take in what a batch does."""

    @abstractmethod
    def begin(self, applied: Applied) -> None:
        """Take in the first rows."""

    @abstractmethod
    def settled(self) -> set[str]:
        """The relations that are needed for later batches; what else was made on the way may go."""

    @abstractmethod
    def as_input(self, *, versions: bool, moved: bool) -> InputChange:
        """The table as functions see it that are made from it; `moved`: with what the newest batch did to it."""

    def compared(self, now: str, was: str, forced: str | None) -> tuple[str, str, bool]:
        """Of the rows that a function gives now, those that differ from what it gave; what it gave for these and for
        those it no longer gives; and whether it is known that all others are the same rows, each of them once.
        `forced`: keys of rows that have a new version though nothing differs."""
        # A hash beside the key stands for the values: of the other side not more than that need be kept at hand.
        names = [column.name for column in self.schema.declared]
        same = f"{self._equal('r', 'o')} AND hash({listing(names, 'r.')}) = o.{_HASH}"
        come = materialized(
            self.connection,
            f"SELECT {self.declared} FROM {now} AS r ANTI JOIN "
            f"(SELECT {self.keys}, hash({self.declared}) AS {_HASH} FROM {was}) AS o ON {same}"
            + (
                f" UNION SELECT {self.declared} FROM {now} SEMI JOIN {forced} USING ({self.keys})"
                if forced
                else ""
            ),
        )
        gone = materialized(
            self.connection, f"SELECT {self.declared} FROM {was} SEMI JOIN {come} USING ({self.keys})"
        )
        if self._all_are_there(now, was, come, gone):
            return come, gone, True
        left = f"SELECT {self.declared} FROM {was} ANTI JOIN {now} USING ({self.keys})"
        return come, materialized(self.connection, f"FROM {gone} UNION ALL {left}"), False

    def _all_are_there(self, now: str, was: str, come: str, gone: str) -> bool:
        """Whether no key of `was` is missing now, as far as that follows from how many rows there are and what the hashes of
        their keys add up to: a join of all keys costs more than the function, and mostly there is nothing to find."""
        tally = f"SELECT count(*) + sum(hash({self.keys})::HUGEINT)"
        of_now, of_was, of_come, of_gone = duck.one(
            self.connection,
            "SELECT " + ", ".join(f"({tally} FROM {rows})" for rows in (now, was, come, gone)),
        )
        return (of_now or 0) - (of_come or 0) == (of_was or 0) - (of_gone or 0)

    def without(self, rows: str, others: str) -> str:
        """Those of some rows whose keys others do not have."""
        return materialized(
            self.connection, f"SELECT {self.declared} FROM {rows} ANTI JOIN {others} USING ({self.keys})"
        )

    def _equal(self, one: str, other: str) -> str:
        return " AND ".join(
            f"{one}.{identifier(key)} = {other}.{identifier(key)}" for key in self.schema.key_columns
        )


@dataclass
class DimensionCourse(Course):
    """All members that a dimension has, those that are gone flagged."""

    schema: Dimension
    members: str = ""
    """What stands after FROM for them."""
    touched: str | None = None
    """A table with the keys of those that differ from the file that is published; None: any may."""
    steps: int = 0
    rolling: bool = False

    def current(self) -> str:
        return f"(SELECT {self.declared} FROM {self.members} WHERE NOT deleted)"

    def begin(self, applied: Applied) -> None:
        self.members = view(
            self.connection.sql(f"SELECT {self.declared}, false AS deleted FROM {applied.now}")
        )
        self.steps, self.touched = 1, None

    def advance(self, step: Step) -> None:
        touched = materialized(
            self.connection, f"SELECT {self.keys} FROM {step.come} UNION SELECT {self.keys} FROM {step.gone}"
        )
        added = (
            f"SELECT {self.declared}, false AS deleted FROM {step.come} "
            f"UNION ALL SELECT {self.declared}, true AS deleted FROM {step.left}"
        )
        if self.rolling:
            chosen = f"SELECT 1 FROM {touched} k WHERE {self._equal('m', 'k')}"
            self.connection.execute(f"DELETE FROM {self.members} AS m WHERE EXISTS ({chosen})")
            self.connection.execute(f"INSERT INTO {self.members} {added}")
        else:
            kept = (
                f"SELECT {self.declared}, deleted FROM {self.members} ANTI JOIN {touched} USING ({self.keys})"
            )
            self.members = view(self.connection.sql(f"{kept} UNION ALL {added}"))
        if self.touched:
            self.touched = materialized(
                self.connection,
                f"SELECT {self.keys} FROM {self.touched} UNION SELECT {self.keys} FROM {touched}",
            )
        self.steps += 1

    def settled(self) -> set[str]:
        if self.steps and not self.rolling:
            # From the second batch on there is a table that is changed in place: queries do not pile up.
            self.members, self.rolling = materialized(self.connection, f"SELECT * FROM {self.members}"), True
        return {self.members, *([self.touched] if self.touched else [])}

    def as_input(self, *, versions: bool, moved: bool) -> InputChange:
        names = tuple(column.name for column in self.schema.columns)
        keys = tuple(hidden(key) for key in self.schema.key_columns)
        beside = ", ".join(
            f"{identifier(key)} AS {identifier(hidden(key))}" for key in self.schema.key_columns
        )

        def shown(rows: str) -> str:
            return f"(SELECT {self.declared}, false AS deleted, {beside} FROM {rows})"

        if not moved or self.last is None:
            return InputChange(self.schema.name, names, keys, shown(self.current()))
        gone, come = shown(self.last.gone), shown(self.last.come)
        return InputChange(self.schema.name, names, keys, shown(self.current()), None, gone, come)


@dataclass
class FactCourse(Course):
    """The files of a fact, oldest first."""

    schema: Fact
    files: list[Path] = field(default_factory=list)
    added: Path | None = None
    """The file of the newest batch."""
    latest: str | None = None
    """A table with the current versions, kept where several batches are gone through."""
    keep: bool = False

    @property
    def names(self) -> str:
        return listing([column.name for column in self.schema.columns])

    def current(self) -> str:
        return f"(SELECT {self.declared} FROM {self._latest()})"

    def _latest(self) -> str:
        """A FROM clause with the current versions, in all columns."""
        if self.latest:
            return self.latest
        if not self.files:
            return self._nothing()
        rows = latest_versions(self.schema, self.files)
        if self.keep:
            self.latest = materialized(self.connection, f"SELECT {self.names} FROM {rows}")
            return self.latest
        return rows

    def begin(self, applied: Applied) -> None:
        pass  # the file is all there is

    def advance(self, step: Step) -> None:
        if self.latest and self.added:
            chosen = f"SELECT 1 FROM {step.gone} k WHERE {self._equal('m', 'k')}"
            self.connection.execute(f"DELETE FROM {self.latest} AS m WHERE EXISTS ({chosen})")
            self.connection.execute(
                f"INSERT INTO {self.latest} SELECT {self.names} FROM {duck.parquet([self.added])} WHERE NOT deleted"
            )

    def add(self, file: Path) -> None:
        """Take note of the file of the newest batch."""
        self.added = file
        self.files.append(file)

    def highest(self) -> int:
        """The highest surrogate key so far."""
        record = identifier(self.schema.record)
        for file in reversed(self.files):
            (found,) = duck.one(self.connection, f"SELECT max({record}) FROM {duck.parquet([file])}")
            if found is not None:
                return int(found)
        return 0

    def versions(self, step: Step | None, rows: str, base: int, batch: int) -> duckdb.DuckDBPyRelation:
        """The rows of a batch's file: new versions, and records of what left, numbered by their keys."""
        parts = f"SELECT {self.declared}, false AS deleted FROM {rows}"
        if step:
            parts += f" UNION ALL SELECT {self.declared}, true AS deleted FROM {step.left}"
        return self.connection.sql(
            f"SELECT {base} + row_number() OVER (ORDER BY {self.keys}) AS {identifier(self.schema.record)}, "
            f"{self.declared}, CAST({batch} AS BIGINT) AS batch, deleted FROM ({parts}) ORDER BY 1"
        )

    def settled(self) -> set[str]:
        return {self.latest} if self.latest else set()

    def as_input(self, *, versions: bool, moved: bool) -> InputChange:
        names = tuple(column.name for column in self.schema.columns)
        keys = (self.schema.record,) if versions else self.schema.key_columns
        beside = ", ".join(f"{identifier(key)} AS {identifier(hidden(key))}" for key in keys)

        def shown(rows: str) -> str:
            return f"(SELECT {self.names}, {beside} FROM {rows})"

        rows = self._latest()
        if versions:
            rows = duck.parquet(self.files) if self.files else self._nothing()
        hide = tuple(hidden(key) for key in keys)
        if not moved or self.last is None or self.added is None:
            return InputChange(self.schema.name, names, hide, shown(rows))
        file = duck.parquet([self.added])
        if versions:
            gone = f"(SELECT * FROM {file} LIMIT 0)"
            return InputChange(self.schema.name, names, hide, shown(rows), None, shown(gone), shown(file))
        record = identifier(self.schema.record)
        earlier = [path for path in self.files if path != self.added]
        gone = self._nothing()
        if earlier:
            past = f"(SELECT * FROM {duck.parquet(earlier)} SEMI JOIN {self.last.gone} USING ({self.keys}))"
            gone = f"(SELECT * FROM {past} WHERE {record} IN (SELECT max({record}) FROM {past} GROUP BY {self.keys}))"
        come = f"(SELECT * FROM {file} WHERE NOT deleted)"
        return InputChange(self.schema.name, names, hide, shown(rows), None, shown(gone), shown(come))

    def _nothing(self) -> str:
        columns = ", ".join(
            f"CAST(NULL AS {column.type.duckdb}) AS {identifier(column.name)}"
            for column in self.schema.columns
        )
        return f"(SELECT {columns} WHERE false)"


def latest_versions(schema: Fact, files: Sequence[Path]) -> str:
    """A FROM clause with the current version of each row of a fact, given its files, oldest first. The first file is
    usually all there was, and the others are small: of its rows those are current that no other file has a version of."""
    first, *others = files
    names, keys = listing([column.name for column in schema.columns]), listing(schema.key_columns)
    begun = f"SELECT {names} FROM {duck.parquet([first])}"
    if not others:
        return f"({begun} WHERE NOT deleted)"
    later, record = duck.parquet(others), identifier(schema.record)
    return (
        f"(SELECT * FROM ({begun} ANTI JOIN {later} AS o USING ({keys}) UNION ALL SELECT {names} FROM {later} "
        f"WHERE {record} IN (SELECT max({record}) FROM {later} GROUP BY {keys})) WHERE NOT deleted)"
    )


def audits_of(
    connection: duckdb.DuckDBPyConnection, schema: StarTable, rows: str
) -> "tuple[int, int, int, Sequence[str]]":
    """Of rows that are to be published: how many there are, how many required values are missing, how many have the
    key of another, and some of these keys."""
    keys = listing(schema.key_columns)
    required = [column.name for column in schema.declared if not column.type.nullable]
    nulls = " + ".join(f"count(*) FILTER ({identifier(name)} IS NULL)" for name in required)
    count, missing, different = duck.one(
        connection,
        f"SELECT count(*), {nulls}, (SELECT count(*) FROM (SELECT 1 FROM {rows} GROUP BY {keys})) FROM {rows}",
    )
    if count == different:
        return count, missing, 0, ()
    found = connection.execute(
        f"SELECT {keys} FROM {rows} GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 5"
    ).fetchall()
    return count, missing, count - different, tuple(", ".join(map(str, key)) for key in found)
