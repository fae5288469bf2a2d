"""The reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl_assets.project import ReportColumn, report

if TYPE_CHECKING:
    import pandas as pd


@report(
    title="Takings",
    key=["station", "colour"],
    columns=[
        ReportColumn("station", "text"),
        ReportColumn("colour", "text"),
        ReportColumn("hires", "bigint", at_least=1),
        ReportColumn("takings", "numeric(18,2)"),
    ],
    query="""
        SELECT s.name AS station, b.colour, COUNT(*) AS hires, SUM(h.price) AS takings
        FROM star.fact_hire_current AS h
        JOIN star.dim_station AS s ON s.station_id = h.station_id
        JOIN star.dim_bike AS b ON b.bike_id = h.bike_id
        GROUP BY s.name, b.colour
    """,
    control="SELECT COUNT(*) AS hires, SUM(h.price) AS takings FROM star.fact_hire_current AS h",
)
def takings(takings: pd.DataFrame) -> pd.DataFrame:
    """One row is what hires of bicycles of a colour brought at a station."""
    return takings


@report(
    title="Unpaid",
    key=["year", "month"],
    columns=[
        ReportColumn("year", "int"),
        ReportColumn("month", "int"),
        ReportColumn("payments", "bigint", at_least=1),
        ReportColumn("amount", "numeric(18,2)"),
    ],
    query="""
        SELECT d.year, d.month, COUNT(*) AS payments, SUM(p.amount) AS amount
        FROM star.fact_payment_current AS p
        JOIN star.dim_date AS d ON d.date_id = p.due
        WHERE NOT p.paid
        GROUP BY d.year, d.month
    """,
)
def unpaid(unpaid: pd.DataFrame) -> pd.DataFrame:
    """One row is a month and what is due in it and not paid."""
    return unpaid
