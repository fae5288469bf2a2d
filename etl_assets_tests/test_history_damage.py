"""Dagster's history damaged: what is damaged is set aside, a line says so, and all works.

SQLite looks at a page when it needs it, so damage may show long after the history was opened.
"""

import fcntl
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from etl_assets_tests.commands import etl, use
from etl_assets_tests.hiring import BICYCLES

ROUNDS = int(os.environ.get("ETL_DAMAGES", "16")) // 4


@pytest.fixture
def home(bicycles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dagster's home after a run."""
    use(monkeypatch, tmp_path / "data", ETL_PROJECT=BICYCLES.project, ETL_SOURCE_URL=bicycles)
    assert etl("run").exit_code == 0
    return tmp_path / "data/dagster"


def databases(home: Path) -> list[Path]:
    return sorted(path for name in ("history", "schedules") for path in (home / name).rglob("*.db"))


_TOLD = "etl: Dagster's history was damaged: it was set aside as "


@pytest.mark.fault("F17")
@pytest.mark.parametrize("name", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_history_that_is_no_database_is_set_aside_and_another_one_begun(home: Path, name: str) -> None:
    (home / name).write_bytes(b"no database" * 1000)
    folder = home / name.split("/")[0]
    with (home / "interface.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an interface would go on with what was set aside
        done = etl("status")
        assert done.exit_code == 1
        assert done.stderr.splitlines()[-1].startswith(f"etl: Dagster's history in {home} is damaged (")
        assert "end the interface" in done.stderr
    done = etl("run")
    assert done.exit_code == 0
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("etl: "))
    assert line.startswith(f"{_TOLD}{folder}.damaged-")
    (aside,) = home.glob(f"{folder.name}.damaged-*")
    assert (aside / name.split("/", 1)[1]).read_bytes().startswith(b"no database")
    done = etl("status")
    assert done.exit_code == 0
    assert "Dagster's history" not in done.stderr


@pytest.mark.fault("F17")
def test_a_history_that_somebody_keeps_locked_is_one_line_and_nothing_is_lost(home: Path) -> None:
    """Who holds it may be a copy that is being made: SQLite waits for seconds, then the command ends."""
    with closing(sqlite3.connect(home / "history/runs.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        done = etl("run")
        assert done.exit_code == 1
        line = done.stderr.splitlines()[-1]
        assert line.startswith(
            f"etl: Dagster's history in {home} can't be used: database is locked; see that nobody"
        )
        assert "Traceback" not in done.stderr
    assert etl("run").exit_code == 0


def spoil(random: Random, path: Path) -> str:
    """Damage a database file as a faulty disk does: a bit, a page, its end."""
    content = bytearray(path.read_bytes())
    how = random.choice(("bit", "page", "end"))
    page = 4096 * random.randrange(max(1, len(content) // 4096))
    if how == "bit":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif how == "page":
        content[page : page + 4096] = random.randbytes(min(4096, len(content) - page))
    else:
        del content[page:]
    path.write_bytes(content)
    return how


@pytest.mark.fault("F17")
def test_damage_that_shows_later_is_set_aside_too(home: Path, tmp_path: Path) -> None:
    kept = shutil.copytree(home, tmp_path / "kept")
    told = 0
    for seed in range(ROUNDS):
        random = Random(seed)
        path = random.choice(databases(home))
        how = spoil(random, path)
        print(f"seed {seed}: {how} of {path.relative_to(home)}", flush=True)  # noqa: T201
        for command in ("run", "status"):
            done = etl(command)
            if done.exit_code:
                assert done.stderr.splitlines()[-1].startswith(_TOLD), (seed, command, done.stderr)
                assert done.stderr.splitlines()[-1].endswith("run again")
                assert etl(command).exit_code == 0, (seed, command)
            told += done.exit_code
        for name in ("history", "schedules"):
            shutil.rmtree(home / name, ignore_errors=True)
            shutil.copytree(kept / name, home / name)
    print(f"{told} of {2 * ROUNDS} commands are to be given again")  # noqa: T201
