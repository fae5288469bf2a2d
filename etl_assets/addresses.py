"""How an address is shown, wherever one is printed, kept or raised: made of the parts that say where something is.

An address is taken apart where it enters. What does not read as a host, a port or a name is not shown, and neither is
any other part of it, whatever it is called: passwords come in more forms than anybody lists. Not here: connecting.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, zip_longest
from operator import itemgetter
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "…"
"""Stands for what is not shown."""
_SECRETS = "aws-secret://"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,20}")
_WORD = re.compile(r"[a-z-]{1,20}")
_NAME = re.compile(r"[\w.$-]+")  # of a database, a role, a service
_HOST = re.compile(
    r"[\w.-]+|[0-9a-fA-F:.]+(?:%\w+)?|/[^@]*|@[\w.-]+"
)  # a name, an address, a socket's folder
# What libpq may be told beside where the server is, and messages may repeat. All others may hold a secret.
_HARMLESS = {
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "load_balance_hosts",
    "require_auth",
    "sslmode",
    "sslnegotiation",
    "target_session_attrs",
}
_SAID = {"from", "to", "location"}  # options of mail servers and of BigQuery
_SHOWN = {"host", "hostaddr", "port", "dbname", "user", "service"}
_PLACES = {"s3", "gs", "file", "duckdb", "bigquery", "postgresql", "postgres"}
_SET_TO = re.compile(r"=(\S+)")
_SHORTEST_SECRET = 4  # below that it would be found in ordinary words
# Of the environment: settings that are addresses, and those that are nothing but a secret.
_ADDRESSES = (
    "ETL_SOURCE_URL",
    "ETL_WAREHOUSE_URL",
    "ETL_LAKE_URL",
    "ETL_ALERTS_URL",
    "ETL_SHEETS_ENDPOINT",
    "ETL_UI_URL",
    "AWS_ENDPOINT_URL",
)
_ADDRESSES_OF_STEPS = ("ETL_DATABASE_", "ETL_CHANNEL_")
_NOTHING_ELSE = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "DAGSTER_PG_PASSWORD")


class AddressError(ValueError):
    """An address can't be read, or could be read in two ways. Its text repeats nothing of it."""


@dataclass(frozen=True)
class Database:
    """Where a PostgreSQL is: `hosts` are tried one after the other, each a name with the port if one is given; without
    hosts it is a service of the service file, or what the PG… variables say."""

    hosts: tuple[str, ...]
    name: str | None
    user: str | None
    service: str | None

    @classmethod
    def read(cls, dsn: str) -> "Database":
        """Every form that libpq takes: a URL, and `key = 'value'`. Raises `AddressError`."""
        given = _parsed(dsn)
        hosts = [host for host in given.get("host", given.get("hostaddr", "")).split(",") if host]
        ports = [port for port in given.get("port", "").split(",") if port]
        readable = (
            all(_HOST.fullmatch(host) for host in hosts)
            and all(port.isascii() and port.isdigit() for port in ports)
            and not _is_ambiguous(dsn)
        )
        if not readable:
            raise AddressError("an address of a database can't be read")
        if len(ports) <= 1:
            ports *= len(hosts)
        return cls(
            tuple(_joined(*pair) for pair in zip_longest(hosts, ports[: len(hosts)], fillvalue="")),
            _named(given.get("dbname")),
            _named(given.get("user")),
            _named(given.get("service")),
        )

    def __str__(self) -> str:
        if self.service and not self.hosts:
            return f"the service {self.service}"
        user = f"{self.user}@" if self.user else ""
        name = f"/{self.name}" if self.name else ""
        return f"postgresql://{user}{','.join(self.hosts)}{name}"


def database(dsn: str) -> str:
    """A PostgreSQL, as it is shown. One that a secret holds is shown as the setting names it."""
    if dsn.startswith(_SECRETS):
        return dsn
    try:
        return str(Database.read(dsn))
    except AddressError:
        return f"postgresql://{HIDDEN}"


def place(url: str) -> str:
    """The host and port of a service's URL, as they are shown."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return HIDDEN
    # An @ further behind: the password has a / that should have been encoded, and what stands for the host is the user.
    if not _HOST.fullmatch(host) or "@" in url.partition("://")[2].partition("/")[2]:
        return HIDDEN
    return _joined(host, str(port or ""))


def service(url: str) -> str:
    """The scheme, host and port of a service's URL."""
    return f"{scheme(url)}://{place(url)}"


