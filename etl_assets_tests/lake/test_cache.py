"""Local copies of what is kept in a bucket: made once, never stale where it counts, bounded, shared."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl_assets.lake.batches import Batches
from etl_assets.lake.cache import Cache
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.manifest import FORMAT, Manifest
from etl_assets.star.files import StarFiles, TableFiles, listed
from etl_assets_tests.object_stores import Request, Store

_LANDED = "raw/t/000001-0a0b0c0d0e0f.csv"
_STAR = "star/t/000001-0a0b0c0d0e0f.parquet"


def write(files: Files, path: str, content: bytes) -> None:
    with files.writing(path) as stream:
        stream.write(content)


def test_a_landed_file_is_fetched_once_and_not_asked_after_again(bucket: Store) -> None:
    assert bucket.proxy
    bucket.fill([_LANDED])
    copy = bucket.open().local(_LANDED)
    assert copy.name == "000001-0a0b0c0d0e0f.csv"  # engines tell the batch by it
    with bucket.proxy.deciding(lambda r: None):
        assert bucket.open().local(_LANDED) == copy
        assert bucket.proxy.seen == []
        assert bucket.open().local(_LANDED, fresh=True) == copy
        assert len(bucket.proxy.seen) == 1


def test_of_a_file_of_the_star_the_present_version_is_given(bucket: Store) -> None:
    assert bucket.proxy
    bucket.fill([_STAR])
    files = bucket.open()
    before = files.local(_STAR)
    bucket.overwrite(_STAR, b"what another machine published")
    assert files.local(_STAR).read_bytes() == b"what another machine published"
    assert before.read_bytes() == _STAR.encode()  # who reads it still may go on
    with bucket.proxy.deciding(lambda r: None):
        files.local(_STAR)
        assert len(bucket.proxy.seen) == 1


def test_what_was_staged_here_is_not_fetched(bucket: Store) -> None:
    assert bucket.proxy
    files = bucket.open()
    staged = files.staging(_STAR)
    staged.local.write_bytes(b"made here")
    staged.publish()
    staged.discard()
    with bucket.proxy.deciding(lambda r: None):
        assert files.local(_STAR).read_bytes() == b"made here"
        assert [request.method for request in bucket.proxy.seen if request.headers.get("Range")] == []


def test_what_is_landed_anew_under_a_name_takes_the_place_of_what_was(bucket: Store) -> None:
    files = bucket.open()
    write(files, _LANDED, b"of a run that was killed")
    assert files.local(_LANDED).read_bytes() == b"of a run that was killed"
    write(files, _LANDED, b"of the next one")
    assert files.local(_LANDED).read_bytes() == b"of the next one"
    staged = files.staging(_LANDED)
    staged.local.write_bytes(b"of the one after it")
    staged.publish()
    assert files.local(_LANDED).read_bytes() == b"of the one after it"


def test_a_listing_spares_to_ask_after_each_file(bucket: Store) -> None:
    assert bucket.proxy
    paths = [f"star/fact/{n:06d}.parquet" for n in range(30)]
    bucket.fill(paths)
    files = bucket.open()
    for path in paths:
        files.local(path)
    with bucket.proxy.deciding(lambda r: None):
        assert [files.local(f"star/fact/{name}").exists() for name in files.names("star/fact")] == [True] * 30
        assert len(bucket.proxy.seen) == 1
    write(files, paths[0], b"mine")
    assert files.local(paths[0]).read_bytes() == b"mine"
    files.names("star/fact")
    bucket.overwrite(paths[1], b"theirs, a moment later")
    bucket.overwrite(paths[2], b"theirs, a moment later")
    files.cache.forget(paths[2])  # type: ignore[attr-defined]
    assert files.local(paths[1]).read_bytes() == paths[1].encode()  # as it was listed
    assert files.local(paths[2]).read_bytes() == b"theirs, a moment later"  # as it was, it is nowhere


def test_a_file_that_is_replaced_while_it_is_fetched_comes_whole(bucket: Store) -> None:
    assert bucket.proxy
    old, new = os.urandom(20 << 20), os.urandom(20 << 20)
    bucket.overwrite(_STAR, old)
    ranges = count()

    def replacing(request: Request) -> None:
        if request.headers.get("Range", request.headers.get("range")) and next(ranges) == 1:
            bucket.overwrite(_STAR, new)

    with bucket.proxy.deciding(replacing):
        assert bucket.open().local(_STAR).read_bytes() == new


def test_a_copy_that_was_cut_short_is_fetched_again(bucket: Store) -> None:
    bucket.fill([_STAR])
    copy = bucket.open().local(_STAR)
    copy.write_bytes(b"st")
    assert bucket.open().local(_STAR).read_bytes() == _STAR.encode()


def test_many_may_fetch_the_same_file_at_once(bucket: Store) -> None:
    content = os.urandom(9 << 20)
    bucket.overwrite(_STAR, content)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(bucket.open().local(_STAR).read_bytes()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content] * 8
    assert [path.name for path in bucket.copies.rglob("*") if path.is_file()] == [_STAR.rpartition("/")[2]]


def test_nothing_of_a_large_parquet_file_is_fetched_to_know_its_version(bucket: Store) -> None:
    assert bucket.proxy
    files = bucket.open()
    made = Manifest(
        format=FORMAT, batch=1, lake="", run_id="", previous=None, sources={}, seconds=0, tables={}
    )
    Batches(files).commit(made)
    star = StarFiles(files, Batches(files))
    staged = star.staging("t", 1)
    table = pa.table({"noise": [os.urandom(1 << 20) for _ in range(12)]})
    pq.write_table(table, staged.local)
    file = listed(staged.path, staged.local, "v1", 1, 12)
    staged.publish()
    star.publish({"t": TableFiles(kind="dimension", files=(file,))}, 1)
    elsewhere = replace(bucket, copies=bucket.copies / "of another machine").open()
    with bucket.proxy.deciding(lambda r: None):
        found = StarFiles(elsewhere, Batches(elsewhere)).dimension("t")
        asked = [request.path for request in bucket.proxy.seen if ".parquet" in request.path]
    assert found
    assert (found.version, found.rows) == ("v1", 12)
    assert found.bytes > 12 << 20
    assert asked == []


def test_the_copies_used_least_recently_go_when_there_are_too_many(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "s3://lake", bound_bytes=250)
    copies = []
    for n in range(5):
        local = cache.new(f"star/{n}.parquet")
        local.write_bytes(b"x" * 100)
        copies.append(cache.adopt(local, f"star/{n}.parquet", "v"))
    cache.sweep()
    assert all(copy.exists() for copy in copies)  # somebody may be reading them
    yesterday = time.time() - 86_400
    for n, copy in enumerate(copies):
        os.utime(copy, (yesterday + n, yesterday + n))
    assert cache.get("star/0.parquet", "v", 100) == copies[0]
    abandoned = cache.new("star/9.parquet")
    os.utime(abandoned, (yesterday - 60, yesterday - 60))
    cache.sweep()
    assert [copy.exists() for copy in copies] == [True, False, False, False, True]
    assert not abandoned.exists()
    assert cache.get("star/1.parquet", "v", 100) is None


@pytest.mark.parametrize("url", ["s3://lake/a", "s3://lake/b", "gs://lake/a", "s3://lake/a-b"])
def test_every_lake_has_copies_of_its_own(tmp_path: Path, url: str) -> None:
    others = [Cache(tmp_path, other).folder for other in ("s3://lake/a/b", "s3://lake", "gs://lake")]
    assert Cache(tmp_path, url).folder not in others
    assert Cache(tmp_path, url).folder.parent == tmp_path


@pytest.mark.fault("F10")
def test_a_disk_without_room_for_a_copy_is_one_line(bucket: Store) -> None:
    bucket.fill([_STAR])
    bucket.copies.write_bytes(b"no folder")
    uses: tuple[Callable[[Files], object], ...] = (
        lambda files: files.local(_STAR),
        lambda files: files.staging(_STAR),
    )
    for use in uses:
        with pytest.raises(
            LakeError, match=rf"can't keep a copy of {bucket.url}/{_STAR} in .*; see that ETL_DATA"
        ):
            use(bucket.open())
