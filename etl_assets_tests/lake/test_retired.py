"""What a lake holds of star tables that are no longer declared is found and removed, and nothing else is."""

import re
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

from etl_assets.lake.batches import Batches
from etl_assets.lake.files import Files
from etl_assets.lake.manifest import FORMAT, Manifest
from etl_assets.star.files import StarFile, StarFiles, TableFiles
from etl_assets.star.retired import InLake, in_lake, remove
from etl_assets.star.schema import Column, Dimension, Fact, StarTable
from etl_assets_tests.object_stores import Store


def dimension(name: str) -> StarTable:
    return Dimension(name, "", "id", [Column("id", "int")])


def fact(name: str) -> StarTable:
    return Fact(name, "", "id", [Column("id", "int")], record="record_id")


DECLARED = {
    table.name: table
    for table in (dimension("dim"), fact("fact"), dimension("was_fact"), fact("was_dimension"))
}
ODD = "odd_fact~311d7a884c"  # the folder of a table that is called Odd Fact
STAYS = [
    "current/dim_old/000001-0a0b0c0d.parquet",
    "current/trials/dim.json",
    "current/trials/was_fact.json",
    "raw/dim_old/000001-aa.csv",
    "star/baselines/fact.json",
    "star/batches/notes.parquet",
    "star/dim/000001-aa.parquet",
    "star/dim/000001-unlisted.parquet",
    "star/fact/000001-aa.parquet",
    "star/fact_old/of somebody.txt",
    "star/notes.txt",
    "star/of_somebody/notes.parquet",
    "star/was_dimension/000002-bb.parquet",
]


def held(*files: str, notes: Iterable[str] = (), now: str | None = None) -> InLake:
    """What holds its own path."""
    return InLake({path: len(path) for path in files}, {path: len(path) for path in notes}, now)


GOES = {
    "Odd Fact": held(f"star/{ODD}/000001-aa.parquet", notes=[f"star/baselines/{ODD}.json"]),
    "dim_old": held("star/dim_old/000001-aa.parquet", notes=["current/trials/dim_old.json"]),
    "fact_gone": held("star/fact_gone/000007-aa.parquet"),
    "fact_old": held(
        "star/fact_old/000001-aa.parquet",
        "star/fact_old/000002-bb.parquet",
        notes=["star/baselines/fact_old.json", "current/trials/fact_old.json"],
    ),
    "only_listed": held(),
    "only_noted": held(notes=["star/baselines/only_noted.json"]),
    "unlisted": held("star/unlisted/000001-aa.parquet", "star/unlisted/000003-bb.parquet"),
    "was_dimension": held("star/was_dimension/000001-aa.parquet", now="fact"),
    "was_fact": held("star/was_fact/000001-aa.parquet", "star/was_fact/000003-bb.parquet", now="dimension"),
}
KINDS: dict[str, Literal["dimension", "fact"]] = {
    "dim": "dimension",
    "fact": "fact",
    "Odd Fact": "fact",
    "dim_old": "dimension",
    "fact_gone": "fact",
    "fact_old": "fact",
    "only_listed": "dimension",
    "was_dimension": "dimension",
    "was_fact": "fact",
}
LISTED = {
    "dim": ["star/dim/000001-aa.parquet"],
    "fact": ["star/fact/000001-aa.parquet"],
    "only_listed": ["star/only_listed/000001-aa.parquet"],
    **{name: list(one.files) for name, one in GOES.items() if name in KINDS and one.files},
}


def star_of(files: Files) -> StarFiles:
    return StarFiles(files, Batches(files))


def commit(files: Files, *batches: int) -> None:
    for batch in batches:
        made = Manifest(
            format=FORMAT, batch=batch, lake="", run_id="", previous=None, sources={}, seconds=0, tables={}
        )
        Batches(files).commit(made)
    files.remove("raw/batches/newest")  # what an older version left has none


