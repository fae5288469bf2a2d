"""The workbook asset fills a Google spreadsheet as it fills a file."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from etl_assets.exports.sheets import Sheets
from etl_assets.stand_ins.sheets import SheetsStandIn, serve_sheets
from etl_assets.stand_ins.sheets_books import Book
from etl_assets_tests.exports.conftest import Star


@pytest.fixture
def api() -> Iterator[SheetsStandIn]:
    with serve_sheets() as stand_in:
        stand_in.books["1AbC"] = Book()
        yield stand_in


def test_the_reports_become_tabs_and_the_second_time_nothing_is_written(
    star: Star, api: SheetsStandIn, metadata: Callable[[dg.ExecuteInProcessResult], Mapping[str, Any]]
) -> None:
    target = Sheets(spreadsheet="1AbC", endpoint=api.url, first_wait_seconds=0)
    first, second = (metadata(star.publish(workbook=target))["sales_workbook"] for _ in range(2))
    assert first["path"] == "https://docs.google.com/spreadsheets/d/1AbC"
    assert (first["sheets"], first["unchanged"], second["unchanged"]) == (3, False, True)
    assert first["version"] == second["version"]
    shown = api.books["1AbC"].visible()
    assert list(shown) == ["Sheet1", "Sales by month", "Unpaid payments", "Top designs"]
    assert shown["Unpaid payments"][1][2] == "=SUM(A1:A9)", (
        "a formula stays text all the way from the warehouse"
    )
