"""The format of a lake: what manifests say of each other, what other versions made, and names that do not collide."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_assets.lake.batches import Batches
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import FORMAT_WITH_CHECKPOINTS
from etl_assets.lake.names import FileNames, folder_of, manifest_path
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute
from etl_assets_tests.lake_layout import manifest, unsealed

T = Table("t", "", {"id": "int", "v": "text?"})


@pytest.fixture
def lake(database: Callable[..., str], tmp_path: Path) -> Lake:
    """Three batches."""
    lake = Lake(database(), tmp_path)
    execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    for statement in (
        "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 50) n",
        "UPDATE t SET v = 'x' WHERE id < 5; DELETE FROM t WHERE id = 9",
        "UPDATE t SET v = 'y' WHERE id < 5",
    ):
        execute(lake.url, statement)
        assert lake.sync(T)
    return lake


def wrong(lake: Lake) -> list[str]:
    batches = Batches(lake.files)
    latest = batches.latest()
    assert latest
    return list(batches.chain(latest))


def test_manifests_name_each_other(lake: Lake) -> None:
    assert wrong(lake) == []
    assert manifest(lake.path, 1)["previous"] is None


def test_a_manifest_that_was_edited_is_found(lake: Lake) -> None:
    path = lake.path / manifest_path(2)
    path.write_text(path.read_text().replace('"rows": 49', '"rows": 48', 1))
    assert [told for told in wrong(lake) if "000002.json is damaged" in told]


@pytest.mark.fault("F15")
def test_a_manifest_that_was_edited_so_that_it_passes_is_found_by_the_next(lake: Lake) -> None:
    path = lake.path / manifest_path(2)
    path.write_text(unsealed(path).replace('"rows": 49', '"rows": 48', 1))
    assert [told for told in wrong(lake) if "000002" in told and "changed or swapped" in told]


def test_a_manifest_that_is_gone_is_found(lake: Lake) -> None:
    (lake.path / manifest_path(2)).unlink()
    assert wrong(lake)[0] == "the manifests of 000002 are not there; restore them from a backup"


def test_manifests_that_were_swapped_are_found(lake: Lake) -> None:
    one, other = (lake.path / manifest_path(batch) for batch in (1, 2))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert any("is the manifest of batch" in told for told in wrong(lake))


@pytest.mark.fault("F41")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_newer_format_is_refused_as_such_and_not_as_damage(lake: Lake, batch: int) -> None:
    path = lake.path / manifest_path(batch)
    path.write_text(json.dumps({"format": FORMAT_WITH_CHECKPOINTS + 1, "batch": batch, "something": "new"}))
    with pytest.raises(LakeError, match=r"made by a newer version[^\n]*upgrade[^\n]*$"):
        Batches(lake.files).get(batch)


# -- format 1 ----------------------------------------------------------------------------------------------------------


def as_format_1(folder: Path) -> None:
    """Make of a lake what version 0.1 would have made of it."""
    for path in sorted((folder / "raw/batches").glob("??????.json")):
        told = json.loads(path.read_text())
        source = told.pop("sources")["source"]
        identity = source.pop("identity")
        names = ("system_identifier", "timeline", "database", "version")
        told |= {
            "format": 1,
            "batch": f"{told['batch']:06d}",
            "source": {n: identity[n] for n in names},
            **source,
        }
        for name in ("previous", "folded", "superseded", "seal"):
            del told[name]
        for table in told["tables"].values():
            del table["source"]
            for name in ("changed_in", "previous", "read_in"):
                table[name] = table[name] and f"{table[name]:06d}"
            for file in (table["changes"] or {}).values():
                if isinstance(file, dict):
                    plain = re.sub(r"-[0-9a-f]+", "", file["path"])
                    (folder / file["path"]).rename(folder / plain)
                    file["path"] = plain
        path.write_text(json.dumps(told, indent=1))
    shutil.rmtree(folder / "current", ignore_errors=True)
    shutil.rmtree(folder / "star", ignore_errors=True)


@pytest.mark.fault("F41")
def test_a_lake_of_format_1_is_read_and_carried_on(lake: Lake) -> None:
    as_format_1(lake.path)
    assert "sources" not in manifest(lake.path, 3)
    assert lake.is_exact(T)
    assert wrong(lake) == []
    execute(lake.url, "UPDATE t SET v = 'z' WHERE id < 3; INSERT INTO t VALUES (9, 'again')")
    assert lake.sync(T)
    execute(lake.url, "DELETE FROM t WHERE id = 1")
    assert lake.sync(T)
    assert lake.is_exact(T)
    first = manifest(lake.path, 4)
    assert (first["format"], manifest(lake.path, 5)["folded"]) == (2, None)
    assert first["folded"]
    assert wrong(lake) == []
    # What was before is vouched for by the first manifest that names it.
    path = lake.path / manifest_path(1)
    path.write_text(path.read_text().replace('"rows": 50', '"rows": 51', 1))
    assert "the manifests before 000004 are not those that it was written after" in wrong(lake)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F34")
def test_names_that_a_file_system_may_confuse_have_folders_of_their_own() -> None:
    names = [
        "t", "T", "t/u", "t_u", "t u", "T/U", "..", ".", "batches", "quarantine", "é", "e\u0301", "con", "a" * 300,
        "a" * 299 + "b", "x\\y", "", "\n", "ta~ble", "order", "Order", "oRDER",
    ]  # fmt: skip
    folders = [folder_of(name) for name in names]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_~]+", folder) and len(folder) <= 100 for folder in folders)
    assert folder_of("sales_order") == "sales_order"


def test_no_two_runs_can_write_the_same_file() -> None:
    one, other = FileNames.of_a_run(7), FileNames.of_a_run(7)
    assert one.rows("t") != other.rows("t")
    assert one.rows("t").startswith("raw/t/000007-")
    assert FileNames.of_a_run(1_000_000).rows("t").startswith("raw/t/1000000-")


def test_batches_beyond_six_digits_are_in_order(lake: Lake) -> None:
    """As if 999,998 batches had come before."""
    shift = 999_997
    for path in sorted((lake.path / "raw/batches").glob("*.json")):
        told = json.loads(path.read_text())
        told["batch"] += shift
        for table in told["tables"].values():
            for name in ("changed_in", "previous", "read_in"):
                table[name] = table[name] and table[name] + shift
            for file in (table["changes"] or {}).values():
                if isinstance(file, dict):
                    folder, _, rest = file["path"].rpartition("/")
                    number, _, token = rest.partition("-")
                    moved = f"{folder}/{int(number) + shift:06d}-{token}"
                    (lake.path / file["path"]).rename(lake.path / moved)
                    file["path"] = moved
        path.unlink()
        (lake.path / manifest_path(told["batch"])).write_text(json.dumps(told))
    lake.forget_bases()
    assert lake.latest().batch == 1_000_000
    assert lake.is_exact(T)
    execute(lake.url, "UPDATE t SET v = 'beyond' WHERE id < 3")
    taken = lake.sync(T)
    assert taken
    assert taken.batch == 1_000_001
    assert lake.is_exact(T)
