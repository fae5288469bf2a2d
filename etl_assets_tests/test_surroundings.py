"""What is around a run is not what it makes: whatever clock, time zone, home and network the machine has."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from etl_assets_tests.commands import etl, use
from etl_assets_tests.flow import Flow, assert_equal_to
from etl_assets_tests.hiring import BICYCLES, play_day

ROOT = Path(__file__).parent.parent
# Ends a process, and all that it starts, when it asks for or connects to anything but this machine.
_ALONE = """
import os, sys


def hear(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "", "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
        os.write(2, f"went out to {host!r}\\n".encode())
        os._exit(99)

sys.addaudithook(hear)
"""


@contextmanager
def clock(days: float, zone: str) -> Iterator[None]:
    """A machine whose clock is days off, in a time zone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        with time_machine.travel(datetime.now(UTC) + timedelta(days=days), tick=True):
            yield
    time.tzset()


@pytest.mark.fault("F26")
def test_a_clock_that_is_wrong_or_goes_back_changes_nothing_in_any_time_zone(
    bicycles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Flow(bicycles, tmp_path / "data")
    use(monkeypatch, flow.data, **flow.environment)
    for number, (days, zone) in enumerate([(30, "Pacific/Kiritimati"), (-400, "America/St_Johns")]):
        if number:
            play_day(bicycles, seed=number, hires=2)
        with clock(days, zone):
            ran = etl("run")
        assert ran.exit_code == 0, ran.stderr
        assert_equal_to(flow.moment, flow)
    assert len(flow.manifests()) == 2
    assert etl("verify").exit_code == 0


@pytest.mark.fault("F42")
def test_a_run_needs_no_home_and_goes_nowhere_and_takes_any_folder(bicycles: str, tmp_path: Path) -> None:
    folder = tmp_path / "a folder, dreißig ☕"
    folder.mkdir()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/sitecustomize.py").write_text(_ALONE)
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "DAGSTER", "XDG"))
    }
    surroundings = {
        **known,
        "HOME": "/proc/no-home",  # nobody can make a folder there, root included
        "ETL_PROJECT": BICYCLES.project,
        "ETL_SOURCE_URL": bicycles,
        "PYTHONPATH": f"{tmp_path / 'alone'}:{ROOT}",
    }

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)").returncode == 99
    ran = run("-m", "etl_assets.cli", "run")
    assert ran.returncode == 0, ran.stderr
    assert_equal_to(BICYCLES.moment(bicycles), Flow(bicycles, folder / "data"))
