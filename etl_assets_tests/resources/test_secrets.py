"""A setting may name a secret instead of holding it. What it stands for is fetched when somebody connects, and is seen
nowhere: not in a run's records, logs or data, not in the process list, not in the UI.
"""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import dagster as dg
import pytest
from dagster_graphql.test.utils import execute_dagster_graphql
from moto.server import ThreadedMotoServer

from etl_assets.clients.alerts import Alert, AlertError, EmailAlerts, alerts
from etl_assets.clients.secrets import ENGINES, SecretError, database_url, resolved
from etl_assets.project import SqlQuery, Steps
from etl_assets.settings import warehouse_engine
from etl_assets.source.resource import PostgresSource
from etl_assets.stand_ins.sheets import serve_sheets
from etl_assets.stand_ins.sheets_books import Book
from etl_assets.warehouse.postgres import PostgresWarehouse
from etl_assets_tests.automation.shown import served
from etl_assets_tests.flow import Flow, Run, as_role, execute
from etl_assets_tests.hiring import BICYCLES
from etl_assets_tests.steps.playing import play

ROOT = Path(__file__).parents[2]
SETTING = "ETL_SOURCE_URL"
PASSWORD = "hunter2/Zaphod"  # has to be encoded in a URL
WAREHOUSE_PASSWORD = "warehouse-Slartibartfast"
PLANTED = [
    "hunter2/Zaphod",
    "hunter2%2FZaphod",
    WAREHOUSE_PASSWORD,
    "mail-Trillian",
    "secret-Access-Marvin",
]
RDS = {
    "username": "reader",
    "password": PASSWORD,
    "engine": "postgres",
    "host": "db.example.com",
    "port": 5433,
    "dbname": "shop",
}


