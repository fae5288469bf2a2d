"""A file is visible whole or not at all, of several writers one wins, and nothing lies outside the lake."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest
import time_machine

from etl_assets.lake.files import AlreadyExists, Files, LakeError
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.opening import open_files
from etl_assets_tests.object_stores import Store

_RACE = """
import sys
from pathlib import Path
from etl_assets.lake.files import AlreadyExists
from etl_assets.lake.opening import open_files
files = open_files(sys.argv[1], Path(sys.argv[2]))
sys.stdin.readline()
for n in range(20):
    try:
        files.create(f"raw/batches/{n:06d}.json", sys.argv[3].encode() * 5000)
        print(n)
    except AlreadyExists:
        pass
"""
_HALF = """
import sys
from pathlib import Path
from etl_assets.lake.opening import open_files
files = open_files(sys.argv[1], Path(sys.argv[2]))
with files.writing("raw/t/000002.csv") as stream:
    for _ in range(20):
        stream.write(b"half a file" * 100_000)
    stream.flush()
    print("written", flush=True)
    sys.stdin.readline()
"""
_STREAM = """
import resource, sys
from pathlib import Path
from etl_assets.lake.opening import open_files
files = open_files(sys.argv[1], Path(sys.argv[2]))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with files.writing("raw/t/000001.csv") as stream:
    stream.write(b"x" * (1 << 20))
files.local("raw/t/000001.csv")
before = peak()
with files.writing("raw/t/000001.csv") as stream:
    for _ in range(64):
        stream.write(b"x" * (1 << 20))
files.local("raw/t/000001.csv")
print(before, peak())
"""
_FULL = """
import resource, sys
from pathlib import Path
from etl_assets.lake.files import LakeError
from etl_assets.lake.opening import open_files
files = open_files(sys.argv[1], Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[3] == "create":
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


@pytest.mark.fault("F14")
def test_of_eight_threads_that_create_a_file_one_wins(files: Files, store: Store) -> None:
    for n in range(10):
        barrier = threading.Barrier(8)
        winners: list[int] = []

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
    assert len(store.everything()) == 10


@pytest.mark.fault("F14")
def test_of_processes_that_create_a_file_one_wins(files: Files, store: Store, tmp_path: Path) -> None:
    writers = [start(_RACE, files.url, str(tmp_path / str(n)), str(n)) for n in range(4)]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    won = [[int(line) for line in writer.communicate(timeout=60)[0].split()] for writer in writers]
    assert sorted(n for numbers in won for n in numbers) == list(range(20))
    for name, numbers in enumerate(won):
        for n in numbers:
            assert files.read(f"raw/batches/{n:06d}.json") == str(name).encode() * 5000
    assert len(store.everything()) == 20


@pytest.mark.fault("F13")
def test_a_writer_that_is_killed_leaves_nothing_that_can_be_seen(
    files: Files, store: Store, tmp_path: Path
) -> None:
    files.create("raw/t/000001.csv", b"whole")
    writer = start(_HALF, files.url, str(tmp_path))
    assert writer.stdout
    assert writer.stdout.readline() == "written\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    assert files.names("raw/t") == ["000001.csv"]
    assert not files.exists("raw/t/000002.csv")
    assert store.unfinished() == 1
    files.sweep("raw/other")
    files.sweep("raw/t", older_than_seconds=3600)
    assert store.unfinished() == 1  # of another writer, perhaps
    files.sweep("raw/other", "raw/t")
    if store.kind != "gs":  # Google shows nobody what was begun, and forgets it by itself
        assert store.unfinished() == 0
    assert store.everything() == {"raw/t/000001.csv": b"whole"}
    with files.writing("raw/t/000002.csv") as stream:
        stream.write(b"again")
    assert files.read("raw/t/000002.csv") == b"again"


@pytest.mark.fault("F13")
@pytest.mark.parametrize("size", [3, 20 << 20])
def test_an_error_while_writing_leaves_the_old_version_and_no_trace(
    files: Files, store: Store, size: int
) -> None:
    files.create("t/a", b"old")

    def fail(stream: BinaryIO) -> None:
        stream.write(b"n" * size)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), files.writing("t/a") as stream:
        fail(stream)
    staged = files.staging("t/a")
    staged.local.write_bytes(b"n" * size)
    assert files.read("t/a") == b"old"
    assert files.names("t") == ["a"]
    staged.discard()
    assert store.everything() == {"t/a": b"old"}
    assert store.unfinished() == 0
    staged = files.staging("t/a")
    staged.local.write_bytes(b"n" * size)
    staged.publish()
    staged.discard()
    assert store.everything() == {"t/a": b"n" * size}
    assert files.local("t/a").read_bytes() == b"n" * size
    assert not [path for path in store.copies.rglob(".unfinished-*") if path.is_file()]


