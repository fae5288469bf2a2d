"""One instant of the source, seen by several connections at once.

The first connection takes a lock that only stops tables from being altered, then exports its REPEATABLE READ,
READ ONLY snapshot (PostgreSQL manual, "Snapshot Synchronization Functions"); the others import it. The lock comes
before the snapshot, because TRUNCATE and rewriting ALTERs do not respect older snapshots. A view is locked with what it
shows. A materialized view can't be, but by reading it: if it was refreshed in between, another snapshot is taken.

Whatever a server need not say (a managed one may lack a function, or not let this role ask) is asked by itself. What it
does not say makes a guard weaker, and no run impossible.
"""

import hashlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from etl_assets.lake.manifest import SourceIdentity
from etl_assets.source.catalog import Relation, describe
from etl_assets.source.connection import (
    STANDBY_CONFLICT,
    SourceError,
    SourceInterrupted,
    StandbyConflict,
    connect,
    explained,
    find_names,
)
from etl_assets.source.table import Table

_INSTANT = """
    SELECT pg_current_snapshot()::text,
           pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
           pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
           clock_timestamp(), current_database(), current_setting('server_version'),
           has_function_privilege('pg_export_snapshot()', 'EXECUTE')
"""
# What no copy of a database shares with it: the server process that serves it, and its place there.
_STARTED = "SELECT pg_postmaster_start_time()"
_IN_RECOVERY = "SELECT pg_is_in_recovery()"
_DATABASE_OID = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"
LOG = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text"
SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
TIMELINE = "SELECT timeline_id FROM pg_control_checkpoint()"
# The one that is written to is ahead of the last checkpoint's for minutes after a standby was promoted.
_TIMELINE_NOW = """
    SELECT CASE WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END
"""
UNTOLD = "0/0"
"""Stands for the position of the log where the server does not say it."""
# pg_class shows which file a view had when the snapshot was taken, the function which it has now.
_REFRESHED = """
    WITH RECURSIVE shown(oid) AS (
        SELECT unnest(%s::oid[])
        UNION SELECT d.refobjid FROM shown s JOIN pg_rewrite r ON r.ev_class = s.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    )
    SELECT string_agg(relname, ', ') FROM shown JOIN pg_class USING (oid)
    WHERE relkind = 'm' AND relfilenode IS DISTINCT FROM pg_relation_filenode(oid)
"""
# How often a standby ended what read from it, as it was in the way of what the primary did.
_CONFLICTS = """
    SELECT confl_tablespace + confl_lock + confl_snapshot + confl_bufferpin + confl_deadlock
    FROM pg_stat_database_conflicts WHERE datname = current_database() AND pg_is_in_recovery()
"""
_ATTEMPTS = 3
CONNECTIONS = 4
"""How many a run would like to have at once."""
_HOLDER = """
    SELECT a.application_name || coalesce(to_char(a.backend_start, '", connected since "HH24:MI:SS" UTC"'), '')
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND l.objsubid = 2
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_LOCK_CLASS = 0x0E71  # marks our advisory locks among those of others
_STILL_HELD = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
      AND classid = %s AND objid = %s AND objsubid = 2
"""
_TAKE = "SELECT pg_try_advisory_lock(%s, %s)"
# How far the log has come: asked after a snapshot was taken, all that it sees is before that.
_WRITTEN = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() - '0/0'::pg_lsn END"
# How much of the log a crash would leave, and after how many milliseconds every commit is among that.
_FLUSHED = """
    SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn,
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
    in_recovery: bool = False


class ClaimLost(SourceInterrupted):
    """The session that holds the claim on the lake is gone, and the claim with it."""


class Snapshot:
    """An instant of the source, its relations at that instant, and connections that see it. `lock` is the key of the
    claim on the lake, None if nothing is claimed. `written`: how far the server's log had come when it was taken (bytes), None
    if it does not say."""

    def __init__(
        self,
        instant: Instant,
        relations: Mapping[str, Relation],
        connections: Sequence[Connection],
        lock: int | None = None,
        written: Decimal | None = None,
    ) -> None:
        self.instant = instant
        self.relations = relations
        self.connections = connections
        self.lock = lock
        self.written = written
        self._taken = time.monotonic()

    def still_claimed(self) -> None:
        """Ask the session that claimed the lake whether it still does. Raises `ClaimLost`."""
        if self.lock is None:
            return
        try:
            with self.connections[0].cursor() as cursor:
                held = told_by(cursor, _STILL_HELD, (_LOCK_CLASS, self.lock % 2**32))
                if held is None:  # who may not look takes it once more, which its holder alone can
                    held = told_by(cursor, _TAKE, (_LOCK_CLASS, self.lock))
                if held:
                    return
        except psycopg2.Error:
            pass  # it is gone
        raise ClaimLost(
            "the server ended the session that claimed the lake, so another run may be filling it: nothing was committed, "
            "run it again"
        )

    def flushed(self) -> str:
        """Wait until a crash of the server would take back nothing of what the snapshot saw: without synchronous commit a
        transaction can be seen before its log is on disk. Gives up to where the log is there then, as far as the server says.
        What others wrote since does not count, and may stay unwritten for long: reading alone makes the server tidy up.
        Call it last: the transaction may end with it."""
        if self.lock is None or self.written is None:  # a standby has on disk what it shows
            return self.instant.lsn
        try:
            with self.connections[0].cursor() as cursor:
                while True:
                    cursor.execute(_FLUSHED)
                    flushed, delay = _row(cursor)
                    if flushed >= self.written:
                        return f"{int(self.written) >> 32:X}/{int(self.written) & 0xFFFFFFFF:X}"
                    # The server writes the log of a commit within three of its writer's delays; what comes after that
                    # is no commit.
                    if time.monotonic() >= self._taken + delay / 1000 + 1:
                        return self.instant.lsn
                    time.sleep(0.02)
        except psycopg2.Error:
            return self.instant.lsn  # a server that does not say; see `etl doctor`


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
        relations = list(describe(main, tables).values())
        with main.cursor() as cursor:
            row = _fixed(cursor, relations)
            snapshot, horizon, following, server_time, database, version, may_export = row
            exported = None
            if may_export and connections > 1:
                cursor.execute("SELECT pg_export_snapshot()")
                (exported,) = _row(cursor)
            lsn, system_identifier, database_oid, started = (
                told_by(cursor, question) for question in (LOG, SYSTEM, _DATABASE_OID, _STARTED)
            )
            timelines = [told_by(cursor, question) for question in (TIMELINE, _TIMELINE_NOW)]
            written = told_by(cursor, _WRITTEN)
            in_recovery = bool(told_by(cursor, _IN_RECOVERY))
            conflicts = told_by(cursor, _CONFLICTS)
        described = describe(main, tables)
        workers = [main]
        if exported:
            with main.cursor() as cursor:
                _lock_indexes(cursor, relations)
        while exported and len(workers) < connections:
            try:
                worker = stack.enter_context(closing(connect(url, name, beside=main)))
            except SourceError:
                break  # a limit on connections: those that there are do the work
            with worker.cursor() as cursor:
                cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if not _is_seen(cursor, exported, snapshot, started):
                    worker.close()
                    break  # what stands between chose another server
                try:
                    # Now, because whoever waits to alter a table lets nobody else at it that has no lock yet.
                    cursor.execute("SET LOCAL lock_timeout = '1s'")
                    _lock(cursor, relations)
                    _lock_indexes(cursor, relations)
                except psycopg2.errors.LockNotAvailable:
                    break  # those that have their locks do the work
                except psycopg2.errors.OutOfMemory:  # for locks: one leaves most of them to others, too
                    for one in (worker, *workers[1:]):
                        one.close()
                    workers = [main]
                    break
            workers.append(worker)
        source = SourceIdentity(
            system_identifier=system_identifier,
            timeline=max((timeline for timeline in timelines if timeline), default=None),
            database=database,
            version=version,
            database_oid=database_oid,
            started=started,
        )
        instant = Instant(snapshot, horizon, following, lsn or UNTOLD, server_time, source, in_recovery)
        try:
            yield Snapshot(instant, described, workers, claim, written)
        except SourceInterrupted as error:
            # The driver does not hand on why a session was ended.
            if conflicts is not None and main.closed and _conflicts(url, name) > conflicts:
                raise StandbyConflict(STANDBY_CONFLICT.format(what="reading the source")) from error
            raise


def _conflicts(url: str, name: str) -> int:
    with closing(connect(url, name)) as connection, connection.cursor() as cursor:
        cursor.execute(_CONFLICTS)
        return int(sum(count for (count,) in cursor.fetchall()))


def _fixed(cursor: Cursor, relations: Sequence[Relation]) -> tuple[Any, ...]:
    """Begin a transaction whose snapshot all relations are locked for, and give what `_INSTANT` asks."""
    refreshed = ""
    for _ in range(_ATTEMPTS):
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        _lock_tables(cursor, relations)
        cursor.execute(_INSTANT)
        instant = _row(cursor)
        _lock_by_reading(cursor, relations)
        cursor.execute(_REFRESHED, ([r.oid for r in relations if not r.lockable],))
        (refreshed,) = _row(cursor)
        if not refreshed:
            return instant
        cursor.execute("ROLLBACK")
    raise SourceInterrupted(
        f"{refreshed} was refreshed again and again while a snapshot was taken; run it again"
    )


def _is_seen(cursor: Cursor, exported: str, snapshot: str, started: datetime | None) -> bool:
    """See a snapshot that another session exported. False if this one is of another server, which may even have one of that
    name."""
    try:
        cursor.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
    except (psycopg2.errors.InvalidParameterValue, psycopg2.errors.UndefinedObject):
        return False
    cursor.execute("SELECT pg_current_snapshot()::text")
    return _row(cursor) == (snapshot,) and told_by(cursor, _STARTED) == started


def _lock(cursor: Cursor, relations: Sequence[Relation]) -> None:
    _lock_tables(cursor, relations)
    _lock_by_reading(cursor, relations)


def _lock_tables(cursor: Cursor, relations: Sequence[Relation]) -> None:
    """Lock tables, and views with the tables that they show, before there is a snapshot."""
    names = [_identifier(r) for r in relations if r.lockable or r.kind == "v"]
    if names:
        cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.SQL(", ").join(names)))


def _lock_indexes(cursor: Cursor, relations: Sequence[Relation]) -> None:
    """Take the locks that reading tables of many parts will take beside those of the parts: there may be no room for them."""
    for relation in relations:
        if relation.lockable and relation.partitions:
            cursor.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(_identifier(relation)))


def _lock_by_reading(cursor: Cursor, relations: Sequence[Relation]) -> None:
    """Lock the materialized views that are read, or that views show."""
    if views := [r for r in relations if r.kind in {"v", "m"}]:
        find_names(cursor.connection, as_role=True)
        for relation in views:
            cursor.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(_identifier(relation)))


def _identifier(relation: Relation) -> sql.Identifier:
    return sql.Identifier(relation.table.schema, relation.table.source_name)


def told_by(cursor: Cursor, question: str, values: Sequence[object] | None = None) -> Any:
    """What the server says, None if it refuses to. In a transaction, which a refusal does not end."""
    cursor.execute("SAVEPOINT question")
    try:
        cursor.execute(question, values)
        (answer,) = cursor.fetchone() or (None,)
    except psycopg2.Error as error:
        if error.pgcode is None:  # it went away
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT question")
        answer = None
    cursor.execute("RELEASE SAVEPOINT question")
    return answer


def _row(cursor: Cursor) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone()  # type: ignore[assignment]  # these queries always give one
    return row


def _claim(connection: Connection, lake: str, wait_seconds: float) -> int:
    """Claim a lake; the key of the lock. Raises `LakeClaimed`."""
    lock = int.from_bytes(hashlib.sha256(lake.encode()).digest()[:4], "big", signed=True)
    deadline = time.monotonic() + wait_seconds
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_TAKE, (_LOCK_CLASS, lock))
            if _row(cursor)[0]:
                return lock
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        cursor.execute("BEGIN READ ONLY")
        who = told_by(cursor, _HOLDER, (_LOCK_CLASS, lock % 2**32)) or "another run"
        cursor.execute("ROLLBACK")
    raise LakeClaimed(f"this lake is being filled by {who}; wait for it to end, nothing needs unlocking")
