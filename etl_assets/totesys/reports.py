"""The reports: each is a query that the warehouse answers, and a function that shapes the answer.

Queries keep to the SQL that DuckDB, PostgreSQL and BigQuery share. Amounts are exact decimals from the fact to the
report: a float on the way is an error. Column lineage and dependencies follow from the queries.
"""

from __future__ import annotations

import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

from etl_assets.project import ReportColumn, report

if TYPE_CHECKING:
    import pandas as pd

AGES = ["not yet due", "1-30 days", "31-60 days", "61-90 days", "over 90 days"]
TOP = 20
MONTHS = 12


@report(
    title="Sales by month",
    key=["month", "staff_id", "currency_code"],
    columns=[
        ReportColumn("month", "date", "The first day of the month in which the orders were created."),
        ReportColumn("staff_id", "int", "Who sold."),
        ReportColumn("seller", "text", "First and last name."),
        ReportColumn("currency_code", "text", "ISO 4217."),
        ReportColumn("orders", "bigint", "How many orders.", at_least=1),
        ReportColumn("units", "bigint", "How many bags.", at_least=0),
        ReportColumn("revenue", "numeric(18,2)", "Units times unit price, in the currency.", at_least=0),
    ],
    query="""
        SELECT d.year, d.month, s.staff_id, s.first_name, s.last_name, c.currency_code,
            COUNT(*) AS orders,
            CAST(SUM(o.units_sold) AS BIGINT) AS units,
            SUM(o.units_sold * o.unit_price) AS revenue
        FROM star.fact_sales_order_current AS o
        JOIN star.dim_date AS d ON d.date_id = o.created_date
        JOIN star.dim_staff AS s ON s.staff_id = o.sales_staff_id
        JOIN star.dim_currency AS c ON c.currency_id = o.currency_id
        GROUP BY d.year, d.month, s.staff_id, s.first_name, s.last_name, c.currency_code
    """,
    control="""
        SELECT c.currency_code,
            COUNT(*) AS orders,
            CAST(SUM(o.units_sold) AS BIGINT) AS units,
            SUM(o.units_sold * o.unit_price) AS revenue
        FROM star.fact_sales_order_current AS o
        LEFT JOIN star.dim_currency AS c ON c.currency_id = o.currency_id
        GROUP BY c.currency_code
    """,
)
def sales_by_month(sales: pd.DataFrame) -> pd.DataFrame:
    """One row is what a seller sold in a month in a currency."""
    return sales.assign(month=first_days(sales), seller=sales["first_name"] + " " + sales["last_name"])


@report(
    title="Unpaid payments",
    key=["payment_type", "counterparty_id", "currency_code", "age"],
    columns=[
        ReportColumn("payment_type", "text", "SALES_RECEIPT is owed to us, PURCHASE_PAYMENT by us."),
        ReportColumn("counterparty_id", "int"),
        ReportColumn("counterparty", "text", "Legal name."),
        ReportColumn("currency_code", "text", "ISO 4217."),
        ReportColumn("age", "text", "Days since the payments were due, up to as_of.", one_of=AGES),
        ReportColumn("payments", "bigint", "How many payments.", at_least=1),
        ReportColumn("amount", "numeric(18,2)", "In the currency."),
        ReportColumn("oldest_due", "date", "When the oldest of them was due."),
        ReportColumn(
            "as_of", "date", "The newest day on which any payment changed: the day that age is counted to."
        ),
    ],
    query="""
        SELECT t.payment_type_name AS payment_type, y.counterparty_id,
            y.counterparty_legal_name AS counterparty, c.currency_code, p.payment_date, newest.as_of,
            COUNT(*) AS payments,
            SUM(p.payment_amount) AS amount
        FROM star.fact_payment_current AS p
        JOIN star.dim_payment_type AS t ON t.payment_type_id = p.payment_type_id
        JOIN star.dim_counterparty AS y ON y.counterparty_id = p.counterparty_id
        JOIN star.dim_currency AS c ON c.currency_id = p.currency_id
        CROSS JOIN (SELECT MAX(f.last_updated_date) AS as_of FROM star.fact_payment AS f) AS newest
        WHERE NOT p.paid
        GROUP BY t.payment_type_name, y.counterparty_id, y.counterparty_legal_name, c.currency_code, p.payment_date,
            newest.as_of
    """,
    control="""
        SELECT c.currency_code, COUNT(*) AS payments, SUM(p.payment_amount) AS amount
        FROM star.fact_payment_current AS p
        LEFT JOIN star.dim_currency AS c ON c.currency_id = p.currency_id
        WHERE NOT p.paid
        GROUP BY c.currency_code
    """,
)
def unpaid_payments(unpaid: pd.DataFrame) -> pd.DataFrame:
    """One row is what is unpaid between us and a counterparty in a currency, as long overdue as `age` says."""
    import pandas as pd  # here, since most commands make no report, and it takes long to import
    import pyarrow as pa

    # By Arrow: pandas looks at exact decimals, and at days, one at a time.
    rows = pa.Table.from_pandas(unpaid, preserve_index=False)
    due, as_of = rows["payment_date"].combine_chunks().dictionary_encode(), unpaid["as_of"].max()
    ages = pa.array([age(day, as_of) for day in due.dictionary.to_pylist()], pa.string())
    rows = rows.append_column("age", ages.take(due.indices))
    by = ["payment_type", "counterparty_id", "counterparty", "currency_code", "age", "as_of"]
    sums = rows.group_by(by).aggregate([("payments", "sum"), ("amount", "sum"), ("payment_date", "min")])
    names = {"payments_sum": "payments", "amount_sum": "amount", "payment_date_min": "oldest_due"}
    made: pd.DataFrame = sums.to_pandas(types_mapper=pd.ArrowDtype)
    return made.rename(columns=names)


