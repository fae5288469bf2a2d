"""The star: what was sold, and what a euro was worth."""

import narwhals as nw

from etl_assets.project import Column, calendar, dimension, fact

DIM_DATE = calendar(
    name="dim_date",
    description="One row is a day between the first and the last sale.",
)


@dimension(
    key=("rate_date", "currency_code"),
    columns=[
        Column("rate_date", "date", description="The day that the rate is of."),
        Column("currency_code", "text", description="ISO 4217."),
        Column("per_euro", "numeric(18,6)", description="Units of the currency for one euro."),
    ],
)
def dim_rate(exchange_rate: nw.LazyFrame) -> nw.LazyFrame:
    """One row is what a euro was worth in a currency on a day."""
    return exchange_rate.select(
        nw.col("day").alias("rate_date"), nw.col("currency").alias("currency_code"), "per_euro"
    )


@fact(
    key="sale_id",
    record="card_sale_record_id",
    columns=[
        Column("sale_id", "bigint"),
        Column("sold_date", "date", references="dim_date"),
        Column("card", "text", description="Which card was sold."),
        Column("grade", "smallint", description="How well it is preserved, 1 to 10."),
        Column("currency_code", "text", description="ISO 4217, of the price."),
        Column("price", "numeric(10,2)", description="Of one card, in the currency."),
        Column("quantity", "int"),
    ],
)
def fact_card_sale(card_sale: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a sale of a card."""
    return card_sale.select(
        "sale_id",
        nw.col("sold_at").dt.date().alias("sold_date"),
        "card",
        "grade",
        nw.col("currency").alias("currency_code"),
        "price",
        "quantity",
    )