def scheme(url: str) -> str:
    """What stands before ://, if it can be a scheme."""
    found = url.partition("://")[0]
    return found if _SCHEME.fullmatch(found) and "://" in url else HIDDEN


def word(text: str) -> str:
    """What should be one of a few words, and may be an address in the wrong place."""
    return text if _WORD.fullmatch(text) else HIDDEN


def bucket(url: str) -> str:
    """The URL of a folder in a bucket, which has a bucket and a path and nothing else."""
    rest = url.partition("://")[2]
    return f"{scheme(url)}://{HIDDEN if set(rest) & set('@:?#&=') else rest}"


def quotes_a_secret(dsn: str, text: str) -> bool:
    """Whether what the driver says of an address repeats more of it than where it is."""
    return any(secret in text for secret in _hidden(dsn))


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """A text that others wrote, without what the settings hold beside where things are."""
    named = [name for name in environment if name in _ADDRESSES or name.startswith(_ADDRESSES_OF_STEPS)]
    known = {secret for name in named for secret in _hidden(environment[name])}
    known |= {environment.get(name, "") for name in _NOTHING_ELSE}
    # All are looked for in the text as it came: one may overlap another.
    secret = [False] * len(text)
    for one in known:
        at = text.find(one) if len(one) >= _SHORTEST_SECRET else -1
        while at >= 0:
            secret[at : at + len(one)] = [True] * len(one)
            at = text.find(one, at + 1)
    pieces = groupby(zip(text, secret, strict=True), key=itemgetter(1))
    return "".join(HIDDEN if hidden else "".join(c for c, _ in piece) for hidden, piece in pieces)


def _hidden(address: str) -> set[str]:
    """The parts of an address that are not shown, in each form in which they may be written."""
    found = set(_hidden_parts(address))
    quoted = {part.replace("\\", "\\\\").replace("'", "\\'") for part in found}  # as libpq's words have it
    return {form for part in found | quoted for form in (part, unquote(part), quote(part, safe="")) if form}


def _hidden_parts(address: str) -> Iterator[str]:
    """As they are written; and as libpq reads them, if it is a database's."""
    _, separator, rest = address.partition("://")
    if separator or "@" in address:
        rest = rest or address
        for text in (rest, rest.partition("?")[0], rest.partition("/")[0]):
            who = text.rpartition("@")[0]
            yield who.partition(":")[2] or who
        yield rest.partition("#")[2]
        if scheme(address) not in _PLACES:  # a hook's path is its password
            yield rest.partition("?")[0].partition("/")[2]
        for option in rest.partition("?")[2].split("&"):
            name, _, value = option.partition("=")
            if name not in _SAID | _HARMLESS | _SHOWN:
                yield value or name
    if separator and scheme(address) not in {"postgresql", "postgres"}:
        if place(address) == HIDDEN:
            yield rest
        if scheme(address) == HIDDEN:
            yield address
        return
    try:
        Database.read(address)
        for key, value in _parsed(address).items():
            if key not in _HARMLESS | _SHOWN:
                yield value
            if key == "options":  # the server repeats what it can't set a parameter to
                yield from (said for said in _SET_TO.findall(value) if len(said) >= _SHORTEST_SECRET)
    except AddressError:
        yield rest or address


def _parsed(dsn: str) -> dict[str, str]:
    # Here, since most of what shows an address has no database to show.
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        return dict(parse_dsn(dsn))
    except (psycopg2.Error, ValueError):  # what the driver says of it repeats it
        raise AddressError("an address of a database can't be read") from None


def _is_ambiguous(dsn: str) -> bool:
    """Whether the password of a URL may have a character that should have been encoded: then a part of it stands where
    libpq takes the host or the database from."""
    _, separator, rest = dsn.partition("://")
    if not separator or not dsn.startswith(("postgresql:", "postgres:")):
        return False
    before = rest.partition("?")[0]
    return "@" in before.partition("/")[2] or before.count("@") > 1


def _joined(host: str, port: str) -> str:
    named = f"[{host}]" if ":" in host else host
    return f"{named}:{port}" if port else named


def _named(name: str | None) -> str | None:
    return name if name and _NAME.fullmatch(name) else None