def environment(endpoint: str) -> dict[str, str]:
    """Where AWS is, and who we are there."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIA-not-secret",
        "AWS_SECRET_ACCESS_KEY": "secret-Access-Marvin",
        "AWS_DEFAULT_REGION": "eu-west-2",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Secrets Manager, without a secret, and an environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    client = boto3.session.Session().client("secretsmanager")
    yield client
    for secret in client.list_secrets()["SecretList"]:
        client.delete_secret(SecretId=secret["ARN"], ForceDeleteWithoutRecovery=True)
    client.close()


def hold(aws: Any, name: str, content: object) -> str:
    """Make a secret; returns what a setting says to name it."""
    aws.create_secret(Name=name, SecretString=content if isinstance(content, str) else json.dumps(content))
    return f"aws-secret://{name}"


# -- what a setting stands for ---------------------------------------------------------------------------------------


def test_a_setting_that_holds_its_value_goes_through_and_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert resolved("postgresql://a:b@c/d", SETTING) == "postgresql://a:b@c/d"
    assert database_url('{"username": "a"}', SETTING) == '{"username": "a"}'


def test_a_secret_is_its_text(aws: Any) -> None:
    assert resolved(hold(aws, "prod/shop/url", "postgresql://a:b@c/d\n"), SETTING) == "postgresql://a:b@c/d"


def test_a_secret_can_be_named_by_its_arn(aws: Any) -> None:
    hold(aws, "shop", "x")
    assert resolved(f"aws-secret://{aws.describe_secret(SecretId='shop')['ARN']}", SETTING) == "x"


def test_a_key_takes_a_part_of_a_secret(aws: Any) -> None:
    named = hold(aws, "mail", {"password": PASSWORD, "port": 587})
    assert (resolved(f"{named}#password", SETTING), resolved(f"{named}#port", SETTING)) == (PASSWORD, "587")


def test_a_secret_as_rds_writes_it_is_the_url_of_a_database(aws: Any) -> None:
    url = database_url(hold(aws, "rds", RDS), SETTING)
    assert url == "postgresql://reader:hunter2%2FZaphod@db.example.com:5433/shop"


@pytest.mark.parametrize(
    ("engine", "port", "url"),
    [
        ("mysql", 3307, "mysql+pymysql://reader:hunter2%2FZaphod@db.example.com:3307/shop"),
        ("mariadb", None, "mysql+pymysql://reader:hunter2%2FZaphod@db.example.com/shop"),
        ("postgres", None, "postgresql://reader:hunter2%2FZaphod@db.example.com/shop"),
    ],
)
def test_a_step_works_in_the_database_of_a_secret_as_rds_writes_it(
    aws: Any, engine: str, port: int | None, url: str
) -> None:
    named = hold(aws, "rds", RDS | {"engine": engine, "port": port})
    assert database_url(named, "ETL_DATABASE_SHOP", ENGINES) == url


def test_a_step_connects_with_what_the_secret_says(
    aws: Any, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(database())
    rds = {"username": parts.username, "password": unquote(parts.password or ""), "host": parts.hostname, "port": parts.port,
           "dbname": parts.path[1:], "engine": "postgres"}  # fmt: skip
    monkeypatch.setenv("ETL_DATABASE_SHOP", hold(aws, "shop", rds))
    group = Steps("lot", "One.", [SqlQuery("one", "One.", sql="SELECT 1 AS n", database="shop")])
    ran = play(group, tmp_path / "data")
    assert ran.success, ran.failure


def test_the_source_connects_with_what_the_secret_says(aws: Any, bicycles: str, tmp_path: Path) -> None:
    named = hold(aws, "bicycles", bicycles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETL_SOURCE_URL", named)
        run = Flow(named, tmp_path).run("raw/bike")
    assert run.success, run.error_lines


@pytest.mark.fault("F35")
def test_after_a_rotation_the_next_connection_has_the_new_secret(aws: Any) -> None:
    source = PostgresSource(url=hold(aws, "shop", "postgresql://a:old@c/d"), scratch="")
    assert source.address() == "postgresql://a:old@c/d"
    aws.put_secret_value(SecretId="shop", SecretString="postgresql://a:new@c/d")
    assert source.address() == "postgresql://a:new@c/d"


def test_the_warehouse_connects_with_what_the_secret_says(
    aws: Any, database: Callable[..., str], tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(url=hold(aws, "warehouse", database()), scratch=str(tmp_path))
    assert warehouse.query("SELECT 1 AS one")["one"].tolist() == [1]
    assert warehouse.where == "aws-secret://warehouse"
    assert warehouse_engine("aws-secret://warehouse") == "postgresql"


def test_alerts_are_sent_as_the_secret_says(aws: Any) -> None:
    named = hold(aws, "mail", "smtp://etl:mail-Trillian@127.0.0.1:1/?from=a@example.com&to=b@example.com")
    assert isinstance(alerts(named), EmailAlerts)
    with pytest.raises(AlertError, match=r"^can't send an alert by 127\.0\.0\.1:1: ") as raised:
        EmailAlerts(url=named).send(Alert("s", "t", "l", "r"))
    assert "Trillian" not in str(raised.value)


def test_an_alert_that_fails_for_its_secret_says_so_and_not_what_is_in_it(aws: Any) -> None:
    for named in (hold(aws, "mail", "mail-Trillian"), "aws-secret://none"):
        with pytest.raises(AlertError, match=r"^ETL_ALERTS_URL") as raised:
            EmailAlerts(url=named).send(Alert("s", "t", "l", "r"))
        assert "Trillian" not in str(raised.value)


# -- what is wrong, in one line --------------------------------------------------------------------------------------


@pytest.mark.fault("F35")
@pytest.mark.many
@pytest.mark.parametrize(
    ("secret", "named", "said"),
    [
        (
            "x",
            "aws-secret://none",
            "there is no secret none in eu-west-2, or it has no value; check its name",
        ),
        ("x", "aws-secret://", "names no secret: write aws-secret://name"),
        ("x", "aws-secret://s#", "names no secret"),
        (PASSWORD, "aws-secret://s#password", "secret s is no JSON object, so it has no key password"),
        ([PASSWORD], "aws-secret://s#password", "secret s is no JSON object"),
        ({"pass": PASSWORD}, "aws-secret://s#password", "secret s has no key password; it has pass"),
        ({"password": None}, "aws-secret://s#password", "secret s has nothing under password"),
        (" \n", "aws-secret://s", "secret s is empty"),
        ({"username": "a", "password": PASSWORD}, "aws-secret://s", "secret s lacks host, dbname"),
        (
            RDS | {"engine": "mysql"},
            "aws-secret://s",
            "secret s is for the engine mysql; a PostgreSQL is needed",
        ),
    ],
)
def test_what_is_wrong_with_a_secret_is_told_in_one_line_without_its_value(
    aws: Any, secret: object, named: str, said: str
) -> None:
    hold(aws, "s", secret)
    with pytest.raises(SecretError) as raised:
        database_url(named, SETTING)
    assert str(raised.value).startswith("ETL_SOURCE_URL: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert PASSWORD not in str(raised.value)


def test_a_binary_secret_is_refused(aws: Any) -> None:
    aws.create_secret(Name="s", SecretBinary=b"x")
    with pytest.raises(SecretError, match="secret s is binary"):
        resolved("aws-secret://s", SETTING)


def test_a_secret_marked_for_deletion_is_called_so(aws: Any) -> None:
    hold(aws, "s", "x")
    aws.delete_secret(SecretId="s", RecoveryWindowInDays=7)
    with pytest.raises(SecretError, match="may be marked for deletion"):
        resolved("aws-secret://s", SETTING)
    aws.restore_secret(SecretId="s")


@pytest.mark.fault("F35")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "AccessDeniedException",
            "secret s may not be read: allow this role secretsmanager:GetSecretValue on it",
        ),
        (
            "ExpiredTokenException",
            "AWS does not accept the credentials (ExpiredTokenException); they may have expired",
        ),
        ("UnrecognizedClientException", "AWS does not accept the credentials"),
        ("DecryptionFailure", "secret s can't be decrypted: allow this role kms:Decrypt"),
        ("ValidationException", "secret s can't be read: ValidationException"),
    ],
)
def test_a_refusal_says_what_to_do_and_not_what_aws_quotes(
    aws: Any, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    with refusing(code, f"the request was signed with {PASSWORD}") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(SecretError) as raised:
            resolved("aws-secret://s", SETTING)
    assert said in str(raised.value)
    assert PASSWORD not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.fault("F35")
@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (["AWS_DEFAULT_REGION"], "in which region? Set AWS_DEFAULT_REGION"),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "no AWS credentials; give this process a role"),
    ],
)
def test_missing_aws_settings_are_asked_for(
    aws: Any, monkeypatch: pytest.MonkeyPatch, lacking: list[str], said: str
) -> None:
    for name in lacking:
        monkeypatch.delenv(name)
    with pytest.raises(SecretError, match=r"^ETL_SOURCE_URL: secret s: ") as raised:
        resolved("aws-secret://s", SETTING)
    assert said in str(raised.value)


@contextmanager
def refusing(code: str, message: str) -> Iterator[str]:
    """The URL of a service that refuses everything, as AWS puts it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"__type": code, "message": message}).encode()
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# -- nowhere to be seen ----------------------------------------------------------------------------------------------


