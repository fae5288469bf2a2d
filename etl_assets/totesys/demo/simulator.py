"""Business that goes on after the generated two years: what a capture has to notice, and what hides from it.

Here: sales, purchases and settlements, changes that leave no trace in `last_updated`, and cancellations.
Not here: the content to begin with (`generator`).
"""

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from random import Random
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from etl_assets.totesys.demo.generator import CITIES, FILE_LOCATIONS, FIRST_NAMES, LAST_NAMES

_OPENING = dt.time(8)
_BUSINESS_SECONDS = 10 * 60 * 60
_SALES_SHARE = 0.7
# How many of the newest orders are still open to changes.
_OPEN_ORDERS = 200
_SALES_RECEIPT = 1
_PURCHASE_PAYMENT = 3


class NoBusinessError(RuntimeError):
    """The database holds no sales orders to go on from."""


@dataclass(frozen=True)
class DaySummary:
    """What a day did to the database, in rows; the mappings are by table."""

    day: dt.date
    sales: int
    purchases: int
    payments_settled: int
    added: Mapping[str, int] = field(default_factory=dict)
    silent_updates: Mapping[str, int] = field(default_factory=dict)
    deleted: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.day}: {self.sales} sales, {self.purchases} purchases, {self.payments_settled} payments settled; "
            f"added {_listed(self.added)}; changed silently {_listed(self.silent_updates)}; "
            f"deleted {_listed(self.deleted)}"
        )


@dataclass(frozen=True)
class Members:
    """The ids that an order may refer to, ascending."""

    addresses: list[int]
    counterparties: list[int]
    currencies: list[int]
    designs: list[int]
    staff: list[int]

    @staticmethod
    def read(cursor: Cursor) -> "Members":
        """What the newest day of business is."""
        cursor.execute(
            "select (select array_agg(address_id order by address_id) from address),"
            " (select array_agg(counterparty_id order by counterparty_id) from counterparty),"
            " (select array_agg(currency_id order by currency_id) from currency),"
            " (select array_agg(design_id order by design_id) from design),"
            " (select array_agg(staff_id order by staff_id) from staff)"
        )
        return Members(*_row(cursor))


def play_day(url: str, *, seed: int | None = None, orders: int = 40) -> DaySummary:
    """One day of business, the day after the newest order; the same for the same database, seed and `orders`.

    Every sale, purchase and cancellation is a database transaction, as in the application. Raises NoBusinessError
    if there are no sales orders.
    """
    with closing(psycopg2.connect(url)) as connection:
        with connection, connection.cursor() as cursor:
            day = _newest(cursor).date() + dt.timedelta(days=1)
            rng = Random(f"{day}/{seed}")
            open_sales, open_purchases = (
                _newest_ids(cursor, "sales_order"),
                _newest_ids(cursor, "purchase_order"),
            )
            known = Members.read(cursor)
        sales = round(orders * _SALES_SHARE)
        added = _add_members(connection, day, rng)
        settled = _settle(connection, day, rng, limit=orders)
        with connection, connection.cursor() as cursor:
            members = Members.read(cursor)
        kinds = [True] * sales + [False] * (orders - sales)
        rng.shuffle(kinds)
        for moment, is_sale in zip(_moments(day, orders, rng), kinds, strict=True):
            with connection, connection.cursor() as cursor:
                (record_sale if is_sale else record_purchase)(cursor, moment, members, rng)
        # Only rows that were there before today: a change in a new row would be no change to a reader.
        cancelled, *changed = rng.sample(open_sales, min(4, len(open_sales)))
        recoded = rng.sample(open_purchases, min(2, len(open_purchases)))
        silent = _change_silently(connection, changed, recoded, known, rng)
        deleted = _cancel_sale(connection, cancelled)
    return DaySummary(day, sales, orders - sales, settled, added, silent, deleted)


def sell(connection: Connection, n: int, *, seed: int = 1) -> int:
    """Insert and commit one sale in one database transaction, and return its sales_order_id.

    For writers that run beside a reader: `n` and `seed` choose the content, sequences give the ids, and the sale is
    later than the sale with the highest id that is visible.
    """
    rng = Random(f"{seed}/{n}")
    with connection, connection.cursor() as cursor:
        cursor.execute("select created_at from sales_order order by sales_order_id desc limit 1")
        moment = _row(cursor)[0] + dt.timedelta(milliseconds=rng.randint(1, 5000))
        return record_sale(cursor, moment, Members.read(cursor), rng)


