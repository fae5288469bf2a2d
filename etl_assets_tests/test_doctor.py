"""`etl doctor` finds what a run would stumble over, says what to do in a line each, changes nothing and tells no secret."""

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import boto3
import dagster as dg
import duckdb
import psutil
import psycopg2
import pytest
from click.testing import CliRunner
from google.cloud import bigquery
from moto.server import ThreadedMotoServer

from etl_assets.cli import etl as command
from etl_assets.clients.bigquery import BigQuery
from etl_assets.settings import NAMES, mistaken
from etl_assets.source.connection import unverified
from etl_assets.source.preflight import check_source, servers_at
from etl_assets.source.table import Table
from etl_assets.stand_ins.bigquery import BigQueryStandIn
from etl_assets.stand_ins.sheets import serve_sheets
from etl_assets.stand_ins.sheets_books import Book
from etl_assets.warehouse.bigquery import BigQueryWarehouse
from etl_assets_tests.hiring import BICYCLES

PASSWORD = "hunter2-Zaphod"
ROLE = "doctor_tests_reader"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with nothing set but where data goes."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ETL_", "AWS_", "GOOGLE_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ETL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    return tmp_path


@pytest.fixture(scope="module")
def module_source(module_database: Callable[..., str], template: Callable[..., str]) -> str:
    """The URL of a source for the module, in the types that are declared; who alters it puts it back."""
    url = module_database(template("bicycles"))
    change(
        url,
        "alter table hire alter price type numeric(10,2), alter returned_on type date using returned_on::date",
        "alter table payment alter amount type numeric(10,2), alter due type date using due::date",
    )
    return url


