"""Connections to the source, set up so that values come as exact text, and errors that name no secret."""

import os
import re
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import psycopg2
from psycopg2 import errorcodes, extensions
from psycopg2.errors import InvalidParameterValue
from psycopg2.extensions import connection as Connection

from etl_assets import addresses, faults
from etl_assets.addresses import AddressError, Database, quotes_a_secret
from etl_assets.errors import EtlError


class SourceError(EtlError):
    """The source can't be reached, read, or does not have what is declared."""


class SourceInterrupted(SourceError):
    """The source went away or refused for the moment: the same call may well succeed later."""


class StandbyConflict(SourceInterrupted):
    """A standby ended what was in the way of the changes that it replays."""


STANDBY_CONFLICT = (
    "{what}: the standby ended it by a conflict with recovery, as it was in the way of what the primary did; run it again, "
    "or set hot_standby_feedback = on or a longer max_standby_streaming_delay there"
)
# PostgreSQL prints every value exactly under these, whatever the role's or database's own settings are, and nobody's
# limits end a long read. What a server is too old for is left out.
_SESSION = """
    SET datestyle = 'ISO, YMD';
    SET intervalstyle = 'postgres';
    SET timezone = 'UTC';
    SET extra_float_digits = 1;
    SET bytea_output = 'hex';
    SET xmlbinary = 'base64';
    SET quote_all_identifiers = off;
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET lock_timeout = '30s';
    SET work_mem = '64MB';
    SET tcp_keepalives_idle = 60;  -- a claim must not outlive for hours a machine that is gone without a word
    SET tcp_keepalives_interval = 10;
    SET tcp_keepalives_count = 5;
    SELECT pg_catalog.set_config(name, value, false)
    FROM (VALUES ('idle_session_timeout', '0'),  -- PostgreSQL 14
                 ('transaction_timeout', '0'),  -- 17
                 ('client_connection_check_interval', %s)) AS newer(name, value)  -- 14
    WHERE pg_catalog.current_setting(name, true) IS NOT NULL;
"""
# A standby serves nobody whose transactions are serializable, as the role's or database's settings may want them. Nothing is
# written here, and what must be one instant says so itself.
_EVERYBODY_SERVES = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
_ANY_SERVER = f"{_EVERYBODY_SERVES}; SET default_transaction_isolation = 'read committed';"
# So that a query ends soon after the run that asked for it; not every system can tell the server that nobody is there.
_CHECKED_EVERY = ("2s", "0")
# The same at this end: a network that drops everything without a word would hold a run for as long as the system waits,
# which is two hours.
_ALIVE = {
    "keepalives_idle": 60,
    "keepalives_interval": 10,
    "keepalives_count": 5,
    "tcp_user_timeout": 110_000,  # milliseconds
}
# Nobody's functions stand in for the catalog's, and names are written with their schema. A view or a policy may still
# need the role's own path: see `find_names`.
_CATALOG_ONLY = """
    SELECT pg_catalog.set_config('etl.search_path', pg_catalog.current_setting('search_path'), false),
           pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)
"""
_FIND_NAMES = """
    SELECT set_config('search_path', CASE WHEN %s THEN concat_ws(', ', 'pg_catalog', nullif(current_setting('etl.search_path'), ''))
                                     ELSE 'pg_catalog, pg_temp' END, true)
"""
# Alone, before anything is set: in a pool of transactions it would stay set for others.
_WHO = f"{_EVERYBODY_SERVES}; SET LOCAL statement_timeout = 0; SELECT pg_backend_pid()"
_POOL_SECONDS = 3.0
_ADVICE = {
    "password authentication failed": "check the user and password in {setting}",
    "no password supplied": "put the password into {setting} (or a .pgpass file)",
    "does not exist": "check the database name in {setting}",
    "could not translate host name": "check the host name in {setting}",
    "Connection refused": "check host and port in {setting}, and that the server is up",
    "timeout expired": "check host and port in {setting}, and that no firewall is in between",
    "too many clients": "free a connection there, or try again later",
    "too many connections for role": "free a connection of the role, or raise its CONNECTION LIMIT (ALTER ROLE)",
    "too many connections for database": "free a connection there, or raise its CONNECTION LIMIT (ALTER DATABASE)",
    "remaining connection slots": "free a connection there, or try again later",
    "session is read-only": "name the primary in {setting}, or ask for less in target_session_attrs",
    "in hot standby mode": "name a standby in {setting}, or ask for less in target_session_attrs",
    "transaction timeout": "ALTER ROLE … SET transaction_timeout = 0",
    "starting up": "try again in a moment",
    "no pg_hba.conf entry": "let this machine and role in, in the server's pg_hba.conf",
    "not permitted to log in": "give the role of {setting} the right to log in",
}
_VERIFIES = {"verify-ca", "verify-full"}
# What stays so until somebody changes something. The driver gives no code of an error at connecting, only its text.
_REFUSALS = (
    "authentication",
    "no password supplied",
    "not exist",
    "no pg_hba.conf entry",
    "not permitted to log in",
    "Name or service not known",
    "nodename nor servname",
    "No address associated",
)


