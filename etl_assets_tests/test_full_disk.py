"""The disk is full, wherever a run is: it ends with one line that says what is full, nothing is half there, and with room
again the next run has all.
"""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from etl_assets_tests.commands import etl, use
from etl_assets_tests.flow import Flow, execute
from etl_assets_tests.test_damage import shown
from etl_assets_tests.totesys import TOTESYS

_PLACES = {
    "snapshot taken": "table ",
    "file written": "/lake/raw/batches/000002.json",
    "manifest committed": "/lake/current/",
    "base kept": "/lake/current/",
    "star staged": "/lake/star/",
    "star published": "/lake/star/batches/000002.json",
    "star switched": "/warehouse.duckdb",
    "warehouse loading": "/warehouse.duckdb",
    "warehouse committed": "/lake/raw/batches/000002.certificate.json",
}
"""From where on the disk is full, and what the line names then."""
_SLOW = {"base kept", "star published", "star switched"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a small disk of its own."""
    data = tmp_path / "data"
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(data)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs to mount a disk, as root")
    yield data
    subprocess.run(["umount", "--lazy", str(data)], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 4096):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def full_from(place: str, disk: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the disk be full once a run reaches a place."""
    patch.setenv("ETL_STOP_AT", place)
    stand_in = SimpleNamespace(environ=os.environ, getpid=os.getpid, kill=lambda pid, sign: fill(disk))
    patch.setattr("etl_assets.failpoints.os", stand_in)
    patch.setattr("etl_assets.failpoints._reached", Counter())


@pytest.mark.many
@pytest.mark.fault("F10")
@pytest.mark.parametrize(
    ("place", "history"),
    [
        *(pytest.param(p, "elsewhere", marks=[pytest.mark.slow] if p in _SLOW else []) for p in _PLACES),
        ("snapshot taken", "there too"),
        ("warehouse loading", "there too"),
    ],
)
def test_a_disk_that_is_full_stops_a_run_and_does_no_harm(
    place: str, history: str, disk: Path, totesys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, disk, ETL_SOURCE_URL=totesys)
    if history == "elsewhere":
        (tmp_path / "home").mkdir()
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
    assert etl("run").exit_code == 0
    before = TOTESYS.moment(totesys)
    execute(
        totesys, "UPDATE staff SET first_name = 'Ann'; UPDATE payment SET payment_amount = payment_amount + 1"
    )
    now = TOTESYS.moment(totesys)
    flow = Flow(totesys, disk, model=TOTESYS)
    with monkeypatch.context() as patch:
        full_from(place, disk, patch)
        done = etl("run")
    assert done.exit_code == 1
    line = done.stderr.splitlines()[-1]
    if history == "elsewhere":
        # Another table may be in the middle of its landing, and say so first.
        assert _PLACES[place] in line or (place == "file written" and " can't be landed: " in line)
    else:
        assert line.startswith(f"etl: Dagster's history in {disk}/dagster can't be written: ")
    assert re.search("has room|make room", line), line
    assert "Traceback" not in done.stderr
    (disk / "ballast").unlink()
    assert shown(flow, now, before)
    done = etl("run")
    assert done.exit_code == 0, done.stderr
    assert shown(flow, now)
    assert etl("verify").exit_code == 0
    assert [path for path in (disk / "lake").rglob("*") if path.name.startswith("tmp_")] == []