@pytest.fixture
def source(module_source: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source that the settings name, with its project."""
    monkeypatch.setenv("ETL_PROJECT", BICYCLES.project)
    monkeypatch.setenv("ETL_SOURCE_URL", module_source)
    return module_source


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """A spreadsheet that the settings name."""
    with serve_sheets() as api:
        monkeypatch.setenv("ETL_SHEET_ID", "https://docs.google.com/spreadsheets/d/1AbC/edit#gid=0")
        monkeypatch.setenv("ETL_SHEETS_ENDPOINT", api.url)
        yield api.books.setdefault("1AbC", Book())


def doctor(*arguments: str) -> tuple[int, dict[tuple[str, str], tuple[str, str]]]:
    """The exit code, and for each check its state and what was told."""
    done = CliRunner().invoke(
        command, ["doctor", "--json", *arguments], prog_name="etl", catch_exceptions=False
    )
    told = json.loads(done.stdout)
    assert told["ok"] is (done.exit_code == 0)
    assert PASSWORD not in done.output
    found = {(c["about"], c["check"]): (c["state"], c["told"]) for c in told["checks"]}
    assert len(found) == len(told["checks"]), "a check is told twice"
    assert [told for _, told in found.values() if "\n" in told] == []
    return done.exit_code, found


def missing(found: dict[tuple[str, str], tuple[str, str]]) -> dict[tuple[str, str], str]:
    return {check: told for check, (state, told) in found.items() if state == "missing"}


def advice(found: dict[tuple[str, str], tuple[str, str]]) -> dict[tuple[str, str], str]:
    return {check: told for check, (state, told) in found.items() if state == "advice"}


def content(folder: Path) -> dict[str, str]:
    """Every file and folder, with what is in it."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def change(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


# -- all is well -----------------------------------------------------------------------------------------------------


def test_before_the_first_run_all_is_well_and_nothing_is_made(folder: Path) -> None:
    code, found = doctor()
    assert code == 0, found
    assert {about for about, _ in found} >= {"settings", "dagster", "source", "lake", "warehouse", "workbook"}
    assert list(folder.iterdir()) == []


def test_after_runs_all_is_tried_and_nothing_is_changed(source: str, folder: Path, book: Book) -> None:
    (folder / "data" / "lake").mkdir(parents=True)
    with duckdb.connect(str(folder / "data" / "warehouse.duckdb")) as connection:
        connection.execute("CREATE SCHEMA star; CREATE TABLE star.t AS SELECT 1 AS a")
    before, tabs = content(folder), [grid.id for grid in book.grids]
    code, found = doctor()
    assert (code, missing(found), advice(found)) == (0, {}, {})
    tables = [check for about, check in found if about == "source" and check.startswith("table ")]
    assert sorted(tables) == [f"table {name}" for name in BICYCLES.tables]
    assert {("source", "snapshot"), ("source", "lock"), ("lake", "write"), ("warehouse", "load")} <= set(
        found
    )
    assert {("workbook", "read"), ("workbook", "edit")} <= set(found)
    assert content(folder) == before
    assert [grid.id for grid in book.grids] == tabs


def test_people_get_a_line_per_check_and_a_verdict(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    well = CliRunner().invoke(command, ["doctor"], catch_exceptions=False)
    assert well.exit_code == 0
    assert well.stdout.splitlines()[-1] == "everything that a run needs is there"
    monkeypatch.setenv("ETL_SOURCE_URL", "postgresql://reader@127.0.0.1:1/shop")
    ill = CliRunner().invoke(command, ["doctor"], catch_exceptions=False)
    assert ill.exit_code == 1
    assert "missing  source     connect" in ill.stdout
    assert ill.stdout.splitlines()[-1] == "1 thing is missing"


# -- settings --------------------------------------------------------------------------------------------------------


def test_missing_settings_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_DEPLOYMENT", "production")
    code, found = doctor()
    assert code == 1
    told = missing(found)["settings", "read"]
    assert [n for n in ("ETL_SOURCE_URL", "ETL_LAKE_URL", "ETL_WAREHOUSE_URL") if n not in told] == []


def test_what_looks_like_a_setting_and_is_none_gets_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the default holds, without a word: another lake, say."""
    given = {"ETL_LAKE_ULR": "s3://b", "ETL_WAREHOUSE_SHEMA": "x", "ETL_DATABASE_SHOP": "y", "ETL_TOKEN_OF_SHOP": "z"}  # fmt: skip
    assert mistaken(given) == {
        "ETL_LAKE_ULR": "ETL_LAKE_URL",
        "ETL_WAREHOUSE_SHEMA": "ETL_WAREHOUSE_SCHEMA",
    }
    assert mistaken(dict.fromkeys(NAMES, "x")) == {}
    monkeypatch.setenv("ETL_LAKE_ULR", "s3://b")
    state, told = doctor()[1]["settings", "ETL_LAKE_ULR"]
    assert (state, told.endswith("is ETL_LAKE_URL meant?")) == ("advice", True)


def test_a_secret_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_SOURCE_URL", "aws-secret://totesys")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    code, found = doctor()
    assert code == 1
    assert missing(found)["source", "connect"].startswith("ETL_SOURCE_URL: secret totesys: in which region?")


# -- the source ------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(source: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A role that the settings name, which may do nothing yet but connect."""
    parts = urlsplit(source)
    change(source, f"create role {ROLE} login password '{PASSWORD}'")
    url = urlunsplit(parts._replace(netloc=f"{ROLE}:{PASSWORD}@{parts.hostname}:{parts.port}"))
    monkeypatch.setenv("ETL_SOURCE_URL", url)
    yield url
    change(source, f"drop owned by {ROLE}", f"drop role {ROLE}")


def test_each_right_that_lacks_is_named(source: str, reader: str) -> None:
    change(
        source,
        f"grant select on all tables in schema public to {ROLE}",
        f"revoke select on bike from {ROLE}",
    )
    code, found = doctor()
    assert code == 1
    assert list(missing(found)) == [("source", "table bike")]
    assert "grant SELECT on it" in missing(found)["source", "table bike"]


def test_select_is_all_that_a_role_needs(source: str, reader: str) -> None:
    change(source, f"grant select on all tables in schema public to {ROLE}")
    code, found = doctor()
    assert (code, missing(found)) == (0, {})


def test_a_table_and_a_column_that_lack_are_named(source: str) -> None:
    change(source, "alter table bike rename to cycle", "alter table station rename name to title")
    try:
        _, found = doctor()
    finally:
        change(source, "alter table cycle rename to bike", "alter table station rename title to name")
    assert set(missing(found)) == {("source", "table station"), ("source", "table bike")}
    assert "table public.bike does not exist" in missing(found)["source", "table bike"]
    assert "has no column name" in missing(found)["source", "table station"]


def test_a_time_limit_is_lifted_and_needs_no_advice(source: str) -> None:
    database = urlsplit(source).path.strip("/")
    change(source, f"alter database {database} set transaction_timeout = '30s'")
    try:
        code, found = doctor()
    finally:
        change(source, f"alter database {database} reset transaction_timeout")
    assert (code, advice(found)) == (0, {})


def test_several_servers_behind_one_address_get_advice(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(hosts: str, *, one_history: bool = False) -> list[str]:
        parts = urlsplit(source)
        login = parts.netloc.rpartition("@")[0]
        ports = ",".join([str(parts.port)] * len(hosts.split(",")))
        url = urlunsplit(parts._replace(netloc=f"{login}@", query=f"host={hosts}&port={ports}"))
        checks = check_source(lambda: url, [], one_history=one_history)
        return [f"{check.state}: {check.told}" for check in checks if check.name == "servers"]

    assert found("127.0.0.1") == []
    (told,) = found("127.0.0.1,localhost")
    assert told.startswith("advice: 2 servers may answer there: whenever another one does")
    assert found("127.0.0.1,localhost", one_history=True) == []

    def addresses(*_: object, **__: object) -> list[Any]:
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, 0))
            for family, address in (
                (socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::1"),
            )
        ]  # fmt: skip

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    assert servers_at(["replicas.example.com"]) == 2
    assert servers_at(["/var/run/postgresql"]) == 1


def test_a_view_is_said_to_be_read_whole_and_what_is_behind_it_is_tried(source: str, reader: str) -> None:
    view = Table("kinds", "One row is a kind.", {"station_id": "int"}, key=("station_id",))
    change(
        source,
        "create view kinds with (security_invoker) as select * from station",
        f"grant select on kinds to {ROLE}",
    )
    try:
        (lacking,) = [c for c in check_source(lambda: reader, [view]) if c.name == "table kinds"]
        change(source, f"grant select on station to {ROLE}")
        (found,) = [c for c in check_source(lambda: reader, [view]) if c.name == "table kinds"]
    finally:
        change(source, "drop view kinds")
    assert (lacking.state, found.state) == ("missing", "advice")
    assert "station" in lacking.told
    assert "a view: read whole and compared every time" in found.told


@pytest.mark.parametrize(
    ("host", "sslmode", "encrypted", "told"),
    [
        ("db.example.com", "prefer", False, "nothing is encrypted"),
        ("db.example.com", "prefer", True, "the server is not verified"),
        ("db.example.com", "require", True, "the server is not verified"),
        ("10.1.2.3", "disable", False, "nothing is encrypted"),
        ("db.example.com", "verify-full", True, None),
        ("db.example.com", "verify-ca", True, None),
        ("localhost", "prefer", False, None),
        ("127.0.0.1", "prefer", False, None),
        ("::1", "prefer", False, None),
        ("/var/run/postgresql", "prefer", False, None),
    ],
)
def test_a_server_of_another_machine_that_is_not_verified_gets_advice(
    host: str, sslmode: str, encrypted: bool, told: str | None
) -> None:
    info = SimpleNamespace(host=host, ssl_in_use=encrypted, dsn_parameters={"sslmode": sslmode})
    advice = unverified(SimpleNamespace(info=info), "ETL_SOURCE_URL")  # type: ignore[arg-type]
    if told is None:
        assert advice is None
    else:
        assert advice is not None
        assert advice.startswith(told)
        assert "sslmode=verify-full to ETL_SOURCE_URL" in advice


@pytest.fixture
def elsewhere(postgres_url: str) -> Iterator[str]:
    """The server's host and port as another machine reaches it."""
    addresses = [
        a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET
    ]
    outside = next((a for a in addresses if not ip_address(a).is_loopback), None)
    if outside is None:
        pytest.skip("this machine has no address that others reach")
    at = urlsplit(postgres_url)

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)

    def connect(client: socket.socket) -> None:
        with client, socket.create_connection((at.hostname or "", at.port or 0)) as server:
            back = threading.Thread(target=forward, args=(server, client))
            back.start()
            forward(client, server)
            back.join()

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=connect, args=(listener.accept()[0],)).start()

    with socket.create_server((outside, 0)) as listener:
        accepting = threading.Thread(target=accept, args=(listener,))
        accepting.start()
        yield f"{outside}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def test_source_and_warehouse_that_are_reached_openly_work_and_get_advice(
    source: str, database: Callable[..., str], elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, url in (("ETL_SOURCE_URL", source), ("ETL_WAREHOUSE_URL", database())):
        parts = urlsplit(url)
        monkeypatch.setenv(
            setting, urlunsplit(parts._replace(netloc=f"postgres:{parts.password}@{elsewhere}"))
        )
    code, found = doctor()
    assert (code, missing(found)) == (0, {})
    assert set(advice(found)) == {("source", "tls"), ("warehouse", "tls")}
    assert "nothing is encrypted" in advice(found)["warehouse", "tls"]


