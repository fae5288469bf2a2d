"""A password is shown nowhere, however the setting that holds it is written: for every setting, every form, and what
commands do with them, well or badly.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import psycopg2
import pytest
from click.testing import CliRunner

from etl_assets import addresses
from etl_assets.cli import etl as command
from etl_assets.source.connection import SourceError, SourceInterrupted, connect
from etl_assets_tests.commands import use
from etl_assets_tests.flow import Flow, execute
from etl_assets_tests.hiring import BICYCLES
from etl_assets_tests.leaks import (
    ENDPOINTS,
    EVERYTHING,
    GOOGLE,
    OTHERS,
    SECRET,
    Planted,
    databases,
    kept,
    shows,
)

ROOT = Path(__file__).parents[1]
ROLE = "etl_tests_leaks"
HERE = databases("ETL_SOURCE_URL")


# -- how an address is shown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://reader:x@db.example.com/shop", "postgresql://reader@db.example.com/shop"),
        ("postgresql://reader:x@db.example.com:5433/shop?password=y", "postgresql://reader@db.example.com:5433/shop"),
        ("host = a port = 1 dbname = 'b' password = 'x y'", "postgresql://a:1/b"),
        ("postgresql://u:x@a:1,b:2/shop", "postgresql://u@a:1,b:2/shop"),
        ("host=a,b port=5432 dbname=shop", "postgresql://a:5432,b:5432/shop"),
        ("postgresql://u:x@[::1]:5432/shop", "postgresql://u@[::1]:5432/shop"),
        ("postgresql://%2Fvar%2Frun/shop", "postgresql:///var/run/shop"),
        ("service=shop password=x", "the service shop"),
        ("hostaddr=10.0.0.1 dbname=shop", "postgresql://10.0.0.1/shop"),
        ("dbname='postgresql://u:x@h/d' host=a", "postgresql://a"),
        ("", "postgresql://"),
        ("postgresql://u:x@y@h/d", "postgresql://…"),
        ("aws-secret://shop#url", "aws-secret://shop#url"),
    ],
)  # fmt: skip
def test_a_database_is_shown_by_where_it_is(dsn: str, shown: str) -> None:
    assert addresses.database(dsn) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:x@api.example.com:8443/a?key=y", "https://api.example.com:8443"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("http://user:1/x@host", "http://…"),
        ("http://host:x", "http://…"),
        ("no address", "…://…"),
    ],
)
def test_a_service_is_shown_by_where_it_is(url: str, shown: str) -> None:
    assert addresses.service(url) == shown


def test_what_others_tell_is_shown_without_what_the_settings_hold() -> None:
    for planted in EVERYTHING:
        told = f"can't use {planted.text}; {planted.password or ''}"
        known = {planted.setting: planted.text}
        if planted.setting not in {one.setting for one in OTHERS} - {"ETL_UI_URL"}:
            assert not shows(addresses.without_secrets(told, known)), planted


@pytest.mark.parametrize("setting", ["ETL_DATABASE_SHOP", "ETL_CHANNEL_TEAM", "ETL_SOURCE_URL"])
def test_what_a_step_connects_with_is_not_told(setting: str) -> None:
    known = {setting: "mysql+pymysql://reader:swordfish-7@db.example.com/shop"}
    told = addresses.without_secrets("reader may not enter with swordfish-7", known)
    assert told == f"reader may not enter with {addresses.HIDDEN}"


# -- connecting ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(postgres_url: str, postgres_folder: Path) -> Iterator[str]:
    """The session's server, which asks a role of ours for its password."""
    rules = postgres_folder / "session" / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n{before}")
    execute(postgres_url, f"create role {ROLE} login; select pg_reload_conf()")
    yield postgres_url
    rules.write_text(before)
    execute(postgres_url, f"drop role {ROLE}; select pg_reload_conf()")


def set_password(server: str, password: str) -> None:
    with closing(psycopg2.connect(server)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"alter role {ROLE} password %s", (password,))