def listed(name: str) -> TableFiles:
    """A table as the manifest lists it, after batch 7."""
    files = [
        StarFile(
            path=path,
            version="v",
            batch=int(path.rpartition("/")[2][:6]),
            rows=0,
            bytes=len(path),
            checksum="",
        )
        for path in LISTED[name]
    ]
    return TableFiles(kind=KINDS[name], files=tuple(files))


@pytest.fixture
def filled(files: Files, store: Store) -> Files:
    """A lake after batch 7."""
    commit(files, *range(1, 8))
    star_of(files).publish({name: listed(name) for name in LISTED}, 7)
    store.fill([*STAYS, *(path for one in GOES.values() for path in (*one.files, *one.notes))])
    return files


def content(store: Store) -> dict[str, bytes]:
    """All but the manifests."""
    return {
        path: told
        for path, told in store.everything().items()
        if not re.fullmatch(r"(raw|star)/batches/[0-9]+(-[0-9]+)?\.json", path)
    }


def rest() -> dict[str, bytes]:
    return {path: path.encode() for path in STAYS}


def test_what_is_not_declared_is_found_and_removed_and_nothing_else(filled: Files, store: Store) -> None:
    before = store.everything()
    found = in_lake(star_of(filled), DECLARED)
    assert found == GOES
    assert found["fact_old"].bytes == 2 * len("star/fact_old/000001-aa.parquet")
    assert store.everything() == before
    remove(star_of(filled), {"fact_gone": found["fact_gone"]})
    assert in_lake(star_of(filled), DECLARED) == {
        name: one for name, one in GOES.items() if name != "fact_gone"
    }
    remove(star_of(filled), found)
    assert content(store) == rest()
    assert in_lake(star_of(filled), DECLARED) == {}
    assert (now := star_of(filled).manifest)
    assert now.tables == {name: listed(name) for name in ("dim", "fact")}
    if store.kind == "folder":
        assert not Path(store.url, "star/fact_gone").exists()
        assert not Path(store.url, "star", ODD).exists()
        assert Path(store.url, "star/fact_old").exists()