def connect(
    url: str,
    application_name: str,
    connect_seconds: int = 10,
    setting: str = "ETL_SOURCE_URL",
    *,
    as_source: bool = True,
    beside: Connection | None = None,
) -> Connection:
    """A connection outside any transaction, in UTF-8. Raises `SourceError` with one line on what to do; `setting` is
    where the URL comes from. `as_source`: names without a schema are the catalog's, and a pool of transactions is refused.
    `beside`: a connection to the server that it is to lead to, as several may answer at the address."""
    where = _where(url, setting)
    # The driver asks for the encoding when it connects, and decodes by it: SQL alone would tell the server only.
    options: dict[str, Any] = {"application_name": application_name, "client_encoding": "UTF8"}
    given = extensions.parse_dsn(url)
    for name, value in {"connect_timeout": connect_seconds, **_ALIVE}.items():
        if name not in given:
            options[name] = value
    if beside is not None:
        options |= _place_of(beside)
    try:
        connection: Connection = psycopg2.connect(url, **options)
        connection.autocommit = True
        with connection.cursor() as cursor:
            if as_source and _asked(cursor) != connection.info.backend_pid:
                _refuse_transaction_pool(cursor, url, options, setting)
            _set_up(cursor, _ANY_SERVER if as_source else "")
            if as_source:
                cursor.execute(_CATALOG_ONLY)
        return connection
    except (psycopg2.Error, UnicodeDecodeError) as error:
        message = _refusal(error)
        sign = next((sign for sign in _ADVICE if sign in message), None)
        fault = message.partition("connection to server")[2] or message
        fault = fault.rpartition("FATAL:")[2].strip() or fault
        if quotes_a_secret(url, fault):
            fault = sign or type(error).__name__
        advice = _ADVICE[sign] if sign else "check {setting}"
        kind = SourceError if any(sign in message for sign in _REFUSALS) else SourceInterrupted
        raise kind(f"can't connect to {where}: {fault}; {advice.format(setting=setting)}") from None


def _refusal(error: psycopg2.Error | UnicodeDecodeError) -> str:
    """What is said of a connection that was not to be had, in one line. A server answers in its own language, and as long as it
    knows of no encoding, in its own character set: the driver takes that for UTF-8."""
    told = error.object.decode("utf-8", "replace") if isinstance(error, UnicodeDecodeError) else str(error)
    return " ".join(told.split())


def _set_up(cursor: extensions.cursor, first: str) -> None:
    often, never = _CHECKED_EVERY
    try:
        cursor.execute(first + _SESSION, (often,))
    except InvalidParameterValue:  # nothing is set then
        cursor.execute(first + _SESSION, (never,))


def _asked(cursor: extensions.cursor) -> int:
    """The process that serves the session at this moment."""
    cursor.execute(_WHO)
    ((pid,),) = cursor.fetchall()
    return int(pid)


def _refuse_transaction_pool(
    cursor: extensions.cursor, url: str, options: Mapping[str, Any], setting: str
) -> None:
    """Raise `SourceError` for a pooler that gives a session another server process for each transaction: settings, locks
    and snapshots would not stay with it. Two sessions that are open at once must not share one, and none may change."""
    options = {**options, **_place_of(cursor.connection)}
    with closing(psycopg2.connect(url, **options, async_=1)) as other:
        if not _ready(other):
            return  # there is no process for it: so the first session keeps its own
        second = other.cursor()
        mine = _asked(cursor)
        for _ in range(5):
            second.execute(_WHO)
            if not _ready(other):
                return
            ((others,),) = second.fetchall()
            if others == mine or _asked(cursor) != mine:
                raise SourceError(
                    f"{setting} leads to a pooler in transaction mode ({addresses.database(url)}), where a session does not keep its "
                    "server process, so neither locks nor snapshots hold: reach the server directly, or a pool in session mode"
                )


def _place_of(connection: Connection) -> dict[str, Any]:
    """What leads to the very address that a connection was made to, of all that its URL or a name may stand for."""
    place: dict[str, Any] = {"host": connection.info.host, "port": connection.info.port}
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        if same.family != socket.AF_UNIX:
            place["hostaddr"] = same.getpeername()[0]
    return place


def _ready(connection: Connection) -> bool:
    """Wait for what an asynchronous connection does; False if it takes too long."""
    deadline = time.monotonic() + _POOL_SECONDS
    while (state := connection.poll()) != extensions.POLL_OK:
        left = deadline - time.monotonic()
        ways = ([connection], []) if state == extensions.POLL_READ else ([], [connection])
        if left <= 0 or select.select(*ways, [], left) == ([], [], []):
            return False
    return True


