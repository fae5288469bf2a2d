"""Old batches in checkpoints are read as if they lay where they were, and whoever took their number is refused."""

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etl_assets.lake import checkpoints
from etl_assets.lake.batches import Batches
from etl_assets.lake.certificates import certificate_path, noted
from etl_assets.lake.checkpoints import Checkpoints
from etl_assets.lake.files import AlreadyExists, LakeError
from etl_assets.lake.manifest import FORMAT, FORMAT_WITH_CHECKPOINTS
from etl_assets.lake.names import manifest_path
from etl_assets.lake.seal import sealed
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute

T = Table("t", "", {"id": "int", "v": "text?"})
AT_ONCE, KEPT, BATCHES = 3, 2, 9


@pytest.fixture(scope="module")
def original(module_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Nine batches, of which the sixth run has moved three, and the ninth three more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "AT_ONCE", AT_ONCE)
        patch.setattr(checkpoints, "KEPT", KEPT)
        lake = Lake(module_database(), tmp_path_factory.mktemp("original"))
        execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY, v text)")
        execute(lake.url, "INSERT INTO t SELECT n FROM generate_series(1, 20) n")
        for batch in range(1, BATCHES + 1):
            changes = f"UPDATE t SET v = 'v{batch}' WHERE id = {batch}; DELETE FROM t WHERE id = {20 - batch}"
            execute(lake.url, changes)
            assert lake.sync(T)
            lake.files.create(certificate_path(batch), sealed(b'{"tables": {}, "batch": %d}' % batch))
        yield lake


@pytest.fixture
def lake(original: Lake, tmp_path: Path) -> Lake:
    """A copy to damage."""
    shutil.copytree(original.folder, tmp_path / "copy")
    return Lake(original.url, tmp_path / "copy")


def manifests(lake: Lake) -> list[str]:
    return sorted(path.name for path in (lake.path / "raw/batches").glob("??????.json"))


def archives(lake: Lake) -> list[str]:
    return lake.files.names("raw/batches/checkpoints")


def wrong(lake: Lake) -> list[str]:
    return list(Batches(lake.files).chain(lake.latest()))


def test_old_batches_are_read_as_if_they_lay_where_they_were(lake: Lake) -> None:
    assert archives(lake) == ["000001-000003.tar.xz", "000004-000006.tar.xz"]
    assert manifests(lake) == ["000007.json", "000008.json", "000009.json"]
    batches = Batches(lake.files)
    assert batches.numbers() == list(range(1, BATCHES + 1))
    assert [batches.get(batch).batch for batch in batches.numbers()] == batches.numbers()
    assert all(map(batches.is_committed, batches.numbers()))
    assert not batches.is_committed(BATCHES + 1)
    certificate = noted(lake.files, certificate_path(2))
    assert certificate
    assert certificate["batch"] == 2
    assert wrong(lake) == []
    # All that is read from the batches is what it was, as of any of them.
    lake.forget_bases()
    assert lake.is_exact(T)
    assert len(lake.held(T, batches.get(2)).rows) == 18


def test_who_does_not_know_of_checkpoints_is_told_so_by_the_format(lake: Lake) -> None:
    batches = Batches(lake.files)
    formats = {batch: batches.get(batch).format for batch in batches.numbers()}
    assert formats == {
        batch: FORMAT if batch < AT_ONCE + KEPT else FORMAT_WITH_CHECKPOINTS for batch in formats
    }


def test_any_tar_unpacks_one(lake: Lake, tmp_path: Path) -> None:
    path = lake.path / "raw/batches/checkpoints/000001-000003.tar.xz"
    subprocess.run(["tar", "-xJf", path, "-C", tmp_path], check=True)
    manifest = (tmp_path / "000002.json").read_bytes()
    assert Batches(lake.files).sha256(2) == hashlib.sha256(manifest).hexdigest()


@pytest.mark.parametrize("noted", [True, False])
def test_a_run_that_slept_for_very_long_does_not_take_a_number_that_is_in_a_checkpoint(
    lake: Lake, noted: bool
) -> None:
    batches = Batches(lake.files)
    manifest = batches.get(2)
    if not noted:
        lake.files.remove("raw/batches/newest")
    with pytest.raises(AlreadyExists):
        batches.commit(manifest)
    assert "000002.json" not in manifests(lake)
    assert Batches(lake.files).newest() == BATCHES


def test_a_run_that_slept_between_asking_and_writing_takes_its_manifest_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Batches(lake.files)
    manifest, answers = batches.get(2), iter([None, range(1, 4)])
    monkeypatch.setattr(Checkpoints, "covering", lambda self, batch: next(answers))
    with pytest.raises(AlreadyExists):
        batches.commit(manifest)
    assert "000002.json" not in manifests(lake)


def test_what_a_killed_run_left_beside_a_checkpoint_is_removed_if_it_is_the_same(lake: Lake) -> None:
    kept = Checkpoints(lake.files, "raw/batches")
    same, other = kept.read("000002.json"), kept.read("000003.json")
    assert same
    assert other
    lake.files.create(manifest_path(2), same)
    lake.files.create(manifest_path(3), other + b" ")
    Batches(lake.files).fold()
    assert "000002.json" not in manifests(lake)
    assert (lake.path / manifest_path(3)).exists(), "another content says that something happened"


def test_a_manifest_that_is_damaged_or_lost_is_not_moved_and_the_run_says_which(lake: Lake) -> None:
    path = lake.path / manifest_path(8)
    content = path.read_bytes()
    for damage in (content.replace(b'"rows"', b'"sows"', 1), None):
        path.write_bytes(damage) if damage else path.unlink()
        kept = {name: (lake.path / "raw/batches" / name).read_bytes() for name in manifests(lake)}
        with pytest.raises(LakeError, match=r"000008\.json"):
            Checkpoints(lake.files, "raw/batches").fold(BATCHES + KEPT)
        assert {name: (lake.path / "raw/batches" / name).read_bytes() for name in manifests(lake)} == kept
    path.write_bytes(content)
    Checkpoints(lake.files, "raw/batches").fold(BATCHES + KEPT)
    assert manifests(lake) == []
    assert Batches(lake.files).numbers() == list(range(1, BATCHES + 1))


def test_a_checkpoint_that_is_damaged_is_named(lake: Lake) -> None:
    path = lake.path / "raw/batches/checkpoints/000004-000006.tar.xz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert any(
        "000004-000006.tar.xz is damaged; restore the file from a backup" in told for told in wrong(lake)
    )
    path.unlink()
    assert (
        wrong(lake)[0] == "the manifests of 000004, 000005, 000006 are not there; restore them from a backup"
    )
