"""The report: sales of several currencies in one."""

from decimal import ROUND_HALF_UP, Decimal

import pandas as pd

from etl_assets.project import ReportColumn, report


@report(
    title="Sales in euro",
    key=["sold_date", "card"],
    columns=[
        ReportColumn("sold_date", "date", "The day of the sales."),
        ReportColumn("card", "text", "Which card was sold."),
        ReportColumn("cards", "bigint", "How many were sold.", at_least=1),
        ReportColumn(
            "revenue_eur",
            "numeric(18,2)?",
            "In euro, at the rates of the day; empty where a rate is missing.",
        ),
        ReportColumn(
            "without_rate", "bigint", "Cards sold in a currency whose rate of the day is missing.", at_least=0
        ),
    ],
    query="""
        SELECT s.sold_date, s.card, s.currency_code, r.per_euro,
            CAST(SUM(s.quantity) AS BIGINT) AS cards,
            SUM(s.price * s.quantity) AS revenue
        FROM star.fact_card_sale_current AS s
        LEFT JOIN star.dim_rate AS r ON r.rate_date = s.sold_date AND r.currency_code = s.currency_code
        GROUP BY s.sold_date, s.card, s.currency_code, r.per_euro
    """,
)
def sales_in_euro(sales: pd.DataFrame) -> pd.DataFrame:
    """One row is what was sold of a card on a day, in euro."""
    known = sales["per_euro"].notna()
    euros: pd.Series = pd.Series(
        [
            Decimal(revenue) / Decimal(rate) if has_rate else None
            for revenue, rate, has_rate in zip(sales["revenue"], sales["per_euro"], known, strict=True)
        ],
        index=sales.index,
        dtype=object,
    )
    sales = sales.assign(euro=euros, without=sales["cards"].where(~known, 0))
    rows = [
        {
            "sold_date": sold_date,
            "card": card,
            "cards": int(group["cards"].sum()),
            "revenue_eur": _total(group["euro"]),
            "without_rate": int(group["without"].sum()),
        }
        for (sold_date, card), group in sales.groupby(["sold_date", "card"], sort=True)
    ]
    return pd.DataFrame(rows, columns=["sold_date", "card", "cards", "revenue_eur", "without_rate"])


def _total(euros: pd.Series) -> Decimal | None:
    """The sum to the cent; none where a part of it is not known."""
    if euros.isna().any():
        return None
    return sum(euros, Decimal(0)).quantize(Decimal("0.01"), ROUND_HALF_UP)
