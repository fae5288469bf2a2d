"""A source in which transactions of every kind go on, and a log of them: what the source holds can be told for any snapshot.

One thread drives several sessions, so transactions overlap, and rows that several of them want are waited for by none: a
statement that would have to wait fails instead. The log is what the writer asked for, not what the source says it holds.
"""

import random
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

Row = tuple[Any, ...]
Rows = dict[int, Row]
State = Mapping[str, Rows]
TABLES: Mapping[str, tuple[str, ...]] = {
    "account": ("id", "name", "owner"),
    "entry": ("id", "account_id", "amount", "note"),
}
"""The tables and their columns; the first one is the key."""
SCHEMA = """
    CREATE TABLE account (id int PRIMARY KEY, name text NOT NULL, owner text);
    CREATE TABLE entry (id int PRIMARY KEY, account_id int NOT NULL, amount numeric(12,2) NOT NULL, note text);
    CREATE TABLE unread (id bigserial PRIMARY KEY, at timestamptz DEFAULT now());
"""
_SESSIONS = 4
_NOTES = (None, "", " ", 'q"q', "x,y", "line\nbreak", "\\.", "=1+1", "é🧾")


@dataclass(frozen=True)
class Instant:
    """Which transactions a snapshot saw, as PostgreSQL writes it: `xmin:xmax:in progress,…`."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def of(cls, text: str) -> "Instant":
        xmin, xmax, listed = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(number) for number in listed.split(",") if number))

    def saw(self, transaction: int) -> bool:
        """Whether it had committed by then, if it committed at all."""
        return transaction < self.xmax and transaction not in self.in_progress


@dataclass
class Transaction:
    """What one changed, in the order in which it did: table, key, and the row, None for one that was deleted."""

    number: int
    changes: list[tuple[str, int, Row | None]] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    """How many changes there were at each savepoint."""


@dataclass
class Session:
    connection: Connection
    transaction: Transaction | None = None


class Business:
    """Writes until it is told to stop. `url` is that of the source, which may change when the server is started anew."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.rng = random.Random(seed)
        self.log: list[Transaction] = []
        """What was committed, in the order of the commits."""
        self.lost_answers = 0
        self._doubtful: list[Transaction] = []
        self._sessions: list[Session] = []
        self._ids = {"account": 0, "entry": 0}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.failure: BaseException | None = None

    # -- from outside ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the tables, with some rows, and go on from then."""
        with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute(SCHEMA)
            connection.commit()
        session = Session(self._connected())
        for _ in range(60):
            self._statement(session, self._insert)
        self._finish(session, "COMMIT")
        session.connection.close()
        self._thread.start()

    def end(self) -> None:
        """Commit or roll back what is open, and stop."""
        self._over.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        if self.failure:
            raise self.failure

    def state(self, instant: Instant) -> State:
        """What a snapshot shows, told from the log alone."""
        tables: dict[str, Rows] = {name: {} for name in TABLES}
        while self._doubtful and self._thread.is_alive():
            time.sleep(0.02)
        with self._lock:
            log = list(self.log)
        for transaction in log:
            if instant.saw(transaction.number):
                for table, key, row in transaction.changes:
                    if row is None:
                        tables[table].pop(key, None)
                    else:
                        tables[table][key] = row
        return tables

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    self._settle()
                    self._step()
                except psycopg2.OperationalError:
                    self._drop_sessions()
                    time.sleep(0.1)
                time.sleep(self.rng.uniform(0, 0.02))
            for session in self._sessions:
                self._finish(session, "COMMIT")
            self._settle()
        except BaseException as error:  # noqa: BLE001  # told by `end`
            self.failure = error
        finally:
            self._drop_sessions()

    def _connected(self) -> Connection:
        connection = psycopg2.connect(self.url, connect_timeout=5)
        connection.autocommit = True
        with connection.cursor() as cursor:
            # What it was told is committed must be so, and nobody waits for a row.
            cursor.execute("SET synchronous_commit = on; SET lock_timeout = '5ms'")
        return connection

    def _drop_sessions(self) -> None:
        """The server is gone. What was being committed may be, or not: the server says it later."""
        for session in self._sessions:
            with suppress(psycopg2.Error):
                session.connection.close()
        self._sessions.clear()

    def _settle(self) -> None:
        """Ask for transactions whose answer was lost whether they committed. Nobody else wrote since."""
        if not self._doubtful:
            return
        with closing(self._connected()) as connection, connection.cursor() as cursor:
            for transaction in list(self._doubtful):
                try:
                    cursor.execute("SELECT pg_xact_status(%s::text::xid8)", (str(transaction.number),))
                    ((status,),) = cursor.fetchall()
                except psycopg2.errors.InvalidParameterValue:  # after a crash its number was never given out
                    status = "aborted"
                if status == "in progress":
                    return
                if status == "committed":
                    with self._lock:
                        self.log.append(transaction)
                self.lost_answers += 1
                self._doubtful.remove(transaction)

    def _step(self) -> None:
        while len(self._sessions) < _SESSIONS:
            self._sessions.append(Session(self._connected()))
        session = self.rng.choice(self._sessions)
        (act,) = self.rng.choices(
            (self._insert, self._update, self._touch, self._delete, self._savepoint, self._undo, None),
            (8, 8, 1, 3, 2, 1, 7),
        )
        if act is None:
            self._finish(session, self.rng.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")))
        else:
            self._statement(session, act)

    def _finish(self, session: Session, how: str) -> None:
        transaction, session.transaction = session.transaction, None
        if transaction is None:
            return
        with (
            self._lock,
            session.connection.cursor() as cursor,
        ):  # nobody may ask between a commit and its note
            try:
                cursor.execute(how)
            except psycopg2.OperationalError:
                if how == "COMMIT":
                    self._doubtful.append(transaction)
                raise
            if how == "COMMIT":
                self.log.append(transaction)

    def _statement(self, session: Session, act: Any) -> None:
        with session.connection.cursor() as cursor:
            if session.transaction is None:
                cursor.execute("BEGIN")
                cursor.execute("SELECT pg_current_xact_id()::text")
                ((number,),) = cursor.fetchall()
                session.transaction = Transaction(int(number))
            try:
                act(cursor, session.transaction)
            except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
                # Somebody else has the row: the transaction has failed as a whole.
                self._finish(session, "ROLLBACK")

    def _insert(self, cursor: Any, transaction: Transaction) -> None:
        table = "account" if self._ids["account"] < 3 or self.rng.random() < 0.1 else "entry"
        self._ids[table] += 1
        self._write(cursor, transaction, table, self._ids[table], insert=True)

    def _update(self, cursor: Any, transaction: Transaction) -> None:
        table = self.rng.choice(("account", "entry", "entry"))
        self._write(cursor, transaction, table, self._some(table), insert=False)

    def _write(self, cursor: Any, transaction: Transaction, table: str, key: int, *, insert: bool) -> None:
        if table == "account":
            row: Row = (key, f"account {self.rng.randint(1, 9)}", self.rng.choice((None, "", "Ann", "Bo")))
        else:
            amount = f"{self.rng.randint(-99999, 99999) / 100:.2f}"
            row = (key, self._some("account"), amount, self.rng.choice(_NOTES))
        columns = TABLES[table]
        if insert:
            marks = ", ".join(["%s"] * len(columns))
            cursor.execute(f"INSERT INTO {table} VALUES ({marks})", row)
        else:
            assignments = ", ".join(f"{name} = %s" for name in columns[1:])
            cursor.execute(f"UPDATE {table} SET {assignments} WHERE id = %s", (*row[1:], key))
        if cursor.rowcount:
            transaction.changes.append((table, key, row))

    def _touch(self, cursor: Any, transaction: Transaction) -> None:
        """New versions of rows with the same values; and a commit in a table that nobody reads."""
        cursor.execute("UPDATE entry SET note = note WHERE id = %s", (self._some("entry"),))
        cursor.execute("INSERT INTO unread DEFAULT VALUES")

    def _delete(self, cursor: Any, transaction: Transaction) -> None:
        key = self._some("entry")
        cursor.execute("DELETE FROM entry WHERE id = %s", (key,))
        if cursor.rowcount:
            transaction.changes.append(("entry", key, None))
            if self.rng.random() < 0.3:  # and it comes back, in the same transaction
                self._write(cursor, transaction, "entry", key, insert=True)

    def _savepoint(self, cursor: Any, transaction: Transaction) -> None:
        transaction.marks.append(len(transaction.changes))
        cursor.execute(f"SAVEPOINT s{len(transaction.marks)}")

    def _undo(self, cursor: Any, transaction: Transaction) -> None:
        if transaction.marks:
            cursor.execute(f"ROLLBACK TO SAVEPOINT s{len(transaction.marks)}")
            del transaction.changes[transaction.marks[-1] :]

    def _some(self, table: str) -> int:
        """A key that has been given out; the newer ones more often."""
        newest = self._ids[table]
        return max(1, newest - int(self.rng.expovariate(1 / 40))) if newest else 1
