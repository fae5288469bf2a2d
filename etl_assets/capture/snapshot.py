"""One instant of the source, seen by several connections at once.

The first connection takes a lock that only stops tables from being altered, then exports its REPEATABLE READ,
READ ONLY snapshot (PostgreSQL manual, "Snapshot Synchronization Functions"); the others import it. The lock comes
before the snapshot, because TRUNCATE and rewriting ALTERs do not respect older snapshots.
"""

import hashlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from etl_assets.capture.catalog import Relation, describe
from etl_assets.capture.connection import SourceInterrupted, connect, explained
from etl_assets.capture.table import Table
from etl_assets.lake.batches import SourceIdentity

_INSTANT = """
    SELECT pg_export_snapshot(), pg_current_snapshot()::text,
           pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
           pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
           (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text,
           clock_timestamp(), current_database(), current_setting('server_version'),
           has_function_privilege('pg_control_system()', 'EXECUTE')
               AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
"""
# What no copy of a database shares with it: the server process that serves it, and its place there.
_PROCESS = """
    SELECT (SELECT oid::bigint FROM pg_database WHERE datname = current_database()), pg_postmaster_start_time()
"""
_IDENTITY = "SELECT (pg_control_system()).system_identifier::text, (pg_control_checkpoint()).timeline_id"
_HOLDER = """
    SELECT a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND l.objsubid = 2
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_LOCK_CLASS = 0x0E71  # marks our advisory locks among those of others
_STILL_HELD = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
      AND classid = %s AND objid = %s AND objsubid = 2
"""
# How far the log has come, how much of it a crash would leave, and after how many milliseconds every commit is among that.
_LOG = """
    SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, pg_current_wal_flush_lsn() - '0/0'::pg_lsn,
           (SELECT 3 * setting::int FROM pg_settings WHERE name = 'wal_writer_delay')
"""


class LakeClaimed(SourceInterrupted):
    """Another run fills the same lake. It was waited for already: asking again at once makes no sense."""


@dataclass(frozen=True)
class Instant:
    """What the server says of the moment that a snapshot shows. Transaction ids are 64 bits wide."""

    snapshot: str
    horizon: int
    next_transaction: int
    lsn: str
    server_time: datetime
    source: SourceIdentity


class ClaimLost(SourceInterrupted):
    """The session that holds the claim on the lake is gone, and the claim with it."""


class Snapshot:
    """An instant of the source, its relations at that instant, and connections that see it. `lock` is the key of the
    claim on the lake, None if nothing is claimed."""

    def __init__(
        self,
        instant: Instant,
        relations: Mapping[str, Relation],
        connections: Sequence[Connection],
        lock: int | None = None,
    ) -> None:
        self.instant = instant
        self.relations = relations
        self.connections = connections
        self.lock = lock

    def still_claimed(self) -> None:
        """Ask the session that claimed the lake whether it still does. Raises `ClaimLost`."""
        if self.lock is None:
            return
        try:
            with self.connections[0].cursor() as cursor:
                cursor.execute(_STILL_HELD, (_LOCK_CLASS, self.lock % 2**32))
                if _row(cursor)[0]:
                    return
        except psycopg2.Error:
            pass  # it is gone
        raise ClaimLost(
            "the server ended the session that claimed the lake, so another run may be filling it: nothing was committed, "
            "run it again"
        )

    def flushed(self) -> None:
        """Wait until a crash of the server would take back nothing of what the snapshot saw: without synchronous commit a
        transaction can be seen before its log is on disk. Call it last: the transaction may end with it."""
        if self.lock is None:
            return
        deadline, target = 0.0, 0
        try:
            with self.connections[0].cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                if _row(cursor)[0]:
                    return  # what a standby shows it has on disk
                while True:
                    cursor.execute(_LOG)
                    end, flushed, delay = _row(cursor)
                    # The server writes the log of a commit within three of its writer's delays; what comes after that
                    # may stay unwritten for long, and is no commit.
                    deadline, target = deadline or time.monotonic() + delay / 1000 + 1, target or end
                    if flushed >= target or time.monotonic() >= deadline:
                        return
                    time.sleep(0.02)
        except psycopg2.Error:
            return  # a server that does not say; see `etl doctor`


@contextmanager
def take_snapshot(
    url: str, tables: Sequence[Table], *, lake: str | None, run_id: str, connections: int, wait_seconds: float
) -> Iterator[Snapshot]:
    """Take a snapshot for filling the lake with identity `lake`; one run at a time can hold it. Without `lake` nothing is
    claimed: who only reads is in nobody's way.

    The claim is an advisory lock of the source: the server releases it however the holder ends. Raises
    `LakeClaimed` with the holder's name when another run keeps it for longer than `wait_seconds`.
    """
    name = f"etl-assets {run_id[:8]} on {socket.gethostname()}"[:63]
    with ExitStack() as stack, explained("reading the source"):
        main = stack.enter_context(closing(connect(url, name)))
        claim = _claim(main, lake, wait_seconds) if lake is not None else None
        lockable = [r for r in describe(main, tables).values() if r.lockable]
        names = sql.SQL(", ").join(sql.Identifier(r.table.schema, r.table.name) for r in lockable)
        lock = sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE" if lockable else "").format(names)
        with main.cursor() as cursor:
            cursor.execute(sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ") + lock)
            cursor.execute(_INSTANT)
            exported, snapshot, horizon, following, lsn, server_time, database, version, may_ask = _row(
                cursor
            )
            system_identifier, timeline = None, None
            if may_ask:
                cursor.execute(_IDENTITY)
                system_identifier, timeline = _row(cursor)
            cursor.execute(_PROCESS)
            database_oid, started = _row(cursor)
        relations = describe(main, tables)
        workers = [main]
        for _ in range(connections - 1):
            worker = stack.enter_context(closing(connect(url, name)))
            with worker.cursor() as cursor:
                cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
                try:
                    # Now, because whoever waits to alter a table lets nobody else at it that has no lock yet.
                    cursor.execute(sql.SQL("SET LOCAL lock_timeout = '1s'; ") + lock)
                except psycopg2.errors.LockNotAvailable:
                    break  # those that have their locks do the work
            workers.append(worker)
        source = SourceIdentity(
            system_identifier=system_identifier,
            timeline=timeline,
            database=database,
            version=version,
            database_oid=database_oid,
            started=started,
        )
        yield Snapshot(
            Instant(snapshot, horizon, following, lsn, server_time, source), relations, workers, claim
        )


def _row(cursor: Cursor) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone()  # type: ignore[assignment]  # these queries always give one
    return row


def _claim(connection: Connection, lake: str, wait_seconds: float) -> int:
    """Claim a lake; the key of the lock. Raises `LakeClaimed`."""
    lock = int.from_bytes(hashlib.sha256(lake.encode()).digest()[:4], "big", signed=True)
    deadline = time.monotonic() + wait_seconds
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", (_LOCK_CLASS, lock))
            if _row(cursor)[0]:
                return lock
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        cursor.execute(_HOLDER, (_LOCK_CLASS, lock % 2**32))
        holder = cursor.fetchone()
    who = f"{holder[0]}, connected since {holder[1]:%H:%M:%S} UTC" if holder else "another run"
    raise LakeClaimed(f"this lake is being filled by {who}; wait for it to end, nothing needs unlocking")
