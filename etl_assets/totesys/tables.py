"""The tables of ToteSys that are read, and what the star takes their columns for.

All columns are landed; declared are those that the star uses. `?` allows NULL. Dates that ToteSys keeps as text
are declared `date`: a text that is no date never reaches the star silently.
"""

from etl_assets.project import Table

ADDRESS = Table(
    "address",
    "One row is an address of a counterparty or a place of delivery.",
    {
        "address_id": "int",
        "address_line_1": "text",
        "address_line_2": "text?",
        "district": "text?",
        "city": "text",
        "postal_code": "text",
        "country": "text",
        "phone": "text",
    },
)
COUNTERPARTY = Table(
    "counterparty",
    "One row is a company that is sold to or bought from.",
    {"counterparty_id": "int", "counterparty_legal_name": "text", "legal_address_id": "int"},
)
CURRENCY = Table(
    "currency",
    "One row is a currency of orders and payments.",
    {"currency_id": "int", "currency_code": "text"},
)
DEPARTMENT = Table(
    "department",
    "One row is a department of the company.",
    {"department_id": "int", "department_name": "text", "location": "text?"},
)
DESIGN = Table(
    "design",
    "One row is a design of a tote bag.",
    {"design_id": "int", "design_name": "text", "file_location": "text", "file_name": "text"},
)
STAFF = Table(
    "staff",
    "One row is a member of staff.",
    {
        "staff_id": "int",
        "first_name": "text",
        "last_name": "text",
        "department_id": "int",
        "email_address": "text",
    },
)
PAYMENT_TYPE = Table(
    "payment_type",
    "One row is a kind of payment.",
    {"payment_type_id": "int", "payment_type_name": "text"},
)
TRANSACTION = Table(
    "transaction",
    "One row ties a payment to the sales or purchase order it is for.",
    {
        "transaction_id": "int",
        "transaction_type": "text",
        "sales_order_id": "int?",
        "purchase_order_id": "int?",
    },
)
SALES_ORDER = Table(
    "sales_order",
    "One row is an order by a counterparty, sold by a member of staff.",
    {
        "sales_order_id": "int",
        "created_at": "timestamp",
        "last_updated": "timestamp",
        "design_id": "int",
        "staff_id": "int",
        "counterparty_id": "int",
        "units_sold": "int",
        "unit_price": "numeric(10,2)",
        "currency_id": "int",
        "agreed_delivery_date": "date",
        "agreed_payment_date": "date",
        "agreed_delivery_location_id": "int",
    },
)
PURCHASE_ORDER = Table(
    "purchase_order",
    "One row is an order of supplies with a counterparty, placed by a member of staff.",
    {
        "purchase_order_id": "int",
        "created_at": "timestamp",
        "last_updated": "timestamp",
        "staff_id": "int",
        "counterparty_id": "int",
        "item_code": "text",
        "item_quantity": "int",
        "item_unit_price": "numeric(10,2)",
        "currency_id": "int",
        "agreed_delivery_date": "date",
        "agreed_payment_date": "date",
        "agreed_delivery_location_id": "int",
    },
)
PAYMENT = Table(
    "payment",
    "One row is a payment due or made for a transaction.",
    {
        "payment_id": "int",
        "created_at": "timestamp",
        "last_updated": "timestamp",
        "transaction_id": "int",
        "counterparty_id": "int",
        "payment_amount": "numeric(10,2)",
        "currency_id": "int",
        "payment_type_id": "int",
        "paid": "boolean",
        "payment_date": "date",
    },
)