@pytest.mark.fault("F35")
@pytest.mark.parametrize("planted", HERE, ids=str)
def test_every_form_connects_or_is_refused_without_a_word_of_it(server: str, planted: Planted) -> None:
    at = urlsplit(server)
    (there,) = (
        one
        for one in databases("", at.hostname or "", at.port or 0, ROLE, "postgres")
        if one.form == planted.form
    )
    if planted.password is None:
        with pytest.raises(SourceError, match=r"^ETL_SOURCE_URL can't be read: write postgresql:") as refused:
            connect(there.text, "test")
        assert not isinstance(refused.value, SourceInterrupted)
        assert not shows("".join(traceback.format_exception(refused.value)))
        assert not shows(addresses.database(there.text))
        return
    set_password(server, planted.password)
    with closing(connect(there.text, "test")) as connection:
        assert connection.info.user == ROLE
    assert addresses.database(there.text).endswith(f"{at.hostname}:{at.port}/postgres")
    # The same with a password that is wrong, and at a server that is not there.
    set_password(server, "another")
    for text, said in ((there.text, "password authentication failed"), (planted.text, "Connection refused")):
        with pytest.raises(SourceError, match=said) as failed:
            connect(text, "test")
        assert not shows("".join(traceback.format_exception(failed.value)))


