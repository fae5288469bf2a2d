"""A lake whose files were damaged says which one, and gives no content rather than a wrong one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from etl_assets.errors import EtlError
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import AlreadyExists, LakeError
from etl_assets.lake.names import manifest_path
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute
from etl_assets_tests.lake_layout import landed, unsealed

T = Table("t", "", {"id": "int", "v": "text?"})


@pytest.fixture(scope="module")
def original(module_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of four batches: rows, rows and deletions, rows that the first had too, deletions alone."""
    lake = Lake(module_database(), tmp_path_factory.mktemp("original"))
    execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    for statement in (
        "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 50) n",
        "UPDATE t SET v = 'x' WHERE id < 5; DELETE FROM t WHERE id = 9",
        "UPDATE t SET v = 'y' WHERE id < 5; INSERT INTO t VALUES (9, 'again')",
        "DELETE FROM t WHERE id = 10",
    ):
        execute(lake.url, statement)
        assert lake.sync(T)
    return lake


@pytest.fixture
def lake(original: Lake, tmp_path: Path) -> Lake:
    """A copy to damage."""
    shutil.copytree(original.folder, tmp_path / "copy")
    return Lake(original.url, tmp_path / "copy")


FILES: list[tuple[int, Literal["rows", "deletions"]]] = [
    (1, "rows"),
    (2, "rows"),
    (2, "deletions"),
    (3, "rows"),
    (4, "deletions"),
]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def cut_a_row(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def repeat_a_row(path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.fault("F15")
@pytest.mark.many
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [flip, cut, cut_a_row, repeat_a_row, empty, Path.unlink])
def test_a_damaged_file_is_named_and_nothing_is_read_from_it(
    lake: Lake, file: tuple[int, Literal["rows", "deletions"]], damage: Callable[[Path], None]
) -> None:
    assert lake.is_exact(T)
    path = landed(lake.path, "t", *file)
    damage(path)
    with pytest.raises(LakeError, match=path.name) as caught:
        lake.held(T)
    assert "\n" not in str(caught.value)
    before = lake.everything()
    with pytest.raises(LakeError, match=path.name):
        lake.sync(T, whole=True)
    assert lake.everything() == before


@pytest.mark.fault("F15")
def test_swapped_files_are_named(lake: Lake) -> None:
    one, other = (landed(lake.path, "t", batch) for batch in (2, 3))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(LakeError, match=r"raw/t/00000[23]-\w+\.csv is not the file its manifest lists"):
        lake.held(T)


def change(lake: Lake, number: int, **values: Any) -> None:
    path = lake.path / manifest_path(number)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no manifest;"),
        (b"{", "is no manifest;"),
        (b"[]", "is no manifest;"),
        (b"\xff\xfe", "is no manifest;"),
        (b"null", "is no manifest;"),
    ],
)
def test_what_is_no_manifest_is_named(lake: Lake, content: bytes, told: str) -> None:
    (lake.path / "raw/batches/000004.json").write_bytes(content)
    with pytest.raises(LakeError, match=f"raw/batches/000004.json {told}") as caught:
        lake.latest()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"format": 4}, r"was made by a newer version of etl-assets \(format 4"),
        ({"format": 0}, "is no manifest;"),
        ({"format": 1}, "is no manifest of format 1"),
        ({"batch": 3}, "is the manifest of batch 000003"),
        ({"unknown": 1}, r"is no manifest of format 2 \(unknown: "),
        ({"tables": {"t": {}}}, r"is no manifest of format 2 \(tables.t"),
        ({"seconds": "many"}, r"is no manifest of format 2 \(seconds: "),
    ],
)
def test_a_manifest_of_another_format_or_batch_is_named(
    lake: Lake, values: dict[str, Any], told: str
) -> None:
    change(lake, 4, **values)
    with pytest.raises(LakeError, match=f"raw/batches/000004.json {told}"):
        lake.latest()


