"""The source that benchmarks read: a ToteSys of any size, and a day's changes in its large tables."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg2

from etl_assets.stand_ins.postgres import serve
from etl_assets.totesys.demo.generator import generate

BIG = ("sales_order", "transaction", "payment")
# 4,793 row changes over the three big tables: inserts, silent updates, settled payments, deletions.
CHANGE = """
WITH o AS (
    INSERT INTO sales_order (created_at, last_updated, design_id, staff_id, counterparty_id, units_sold, unit_price,
                             currency_id, agreed_delivery_date, agreed_payment_date, agreed_delivery_location_id)
    SELECT m, m, 1 + n %% 50, 1 + n %% 20, 1 + n %% 20, 1000 + n, 2.5, 1 + n %% 3, '2025-11-05', '2025-11-06', 1 + n %% 30
    FROM generate_series(1, 900) n, (SELECT '2025-10-31 10:00:00.123'::timestamp(3) + %(day)s) t (m)
    RETURNING sales_order_id, counterparty_id, units_sold, unit_price, currency_id, created_at
), t AS (
    INSERT INTO transaction (created_at, last_updated, transaction_type, sales_order_id)
    SELECT created_at, created_at, 'SALE', sales_order_id FROM o RETURNING transaction_id, sales_order_id
)
INSERT INTO payment (created_at, last_updated, transaction_id, counterparty_id, payment_amount, currency_id,
                     payment_type_id, paid, payment_date, company_ac_number, counterparty_ac_number)
SELECT created_at, created_at, transaction_id, counterparty_id, round(units_sold * unit_price, 2), currency_id, 1,
       false, '2025-11-06', 12345678, 87654321
FROM t JOIN o USING (sales_order_id);
UPDATE sales_order SET agreed_delivery_date = '2025-11-0' || 1 + (sales_order_id + %(seed)s) %% 9
WHERE sales_order_id IN (SELECT n * (SELECT max(sales_order_id) / 1001 FROM sales_order) + %(seed)s
                         FROM generate_series(1, 1000) n);
UPDATE payment SET paid = NOT paid, last_updated = timestamp '2025-10-31 12:00:00' + %(day)s
WHERE payment_id IN (SELECT n * (SELECT max(payment_id) / 701 FROM payment) + %(seed)s FROM generate_series(1, 700) n);
CREATE TEMP TABLE cancelled AS SELECT transaction_id, sales_order_id FROM transaction WHERE sales_order_id IN
    (SELECT n * (SELECT max(sales_order_id) / 201 FROM sales_order) + 7 * %(seed)s FROM generate_series(1, 200) n);
DELETE FROM payment WHERE transaction_id IN (SELECT transaction_id FROM cancelled);
DELETE FROM transaction WHERE transaction_id IN (SELECT transaction_id FROM cancelled);
DELETE FROM sales_order WHERE sales_order_id IN (SELECT sales_order_id FROM cancelled);
DROP TABLE cancelled;
"""


@dataclass(frozen=True)
class Source:
    """A running server. `postmaster` is the process id of its first process."""

    url: str
    postmaster: int


@contextmanager
def serving(folder: Path, scale: float) -> Iterator[Source]:
    """The source whose data is in `folder`, made at that scale unless it is there, with its tables in the cache."""
    with serve(folder) as url:
        prepare(url, scale)
        (running,) = folder.rglob("postmaster.pid")
        yield Source(url, int(running.read_text().split()[0]))


def prepare(url: str, scale: float) -> None:
    """Fill an empty database, and read the large tables once."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.sales_order') IS NULL")
        ((empty,),) = cursor.fetchall()
    if empty:
        generate(url, scale=scale)
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for table in (*BIG, "purchase_order"):
            cursor.execute(f"SELECT count(*) FROM {table}")  # also warms the cache
            print(f"{table}: {cursor.fetchall()[0][0]:,} rows")


def change(url: str) -> None:
    """Change some 4,800 rows as a day of business does: the first one after what is there, so that no two days are alike, and
    whatever sets `last_updated` sets it above all that was there."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT greatest(0, max(created_at)::date - date '2025-10-31') + 1 FROM sales_order")
        ((seed,),) = cursor.fetchall()
        cursor.execute(CHANGE, {"seed": seed, "day": timedelta(days=seed)})
