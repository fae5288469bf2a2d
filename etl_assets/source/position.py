"""Where the source stands: a question of milliseconds that says whether a batch is worth taking.

Two things are asked, the cheaper and coarser one second:

    the counters   how many rows of each declared table were written since the server counts, and what the catalog's
                   rows about the table are: any ALTER or TRUNCATE writes them anew
    the mark       the server's snapshot. Whoever commits a change of data moves it, in whatever database. So if it is
                   where it was, nothing was committed, exactly

If the mark moved, the counters tell whether it was for one of our tables. They may come late, since a session reports
them a second or more after its commit, and only when it is idle or gone; hence no verdict of theirs holds for ever
(`CERTAINTY_SECONDS`). What was rolled back is counted as well: a batch is then asked for that finds nothing.

The counters are read before the mark: so those of a position whose mark is still the old one hold nothing newer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection
from pydantic import BaseModel

from etl_assets.source.connection import connect, explained
from etl_assets.source.snapshot import SYSTEM, TIMELINE, told_by
from etl_assets.source.table import Table

CERTAINTY_SECONDS = 900.0
"""How long equal counters are believed although something was committed."""
UNCOUNTED_SECONDS = 60.0
"""How often tables that can't be counted are worth a look, when something was committed."""
_CONNECT_SECONDS = 5
_STATEMENT_TIMEOUT = "10s"

# A name that the source does not have gives no row: that is a difference too. Row security, other storage and
# whatever is no table make writes unknown; what a view or a foreign table shows may even change on another server.
_COUNTERS = """
    WITH RECURSIVE tree AS (
        SELECT w.name, c.oid FROM unnest(%s::text[], %s::text[], %s::text[]) AS w(namespace, relation, name)
        JOIN pg_namespace n ON n.nspname = w.namespace
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
        UNION
        SELECT t.name, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    )
    SELECT t.name,
           bool_and(c.relkind IN ('r', 'p') AND c.relam IN (0, 2) AND NOT row_security_active(c.oid))
               AND current_setting('track_counts')::bool AND NOT pg_is_in_recovery(),
           sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)
               + pg_stat_get_tuples_deleted(c.oid))::bigint,
           bool_or(c.relkind IN ('v', 'f') OR c.relpersistence = 'u' OR row_security_active(c.oid)),
           encode(sha256(convert_to(string_agg(concat_ws(' ', c.oid, c.xmin, (
               SELECT string_agg(concat(a.attnum, ':', a.xmin), ',' ORDER BY a.attnum)
               FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)), ';' ORDER BY c.oid), 'UTF8')), 'hex')
    FROM tree t JOIN pg_class c USING (oid) GROUP BY t.name
"""
# A standby's snapshot does not list who is open: there, the log that it has replayed is needed too.
_REPLAYED = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()::text ELSE '' END"
_MARK = """
    SELECT pg_current_snapshot()::text, extract(epoch FROM clock_timestamp())::float8, current_database()
"""
_COUNTED_SINCE = "SELECT stats_reset::text FROM pg_stat_database WHERE datname = current_database()"


class TablePosition(BaseModel, frozen=True):
    """`structure` is another one after every change of the table's definition and after TRUNCATE; `writes` is None
    where rows can't be counted; `elsewhere`: what it shows may change without a commit here: on another server; of a table that is
    not logged, when this one starts again after a crash; by the hour, where a policy of row security goes by it."""

    structure: str
    writes: int | None
    elsewhere: bool = False


class Position(BaseModel, frozen=True):
    """What the source answered. `taken` is the server's time, in seconds; `counted_since` names a count from zero."""

    server: str
    mark: str
    counted_since: str
    taken: float
    tables: Mapping[str, TablePosition]

    @property
    def digest(self) -> str:
        """Names what the counters say: the same until one of the tables changes, as far as that can be told."""
        told = [self.server, self.counted_since, *(f"{n}={t!r}" for n, t in sorted(self.tables.items()))]
        if any(table.writes is None for table in self.tables.values()):
            told.append(self.mark)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class CaptureDecision:
    """Whether a batch is worth taking, and why, or why not."""

    changed: bool
    why: str


