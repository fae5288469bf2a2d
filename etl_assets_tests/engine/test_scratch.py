"""Scratch folders hold rows: none stays behind, and none is taken from whoever works in it, whatever the clock says."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from etl_assets.engine.scratch import own_folder, sweep

_WORKS = """
import sys
from pathlib import Path
from typing import Any
from etl_assets.engine import duck
from etl_assets.engine.scratch import own_folder
with own_folder(Path(sys.argv[1]), "capture-") as folder, duck.connect(Path(sys.argv[1])) as connection:
    (folder / "rows.csv").write_text("id")
    connection.execute("SET memory_limit = '40MB'")
    connection.execute("CREATE TABLE t AS SELECT n, repeat('x', 100) || n AS s FROM range(700_000) r(n)")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def working(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that works in a folder in `place`, and spills."""
    with subprocess.Popen(
        [sys.executable, "-c", _WORKS, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def set_back(place: Path) -> None:
    """As everything looks to a clock that is set ahead, or after days of work."""
    for path in (place, *place.rglob("*")):
        os.utime(path, (1, 1))


def spilled(place: Path) -> list[Path]:
    return list(place.rglob("duckdb_temp_*"))


def test_what_somebody_works_in_stays_however_old_it_looks_and_goes_with_him(tmp_path: Path) -> None:
    with working(tmp_path) as (process, folder):
        assert spilled(tmp_path)
        set_back(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        sweep(tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
        assert (folder / "rows.csv").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert spilled(tmp_path)
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_who_ends_well_leaves_nothing(tmp_path: Path) -> None:
    with working(tmp_path) as (process, _):
        process.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_between_making_and_locking_takes_nothing_from_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    swept: list[Path] = []

    def sweeping_once(path: Any, *arguments: Any, **options: Any) -> int:
        if not swept:
            swept.append(path)
            sweep(tmp_path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", sweeping_once)
    with own_folder(tmp_path, "capture-") as folder:
        assert folder.is_dir()
        assert folder != swept[0]
        sweep(tmp_path)
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_what_older_versions_spilled_goes_once_its_process_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    left, live = (tmp_path / f"duckdb_temp_{pid}_0_storage_DEFAULT-0.tmp" for pid in (ended.pid, os.getpid()))
    for path in (left, live, tmp_path / "of somebody else"):
        path.touch()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([live, tmp_path / "of somebody else"])
