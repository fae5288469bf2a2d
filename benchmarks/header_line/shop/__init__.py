"""Orders and their lines: the lines are a fact, with what their orders say of them."""

import os

import narwhals as nw

from etl_assets.project import Column, ReportColumn, Table, fact, report

RANKED = "BENCHMARK_RANKED"
"""The setting that makes the fact one that has to be compared whole."""

ORDERS = Table("orders", "", {"order_id": "int", "customer_id": "int", "ordered": "date", "shipped": "date?"})
LINES = Table(
    "order_line",
    "",
    {
        "order_id": "int",
        "line_no": "int",
        "product_id": "int",
        "quantity": "int",
        "price": "numeric(10,2)",
    },
)
COLUMNS = [
    Column("order_id", "int"),
    Column("line_no", "int"),
    Column("customer_id", "int?"),
    Column("ordered", "date?"),
    Column("shipped", "date?"),
    Column("product_id", "int"),
    Column("quantity", "int"),
    Column("price", "numeric(10,2)"),
]


@fact(key=["order_id", "line_no"], record="line_record_id", columns=COLUMNS)
def fact_order_line(order_line: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of a line of an order."""
    if os.environ.get(RANKED):  # over all orders, and of no use: what a plan says of it is what counts
        orders = orders.with_columns(nw.col("order_id").rank("min").alias("place")).drop("place")
    lines = order_line.join(orders, on="order_id", how="left")
    return lines.select(*(column.name for column in COLUMNS))


@report(
    title="Quantity by year",
    key=["year"],
    columns=[ReportColumn("year", "int", "When it was ordered."), ReportColumn("quantity", "bigint", "")],
    query="""
        SELECT CAST(EXTRACT(YEAR FROM ordered) AS INTEGER) AS year, SUM(quantity) AS quantity
        FROM star.fact_order_line_current GROUP BY CAST(EXTRACT(YEAR FROM ordered) AS INTEGER)
    """,
)
def quantity_by_year(answer):  # type: ignore[no-untyped-def]
    """One row is a year."""
    return answer