def hang_up(connection: Connection) -> None:
    """End a connection that another thread may be reading from: it gets an error at once, and the server notices within
    seconds. A request to cancel would have to reach the server, which may be what is no longer possible, and while the
    driver waits for that no other thread goes on."""
    with (
        suppress(psycopg2.InterfaceError, OSError),  # it is closed already
        socket.socket(fileno=os.dup(connection.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)


def find_names(connection: Connection, *, as_role: bool) -> None:
    """For the rest of the transaction: names without a schema are found as the role's own search_path says, after the
    catalog's; or again in the catalog only."""
    with connection.cursor() as cursor:
        cursor.execute(_FIND_NAMES, (as_role,))


def unverified(connection: Connection, setting: str) -> str | None:
    """What is wrong with how a server on another machine is reached, and what to do; None if nothing is."""
    info = connection.info
    given = info.dsn_parameters
    if _is_here(given.get("hostaddr") or info.host) or given.get("sslmode") in _VERIFIES:
        return None
    lacks = "the server is not verified" if info.ssl_in_use else "nothing is encrypted"
    return (
        f"{lacks} on the way: who is in between can read the password's proof and all rows, and change them; add "
        f"sslmode=verify-full to {setting}, and sslrootcert=… if its certificate is your own"
    )


def _is_here(host: str | None) -> bool:
    """Whether a server is of this machine: a socket, or an address that leads nowhere else."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _where(url: str, setting: str) -> Database:
    """Refuse a URL that would be read in another way than it was meant: what libpq says of it may quote a part of
    the password."""
    try:
        return Database.read(url)
    except AddressError:
        raise SourceError(
            f"{setting} can't be read: write postgresql://user:password@host:port/database, and in user and "
            "password %40 for @, %3A for :, %2F for /, %23 for #, %3F for ?, %25 for %"
        ) from None


_PERMANENT = {
    errorcodes.UNDEFINED_TABLE: "declare only tables that the source has",
    errorcodes.UNDEFINED_COLUMN: "declare only columns that the source has",
}
_NO_TEXT = "the source holds text there, a value or a name, that is no UTF-8 (its server_encoding is SQL_ASCII?); convert it"
_DENIED = re.compile(r"permission denied for ((?:[a-z]+ )*?)(\S+)\s*$", re.MULTILINE)
_GRANTS = {
    "schema": "USAGE ON SCHEMA",
    "function": "EXECUTE ON FUNCTION",
    "sequence": "SELECT ON SEQUENCE",
    "foreign server": "USAGE ON FOREIGN SERVER",
    "foreign-data wrapper": "USAGE ON FOREIGN DATA WRAPPER",
    "type": "USAGE ON TYPE",
    "language": "USAGE ON LANGUAGE",
    "large object": "SELECT ON LARGE OBJECT",
}
_TIME_LIMIT = re.compile(r"due to (idle[- ]\S+|statement|transaction) timeout")


def _grant(message: str) -> str:
    """What to grant, by what PostgreSQL says was denied."""
    if "row-level security" in message:
        return (
            "row security refuses it to the role of ETL_SOURCE_URL: ALTER ROLE … BYPASSRLS to read all rows, or ALTER ROLE "
            "… SET row_security = on to read those that its policies show"
        )
    if not (found := _DENIED.search(message)):
        return "grant it to the role of ETL_SOURCE_URL"
    right = _GRANTS.get(found[1].strip(), "SELECT ON")
    return f"GRANT {right} {found[2]} TO the role of ETL_SOURCE_URL"


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the driver's errors into one line about `what` was being done, which quotes no row."""
    try:
        yield
    except UnicodeDecodeError:
        raise SourceError(f"{what}: {_NO_TEXT}") from None
    except psycopg2.Error as error:
        raise _explanation(what, error).with_traceback(error.__traceback__) from None


def _explanation(what: str, error: psycopg2.Error) -> SourceError:
    line = faults.told(error)
    if error.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
        return SourceError(f"{what}: {line}; {_grant(line)}")
    if error.pgcode in _PERMANENT:
        return SourceError(f"{what}: {line}; {_PERMANENT[error.pgcode]}")
    if error.pgcode in {errorcodes.CHARACTER_NOT_IN_REPERTOIRE, errorcodes.UNTRANSLATABLE_CHARACTER}:
        return SourceError(f"{what}: {_NO_TEXT}")
    if error.pgcode == errorcodes.OUT_OF_MEMORY and "shared memory" in line:
        return SourceInterrupted(
            f"{what}: the server has no room for more locks, of which each partition and each index takes one: raise its "
            "max_locks_per_transaction (it must be started again); nothing was committed"
        )
    if error.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
        return SourceInterrupted(
            f"{what}: somebody holds a lock on it for more than 30 s (an ALTER or TRUNCATE?); try again later"
        )
    if "conflict with recovery" in line:
        return StandbyConflict(STANDBY_CONFLICT.format(what=what))
    if limit := _TIME_LIMIT.search(line):
        name = {"statement": "statement_timeout", "transaction": "transaction_timeout"}.get(
            limit[1], "idle_in_transaction_session_timeout"
        )
        return SourceInterrupted(
            f"{what}: the server ended it by its {name}; set it to 0 for the role (ALTER ROLE … SET {name} = 0)"
        )
    if type(error) is psycopg2.DatabaseError and error.pgcode is None:  # amid a COPY: nobody could say more
        return SourceInterrupted(f"{what}: the connection was lost; nothing was committed, run it again")
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return SourceInterrupted(f"{what}: {line}; nothing was committed, run it again")
    return SourceError(f"{what}: {line}")
