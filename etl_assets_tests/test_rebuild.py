"""What increments made is what a rebuild from all batches makes, surrogate keys included; and it is the source."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import narwhals as nw
import psycopg2
import pytest

from etl_assets.lake import current
from etl_assets.source.table import Table
from etl_assets.star import build
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import Column, Dimension, Fact
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute

CASES = 8
BATCHES = 3


@dataclass(frozen=True)
class Kind:
    """A source type, what it is declared as, and values: PostgreSQL's text -> the star's text, None if it is a misfit."""

    source: str
    declared: str
    values: Mapping[str, str | None]


def _same(*values: str) -> dict[str, str | None]:
    return {value: value for value in values}


KINDS = (
    Kind("integer", "int", _same("0", "-7", "2147483647")),
    Kind("bigint", "int", _same("5") | {"99999999999": None}),
    Kind("numeric(12,3)", "numeric(12,3)", _same("1.500", "-0.001") | {"NaN": None}),
    Kind(
        "numeric", "numeric(10,2)", {"1.5": "1.50", "1.10": "1.10", "1.005": None, "NaN": None, "1e9": None}
    ),
    Kind("double precision", "double", _same("0.1", "-2.5") | {"NaN": None, "Infinity": None}),
    Kind("text", "date", _same("2024-02-29", "2031-12-31") | {"2024-02-30": None, "soon": None, "": None}),
    Kind("date", "date", _same("2024-02-29") | {"infinity": None}),
    Kind(
        "timestamp", "timestamp", _same("2024-01-05 12:00:00.5", "2024-01-05 00:00:00") | {"-infinity": None}
    ),
    Kind("boolean", "boolean", _same("true", "false")),
    Kind("text", "text", _same("", " ", "NULL", 'a "b",\nc', "é", "x")),
    Kind("text", "int", _same("5") | {"1e3": None, " 5 ": None}),
    Kind("uuid", "uuid", _same("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    Kind("bytea", "bytea", {"\\x00ff": "00FF", "\\x": ""}),
    Kind("text[]", "array", _same('{"a,b",NULL}', "{}")),
    Kind("time", "time", _same("23:59:59.5") | {"24:00:00": None}),
)
KEYS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "int": (("id", "int"),),
    "text": (("id", "text"),),
    "composite": (("part", "text"), ("id", "bigint")),
}
_KEY_VALUES = {
    "int": ["1", "2", "3", "40", "-1"],
    "text": ["a", "b,c", "", "é", '"'],
    "bigint": ["1", "2", "99"],
}


@dataclass(frozen=True)
class Source:
    """A random table: its key, its random columns, and a reference to another."""

    name: str
    key: Sequence[tuple[str, str]]
    columns: Mapping[str, Kind]
    nullable: Mapping[str, bool]
    refers: str

    @cached_property
    def table(self) -> Table:
        random = {n: k.declared + ("?" if self.nullable[n] else "") for n, k in self.columns.items()}
        return Table(self.name, "", {**dict(self.key), "other": f"{self.refers}?", **random})

    @property
    def ddl(self) -> str:
        columns = [*self.key, ("other", self.refers), *((n, k.source) for n, k in self.columns.items())]
        listed = ", ".join(f"{name} {type_}" for name, type_ in columns)
        return f"CREATE TABLE {self.name} ({listed}, PRIMARY KEY ({', '.join(n for n, _ in self.key)}))"

    def star_text(self, name: str, text: str | None) -> str | None:
        """What the star shows of a value. Raises `KeyError` for one that it can't."""
        if text is None:
            if not self.nullable[name]:
                raise KeyError(name)
            return None
        kind = self.columns[name]
        return {value: shown for value, shown in kind.values.items() if shown is not None}[text]