@report(
    title="Top designs",
    key=["currency_code", "rank"],
    columns=[
        ReportColumn("currency_code", "text", "ISO 4217."),
        ReportColumn("rank", "int", f"1 to {TOP}, by revenue in the currency.", at_least=1),
        ReportColumn("design_id", "int"),
        ReportColumn("design_name", "text"),
        ReportColumn("units", "bigint", "How many bags.", at_least=0),
        ReportColumn("revenue", "numeric(18,2)", "Units times unit price, in the currency.", at_least=0),
        ReportColumn(
            "share_percent", "numeric(5,2)", "Of the revenue of all designs in the currency.", at_least=0
        ),
    ],
    query="""
        SELECT d.year, d.month, c.currency_code, g.design_id, g.design_name,
            CAST(SUM(o.units_sold) AS BIGINT) AS units,
            SUM(o.units_sold * o.unit_price) AS revenue
        FROM star.fact_sales_order_current AS o
        JOIN star.dim_date AS d ON d.date_id = o.created_date
        JOIN star.dim_design AS g ON g.design_id = o.design_id
        JOIN star.dim_currency AS c ON c.currency_id = o.currency_id
        GROUP BY d.year, d.month, c.currency_code, g.design_id, g.design_name
    """,
)
def top_designs(sales: pd.DataFrame) -> pd.DataFrame:
    """One row is one of the 20 designs that sold best in a currency, in the month of the newest order and the 11
    months before.
    """
    months = sales["year"] * 12 + sales["month"]
    recent = sales[months > months.max() - MONTHS] if len(sales) else sales
    designs = (
        recent.groupby(["currency_code", "design_id", "design_name"], as_index=False, dropna=False)
        .agg(units=("units", "sum"), revenue=("revenue", "sum"))
        .sort_values(
            ["currency_code", "revenue", "design_id"], ascending=[True, False, True], ignore_index=True
        )
    )
    in_currency = designs.groupby("currency_code", dropna=False)
    total = in_currency["revenue"].transform("sum")
    shares = [percent(part, whole) for part, whole in zip(designs["revenue"], total, strict=True)]
    ranked = designs.assign(rank=in_currency.cumcount() + 1, share_percent=objects(shares, designs.index))
    return ranked[ranked["rank"] <= TOP]


def first_days(frame: pd.DataFrame) -> pd.Series:
    """The first day of each row's month."""
    days = [datetime.date(year, month, 1) for year, month in zip(frame["year"], frame["month"], strict=True)]
    return objects(days, frame.index)


def objects(values: list[Any], index: pd.Index) -> pd.Series:
    """A column of Python's own values, such as exact decimals, which pandas would otherwise guess a type for."""
    import pandas as pd  # here, since most commands make no report, and it takes long to import

    return pd.Series(values, index=index, dtype=object)


def age(due: datetime.date, as_of: datetime.date) -> str:
    """Which of `AGES` a payment is in; on the day that it is due it is not yet overdue."""
    days = (as_of - due).days
    return AGES[0] if days <= 0 else AGES[min((days - 1) // 30 + 1, len(AGES) - 1)]


def percent(part: Decimal, whole: Decimal) -> Decimal:
    """The share of a part in a whole, to two decimals; of nothing it is nothing."""
    share = part * 100 / whole if whole else Decimal(0)
    return share.quantize(Decimal("0.01"), ROUND_HALF_UP)