def test_a_password_in_a_file_or_a_service_is_found_and_not_shown(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = urlsplit(server)
    services, passwords = tmp_path / "services", tmp_path / "passwords"
    services.write_text(
        f"[shop]\nhost={at.hostname}\nport={at.port}\ndbname=postgres\nuser={ROLE}\npassword={SECRET}\n"
    )
    passwords.write_text(f"*:*:*:{ROLE}:{SECRET}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    forms = [
        "service=shop",
        "postgresql:///?service=shop",
        f"host={at.hostname} port={at.port} dbname=postgres user={ROLE} passfile={passwords}",
        f"postgresql://{ROLE}@{at.hostname}:{at.port}/postgres?passfile={passwords}",
    ]
    for dsn in forms:
        set_password(server, SECRET)
        connect(dsn, "test").close()
        set_password(server, "another")
        with pytest.raises(SourceError, match="password authentication failed") as failed:
            connect(dsn, "test")
        assert not shows("".join(traceback.format_exception(failed.value)))


@pytest.mark.fault("F35")
@pytest.mark.parametrize("option", [f"-c {SECRET}=1", f"-c work_mem={SECRET}", f"-c TimeZone={SECRET}"])
def test_what_the_server_repeats_of_an_address_is_not_told(server: str, option: str) -> None:
    at = urlsplit(server)
    set_password(server, "another")
    dsn = f"host={at.hostname} port={at.port} dbname=postgres user={ROLE} password=another options='{option}'"
    with pytest.raises(SourceError, match=f"^can't connect to .*{at.port}/postgres: ") as failed:
        connect(dsn, "test")
    assert not shows("".join(traceback.format_exception(failed.value)))


# -- commands --------------------------------------------------------------------------------------------------------

COMMANDS = (["doctor"], ["run", "--select", "raw/payment_type"], ["status"], ["verify"])
# Of each setting the first form that is taken, and the first that is refused: all commands; of the others the one that
# uses every setting.
FIRST = list({(one.setting, one.password is None): one for one in reversed(EVERYTHING)}.values())


@pytest.mark.fault("F35")
@pytest.mark.many
@pytest.mark.parametrize("planted", EVERYTHING, ids=str)
def test_no_command_shows_it_and_nothing_keeps_it(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In this process, with tracebacks. Nothing can be reached: what fails says why."""
    settings = {"ETL_SOURCE_URL": "postgresql://reader@127.0.0.1:1/shop"}
    if planted in ENDPOINTS:
        settings |= {
            "ETL_LAKE_URL": "s3://bucket/lake", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "eu-west-2", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
    if planted.setting in {"ETL_SHEETS_ENDPOINT", "ETL_SHEET_ID"}:
        settings["ETL_SHEET_ID"] = "1AbC"
        monkeypatch.setattr("etl_assets.exports.sheets._DOCTOR_ATTEMPTS", 1)
    use(monkeypatch, tmp_path / "data", **{**settings, planted.setting: planted.text})
    monkeypatch.setattr("etl_assets.raw.assets._AGAIN", dg.RetryPolicy(max_retries=0))
    monkeypatch.setattr("etl_assets.lake.s3.open_s3.__defaults__", (_impatient(),))
    told = []
    for arguments in COMMANDS if planted in FIRST else COMMANDS[:1]:
        done = CliRunner().invoke(command, arguments, prog_name="etl")
        told.append(done.output)
        if done.exception and not isinstance(done.exception, SystemExit):
            told += traceback.format_exception(done.exception)
            assert not isinstance(done.exception, ValueError), (arguments, done.exception)
        if arguments == ["doctor"] and planted.password is None:
            assert done.exit_code, "what can't be read is told before a run"
    assert not shows("\n".join(told)), "\n".join(told)
    assert not shows(caplog.text)
    assert [where for where, content in kept(tmp_path) if shows(content) or shows(where)] == []
    assert [path for path in tmp_path.rglob("*") if shows(str(path))] == []


@pytest.mark.parametrize("form", GOOGLE)
@pytest.mark.parametrize(
    "used",
    [
        {"ETL_LAKE_URL": "gs://bucket/lake"},
        {"ETL_WAREHOUSE_URL": "bigquery://shop-project"},
        {"ETL_SHEET_ID": "1AbC"},
    ],
    ids=lambda used: next(iter(used)),
)
def test_a_key_of_google_is_shown_by_no_command(
    used: dict[str, str],
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text, is_file = GOOGLE[form]
    if is_file:
        (tmp_path / "key.json").write_text(text)
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL="postgresql://reader@127.0.0.1:1/shop", **used)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json") if is_file else text)
    monkeypatch.setattr("etl_assets.exports.sheets._DOCTOR_ATTEMPTS", 1)
    monkeypatch.setattr("etl_assets.raw.assets._AGAIN", dg.RetryPolicy(max_retries=0))
    told = []
    for arguments in (["doctor"], ["status"], ["run", "--select", "raw/payment_type"]):
        done = CliRunner().invoke(command, ["--traceback", *arguments], prog_name="etl")
        told.append(done.output)
        if done.exception and not isinstance(done.exception, SystemExit):
            told += traceback.format_exception(done.exception)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in "\n".join(told)
    assert not shows("\n".join(told)), "\n".join(told)
    assert not shows(caplog.text)
    assert [where for where, content in kept(tmp_path / "data") if shows(content) or shows(where)] == []


def _impatient() -> object:
    from etl_assets.lake.object_store import Patience

    return Patience(attempts=1, seconds=1, first_wait_seconds=0.01, longest_wait_seconds=0.01)


# -- whole processes -------------------------------------------------------------------------------------------------


@pytest.mark.many
@pytest.mark.fault("F35")
@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ("an option, encoded", False),
        ("words with blanks and quotes", True),
        pytest.param("a URL", False, marks=pytest.mark.slow),
        pytest.param("words with blanks and quotes", False, marks=pytest.mark.slow),
        pytest.param("an option, encoded", True, marks=pytest.mark.slow),
    ],
)
def test_a_whole_run_shows_it_nowhere(
    bicycles: str, database: Callable[..., str], server: str, tmp_path: Path, form: str, fault: bool
) -> None:
    """Source and warehouse by password, tracebacks on; at fault is that the warehouse's is another."""
    at, warehouse = urlsplit(bicycles), urlsplit(database())
    execute(server, f"alter role {ROLE} superuser")

    def planted(setting: str, name: str) -> str:
        found = databases(setting, at.hostname or "", at.port or 0, ROLE, name.strip("/"))
        wanted = (
            "encoded" if setting == "ETL_WAREHOUSE_URL" and "words" in form else form
        )  # that one is a URL
        (one,) = (one for one in found if one.form == wanted)
        set_password(server, one.password or "")
        return one.text

    settings = {
        "ETL_PROJECT": BICYCLES.project,
        "ETL_SOURCE_URL": planted("ETL_SOURCE_URL", at.path),
        "ETL_WAREHOUSE_URL": planted("ETL_WAREHOUSE_URL", warehouse.path),
        "ETL_DATA": str(tmp_path / "data"),
    }
    if fault:
        settings["ETL_WAREHOUSE_URL"] = settings["ETL_WAREHOUSE_URL"].replace(SECRET, f"{SECRET}x")
    told = b""
    for arguments in (["run"], ["status"], ["doctor"], ["verify"]):
        done = subprocess.run(
            [sys.executable, "-m", "etl_assets.cli", "--traceback", *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **settings},
            capture_output=True,
            timeout=300,
            check=False,
        )
        told += done.stdout + done.stderr
        if not fault:
            assert done.returncode == 0, (arguments, done.stderr.decode())
    assert (b"password authentication failed" in told) is fault
    assert not shows(told), told.decode()
    assert [where for where, content in kept(tmp_path) if shows(content)] == []


def test_the_flow_of_a_source_by_words_shows_nothing_of_them(tmp_path: Path) -> None:
    run = Flow(f"host = 127.0.0.1 port = 1 password = '{SECRET} x' dbname = shop", tmp_path).run("raw/bike")
    assert "can't connect to postgresql://127.0.0.1:1/shop: " in run.error
    assert not shows(run.events)