@dataclass(frozen=True)
class World:
    """Three tables, a dimension that joins two of them, and a fact that refers to it."""

    seed: int
    parent: Source
    member: Source
    event: Source
    context: bool

    @property
    def sources(self) -> tuple[Source, Source, Source]:
        return self.parent, self.member, self.event

    @cached_property
    def inputs(self) -> Inputs:
        member_names, parent_names, event_names = (
            list(s.columns) for s in (self.member, self.parent, self.event)
        )
        composite = len(self.event.key) > 1

        def dim_member(member: nw.LazyFrame, parent: nw.LazyFrame) -> nw.LazyFrame:
            inherited = parent.select("id", *[nw.col(n).alias(f"parent_{n}") for n in parent_names])
            return member.join(inherited, left_on="other", right_on="id", how="left").select(
                nw.col("id").alias("member_id"), *member_names, *[f"parent_{n}" for n in parent_names]
            )

        def key() -> nw.Expr:
            parts = [nw.col("part"), nw.col("id").cast(nw.String)]
            return (nw.concat_str(parts, separator="/") if composite else nw.col("id")).alias("event_id")

        def fact_event(event: nw.LazyFrame) -> nw.LazyFrame:
            return event.select(key(), nw.col("other").alias("member_id"), *event_names)

        def fact_event_in_context(event: nw.LazyFrame, parent: nw.LazyFrame) -> nw.LazyFrame:
            # `member_id` and the parent's key are of one type.
            known = parent.select("id", nw.lit(1).cast(nw.Int32).alias("known"))
            return event.join(known, left_on="other", right_on="id", how="left").select(
                key(), nw.col("other").alias("member_id"), *event_names, "known"
            )

        member_key, event_key = self.member.key[0][1], "text" if composite else self.event.key[0][1]
        dimension = Dimension(
            "dim_member",
            "",
            "member_id",
            [
                Column("member_id", member_key),
                *(Column(n, f"{k.declared}?") for n, k in self.member.columns.items()),
                *(Column(f"parent_{n}", f"{k.declared}?") for n, k in self.parent.columns.items()),
            ],
        )
        columns = [
            Column("event_id", event_key),
            Column("member_id", f"{member_key}?", references="dim_member"),
            *(
                Column(n, k.declared + ("?" if self.event.nullable[n] else ""))
                for n, k in self.event.columns.items()
            ),
        ]
        if self.context:
            columns.append(Column("known", "int?"))
        function = fact_event_in_context if self.context else fact_event
        star = {
            "dim_member": StarFunction(dimension, dim_member),
            "fact_event": StarFunction(
                Fact("fact_event", "", "event_id", columns, record="event_record_id"), function
            ),
        }
        return Inputs({source.name: source.table for source in self.sources}, star, {})


def random_world(seed: int) -> World:
    rng = Random(seed)
    number = iter(range(100))

    def source(name: str, key: str, refers: str) -> Source:
        columns = {f"c{next(number)}": rng.choice(KINDS) for _ in range(rng.randint(1, 3))}
        nullable = {column: rng.random() < 0.5 for column in columns}
        return Source(name, KEYS[key], columns, nullable, refers)

    shared = rng.choice(["int", "text"])  # the key of parent and member, to which the others refer
    event = rng.choice(["int", "text", "composite"])
    return World(
        seed,
        source("parent", shared, "int"),
        source("member", shared, shared),
        source("event", event, shared),
        context=rng.random() < 0.4,
    )


def change(cursor: Any, world: World, rng: Random) -> None:
    """Insert, update, delete and reinsert a few rows."""
    for _ in range(rng.randint(1, 12)):
        source = rng.choice(world.sources)
        names = [name for name, _ in source.key]
        key = [rng.choice(_KEY_VALUES[type_]) for _, type_ in source.key]
        where = " AND ".join(f"{name} = %s" for name in names)
        if rng.random() < 0.25:
            cursor.execute(f"DELETE FROM {source.name} WHERE {where}", key)
            if rng.random() < 0.6:
                continue
        values = [None if rng.random() < 0.15 else _drawn(kind, rng) for kind in source.columns.values()]
        other = rng.choice([None, *_KEY_VALUES[source.refers]])
        columns = [*names, "other", *source.columns]
        assigned = ", ".join(f"{name} = excluded.{name}" for name in columns[len(names) :])
        cursor.execute(
            f"INSERT INTO {source.name} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "
            f"ON CONFLICT ({', '.join(names)}) DO UPDATE SET {assigned}",
            [*key, other, *values],
        )


def _drawn(kind: Kind, rng: Random) -> str:
    """A value that fits, mostly."""
    fitting = [value for value, shown in kind.values.items() if shown is not None]
    misfits = [value for value, shown in kind.values.items() if shown is None]
    return rng.choice(misfits if misfits and rng.random() < 0.2 else fitting)


Told = dict[tuple[str, ...], tuple[str | None, dict[str, str | None] | None]]
"""Key -> the reference, and the star's texts of the other columns (None of a row that the star can't show)."""


def told(cursor: Any, source: Source) -> Told:
    """A table as PostgreSQL writes it."""
    names = [*(name for name, _ in source.key), "other", *source.columns]
    cursor.execute(f"SELECT {', '.join(f'{name}::text' for name in names)} FROM {source.name}")
    found: Told = {}
    width = len(source.key)
    for row in cursor.fetchall():
        try:
            values = {
                name: source.star_text(name, text)
                for name, text in zip(source.columns, row[width + 1 :], strict=True)
            }
        except KeyError:
            found[row[:width]] = row[width], None
        else:
            found[row[:width]] = row[width], values
    return found


