"""The settings, all optional: each has one name, one place and one meaning."""

import json
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from etl_assets import addresses
from etl_assets.clients.secrets import names_secret
from etl_assets.errors import SettingsError
from etl_assets.lake.files import LakeError, parts
from etl_assets.pace import NO_PACE, Pace
from etl_assets.permissions import MODES, PRIVATE

GOOGLE_KEY = "GOOGLE_APPLICATION_CREDENTIALS"
WAREHOUSES = {
    "duckdb": "duckdb:///path/to/file.duckdb",
    "postgresql": "postgresql://user:password@host:port/database",
    "bigquery": "bigquery://project",
}
NAMES = (
    "ETL_DEPLOYMENT",
    "ETL_PROJECT",
    "ETL_SOURCE_URL",
    "ETL_SOURCE_ONE_HISTORY",
    "ETL_LAKE_URL",
    "ETL_WAREHOUSE_URL",
    "ETL_WAREHOUSE_SCHEMA",
    "ETL_KEY_PREFIX",
    "ETL_SHEET_ID",
    "ETL_SHEETS_ENDPOINT",
    "ETL_EVERY",
    "ETL_ALERTS_URL",
    "ETL_UI_URL",
    "ETL_BREAKER_FAILURES",
    "ETL_REPLAY_BATCHES",
    "ETL_VERIFY_ROWS",
    "ETL_HISTORY_MB",
    "ETL_MODELS",
    "ETL_FILE_MODE",
    "ETL_DATA",
)
"""The settings' names."""

HISTORY_MB = 1500
"""With what a day adds at the default pace, 260 MB, the history stays below 2 GB."""
_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,49}")
_BESIDE = ("reporting", "_staging")
_TAKEN = ("main", "temp", "system", "public", "information_schema", "raw", "reference")
_KEPT = "ETL_ENVIRONMENT_KEPT"
_OF_STEPS = ("ETL_DATABASE_", "ETL_CHANNEL_")
_ALIKE = 0.85
_PART = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    deployment      ETL_DEPLOYMENT     `local` or `production`
    project         ETL_PROJECT        the package or folder that declares tables, star and reports; None: `etl_project` here, or
                                       the one that ships
    source_url      ETL_SOURCE_URL     a PostgreSQL URL; None: the embedded demo
    lake_url        ETL_LAKE_URL       a folder, `s3://bucket/prefix` or `gs://bucket/prefix`
    warehouse_url   ETL_WAREHOUSE_URL  `duckdb:///path`, `postgresql://user:password@host/database` or `bigquery://project`
    warehouse_schema  ETL_WAREHOUSE_SCHEMA  the schema of the star; reports are in `<it>_reporting`, or, of `star`, in `reporting`
    key_prefix      ETL_KEY_PREFIX     what asset keys, jobs and all else in Dagster begin with: `shop`, `company/shop`
    spreadsheet     ETL_SHEET_ID       the Google spreadsheet that gets the reports; None: an .xlsx file does
    sheets_endpoint ETL_SHEETS_ENDPOINT  where the Google Sheets API is; None: at Google's
    every           ETL_EVERY          how often a source that always changes is read: `1m`, `1m, 22:00-06:00 1h`, `0`
    alerts_url      ETL_ALERTS_URL     smtp://…, smtps://… or sns:arn:…; None: alerts go to the log
    ui_url          ETL_UI_URL         where the links of alerts lead to
    breaker_failures  ETL_BREAKER_FAILURES  failed runs in a row after which none is started automatically; None: never
    replay_batches  ETL_REPLAY_BATCHES  a star table is not made anew from more batches than this unless told so
    one_history     ETL_SOURCE_ONE_HISTORY  `yes`: servers behind the source's address are replicas of one another
    verify_rows     ETL_VERIFY_ROWS     rows that the verification of one night reads at most, if all are read in a week
    history_mb      ETL_HISTORY_MB     millions of bytes that Dagster's history may take; 0: no limit but age
    models          ETL_MODELS         model files to observe: `name=folder/*.sql;other=folder/**/*.json`
    file_mode       ETL_FILE_MODE      who may read what is written: `private`, `group` or `public`
    data            ETL_DATA           the folder for all that is kept locally and not set otherwise
    """

    deployment: str
    source_url: str | None = field(repr=False)
    lake_url: str
    warehouse_url: str = field(repr=False)
    spreadsheet: str | None
    sheets_endpoint: str | None = field(repr=False)
    alerts_url: str | None = field(repr=False)
    ui_url: str
    breaker_failures: int | None
    replay_batches: int
    verify_rows: int
    history_mb: int
    models: str
    data: Path
    project: str | None = None
    every: Pace = NO_PACE
    file_mode: str = PRIVATE
    one_history: bool = False
    warehouse_schema: str = "star"
    key_prefix: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    """Which of ETL_SOURCE_URL, ETL_LAKE_URL and ETL_WAREHOUSE_URL are not set."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """The settings of an environment. Raises `SettingsError` for one that can't be read."""

        known = {name: environment.get(name, "").strip() for name in (*NAMES, GOOGLE_KEY)}

        def get(name: str, default: str | None = None) -> str | None:
            return known[name] or default

        data = Path(_data(get("ETL_DATA") or "data")).absolute()
        places = (get("ETL_LAKE_URL") or "", get("ETL_WAREHOUSE_URL") or "")
        if get("ETL_SHEET_ID") or any(place.startswith(("gs:", "bigquery:")) for place in places):
            _key_file(get(GOOGLE_KEY) or "")
        return cls(
            deployment=get("ETL_DEPLOYMENT") or "local",
            project=get("ETL_PROJECT"),
            source_url=get("ETL_SOURCE_URL"),
            lake_url=_lake(get("ETL_LAKE_URL")) or str(data / "lake"),
            warehouse_url=get("ETL_WAREHOUSE_URL") or f"duckdb:///{data / 'warehouse.duckdb'}",
            spreadsheet=_spreadsheet(get("ETL_SHEET_ID")),
            sheets_endpoint=get("ETL_SHEETS_ENDPOINT"),
            alerts_url=get("ETL_ALERTS_URL"),
            ui_url=_page(get("ETL_UI_URL") or "http://127.0.0.1:3000"),
            breaker_failures=_count("ETL_BREAKER_FAILURES", get("ETL_BREAKER_FAILURES")),
            replay_batches=_count("ETL_REPLAY_BATCHES", get("ETL_REPLAY_BATCHES"), "batches") or 5_000,
            verify_rows=_count("ETL_VERIFY_ROWS", get("ETL_VERIFY_ROWS"), "rows") or 50_000_000,
            history_mb=_megabytes(get("ETL_HISTORY_MB") or str(HISTORY_MB)),
            models=get("ETL_MODELS") or "",
            data=data,
            file_mode=_file_mode(get("ETL_FILE_MODE") or PRIVATE),
            warehouse_schema=_schema(get("ETL_WAREHOUSE_SCHEMA") or "star"),
            key_prefix=_prefix(get("ETL_KEY_PREFIX")),
            every=Pace.read(get("ETL_EVERY") or "1m"),
            one_history=_yes("ETL_SOURCE_ONE_HISTORY", get("ETL_SOURCE_ONE_HISTORY")),
            unset=tuple(n for n in ("ETL_SOURCE_URL", "ETL_LAKE_URL", "ETL_WAREHOUSE_URL") if not get(n)),
        )