def read_position(url: str, tables: Sequence[Table]) -> Position:
    """Ask the source where it stands. Raises `SourceError`; never takes longer than some seconds."""
    with (
        closing(connect(url, "etl-assets position", connect_seconds=_CONNECT_SECONDS)) as connection,
        explained("asking the source where it stands"),
    ):
        return _read(connection, tables)


def _read(connection: Connection, tables: Sequence[Table]) -> Position:
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = %s", (_STATEMENT_TIMEOUT,))
        cursor.execute("SET default_transaction_read_only = on")
        cursor.execute(
            _COUNTERS, ([t.schema for t in tables], [t.source_name for t in tables], [t.name for t in tables])
        )
        found = {
            name: TablePosition(
                structure=digest[:12], writes=writes if counted else None, elsewhere=elsewhere
            )
            for name, counted, writes, elsewhere, digest in cursor.fetchall()
        }
        cursor.execute(_MARK)
        ((mark, taken, database),) = cursor.fetchall()
        cursor.execute("BEGIN READ ONLY")
        told = [told_by(cursor, question) for question in (SYSTEM, TIMELINE)]
        counted_since, replayed = (told_by(cursor, question) for question in (_COUNTED_SINCE, _REPLAYED))
        cursor.execute("ROLLBACK")
        # Where it is not told, nothing vouches for that nothing was committed.
        mark = f"{mark} {taken if replayed is None else replayed}".strip()
        server = "/".join(map(str, [*(told if None not in told else []), database]))
    return Position(server=server, mark=mark, counted_since=counted_since or "", taken=taken, tables=found)


def judge(now: Position, last: Position, *, certainty_seconds: float = CERTAINTY_SECONDS) -> CaptureDecision:
    """Compare where the source stands with where it stood when a batch was last taken."""
    if now.server != last.server:
        return CaptureDecision(True, "it is another server or database, or one that was restored")
    if now.tables.keys() != last.tables.keys():
        return CaptureDecision(True, f"tables came or went: {_names(now.tables.keys() ^ last.tables.keys())}")
    if now.counted_since != last.counted_since or _went_back(now, last):
        return CaptureDecision(True, "its counters began again at zero")
    seconds = now.taken - last.taken
    set_back = seconds < 0  # its clock: nobody knows how long ago that was
    if now.mark == last.mark:
        elsewhere = [name for name, table in now.tables.items() if table.elsewhere]
        if elsewhere and (set_back or seconds >= certainty_seconds):
            return CaptureDecision(True, f"may have changed without a commit here: {_names(elsewhere)}")
        return CaptureDecision(False, "nothing was committed")
    changed = [name for name, table in now.tables.items() if table != last.tables[name]]
    if changed:
        return CaptureDecision(True, f"changed: {_names(changed)}")
    if set_back:
        return CaptureDecision(True, "something was committed, and its clock was set back since")
    uncounted = [name for name, table in now.tables.items() if table.writes is None]
    if uncounted and seconds >= UNCOUNTED_SECONDS:
        return CaptureDecision(
            True, f"something was committed, and may be in what can't be counted: {_names(uncounted)}"
        )
    if seconds >= certainty_seconds:
        return CaptureDecision(
            True, f"something was committed, and counters are not believed after {seconds / 60:.0f} minutes"
        )
    return CaptureDecision(False, "no table was changed (what was committed is elsewhere)")


def _went_back(now: Position, last: Position) -> bool:
    """After a crash the server counts anew; transaction ids that were lost with it may have been given out again."""
    before = last.tables
    return any(
        table.structure == before[name].structure and (table.writes or 0) < (before[name].writes or 0)
        for name, table in now.tables.items()
    )


def _names(names: "Sequence[str] | set[str]") -> str:
    return ", ".join(sorted(names))
