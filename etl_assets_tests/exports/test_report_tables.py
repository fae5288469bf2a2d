"""Reporting tables are replaced whole, in exact types, and only when they changed."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.exports import duckdb as report_tables
from etl_assets.exports.duckdb import ReportTablesError, preview
from etl_assets.faults import Fault
from etl_assets.totesys.reports import sales_by_month
from etl_assets.warehouse.contract import WarehouseDamaged, WarehouseError, WarehouseInUse
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets_tests.exports.conftest import Star
from etl_assets_tests.shipped import REPORTS

Metadata = Callable[[dg.ExecuteInProcessResult], dict[str, dict[str, Any]]]


def frame(*amounts: str) -> pd.DataFrame:
    table = pa.table(
        {
            "name": ["a'b"] * len(amounts),
            "amount": pa.array([Decimal(amount) for amount in amounts], pa.decimal128(18, 2)),
        }
    )
    made: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return made


def test_a_report_is_read_back_as_it_was_published(star: Star) -> None:
    star.publish()
    for report in REPORTS:
        made = report.make(star.warehouse.query(report.query))
        pd.testing.assert_frame_equal(star.tables.read(report.name), made)


def test_columns_have_the_declared_types_in_the_warehouse(star: Star) -> None:
    star.publish()
    types = star.warehouse.query(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'reporting' AND table_name = 'sales_by_month' ORDER BY ordinal_position"
    )
    assert dict(zip(types["column_name"], types["data_type"], strict=True)) == {
        c.name: c.type.duckdb for c in sales_by_month.columns
    }


def test_the_table_says_what_a_row_is(star: Star) -> None:
    star.tables.publish("cash", frame("1.00"), "One row is Ada's.")
    (said,) = star.warehouse.query("SELECT comment FROM duckdb_tables() WHERE table_name = 'cash'")["comment"]
    assert said == "One row is Ada's."


def test_an_unchanged_report_is_not_written_again(star: Star, metadata: Metadata) -> None:
    first = metadata(star.publish())
    oid = "SELECT table_name, table_oid FROM duckdb_tables() WHERE schema_name = 'reporting' ORDER BY 1"
    before = star.warehouse.query(oid)
    second = metadata(star.publish())
    assert {name: m["unchanged"] for name, m in first.items()} == dict.fromkeys(first, False)
    assert {name: m["unchanged"] for name, m in second.items()} == dict.fromkeys(first, True)
    assert {n: m["version"] for n, m in first.items()} == {n: m["version"] for n, m in second.items()}
    pd.testing.assert_frame_equal(star.warehouse.query(oid), before)


def test_a_table_that_someone_changed_is_published_again(star: Star, metadata: Metadata) -> None:
    star.publish()
    with star.warehouse.connect() as connection:
        connection.execute("UPDATE reporting.sales_by_month SET revenue = revenue + 0.01")
        connection.execute("DROP TABLE reporting.top_designs")
    unchanged = {name: m["unchanged"] for name, m in metadata(star.publish()).items()}
    assert unchanged == {
        "sales_by_month": False,
        "top_designs": False,
        "unpaid_payments": True,
        "sales_workbook": True,
    }


def test_a_failed_publish_leaves_the_old_table_whole(star: Star, monkeypatch: pytest.MonkeyPatch) -> None:
    star.tables.publish("cash", frame("1.00", "2.00"), "old")
    monkeypatch.setattr(report_tables, "literal", lambda text: "no SQL")
    with pytest.raises(ReportTablesError, match=r"reporting\.cash: "):
        star.tables.publish("cash", frame("3.00"), "new")
    monkeypatch.undo()
    pd.testing.assert_frame_equal(star.tables.read("cash"), frame("1.00", "2.00"))


def test_a_reader_in_the_middle_of_a_publish_is_told_that_it_is_under_way(
    star: Star, monkeypatch: pytest.MonkeyPatch
) -> None:
    star.tables.publish("cash", frame("1.00"), "old")
    told: list[str] = []

    def spying(text: str) -> str:
        with pytest.raises(WarehouseInUse) as refused, star.warehouse.glancing():
            pass
        told.append(str(refused.value))
        return "'new'"

    monkeypatch.setattr(report_tables, "literal", spying)
    star.tables.publish("cash", frame("2.00"), "new")
    assert ["\n" in one for one in told] == [False]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each time that a warehouse's file is opened."""
    times: list[str] = []
    open_file = DuckDBWarehouse._open

    def counting(self: DuckDBWarehouse, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        times.append(Path(self.path).name)
        return open_file(self, read_only=read_only)

    monkeypatch.setattr(DuckDBWarehouse, "_open", counting)
    return times


def elsewhere(path: str) -> str:
    """What another process is told that opens a file."""
    done = subprocess.run(
        [sys.executable, "-c", f"import duckdb; duckdb.connect({path!r})"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr


@pytest.mark.parametrize("name", ["warehouse.duckdb", "star.duckdb"])
def test_a_run_opens_the_file_once_for_all_that_comes_after_its_first_report(
    star: Star, opened: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    looking = Mock(side_effect=report_tables._described)
    monkeypatch.setattr(report_tables, "_described", looking)
    path = Path(star.warehouse.path).rename(star.folder / name)
    moved = replace(star, warehouse=DuckDBWarehouse(path=str(path), scratch=star.warehouse.scratch))
    moved.publish()
    assert len(opened) == 3  # its query, its control totals, and from then on
    assert looking.call_count == 1
    assert elsewhere(str(path)) == ""  # and lets go of it


def test_after_a_failure_the_file_is_opened_anew(star: Star, opened: list[str]) -> None:
    with star.tables.kept_open(), star.warehouse.kept_open():
        with pytest.raises(Fault), star.warehouse.connect() as connection:
            connection.execute("SELECT * FROM nothing")
        assert not star.warehouse.is_kept_open
        star.tables.publish("cash", frame("1.00"), "")
    assert len(opened) == 2
    assert not star.warehouse.is_kept_open


def test_a_glance_goes_by_what_is_kept_open(star: Star) -> None:
    with star.warehouse.kept_open():
        assert "lock" in elsewhere(star.warehouse.path)
        with star.warehouse.glancing() as reader:
            assert reader.rows("SELECT 1") == [(1,)]


def test_damage_that_is_met_while_the_file_is_kept_open_sets_it_aside(star: Star) -> None:
    with star.warehouse.kept_open():
        with pytest.raises(WarehouseDamaged), star.warehouse.connect():
            raise WarehouseError("Could not read enough bytes")
        assert not Path(star.warehouse.path).exists()
        with star.warehouse.connect() as connection:  # what is made anew is no part of what was set aside
            connection.execute("CREATE TABLE made_anew (n INTEGER)")
    with star.warehouse.connect() as connection:
        assert connection.table("made_anew").fetchall() == []


def test_columns_can_change_from_one_publish_to_the_next(star: Star) -> None:
    star.tables.publish("cash", frame("1.00"), "")
    star.tables.publish("cash", frame("1.00")[["amount"]], "")
    assert list(star.tables.read("cash").columns) == ["amount"]


def test_a_table_that_was_never_published_is_named(star: Star) -> None:
    with pytest.raises(
        ReportTablesError, match=r"there is no reporting\.cash yet: materialize exports/cash first"
    ):
        star.tables.read("cash")


def test_the_run_shows_what_was_published(star: Star, metadata: Metadata) -> None:
    shown = metadata(star.publish())["sales_by_month"]
    assert shown["dagster/row_count"] == 1
    assert shown["dagster/table_name"] == "reporting.sales_by_month"
    assert "| 2026-03-01 | 1 | Ada Byron | GBP | 1 | 1000 | 2010.00 |" in shown["preview"]
    assert shown["bytes"] > 0


def test_a_preview_holds_ten_rows_and_no_cell_breaks_it() -> None:
    text = pd.Series(["a|b\nc"] * 12 + [None], dtype="string[pyarrow]")
    lines = preview(pd.DataFrame({"text": text})).splitlines()
    assert lines[:3] == ["| text |", "| --- |", "| a\\|b c |"]
    assert len(lines) == 12
