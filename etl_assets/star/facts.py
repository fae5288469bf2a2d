"""The facts: one function per table, from the versions of source rows to the star's columns.

A function gets rows as one batch brought them, and gives one row for each. Surrogate keys, `batch` and `deleted`
are added to what it gives.
"""

import narwhals as nw

from etl_assets.engine.definition import star_table
from etl_assets.star import schema


def created_and_updated() -> list[nw.Expr]:
    """The source's two audit timestamps, each as a date and a time of day."""
    return [
        nw.col("created_at").cast(nw.Date).alias("created_date"),
        nw.col("created_at").cast(nw.Time).alias("created_time"),
        nw.col("last_updated").cast(nw.Date).alias("last_updated_date"),
        nw.col("last_updated").cast(nw.Time).alias("last_updated_time"),
    ]


@star_table(schema.FACT_SALES_ORDER)
def fact_sales_order(sales_order: nw.LazyFrame) -> nw.LazyFrame:
    return sales_order.select(
        "sales_order_id",
        *created_and_updated(),
        nw.col("staff_id").alias("sales_staff_id"),
        "counterparty_id",
        "units_sold",
        "unit_price",
        "currency_id",
        "design_id",
        "agreed_payment_date",
        "agreed_delivery_date",
        "agreed_delivery_location_id",
    )


@star_table(schema.FACT_PURCHASE_ORDER)
def fact_purchase_order(purchase_order: nw.LazyFrame) -> nw.LazyFrame:
    return purchase_order.select(
        "purchase_order_id",
        *created_and_updated(),
        "staff_id",
        "counterparty_id",
        "item_code",
        "item_quantity",
        "item_unit_price",
        "currency_id",
        "agreed_delivery_date",
        "agreed_payment_date",
        "agreed_delivery_location_id",
    )


@star_table(schema.FACT_PAYMENT)
def fact_payment(payment: nw.LazyFrame) -> nw.LazyFrame:
    return payment.select(
        "payment_id",
        *created_and_updated(),
        "transaction_id",
        "counterparty_id",
        "payment_amount",
        "currency_id",
        "payment_type_id",
        "paid",
        "payment_date",
    )