def test_a_table_is_taken_out_of_the_manifest_before_its_files_go(
    filled: Files, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who reads by the manifest of the moment meets a file that is gone."""
    removed, own = [], filled.remove

    def seen(path: str) -> None:
        now = star_of(filled).manifest
        assert now
        assert path not in {file.path for table in now.tables.values() for file in table.files}
        removed.append(path)
        own(path)

    found = in_lake(star_of(filled), DECLARED)
    monkeypatch.setattr(filled, "remove", seen)
    remove(star_of(filled), found)
    assert len(removed) == sum(len(one.files) + len(one.notes) for one in GOES.values())


def test_an_empty_lake_holds_nothing_to_retire(files: Files, store: Store) -> None:
    assert in_lake(star_of(files), DECLARED) == {}
    remove(star_of(files), {})
    assert store.everything() == {}


@pytest.mark.fault("F1")
def test_a_removal_that_ends_anywhere_is_finished_by_the_next_one(filled: Files, store: Store) -> None:
    """Of what is something else now, by the next ones that are made."""

    class Stopped(BaseException):
        pass

    def stopping(of: Callable[[str], None]) -> Callable[[str], None]:
        calls = count()

        def called(path: str) -> None:
            if next(calls) == 1:  # each time one file further
                raise Stopped
            of(path)

        return called

    own = filled.remove
    others = {name: one for name, one in GOES.items() if one.now is None}
    for _ in range(sum(len(one.files) + len(one.notes) for one in others.values()) - 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filled, "remove", stopping(own))
            found = in_lake(star_of(filled), DECLARED)
            with pytest.raises(Stopped):
                remove(star_of(filled), {name: one for name, one in found.items() if one.now is None})
    last = in_lake(star_of(filled), DECLARED)
    assert sum(len(one.files) + len(one.notes) for one in last.values() if one.now is None) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filled, "remove", stopping(own))
        with pytest.raises(Stopped):
            remove(star_of(filled), {name: one for name, one in last.items() if one.now})
    remove(star_of(filled), in_lake(star_of(filled), DECLARED))
    assert in_lake(star_of(filled), DECLARED) == {}
    assert set(content(store)) - set(rest()) == {
        "star/was_fact/000001-aa.parquet",
        "star/was_fact/000003-bb.parquet",
    }
    now = StarFile(path="star/was_fact/000007-cc.parquet", version="v", batch=7, rows=0, bytes=1, checksum="")
    star_of(filled).publish({"was_fact": TableFiles(kind="dimension", files=(now,))}, 7)
    assert content(store) == rest()


@pytest.mark.fault("F13")
def test_what_a_killed_writer_left_of_a_fact_goes_with_it(files: Files, store: Store) -> None:
    store.fill(["star/fact_old/000001-aa.parquet", "star/fact/000001-aa.parquet"])
    for name in ("fact_old", "fact"):
        if store.kind == "folder":
            files.staging(f"star/{name}/000002-bb.parquet").local.write_bytes(b"half")
        elif store.kind == "s3":
            store.client().create_multipart_upload(
                Bucket=store.bucket, Key=f"some/lake/star/{name}/000002-bb.parquet"
            )
        else:
            pytest.skip("Google shows nobody what was begun, and forgets it by itself")
    assert store.unfinished() == 2
    remove(star_of(files), in_lake(star_of(files), DECLARED))
    assert store.unfinished() == 1
    assert files.names("star/fact") == ["000001-aa.parquet"]
    assert files.folders("star") == ["fact"]


# -- the layout before this one --------------------------------------------------------------------------------------

OLDER = [
    "star/dim.parquet",
    "star/fact/000001.parquet",
    "star/fact/000002.parquet",
    "star/was_dimension.parquet",
    "star/was_fact/000001.parquet",
]
OLDER_GOES = {
    "dim_old": held("star/dim_old.parquet"),
    "fact_old": held(
        "star/fact_old/000001.parquet",
        "star/fact_old/000002.parquet",
        notes=["star/baselines/fact_old.json"],
    ),
}


@pytest.fixture
def older(files: Files, store: Store) -> Files:
    """A lake whose star has no manifest yet."""
    commit(files, 1, 2)
    store.fill([*STAYS, *OLDER, *(p for one in OLDER_GOES.values() for p in (*one.files, *one.notes))])
    return files


def test_of_an_older_layout_what_is_not_declared_can_be_retired(older: Files, store: Store) -> None:
    assert in_lake(star_of(older), DECLARED) == OLDER_GOES
    remove(star_of(older), in_lake(star_of(older), DECLARED))
    assert content(store) == {path: path.encode() for path in (*STAYS, *OLDER)}
    assert star_of(older).manifest is None


def test_all_rows_of_an_older_layout_go_before_the_first_manifest_is_there(
    older: Files, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    def stop(path: str, content: bytes) -> None:
        raise Stopped

    goes = {*OLDER, *(path for one in OLDER_GOES.values() for path in one.files)}
    notes = [path for one in OLDER_GOES.values() for path in one.notes]
    own = older.remove
    calls = count()
    with monkeypatch.context() as patch:
        patch.setattr(older, "remove", lambda path: stop(path, b"") if next(calls) == 3 else own(path))
        with pytest.raises(Stopped):
            star_of(older).publish({"dim": listed("dim")}, 2)
    assert len(goes & set(store.everything())) == len(goes) - 3
    with monkeypatch.context() as patch:
        patch.setattr(older, "create", stop)
        with pytest.raises(Stopped):
            star_of(older).publish({"dim": listed("dim")}, 2)
    assert content(store) == {path: path.encode() for path in (*STAYS, *notes)}
    # From then on there is nothing to look for.
    star_of(older).publish({"dim": listed("dim")}, 2)
    store.fill(["star/fact/000001.parquet"])
    star_of(older).publish({"dim": None}, 2)
    assert "star/fact/000001.parquet" in store.everything()