@pytest.mark.fault("F15")
def test_a_manifest_that_is_missing_in_the_middle_is_named(lake: Lake) -> None:
    (lake.path / "raw/batches/000002.json").unlink()
    with pytest.raises(LakeError, match=r"raw/batches/000002.json is not there; restore"):
        lake.held(T)


@pytest.mark.fault("F34")
def test_a_manifest_that_points_out_of_the_lake_is_refused(lake: Lake) -> None:
    path = lake.path / "raw/batches/000001.json"
    file = str(landed(lake.path, "t", 1).relative_to(lake.path))
    path.write_text(unsealed(path).replace(file, "../../../etc/passwd"))
    with pytest.raises(LakeError, match="does not lie in the lake"):
        lake.held(T)


def test_without_its_newest_manifest_a_lake_is_what_it_was_before_and_comes_back(lake: Lake) -> None:
    before = lake.held(T)
    (lake.path / "raw/batches/000004.json").unlink()
    assert lake.held(T).rows - before.rows == {("10", "v10"): 1}
    manifest = lake.sync(T)
    assert manifest is not None
    assert manifest.batch == 4
    assert lake.is_exact(T)


def test_files_that_no_manifest_lists_do_not_exist(lake: Lake) -> None:
    for name in (
        "raw/t/000005.csv",
        "raw/t/000005.deleted.csv",
        "raw/t/.unfinished-000005.csv",
        "raw/batches/.unfinished-x.json",
    ):
        (lake.path / name).write_text("id,v\n1,wrong\n")
    assert lake.is_exact(T)
    assert lake.sync(T) is None
    execute(lake.url, "UPDATE t SET v = v || '!' WHERE id = 20")
    try:
        assert lake.sync(T)
        assert lake.is_exact(T)
    finally:
        execute(lake.url, "UPDATE t SET v = 'v20' WHERE id = 20")


@pytest.mark.fault("F14")
def test_a_committed_batch_is_never_written_over(lake: Lake) -> None:
    batches = Batches(lake.files)
    before = lake.everything()
    with pytest.raises(AlreadyExists, match=r"raw/batches/000004\.json exists already"):
        batches.commit(lake.latest())
    assert lake.everything() == before


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_base_that_is_not_whole_is_done_without_or_named(
    lake: Lake, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
    execute(lake.url, "UPDATE t SET v = v || '!' WHERE id = 20")
    try:
        assert lake.sync(T)
        (base,) = lake.path.glob("current/t/*.parquet")
        damage(base)
        try:
            assert lake.is_exact(T)
        except LakeError as error:
            assert base.name in str(error)  # noqa: PT017
    finally:
        execute(lake.url, "UPDATE t SET v = 'v20' WHERE id = 20")


def test_a_first_load_leaves_a_base_that_stands_for_its_file(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 40)
    lake = Lake(database(), tmp_path)
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, CASE n WHEN 3 THEN NULL WHEN 4 THEN '' ELSE 'v' || n END FROM generate_series(1, 50) n",
        "CREATE TABLE few (id int PRIMARY KEY, v text)",
    )
    few = Table("few", "", {"id": "int", "v": "text?"})
    assert lake.sync(T, few)
    assert [path.parent.name for path in lake.path.glob("current/*/000001-*.parquet")] == ["t"]
    (landed_file,) = lake.path.glob("raw/t/*.csv")
    landed_file.write_text("id,v\n")  # so what is told is told by the base
    assert lake.is_exact(T)


def test_a_first_load_that_is_not_committed_leaves_no_base(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
    lake = Lake(database(), tmp_path)
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 50) n",
        "CREATE TABLE misfit (id int PRIMARY KEY, v text)",
        "INSERT INTO misfit SELECT n, 'no number' FROM generate_series(1, 50) n",
    )
    with pytest.raises(EtlError, match="50 rows of misfit hold values that don't fit"):
        lake.sync(T, Table("misfit", "", {"id": "int", "v": "int?"}))
    assert lake.everything() == {}
    assert not list(tmp_path.glob("**/*.parquet"))
