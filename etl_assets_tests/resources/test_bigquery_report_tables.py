"""Reporting tables in BigQuery are replaced whole, in exact types, and only when they changed."""

from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.clients.bigquery import BigQuery
from etl_assets.deployments import resources
from etl_assets.exports.bigquery import BigQueryReportTables
from etl_assets.exports.duckdb import ReportTablesError
from etl_assets.settings import Settings
from etl_assets.stand_ins.bigquery import BigQueryStandIn
from etl_assets.warehouse.bigquery import BigQueryWarehouse
from etl_assets_tests.resources.conftest import PROJECT
from etl_assets_tests.resources.test_bigquery import CUT, LOST, since


@pytest.fixture
def tables(resource: BigQuery) -> BigQueryReportTables:
    return BigQueryReportTables(
        warehouse=BigQueryWarehouse(bigquery=resource, prefix="test", scratch="unused")
    )


def frame(*amounts: str) -> pd.DataFrame:
    table = pa.table(
        {
            "name": ["a'b"] * len(amounts),
            "amount": pa.array([Decimal(amount) for amount in amounts], pa.decimal128(18, 2)),
            "orders": pa.array(range(len(amounts)), pa.int32()),
        }
    )
    made: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return made


def held(stand_in: BigQueryStandIn) -> list[Decimal]:
    with stand_in.jobs.lock:
        return [
            amount for (amount,) in stand_in.tables.rows("SELECT amount FROM test_reporting.cash ORDER BY 1")
        ]


def test_a_report_is_read_back_as_it_was_published(
    tables: BigQueryReportTables, stand_in: BigQueryStandIn
) -> None:
    published = tables.publish("cash", frame("1.10", "2.00"), "One row is Ada's.")
    assert (published.where, published.rows, published.unchanged) == ("reporting.cash", 2, False)
    expected = frame("1.10", "2.00").astype({"orders": pd.ArrowDtype(pa.int64())})
    pd.testing.assert_frame_equal(tables.read("cash"), expected)
    table = stand_in.tables.resource("test_reporting", "cash")
    assert table["description"] == "One row is Ada's."
    amount = table["schema"]["fields"][1]
    assert (amount["type"], amount["precision"], amount["scale"]) == ("NUMERIC", "18", "2")


def test_an_unchanged_report_is_not_written_again(
    tables: BigQueryReportTables, stand_in: BigQueryStandIn
) -> None:
    tables.publish("cash", frame("1.10", "2.00"), "")
    jobs = len(stand_in.jobs.known)
    assert tables.publish("cash", frame("1.10", "2.00"), "").unchanged
    assert len(stand_in.jobs.known) == jobs
    assert not tables.publish("cash", frame("1.10", "2.00"), "Another description.").unchanged
    stand_in.tables.rows("UPDATE test_reporting.cash SET amount = 3")
    assert not tables.publish("cash", frame("1.10", "2.00"), "Another description.").unchanged
    assert held(stand_in) == [Decimal("1.10"), Decimal("2.00")]


def test_columns_can_change_from_one_publish_to_the_next(tables: BigQueryReportTables) -> None:
    tables.publish("cash", frame("1.00"), "")
    tables.publish("cash", frame("1.00")[["amount"]], "")
    assert list(tables.read("cash").columns) == ["amount"]


@pytest.mark.parametrize("fault", [CUT, LOST], ids=["cut", "cut after it was done"])
def test_a_failed_publish_leaves_the_old_table_or_the_new_one(
    resource: BigQuery, stand_in: BigQueryStandIn, fault: object
) -> None:
    warehouse = BigQueryWarehouse(bigquery=resource, prefix="test", scratch="unused")
    tables = BigQueryReportTables(warehouse=warehouse)
    failed = 0
    for nth in range(1, 30):
        tables.publish("cash", frame("1.00"), "old")
        stand_in.fault = since(nth, fault)  # type: ignore[arg-type]
        try:
            tables.publish("cash", frame("2.00", "3.00"), "new")
        except ReportTablesError:
            failed += 1
        else:
            break
        finally:
            stand_in.fault = lambda request: None
        assert held(stand_in) in ([Decimal("1.00")], [Decimal("2.00"), Decimal("3.00")])
    assert failed > 6
    assert held(stand_in) == [Decimal("2.00"), Decimal("3.00")]


def test_a_table_that_was_never_published_is_named(tables: BigQueryReportTables) -> None:
    with pytest.raises(
        ReportTablesError, match=r"there is no test_reporting\.cash yet: materialize exports/cash first"
    ):
        tables.read("cash")


def test_the_url_of_the_warehouse_chooses_bigquery_without_asking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    chosen = resources(Settings.read({"ETL_WAREHOUSE_URL": f"bigquery://{PROJECT}/test?location=EU"}))
    assert isinstance(chosen["warehouse"], BigQueryWarehouse)
    assert isinstance(chosen["reports"].tables, BigQueryReportTables)
    assert chosen["warehouse"].where == f"bigquery://{PROJECT}/test"
