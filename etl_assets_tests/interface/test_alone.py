"""One daemon per history, found out without anything that somebody would have to unlock."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etl_assets.interface import alone as module
from etl_assets.interface.alone import AlreadyServed, alone, refuse_another_daemon

_HOLDER = """
import subprocess, sys
from pathlib import Path
from etl_assets.interface.alone import alone
with alone(Path(sys.argv[1]), "http://127.0.0.1:3000") as lock:
    subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[lock.fileno()])
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock, and a child of it that holds it a second longer than that one lives."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path), "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_whoever_comes_second_is_told_who_was_first_and_where(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(AlreadyServed, match=rf"by process {holder.pid} at http://127\.0\.0\.1:3000"),
        alone(tmp_path, ""),
    ):
        pass


@pytest.mark.fault("F2")
def test_what_a_killed_one_left_is_waited_for_and_nothing_has_to_be_unlocked(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    begun = time.monotonic()
    with alone(tmp_path, "elsewhere"):
        assert time.monotonic() - begun < 10
    with alone(tmp_path, "again"):
        pass


def daemon(home: str | None) -> "subprocess.Popen[bytes]":
    """A process that looks like Dagster's daemon of a history."""
    command = [sys.executable, "-c", "import time; time.sleep(60)", "dagster._daemon", "run"]
    known = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    return subprocess.Popen(command, env=known | ({"DAGSTER_HOME": home} if home else {}))


class SqliteHistory:
    """The name tells that all its processes are of this machine."""


class History:
    """An instance that daemons report to: so many seconds ago, and then after so many more."""

    def __init__(self, storage: type, ago: float | None, again_after: float | None = None) -> None:
        self.run_storage = storage()
        self._made = time.time()
        self._ago = ago
        self._again_after = again_after

    def get_daemon_heartbeats(self) -> dict[str, Any]:
        if self._ago is None:
            return {}
        latest = self._made - self._ago
        if self._again_after is not None and time.time() > self._made + self._again_after:
            latest = self._made + self._again_after
        return {"SENSOR": SimpleNamespace(timestamp=latest)}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports come every second instead of every half minute."""
    monkeypatch.setattr(module, "_REPORTS_SECONDS", 1)
    monkeypatch.setattr(module, "_LATE_SECONDS", 0.5)


def test_a_daemon_of_the_same_history_is_found_at_once(tmp_path: Path) -> None:
    with daemon(str(tmp_path)) as running:
        try:
            with pytest.raises(AlreadyServed, match=f"process {running.pid}"):
                refuse_another_daemon(History(SqliteHistory, None), tmp_path)  # type: ignore[arg-type]
        finally:
            running.kill()


def test_a_daemon_of_another_history_is_nobody_s_business(tmp_path: Path) -> None:
    with daemon(str(tmp_path / "other")) as running:
        try:
            refuse_another_daemon(History(SqliteHistory, 0.1), tmp_path)  # type: ignore[arg-type]
        finally:
            running.kill()


def test_a_daemon_elsewhere_is_told_by_its_next_report(tmp_path: Path) -> None:
    with pytest.raises(AlreadyServed, match="on another machine"):
        refuse_another_daemon(History(object, 0.2, again_after=0.5), tmp_path)  # type: ignore[arg-type]


@pytest.mark.fault("F2")
@pytest.mark.parametrize(
    ("storage", "ago"), [(object, 0.2), (object, 60), (object, None), (SqliteHistory, 0.2)]
)
def test_the_last_report_of_a_daemon_that_was_killed_blocks_nobody(
    tmp_path: Path, storage: type, ago: float | None
) -> None:
    begun = time.monotonic()
    refuse_another_daemon(History(storage, ago), tmp_path)  # type: ignore[arg-type]
    assert time.monotonic() - begun < 3
