"""The generated business is believable, consistent, nasty where the real one is, and the same every time."""

import hashlib
import io
from collections.abc import Callable
from contextlib import closing

import psycopg2
import pytest
from psycopg2 import sql

from etl_assets.totesys.demo.generator import TABLES, DatabaseNotEmptyError, Variant, generate

_ORPHANS_AND_AMOUNTS = """
    select count(*), count(payment_id),
        count(*) filter (where payment_amount = units_sold * unit_price and payment.currency_id = sales_order.currency_id
            and payment.counterparty_id = sales_order.counterparty_id and payment.created_at = sales_order.created_at)
    from sales_order left join transaction using (sales_order_id) left join payment using (transaction_id)
"""


@pytest.fixture(params=["totesys", "classroom"])
def either(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(params=["totesys", "classroom"])
def stored(request: pytest.FixtureRequest, postgres_url: str, template: Callable[[Variant], str]) -> str:
    """The template itself: enough for what only reads, and quicker than a copy of it."""
    return postgres_url.rsplit("/", 1)[0] + "/" + template(request.param)


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def holds(url: str, condition: str) -> bool:
    return rows(url, f"select {condition}") == [(True,)]


def content(url: str) -> dict[str, str]:
    digests = {}
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for table in TABLES:
            out = io.BytesIO()
            cursor.copy_expert(sql.SQL("copy {} to stdout").format(sql.Identifier(table)), out)
            digests[table] = hashlib.md5(out.getvalue(), usedforsecurity=False).hexdigest()
    return digests


def test_the_same_seed_gives_the_same_content_and_another_seed_another(
    database: Callable[..., str], totesys: str, classroom: str
) -> None:
    again, other = database(), database()
    generate(again, scale=0.02)
    generate(other, scale=0.02, seed=2)
    assert content(again) == content(totesys) == content(classroom)
    assert all(content(other)[table] != digest for table, digest in content(totesys).items())


def test_every_sale_has_its_transaction_and_payment_with_units_times_price(stored: str) -> None:
    assert rows(stored, _ORPHANS_AND_AMOUNTS) == [(220, 220, 220)]


def test_every_purchase_has_its_transaction_and_payment_with_quantity_times_price(stored: str) -> None:
    statement = _ORPHANS_AND_AMOUNTS
    for sale, purchase in (
        ("sales_order", "purchase_order"), ("units_sold", "item_quantity"), ("unit_price", "item_unit_price"),
    ):  # fmt: skip
        statement = statement.replace(sale, purchase)
    assert rows(stored, statement) == [(92, 92, 92)]


def test_the_numbers_stay_in_the_ranges_of_the_source(stored: str) -> None:
    assert holds(
        stored,
        "bool_and(units_sold between 1000 and 100000 and unit_price between 2 and 4 and scale(unit_price) = 2)"
        " from sales_order",
    )
    assert holds(
        stored,
        "bool_and(item_quantity between 1 and 1000 and item_unit_price between 3 and 1000) from purchase_order",
    )


def test_scale_one_is_two_years_of_a_small_company(database: Callable[..., str]) -> None:
    url = database()
    generate(url)
    counts = {table: rows(url, f"select count(*) from {table}")[0][0] for table in TABLES}
    assert counts == {
        "address": 30, "counterparty": 20, "currency": 3, "department": 8, "design": 54, "payment": 15_600,
        "payment_type": 4, "purchase_order": 4_600, "sales_order": 11_000, "staff": 20, "transaction": 15_600,
    }  # fmt: skip
    assert rows(url, "select min(created_at)::date::text, max(created_at)::date::text from sales_order") == [
        ("2023-11-01", "2025-10-31")
    ]
    assert holds(
        url,
        "count(*) filter (where extract(isodow from created_at) = 7) * 2"
        " < count(*) filter (where extract(isodow from created_at) = 3) from sales_order",
    )


def test_a_larger_scale_grows_orders_linearly_and_members_by_the_root(database: Callable[..., str]) -> None:
    url = database()
    generate(url, scale=4)
    assert rows(url, "select (select count(*) from sales_order), (select count(*) from staff)") == [
        (44_000, 40)
    ]


def test_a_scale_without_business_is_refused(database: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="scale"):
        generate(database(), scale=0.00001)


def test_content_is_as_nasty_as_the_real_one(stored: str) -> None:
    for condition in (
        "count(*) filter (where postal_code = '01138') = 1 from address",
        "count(*) filter (where address_line_2 = '') > 0 and count(*) > count(address_line_2) from address",
        "bool_or(city <> trim(city)) and bool_or(address_line_1 like '%''%') from address",
        "bool_or(address_line_1 like '%,%') and bool_or(address_line_2 like '%\"%') from address",
        "bool_or(delivery_contact = '') and bool_or(delivery_contact is null) from counterparty",
        "bool_or(counterparty_legal_name like '%,%') from counterparty",
        "bool_or(location = '') and bool_or(location is null) from department",
        "bool_or(last_name like '%''%') from staff",
        "bool_or(item_code <> trim(item_code)) and bool_or(item_code like '0%') from purchase_order",
        "bool_or(date_trunc('second', created_at) = created_at) and"
        " bool_or(date_trunc('second', created_at) <> created_at) from sales_order",
        "bool_and(date_trunc('millisecond', created_at) = created_at) from sales_order",
        "bool_or(payment_id <> transaction_id) from payment",
        "count(distinct payment_type_id) = 4 and count(distinct currency_id) = 3 from payment",
        "bool_or(not paid) and bool_or(paid) from payment",
        "bool_and(case when paid then last_updated > created_at else last_updated = created_at end) from payment",
        "count(*) > 0 from _prisma_migrations",
    ):
        assert holds(stored, condition), condition


def test_physical_order_is_not_id_order(stored: str) -> None:
    for table in ("sales_order", "transaction", "staff", "currency"):
        order = rows(stored, f"select {table}_id from {table} order by ctid")
        assert order != sorted(order), table


def test_sequences_go_on_after_the_generated_ids(either: str) -> None:
    for table in TABLES:
        assert holds(
            either,
            f"nextval(pg_get_serial_sequence('{table}', '{table}_id')) = max({table}_id) + 1 from {table}",
        ), table


def test_the_keys_of_the_source_are_enforced(either: str) -> None:
    for statement, errors in (
        (
            "insert into transaction select 99999, transaction_type, sales_order_id from transaction",
            ("NotNullViolation",),
        ),
        ("update sales_order set design_id = 99999", ("ForeignKeyViolation", "RestrictViolation")),
        ("delete from transaction", ("ForeignKeyViolation", "RestrictViolation")),
        ("update payment set transaction_id = 1", ("UniqueViolation",)),
        ("update transaction set sales_order_id = 1 where sales_order_id is not null", ("UniqueViolation",)),
    ):
        with pytest.raises(psycopg2.IntegrityError) as caught:
            rows(either, statement)
        assert type(caught.value).__name__ in errors


def test_the_deletion_of_an_order_leaves_its_transaction_without_it(either: str) -> None:
    deleted = "with gone as (delete from sales_order where sales_order_id = 1 returning sales_order_id)"
    with closing(psycopg2.connect(either)) as connection, connection.cursor() as cursor:
        cursor.execute(f"{deleted} select transaction_id from transaction join gone using (sales_order_id)")
        (transaction_id,) = cursor.fetchone() or (None,)
        cursor.execute("select sales_order_id from transaction where transaction_id = %s", (transaction_id,))
        assert cursor.fetchone() == (None,)


@pytest.mark.parametrize(
    ("variant", "types"),
    [
        ("totesys", {"USER-DEFINED", "text", "timestamp(3)", "numeric(10,2)"}),
        ("classroom", {"character varying", "timestamp(6)", "numeric"}),
    ],
)
def test_the_variants_differ_in_their_types(
    request: pytest.FixtureRequest, variant: Variant, types: set[str]
) -> None:
    found = rows(
        request.getfixturevalue(variant),
        "select distinct case when data_type like 'timestamp%' then 'timestamp(' || datetime_precision || ')'"
        " when data_type = 'numeric' and numeric_precision is not null"
        " then 'numeric(' || numeric_precision || ',' || numeric_scale || ')' else data_type end"
        " from information_schema.columns where table_schema = 'public' and table_name <> '_prisma_migrations'"
        " and data_type not in ('integer', 'boolean') and column_name <> 'currency_code'",
    )
    assert {name for (name,) in found} == types


def test_a_database_with_content_is_refused_and_left_alone(totesys: str) -> None:
    before = content(totesys)
    with pytest.raises(DatabaseNotEmptyError):
        generate(totesys, scale=0.02)
    assert content(totesys) == before


def test_a_generation_that_fails_leaves_nothing(database: Callable[..., str]) -> None:
    url = database()
    with pytest.raises(psycopg2.DataError):
        # The tables are in place when a seed this large overflows.
        generate(url, scale=0.02, seed=2**62)
    assert rows(url, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == [(0,)]
    assert rows(url, "select count(*) from pg_type where typnamespace = 'public'::regnamespace") == [(0,)]
