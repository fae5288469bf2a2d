"""Random histories of a source: concurrent transactions of every kind, and a sync now and then.

One thread drives all sessions, so between a sync and the look at the source nothing happens: what an independent
session sees is what the snapshot saw. A statement that would have to wait for another session fails instead.
"""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from etl_assets.lake.manifest import Manifest
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Content, Lake, connect, said

_SESSIONS = 4
_TEXTS = ("", " ", "a", "A", "b'c", 'q"q', "x,y", "line\nbreak", "\r", "\\.", "NULL", "é", "🧾", "0", "-1")
_REST = "v text, n numeric, last_updated timestamptz NOT NULL DEFAULT clock_timestamp()"
_ALSO = {"v": "text?", "n": "numeric?", "last_updated": "timestamptz"}


@dataclass(frozen=True, eq=False)
class Shape:
    """A kind of table: its key, and random values for it from a set small enough to meet again."""

    table: Table
    key: str
    draw: Callable[[random.Random], tuple[Any, ...]]

    @property
    def columns(self) -> str:
        return ", ".join(self.table.key)

    @property
    def where(self) -> str:
        return " AND ".join(f"{name} = %s" for name in self.table.key)


def _number(rng: random.Random) -> int:
    # 32 keys share a word of the bitmap by which deletions are found, and a bucket may be negative.
    return rng.choice((rng.randint(-4, 70), rng.randint(1, 12), rng.choice((2**62, -(2**63), 2**63 - 1))))


SHAPES = (
    Shape(
        Table("numbered", "", {"id": "bigint", **_ALSO}, key=("id",)),
        "id bigint",
        lambda rng: (_number(rng),),
    ),
    Shape(
        Table("named", "", {"name": "text", **_ALSO}, key=("name",)),
        "name text",
        lambda rng: (rng.choice(_TEXTS),),
    ),
    Shape(
        Table("paired", "", {"b": "text", "a": "int", **_ALSO}, key=("b", "a")),
        "a int, b text",
        lambda rng: (rng.choice(_TEXTS[:5]), rng.randint(-2, 3)),
    ),
)


@dataclass
class Session:
    connection: Connection
    savepoints: int = 0

    @property
    def is_open(self) -> bool:
        return self.connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE


@dataclass
class Cursor:
    """A copy kept by `last_updated`, as tools that follow a cursor keep it."""

    rows: dict[Shape, dict[tuple[Any, ...], tuple[Any, ...]]] = field(default_factory=dict)
    latest: dict[Shape, Any] = field(default_factory=dict)

    def follow(self, cursor: Any, shape: Shape) -> bool:
        """Bring the copy up to date; whether it holds every row of the source (it can't know of deletions)."""
        copy = self.rows.setdefault(shape, {})
        everything = f"SELECT {shape.columns}, v, n, last_updated FROM {shape.table.name}"
        if shape in self.latest:
            cursor.execute(f"{everything} WHERE last_updated > %s", (self.latest[shape],))
        else:
            cursor.execute(everything)
        width = len(shape.table.key)
        copy.update({row[:width]: row[width:] for row in cursor.fetchall()})
        if copy:
            self.latest[shape] = max(row[-1] for row in copy.values())
        cursor.execute(everything)
        return all(copy.get(row[:width]) == row[width:] for row in cursor.fetchall())


@dataclass
class Tally:
    """What happened over many histories."""

    histories: int = 0
    syncs: int = 0
    reads: Counter[str] = field(default_factory=Counter)
    whole: list[str] = field(default_factory=list)
    cursor_lost: int = 0
    events: Counter[str] = field(default_factory=Counter)