def mistaken(environment: Mapping[str, str]) -> dict[str, str]:
    """Names that are set, mean nothing and look like settings, with the setting that each may be meant for."""
    names = [n for n in environment if n.startswith("ETL_") and n not in (*NAMES, _KEPT)]
    near = {n: get_close_matches(n, NAMES, 1, _ALIKE) for n in names if not n.startswith(_OF_STEPS)}
    return {name: found[0] for name, found in near.items() if found}


def keep(environment: MutableMapping[str, str], from_file: Mapping[str, str | None]) -> None:
    """Let what an environment says win over what a `.env` says in processes of Dagster too, which takes it from there."""
    differing = {
        n: environment[n] for n, said in from_file.items() if n in environment and environment[n] != said
    }
    if differing:
        environment[_KEPT] = json.dumps(differing)


def restore(environment: MutableMapping[str, str]) -> None:
    """Set what `keep` kept."""
    environment.update(json.loads(environment.get(_KEPT, "{}")))


def _key_file(value: str) -> None:
    """Refuse the key in the place of its file: all that looks for the file would print what it did not find."""
    if "{" in value or "\n" in value:
        raise SettingsError(
            f"{GOOGLE_KEY} holds something else than the name of a file: write the service account's key into a file that only "
            "you can read, and name that"
        )


def _count(name: str, value: str | None, what: str = "runs") -> int | None:
    if value is None:
        return None
    if not value.isdecimal() or not int(value):
        raise SettingsError(f"{name} is no number of {what}: write 1 or more, or leave it out")
    return int(value)


def _megabytes(value: str) -> int:
    if not value.isdecimal():
        raise SettingsError(
            "ETL_HISTORY_MB is no number of megabytes: write 1 or more, or 0 for no limit but age"
        )
    return int(value)


