"""What every tool that follows a cursor loses: the rows of transactions that began before a sync and ended after it."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from etl_assets.source.snapshot import take_snapshot
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, connect, execute

ITEM = Table("item", "", {"id": "int", "v": "text?"})
_HUNDRED = (
    "CREATE TABLE item (id int PRIMARY KEY, v text, last_updated timestamptz NOT NULL DEFAULT now())",
    "INSERT INTO item SELECT n, 'old' FROM generate_series(1, 100) AS n",
)


def has(lake: Lake, key: int) -> str | None:
    """The value that the lake holds of an item; "none" if it holds no such item."""
    values = {row[0]: row[1] for row in lake.held(ITEM).rows}
    return values.get(str(key), "none")


@pytest.fixture(scope="module")
def preparing(postgres_folder: Path) -> Iterator[str]:
    """A server that allows prepared transactions."""
    with serve(
        postgres_folder / "preparing", settings={"max_prepared_transactions": "5", "fsync": "off"}
    ) as url:
        yield url


@pytest.mark.fault("F7")
@pytest.mark.parametrize("first_sync_before", [True, False])
def test_late_commits_and_deletions_arrive_with_the_next_batch(lake: Lake, first_sync_before: bool) -> None:
    execute(lake.url, *_HUNDRED)
    if first_sync_before:
        lake.sync(ITEM)
    with closing(connect(lake.url)) as session, session.cursor() as first:
        first.execute("BEGIN")
        first.execute("INSERT INTO item VALUES (1001, 'late')")
        first.execute("UPDATE item SET v = 'late', last_updated = now() WHERE id = 1")
        execute(lake.url, "INSERT INTO item VALUES (1002, 'early')")
        lake.sync(ITEM)
        assert (has(lake, 1001), has(lake, 1), has(lake, 1002)) == ("none", "old", "early")
        assert lake.is_exact(ITEM)
        first.execute("COMMIT")
    execute(lake.url, "DELETE FROM item WHERE id = 50")
    second = lake.sync(ITEM)
    assert second is not None
    assert second.tables["item"].read == "horizon"
    assert (has(lake, 1001), has(lake, 1), has(lake, 1002), has(lake, 50)) == (
        "late",
        "late",
        "early",
        "none",
    )
    assert lake.is_exact(ITEM)
    changes = second.changed["item"]
    assert (changes.new, changes.changed, changes.deleted) == (1, 1, 1)


@pytest.mark.fault("F7")
def test_rows_of_savepoints_arrive_however_many_syncs_their_transaction_outlives(lake: Lake) -> None:
    execute(lake.url, *_HUNDRED)
    lake.sync(ITEM)
    with closing(connect(lake.url)) as session, session.cursor() as first:
        first.execute("BEGIN")
        first.execute("UPDATE item SET v = 'outer' WHERE id = 1")
        for n in range(3):
            # Each savepoint has a transaction id of its own, later than the snapshot before it.
            first.execute(f"SAVEPOINT s{n}")
            first.execute(f"UPDATE item SET v = 'inner {n}' WHERE id = {10 + n}")
            first.execute(f"INSERT INTO item VALUES ({2000 + n}, 'inner')")
            execute(lake.url, f"INSERT INTO item VALUES ({3000 + n}, 'meanwhile')")
            assert lake.sync(ITEM)
            assert lake.is_exact(ITEM)
        first.execute("ROLLBACK TO SAVEPOINT s2")
        first.execute("RELEASE SAVEPOINT s1")
        lake.sync(ITEM)
        assert lake.is_exact(ITEM)
        first.execute("COMMIT")
    last = lake.sync(ITEM)
    assert last is not None
    assert last.tables["item"].read == "horizon"
    assert [has(lake, key) for key in (1, 10, 11, 12)] == ["outer", "inner 0", "inner 1", "old"]
    assert [has(lake, key) for key in (2000, 2001, 2002)] == ["inner", "inner", "none"]
    assert lake.is_exact(ITEM)


@pytest.mark.fault("F7")
def test_a_prepared_transaction_arrives_with_the_batch_after_its_second_phase(
    preparing: str, tmp_path: Path
) -> None:
    lake = Lake(preparing, tmp_path)
    execute(lake.url, *_HUNDRED)
    lake.sync(ITEM)
    execute(
        lake.url,
        "BEGIN; INSERT INTO item VALUES (1001, 'late'); UPDATE item SET v = 'late' WHERE id = 1;"
        "DELETE FROM item WHERE id = 2; PREPARE TRANSACTION 'kept'",
        "BEGIN; INSERT INTO item VALUES (1003, 'never'); PREPARE TRANSACTION 'dropped'",
        "INSERT INTO item VALUES (1002, 'early')",
    )
    for n in range(2):
        execute(lake.url, f"UPDATE item SET v = 'later' WHERE id = {60 + n}")
        assert lake.sync(ITEM)
        assert lake.is_exact(ITEM)
    execute(lake.url, "COMMIT PREPARED 'kept'", "ROLLBACK PREPARED 'dropped'")
    last = lake.sync(ITEM)
    assert last is not None
    assert last.tables["item"].read == "horizon"
    assert [has(lake, key) for key in (1001, 1, 2, 1003)] == ["late", "late", "none", "none"]
    assert lake.is_exact(ITEM)


def test_a_sync_while_nothing_changed_makes_no_batch_however_long_transactions_stay_open(lake: Lake) -> None:
    execute(lake.url, *_HUNDRED)
    with closing(connect(lake.url)) as session, session.cursor() as first:
        first.execute("BEGIN; UPDATE item SET v = 'late' WHERE id = 1")
        assert lake.sync(ITEM)
        execute(lake.url, "UPDATE item SET v = v WHERE id > 50", "VACUUM item")
        assert lake.sync(ITEM) is None
        first.execute("ROLLBACK")
    assert lake.sync(ITEM) is None
    assert lake.is_exact(ITEM)


@pytest.mark.fault("F21")
def test_a_table_truncated_and_filled_again_in_one_transaction_shows_only_what_differs(lake: Lake) -> None:
    execute(lake.url, *_HUNDRED)
    lake.sync(ITEM)
    execute(
        lake.url,
        "BEGIN; CREATE TEMP TABLE kept AS TABLE item; TRUNCATE item;"
        "INSERT INTO item SELECT * FROM kept WHERE id > 1; COMMIT",
    )
    changes = lake.committed(ITEM).changed["item"]
    assert (changes.new, changes.changed, changes.deleted) == (0, 0, 1)
    assert lake.is_exact(ITEM)


def test_what_others_write_after_the_snapshot_is_not_waited_for(lake: Lake) -> None:
    """Nor what the server writes because its pages are read: that may stay unwritten for long, and is no commit."""
    execute(lake.url, *_HUNDRED)
    with (
        closing(connect(lake.url)) as other,
        other.cursor() as cursor,
        take_snapshot(
            lake.url, [ITEM], lake="a lake", run_id="a run", connections=1, wait_seconds=1
        ) as taken,
    ):
        taken.flushed()  # until what it saw is on disk
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO item SELECT n, 'never committed' FROM generate_series(101, 110) AS n")
        started = time.monotonic()
        taken.flushed()
        assert time.monotonic() - started < 0.5
