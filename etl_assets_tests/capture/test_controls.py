"""The sums that prove a batch are exact, whatever they add up to."""

from contextlib import closing
from decimal import Decimal

import pytest

from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, connect, execute

LEDGER = Table("ledger", "", {"id": "int", "amount": "numeric(38,10)"})


def test_sums_of_more_digits_than_python_keeps_are_proven(lake: Lake) -> None:
    execute(
        lake.url,
        "CREATE TABLE ledger (id int PRIMARY KEY, amount numeric(38,10) NOT NULL)",
        "INSERT INTO ledger VALUES (1, 1234567890123456789012345.0123456789), (2, 0.0000000001), (3, 7)",
        "INSERT INTO ledger SELECT n, 0 FROM generate_series(4, 9) AS n",
    )
    first = lake.sync(LEDGER)
    assert first is not None
    assert Decimal(first.tables["ledger"].controls["amount"].held or 0) == Decimal(
        "1234567890123456789012352.0123456790"
    )
    execute(
        lake.url,
        "UPDATE ledger SET amount = amount + 0.0000000003 WHERE id = 1",
        "DELETE FROM ledger WHERE id = 3",
    )
    second = lake.sync(LEDGER)
    assert second is not None
    assert second.tables["ledger"].read == "horizon"
    assert Decimal(second.tables["ledger"].controls["amount"].held or 0) == Decimal(
        "1234567890123456789012345.0123456793"
    )
    assert lake.is_exact(LEDGER)


def test_arrays_and_ranges_of_numbers_and_days_are_not_added_up(lake: Lake) -> None:
    holiday = Table("holiday", "", {"id": "int", "scores": "int?", "days": "text", "weeks": "text"})
    execute(
        lake.url,
        "CREATE TABLE holiday (id int PRIMARY KEY, scores int[], days daterange, weeks datemultirange)",
        "INSERT INTO holiday VALUES (1, NULL, '[2024-01-01,2024-01-06)', '{[2024-01-01,2024-01-08)}')",
    )
    for change in ("SELECT", "UPDATE holiday SET days = 'empty'"):
        execute(lake.url, change)
        assert lake.sync(holiday) is not None
        assert lake.is_exact(holiday)
    assert lake.latest().tables["holiday"].controls == {}


@pytest.mark.parametrize(
    ("type_", "declared", "value", "rows"),
    [
        ("numeric(38,0)", "numeric(38,0)", "9e37", 30),
        ("numeric(38,0)", "numeric(38,0)", "-9e37", 30),
        ("numeric(38,38)", "numeric(38,38)", "0.99999999999999999999999999999999999999", 300),
        ("numeric", "numeric(38,10)", "-9999999999999999999999999999.0123456789", 100),
        ("bigint", "bigint", "9223372036854775807", 100),
    ],
)
def test_sums_are_exact_whatever_the_number_of_their_digits(
    lake: Lake, type_: str, declared: str, value: str, rows: int
) -> None:
    table = Table("t", "", {"id": "int", "n": declared})
    execute(
        lake.url,
        f"CREATE TABLE t (id int PRIMARY KEY, n {type_})",
        f"INSERT INTO t SELECT x, {value} FROM generate_series(1, {rows}) x",
    )
    lake.sync(table)
    execute(
        lake.url,
        "UPDATE t SET n = n - n / 3 WHERE id % 7 = 0"
        if type_ != "numeric"
        else "UPDATE t SET n = 1 WHERE id = 7",
    )
    execute(lake.url, "DELETE FROM t WHERE id = 5")
    lake.sync(table)
    lake.sync(table, whole=True)
    assert lake.is_exact(table)
    with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sum(n)::text FROM t")
        ((told,),) = cursor.fetchall()
    control = lake.latest().tables["t"].controls["n"]
    assert (Decimal(str(control.held)), control.sum) == (Decimal(told), told)
