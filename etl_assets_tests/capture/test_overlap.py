"""Runs that fill one lake at the same time take turns or are refused; one that is killed leaves nothing to unlock."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from etl_assets.lake.batches import Batches
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.connection import SourceInterrupted
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, connect, execute

T = Table("t", "", {"id": "text"}, key=("id",))
_RUN = """
import sys
from pathlib import Path
from etl_assets.raw.landing import (take_batch)
from etl_assets.raw.request import (CaptureRequest)
from etl_assets.source.table import Table
from etl_assets.errors import EtlError
from etl_assets.lake.batches import (Batches)
from etl_assets.lake.opening import open_files
url, folder, run, wait_seconds, halt = sys.argv[1:]

def progress(table, size):
    global halt
    if halt == "halt":
        halt = "go"
        print("reading", flush=True)
        sys.stdin.readline()

request = CaptureRequest(url, [Table("t", "", {"id": "text"}, key=("id",))], run, wait_seconds=float(wait_seconds))
try:
    manifest = take_batch(request, Batches(open_files(folder + "/lake", Path(folder))), Path(folder), progress)
    print(f"{manifest.batch:06d}" if manifest else "nothing", flush=True)
except EtlError as error:
    print(type(error).__name__, error, flush=True)
"""


def start(lake: Lake, run: str, *, wait_seconds: float = 60, halt: bool = False) -> subprocess.Popen[str]:
    """A run in a process of its own; with `halt` it stops when it has begun to read, until it gets a line."""
    command = [
        sys.executable,
        "-c",
        _RUN,
        lake.url,
        str(lake.folder),
        run,
        str(wait_seconds),
        "halt" if halt else "go",
    ]
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    if halt:
        assert running.stdout
        assert running.stdout.readline() == "reading\n"
    return running


@pytest.fixture
def begun(lake: Lake) -> Lake:
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 50) n",
    )
    lake.sync(T)
    execute(lake.url, "UPDATE t SET a = 'y' WHERE id < 9", "DELETE FROM t WHERE id = 50")
    return lake


@pytest.mark.fault("F3")
def test_a_second_run_that_may_not_wait_is_refused_with_the_name_of_the_first(begun: Lake) -> None:
    first = start(begun, "firstrun-and-more", halt=True)
    before = begun.everything()
    with pytest.raises(
        SourceInterrupted, match=r"filled by etl-assets firstrun on .*, connected since"
    ) as caught:
        begun.sync(T, run_id="second", wait_seconds=0)
    assert "nothing needs unlocking" in str(caught.value)
    assert {
        name: content for name, content in begun.everything().items() if ".unfinished" not in name
    } == before
    told, _ = first.communicate("\n")
    assert told == "000002\n"
    assert begun.is_exact(T)


@pytest.mark.fault("F3")
def test_a_second_run_that_waits_goes_on_from_what_the_first_committed(begun: Lake) -> None:
    first = start(begun, "first", halt=True)
    second = start(begun, "second")
    execute(begun.url, "UPDATE t SET a = 'z' WHERE id = 40", "INSERT INTO t VALUES (51, 'new')")
    time.sleep(0.5)
    assert second.poll() is None
    assert first.communicate("\n")[0] == "000002\n"
    assert second.communicate()[0] == "000003\n"
    changes = begun.latest().changed["t"]
    assert (changes.new, changes.changed, changes.deleted) == (1, 1, 0)
    assert begun.is_exact(T)


@pytest.mark.fault("F3", "F4")
def test_many_runs_at_once_give_what_runs_one_after_the_other_give(begun: Lake) -> None:
    runs = [start(begun, f"run {n}") for n in range(4)]
    for n in range(20):
        execute(begun.url, f"UPDATE t SET a = 'u{n}' WHERE id = {n + 1}")
    told = sorted(run.communicate(timeout=60)[0].strip() for run in runs)
    batches = [word for word in told if word != "nothing"]
    assert batches == [f"{n:06d}" for n in range(2, 2 + len(batches))]
    begun.sync(T)
    assert begun.is_exact(T)


@pytest.mark.fault("F3")
def test_of_runs_that_begin_a_lake_at_once_one_begins_it_and_no_batch_is_lost(lake: Lake) -> None:
    execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    runs = [start(lake, f"run {n}") for n in range(4)]
    told = sorted(run.communicate(timeout=60)[0].strip() for run in runs)
    assert told[0] == "000001"
    assert all(
        word == "nothing" or word.startswith("SourceInterrupted another run has just begun")
        for word in told[1:]
    )
    assert Batches(lake.files).numbers() == [1]
    assert lake.is_exact(T)


@pytest.mark.fault("F1")
def test_after_a_run_was_killed_nothing_has_to_be_unlocked(begun: Lake) -> None:
    killed = start(begun, "killed", halt=True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    manifest = begun.sync(T, wait_seconds=10)
    assert manifest is not None
    assert manifest.batch == 2
    assert begun.is_exact(T)


@pytest.mark.fault("F5")
def test_a_run_whose_session_the_server_ends_stops_in_one_line_and_can_be_repeated(begun: Lake) -> None:
    once = threading.Lock()

    def progress(table: str, size: int) -> None:
        if once.acquire(blocking=False):
            with closing(connect(begun.url)) as connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'etl-assets%' AND datname = current_database()"
                )

    before = begun.everything()
    with pytest.raises(SourceInterrupted, match="run it again") as caught:
        take_batch(CaptureRequest(begun.url, [T], "ended"), Batches(begun.files), begun.folder, progress)
    assert "\n" not in str(caught.value)
    assert begun.everything() == before
    assert list(begun.folder.iterdir()) == [begun.path]
    assert begun.sync(T)
    assert begun.is_exact(T)


def test_runs_that_fill_different_lakes_from_one_source_do_not_wait_for_each_other(begun: Lake) -> None:
    other = Lake(begun.url, begun.folder / "other")
    other.folder.mkdir()
    other.sync(T)
    first = start(begun, "first", halt=True)
    execute(begun.url, "UPDATE t SET a = 'z' WHERE id = 40")
    assert other.sync(T, wait_seconds=0)
    assert other.is_exact(T)
    assert first.communicate("\n")[0] == "000002\n"


# -- suspended runs ----------------------------------------------------------------------------------------------------


def suspended(lake: Lake, run: str, place: str) -> subprocess.Popen[str]:
    """A run in a process of its own that is suspended at a place, and whose session the server has ended meanwhile: as
    of a machine that slept."""
    command = [sys.executable, "-c", _RUN, lake.url, str(lake.folder), run, "60", "go"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "ETL_STOP_AT": place},
    )
    process = psutil.Process(running.pid)
    for _ in range(600):
        if process.status() == psutil.STATUS_STOPPED:
            break
        time.sleep(0.05)
    assert process.status() == psutil.STATUS_STOPPED
    execute(
        lake.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        "AND datname = current_database()",
    )
    return running


def is_shown(path: str) -> bool:
    """Whether a file is more than work in progress."""
    return not path.endswith(".open") and "unfinished" not in path


def continued(running: subprocess.Popen[str]) -> str:
    os.kill(running.pid, signal.SIGCONT)
    out, _ = running.communicate(timeout=60)
    return out.strip()


@pytest.mark.fault("F3")
@pytest.mark.many
@pytest.mark.parametrize(
    "place", ["snapshot taken", "block copied", "file written:1", "file published:1", "file published:2"]
)
def test_a_run_that_was_suspended_spoils_nothing_of_the_one_that_overtook_it(begun: Lake, place: str) -> None:
    first = set(begun.everything())
    asleep = suspended(begun, "asleep", place)
    its_own = set(begun.everything()) - first
    execute(begun.url, "UPDATE t SET a = 'z' WHERE id < 5")
    assert begun.sync(T)
    before = {
        path: content
        for path, content in begun.everything().items()
        if is_shown(path) and path not in its_own
    }
    told = continued(asleep)
    assert told.count("\n") == 0
    assert re.match("SourceInterrupted|ClaimLost|Overtaken|LakeError", told), told
    after = begun.everything()
    assert {path: content for path, content in after.items() if path in before} == before
    assert begun.is_exact(T)
    execute(begun.url, "UPDATE t SET a = 'w' WHERE id < 3")
    begun.sync(T)
    assert begun.is_exact(T)
    assert not [path for path in begun.everything() if path.endswith(".open")]


def test_who_lost_the_claim_right_before_the_manifest_commits_nothing(begun: Lake) -> None:
    asleep = suspended(begun, "asleep", "file published:2")
    told = continued(asleep)
    assert re.match("SourceInterrupted|ClaimLost", told), told
    assert begun.latest().batch == 1
    begun.sync(T)
    assert begun.is_exact(T)


def test_where_a_killed_run_left_files_the_number_is_taken_even_if_nothing_changed(begun: Lake) -> None:
    asleep = suspended(begun, "killed", "file published:2")
    asleep.kill()
    asleep.communicate()
    execute(begun.url, "UPDATE t SET a = 'x' WHERE id < 9", "INSERT INTO t VALUES (50, 'x')")
    assert [path for path in begun.everything() if path.endswith(".open")]
    taken = begun.sync(T)
    assert taken
    assert (taken.batch, taken.changed) == (2, {})
    assert begun.sync(T) is None
    listed = {"raw/batches/000001.json", "raw/batches/000002.json", "raw/batches/newest"}
    assert {path for path in begun.everything() if path.startswith("raw/batches")} == listed
    assert len([path for path in begun.everything() if path.startswith("raw/t/")]) == 1
    assert begun.is_exact(T)


def test_a_damaged_marker_of_a_killed_run_is_in_nobodys_way(begun: Lake) -> None:
    asleep = suspended(begun, "killed", "file published:2")
    asleep.kill()
    asleep.communicate()
    (marker,) = (begun.path / "raw/batches/open").glob("*.open")
    marker.write_bytes(marker.read_bytes()[:5])
    assert begun.sync(T)
    assert begun.sync(T) is None
    assert not list((begun.path / "raw/batches/open").glob("*.open"))
    listed = [file.path for file in begun.latest().changed["t"].files]
    assert sorted(path for path in begun.everything() if path.startswith("raw/t/000002")) == sorted(listed)


def test_two_sources_that_fill_one_lake_at_once_give_one_batch(
    begun: Lake, database: Callable[..., str]
) -> None:
    """A claim is a lock of the source, so that two sources each grant it, as a primary and its standby do."""
    asleep = subprocess.Popen(
        [sys.executable, "-c", _RUN, begun.url, str(begun.folder), "first", "60", "go"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "ETL_STOP_AT": "manifest written:2"},
    )
    process = psutil.Process(asleep.pid)
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.05)
    other = Lake(database(), begun.folder)
    execute(
        other.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT n, 'o' FROM generate_series(1, 49) n",
    )
    assert other.sync(T, deletion_brake=1, adopt=True)
    told = continued(asleep)
    assert told.startswith("Overtaken batch 000002"), told
    assert "\n" not in told
    assert other.latest().batch == 2
    assert other.is_exact(T)
