"""What the star must hold, computed by PostgreSQL itself from the source as it is at this moment.

Independent on purpose: plain SQL written from the definition of ToteSys, and nothing of `etl_assets`.
"""

import datetime as dt
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import cursor as Cursor

TABLES = (
    "address", "counterparty", "currency", "department", "design", "payment", "payment_type", "purchase_order",
    "sales_order", "staff", "transaction",
)  # fmt: skip
FACTS = {
    "fact_sales_order": ("sales_order", "sales_record_id"),
    "fact_purchase_order": ("purchase_order", "purchase_record_id"),
    "fact_payment": ("payment", "payment_record_id"),
}
"""Fact -> the source table that it is made of, and its surrogate key."""

_AUDIT = """created_at::date AS created_date, created_at::time AS created_time,
    last_updated::date AS last_updated_date, last_updated::time AS last_updated_time"""
_STAR = {
    "dim_staff": """
        SELECT staff_id, first_name, last_name, department_name, location, email_address
        FROM staff LEFT JOIN department USING (department_id)""",
    "dim_location": """
        SELECT address_id AS location_id, address_line_1, address_line_2, district, city, postal_code, country, phone
        FROM address""",
    "dim_currency": """
        SELECT currency_id, currency_code, CASE currency_code WHEN 'GBP' THEN 'Pound Sterling'
            WHEN 'USD' THEN 'US Dollar' WHEN 'EUR' THEN 'Euro' ELSE currency_code END AS currency_name
        FROM currency""",
    "dim_design": "SELECT design_id, design_name, file_location, file_name FROM design",
    "dim_counterparty": """
        SELECT counterparty_id, counterparty_legal_name,
            address_line_1 AS counterparty_legal_address_line_1,
            address_line_2 AS counterparty_legal_address_line_2, district AS counterparty_legal_district,
            city AS counterparty_legal_city, postal_code AS counterparty_legal_postal_code,
            country AS counterparty_legal_country, phone AS counterparty_legal_phone_number
        FROM counterparty LEFT JOIN address ON address_id = legal_address_id""",
    "dim_payment_type": "SELECT payment_type_id, payment_type_name FROM payment_type",
    "dim_transaction": "SELECT transaction_id, transaction_type, sales_order_id, purchase_order_id FROM transaction",
    "fact_sales_order": f"""
        SELECT sales_order_id, {_AUDIT}, staff_id AS sales_staff_id, counterparty_id, units_sold, unit_price,
            currency_id, design_id, agreed_payment_date::date AS agreed_payment_date,
            agreed_delivery_date::date AS agreed_delivery_date, agreed_delivery_location_id
        FROM sales_order""",
    "fact_purchase_order": f"""
        SELECT purchase_order_id, {_AUDIT}, staff_id, counterparty_id, item_code, item_quantity, item_unit_price,
            currency_id, agreed_delivery_date::date AS agreed_delivery_date,
            agreed_payment_date::date AS agreed_payment_date, agreed_delivery_location_id
        FROM purchase_order""",
    "fact_payment": f"""
        SELECT payment_id, {_AUDIT}, transaction_id, counterparty_id, payment_amount, currency_id, payment_type_id,
            paid, payment_date::date AS payment_date
        FROM payment""",
}
_USED_DATES = """
    SELECT unnest(ARRAY[created_at::date, last_updated::date, agreed_delivery_date::date, agreed_payment_date::date])
    FROM sales_order
    UNION SELECT unnest(ARRAY[created_at::date, last_updated::date, agreed_delivery_date::date,
        agreed_payment_date::date]) FROM purchase_order
    UNION SELECT unnest(ARRAY[created_at::date, last_updated::date, payment_date::date]) FROM payment"""
_CALENDAR = """
    SELECT day::date AS date_id, extract(year FROM day)::int AS year, extract(month FROM day)::int AS month,
        extract(day FROM day)::int AS day, extract(isodow FROM day)::int AS day_of_week,
        extract(quarter FROM day)::int AS quarter, trim(to_char(day, 'Day')) AS day_name,
        trim(to_char(day, 'Month')) AS month_name
    FROM generate_series(%s::timestamp, %s::timestamp, '1 day') AS day"""
# A field of CSV as PostgreSQL and DuckDB write it: NULL is an empty field without quotes.
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^,\n]*))(,|\n)')

Row = Mapping[str, str | None]
Content = Mapping[str, Mapping[int, Row]]
"""Table -> key -> column -> PostgreSQL's own text."""


@dataclass(frozen=True)
class Rows:
    """A table's rows in the order of its key, which is the first column."""

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


@dataclass(frozen=True)
class Moment:
    """The source at one instant: as it is, and as the star must show it."""

    content: Content
    star: Mapping[str, Rows]
    used_dates: frozenset[dt.date]


def moment(url: str) -> Moment:
    with _cursor(url) as cursor:
        star = {name: _rows(cursor, f"{query} ORDER BY 1") for name, query in _STAR.items()}
        cursor.execute(_USED_DATES)
        used = frozenset(date for (date,) in cursor.fetchall())
        return Moment({table: _content(cursor, table) for table in TABLES}, star, used)


def content(url: str) -> Content:
    with _cursor(url) as cursor:
        return {table: _content(cursor, table) for table in TABLES}


def calendar(url: str, dates: frozenset[dt.date]) -> Rows:
    """dim_date for facts that use these dates."""
    with _cursor(url) as cursor:
        return _rows(cursor, _CALENDAR, (min(dates), max(dates)))


def parse_csv(text: str) -> Iterator[Row]:
    """The rows of a CSV file with a header; unlike the csv module it tells NULL from the empty string."""
    records: list[list[str | None]] = [[]]
    for field in _FIELD.finditer(text):
        quoted, plain, end = field.groups()
        records[-1].append(plain or None if quoted is None else quoted.replace('""', '"'))
        if end == "\n":
            records.append([])
    header, *rows = records[:-1]
    return (dict(zip(map(str, header), row, strict=True)) for row in rows)


def _content(cursor: Cursor, table: str) -> Mapping[int, Row]:
    stream = io.StringIO()
    cursor.copy_expert(f'COPY "{table}" TO STDOUT (FORMAT csv, HEADER)', stream)
    return {int(str(row[f"{table}_id"])): row for row in parse_csv(stream.getvalue())}


def _rows(cursor: Cursor, query: str, values: tuple[object, ...] | None = None) -> Rows:
    cursor.execute(query, values)
    return Rows(tuple(column.name for column in cursor.description or ()), cursor.fetchall())


@contextmanager
def _cursor(url: str) -> Iterator[Cursor]:
    with closing(psycopg2.connect(url)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            yield cursor