class ProcessList:
    """The arguments of all processes, as anybody on the machine can read them, looked at again and again."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "ProcessList":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:  # it has ended
                    continue


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


@pytest.fixture(scope="module")
def roles(postgres_url: str) -> None:
    """They own what runs make, and go with the session's server."""
    execute(postgres_url, f"CREATE ROLE zaphod SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    execute(postgres_url, f"CREATE ROLE slartibartfast SUPERUSER LOGIN PASSWORD '{WAREHOUSE_PASSWORD}'")


@pytest.mark.fault("F35")
@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("fault", ["database", "spreadsheet"])
def test_a_failing_run_shows_no_secret_anywhere(
    aws: Any, moto: str, bicycles: str, database: Callable[..., str], tmp_path: Path, fault: str
) -> None:
    """Once the source can't be read, once all is well up to the export."""
    parts = urlsplit(bicycles)
    name = "no_such_database" if fault == "database" else parts.path.strip("/")
    secret = {"username": "zaphod", "password": PASSWORD, "host": parts.hostname, "port": parts.port}
    named = hold(aws, "bicycles", secret | {"dbname": name})
    warehouse = as_role(database(), "slartibartfast", WAREHOUSE_PASSWORD)
    (tmp_path / "home").mkdir()
    with serve_sheets() as sheets, ProcessList() as processes:
        sheets.books["1AbC"] = Book(shared_for="reading")
        done = subprocess.run(
            [sys.executable, "-m", "etl_assets.cli", "--traceback", "run"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path / "home"),
                "PYTHONPATH": str(ROOT),
                "ETL_PROJECT": BICYCLES.project,
                "ETL_DATA": str(tmp_path / "data"),
                "ETL_SOURCE_URL": named,
                "ETL_WAREHOUSE_URL": warehouse,
                "ETL_SHEET_ID": "1AbC",
                "ETL_SHEETS_ENDPOINT": sheets.url,
                "ETL_ALERTS_URL": "smtp://etl:mail-Trillian@127.0.0.1:1/?from=a@example.com&to=b@example.com",
                **environment(moto),
            },
            capture_output=True,
            timeout=300,
            check=False,
        )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output.decode()
    assert (
        b'"no_such_database" does not exist' if fault == "database" else b"share it with that address"
    ) in output
    everything = [("output", output), *(("process list", one) for one in processes.seen), *kept(tmp_path)]
    assert any(b"etl_assets.cli" in content for where, content in everything if where == "process list")
    assert any(", snapshots" in where and b"warehouse" in content for where, content in everything)
    found = {
        (where, secret) for where, content in everything for secret in PLANTED if secret.encode() in content
    }
    assert found == set()


