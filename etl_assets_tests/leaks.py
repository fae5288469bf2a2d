"""Passwords planted in settings, in every form that a setting can have, and where they may turn up."""

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SECRET = "Zaphod-hunter2"
"""In every planted password."""


@dataclass(frozen=True)
class Planted:
    """A setting with a password in it. `password`: what the server is to be told; None if the form is refused."""

    setting: str
    form: str
    text: str
    password: str | None = SECRET

    def __str__(self) -> str:
        return f"{self.setting}: {self.form}"


def databases(
    setting: str, host: str = "127.0.0.1", port: int = 1, role: str = "reader", name: str = "shop"
) -> list[Planted]:
    """Every form in which libpq takes the address of a database, and the usual mistakes."""
    at, odd = f"{host}:{port}/{name}", f"{SECRET} /@:?#'\\x"
    quoted = odd.replace("\\", "\\\\").replace("'", "\\'")
    rest = f"host={host} port={port} dbname={name} user={role}"
    spread = f"host = {host} port = {port} dbname = {name} user = {role}"
    taken = {
        "a URL": (f"postgresql://{role}:{SECRET}@{at}", SECRET),
        "postgres://": (f"postgres://{role}:{SECRET}@{at}", SECRET),
        "encoded": (f"postgresql://{role}:{quote(odd, safe='')}@{at}", odd),
        "all encoded": (f"postgresql://{role}:{''.join(f'%{ord(c):02x}' for c in SECRET)}@{at}", SECRET),
        "# and : as they are": (f"postgresql://{role}:{SECRET}:a#b@{at}", f"{SECRET}:a#b"),
        "? as it is": (f"postgresql://{role}:{SECRET}?b@{at}", f"{SECRET}?b"),
        "an option": (f"postgresql://{role}@{at}?password={SECRET}", SECRET),
        "an option with an @": (f"postgresql://{role}@{at}?password={SECRET}@x", f"{SECRET}@x"),
        "an option, encoded": (f"postgresql://{role}@{at}?password={quote(odd, safe='')}", odd),
        "an option of several": (
            f"postgresql://{role}@{at}?connect_timeout=5&password={SECRET}&sslmode=disable", SECRET,
        ),
        "all as options": (
            f"postgresql:///?host={host}&port={port}&dbname={name}&user={role}&password={SECRET}", SECRET,
        ),
        "two hosts": (f"postgresql://{role}:{SECRET}@{host}:1,{at}", SECRET),
        "a key's password": (f"postgresql://{role}:{SECRET}@{at}?sslpassword={SECRET}-key", SECRET),
        "words": (f"{rest} password={SECRET}", SECRET),
        "words first": (f"password={SECRET} {rest}", SECRET),
        "words with blanks": (f"{spread} password = {SECRET}", SECRET),
        "words with quotes": (f"{rest} password='{quoted}'", odd),
        "words with blanks and quotes": (f"{rest}  password  =  '{quoted}'", odd),
        "words with a key's password": (f"{rest} password={SECRET} sslpassword = '{SECRET} key'", SECRET),
        "options of the server": (f"{rest} password={SECRET} options='-c etl.token={SECRET}'", SECRET),
    }  # fmt: skip
    refused = {
        "an @ as it is": f"postgresql://{role}:x@{SECRET}@{at}",
        "a / as it is": f"postgresql://{role}:1/{SECRET}@{at}",
        "an @ and a / as they are": f"postgresql://{role}:1@x/{SECRET}@{at}",
        "a / and a ? as they are": f"postgresql://{role}:1/?{SECRET}@{at}",
        "a % as it is": f"postgresql://{role}:{SECRET}%zz@{at}",
        "no scheme": f"{role}:{SECRET}@{at}",
        "another scheme": f"postgresq://{role}:{SECRET}@{at}",
        "an unknown option": f"postgresql://{role}@{at}?passwort={SECRET}",
        "no port": f"postgresql://{role}:a@{host}:{SECRET}/{name}",
        "words without quotes": f"{rest} password={SECRET} and more",
        "words, one unknown": f"{rest} passwort={SECRET}",
        "words without an end": f"{rest} password='{SECRET}",
        "a URL as a host": f"host=postgresql://{role}:{SECRET}@{host} dbname={name}",
    }
    return [
        *(Planted(setting, form, text, password) for form, (text, password) in taken.items()),
        *(Planted(setting, form, text, None) for form, text in refused.items()),
    ]


