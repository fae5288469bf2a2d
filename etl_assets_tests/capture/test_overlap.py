"""Runs that fill one lake at the same time take turns or are refused; one that is killed leaves nothing to unlock."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from etl_assets.capture.connection import SourceInterrupted
from etl_assets.capture.landing import Request, take_batch
from etl_assets.capture.table import Table
from etl_assets.lake.batches import Batches
from etl_assets_tests.capture.comparing import Lake, connect, execute

T = Table("t", "", {"id": "text"}, key=("id",))
_RUN = """
import sys
from pathlib import Path
from etl_assets.capture.landing import Request, take_batch
from etl_assets.capture.table import Table
from etl_assets.errors import EtlError
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import open_files
url, folder, run, wait_seconds, halt = sys.argv[1:]

def progress(table, size):
    global halt
    if halt == "halt":
        halt = "go"
        print("reading", flush=True)
        sys.stdin.readline()

request = Request(url, [Table("t", "", {"id": "text"}, key=("id",))], run, wait_seconds=float(wait_seconds))
try:
    manifest = take_batch(request, Batches(open_files(folder + "/lake", Path(folder))), Path(folder), progress)
    print(manifest.batch if manifest else "nothing", flush=True)
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


def test_many_runs_at_once_give_what_runs_one_after_the_other_give(begun: Lake) -> None:
    runs = [start(begun, f"run {n}") for n in range(4)]
    for n in range(20):
        execute(begun.url, f"UPDATE t SET a = 'u{n}' WHERE id = {n + 1}")
    told = sorted(run.communicate(timeout=60)[0].strip() for run in runs)
    batches = [word for word in told if word != "nothing"]
    assert batches == [f"{n:06d}" for n in range(2, 2 + len(batches))]
    begun.sync(T)
    assert begun.is_exact(T)


def test_of_runs_that_begin_a_lake_at_once_one_begins_it_and_no_batch_is_lost(lake: Lake) -> None:
    execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    runs = [start(lake, f"run {n}") for n in range(4)]
    told = sorted(run.communicate(timeout=60)[0].strip() for run in runs)
    assert told[0] == "000001"
    assert all(
        word == "nothing" or word.startswith("SourceInterrupted another run has just begun")
        for word in told[1:]
    )
    assert Batches(lake.files).numbers() == ["000001"]
    assert lake.is_exact(T)


def test_after_a_run_was_killed_nothing_has_to_be_unlocked(begun: Lake) -> None:
    killed = start(begun, "killed", halt=True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    manifest = begun.sync(T, wait_seconds=10)
    assert manifest is not None
    assert manifest.batch == "000002"
    assert begun.is_exact(T)


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
        take_batch(Request(begun.url, [T], "ended"), Batches(begun.files), begun.folder, progress)
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