def _spreadsheet(value: str | None) -> str | None:
    """The id of a spreadsheet, which may be given as its whole address."""
    if value is None:
        return None
    found = re.fullmatch(
        r"(?:https://docs\.google\.com/spreadsheets/(?:u/\d+/)?d/)?([\w-]+)(?:[/?#].*)?", value, re.ASCII
    )
    if not found:
        raise SettingsError(
            "ETL_SHEET_ID is no id of a Google spreadsheet: it is the part of its address between /d/ and /edit"
        )
    return found[1]


def _file_mode(value: str) -> str:
    if value not in MODES:
        raise SettingsError(f"ETL_FILE_MODE={addresses.word(value)} is none of {', '.join(MODES)}")
    return value


def _schema(value: str) -> str:
    if not _SCHEMA.fullmatch(value) or value.endswith(_BESIDE) or value in _TAKEN or value.startswith("pg_"):
        raise SettingsError(
            f"ETL_WAREHOUSE_SCHEMA={addresses.word(value)} can't be used: write up to 50 of a-z, 0-9 and _, the first a letter, "
            f"not ending in {' or '.join(_BESIDE)}, and no name that a database uses itself ({', '.join(_TAKEN)})"
        )
    return value


def _prefix(value: str | None) -> tuple[str, ...]:
    parts = tuple(value.split("/")) if value else ()
    if not all(_PART.fullmatch(part) and "__" not in part for part in parts):
        raise SettingsError(
            f"ETL_KEY_PREFIX={addresses.word(value or '')} can't be used: write letters, digits and _, as shop, or "
            "company/shop"
        )
    return parts


def _yes(name: str, value: str | None) -> bool:
    if value not in {None, "yes", "no"}:
        raise SettingsError(f"{name} is neither yes nor no")
    return value == "yes"


def _data(value: str) -> str:
    if "://" in value:
        raise SettingsError("ETL_DATA names no folder of this machine")
    return _folder("ETL_DATA", value)


def _lake(value: str | None) -> str | None:
    try:
        if value is not None:
            parts(value)
            _folder("ETL_LAKE_URL", value)
        return value
    except LakeError as error:
        raise SettingsError(str(error)) from None


def _folder(name: str, value: str) -> str:
    """A path as a setting has it. What only a shell puts a home in the place of would be a folder of that name beside the
    project's."""
    if value.startswith(("~", "$")):
        raise SettingsError(
            f"{name} begins with {value[0]}, which only a shell replaces: write the whole path (or ./ before it)"
        )
    try:
        str(Path(value).absolute()).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"{name} leads to a folder whose name is no UTF-8, which DuckDB can't open: rename it, or name another"
        ) from None
    return value


def _page(value: str) -> str:
    """The address of the interface, for links: a user, a password or a token in it are the reader's own affair."""
    where = addresses.service(value)
    if addresses.HIDDEN in where:
        raise SettingsError("ETL_UI_URL can't be read: write https://host:port")
    return (where + urlsplit(value).path).rstrip("/")


def warehouse_engine(warehouse_url: str) -> str:
    """`duckdb`, `postgresql` or `bigquery`, as a URL says. One that is kept as a secret is PostgreSQL's: the others hold none."""
    if names_secret(warehouse_url):
        return "postgresql"
    scheme, separator, _ = warehouse_url.partition("://")
    if not separator or scheme not in WAREHOUSES:
        said = (
            f"{addresses.scheme(warehouse_url)}://" if separator else "what it says"
        )  # which may be a password
        raise SettingsError(
            f"ETL_WAREHOUSE_URL: {said} is not a warehouse that can be used; write {' or '.join(WAREHOUSES.values())}"
        )
    return scheme


def duckdb_path(warehouse_url: str) -> Path:
    """The file that a `duckdb:///` URL names; a third slash more makes it absolute."""
    rest = warehouse_url.partition("://")[2]
    options = "=" in rest.rpartition("/")[2].partition("?")[2]  # DuckDB takes none, and one may be a token
    if not rest.startswith("/") or len(rest) < 2 or options:
        raise SettingsError(f"ETL_WAREHOUSE_URL names no file; write {WAREHOUSES['duckdb']}")
    path = Path(_folder("ETL_WAREHOUSE_URL", rest[1:])).absolute()
    if "?" in str(path):
        raise SettingsError(
            f"the warehouse {path} has a ? in its path, which DuckDB can't have: set ETL_WAREHOUSE_URL to another file"
        )
    return path