LAKES = [
    Planted("ETL_LAKE_URL", form, text, None)
    for form, text in {
        "a key and its secret": f"s3://key:{SECRET}@bucket/lake",
        "with a /": f"s3://key:a/{SECRET}@bucket/lake",
        "a token": f"s3://bucket/lake?token={SECRET}",
        "a token behind #": f"s3://bucket/lake#{SECRET}",
        "gs, a token": f"gs://bucket/lake?access_token={SECRET}",
        "gs, a user": f"gs://user:{SECRET}@bucket/lake",
        "another scheme": f"sftp://user:{SECRET}@host/lake",
        "a file of somebody": f"file://user:{SECRET}@host/lake",
        "a slash too few": f"s3:/key:{SECRET}@bucket/lake",
        "no slash": f"s3:key:{SECRET}@bucket/lake",
        "no scheme": f"key:{SECRET}@bucket/lake",
    }.items()
]
WAREHOUSES = [
    Planted("ETL_WAREHOUSE_URL", form, text, None)
    for form, text in {
        "duckdb, a user": f"duckdb://user:{SECRET}@host/file.duckdb",
        "duckdb, a token": f"duckdb:///md:shop?motherduck_token={SECRET}",
        "bigquery, a user": f"bigquery://user:{SECRET}@project",
        "bigquery, an option": f"bigquery://project?credentials={SECRET}",
        "bigquery, a bracket": f"bigquery://[{SECRET}",
        "another scheme": f"snowflake://user:{SECRET}@account/shop",
        "no scheme": f"user:{SECRET}@host/shop",
        "a secret as a scheme": f"user-{SECRET}://host/shop",
    }.items()
]
ALERTS = [
    Planted("ETL_ALERTS_URL", form, text, None if form.startswith("bad") else SECRET)
    for form, text in {
        "smtp": f"smtp://etl:{SECRET}@127.0.0.1:1/?from=a@example.com&to=b@example.com",
        "smtps": f"smtps://etl:{SECRET}@127.0.0.1:1?from=a@example.com&to=b@example.com",
        "encoded": f"smtp://etl:%5A{SECRET[1:]}@127.0.0.1:1/?from=a@example.com&to=b@example.com",
        "bad: a / as it is": f"smtp://etl:1/{SECRET}@127.0.0.1:1/?from=a@example.com&to=b@example.com",
        "bad: no port": f"smtp://etl:a@127.0.0.1:{SECRET}/?from=a@example.com&to=b@example.com",
        "bad: an option": f"smtp://etl:a@127.0.0.1:1/?from=a@example.com&to=b@example.com&key={SECRET}",
        "bad: a bracket": f"smtp://[{SECRET}",
        "bad: a topic": f"sns:arn:aws:sns:eu-west-2:123456789012:x?token={SECRET}",
        "bad: a hook": f"https://hooks.example.com/{SECRET}",
    }.items()
]
SHEETS = [
    Planted("ETL_SHEETS_ENDPOINT", form, text, None if form.startswith("bad") else SECRET)
    for form, text in {
        "a user": f"http://user:{SECRET}@127.0.0.1:1",
        "a user, TLS": f"https://user:{SECRET}@127.0.0.1:1/sheets",
        "bad: a token": f"http://127.0.0.1:1/?key={SECRET}",
        "bad: unencrypted": f"http://user:{SECRET}@sheets.invalid",
        "bad: a / as it is": f"http://user:1/{SECRET}@127.0.0.1:1",
        "bad: no port": f"http://user:{SECRET}@127.0.0.1:x{SECRET}",
        "bad: a bracket": f"http://[{SECRET}",
        "bad: no scheme": f"user:{SECRET}@127.0.0.1:1",
    }.items()
]
ENDPOINTS = [
    Planted("AWS_ENDPOINT_URL", form, text, None if form == "a bracket" else SECRET)
    for form, text in {
        "a user": f"http://user:{SECRET}@127.0.0.1:1",
        "a token": f"http://127.0.0.1:1/?token={SECRET}",
        "no port": f"http://user:{SECRET}@127.0.0.1:x",
        "no scheme": f"user:{SECRET}@127.0.0.1:1",
        "a bracket": f"http://[{SECRET}",
    }.items()
]
OTHERS = [
    Planted("ETL_UI_URL", "a user", f"http://user:{SECRET}@127.0.0.1:3000"),
    Planted("ETL_UI_URL", "a token", f"http://127.0.0.1:3000/etl?token={SECRET}"),
    Planted("ETL_UI_URL", "a / as it is", f"http://user:1/{SECRET}@127.0.0.1:3000", None),
    Planted("ETL_DEPLOYMENT", "an address", f"postgresql://user:{SECRET}@host/x", None),
    Planted("ETL_DATA", "an address", f"s3://key:{SECRET}@bucket", None),
    Planted("ETL_MODELS", "an address", f"s3://key:{SECRET}@bucket/*.sql", None),
    Planted("ETL_MODELS", "a group", f"models=s3://key:{SECRET}@bucket/*.sql", None),
    Planted("ETL_SHEET_ID", "an address", f"https://user:{SECRET}@docs.example.com/d/1AbC", None),
    Planted("ETL_BREAKER_FAILURES", "an address", f"postgresql://user:{SECRET}@host/x", None),
    Planted("ETL_EVERY", "an address", f"postgresql://user:{SECRET}@host/x", None),
    Planted("ETL_REPLAY_BATCHES", "an address", f"postgresql://user:{SECRET}@host/x", None),
    Planted("ETL_SOURCE_ONE_HISTORY", "an address", f"postgresql://user:{SECRET}@host/x", None),
    Planted("ETL_VERIFY_ROWS", "an address", f"postgresql://user:{SECRET}@host/x", None),
    Planted("ETL_HISTORY_MB", "an address", f"postgresql://user:{SECRET}@host/x", None),
]
_KEY = json.dumps(
    {
        "type": "service_account", "project_id": "shop", "private_key_id": SECRET, "client_email": "etl@shop.example.com",
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
        "token_uri": "http://127.0.0.1:1/token",
    }
)  # fmt: skip
GOOGLE = {
    "the key itself instead of its file": (_KEY, False),
    "a file with a key that is none": (_KEY, True),
    "a file that is cut off": (_KEY[:-20], True),
    "a file with nothing but the key": (SECRET, True),
}
"""What GOOGLE_APPLICATION_CREDENTIALS may be: a text, and whether it names a file with it as it should."""
EVERYTHING = [
    *databases("ETL_SOURCE_URL"), *databases("ETL_WAREHOUSE_URL"), *LAKES, *WAREHOUSES, *ALERTS, *SHEETS, *ENDPOINTS,
    *OTHERS,
]  # fmt: skip


def shows(text: str | bytes) -> bool:
    """Whether a text has the secret, in whatever form."""
    content = text if isinstance(text, bytes) else text.encode(errors="replace")
    forms = (SECRET, quote(SECRET, safe=""), "".join(f"%{ord(c):02x}" for c in SECRET), SECRET[1:])
    return any(form.encode() in content for form in forms)


def kept(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Everything in the files of a folder, also what Dagster's databases keep compressed."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        yield str(path), content
        if content.startswith(b"SQLite format 3"):
            with closing(sqlite3.connect(path)) as connection:
                for (table,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                ).fetchall():
                    for row in connection.execute(f'SELECT * FROM "{table}"'):
                        for value in row:
                            if isinstance(value, bytes) and value[:1] == b"x":
                                yield f"{path}, {table}", zlib.decompress(value)