@pytest.mark.many
@pytest.mark.parametrize("size", [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 40 << 20])
def test_what_is_written_is_what_is_read(files: Files, store: Store, size: int) -> None:
    content = os.urandom(size)
    with files.writing("raw/t/000001.csv") as stream:
        for start in range(0, size, 1_000_003):
            stream.write(memoryview(content)[start : start + 1_000_003])
    assert store.everything() == {"raw/t/000001.csv": content}
    assert files.read("raw/t/000001.csv") == content
    assert files.local("raw/t/000001.csv").read_bytes() == content
    assert store.unfinished() == 0
    reading = files.reading("raw/t/000001.csv")
    assert reading is not None
    with reading as stream:
        assert stream.seek(0, os.SEEK_END) == size
        stream.seek(max(0, size - 5))
        assert stream.read(100) == content[-5:]
    assert files.reading("raw/t/000002.csv") is None


@pytest.mark.fault("F38")
def test_a_stream_takes_little_memory(files: Files, tmp_path: Path) -> None:
    writer = start(_STREAM, files.url, str(tmp_path / "cache"))
    told, _ = writer.communicate(timeout=120)
    before, after = (int(number) for number in told.split())
    assert (after - before) >> 10 < 40  # MB, of the 64 that were written and read
    assert files.local("raw/t/000001.csv").stat().st_size == 64 << 20


def test_a_folder_shows_its_own_files_and_all_of_them(files: Files, store: Store) -> None:
    many = [f"{n:06d}.csv" for n in range(1203)]
    store.fill(f"raw/t/{name}" for name in many)
    store.fill(["raw/t/deeper/1.csv", "raw/t2/1.csv", "raw/t.csv", "raw/ta/1.csv"])
    assert files.names("raw/t") == many
    assert files.names("raw") == ["t.csv"]
    assert files.names("raw/t/deeper") == ["1.csv"]
    assert files.names("ra") == files.names("raw/none") == []
    assert files.sizes("raw/t") == {name: len(f"raw/t/{name}") for name in many}
    assert files.sizes("raw/none") == {}


def test_a_folder_shows_the_folders_in_it_that_hold_something(files: Files, store: Store) -> None:
    many = [f"fact_{n:04d}" for n in range(1203)]
    store.fill(f"star/{name}/000001.parquet" for name in many)
    store.fill(["star/dim.parquet", "star/a b/ä/deep.csv", "start/x/1.csv", "other.csv"])
    if store.kind == "folder":
        Path(store.url, "star/empty").mkdir()
    assert files.folders("star") == ["a b", *many]
    assert files.folders("star/a b") == ["ä"]
    assert files.folders("star/a b/ä") == files.folders("sta") == files.folders("none") == []
    assert files.names("star") == ["dim.parquet"]


def test_only_a_folder_that_holds_nothing_is_removed(files: Files, store: Store) -> None:
    files.create("star/fact/000001.parquet", b"x")
    files.remove_folder("star/fact")
    files.remove_folder("star/none")
    assert store.everything() == {"star/fact/000001.parquet": b"x"}
    files.remove("star/fact/000001.parquet")
    files.remove_folder("star/fact")
    assert not Path(store.url, "star/fact").exists()
    files.create("star/fact/000001.parquet", b"y")
    assert store.everything() == {"star/fact/000001.parquet": b"y"}


@pytest.mark.fault("F26")
def test_a_machine_whose_clock_is_ahead_removes_nothing_that_another_one_writes(tmp_path: Path) -> None:
    """Both work in a folder that they share. What another one left an hour ago goes."""
    files = LocalFiles(tmp_path / "lake")
    staged = files.staging("star/t/000002.parquet")
    left = files.staging("star/t/000001.parquet")
    hour_ago = left.local.stat().st_mtime - 3600
    os.utime(left.local, (hour_ago, hour_ago))
    with time_machine.travel(datetime.now(UTC) + timedelta(days=30), tick=True):
        files.sweep("star/t", older_than_seconds=1800)
    assert staged.local.exists()
    assert not left.local.exists()


@pytest.fixture
def folder(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "lake")


def everything(files: LocalFiles) -> dict[str, bytes]:
    return {str(p.relative_to(files.root)): p.read_bytes() for p in files.root.rglob("*") if p.is_file()}


