"""The facts: one function per table, from the versions of source rows to the star's columns.

A function gets rows as one batch brought them, and gives one row for each. Surrogate keys, `batch` and `deleted`
are added to what it gives.
"""

import narwhals as nw

from etl_assets.project import Column, fact

_AUDIT = [
    Column("created_date", "date", "When the source created the row.", references="dim_date"),
    Column("created_time", "time", "To the millisecond."),
    Column(
        "last_updated_date", "date", "As the source says; it does not move with every change.", "dim_date"
    ),
    Column("last_updated_time", "time", "To the millisecond."),
]


def created_and_updated() -> list[nw.Expr]:
    """The source's two audit timestamps, each as a date and a time of day."""
    return [
        nw.col("created_at").cast(nw.Date).alias("created_date"),
        nw.col("created_at").cast(nw.Time).alias("created_time"),
        nw.col("last_updated").cast(nw.Date).alias("last_updated_date"),
        nw.col("last_updated").cast(nw.Time).alias("last_updated_time"),
    ]


@fact(
    key="sales_order_id",
    record="sales_record_id",
    columns=[
        Column("sales_order_id", "int", "As in the source."),
        *_AUDIT,
        Column("sales_staff_id", "int", "Who sold.", references="dim_staff"),
        Column("counterparty_id", "int", "Who bought.", references="dim_counterparty"),
        Column("units_sold", "int"),
        Column("unit_price", "numeric(10,2)", "In the order's currency."),
        Column("currency_id", "int", references="dim_currency"),
        Column("design_id", "int", references="dim_design"),
        Column("agreed_payment_date", "date", references="dim_date"),
        Column("agreed_delivery_date", "date", references="dim_date"),
        Column("agreed_delivery_location_id", "int", references="dim_location"),
    ],
)
def fact_sales_order(sales_order: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of a sales order, or the record of its deletion."""
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


@fact(
    key="purchase_order_id",
    record="purchase_record_id",
    columns=[
        Column("purchase_order_id", "int", "As in the source."),
        *_AUDIT,
        Column("staff_id", "int", "Who ordered.", references="dim_staff"),
        Column("counterparty_id", "int", "Who supplies.", references="dim_counterparty"),
        Column("item_code", "text"),
        Column("item_quantity", "int"),
        Column("item_unit_price", "numeric(10,2)", "In the order's currency."),
        Column("currency_id", "int", references="dim_currency"),
        Column("agreed_delivery_date", "date", references="dim_date"),
        Column("agreed_payment_date", "date", references="dim_date"),
        Column("agreed_delivery_location_id", "int", references="dim_location"),
    ],
)
def fact_purchase_order(purchase_order: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of a purchase order, or the record of its deletion."""
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


@fact(
    key="payment_id",
    record="payment_record_id",
    columns=[
        Column("payment_id", "int", "As in the source."),
        *_AUDIT,
        Column("transaction_id", "int", references="dim_transaction"),
        Column("counterparty_id", "int", references="dim_counterparty"),
        Column("payment_amount", "numeric(10,2)", "In the payment's currency."),
        Column("currency_id", "int", references="dim_currency"),
        Column("payment_type_id", "int", references="dim_payment_type"),
        Column("paid", "boolean"),
        Column("payment_date", "date", "When it is due.", references="dim_date"),
    ],
)
def fact_payment(payment: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of a payment, or the record of its deletion."""
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
