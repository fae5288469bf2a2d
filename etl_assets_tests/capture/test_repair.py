"""Landed files that are damaged or lost: what is still known takes their place, and what is not is named."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from etl_assets.engine import duck
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import Current
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import LandedFile, Manifest, Superseded
from etl_assets.raw import repair as repairing
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute

T = Table("t", "", {"id": "int", "v": "text?", "n": "decimal(10,2)?"})
_BEGUN = (
    "CREATE TABLE t (id int PRIMARY KEY, v text, n numeric(10,2))",
    "INSERT INTO t SELECT n, 'v' || n, n FROM generate_series(1, 50) n",
)


def filled(lake: Lake) -> None:
    """Three batches: rows, changes of some, and rows that go."""
    execute(lake.url, *_BEGUN)
    lake.sync(T)
    execute(
        lake.url, "UPDATE t SET v = 'second', n = 7 WHERE id <= 10", "INSERT INTO t VALUES (51, 'new', 1)"
    )
    lake.sync(T)
    execute(lake.url, "UPDATE t SET v = 'third' WHERE id IN (5, 6)", "DELETE FROM t WHERE id IN (2, 40)")
    lake.sync(T)


def file_of(lake: Lake, batch: int, kind: str = "rows") -> Path:
    file: LandedFile = getattr(Batches(lake.files).get(batch).changed["t"], kind)
    return lake.path / file.path


def mend(lake: Lake, *tables: Table) -> tuple[Manifest, dict[str, Superseded]]:
    request = CaptureRequest(lake.url, tables or [T], "repair", quarantine_limit=1)
    done = repairing.repair(request, Batches(lake.files), lake.folder)
    assert done
    return lake.latest(), {one.path: one for one in done}


def content(lake: Lake, batch: int) -> Counter[tuple[object, ...]]:
    """The rows of a batch by the landed files alone, with whether each is deleted."""
    batches = Batches(lake.files)
    with duck.connect(lake.folder) as connection:
        current = Current(batches, connection, from_batches_alone=True)
        return Counter(current.fold("t", batches.get(batch)).relation.fetchall())


def test_nothing_damaged_means_nothing_done(lake: Lake) -> None:
    filled(lake)
    before = lake.everything()
    assert repairing.repair(CaptureRequest(lake.url, [T], "repair"), Batches(lake.files), lake.folder) == ()
    assert lake.everything() == before


@pytest.mark.fault("F15")
@pytest.mark.many
@pytest.mark.parametrize("harm", ["flipped", "cut", "lost", "swapped"])
def test_rows_that_have_not_changed_since_come_back_in_their_batch(lake: Lake, harm: str) -> None:
    filled(lake)
    path = file_of(lake, 1)
    spoil(path, harm, other=file_of(lake, 2))
    with pytest.raises(LakeError, match="etl repair"):
        content(lake, 3)
    manifest, superseded = mend(lake)
    (one,) = superseded.values()
    assert manifest.batch == 4
    assert one.path == str(path.relative_to(lake.path))
    assert one.by
    # Of 50 rows, 10 were changed in the second batch and 40 was deleted in the third: only that it was is known.
    assert one.by.rows == 39
    assert "39 of 50 rows are known" in one.reason
    assert one.lost == ("40",)
    kept = [n for n in range(11, 51) if n != 40]
    assert {(int(str(row[0])), row[1]) for row in content(lake, 1)} == {(n, f"v{n}") for n in kept}
    assert lake.sync(T, whole=True)
    assert lake.is_exact(T)
    execute(lake.url, "UPDATE t SET v = 'later' WHERE id = 20", "DELETE FROM t WHERE id = 21")
    assert lake.sync(T)
    assert lake.latest().tables["t"].read == "horizon"
    assert lake.is_exact(T)
    # Once more: there is nothing left to repair, and a second damage is repaired like the first.
    assert repairing.find_damage(Batches(lake.files), lake.latest()) == []
    spoil(lake.path / one.by.path, "lost")
    mend(lake)
    lake.sync(T, whole=True)
    assert lake.is_exact(T)


def spoil(path: Path, harm: str, other: Path | None = None) -> None:
    if harm == "lost":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif harm == "swapped" and other:
        path.write_bytes(other.read_bytes())
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


@pytest.mark.fault("F15")
@pytest.mark.many
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", ["rows", "deletions"])
def test_whatever_is_lost_the_rows_of_now_are_right_after_the_next_run(
    lake: Lake, batch: int, kind: str
) -> None:
    filled(lake)
    if kind == "deletions" and batch < 3:
        pytest.skip("nothing was deleted then")
    file_of(lake, batch, kind).unlink()
    mend(lake)
    lake.sync(T, whole=True)
    assert lake.is_exact(T)


def test_a_fold_of_older_batches_knows_what_the_source_has_no_longer(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
    filled(lake)
    assert list((lake.path / "current/t").iterdir())
    lost = file_of(lake, 1)
    lost.unlink()
    _, superseded = mend(lake)
    assert superseded[str(lost.relative_to(lake.path))].lost == ()
    lake.sync(T, whole=True)
    assert lake.is_exact(T)
    deleted = {row[0] for row in content(lake, lake.latest().batch) if row[-1]}
    assert {str(key) for key in deleted} == {"2", "40"}


def test_several_tables_and_files_at_once(lake: Lake) -> None:
    other = Table("u", "", {"id": "int"})
    execute(lake.url, "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u SELECT generate_series(1, 9)")
    execute(lake.url, *_BEGUN)
    random = Random(7)
    for n in range(6):
        execute(
            lake.url,
            f"UPDATE t SET v = 'round {n}' WHERE id % 6 = {n}",
            f"DELETE FROM t WHERE id = {30 + n}",
            f"INSERT INTO u VALUES ({100 + n})",
        )
        lake.sync(T, other)
    landed = sorted((lake.path / "raw/t").iterdir()) + sorted((lake.path / "raw/u").iterdir())
    for path in random.sample(landed, 7):
        spoil(path, random.choice(["flipped", "cut", "lost"]))
    mend(lake, T, other)
    lake.sync(T, other, whole=True)
    assert lake.is_exact(T, other)


# Each makes rows that are older than the first batch show what it did not read of them.
_OTHERWISE = {
    "labels": "ALTER TYPE mood RENAME VALUE 'v' TO 'w'",
    "the place of a column": "ALTER TABLE t DROP v; ALTER TABLE t ADD v text DEFAULT 'w'",
    "a column that is gone": "ALTER TABLE t DROP n",
    "rows of a part": "CREATE TABLE part PARTITION OF t FOR VALUES FROM (100) TO (200); INSERT INTO part VALUES (101, 'v', 1); "
    "ALTER TABLE t DETACH PARTITION part",
}


@pytest.mark.parametrize("what", _OTHERWISE)
def test_rows_that_are_read_otherwise_since_are_not_taken_for_those_of_their_batch(
    lake: Lake, what: str
) -> None:
    execute(
        lake.url,
        "CREATE TYPE mood AS enum ('v')",
        "CREATE TABLE t (id int PRIMARY KEY, v mood, n numeric(10,2)) PARTITION BY RANGE (id)",
        "CREATE TABLE first PARTITION OF t FOR VALUES FROM (1) TO (100)",
        "INSERT INTO t SELECT n, 'v', n FROM generate_series(1, 9) n",
    )
    parted = what == "rows of a part"
    if parted:
        execute(lake.url, _OTHERWISE[what])
    table = T if what != "a column that is gone" else Table("t", "", {"id": "int", "v": "text?"})
    lake.sync(table)
    execute(
        lake.url,
        "ALTER TABLE t ATTACH PARTITION part FOR VALUES FROM (100) TO (200)" if parted else _OTHERWISE[what],
    )
    lake.sync(table)
    path = file_of(lake, 1)
    path.unlink()
    _, superseded = mend(lake, table)
    assert superseded[str(path.relative_to(lake.path))].by is None
    assert lake.sync(table, whole=True, allow_deletions=frozenset({"all"}))
    assert lake.is_exact(table)


def test_rows_come_back_in_their_batch_though_columns_were_added_since(lake: Lake) -> None:
    filled(lake)
    execute(lake.url, "ALTER TABLE t ADD more text DEFAULT 'x'")
    lake.sync(T)
    path = file_of(lake, 1)
    path.unlink()
    _, superseded = mend(lake)
    assert "39 of 50 rows are known" in superseded[str(path.relative_to(lake.path))].reason
    lake.sync(T, whole=True)
    assert lake.is_exact(T)


def test_a_copy_of_the_source_does_not_say_what_the_one_before_had(
    lake: Lake, database: Callable[..., str]
) -> None:
    """Its rows have the versions of the database that it was copied from."""
    execute(lake.url, *_BEGUN)
    golden = lake.url.rsplit("/", 1)[1]
    first = Lake(database(golden), lake.folder)
    execute(lake.url, "UPDATE t SET v = 'later' WHERE id <= 10")
    first.sync(T)
    name = first.url.rsplit("/", 1)[1]
    execute(lake.url, f"DROP DATABASE {name} WITH (FORCE)")
    again = database(golden)
    execute(lake.url, f"ALTER DATABASE {again.rsplit('/', 1)[1]} RENAME TO {name}")
    path = file_of(first, 1)
    path.unlink()
    _, superseded = mend(first)
    assert superseded[str(path.relative_to(lake.path))].by is None
    first.sync(T, whole=True)
    assert first.is_exact(T)


@pytest.mark.fault("F1")
def test_a_repair_that_is_killed_is_repeated(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files that it landed and did not commit are swept by the next run; the lake is as it was before."""
    filled(lake)
    file_of(lake, 2).unlink()
    kept = tmp_path_factory.mktemp("kept") / "lake"
    shutil.copytree(lake.path, kept)

    def killed(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("etl_assets.raw.landing.Landing.commit", killed)
        with pytest.raises(RuntimeError):
            mend(lake)
    left = set(lake.everything()) - {str(p.relative_to(kept)) for p in kept.rglob("*")}
    assert left
    mend(lake)
    lake.sync(T, whole=True)
    assert not left & set(lake.everything())
    assert lake.is_exact(T)


def test_a_lake_of_another_database_is_not_repaired_from_it(lake: Lake, database: Callable[..., str]) -> None:
    filled(lake)
    file_of(lake, 1).unlink()
    other = Lake(database(), lake.folder)
    execute(other.url, *_BEGUN)
    with pytest.raises(Exception, match="another database"):
        mend(other)
