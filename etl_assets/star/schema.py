"""What the star promises: eight dimensions and three facts, with their columns, keys and references.

This is the one place. Arrow schemas, the warehouse's tables, the columns that the UI shows and the checks all
follow from it. To dimensions the column `deleted` is added, to facts their surrogate key, `batch` and `deleted`.
"""

from etl_assets.engine.schema import Column, Dimension, Fact

DIM_DATE = Dimension(
    "dim_date",
    "One row is a calendar day, from the first to the last that any fact refers to, without a hole between 1900 and 2199.",
    "date_id",
    [
        Column("date_id", "date", "The day."),
        Column("year", "int"),
        Column("month", "int", "1 to 12."),
        Column("day", "int", "Day of the month, 1 to 31."),
        Column("day_of_week", "int", "ISO 8601: Monday is 1, Sunday is 7."),
        Column("quarter", "int", "1 to 4."),
        Column("day_name", "text", "In English: Monday to Sunday."),
        Column("month_name", "text", "In English: January to December."),
    ],
    rows="any",
    # A version that was corrected since refers to its days all the same.
    versions_of=("fact_sales_order", "fact_purchase_order", "fact_payment"),
)
DIM_STAFF = Dimension(
    "dim_staff",
    "One row is a member of staff, with the department as it is now.",
    "staff_id",
    [
        Column("staff_id", "int", "As in the source."),
        Column("first_name", "text"),
        Column("last_name", "text"),
        Column("department_name", "text?"),
        Column("location", "text?", "Where the department is."),
        Column("email_address", "text"),
    ],
)
DIM_LOCATION = Dimension(
    "dim_location",
    "One row is an address that orders are delivered to.",
    "location_id",
    [
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
DIM_CURRENCY = Dimension(
    "dim_currency",
    "One row is a currency, with its name in ISO 4217.",
    "currency_id",
    [
        Column("currency_id", "int", "As in the source."),
        Column("currency_code", "text", "ISO 4217."),
        Column("currency_name", "text", "By ISO 4217; the code itself where ISO 4217 does not know it."),
    ],
)
DIM_DESIGN = Dimension(
    "dim_design",
    "One row is a design of a tote bag.",
    "design_id",
    [
        Column("design_id", "int", "As in the source."),
        Column("design_name", "text"),
        Column("file_location", "text"),
        Column("file_name", "text"),
    ],
)
DIM_COUNTERPARTY = Dimension(
    "dim_counterparty",
    "One row is a company that is sold to or bought from, with its legal address.",
    "counterparty_id",
    [
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
DIM_PAYMENT_TYPE = Dimension(
    "dim_payment_type",
    "One row is a kind of payment.",
    "payment_type_id",
    [Column("payment_type_id", "int", "As in the source."), Column("payment_type_name", "text")],
)
DIM_TRANSACTION = Dimension(
    "dim_transaction",
    "One row ties a payment to the sales or purchase order it is for.",
    "transaction_id",
    [
        Column("transaction_id", "int", "As in the source."),
        Column("transaction_type", "text", "SALE or PURCHASE."),
        Column("sales_order_id", "int?"),
        Column("purchase_order_id", "int?"),
    ],
)

_AUDIT = [
    Column("created_date", "date", "When the source created the row.", references="dim_date"),
    Column("created_time", "time", "To the millisecond."),
    Column(
        "last_updated_date", "date", "As the source says; it does not move with every change.", "dim_date"
    ),
    Column("last_updated_time", "time", "To the millisecond."),
]

FACT_SALES_ORDER = Fact(
    "fact_sales_order",
    "One row is a version of a sales order, or the record of its deletion.",
    "sales_order_id",
    [
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
    record="sales_record_id",
)
FACT_PURCHASE_ORDER = Fact(
    "fact_purchase_order",
    "One row is a version of a purchase order, or the record of its deletion.",
    "purchase_order_id",
    [
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
    record="purchase_record_id",
)
FACT_PAYMENT = Fact(
    "fact_payment",
    "One row is a version of a payment, or the record of its deletion.",
    "payment_id",
    [
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
    record="payment_record_id",
)
