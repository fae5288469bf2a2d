"""Everything that a capture needs of the source, tried without reading a row."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets import addresses
from etl_assets.errors import EtlError
from etl_assets.preflight import CheckResult, probed
from etl_assets.source.catalog import Relation, check_readable, describe, select
from etl_assets.source.connection import SourceError, connect, explained, find_names, unverified
from etl_assets.source.equality import unlike
from etl_assets.source.fitting import holds
from etl_assets.source.snapshot import CONNECTIONS, LOG, SYSTEM, TIMELINE, told_by
from etl_assets.source.table import Table

OLDEST_VERSION = 13
_NAME = "etl-assets doctor"
_LOCK = (0x0E71, 0x0D0C)  # among our advisory locks; no lake's
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_LOOK = """
    SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, current_user,
           current_setting('track_counts')::bool
"""
_TABLES = """
    SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY(%s)
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1, 2
"""
_NAMED = 10
# What a run asks and need not be told, with the functions to be granted, and what it does without.
_GUARDS = (
    (
        "identity",
        (SYSTEM, TIMELINE),
        "pg_control_system() and pg_control_checkpoint()",
        "which one it is, so tables are read whole",
    ),
    (
        "log position",
        (LOG,),
        "pg_current_wal_flush_lsn() and pg_last_wal_replay_lsn()",
        "where its log stands, so that it was restored to an older state shows by transaction ids only",
    ),
)


def check_source(
    address: Callable[[], str], tables: Sequence[Table], *, one_history: bool = False
) -> Iterator[CheckResult]:
    """Try the connection, each declared table, and what snapshots, locks and increments rest on. `one_history`: servers
    behind the address are said to be replicas of one another."""
    try:
        url = address()
        connection = connect(url, _NAME)
    except EtlError as error:
        yield CheckResult("connect", str(error), "missing")
        return
    with closing(connection):
        version, major, role, counts = _row(connection, _LOOK)
        yield CheckResult("connect", f"{addresses.database(url)}: PostgreSQL {version}, as {role}")
        if advice := unverified(connection, "ETL_SOURCE_URL"):
            yield CheckResult("tls", advice, "advice")
        if (servers := servers_at(_asked(connection))) > 1 and not one_history:
            yield CheckResult(
                "servers",
                f"{servers} servers may answer there: whenever another one does than at the run before, all tables are read "
                "whole; if they are replicas of one another, say so (ETL_SOURCE_ONE_HISTORY=yes), else name one",
                "advice",
            )
        if major < OLDEST_VERSION:
            yield CheckResult("version", f"PostgreSQL {OLDEST_VERSION} or newer is needed", "missing")
            return
        for table in tables:
            yield _table(connection, table)
        yield from _undeclared(connection, tables)
        yield from _compared(connection, tables)
        connections = _connections(url, role, min(CONNECTIONS, len(tables)))
        yield connections
        shared = probed("snapshot", partial(_snapshot, connection, url))
        # A run that can't share a snapshot, or has one connection only, reads one table after the other.
        yield shared if shared.state == "ok" else replace(shared, state="advice")
        yield probed("lock", partial(_lock, connection))
        yield from _guards(connection, role)
        if not counts:
            yield CheckResult(
                "statistics", "track_counts is off: a change is noticed only by reading; turn it on", "advice"
            )


def _asked(connection: Connection) -> list[str]:
    """The hosts that a connection was to be made to one of."""
    told = connection.get_dsn_parameters()
    return [host for host in (told.get("hostaddr") or told.get("host") or "").split(",") if host]


def servers_at(hosts: Sequence[str]) -> int:
    """How many servers may answer at hosts, each with its addresses (of one kind: a server may have one of each)."""
    count = 0
    for host in dict.fromkeys(hosts):
        kinds: Counter[int] = Counter()
        if not host.startswith(("/", "@")):
            with suppress(OSError):
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                kinds.update(family for family, _ in {(family, place[0]) for family, *_, place in found})
        count += max(kinds.values(), default=1)
    return max(count, 1)


def _undeclared(connection: Connection, tables: Sequence[Table]) -> Iterator[CheckResult]:
    """The tables in the schemas of declared ones that no declaration reads."""
    declared = {(table.schema, table.source_name) for table in tables}
    try:
        with explained("asking for its tables"), connection.cursor() as cursor:
            cursor.execute(_TABLES, (sorted({schema for schema, _ in declared}),))
            found = cursor.fetchall()
    except SourceError as error:  # their names may be no text
        yield CheckResult("not declared", str(error), "advice")
        return
    more = [f"{schema}.{name}" for schema, name in found if (schema, name) not in declared]
    if more:
        named = ", ".join(more[:_NAMED]) + (f" and {len(more) - _NAMED} more" if len(more) > _NAMED else "")
        yield CheckResult(
            "not declared", f"the source has {named}, which nothing reads (etl init --update shows them)"
        )


def _compared(connection: Connection, tables: Sequence[Table]) -> Iterator[CheckResult]:
    """What a star that joins by foreign keys has to know of them."""
    try:
        relations = describe(connection, tables)
    except SourceError:
        return  # its table was told of
    if found := list(unlike(connection, relations)):
        told = "; ".join(f"{what}: {why}" for what, why in found[:_NAMED])
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        yield CheckResult(
            "foreign keys",
            f"the source takes values for equal that are written differently, which the star has to spell alike before it joins "
            f"them: {told}{more}",
            "advice",
        )


def _guards(connection: Connection, role: str) -> Iterator[CheckResult]:
    for name, questions, functions, lack in _GUARDS:
        with explained(f"asking for its {name}"), connection.cursor() as cursor:
            cursor.execute("BEGIN READ ONLY")
            told = [told_by(cursor, question) for question in questions]
            cursor.execute("ROLLBACK")
        if None in told:
            yield CheckResult(
                name,
                f"the server does not say {lack}; grant EXECUTE on {functions} to {role}, if it is one that has them",
                "advice",
            )


def _connections(url: str, role: str, wanted: int) -> CheckResult:
    """How many of the connections that a run would like can be had at once."""
    with ExitStack() as stack:
        had = 1
        while had < wanted:
            try:
                stack.enter_context(closing(connect(url, _NAME)))
            except SourceError as error:
                return CheckResult(
                    "connections",
                    f"{had} of {wanted} can be had, so tables are read more slowly ({str(error).rpartition(': ')[2]}): raise "
                    f"the limit (ALTER ROLE {role} CONNECTION LIMIT {wanted})",
                    "advice",
                )
            had += 1
    return CheckResult("connections", f"{had} at once")


def _table(connection: Connection, table: Table) -> CheckResult:
    name = f"table {table.name}"
    try:
        with explained(f"reading {table.schema}.{table.source_name}"), connection.cursor() as cursor:
            relation = describe(connection, [table])[table.name]
            check_readable(relation)
            cursor.execute("BEGIN READ ONLY")
            find_names(connection, as_role=not relation.by_version)
            cursor.execute(select(relation) + sql.SQL(" LIMIT 0"))  # what is behind a view, too
            cursor.execute("ROLLBACK")
    except SourceError as error:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
        return CheckResult(name, str(error), "missing")
    told = f"{len(relation.columns)} columns, key ({', '.join(relation.key)})"
    if relation.kind in _KINDS:
        return CheckResult(
            name, f"{told}; {_KINDS[relation.kind]}: read whole and compared every time", "advice"
        )
    if misfits := _misfits(relation):
        return CheckResult(
            name,
            f"{told}; not all that the source may have fits what is declared, and would go into quarantine: "
            f"{', '.join(misfits)} (etl init --update shows what to write)",
            "advice",
        )
    if relation.filtered:
        return CheckResult(name, f"{told}; row security hides some rows from this role", "advice")
    return CheckResult(name, told)


def _misfits(relation: Relation) -> list[str]:
    """The declared columns whose type or nullability the source no longer has."""
    found = []
    for column in relation.columns:
        declared = relation.table.columns.get(column.name, "text?")
        is_null = column.nullable and column.name not in relation.key and not declared.endswith("?")
        if is_null or not holds(declared, column.type):
            has = f"{column.type}{' with NULL' if column.nullable else ''}"
            found.append(f"{column.name} is {has}, declared {declared}")
    return found


def _snapshot(connection: Connection, url: str) -> str:
    with (
        explained("sharing a snapshot between two connections"),
        closing(connect(url, _NAME, beside=connection)) as other,
        connection.cursor() as cursor,
        other.cursor() as second,
    ):
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            cursor.execute("SELECT pg_export_snapshot()")
            (exported,) = cursor.fetchone() or ("",)
            second.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            second.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
        finally:
            cursor.execute("ROLLBACK")
    return "several connections can read one instant"


def _lock(connection: Connection) -> str:
    with explained("taking an advisory lock"):
        (taken,) = _row(connection, "SELECT pg_try_advisory_lock(%s, %s)", *_LOCK)
        (released,) = _row(connection, "SELECT pg_advisory_unlock(%s, %s)", *_LOCK)
    if taken and not released:
        raise SourceError(
            "locks do not stay with their connection: reach the server directly, or a pooler in session mode"
        )
    return "runs can wait for each other"


def _row(connection: Connection, statement: str, *values: object) -> tuple[Any, ...]:
    with explained("asking the source"), connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchone() or ()
