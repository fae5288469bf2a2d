"""What a command finds around it: one home that several may fill, one name for the code, nothing told to anybody."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from dagster._core.workspace.load_target import PyProjectFileTarget

from etl_assets.cli import environment
from etl_assets_tests.commands import etl, use

ROOT = Path(__file__).parents[1]
# Processes that have loaded what they need, and begin at the same moment.
_OPEN = """
import os, sys
import dagster
from etl_assets.cli import environment
start, go = os.pipe()
children = []
for _ in range(int(sys.argv[1])):
    if not (child := os.fork()):
        os.close(go)
        os.read(start, 1)
        environment.arrange_dagster_home(environment.settings())
        with environment.open_instance() as instance:
            told = (instance.get_runs_count(), instance.telemetry_enabled)
        os._exit(told != (0, False))
    children.append(child)
os.close(go)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def surroundings(**settings: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "DAGSTER_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


def test_of_several_first_starts_one_makes_the_home_and_the_others_wait(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, "4"],
        env=surroundings(ETL_DATA=str(tmp_path / "data")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[0, 0, 0, 0]\n", done.stderr[-1000:]


def test_nothing_is_told_to_anybody_from_a_home_that_is_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert environment.arrange_dagster_home(environment.settings()) == home
    with environment.open_instance() as instance:
        assert not instance.telemetry_enabled


def test_a_home_with_a_configuration_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    environment.arrange_dagster_home(environment.settings())
    assert (tmp_path / "dagster.yaml").read_text() == "telemetry: {enabled: true}\n"


def test_dagster_dev_calls_the_code_location_as_the_interface_does() -> None:
    (origin,) = PyProjectFileTarget(str(ROOT / "pyproject.toml")).create_origins()
    assert origin.location_name == "etl_assets"


def test_a_simulation_that_is_terminated_stops_its_server(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    data = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / f"etl-simulate-{os.getpid()}"
    data.mkdir(mode=0o755)
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "etl_assets.cli", "simulate", "--every", "0.1"],
            env=surroundings(ETL_DATA=str(data)),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            assert process.stdout.readline()
            pids = list(data.rglob("postmaster.pid"))
            assert pids
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 128 + signal.SIGTERM
        assert not pids[0].exists()
    finally:
        subprocess.run(["rm", "-rf", str(data)], check=True)


def test_what_an_editor_adds_to_the_file_changes_no_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path / "data")
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfETL_KEY_PREFIX=shop\r\nETL_WAREHOUSE_SCHEMA=shop\r\n")
    known = environment.settings()
    assert (known.key_prefix, known.warehouse_schema) == (("shop",), "shop")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("A=1\n# Gr\xf6\xdfe\nETL_LAKE_URL=s3://b\n", r"line 2 is no UTF-8: save the file as UTF-8"),
        ("A=1\n\nETL_LAKE_URL: s3://s3cret\n", r"line 3 can't be read: write ETL_LAKE_URL=…"),
        ("ETL_SOURCE_URL='postgresql://u:s3cret@h/d\nB=1\n", r"line 1 can't be read: write ETL_SOURCE_URL=…"),
    ],
)
def test_a_setting_that_would_be_passed_over_is_named_and_nothing_is_done(
    file: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default may be another lake than the one that is meant."""
    use(monkeypatch, tmp_path / "data")
    (tmp_path / ".env").write_bytes(file.encode("latin-1"))
    ran = etl("run")
    assert ran.exit_code == 1
    assert re.search(told, ran.stderr), ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert "s3cret" not in ran.output
    assert not (tmp_path / "data").exists()


def test_what_others_write_into_the_file_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "data")
    (tmp_path / ".env").write_text("say: hello\nETL_KEY_PREFIX=shop\n")
    assert environment.settings().key_prefix == ("shop",)


def test_what_the_environment_says_wins_over_the_file_in_dagster_s_processes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read `.env` once more, over what is set: a password that only the environment has would be gone."""
    (tmp_path / ".env").write_text("ETL_KEY_PREFIX=file\nETL_WAREHOUSE_SCHEMA=of_the_file\n")
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os\n"
            "from etl_assets.cli import environment\n"
            "environment.settings()\n"
            "os.environ.update(ETL_KEY_PREFIX='file', ETL_WAREHOUSE_SCHEMA='of_the_file')\n"
            "from etl_assets.definitions import defs\n"
            "found = defs()\n"
            "print(found.resolve_job_def('mine_etl').name, found.resources['mine_warehouse'].star_schema)",
        ],
        env=surroundings(ETL_DATA=str(tmp_path / "data"), ETL_KEY_PREFIX="mine"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout == "mine_etl of_the_file\n", told.stderr[-2000:]
