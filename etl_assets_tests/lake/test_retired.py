"""What a lake holds of star tables that are no longer declared is found and removed, and nothing else is."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from etl_assets.engine.schema import Column, Dimension, Fact, StarTable
from etl_assets.lake.files import Files
from etl_assets.lake.retired import InLake, in_lake, remove
from etl_assets_tests.object_stores import Store


def dimension(name: str) -> StarTable:
    return Dimension(name, "", "id", [Column("id", "int")])


def fact(name: str) -> StarTable:
    return Fact(name, "", "id", [Column("id", "int")], record="record_id")


DECLARED = {
    table.name: table
    for table in (dimension("dim"), fact("fact"), dimension("was_fact"), fact("was_dimension"))
}
STAYS = [
    "current/dim_old/000001.parquet",
    "current/trials/dim.json",
    "current/trials/was_fact.json",
    "raw/batches/000001.json",
    "raw/dim_old/000001.csv",
    "star/baselines/fact.json",
    "star/batches/000001.parquet",
    "star/dim.parquet",
    "star/fact/000001.parquet",
    "star/fact_old/of somebody.txt",
    "star/notes.txt",
    "star/of_somebody/notes.parquet",
    "star/was_dimension/000001.parquet",
    "star/was_fact.parquet",
]
GOES = {
    "dim_old": InLake({"star/dim_old.parquet": 20}, {"current/trials/dim_old.json": 27}),
    "fact_gone": InLake({"star/fact_gone/000007.parquet": 29}),
    "fact_old": InLake(
        {"star/fact_old/000001.parquet": 28, "star/fact_old/000002.parquet": 28},
        {"star/baselines/fact_old.json": 28, "current/trials/fact_old.json": 28},
    ),
    "only_noted": InLake({}, {"star/baselines/only_noted.json": 30}),
    "was_dimension": InLake({"star/was_dimension.parquet": 26}, now="fact"),
    "was_fact": InLake(
        {"star/was_fact/000001.parquet": 28, "star/was_fact/000003.parquet": 28}, now="dimension"
    ),
}


@pytest.fixture
def filled(files: Files, store: Store) -> Files:
    store.fill([*STAYS, *(path for held in GOES.values() for path in (*held.files, *held.notes))])
    return files


def test_what_is_not_declared_is_found_and_removed_and_nothing_else(filled: Files, store: Store) -> None:
    before = store.everything()
    found = in_lake(filled, DECLARED)
    assert found == GOES
    assert found["fact_old"].bytes == 56
    assert store.everything() == before
    remove(filled, {"fact_gone": found["fact_gone"]})
    assert in_lake(filled, DECLARED) == {name: held for name, held in GOES.items() if name != "fact_gone"}
    remove(filled, found)
    assert store.everything() == {path: path.encode() for path in STAYS}
    assert in_lake(filled, DECLARED) == {}
    if store.kind == "folder":
        assert not Path(store.url, "star/fact_gone").exists()
        assert Path(store.url, "star/fact_old").exists()


def test_an_empty_lake_holds_nothing_to_retire(files: Files, store: Store) -> None:
    assert in_lake(files, DECLARED) == {}
    assert store.everything() == {}


def test_a_removal_that_ends_anywhere_is_finished_by_the_next_one(filled: Files, store: Store) -> None:
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
    for _ in range(sum(len(held.files) + len(held.notes) for held in GOES.values()) - 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filled, "remove", stopping(own))
            with pytest.raises(Stopped):
                remove(filled, in_lake(filled, DECLARED))
    assert len(store.everything()) == len(STAYS) + 1
    remove(filled, in_lake(filled, DECLARED))
    assert store.everything() == {path: path.encode() for path in STAYS}


def test_what_a_killed_writer_left_of_a_fact_goes_with_it(files: Files, store: Store) -> None:
    store.fill(["star/fact_old/000001.parquet", "star/fact/000001.parquet"])
    for name in ("fact_old", "fact"):
        if store.kind == "folder":
            files.staging(f"star/{name}/000002.parquet").local.write_bytes(b"half")
        elif store.kind == "s3":
            store.client().create_multipart_upload(
                Bucket=store.bucket, Key=f"some/lake/star/{name}/000002.parquet"
            )
        else:
            pytest.skip("Google shows nobody what was begun, and forgets it by itself")
    assert store.unfinished() == 2
    remove(files, in_lake(files, DECLARED))
    assert store.unfinished() == 1
    assert files.names("star/fact") == ["000001.parquet"]
    assert files.folders("star") == ["fact"]
