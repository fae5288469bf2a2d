"""Days that are far away: what nothing after the star could hold is quarantined, and the calendar stays a calendar."""

import datetime as dt
from pathlib import Path

import pytest

from etl_assets_tests.flow import Flow, execute


@pytest.mark.fault("F19")
def test_a_year_of_five_digits_is_quarantined_and_stops_no_calendar(bicycles: str, tmp_path: Path) -> None:
    execute(bicycles, "UPDATE payment SET due = '20240-05-01' WHERE payment_id = 3")
    flow = Flow(bicycles, tmp_path)
    run = flow.run()
    assert run.success, run.error_lines
    (misfit,) = flow.landed(flow.changes(flow.manifests()[0])["payment"]["quarantined"])
    assert (misfit["key"], misfit["column"], misfit["value"]) == ("3", "due", "20240-05-01")
    assert flow.query("SELECT count(*) FROM star.fact_payment WHERE payment_id = 3") == [(0,)]
    execute(bicycles, "UPDATE payment SET due = '2024-05-01' WHERE payment_id = 3")
    mended = flow.run()
    assert mended.success, mended.error_lines
    assert flow.query("SELECT due FROM star.fact_payment_current WHERE payment_id = 3") == [
        (dt.date(2024, 5, 1),)
    ]


def test_days_that_mean_never_are_in_the_calendar_without_those_between(
    bicycles: str, tmp_path: Path
) -> None:
    flow = Flow(bicycles, tmp_path)
    assert flow.run().success
    usual = flow.query("SELECT count(*) FROM star.dim_date")
    execute(bicycles, "UPDATE payment SET due = '9999-12-31' WHERE payment_id = 3")
    execute(bicycles, "UPDATE payment SET due = '0001-01-01' WHERE payment_id = 4")
    execute(bicycles, "UPDATE hire SET returned_on = '9999-12-31' WHERE hire_id = 2")
    run = flow.run()
    assert run.success, run.error_lines
    assert flow.query("SELECT count(*) - 2 FROM star.dim_date") == usual
    assert flow.query(
        "SELECT date_id, day_name FROM star.dim_date JOIN star.fact_payment_current ON date_id = due "
        "WHERE payment_id IN (3, 4) ORDER BY 1"
    ) == [(dt.date(1, 1, 1), "Monday"), (dt.date(9999, 12, 31), "Friday")]
