"""A file is visible whole or not at all, of several writers one wins, and nothing lies outside the lake."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from etl_assets.lake.files import AlreadyExists, LakeError, LocalFiles, open_files

_RACE = """
import sys
from pathlib import Path
from typing import BinaryIO
from etl_assets.lake.files import AlreadyExists, open_files
files = open_files(sys.argv[1])
sys.stdin.readline()
for n in range(20):
    try:
        files.create(f"raw/batches/{n:06d}.json", sys.argv[2].encode() * 5000)
        print(n)
    except AlreadyExists:
        pass
"""
_HALF = """
import sys
from etl_assets.lake.files import open_files
files = open_files(sys.argv[1])
with files.writing("raw/t/000002.csv") as stream:
    stream.write(b"half a file")
    stream.flush()
    print("written", flush=True)
    sys.stdin.readline()
"""
_FULL = """
import resource, sys
from etl_assets.lake.files import LakeError, open_files
files = open_files(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[2] == "create":
        files.create("raw/t/000001.csv", b"x" * 1_000_000)
    else:
        with files.writing("raw/t/000001.csv") as stream:
            for _ in range(100):
                stream.write(b"x" * 10_000)
except LakeError as error:
    print(error)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "lake")


def everything(files: LocalFiles) -> dict[str, bytes]:
    return {str(p.relative_to(files.root)): p.read_bytes() for p in files.root.rglob("*") if p.is_file()}


def test_of_eight_threads_that_create_a_file_one_wins(files: LocalFiles) -> None:
    for n in range(10):
        barrier, winners = threading.Barrier(8), []

        def create(number: int, path: str, barrier: threading.Barrier, winners: list[int]) -> None:
            barrier.wait()
            try:
                files.create(path, bytes([number]) * 100_000)
                winners.append(number)
            except AlreadyExists:
                pass

        path = f"raw/batches/{n:06d}.json"
        threads = [threading.Thread(target=create, args=(i, path, barrier, winners)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert files.read(path) == bytes(winners) * 100_000
    assert len(everything(files)) == 10


def test_of_processes_that_create_a_file_one_wins(files: LocalFiles) -> None:
    writers = [start(_RACE, files.url, str(n)) for n in range(4)]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    won = [[int(line) for line in writer.communicate(timeout=60)[0].split()] for writer in writers]
    assert sorted(n for numbers in won for n in numbers) == list(range(20))
    for name, numbers in enumerate(won):
        for n in numbers:
            assert files.read(f"raw/batches/{n:06d}.json") == str(name).encode() * 5000
    assert len(everything(files)) == 20


def test_a_writer_that_is_killed_leaves_nothing_that_can_be_seen(files: LocalFiles) -> None:
    files.create("raw/t/000001.csv", b"whole")
    writer = start(_HALF, files.url)
    assert writer.stdout
    assert writer.stdout.readline() == "written\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    assert files.names("raw/t") == ["000001.csv"]
    assert not files.exists("raw/t/000002.csv")
    assert len(everything(files)) == 2
    files.sweep("raw/t")
    assert everything(files) == {"raw/t/000001.csv": b"whole"}
    with files.writing("raw/t/000002.csv") as stream:
        stream.write(b"again")
    assert files.read("raw/t/000002.csv") == b"again"


def test_an_error_while_writing_leaves_the_old_version_and_no_trace(files: LocalFiles) -> None:
    files.create("t/a", b"old")

    def fail(stream: BinaryIO) -> None:
        stream.write(b"new")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), files.writing("t/a") as stream:
        fail(stream)
    staged = files.staging("t/a")
    staged.local.write_bytes(b"new")
    assert files.read("t/a") == b"old"
    assert files.names("t") == ["a"]
    staged.discard()
    assert everything(files) == {"t/a": b"old"}
    staged = files.staging("t/a")
    staged.local.write_bytes(b"new")
    staged.publish()
    staged.discard()
    assert everything(files) == {"t/a": b"new"}


@pytest.mark.parametrize("way", ["create", "writing"])
def test_a_full_disk_is_one_line_and_leaves_the_old_version(files: LocalFiles, way: str) -> None:
    if way == "writing":
        files.create("raw/t/000001.csv", b"old")
    before = everything(files) if files.root.exists() else {}
    writer = start(_FULL, files.url, way)
    told, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert told.count("\n") == 1
    assert told.startswith(f"can't write {files.url}/raw/t/000001.csv: File too large; see that the lake")
    assert everything(files) == before


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "..", "raw/t/../../../x", "", ".", "//x"]
)
@pytest.mark.parametrize(
    "use", ["read", "create", "writing", "staging", "local", "remove", "exists", "names"]
)
def test_a_path_out_of_the_lake_is_refused(files: LocalFiles, path: str, use: str) -> None:
    uses: dict[str, Callable[[], object]] = {
        "create": lambda: files.create(path, b"x"),
        "writing": lambda: files.writing(path).__enter__(),
    }
    with pytest.raises(LakeError, match="does not lie in the lake"):
        uses.get(use, lambda: getattr(files, use)(path))()
    assert not (files.root.parent / "x").exists()


def test_a_lake_that_can_not_be_written_or_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    files = LocalFiles(tmp_path / "file")
    with pytest.raises(LakeError, match=r"can't write .*file/a: .*see that the lake \(ETL_LAKE_URL\)"):
        files.create("a", b"x")
    with pytest.raises(LakeError, match="can't write"), files.writing("a"):
        pass
    with pytest.raises(LakeError, match=r"can't read .*file/a: Not a directory"):
        files.read("a")
    with pytest.raises(LakeError, match="can't read"):
        files.names("raw/batches")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_one_line(files: LocalFiles) -> None:
    files.create("raw/t/a", b"x")
    (files.root / "raw/t").chmod(0o500)
    with pytest.raises(LakeError, match="Permission denied"):
        files.create("raw/t/b", b"x")


def test_a_missing_folder_has_no_names_and_a_missing_file_is_named(files: LocalFiles) -> None:
    assert files.names("raw/batches") == []
    files.remove("raw/t/none.csv")
    with pytest.raises(LakeError, match=r"can't read .*/raw/t/none.csv: No such file"):
        files.read("raw/t/none.csv")


def test_a_lake_is_opened_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_files("data/the lake ä").create("a", b"x")
    assert open_files(f"file://{tmp_path}/data/the lake ä").read("a") == b"x"
    with pytest.raises(LakeError, match="no lake can be kept at ftp://"):
        open_files("ftp://somewhere/lake")
