"""The sums that prove a batch are exact, whatever they add up to."""

from decimal import Decimal

from etl_assets.capture.table import Table
from etl_assets_tests.capture.comparing import Lake, execute

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