def assert_shows_the_source(world: World, flow: Direct, now: Mapping[str, Told], parents: Told) -> None:
    """The present state of the warehouse is what PostgreSQL says, without the rows that can't be shown."""

    def shown(columns: Mapping[str, Kind], prefix: str = "") -> list[str]:
        return [
            f"hex({prefix}{n})" if kind.declared == "bytea" else f"CAST({prefix}{n} AS VARCHAR)"
            for n, kind in columns.items()
        ]

    members = []
    for key, (other, values) in now["member"].items():
        _, inherited = parents.get((other or "",), (None, None)) if other is not None else (None, None)
        if values is not None:
            inherited = inherited or dict.fromkeys(world.parent.columns)
            members.append((key[0], *values.values(), *inherited.values()))
    events = [
        ("/".join(key), other, *values.values()) for key, (other, values) in now["event"].items() if values
    ]
    with flow.reading() as connection:
        dimension = [*shown(world.member.columns), *shown(world.parent.columns, "parent_")]
        found = connection.execute(
            f"SELECT member_id::VARCHAR, {', '.join(dimension)} FROM star.dim_member WHERE NOT deleted "
            "AND member_id::VARCHAR NOT IN (SELECT member_key FROM star.inferred_members)"
        ).fetchall()
        assert sorted(found, key=str) == sorted(members, key=str)
        fact = ["event_id::VARCHAR", "member_id::VARCHAR", *shown(world.event.columns)]
        found = connection.execute(f"SELECT {', '.join(fact)} FROM star.fact_event_current").fetchall()
        assert sorted(found, key=str) == sorted(events, key=str)


@pytest.fixture(scope="module")
def url(module_database: Callable[[], str]) -> str:
    return module_database()


def follows(seed: int, url: str, folder: Path) -> Direct:
    """Play a random world, batch by batch; returns its flow at the end."""
    world, rng = random_world(seed), Random(f"changes {seed}")
    flow = Direct(url, folder, world.inputs)
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SET extra_float_digits = 1; SET datestyle = 'ISO, YMD'; SET bytea_output = 'hex'")
        cursor.execute("DROP TABLE IF EXISTS parent, member, event")
        for source in world.sources:
            cursor.execute(source.ddl)
        parents: Told = {}
        for number in range(BATCHES):
            change(cursor, world, rng)
            flow.run(certified=number > 1, whole=rng.random() < 0.1)
            now = {source.name: told(cursor, source) for source in world.sources}
            parents |= now["parent"]
            assert_shows_the_source(world, flow, now, parents)
    return flow


@pytest.mark.many
@pytest.mark.parametrize("seed", range(CASES))
def test_increments_equal_a_rebuild_and_the_source(
    seed: int, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:  # as a lake of millions of rows does it
        monkeypatch.setattr(current, "_COMPACT_ROWS", 1)
        monkeypatch.setattr(build, "_SORTED_ROWS", 0)
        monkeypatch.setattr(build, "_IN_MEMORY_ROWS", 0)
    flow = follows(seed, url, tmp_path)
    again = flow.at(tmp_path / "again")
    shutil.copytree(tmp_path / "lake/raw", tmp_path / "again/lake/raw")
    again.derive(certified=False)
    assert again.lake_dump() == flow.lake_dump()
    assert again.dump() == flow.dump()
    if seed % 3 == 0:
        assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CASES, 60 * CASES))
def test_increments_equal_a_rebuild_and_the_source_at_length(
    seed: int, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_increments_equal_a_rebuild_and_the_source(seed, url, tmp_path, monkeypatch)


@pytest.mark.parametrize("large", [0, 100_000], ids=["updated", "written anew"])
def test_a_member_that_is_gone_reads_alike_everywhere_after_a_change_of_types(
    large: int, database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_SORTED_ROWS", large)

    def dim_t(t: nw.LazyFrame) -> nw.LazyFrame:
        return t.select(nw.col("id").alias("t_id"), "v")

    schema = Dimension("dim_t", "", "t_id", [Column("t_id", "int"), Column("v", "text?")])
    table = Table("t", "", {"id": "int", "v": "text?"})
    flow = Direct(database(), tmp_path, Inputs({"t": table}, {"dim_t": StarFunction(schema, dim_t)}, {}))
    for statement in (
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x'), (2, '8')",
        "DELETE FROM t WHERE id = 1",
        "ALTER TABLE t ALTER v TYPE int USING v::int; INSERT INTO t VALUES (3, 9)",
    ):
        execute(flow.url, statement)
        flow.run()
    assert [f for f in [*flow.verified(thorough=True), *flow.rebuilt()] if not f.equal] == []
