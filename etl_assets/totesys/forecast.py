"""How many bags will be sold in the next days: trained on a period of the star, tried on the days after it, told to the team.

It needs the extra `forecast` (statsmodels, matplotlib): pip install 'etl-assets[forecast]'.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from etl_assets.project import (
    Message,
    Parameter,
    Picture,
    SqlQuery,
    SqlWrite,
    StepError,
    StepResult,
    Steps,
    Upload,
    step,
)

if TYPE_CHECKING:
    import pandas as pd

DAYS_OF_A_WEEK = 7
_NEEDED = "the forecast needs statsmodels and matplotlib: pip install 'etl-assets[forecast]'"

training = SqlQuery(
    "training",
    "One row is a day of the period that the forecast learns from, with the bags sold on it.",
    sql="""
        SELECT created_date AS day, CAST(SUM(units_sold) AS BIGINT) AS bags
        FROM star.fact_sales_order_current
        WHERE created_date >= COALESCE(CAST(:begin AS DATE), DATE '0001-01-01')
            AND created_date <= (SELECT MAX(created_date) FROM star.fact_sales_order_current) - CAST(:recent_days AS INTEGER)
        GROUP BY created_date ORDER BY created_date
    """,
)
recent = SqlQuery(
    "recent",
    "One row is a day since then, with the bags sold on it: what the forecast is compared with.",
    sql="""
        SELECT created_date AS day, CAST(SUM(units_sold) AS BIGINT) AS bags
        FROM star.fact_sales_order_current
        WHERE created_date > (SELECT MAX(created_date) FROM star.fact_sales_order_current) - CAST(:recent_days AS INTEGER)
        GROUP BY created_date ORDER BY created_date
    """,
)


@step(kinds=["statsmodels"])
def predictions(training: pd.DataFrame, recent: pd.DataFrame, ahead_days: int) -> StepResult[pd.DataFrame]:
    """One row is a day after the training period: the bags that were sold, if it is over, and those that were to be expected;
    four of five days lie between low and high."""
    try:
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    except ImportError:
        raise StepError(_NEEDED) from None
    import pandas as pd  # here, since most commands make no forecast, and it takes long to import

    learnt, seen = by_day(training), by_day(recent)
    if len(learnt) < 4 * DAYS_OF_A_WEEK or seen.empty:
        raise StepError("a forecast needs four weeks to learn from, and a day to be compared with")
    model = ETSModel(
        learnt, error="add", trend="add", damped_trend=True, seasonal="add", seasonal_periods=DAYS_OF_A_WEEK
    )
    end = seen.index[-1] + pd.Timedelta(days=ahead_days)
    expected = (
        model.fit(disp=False)
        .get_prediction(learnt.index[-1] + pd.Timedelta(days=1), end)
        .summary_frame(alpha=0.2)
    )
    table = pd.DataFrame(
        {
            "day": expected.index.date,
            "actual": seen.reindex(expected.index).astype("Int64"),
            "forecast": expected["mean"].round().clip(lower=0).astype("int64"),
            "low": expected["pi_lower"].round().clip(lower=0).astype("int64"),
            "high": expected["pi_upper"].round().clip(lower=0).astype("int64"),
        }
    ).reset_index(drop=True)
    return StepResult(
        table,
        {
            "error in %": error_percent(table),
            "days compared": int(table["actual"].notna().sum()),
            "plot": Picture(plot(learnt, table)),
        },
    )


def by_day(sales: pd.DataFrame) -> pd.Series:
    """Bags by day, without a gap: a day without a sale has none."""
    import pandas as pd

    days = pd.to_datetime(sales["day"].astype("object"))
    bags = pd.Series(sales["bags"].astype("float64").to_numpy(), index=pd.DatetimeIndex(days))
    return bags.asfreq("D", fill_value=0.0)


def error_percent(table: pd.DataFrame) -> float:
    """How far the forecast was off, in per cent of the bags that were sold."""
    compared = table.dropna(subset=["actual"])
    off = (compared["actual"] - compared["forecast"]).abs().sum()
    return round(100 * float(off) / float(compared["actual"].sum()), 2)


def plot(learnt: pd.Series, table: pd.DataFrame) -> bytes:
    """The forecast against what was sold, with the eight weeks before it, as a PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StepError(_NEEDED) from None
    import pandas as pd

    figure = Figure(figsize=(9, 3.6), dpi=90, layout="constrained")
    axes = figure.subplots()
    before, days = learnt.tail(8 * DAYS_OF_A_WEEK), pd.to_datetime(table["day"])
    axes.plot(before.index, before, color="0.6", linewidth=1, label="sold, learnt from")
    axes.plot(days, table["actual"].astype("float64"), color="black", linewidth=1.4, label="sold")
    axes.plot(days, table["forecast"], color="tab:blue", linewidth=1.6, label="forecast")
    axes.fill_between(
        days,
        table["low"],
        table["high"],
        color="tab:blue",
        alpha=0.15,
        linewidth=0,
        label="four of five days",
    )
    axes.set_ylim(bottom=0)
    axes.set_title("Bags sold per day", loc="left")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(loc="upper left", ncols=4, frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@step()
def summary(predictions: pd.DataFrame) -> str:
    """What the team is told."""
    ahead = predictions[predictions["actual"].isna()]
    return (
        f"From {ahead['day'].min()} to {ahead['day'].max()} about {int(ahead['forecast'].sum()):,} bags will be sold.\n"
        f"Over the days before, the forecast was off by {error_percent(predictions)} %."
    )


FORECAST = Steps(
    "forecast",
    "A forecast of sales: learnt from a period of the star, compared with the days after it, as a table and as CSV, told to the "
    "team.",
    [
        training,
        recent,
        predictions,
        SqlWrite(
            "predictions_table",
            "The predictions as a table of the warehouse.",
            of="predictions",
            table="forecast.sales",
            if_exists="replace",
        ),
        Upload(
            "predictions_csv",
            "The predictions as a CSV file in the lake.",
            of="predictions",
            to="lake://forecast/sales.csv",
            overwrite=True,
        ),
        summary,
        Message(
            "team_told",
            "Tells the team what to expect, or what failed.",
            subject="Sales in the next {ahead_days} days",
            of="summary",
            always=True,
        ),
    ],
    parameters=[
        Parameter("begin", "date?", "First day of the training period; none: the first sale."),
        Parameter(
            "recent_days", "int", "So many last days are not learnt from but compared with.", default=28
        ),
        Parameter(
            "ahead_days", "int", "So many days are forecast beyond the last sale; one at least.", default=14
        ),
    ],
)
