"""Everything that a capture needs of the source, tried without reading a row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets import addresses
from etl_assets.capture.catalog import describe
from etl_assets.capture.connection import SourceError, connect, explained, unverified
from etl_assets.capture.table import Table
from etl_assets.checked import Checkup, probed
from etl_assets.errors import EtlError

OLDEST_VERSION = 13
_NAME = "etl-assets doctor"
_LOCK = (0x0E71, 0x0D0C)  # among our advisory locks; no lake's
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_LOOK = """
    SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, current_user,
           current_setting('track_counts')::bool,
           has_function_privilege('pg_control_system()', 'EXECUTE')
               AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE'),
           (SELECT setting::bigint FROM pg_settings WHERE name = 'transaction_timeout')
"""


def check_source(address: Callable[[], str], tables: Sequence[Table]) -> Iterator[Checkup]:
    """Try the connection, each declared table, and what snapshots, locks and increments rest on."""
    try:
        url = address()
        connection = connect(url, _NAME)
    except EtlError as error:
        yield Checkup("connect", str(error), "missing")
        return
    with closing(connection):
        version, major, role, counts, identifies, timeout = _row(connection, _LOOK)
        yield Checkup("connect", f"{addresses.database(url)}: PostgreSQL {version}, as {role}")
        if advice := unverified(connection, "ETL_SOURCE_URL"):
            yield Checkup("tls", advice, "advice")
        if major < OLDEST_VERSION:
            yield Checkup("version", f"PostgreSQL {OLDEST_VERSION} or newer is needed", "missing")
            return
        for table in tables:
            yield _table(connection, table)
        yield probed("snapshot", partial(_snapshot, connection, url))
        yield probed("lock", partial(_lock, connection))
        if not identifies:
            yield Checkup(
                "identity",
                "the server does not say which one it is, so tables are read whole; grant EXECUTE on "
                f"pg_control_system() and pg_control_checkpoint() to {role}",
                "advice",
            )
        if not counts:
            yield Checkup(
                "statistics", "track_counts is off: a change is noticed only by reading; turn it on", "advice"
            )
        if timeout:
            yield Checkup(
                "timeout",
                f"transaction_timeout ends a read after {timeout / 1000:,.0f} s: ALTER ROLE {role} SET "
                "transaction_timeout = 0",
                "advice",
            )


def _table(connection: Connection, table: Table) -> Checkup:
    name = f"table {table.name}"
    try:
        with explained(f"reading {table.schema}.{table.name}"), connection.cursor() as cursor:
            relation = describe(connection, [table])[table.name]
            place = sql.Identifier(table.schema, table.name)
            cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(place))  # what is behind a view, too
    except SourceError as error:
        return Checkup(name, str(error), "missing")
    told = f"{len(relation.columns)} columns, key ({', '.join(relation.key)})"
    if relation.kind in _KINDS:
        return Checkup(name, f"{told}; {_KINDS[relation.kind]}: read whole and compared every time", "advice")
    if relation.filtered:
        return Checkup(name, f"{told}; row security hides some rows from this role", "advice")
    return Checkup(name, told)


def _snapshot(connection: Connection, url: str) -> str:
    with (
        explained("sharing a snapshot between two connections"),
        closing(connect(url, _NAME)) as other,
        connection.cursor() as cursor,
        other.cursor() as second,
    ):
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot()")
        (exported,) = cursor.fetchone() or ("",)
        second.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        second.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
        second.execute("ROLLBACK")
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