class History:
    """One random history, wholly determined by its seed."""

    def __init__(self, seed: int, lake: Lake, sessions: list[Connection], observer: Connection) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.lake = lake
        self.sessions = [Session(connection) for connection in sessions]
        self.observer = observer
        self.shapes = self.rng.sample(SHAPES, self.rng.choice((1, 1, 1, 2)))
        self.log: list[str] = [f"seed {seed}"]
        self.cursor = Cursor()
        self.states: list[tuple[Manifest, dict[str, Content]]] = []
        self.tally = Tally(histories=1)

    def run(self) -> Tally:
        self._begin()
        self._sync()
        left = self.rng.choice((1, 1, 2))
        steps = self.rng.randint(12, 26)
        syncs = set(self.rng.sample(range(3, steps), left))
        for step in range(steps):
            self._step()
            if step in syncs:
                self._sync()
        for session in self.sessions:
            self._end(session)
        self._sync()
        return self.tally

    def _begin(self) -> None:
        with self.observer.cursor() as cursor:
            for shape in SHAPES:
                cursor.execute(f"DROP TABLE IF EXISTS {shape.table.name}")
            for shape in self.shapes:
                name = shape.table.name
                cursor.execute(f"CREATE TABLE {name} ({shape.key}, {_REST}, PRIMARY KEY ({shape.columns}))")
                for _ in range(self.rng.choice((0, 3, 25))):
                    self._write(cursor, *self._insert(shape))
        self.log.append(f"tables {[shape.table.name for shape in self.shapes]}")

    def _step(self) -> None:
        kinds = {
            self._change: 20,
            self._savepoint: 4,
            self._finish: 6,
            self._maintain: 2,
            self._truncate: 0.4,
        }
        (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
        kind()

    def _change(self) -> None:
        session = self.rng.choice(self.sessions)
        if not session.is_open and self.rng.random() < 0.75:
            with session.connection.cursor() as cursor:
                cursor.execute("BEGIN")
        shape = self.rng.choice(self.shapes)
        kind, *others = self.rng.choices(
            (self._insert, self._update, self._touch, self._move, self._delete, self._replace),
            (6, 6, 2, 2, 4, 2),
        )
        assert not others
        for statement, values in self._in_pairs(kind(shape)):
            self._try(session, statement, values)

    @staticmethod
    def _in_pairs(words: tuple[Any, ...]) -> list[tuple[str, tuple[Any, ...]]]:
        return list(zip(words[::2], words[1::2], strict=True))

    def _insert(self, shape: Shape) -> tuple[Any, ...]:
        values = (*shape.draw(self.rng), *self._values())
        marks = ", ".join(["%s"] * len(values))
        return (
            f"INSERT INTO {shape.table.name} ({shape.columns}, v, n) VALUES ({marks}) ON CONFLICT DO NOTHING",
            values,
        )

    def _update(self, shape: Shape) -> tuple[Any, ...]:
        v, n = self._values()
        honest = ", last_updated = clock_timestamp()" if self.rng.random() < 0.9 else ""
        if self.rng.random() < 0.2:
            some = f"UPDATE {shape.table.name} SET v = %s{honest} WHERE abs(hashtext(v)) %% 3 = 0"
            return some, (v,)
        one = f"UPDATE {shape.table.name} SET v = %s, n = %s{honest} WHERE {shape.where}"
        return one, (v, n, *shape.draw(self.rng))

    def _touch(self, shape: Shape) -> tuple[Any, ...]:
        """New row versions with the same values."""
        return f"UPDATE {shape.table.name} SET v = v WHERE {shape.where}", shape.draw(self.rng)

    def _move(self, shape: Shape) -> tuple[Any, ...]:
        assignments = ", ".join(f"{name} = %s" for name in shape.table.key)
        return (
            f"UPDATE {shape.table.name} SET {assignments}, last_updated = clock_timestamp() WHERE {shape.where}",
            (*shape.draw(self.rng), *shape.draw(self.rng)),
        )

    def _delete(self, shape: Shape) -> tuple[Any, ...]:
        return f"DELETE FROM {shape.table.name} WHERE {shape.where}", shape.draw(self.rng)

    def _replace(self, shape: Shape) -> tuple[Any, ...]:
        """A key that is deleted and comes back, with other values or the same."""
        statement, values = self._insert(shape)
        key = values[: len(shape.table.key)]
        return f"DELETE FROM {shape.table.name} WHERE {shape.where}", key, statement, values

    def _values(self) -> tuple[str | None, str | None]:
        return (
            self.rng.choice((None, *_TEXTS)),
            self.rng.choice((None, "NaN", "1.0", "1.00", str(self.rng.random()))),
        )

    def _savepoint(self) -> None:
        session = self.rng.choice(self.sessions)
        if not session.is_open:
            return
        if session.savepoints == 0 or self.rng.random() < 0.5:
            self._try(session, f"SAVEPOINT s{session.savepoints + 1}")
            session.savepoints += session.is_open
            return
        depth = self.rng.randint(1, session.savepoints)
        if self.rng.random() < 0.5:
            self._try(session, f"ROLLBACK TO SAVEPOINT s{depth}")
            session.savepoints = depth
        else:
            self._try(session, f"RELEASE SAVEPOINT s{depth}")
            session.savepoints = depth - 1

    def _finish(self) -> None:
        self._end(self.rng.choice(self.sessions))

    def _end(self, session: Session) -> None:
        if session.is_open:
            self._try(session, self.rng.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")))
            session.savepoints = 0

    def _maintain(self) -> None:
        how = self.rng.choice(("VACUUM", "VACUUM", "VACUUM (FREEZE)", "VACUUM (FULL)", "ANALYZE"))
        idle = [session for session in self.sessions if not session.is_open]
        if idle:
            self._try(idle[0], f"{how} {self.rng.choice(self.shapes).table.name}")

    def _truncate(self) -> None:
        # Within one step: its lock would keep a sync waiting.
        idle = [session for session in self.sessions if not session.is_open]
        if not idle:
            return
        shape = self.rng.choice(self.shapes)
        with idle[0].connection.cursor() as cursor:
            cursor.execute("BEGIN")
        self._try(idle[0], f"TRUNCATE {shape.table.name}")
        if idle[0].is_open:
            for _ in range(self.rng.choice((0, 1, 4))):
                self._try(idle[0], *self._insert(shape))
        self._end(idle[0])

    def _try(self, session: Session, statement: str, values: tuple[Any, ...] = ()) -> None:
        with session.connection.cursor() as cursor:
            number = self.sessions.index(session) + 1
            try:
                self._write(cursor, statement, values, f"session {number}: ")
                self.tally.events[statement.split()[0]] += 1
            except (psycopg2.errors.LockNotAvailable, psycopg2.errors.UniqueViolation) as error:
                self.tally.events[type(error).__name__] += 1
                self.log.append(f"    failed: {type(error).__name__}")
                if session.savepoints:
                    cursor.execute(f"ROLLBACK TO SAVEPOINT s{session.savepoints}")
                    self.log.append(f"session {number}: back to s{session.savepoints}")
                elif session.is_open:
                    cursor.execute("ROLLBACK")
                    self.log.append(f"session {number}: rolled back")

    def _write(self, cursor: Any, statement: str, values: tuple[Any, ...], who: str = "") -> None:
        self.log.append(f"{who}{statement} {values or ''}")
        cursor.execute(statement, values or None)

    def _sync(self) -> None:
        tables = [shape.table for shape in self.shapes]
        open_ = sum(session.is_open for session in self.sessions)
        manifest = self.lake.sync(*tables, deletion_brake=1.0)
        self.log.append(
            f"sync with {open_} open transactions: {manifest.batch if manifest else 'nothing new'}"
        )
        self.tally.syncs += 1
        source = {table.name: said(self.observer, table.name) for table in tables}
        for table in tables:
            held = self.lake.held(table)
            assert held.columns == source[table.name].columns
            assert held.rows == source[table.name].rows, (
                f"{table.name} has {source[table.name].rows - held.rows} and the lake {held.rows - source[table.name].rows}"
            )
        if manifest:
            self.states.append((manifest, source))
            for state in manifest.tables.values():
                if manifest.batch != 1:
                    self.tally.reads[state.read] += 1
                    self.tally.whole += [state.why] * (state.read == "whole")
        with self.observer.cursor() as cursor:
            exact = [self.cursor.follow(cursor, shape) for shape in self.shapes]
        self.tally.cursor_lost += not all(exact)


def open_sessions(url: str) -> tuple[list[Connection], Connection]:
    """The sessions that write, which never wait long for one another, and one that looks on."""
    sessions = [connect(url) for _ in range(_SESSIONS)]
    for session in sessions:
        with session.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2ms'")
    return sessions, connect(url)


def close_sessions(sessions: list[Connection]) -> None:
    for session in sessions:
        with closing(session):
            session.rollback()
