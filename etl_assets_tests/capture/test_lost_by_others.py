"""What others lost in public, as it would have to happen here: no row is lost.

Each test names the report that it follows. What it describes was so on the day that is written there; it may be mended since.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, connect, execute
from etl_assets_tests.capture.test_plan import about_to_wrap as about_to_wrap

ITEM = Table("item", "", {"id": "int", "v": "text?"})
OTHER = Table("other", "", {"id": "int", "v": "text?"})
_TWENTY = (
    "CREATE TABLE item (id int PRIMARY KEY, v text)",
    "INSERT INTO item SELECT n, 'old' FROM generate_series(1, 20) AS n",
)
_OTHER = (
    "CREATE TABLE other (id int PRIMARY KEY, v text)",
    "INSERT INTO other SELECT n, 'old' FROM generate_series(1, 20) AS n",
)


@pytest.mark.fault("F7")
@pytest.mark.parametrize("syncs", ["between the commits", "after both"])
def test_transactions_that_commit_in_another_order_than_they_began(lake: Lake, syncs: str) -> None:
    """The one that began first and committed last was left out: https://github.com/dimitri/pgcopydb/issues/1044 (August 2026)."""
    execute(lake.url, *_TWENTY)
    lake.sync(ITEM)
    with (
        closing(connect(lake.url)) as one,
        closing(connect(lake.url)) as two,
        one.cursor() as first,
        two.cursor() as second,
    ):
        first.execute("BEGIN; INSERT INTO item VALUES (101, 'began first, committed last')")
        second.execute("BEGIN; INSERT INTO item VALUES (102, 'began last, committed first')")
        first.execute("UPDATE item SET v = 'first' WHERE id = 1")
        second.execute("UPDATE item SET v = 'second' WHERE id = 2")
        second.execute("COMMIT")
        if syncs == "between the commits":
            assert lake.sync(ITEM)
            assert lake.is_exact(ITEM)
        first.execute("COMMIT")
    last = lake.committed(ITEM)
    assert last.tables["item"].read == "horizon"
    assert lake.is_exact(ITEM)
    assert {("101", "began first, committed last"), ("102", "began last, committed first")} <= set(
        lake.held(ITEM).rows
    )


@pytest.mark.fault("F7")
def test_a_first_read_after_transaction_ids_wrapped_has_the_rows_of_before(
    about_to_wrap: Path, tmp_path: Path
) -> None:
    """Rows written before the wrap were filtered out, and the run said success:
    https://github.com/PostHog/posthog/pull/85687 (August 2026)."""
    with serve(about_to_wrap, settings={"fsync": "off", "autovacuum": "off"}) as url:
        execute(url, *_TWENTY)
        for n in range(200):
            execute(url, f"UPDATE item SET v = '{n}' WHERE id = {1 + n % 5}")
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > 2 ^ 32")
            assert cursor.fetchall() == [(True,)]
            cursor.execute("SELECT count(*) FROM item WHERE xmin::text::bigint > 2 ^ 31")
            assert cursor.fetchall() == [(15,)]
        lake = Lake(url, tmp_path)
        first = lake.committed(ITEM)
        assert first.tables["item"].rows == 20
        assert lake.is_exact(ITEM)
        execute(url, "UPDATE item SET v = 'after' WHERE id = 9; DELETE FROM item WHERE id = 10")
        assert lake.committed(ITEM).tables["item"].read == "horizon"
        assert lake.is_exact(ITEM)