def go_on(url: str, seconds: float, *, seed: int = 1) -> Iterator[str]:
    """Business without end: something every so many `seconds`, told in a line. Every tenth time it is a small day."""
    for n in count(1):
        if n % 10:
            with closing(psycopg2.connect(url)) as connection:
                yield f"sold: sales order {sell(connection, n, seed=seed)}"
        else:
            yield str(play_day(url, seed=seed, orders=5))
        time.sleep(seconds)


def record_sale(cursor: Cursor, moment: dt.datetime, members: Members, rng: Random) -> int:
    """Insert a sales order, its transaction and its payment, without commit; returns the sales_order_id."""
    units, price = rng.randint(1_000, 100_000), Decimal(rng.randint(200, 400)) / 100
    order = _terms(moment, members, rng) | {
        "design_id": rng.choice(members.designs),
        "units_sold": units,
        "unit_price": price,
    }
    order_id = _insert(cursor, "sales_order", order)
    links = {"transaction_type": "SALE", "sales_order_id": order_id}
    _record_payment(cursor, order, links, units * price, _SALES_RECEIPT, rng)
    return order_id


def record_purchase(cursor: Cursor, moment: dt.datetime, members: Members, rng: Random) -> int:
    """Insert a purchase order, its transaction and its payment, without commit; returns the purchase_order_id."""
    quantity, price = rng.randint(1, 1_000), Decimal(rng.randint(300, 100_000)) / 100
    order = _terms(moment, members, rng) | {
        "item_code": _item_code(rng),
        "item_quantity": quantity,
        "item_unit_price": price,
    }
    order_id = _insert(cursor, "purchase_order", order)
    links = {"transaction_type": "PURCHASE", "purchase_order_id": order_id}
    _record_payment(cursor, order, links, quantity * price, _PURCHASE_PAYMENT, rng)
    return order_id


def _terms(moment: dt.datetime, members: Members, rng: Random) -> dict[str, Any]:
    return {
        "created_at": moment,
        "last_updated": moment,
        "staff_id": rng.choice(members.staff),
        "counterparty_id": rng.choice(members.counterparties),
        "currency_id": rng.choice(members.currencies),
        "agreed_delivery_date": _date_text(moment, rng),
        "agreed_payment_date": _date_text(moment, rng),
        "agreed_delivery_location_id": rng.choice(members.addresses),
    }


def _record_payment(
    cursor: Cursor,
    order: Mapping[str, Any],
    links: Mapping[str, Any],
    amount: Decimal,
    kind: int,
    rng: Random,
) -> None:
    audit = {name: order[name] for name in ("created_at", "last_updated")}
    payment = {
        "transaction_id": _insert(cursor, "transaction", {**links, **audit}),
        "counterparty_id": order["counterparty_id"],
        "payment_amount": amount,
        "currency_id": order["currency_id"],
        "payment_type_id": kind,
        "paid": False,
        "payment_date": order["agreed_payment_date"],
        "company_ac_number": rng.randint(10_000_000, 99_999_999),
        "counterparty_ac_number": rng.randint(10_000_000, 99_999_999),
    }
    _insert(cursor, "payment", {**payment, **audit})


def _add_members(connection: Connection, day: dt.date, rng: Random) -> dict[str, int]:
    """Now and then a counterparty with its address, or a colleague."""
    added: dict[str, int] = {}
    opening = dt.datetime.combine(day, _OPENING)
    audit = {"created_at": opening, "last_updated": opening}
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    with connection, connection.cursor() as cursor:
        if rng.random() < 0.3:
            address = {
                "address_line_1": f"{rng.randint(1, 999)} {last} Way",
                "address_line_2": rng.choice((None, "", "Unit 2, rear")),
                "district": None,
                "city": rng.choice(CITIES),
                "postal_code": f"{rng.randint(0, 99_999):05}",
                "country": "Ireland",
                "phone": f"01803 {rng.randint(0, 999_999):06}",
            }
            counterparty = {
                "counterparty_legal_name": f"{last}, {first} and Co",
                "legal_address_id": _insert(cursor, "address", {**address, **audit}),
                "commercial_contact": f"{first} {last}",
                "delivery_contact": None,
            }
            _insert(cursor, "counterparty", {**counterparty, **audit})
            added |= {"address": 1, "counterparty": 1}
        if rng.random() < 0.3:
            cursor.execute("select array_agg(department_id order by department_id) from department")
            staff = {
                "first_name": first,
                "last_name": last,
                "department_id": rng.choice(_row(cursor)[0]),
                "email_address": f"colleague.{rng.randint(1_000, 9_999)}@terrifictotes.com",
            }
            _insert(cursor, "staff", {**staff, **audit})
            added["staff"] = 1
    return added


