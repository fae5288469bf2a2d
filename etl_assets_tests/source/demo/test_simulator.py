"""A day of business does all that a capture has to notice, and leaves no trace where the real source leaves none."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from random import Random

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_assets.totesys.demo.generator import Variant
from etl_assets.totesys.demo.simulator import Members, NoBusinessError, play_day, record_sale, sell
from etl_assets_tests.source.demo.test_generator import content, rows

Rows = dict[int, dict[str, object]]


@pytest.fixture(params=["totesys", "classroom"])
def url(request: pytest.FixtureRequest) -> str:
    value: str = request.getfixturevalue(request.param)
    return value


@pytest.fixture
def writer(totesys: str) -> Iterator[Connection]:
    with closing(psycopg2.connect(totesys)) as connection:
        yield connection


def table(url: str, name: str) -> Rows:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"select * from {name}")
        columns = [column.name for column in cursor.description or ()]
        found = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return {int(row[f"{name}_id"]): row for row in found}


def changed(before: Rows, after: Rows) -> set[int]:
    return {key for key in before.keys() & after.keys() if before[key] != after[key]}


def test_a_day_leaves_last_updated_unmoved_on_silent_updates(url: str) -> None:
    names = ("staff", "design", "sales_order", "purchase_order")
    before = {name: table(url, name) for name in names}
    summary = play_day(url)
    for name in names:
        after = table(url, name)
        keys = changed(before[name], after)
        assert len(keys) == summary.silent_updates[name] > 0
        assert all(before[name][key]["last_updated"] == after[key]["last_updated"] for key in keys)


def test_settled_payments_move_last_updated(url: str) -> None:
    before = table(url, "payment")
    summary = play_day(url)
    after = table(url, "payment")
    keys = changed(before, after)
    assert len(keys) == summary.payments_settled > 0
    for key in keys:
        assert (before[key]["paid"], after[key]["paid"]) == (False, True)
        assert str(after[key]["last_updated"]).startswith(str(summary.day))


def test_a_cancelled_sale_is_gone_with_its_transaction_and_payment(url: str) -> None:
    names = ("sales_order", "transaction", "payment")
    before = {name: table(url, name) for name in names}
    summary = play_day(url)
    gone = {name: before[name].keys() - table(url, name).keys() for name in names}
    assert {name: len(keys) for name, keys in gone.items()} == summary.deleted == dict.fromkeys(names, 1)
    (transaction_id,) = gone["transaction"]
    assert {before["transaction"][transaction_id]["sales_order_id"]} == gone["sales_order"]


def test_new_orders_come_with_transaction_and_payment_on_the_next_day(url: str) -> None:
    summary = play_day(url, orders=10)
    assert (str(summary.day), summary.sales, summary.purchases) == ("2025-11-01", 7, 3)
    assert rows(
        url,
        "select transaction_type::text, count(*), bool_and(payment_amount ="
        " coalesce(units_sold * unit_price, item_quantity * item_unit_price)),"
        " bool_and(payment.created_at = coalesce(sales_order.created_at, purchase_order.created_at))"
        " from payment join transaction using (transaction_id) left join sales_order using (sales_order_id)"
        " left join purchase_order using (purchase_order_id) where payment.created_at >= '2025-11-01' group by 1 order by 1",
    ) == [("PURCHASE", 3, True, True), ("SALE", 7, True, True)]


def test_days_follow_one_another_and_now_and_then_bring_new_members(url: str) -> None:
    before = {name: len(table(url, name)) for name in ("address", "counterparty", "staff")}
    days = [play_day(url, orders=4) for _ in range(8)]
    assert [summary.day.day for summary in days] == list(range(1, 9))
    for name, size in before.items():
        added = sum(summary.added.get(name, 0) for summary in days)
        assert added > 0
        assert len(table(url, name)) == size + added


def test_the_same_database_and_seed_give_the_same_day(
    database: Callable[..., str], template: Callable[[Variant], str], totesys: str
) -> None:
    same, other = database(template("totesys")), database(template("totesys"))
    assert play_day(same, seed=3) == play_day(totesys, seed=3)
    play_day(other, seed=4)
    assert content(same) == content(totesys) != content(other)


def test_a_summary_is_one_readable_line(totesys: str) -> None:
    summary = replace(play_day(totesys, seed=1), payments_settled=5, added={}, silent_updates={"staff": 1})
    assert str(summary) == (
        "2025-11-01: 28 sales, 12 purchases, 5 payments settled; added nothing; changed silently 1 staff; "
        "deleted 1 payment, 1 transaction, 1 sales_order"
    )


def test_a_sale_becomes_visible_as_a_whole(totesys: str, writer: Connection) -> None:
    sold = [sell(writer, n, seed=7) for n in range(3)]
    assert sold == [221, 222, 223]
    assert rows(
        totesys,
        "select count(*), bool_and(payment_amount = units_sold * unit_price) from sales_order"
        " join transaction using (sales_order_id) join payment using (transaction_id) where sales_order_id > 220",
    ) == [(3, True)]


def test_a_sale_can_commit_after_one_that_is_newer(totesys: str, writer: Connection) -> None:
    with writer.cursor() as cursor:
        cursor.execute("select max(created_at) from sales_order")
        (moment,) = cursor.fetchone() or (None,)
        late = record_sale(cursor, moment + timedelta(milliseconds=1), Members.read(cursor), Random(1))
        with closing(psycopg2.connect(totesys)) as other:
            newer = sell(other, 1)
    assert newer == late + 1
    assert (late in table(totesys, "sales_order"), newer in table(totesys, "sales_order")) == (False, True)
    writer.commit()
    assert late in table(totesys, "sales_order")


def test_a_sale_that_fails_leaves_nothing(totesys: str, writer: Connection) -> None:
    before = content(totesys)
    with writer.cursor() as cursor:
        cursor.execute("select setval('payment_payment_id_seq', 1, false)")
    writer.commit()
    with pytest.raises(psycopg2.errors.UniqueViolation):
        sell(writer, 1)
    assert content(totesys) == before


def test_a_database_without_orders_has_no_next_day(totesys: str) -> None:
    with closing(psycopg2.connect(totesys)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("truncate sales_order cascade")
    with pytest.raises(NoBusinessError):
        play_day(totesys)