@pytest.mark.fault("F25")
def test_a_lake_that_is_begun_anew_keeps_no_position_of_the_one_before(lake: Lake) -> None:
    """A reset emptied the copy and kept the position, so that only what came later was read again:
    https://github.com/PostHog/posthog/pull/95369 (September 2026). Here the position is in the manifests, and nowhere else."""
    execute(lake.url, *_TWENTY)
    lake.sync(ITEM)
    for path in sorted(lake.path.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    execute(lake.url, "UPDATE item SET v = 'new' WHERE id = 1")
    first = lake.committed(ITEM)
    assert (first.batch, first.tables["item"].read, first.tables["item"].rows) == (1, "whole", 20)
    assert lake.is_exact(ITEM)


@pytest.mark.fault("F20")
def test_one_table_changes_its_columns_while_others_have_changes(lake: Lake) -> None:
    """Rows of other tables, whose position had moved on, were dropped while one was read anew after a column went and keys
    moved: https://github.com/bruin-data/ingestr/pull/1182 (September 2026)."""
    execute(lake.url, *_TWENTY, *_OTHER)
    lake.sync(ITEM, OTHER)
    execute(lake.url, "ALTER TABLE item ADD extra int", "ALTER TABLE item DROP v")
    execute(
        lake.url,
        "BEGIN; UPDATE item SET id = id + 1000 WHERE id <= 10; UPDATE other SET v = 'new' WHERE id <= 10; "
        "DELETE FROM other WHERE id = 20; COMMIT",
    )
    narrow = Table("item", "", {"id": "int"})
    second = lake.committed(narrow, OTHER, deletion_brake=1)
    assert (second.tables["item"].read, second.tables["other"].read) == ("whole", "horizon")
    assert lake.is_exact(narrow, OTHER)
    execute(lake.url, "UPDATE other SET v = 'newer' WHERE id <= 10")
    lake.sync(narrow, OTHER)
    assert lake.is_exact(narrow, OTHER)


@pytest.mark.fault("F20")
def test_a_table_that_stops_the_batch_holds_the_position_of_all(lake: Lake) -> None:
    """The same where the changed table can't be carried on: no table's position moves without its rows."""
    execute(lake.url, *_TWENTY, *_OTHER)
    frozen = Table("item", "", {"id": "int"}, drift="freeze")
    lake.sync(frozen, OTHER)
    execute(lake.url, "ALTER TABLE item DROP v", "UPDATE other SET v = 'new' WHERE id <= 10")
    for _ in range(2):
        with pytest.raises(Exception, match="declared with drift='freeze'"):
            lake.sync(frozen, OTHER)
    thawed = Table("item", "", {"id": "int"})
    assert lake.committed(thawed, OTHER).tables["other"].read == "horizon"
    assert lake.is_exact(thawed, OTHER)


@pytest.mark.fault("F6")
def test_of_two_positions_the_one_that_was_committed_counts_and_not_the_larger(
    lake: Lake, database: Callable[..., str]
) -> None:
    """Of an old position (100) and that of a new beginning (40) the larger one was kept, and what lay between was skipped:
    https://github.com/supabase/etl/pull/935 (July 2026). Here a batch of another run that read further is withdrawn with
    its position: the next one goes on from the last that was committed."""
    execute(lake.url, *_TWENTY)
    held = lake.committed(ITEM)
    execute(lake.url, "UPDATE item SET v = 'between' WHERE id <= 12")
    lake.committed(ITEM)
    (lake.path / "raw/batches/000002.json").unlink()  # set back, as from a backup: what it had read is gone
    execute(lake.url, "UPDATE item SET v = 'later' WHERE id <= 3")
    next_ = lake.committed(ITEM)
    assert (next_.batch, next_.tables["item"].read) == (2, "horizon")
    assert f"since transaction {held.tables['item'].horizon}" in next_.tables["item"].why
    assert lake.is_exact(ITEM)


@pytest.mark.fault("F20")
@pytest.mark.parametrize("default", ["'x'", "clock_timestamp()::text"])
def test_a_column_that_is_added_with_a_default_has_it_in_every_row(lake: Lake, default: str) -> None:
    """Rows of before were left without it until the whole table was loaded again, and a column that was dropped stayed, with
    NULL in what came later: https://docs.peerdb.io/features/schema-changes (as of November 2026)."""
    execute(lake.url, *_TWENTY)
    lake.sync(ITEM)
    execute(lake.url, f"ALTER TABLE item ADD late text NOT NULL DEFAULT {default}")
    lake.sync(ITEM)
    assert lake.is_exact(ITEM)
    assert all(row[2] for row in lake.held(ITEM).rows)
    execute(lake.url, "ALTER TABLE item DROP late")
    lake.sync(ITEM)
    assert lake.held(ITEM).columns == ("id", "v")
    assert lake.is_exact(ITEM)
