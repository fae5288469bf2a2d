"""The `etl` command: what scripts and people rely on. Without these, a result may drown in progress, a failure may
end with exit code 0 or a traceback, and a password may end up in a log.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from etl_assets.cli import environment
from etl_assets.cli import etl as command
from etl_assets.settings import Settings
from etl_assets_tests.commands import etl, use
from etl_assets_tests.hiring import BICYCLES

ROOT = Path(__file__).parents[1]
WRONG = "postgresql://reader:s3cret@nowhere.invalid/shop"
ETL = [sys.executable, "-m", "etl_assets.cli"]
SMALL = "raw/bike or raw/station"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with nothing set but the project and where data goes."""
    use(monkeypatch, tmp_path / "data", ETL_PROJECT=BICYCLES.project, PYTHONPATH=str(ROOT))
    return tmp_path


@pytest.fixture
def source(bicycles: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a source that the settings name."""
    monkeypatch.setenv("ETL_SOURCE_URL", bicycles)
    return bicycles


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as a shell would start it."""
    return subprocess.run([*ETL, *arguments], capture_output=True, text=True, timeout=120, check=False)


def change(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def last_run() -> Any:
    """The newest run of the instance that the command used."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        return instance.get_run_records(limit=1)[0].dagster_run


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom etl_assets.cli import main\nsys.argv = ['etl', '--help']\n"
        "try: main()\nfinally: print([m for m in "
        "('dagster', 'duckdb', 'pandas', 'pyarrow', 'psycopg2', 'pydantic', 'rich') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert all(f"  {name} " in done.stdout for name in command.commands)


def test_results_are_the_only_thing_on_stdout(source: str) -> None:
    done = process("run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["success"], told["batch"], told["unchanged"]) == (True, "000001", False)
    assert set(told["stages"]) >= {"raw", "star", "warehouse"}
    hires = told["tables"]["hire"]
    assert hires["new"] == hires["rows"] > 0
    assert (hires["changed"], hires["deleted"]) == (0, 0)
    assert hires["bytes"] > 0
    assert told["assets"]["star/fact_hire"]["rows"] == hires["rows"]
    # One line per finished asset, nothing else, and nothing that only a terminal understands.
    assert [line.split()[0] for line in done.stderr.splitlines()] == list(told["assets"])
    assert "\x1b" not in done.stderr

    known = json.loads(etl("status", "--json").stdout)
    assert known["lake"]["newest"]["run_id"] == known["runs"]["last_success"]["id"] == told["run_id"]
    assert known["lake"]["tables"]["hire"]["rows"] == hires["rows"]
    assert known["warehouse"]["tables"]["fact_hire"]["batch"] == "000001"
    assert known["warehouse"]["tables"]["fact_hire"]["rows"] == hires["rows"]


def test_a_wrong_host_is_one_line_and_exit_code_1_and_the_password_is_not_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ETL_SOURCE_URL", WRONG)
    done = process("run", "--select", SMALL)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("etl: can't connect to postgresql://reader@nowhere.invalid/shop: ")
    assert "s3cret" not in line

    # And the history tells the same.
    known = etl("status")
    assert known.exit_code == 0
    assert line.removeprefix("etl: ") in known.stdout
    assert "s3cret" not in known.stdout


def test_a_failed_run_says_why_it_left_a_table_out(source: str) -> None:
    change(source, "ALTER TABLE payment DROP CONSTRAINT payment_pkey")
    done = etl("run", "--select", "group:raw or group:star")
    assert (done.exit_code, done.stdout) == (1, "")
    *before, last = done.stderr.splitlines()
    assert last.startswith(
        "etl: fact_payment can't be made: the lake holds nothing of payment, which was left out"
    )
    why = "raw/payment: left out: table payment has no primary key: name its key columns in its declaration (key=)"
    assert [line for line in before if line.startswith(why)]


def test_a_failed_run_is_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_SOURCE_URL", WRONG)
    done = etl("run", "--json", "--select", SMALL)
    told = json.loads(done.stdout)
    assert (done.exit_code, told["success"], told["batch"]) == (1, False, None)
    assert done.stderr == f"etl: {told['error']}\n"


def test_an_error_nobody_foresaw_is_one_line_with_its_kind(source: str, folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "scratch").touch()
    done = etl("run", "--select", SMALL)
    assert done.exit_code == 1
    assert re.fullmatch(r"etl: capture: FileExistsError: .*scratch.*\n", done.stderr)
    traced = etl("--traceback", "run", "--select", SMALL)
    assert "Stack Trace" in traced.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("ETL_DEPLOYMENT", "moon"), ("ETL_WAREHOUSE_URL", "oracle://x"), ("DAGSTER_HOME", "not/absolute")],
)
def test_a_wrong_setting_is_one_line_and_exit_code_1(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    done = etl("run")
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert name in done.stderr


def test_nothing_changed_is_said(source: str) -> None:
    first = etl("run", "--select", SMALL)
    assert first.exit_code == 0
    assert "batch 000001\n" in first.stdout
    assert "nothing changed" not in first.stdout
    second = etl("run", "--select", SMALL)
    assert second.exit_code == 0
    assert "nothing changed: no batch was taken\n" in second.stdout
    told = json.loads(etl("run", "--json", "--select", SMALL).stdout)
    assert (told["success"], told["unchanged"], told["batch"]) == (True, True, None)


def test_a_run_is_in_the_history_and_says_who_started_it(source: str) -> None:
    told = json.loads(etl("run", "--json", "--select", SMALL).stdout)
    assert list(told["assets"]) == ["raw/station", "raw/bike"]
    run = last_run()
    assert (run.run_id, run.tags["etl/started_by"]) == (told["run_id"], "command line")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run", "--select", "dim_bike"], "star/dim_bike or warehouse/dim_bike"),
        (["run", "--select", "group:star and"], "not in Dagster's selection syntax"),
        (["run", "--select", "source/bike"], "raw/bike"),
        (["run", "--allow-deletions", "moon"], "the tables are station, "),
        (["run", "--select", "star/dim_bike", "--allow-deletions", "bike"], "reads the source"),
        (["moon"], "moon"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_a_hint(arguments: list[str], hint: str) -> None:
    done = etl(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert hint in done.stderr


def test_the_brake_holds_deletions_until_they_are_allowed(source: str) -> None:
    payments = ["run", "--json", "--select", "raw/payment"]
    assert etl(*payments).exit_code == 0
    change(source, "delete from payment where payment_id % 2 = 0")
    stopped = etl(*payments)
    assert stopped.exit_code == 1
    assert "--allow-deletions payment" in stopped.stderr
    allowed = etl(*payments, "--allow-deletions", "payment")
    assert json.loads(allowed.stdout)["tables"]["payment"]["deleted"] > 0


def test_status_of_an_empty_lake_says_so_and_leaves_no_trace(folder: Path) -> None:
    done = etl("status")
    assert done.exit_code == 0
    assert "no batch yet" in done.stdout
    assert "not loaded yet" in done.stdout
    assert "no run yet" in done.stdout
    assert list(folder.iterdir()) == []


def test_status_does_not_wait_for_who_writes_to_the_warehouse(folder: Path) -> None:
    (folder / "data").mkdir()
    script = (
        "import duckdb, sys; c = duckdb.connect('data/warehouse.duckdb'); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        writer.stdout.readline()
        done = etl("status")
        writer.communicate()
    assert done.exit_code == 0
    assert "in use by a process that writes to it" in done.stdout


def test_settings_are_read_from_env_files(folder: Path) -> None:
    (folder / ".env").write_text("ETL_DEPLOYMENT=moon\n")
    done = process("run")
    assert done.returncode == 1
    assert "ETL_DEPLOYMENT=moon" in done.stderr


def test_the_projects_dagster_yaml_is_linked_to_as_make_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ETL_DATA")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    for _ in range(2):
        monkeypatch.setenv("DAGSTER_HOME", "")
        assert environment.arrange_dagster_home(Settings.read(os.environ)) == folder / "data" / "dagster"
    assert os.environ["DAGSTER_HOME"] == str(folder / "data" / "dagster")
    linked = folder / "data" / "dagster" / "dagster.yaml"
    assert linked.readlink() == Path("../../dagster.yaml")


def test_a_dagster_home_that_is_set_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "mine"))
    assert environment.arrange_dagster_home(Settings.read(os.environ)) == folder / "mine"
    assert list(folder.iterdir()) == []


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: ours, and the one for a process."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_on_a_terminal_progress_is_live_and_stdout_still_has_results_only(
    source: str, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    with subprocess.Popen(
        [*ETL, "run", "--json", "--select", SMALL],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as running:
        os.close(theirs)
        shown = b""
        while block := _read(ours):
            shown += block
        assert running.stdout
        assert json.loads(running.stdout.read())["success"]
    assert "✓" in shown.decode()
    assert "raw" in shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.fault("F39")
def test_an_interrupted_run_is_one_line_and_exit_code_130_and_can_be_repeated(source: str) -> None:
    with subprocess.Popen(
        [*ETL, "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr
        for line in running.stderr:
            if line.startswith("raw/"):
                break
        running.send_signal(signal.SIGINT)
        rest, out = running.stderr.read(), running.stdout.read() if running.stdout else ""
    assert (running.returncode, out) == (130, ""), rest
    assert rest.splitlines()[-1].startswith("etl: interrupted")
    assert "Traceback" not in rest
    environment.arrange_dagster_home(environment.settings())
    assert last_run().status.value in {"CANCELED", "FAILURE"}
    again = etl("run", "--json", "--select", "+star/dim_bike")
    assert (again.exit_code, json.loads(again.stdout)["success"]) == (0, True)


@pytest.mark.slow
def test_the_demo_ends_well_and_shows_both_batches(
    postgres_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ETL_PROJECT")
    monkeypatch.setenv("ETL_DATA", str(postgres_folder / "demo"))
    done = process("demo")
    assert done.returncode == 0, done.stderr
    assert "before the day: batch 000001  after it: batch 000002" in done.stdout
    orders = next(line for line in done.stdout.splitlines() if line.startswith("sales_order "))
    assert re.match(r"sales_order +\+11,000 +\+28 ~3 -1 ", orders)
    assert "changed, with last_updated left as it was" in done.stdout
    assert re.search(r"^\d{4}-\d\d +EUR ", done.stdout, re.MULTILINE)
    assert "make ui" in done.stdout


def test_the_demo_leaves_a_source_of_ones_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ETL_PROJECT")
    monkeypatch.setenv("ETL_SOURCE_URL", WRONG)
    done = etl("demo")
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "unset ETL_SOURCE_URL" in done.stderr


@pytest.mark.slow
def test_the_interface_is_served_on_this_machine_only() -> None:
    running = subprocess.Popen([*ETL, "ui", "--port", "3987"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen("http://127.0.0.1:3987/server_info") as answer:
                    assert "dagster_webserver_version" in json.load(answer)
                break
            except OSError:
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(30)


HEAVY = (
    "pandas", "numpy", "pyarrow", "xlsxwriter", "requests", "google.auth", "google.cloud", "boto3", "botocore",
    "dagster_pandas", "dagster_aws", "dagster_gcp", "dagster_postgres", "cryptography", "httpx2", "streamable",
)  # fmt: skip


def test_definitions_import_no_library_before_it_is_used() -> None:
    script = f"import sys\nimport etl_assets.definitions\nprint([m for m in {(*HEAVY, 'sqlalchemy', 'alembic')} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_run_that_finds_nothing_imports_neither_frames_nor_clients(source: str) -> None:
    assert process("run").returncode == 0
    script = (
        "import sys\nfrom etl_assets.cli import main\nsys.argv = ['etl', 'run']\n"
        f"try: main()\nfinally: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "nothing was made" in done.stdout
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_a_check_of_a_project_imports_no_dagster(source: str) -> None:
    script = (
        "import sys\nfrom etl_assets.cli import main\nsys.argv = ['etl', 'check']\n"
        "try: main()\nfinally: print('dagster' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "is right" in done.stdout
    assert (done.returncode, done.stderr) == (0, "False\n")
