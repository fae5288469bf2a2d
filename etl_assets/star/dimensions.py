"""The dimensions: one function per table, from the latest state of the source's tables to the star's columns.

A function gives one row for each row of its first parameter; `deleted` is added to what it gives.
"""

import datetime as dt

import narwhals as nw
import pandas as pd

from etl_assets.engine.definition import star_table
from etl_assets.star import schema

# The calendar has no hole between these. Of the days beyond, which mostly mean "never", it has those that are used.
_FIRST, _LAST = dt.date(1900, 1, 1), dt.date(2199, 12, 31)
ADDRESS_COLUMNS = ("address_line_1", "address_line_2", "district", "city", "postal_code", "country")


@star_table(schema.DIM_STAFF)
def dim_staff(staff: nw.LazyFrame, department: nw.LazyFrame) -> nw.LazyFrame:
    # A left join, here and below: nobody vanishes for want of a department.
    return staff.join(department, on="department_id", how="left").select(
        "staff_id", "first_name", "last_name", "department_name", "location", "email_address"
    )


@star_table(schema.DIM_LOCATION)
def dim_location(address: nw.LazyFrame) -> nw.LazyFrame:
    return address.select(nw.col("address_id").alias("location_id"), *ADDRESS_COLUMNS, "phone")


@star_table(schema.DIM_CURRENCY)
def dim_currency(currency: nw.LazyFrame, iso_4217: nw.LazyFrame) -> nw.LazyFrame:
    return currency.join(iso_4217, left_on="currency_code", right_on="code", how="left").select(
        "currency_id",
        "currency_code",
        nw.coalesce(nw.col("name"), nw.col("currency_code")).alias("currency_name"),
    )


@star_table(schema.DIM_DESIGN)
def dim_design(design: nw.LazyFrame) -> nw.LazyFrame:
    return design.select("design_id", "design_name", "file_location", "file_name")


@star_table(schema.DIM_COUNTERPARTY)
def dim_counterparty(counterparty: nw.LazyFrame, address: nw.LazyFrame) -> nw.LazyFrame:
    legal_address = address.select(
        "address_id",
        *[nw.col(name).alias(f"counterparty_legal_{name}") for name in ADDRESS_COLUMNS],
        nw.col("phone").alias("counterparty_legal_phone_number"),
    )
    return counterparty.join(
        legal_address, left_on="legal_address_id", right_on="address_id", how="left"
    ).select(
        "counterparty_id",
        "counterparty_legal_name",
        *[f"counterparty_legal_{name}" for name in ADDRESS_COLUMNS],
        "counterparty_legal_phone_number",
    )


@star_table(schema.DIM_PAYMENT_TYPE)
def dim_payment_type(payment_type: nw.LazyFrame) -> nw.LazyFrame:
    return payment_type.select("payment_type_id", "payment_type_name")


@star_table(schema.DIM_TRANSACTION)
def dim_transaction(transaction: nw.LazyFrame) -> nw.LazyFrame:
    return transaction.select("transaction_id", "transaction_type", "sales_order_id", "purchase_order_id")


@star_table(schema.DIM_DATE)
def dim_date(
    fact_sales_order: nw.LazyFrame, fact_purchase_order: nw.LazyFrame, fact_payment: nw.LazyFrame
) -> pd.DataFrame:
    """Pandas, because a calendar is not computed from rows: only its two ends are, and the days that are far away."""
    days = [
        *_days(fact_sales_order, schema.FACT_SALES_ORDER.date_columns),
        *_days(fact_purchase_order, schema.FACT_PURCHASE_ORDER.date_columns),
        *_days(fact_payment, schema.FACT_PAYMENT.date_columns),
    ]
    near = [day for day in days if _FIRST <= day <= _LAST]
    dates = pd.DatetimeIndex(sorted(set(days) - set(near)), dtype="datetime64[s]")
    if near:
        dates = dates.union(pd.date_range(min(near), max(near), freq="D", unit="s"))
    return pd.DataFrame(
        {
            "date_id": dates.date,
            "year": dates.year,
            "month": dates.month,
            "day": dates.day,
            "day_of_week": dates.isocalendar().day.to_numpy(),
            "quarter": dates.quarter,
            "day_name": dates.day_name(),
            "month_name": dates.month_name(),
        }
    )


def _days(fact: nw.LazyFrame, columns: list[str]) -> list[dt.date]:
    """The first and the last day in each of the columns; all days of one that has some which are far away."""
    extremes = fact.select(
        *[nw.col(name).min().alias(f"{name} from") for name in columns],
        *[nw.col(name).max().alias(f"{name} to") for name in columns],
    ).collect()
    row = extremes.row(0)
    found = []
    for name, first, last in zip(columns, row, row[len(columns) :], strict=False):
        if first is None:
            continue
        if first >= _FIRST and last <= _LAST:
            found += [first, last]
        else:
            found += fact.select(name).drop_nulls().unique().collect()[name].to_list()
    return found