def _settle(connection: Connection, day: dt.date, rng: Random, *, limit: int) -> int:
    """Payments that are due become paid: the one change that the application records in last_updated."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "select payment_id from payment where not paid and payment_date <= %s order by payment_id desc limit %s",
            (day.isoformat(), limit),
        )
        due = [payment_id for (payment_id,) in cursor.fetchall()]
        for payment_id, moment in zip(due, _moments(day, len(due), rng), strict=True):
            cursor.execute(
                "update payment set paid = true, last_updated = %s where payment_id = %s",
                (moment, payment_id),
            )
    return len(due)


def _change_silently(
    connection: Connection, sales: list[int], purchases: list[int], members: Members, rng: Random
) -> dict[str, int]:
    """Change rows in place and leave last_updated as it was, as the application does."""
    staff_id, design_id = rng.choice(members.staff), rng.choice(members.designs)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "update staff set email_address = %s, department_id = ("
            " select department_id from department where department_id <> staff.department_id"
            " order by hashint4extended(department_id, %s) limit 1) where staff_id = %s",
            (f"moved.{rng.randint(1_000, 9_999)}@terrifictotes.com", rng.getrandbits(31), staff_id),
        )
        cursor.execute(
            "update design set file_location = %s where design_id = %s",
            (f"{rng.choice(FILE_LOCATIONS)}/{rng.randint(1_000, 9_999)}", design_id),
        )
        for sales_order_id in sales:
            cursor.execute(
                "update sales_order set agreed_delivery_date = (agreed_delivery_date::date + %s)::text,"
                " agreed_delivery_location_id = %s where sales_order_id = %s",
                (rng.randint(1, 5), rng.choice(members.addresses), sales_order_id),
            )
        for purchase_order_id in purchases:
            cursor.execute(
                "update purchase_order set item_code = %s where purchase_order_id = %s",
                (f"{_item_code(rng)}-B", purchase_order_id),
            )
    return {"staff": 1, "design": 1, "sales_order": len(sales), "purchase_order": len(purchases)}


def _cancel_sale(connection: Connection, sales_order_id: int) -> dict[str, int]:
    with connection, connection.cursor() as cursor:
        deleted = {}
        cursor.execute(
            "delete from payment using transaction where payment.transaction_id = transaction.transaction_id"
            " and transaction.sales_order_id = %s",
            (sales_order_id,),
        )
        deleted["payment"] = cursor.rowcount
        cursor.execute("delete from transaction where sales_order_id = %s", (sales_order_id,))
        deleted["transaction"] = cursor.rowcount
        cursor.execute("delete from sales_order where sales_order_id = %s", (sales_order_id,))
        deleted["sales_order"] = cursor.rowcount
    return deleted


def _insert(cursor: Cursor, table: str, values: Mapping[str, Any]) -> int:
    """Insert a row and return the id that the table's sequence gave it."""
    cursor.execute(
        sql.SQL("insert into {} ({}) values ({}) returning {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Literal, values.values())),
            sql.Identifier(f"{table}_id"),
        )
    )
    return int(_row(cursor)[0])


def _newest(cursor: Cursor) -> dt.datetime:
    cursor.execute(
        "select greatest((select max(created_at) from purchase_order), max(created_at)) from sales_order"
        " having count(*) > 0"
    )
    newest: dt.datetime = _row(cursor)[0]
    return newest


def _newest_ids(cursor: Cursor, table: str) -> list[int]:
    key = sql.Identifier(f"{table}_id")
    cursor.execute(
        sql.SQL("select {key} from {table} order by {key} desc limit %s").format(
            key=key, table=sql.Identifier(table)
        ),
        (_OPEN_ORDERS,),
    )
    return [row_id for (row_id,) in cursor.fetchall()]


def _row(cursor: Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise NoBusinessError("the database holds no sales orders: generate them first")
    return row


def _moments(day: dt.date, count: int, rng: Random) -> list[dt.datetime]:
    """Ascending instants of a business day in milliseconds, some of them whole seconds."""
    opening = dt.datetime.combine(day, _OPENING)
    seconds = sorted(rng.randrange(_BUSINESS_SECONDS) for _ in range(count))
    return [
        opening + dt.timedelta(seconds=s, milliseconds=rng.choice((0, rng.randrange(1000)))) for s in seconds
    ]


def _date_text(moment: dt.datetime, rng: Random) -> str:
    return (moment.date() + dt.timedelta(days=rng.randint(1, 7))).isoformat()


def _item_code(rng: Random) -> str:
    return "".join(rng.choices("0123456789ABCDEFGHJKLMNPQRSTUVWXYZ", k=7))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {table}" for table, count in counts.items()) or "nothing"
