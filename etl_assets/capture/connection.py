"""Connections to the source, set up so that values come as exact text, and errors that name no secret."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection

from etl_assets import faults
from etl_assets.addresses import AddressError, Database, quotes_a_secret
from etl_assets.errors import EtlError


class SourceError(EtlError):
    """The source can't be reached, read, or does not have what is declared."""


class SourceInterrupted(SourceError):
    """The source went away or refused for the moment: the same call may well succeed later."""


# PostgreSQL prints every value exactly under these, whatever the role's or database's own settings are.
_SESSION = """
    SET client_encoding = 'UTF8';
    SET datestyle = 'ISO, YMD';
    SET intervalstyle = 'postgres';
    SET timezone = 'UTC';
    SET extra_float_digits = 1;
    SET bytea_output = 'hex';
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET lock_timeout = '30s';
    SET work_mem = '64MB';
    DO $$ BEGIN  -- so that a query ends soon after the run that asked for it (PostgreSQL 14)
        SET client_connection_check_interval = '2s';
    EXCEPTION WHEN undefined_object OR invalid_parameter_value THEN NULL;
    END $$;
"""
_ADVICE = {
    "password authentication failed": "check the user and password in {setting}",
    "no password supplied": "put the password into {setting} (or a .pgpass file)",
    "does not exist": "check the database name in {setting}",
    "could not translate host name": "check the host name in {setting}",
    "Connection refused": "check host and port in {setting}, and that the server is up",
    "timeout expired": "check host and port in {setting}, and that no firewall is in between",
    "too many clients": "free a connection there, or try again later",
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
    url: str, application_name: str, connect_seconds: int = 10, setting: str = "ETL_SOURCE_URL"
) -> Connection:
    """A connection outside any transaction. Raises `SourceError` with one line on what to do; `setting` is where the
    URL comes from."""
    where = _where(url, setting)
    try:
        connection = psycopg2.connect(url, application_name=application_name, connect_timeout=connect_seconds)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_SESSION)
        return connection
    except psycopg2.Error as error:
        message = " ".join(str(error).split())
        sign = next((sign for sign in _ADVICE if sign in message), None)
        fault = message.partition("connection to server")[2] or message
        fault = fault.rpartition("FATAL:")[2].strip() or fault
        if quotes_a_secret(url, fault):
            fault = sign or type(error).__name__
        advice = _ADVICE[sign] if sign else "check {setting}"
        kind = SourceError if any(sign in message for sign in _REFUSALS) else SourceInterrupted
        raise kind(f"can't connect to {where}: {fault}; {advice.format(setting=setting)}") from None


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
    errorcodes.INSUFFICIENT_PRIVILEGE: "grant SELECT on it to the role of ETL_SOURCE_URL",
    errorcodes.UNDEFINED_TABLE: "declare only tables that the source has",
    errorcodes.UNDEFINED_COLUMN: "declare only columns that the source has",
}


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the driver's errors into one line about `what` was being done, which quotes no row."""
    try:
        yield
    except psycopg2.Error as error:
        raise _explanation(what, error).with_traceback(error.__traceback__) from None


def _explanation(what: str, error: psycopg2.Error) -> SourceError:
    line = faults.told(error)
    if error.pgcode in _PERMANENT:
        return SourceError(f"{what}: {line}; {_PERMANENT[error.pgcode]}")
    if error.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
        return SourceInterrupted(
            f"{what}: somebody holds a lock on it for more than 30 s (an ALTER or TRUNCATE?); try again later"
        )
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return SourceInterrupted(f"{what}: {line}; nothing was committed, run it again")
    return SourceError(f"{what}: {line}")