def test_a_server_that_is_not_there_ends_its_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_SOURCE_URL", f"postgresql://reader:{PASSWORD}@127.0.0.1:1/shop")
    code, found = doctor()
    assert code == 1
    assert [check for about, check in found if about == "source"] == ["connect"]
    assert "check host and port in ETL_SOURCE_URL" in missing(found)["source", "connect"]
    assert ("lake", "list") in found, "what can be tried is tried"


# -- lake, warehouse, workbook ---------------------------------------------------------------------------------------


@pytest.mark.fault("F11")
def test_folders_that_cannot_be_written_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("ETL_LAKE_URL", str(folder / "file" / "lake"))
    monkeypatch.setenv("ETL_WAREHOUSE_URL", f"duckdb:///{folder}/file/warehouse.duckdb")
    code, found = doctor()
    assert code == 1
    assert "ETL_LAKE_URL" in missing(found)["lake", "space"]
    assert "ETL_WAREHOUSE_URL" in missing(found)["warehouse", "create"]


def test_a_file_that_is_no_warehouse_is_named(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "warehouse.duckdb").write_bytes(b"no database, but long enough to be looked at" * 1000)
    code, found = doctor()
    assert code == 1
    assert "can't open the warehouse" in missing(found)["warehouse", "load"]


def test_a_warehouse_that_somebody_has_open_is_no_lack(folder: Path) -> None:
    (folder / "data").mkdir()
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    path = str(folder / "data" / "warehouse.duckdb")
    with subprocess.Popen(
        [sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        code, found = doctor()
    assert code == 0
    assert "a run waits 30 s for it" in advice(found)["warehouse", "load"]


def test_a_spreadsheet_that_may_only_be_read_is_told_before_a_run(book: Book) -> None:
    book.shared_for = "reading"
    code, found = doctor()
    assert code == 1
    assert found["workbook", "read"][0] == "ok"
    assert "share it with that address, as an editor" in missing(found)["workbook", "edit"]


@pytest.fixture
def warehouse(database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The owner's URL of a PostgreSQL that the settings name as the warehouse, for a role that may only connect."""
    url = database()
    parts = urlsplit(url)
    change(url, f"create role {ROLE} login password '{PASSWORD}'")
    reached_by = f"{ROLE}:{PASSWORD}@{parts.hostname}:{parts.port}"
    monkeypatch.setenv("ETL_WAREHOUSE_URL", urlunsplit(parts._replace(netloc=reached_by)))
    yield url
    change(url, f"drop owned by {ROLE}", f"drop role {ROLE}")


def test_a_postgresql_warehouse_is_tried_and_left_as_it_was(warehouse: str) -> None:
    database = urlsplit(warehouse).path.strip("/")
    change(warehouse, f"grant create on database {database} to {ROLE}")
    code, found = doctor()
    assert (code, missing(found)) == (0, {})
    assert found["warehouse", "load"][0] == "ok"
    with closing(psycopg2.connect(warehouse)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname IN ('star', 'reporting')")
        assert cursor.fetchone() == (0,)


def test_rights_that_lack_in_a_postgresql_warehouse_are_named(warehouse: str) -> None:
    database = urlsplit(warehouse).path.strip("/")
    code, found = doctor()
    assert code == 1
    assert "permission denied for database" in missing(found)["warehouse", "load"]
    change(
        warehouse,
        f"grant create on database {database} to {ROLE}",
        "create schema star",
        "create table star.dim_bike (id int)",
        f"grant all on schema star to {ROLE}",
    )
    _, found = doctor()
    assert "star.dim_bike belongs to postgres; give it to the role" in missing(found)["warehouse", "load"]


def test_a_bigquery_warehouse_is_tried_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BigQueryStandIn("demo-project", lambda uri: b"").serve() as service:
        for name, value in service.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        resource = BigQuery(project="demo-project", location="EU", attempts=2, pause_seconds=0.01)
        warehouse = BigQueryWarehouse(bigquery=resource, scratch=str(tmp_path))
        with resource.client() as client:
            made = bigquery.Dataset("demo-project.star")
            made.location = "EU"
            client.create_dataset(made)
            found = {checkup.name: (checkup.state, checkup.told) for checkup in warehouse.check()}
            assert list(client.list_tables("star")) == []
        assert {state for state, _ in found.values()} == {"ok"}
        assert "tables can be made and removed" in found["dataset star"][1]
        assert "the first run makes it in EU" in found["dataset reporting"][1]
        homeless = BigQueryWarehouse(bigquery=BigQuery(project="demo-project"), scratch=str(tmp_path))
        (lacking,) = [checkup for checkup in homeless.check() if checkup.name == "dataset reporting"]
        assert (lacking.state, "create it" in lacking.told) == ("missing", True)


def test_a_bucket_is_tried_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
            "ETL_LAKE_URL": "s3://doctor/lake",
        }.items():
            monkeypatch.setenv(name, value)
        code, found = doctor()
        assert code == 1
        assert "doctor" in missing(found)["lake", "list"]
        client = boto3.session.Session().client("s3")
        client.create_bucket(Bucket="doctor")
        code, found = doctor()
        assert (code, missing(found)) == (0, {})
        assert client.list_objects_v2(Bucket="doctor")["KeyCount"] == 0
        client.close()
    finally:
        server.stop()


# -- Dagster ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Dagster instance that has been used."""
    home = folder / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        assert instance.get_runs_count() == 0
    return home


def test_the_instance_is_opened(home: Path) -> None:
    code, found = doctor()
    assert code == 0
    assert found["dagster", "storage"] == ("ok", f"{home}: 0 runs")


def test_a_storage_that_waits_for_its_migration_is_named(home: Path) -> None:
    with closing(sqlite3.connect(next(home.rglob("runs.db")))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9fe9e746268c'")
    code, found = doctor()
    assert code == 1
    assert "dagster instance migrate" in missing(found)["dagster", "migrations"]


def test_a_home_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "/no/such/home")
    code, found = doctor()
    assert code == 1
    assert "DAGSTER_HOME=/no/such/home is no folder" in missing(found)["dagster", "home"]


# -- alerts ----------------------------------------------------------------------------------------------------------


def test_a_test_alert_is_sent_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "ETL_ALERTS_URL", f"smtp://etl:{PASSWORD}@127.0.0.1:1/?from=a@example.com&to=b@example.com"
    )
    code, found = doctor()
    assert ("alerts", "test alert") not in found
    assert "can't send an alert by 127.0.0.1:1" in missing(found)["alerts", "mail server"]
    code, found = doctor("--send-test-alert")
    assert code == 1
    assert "can't send an alert by 127.0.0.1:1" in missing(found)["alerts", "test alert"]