def test_the_ui_says_where_secrets_come_from_and_not_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration of all resources and jobs, as the pages of the UI get it."""
    monkeypatch.setenv("ETL_SOURCE_URL", f"postgresql://reader:{PASSWORD}@db.example.com/shop")
    monkeypatch.setenv(
        "ETL_ALERTS_URL", "smtp://etl:mail-Trillian@mail.example.com/?from=a@example.com&to=b@example.com"
    )
    monkeypatch.setenv("ETL_SHEET_ID", "1AbC")
    monkeypatch.setenv("ETL_DATA", str(tmp_path / "data"))
    query = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
        allTopLevelResourceDetails { name configFields { name defaultValueAsJson }
                                     configuredValues { key value type } }
        jobs { name modes { resources { name configField { defaultValueAsJson } } } }
    } } } }"""
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        served(instance, ROOT / "etl_assets" / "definitions.py") as workspace,
    ):
        shown = json.dumps(execute_dagster_graphql(workspace.create_request_context(), query).data)
    for variable in ("ETL_SOURCE_URL", "ETL_ALERTS_URL"):
        assert json.dumps({"key": "url", "value": variable, "type": "ENV_VAR"}) in shown
    assert [secret for secret in PLANTED if secret in shown] == []


def test_an_error_of_the_source_shows_nothing_of_the_secret(aws: Any, tmp_path: Path) -> None:
    named = hold(aws, "broken", f"postgresql://reader:{PASSWORD}@db@host/x")
    run: Run = Flow(named, tmp_path).run("raw/bike")
    assert "ETL_SOURCE_URL can't be read" in run.error
    assert "hunter2" not in run.events


SETTINGS = {
    "ETL_SOURCE_URL": "aws-secret://source",
    "ETL_LAKE_URL": "s3://bucket/lake",
    "ETL_WAREHOUSE_URL": "aws-secret://warehouse",
    "ETL_ALERTS_URL": "aws-secret://mail",
    "ETL_SHEET_ID": "1AbC",
}
# Loads the definitions of both deployments in a process that can make no connection and has nothing but these settings.
LOADER = """
import os, socket, psycopg2
def refuse(*args, **kwargs): raise AssertionError("a connection was attempted")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = psycopg2.connect = refuse
from etl_assets.definitions import defs, definitions
from etl_assets.settings import Settings
os.environ["ETL_DEPLOYMENT"] = "production"
for loaded in (defs(), definitions(Settings.read(os.environ))):
    print(*sorted(loaded.resources), type(loaded.resources["workbook"]).__name__)
"""


def test_definitions_load_without_network_and_credentials_whatever_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADER],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), **SETTINGS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    local, production = done.stdout.splitlines()
    assert local == production
    assert local.endswith(" Sheets")
    assert list(tmp_path.iterdir()) == []
