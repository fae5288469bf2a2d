"""What is not plausible stops a batch, and says so of all tables at once; small tables change as they like."""

import pytest

from etl_assets.raw.brakes import EVERY, FEW_ROWS, TooMuch
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute

T = Table("t", "", {"id": "int", "v": "text?"})
U = Table("u", "", {"id": "int", "v": "text?"})
DATES = Table("d", "", {"id": "int", "v": "date?"})


def begun(lake: Lake, rows: int) -> None:
    for name in "tud":
        execute(
            lake.url,
            f"CREATE TABLE {name} (id int PRIMARY KEY, v text)",
            f"INSERT INTO {name} SELECT n, '2026-01-01' FROM generate_series(1, {rows}) n",
        )
    lake.sync(T, U, DATES)


def test_a_few_rows_of_a_small_table_may_go_or_not_fit(lake: Lake) -> None:
    begun(lake, FEW_ROWS)
    execute(lake.url, "DELETE FROM t", "UPDATE d SET v = 'never'")
    assert lake.sync(T, U, DATES)
    assert lake.latest().tables["t"].rows == 0


@pytest.mark.fault("F21", "F22")
def test_all_tables_that_are_stopped_are_named_with_one_flag_for_each_kind(lake: Lake) -> None:
    begun(lake, 100)
    execute(
        lake.url,
        "DELETE FROM t WHERE id <= 21",
        "DELETE FROM u WHERE id <= 50",
        "UPDATE d SET v = 'never' WHERE id <= 6",
    )
    before = lake.everything()
    with pytest.raises(TooMuch) as stopped:
        lake.sync(T, U, DATES)
    told = str(stopped.value)
    assert "\n" not in told
    assert "21 of 100 rows of t are gone from the source, more than 20%" in told
    assert "50 of 100 rows of u are gone" in told
    assert (
        "6 rows of d hold values that don't fit their declared types (the v of 1 is no date), more than 5%"
        in told
    )
    assert told.endswith("Then run again with --allow-deletions all and --allow-misfits all")
    assert lake.everything() == before
    with pytest.raises(TooMuch, match=r"run again with --allow-misfits d$"):
        lake.sync(T, U, DATES, allow_deletions=frozenset({"t", "u"}))
    assert lake.sync(T, U, DATES, allow_deletions=frozenset({EVERY}), allow_misfits=frozenset({"d"}))
    assert {name: state.rows for name, state in lake.latest().tables.items()} == {"t": 79, "u": 50, "d": 100}


@pytest.mark.parametrize(
    ("type_", "told"),
    [
        (
            "char(8)",
            r" \(its key id is character\(8\), was character\(5\): one that is written otherwise is another key\)",
        ),
        ("text", r" \(its key id is text, was character\(5\): "),
    ],
)
def test_a_key_that_is_written_otherwise_since_its_type_changed_is_told_so(
    lake: Lake, type_: str, told: str
) -> None:
    table = Table("t", "", {"id": "text"})
    execute(
        lake.url,
        "CREATE TABLE t (id char(5) PRIMARY KEY)",
        "INSERT INTO t SELECT n FROM generate_series(1, 40) n",
    )
    lake.sync(table)
    execute(lake.url, f"ALTER TABLE t ALTER id TYPE {type_}")
    with pytest.raises(TooMuch, match=f"40 of 40 rows of t are gone from the source, more than 20%{told}"):
        lake.sync(table)
    assert lake.sync(table, allow_deletions=frozenset({"t"}))
    assert lake.is_exact(table)


def test_a_key_that_is_written_alike_since_its_type_changed_is_no_reason(lake: Lake) -> None:
    table = Table("t", "", {"id": "text"})
    execute(
        lake.url,
        "CREATE TABLE t (id varchar(5) PRIMARY KEY)",
        "INSERT INTO t SELECT n FROM generate_series(1, 40) n",
    )
    lake.sync(table)
    execute(lake.url, "ALTER TABLE t ALTER id TYPE text", "DELETE FROM t WHERE id <> '7'")
    with pytest.raises(TooMuch, match=r"39 of 40 rows of t are gone from the source, more than 20%; "):
        lake.sync(table)
