"""What is written is its owner's: another user of the machine reads neither lake nor warehouse nor history, unless
ETL_FILE_MODE says so.
"""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_assets.errors import SettingsError
from etl_assets.permissions import is_open
from etl_assets.settings import Settings
from etl_assets_tests.commands import etl, use
from etl_assets_tests.hiring import BICYCLES

# What a user without rights can read below a folder.
_LOOK = """
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(12345)
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        try:
            open(os.path.join(folder, name), "rb").close()
        except PermissionError:
            continue
        print(os.path.join(folder, name))
"""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def place(postgres_folder: Path, request: pytest.FixtureRequest) -> Path:
    """A folder that every user can enter, and see what is in it."""
    folder = postgres_folder / f"permissions-{abs(hash(request.node.name))}"
    folder.mkdir(mode=0o755)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, data: Path, source: str, mode: str) -> None:
    """A run of all stages, and the commands that write something else."""
    use(monkeypatch, data, ETL_PROJECT=BICYCLES.project, ETL_SOURCE_URL=source, ETL_FILE_MODE=mode)
    for arguments in (["run"], ["verify"], ["status"]):
        done = etl(*arguments)
        assert done.exit_code == 0, done.output


def modes(data: Path) -> dict[str, set[int]]:
    """The bits of all folders and files, and what kind each is."""
    found: dict[str, set[int]] = {"folder": set(), "file": set()}
    for path in (data, *data.rglob("*")):
        if not path.is_symlink():
            found["folder" if path.is_dir() else "file"].add(stat.S_IMODE(path.stat().st_mode))
    return found


@pytest.mark.many
@pytest.mark.parametrize(
    ("mode", "folders", "files"),
    [("", 0o700, 0o600), ("group", 0o750, 0o640), ("public", 0o755, 0o644)],
)
def test_everything_that_is_written_is_for_whom_the_setting_names(
    mode: str, folders: int, files: int, bicycles: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, place / "data", bicycles, mode)
    found = modes(place / "data")
    # Some libraries make private what they make; nothing is more open than it was said.
    assert {bits & 0o077 for bits in found["folder"]} <= {0, folders & 0o077}, found
    assert {bits & 0o077 for bits in found["file"]} <= {0, files & 0o077}, found
    for path in (
        "lake/raw/bike/*.csv", "lake/raw/batches/000001.json", "lake/star/dim_bike/*.parquet", "lake/star/batches/*.json",
        "warehouse.duckdb", "reports.xlsx", "dagster/history/runs.db",
    ):  # fmt: skip
        (found_there, *_) = (place / "data").glob(path)
        assert stat.S_IMODE(found_there.stat().st_mode) == files, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_reads_nothing(
    bicycles: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, place / "data", bicycles, "private")
    command = [sys.executable, "-c", _LOOK, str(place), "12345"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
    # In the group, with the setting for that.
    run(monkeypatch, place / "more", bicycles, "group")
    others = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    command[-1] = str(os.getegid())
    group = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert others == ""
    assert str(place / "more" / "warehouse.duckdb") in group
    assert str(place / "data") not in group


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"ETL_FILE_MODE=secret is none of private, group, public"):
        Settings.read({"ETL_FILE_MODE": "secret"})


def test_the_doctor_tells_of_what_others_can_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before keeps the bits that it has."""
    for name in ("lake", "dagster"):
        (place / "data" / name).mkdir(parents=True, mode=0o755)
    (place / "data" / "dagster" / "dagster.yaml").touch()
    (place / "data" / "warehouse.duckdb").touch()
    use(monkeypatch, place / "data", ETL_SOURCE_URL="postgresql://reader@127.0.0.1:1/shop")

    def told() -> list[str]:
        return [line for line in etl("doctor").output.splitlines() if "can be read by others" in line]

    assert [line.split()[:2] for line in told()] == [
        ["advice", "dagster"],
        ["advice", "lake"],
        ["advice", "warehouse"],
    ]
    (place / "data").chmod(0o711)
    assert len(told()) == 3, "who knows a name can still go through"
    (place / "data").chmod(0o700)
    assert told() == []


def test_who_can_read_is_found_through_all_folders(place: Path) -> None:
    file = place / "a" / "b"
    file.parent.mkdir()
    file.touch(mode=0o644)
    assert is_open(file, "private")
    assert not is_open(file, "public")
    file.parent.chmod(0o700)
    assert not is_open(file, "private")
    file.parent.chmod(0o750)
    assert is_open(file, "private")
    assert not is_open(file, "group")
    assert not is_open(place / "none", "private")
