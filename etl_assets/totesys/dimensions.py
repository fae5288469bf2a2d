"""The dimensions: one function per table, from the latest state of the source's tables to the star's columns.

A function gives one row for each row of its first parameter; `deleted` is added to what it gives.
"""

import narwhals as nw

from etl_assets.project import Column, calendar, dimension

ADDRESS_COLUMNS = ("address_line_1", "address_line_2", "district", "city", "postal_code", "country")


@dimension(
    key="staff_id",
    columns=[
        Column("staff_id", "int", "As in the source."),
        Column("first_name", "text"),
        Column("last_name", "text"),
        Column("department_name", "text?"),
        Column("location", "text?", "Where the department is."),
        Column("email_address", "text"),
    ],
)
def dim_staff(staff: nw.LazyFrame, department: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a member of staff, with the department as it is now."""
    # A left join, here and below: nobody vanishes for want of a department.
    return staff.join(department, on="department_id", how="left").select(
        "staff_id", "first_name", "last_name", "department_name", "location", "email_address"
    )


@dimension(
    key="location_id",
    columns=[
        Column("location_id", "int", "The source's address_id."),
        Column("address_line_1", "text"),
        Column("address_line_2", "text?"),
        Column("district", "text?"),
        Column("city", "text"),
        Column("postal_code", "text", "Text: leading zeros count."),
        Column("country", "text"),
        Column("phone", "text"),
    ],
)
def dim_location(address: nw.LazyFrame) -> nw.LazyFrame:
    """One row is an address that orders are delivered to."""
    return address.select(nw.col("address_id").alias("location_id"), *ADDRESS_COLUMNS, "phone")


@dimension(
    key="currency_id",
    columns=[
        Column("currency_id", "int", "As in the source."),
        Column("currency_code", "text", "ISO 4217."),
        Column("currency_name", "text", "By ISO 4217; the code itself where ISO 4217 does not know it."),
    ],
)
def dim_currency(currency: nw.LazyFrame, iso_4217: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a currency, with its name in ISO 4217."""
    return currency.join(iso_4217, left_on="currency_code", right_on="code", how="left").select(
        "currency_id",
        "currency_code",
        nw.coalesce(nw.col("name"), nw.col("currency_code")).alias("currency_name"),
    )


@dimension(
    key="design_id",
    columns=[
        Column("design_id", "int", "As in the source."),
        Column("design_name", "text"),
        Column("file_location", "text"),
        Column("file_name", "text"),
    ],
)
def dim_design(design: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a design of a tote bag."""
    return design.select("design_id", "design_name", "file_location", "file_name")


@dimension(
    key="counterparty_id",
    columns=[
        Column("counterparty_id", "int", "As in the source."),
        Column("counterparty_legal_name", "text"),
        Column("counterparty_legal_address_line_1", "text?"),
        Column("counterparty_legal_address_line_2", "text?"),
        Column("counterparty_legal_district", "text?"),
        Column("counterparty_legal_city", "text?"),
        Column("counterparty_legal_postal_code", "text?", "Text: leading zeros count."),
        Column("counterparty_legal_country", "text?"),
        Column("counterparty_legal_phone_number", "text?"),
    ],
)
def dim_counterparty(counterparty: nw.LazyFrame, address: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a company that is sold to or bought from, with its legal address."""
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


@dimension(
    key="payment_type_id",
    columns=[Column("payment_type_id", "int", "As in the source."), Column("payment_type_name", "text")],
)
def dim_payment_type(payment_type: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a kind of payment."""
    return payment_type.select("payment_type_id", "payment_type_name")


@dimension(
    key="transaction_id",
    columns=[
        Column("transaction_id", "int", "As in the source."),
        Column("transaction_type", "text", "SALE or PURCHASE."),
        Column("sales_order_id", "int?"),
        Column("purchase_order_id", "int?"),
    ],
)
def dim_transaction(transaction: nw.LazyFrame) -> nw.LazyFrame:
    """One row ties a payment to the sales or purchase order it is for."""
    return transaction.select("transaction_id", "transaction_type", "sales_order_id", "purchase_order_id")


dim_date = calendar()
