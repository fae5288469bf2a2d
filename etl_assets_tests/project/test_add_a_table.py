"""What docs/add-a-table.md tells to do, done exactly so: two files, two edits."""

import re
import shutil
from pathlib import Path

import duckdb
import pytest

import etl_assets
from etl_assets_tests.capture.comparing import execute
from etl_assets_tests.commands import etl, use
from etl_assets_tests.shipped import PROJECT

PAGE = (Path(etl_assets.__file__).parent.parent / "docs/add-a-table.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.mark.places
def test_a_new_fact_with_a_report_is_two_files_and_two_edits(
    totesys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "totesys"
    shutil.copytree(PROJECT.root, copied, ignore=shutil.ignore_patterns("demo", "__pycache__"))
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL=totesys, ETL_PROJECT="totesys")
    assert etl("run").exit_code == 0
    (table,) = blocks("sql")
    execute(totesys, table)
    _, declared, reported, _ = blocks("python")
    facts, reports = copied / "facts.py", copied / "reports.py"
    imported = "from etl_assets.project import Column, fact"
    assert imported in facts.read_text()
    facts.write_text(f"{facts.read_text().replace(imported, f'{imported}, Table')}\n\n{declared}")
    reports.write_text(f"{reports.read_text()}\n\n{reported}")
    # In a process of its own, as a user's next command is.
    monkeypatch.setattr("etl_assets.project._known", {})
    checked = etl("check")
    assert checked.exit_code == 0, checked.stdout
    ran = etl("run")
    assert ran.exit_code == 0, ran.stderr
    execute(
        totesys,
        "UPDATE shipment SET weight_kg = 12 WHERE shipment_id = 2",
        "DELETE FROM shipment WHERE shipment_id = 3",
        "INSERT INTO shipment (shipment_id, sales_order_id, carrier, shipped_on) VALUES (4, 3, 'Slow Boat', '2025-11-02')",
    )
    again = etl("run")
    assert again.exit_code == 0, again.stderr
    with duckdb.connect(tmp_path / "data/warehouse.duckdb", read_only=True) as warehouse:
        rows = warehouse.sql(
            "SELECT shipment_id, weight_kg::DOUBLE, deleted FROM star.fact_shipment ORDER BY shipment_record_id"
        ).fetchall()
        report = warehouse.sql(
            "SELECT carrier, shipments, weight_kg::DOUBLE FROM reporting.shipments_by_carrier"
        ).fetchall()
    assert rows == [
        (1, 412.5, False),
        (2, None, False),
        (3, 98.2, False),
        (2, 12.0, False),
        (3, 98.2, True),
        (4, None, False),
    ]
    assert sorted(report) == [("Penguin Freight", 2, 424.5), ("Slow Boat", 1, 0.0)]
    assert etl("verify").exit_code == 0
