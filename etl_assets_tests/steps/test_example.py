"""B11: the worked example on the star: a period to learn from, recent days, a forecast as a table, as CSV and as a picture, the
team told."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow.csv
import pytest

from etl_assets.definitions import definitions
from etl_assets.settings import Settings
from etl_assets_tests.automation.test_alerting import Mail, body, serve
from etl_assets_tests.flow import Flow
from etl_assets_tests.totesys import TOTESYS

__all__ = ["serve"]
DAYS_COMPARED, DAYS_AHEAD = 60, 10


def forecast(flow: Flow, **config: object) -> tuple[dg.ExecuteInProcessResult, dict[str, dict[str, Any]]]:
    """Run the group, and what each step told."""
    defs = definitions(Settings.read(flow.environment))
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        for name, value in flow.environment.items():
            patch.setenv(name, value)
        result = defs.resolve_job_def("forecast").execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {"forecast_steps": {"config": config}}},
        )
        told = {
            event.asset_key.path[-1]: {
                name: value.value
                for name, value in event.step_materialization_data.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if event.asset_key
        }
        return result, told


@pytest.mark.places
def test_b11_sales_are_forecast_compared_written_and_told(
    totesys: str, tmp_path: Path, serve: Callable[..., Mail]
) -> None:
    mail = serve()
    flow = Flow(totesys, tmp_path / "data", {"ETL_ALERTS_URL": mail.url}, model=TOTESYS)
    assert flow.run().success
    result, told = forecast(flow, recent_days=DAYS_COMPARED, ahead_days=DAYS_AHEAD)
    assert result.success
    sold = dict(
        flow.query(
            "SELECT created_date, sum(units_sold)::BIGINT FROM star.fact_sales_order_current GROUP BY 1"
        )
    )
    lake = tmp_path / "data/lake"
    with duckdb.connect() as connection:
        read = {
            name: dict(
                connection.execute(
                    "SELECT day, bags FROM read_parquet($1)", [f"{lake}/steps/forecast/{name}.parquet"]
                ).fetchall()
            )
            for name in ("training", "recent")
        }
    assert read["training"] | read["recent"] == sold
    assert max(read["training"]) < min(read["recent"])

    table = flow.query("SELECT day, actual, forecast, low, high FROM forecast.sales ORDER BY day")
    compared = [row for row in table if row[1] is not None]
    assert len(table) - len(compared) == DAYS_AHEAD
    assert {row[0]: row[1] for row in compared if row[1]} == read["recent"]
    assert all(low <= mean <= high for _, _, mean, low, high in table)
    off = 100 * sum(abs(row[1] - row[2]) for row in compared) / sum(row[1] for row in compared)
    assert told["predictions"]["error in %"] == pytest.approx(off, abs=0.01)
    written = pyarrow.csv.read_csv(lake / "files/forecast/sales.csv").to_pydict()
    assert written["forecast"] == [row[2] for row in table]

    found = re.fullmatch(r"!\[\]\(data:image/png;base64,(.+)\)", told["predictions"]["plot"])
    assert found
    png = base64.b64decode(found[1])
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20]) > 500, "its width"

    (message,) = mail.messages
    assert message["Subject"] == f"Sales in the next {DAYS_AHEAD} days"
    assert f"{sum(row[2] for row in table if row[1] is None):,} bags will be sold" in body(message)


def test_b11_without_enough_to_learn_from_the_team_is_told_why(
    totesys: str, tmp_path: Path, serve: Callable[..., Mail]
) -> None:
    mail = serve()
    flow = Flow(totesys, tmp_path / "data", {"ETL_ALERTS_URL": mail.url}, model=TOTESYS)
    assert flow.run().success
    result, told = forecast(flow, begin="9999-01-01")
    assert not result.success
    assert set(told) == {"training", "recent", "team_told"}
    (message,) = mail.messages
    assert "predictions (totesys/forecast.py:" in body(message)
    assert "a forecast needs four weeks to learn from" in body(message)
    assert "predictions_csv was left out: it needs predictions" in body(message)
    assert "forecast" not in {
        row[0] for row in flow.query("SELECT schema_name FROM information_schema.schemata")
    }