@pytest.mark.fault("F10")
@pytest.mark.parametrize("way", ["create", "writing"])
def test_a_full_disk_is_one_line_and_leaves_the_old_version(
    folder: LocalFiles, way: str, tmp_path: Path
) -> None:
    files = folder
    if way == "writing":
        files.create("raw/t/000001.csv", b"old")
    before = everything(files) if files.root.exists() else {}
    writer = start(_FULL, files.url, str(tmp_path), way)
    told, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert told.count("\n") == 1
    assert told.startswith(f"can't write {files.url}/raw/t/000001.csv: File too large; see that the lake")
    assert everything(files) == before


@pytest.mark.fault("F34")
@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "..", "raw/t/../../../x", "", ".", "//x"]
)
@pytest.mark.parametrize(
    "use",
    [
        "read", "create", "writing", "staging", "local", "reading", "remove", "remove_folder", "exists", "names", "sizes",
        "folders", "sweep",
    ],
)  # fmt: skip
def test_a_path_out_of_the_lake_is_refused(files: Files, store: Store, path: str, use: str) -> None:
    uses: dict[str, Callable[[], object]] = {
        "create": lambda: files.create(path, b"x"),
        "writing": lambda: files.writing(path).__enter__(),
    }
    with pytest.raises(LakeError, match="does not lie in the lake"):
        (uses[use] if use in uses else lambda: getattr(files, use)(path))()
    assert store.everything() == {}
    assert not Path(store.url).with_name("x").exists()


@pytest.mark.fault("F11")
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


@pytest.mark.fault("F11")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_one_line(folder: LocalFiles) -> None:
    folder.create("raw/t/a", b"x")
    (folder.root / "raw/t").chmod(0o500)
    with pytest.raises(LakeError, match="Permission denied"):
        folder.create("raw/t/b", b"x")


def test_a_file_system_without_hard_links_is_named_before_anything_lands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")  # as Linux does it for exFAT

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(LakeError, match=r"has no hard links .*keep the lake on one that has"):
        LocalFiles(tmp_path).create("raw/batches/000001.json", b"{}")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_was_created_by_an_attempt_whose_answer_was_lost_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS sends the question again."""
    link = os.link

    def asked_twice(*paths: Path) -> None:
        link(*paths)
        link(*paths)

    files = LocalFiles(tmp_path)
    monkeypatch.setattr(os, "link", asked_twice)
    files.create("raw/batches/000001.json", b"ours")
    with pytest.raises(AlreadyExists):
        files.create("raw/batches/000001.json", b"another's")
    assert files.read("raw/batches/000001.json") == b"ours"


def test_a_missing_folder_has_no_names_and_a_missing_file_is_named(files: Files) -> None:
    assert files.names("raw/batches") == []
    files.remove("raw/t/none.csv")
    with pytest.raises(
        LakeError, match=r"can't read .*/raw/t/none.csv: (No such file|there is no such object)"
    ):
        files.read("raw/t/none.csv")


def test_a_lake_is_opened_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_files("data/the lake ä", tmp_path).create("a", b"x")
    assert open_files(f"file://{tmp_path}/data/the lake ä", tmp_path).read("a") == b"x"
    with pytest.raises(
        LakeError, match=r"no lake can be kept at ftp://; use a folder, s3://bucket/prefix or gs:"
    ):
        open_files("ftp://somewhere/lake", tmp_path)
    for url in ("s3://", "gs:///lake", "gs://_lake/a", "s3://a b/c"):
        with pytest.raises(LakeError, match=f"{url} names no bucket"):
            open_files(url, tmp_path)


@pytest.mark.parametrize("prefix", ["a//b", "../b", "a/./b", "/a"])
def test_a_prefix_is_taken_as_it_is_or_refused(bucket: Store, prefix: str) -> None:
    with pytest.raises(LakeError, match="has an empty part, or one of dots"):
        replace(bucket, url=f"{bucket.kind}://{bucket.bucket}/{prefix}").open()


def test_the_lake_may_be_a_whole_bucket(bucket: Store) -> None:
    whole = replace(bucket, url=f"{bucket.kind}://{bucket.bucket}/")
    whole.open().create("raw/a b/ä+%41.json", b"x")
    assert whole.open().url == f"{bucket.kind}://{bucket.bucket}"
    assert whole.open().names("raw/a b") == ["ä+%41.json"]
    assert whole.open().local("raw/a b/ä+%41.json").read_bytes() == b"x"
