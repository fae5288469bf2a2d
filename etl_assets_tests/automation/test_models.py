"""Model and reference files are known by their content. Were two of them taken for one, or a folder that is gone for an
empty one, a change would pass unseen.
"""

import hashlib
import os
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.definitions import definitions
from etl_assets.errors import EtlError
from etl_assets.settings import Settings
from etl_assets.source.assets import file_assets, source_key
from etl_assets.source.files import ModelError, ObservedFiles, models
from etl_assets_tests.hiring import BICYCLES


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(folder: Path, **texts: str) -> Path:
    """Files of SQL; `a__b` is b in the folder a."""
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".sql")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def test_a_setting_declares_groups_of_files_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    declared = models(" load = models/load/*.sql ; transform=models/**/*.json;one=/etc/x/only.csv; ", [])
    assert declared == [
        ObservedFiles("load", tmp_path / "models/load", "*.sql"),
        ObservedFiles("transform", tmp_path / "models", "**/*.json"),
        ObservedFiles("one", Path("/etc/x"), "only.csv"),
    ]
    assert models("", []) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("models/*.sql", "names no files; write name=folder/*.sql"),
        ("load=", "names no files"),
        ("two words=models/*.sql", "names no files"),
        ("load=a/*.sql;load=b/*.sql", "source/load exists already; choose another name for b/*.sql"),
        ("bike=models/*.sql", "source/bike exists already"),
        ("colours=models/*.csv", "source/colours exists already"),
        ("load=models/*/../x.sql", "leaves its folder"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line_when_definitions_load(setting: str, said: str) -> None:
    with pytest.raises(EtlError) as raised:
        definitions(Settings.read({"ETL_PROJECT": BICYCLES.project, "ETL_MODELS": setting}))
    assert str(raised.value).startswith("ETL_MODELS")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_files_with_the_same_stem_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, a__orders="select 1", b__orders="select 2")
    (tmp_path / "a" / "orders.json").write_text("{}")
    (group,) = models(f"m={tmp_path}/**/*.*", [])
    assert group.checksums() == {
        "a/orders.json": sha256("{}"),
        "a/orders.sql": sha256("select 1"),
        "b/orders.sql": sha256("select 2"),
    }


def test_what_is_no_file_is_left_out_and_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path, plain="select 1")
    (tmp_path / "folder.sql").mkdir()
    (tmp_path / "dangling.sql").symlink_to("nowhere.sql")
    (tmp_path / "link.sql").symlink_to("plain.sql")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert ObservedFiles("m", tmp_path, "**/*.sql").checksums() == {
        "link.sql": sha256("select 1"),
        "plain.sql": sha256("select 1"),
    }


@pytest.mark.parametrize("at_it", ["nothing", "a file"])
def test_a_folder_that_is_none_is_one_clear_line(tmp_path: Path, at_it: str) -> None:
    if at_it == "a file":
        (tmp_path / "models").touch()
    (group,) = models(f"load={tmp_path}/models/*.sql", [])
    with pytest.raises(ModelError) as raised:
        group.checksums()
    assert str(raised.value) == (
        f"source/load: {tmp_path}/models is not a folder; make it, or correct ETL_MODELS"
    )


def test_the_version_follows_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    group = ObservedFiles("m", write(tmp_path, a="select 1", b="select 2"), "*.sql")

    def version() -> str:
        return group.version(group.checksums())

    seen = [version()]
    os.utime(tmp_path / "a.sql", (1, 1))
    assert version() == seen[0]
    for change in (
        lambda: write(tmp_path, a="select 3"),
        lambda: (tmp_path / "b.sql").rename(tmp_path / "c.sql"),
        lambda: write(tmp_path, d=""),
        lambda: (tmp_path / "a.sql").unlink(),
        lambda: empty(tmp_path),
    ):
        change()
        seen.append(version())
    assert len(set(seen)) == len(seen)


def test_the_version_of_a_file_named_by_itself_is_its_sha256(tmp_path: Path) -> None:
    (group,) = models(f"m={write(tmp_path, a='select 1')}/a.sql", [])
    assert group.version(group.checksums()) == sha256("select 1")


def test_a_run_records_which_files_there_are_and_whether_they_changed(tmp_path: Path) -> None:
    folder = write(tmp_path, a="select 1")
    assets = file_assets(models(f"m={folder}/*.sql", []))
    with dg.DagsterInstance.ephemeral() as instance:
        for text, unchanged in (("select 1", False), ("select 1", True), ("select 2", False)):
            write(tmp_path, a=text)
            assert dg.materialize(assets, instance=instance).success
            event = instance.get_latest_materialization_event(source_key("m"))
            assert event
            assert event.asset_materialization
            told = {name: value.value for name, value in event.asset_materialization.metadata.items()}
            assert (told["files"], told["unchanged"]) == ({"a.sql": sha256(text)}, unchanged)
