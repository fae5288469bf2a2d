"""What `etl init` makes of schemas in the manner of applications that everybody has: what is a fact, its header, its day; and what
tables are called."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import psycopg2
import pytest

from etl_assets.init.catalog import read
from etl_assets.init.declaring import declare, slug
from etl_assets.init.design import design
from etl_assets_tests.init.samples import execute


@dataclass(frozen=True)
class Manner:
    """A schema. `facts`: those that a person would make of it, each with the tables whose columns it has; `days`: of some facts
    the day of their report; `told`: of some why they are what they are."""

    name: str
    ddl: str
    facts: dict[str, list[str]]
    days: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)


MANNERS = [
    # Whatever there is has a name, is written by a user, and is tied to others by tables that end in _rel.
    Manner(
        "erp",
        """
        CREATE TABLE res_users (id int PRIMARY KEY, login text, write_uid int REFERENCES res_users, write_date timestamp);
        CREATE TABLE res_company (id int PRIMARY KEY, name text, create_uid int REFERENCES res_users, write_uid int REFERENCES res_users);
        CREATE TABLE partner (id int PRIMARY KEY, name text, company_id int REFERENCES res_company);
        CREATE TABLE tax (id int PRIMARY KEY, name text, amount numeric(5,2), company_id int REFERENCES res_company);
        CREATE TABLE product (id int PRIMARY KEY, tmpl_id int, weight numeric(9,2), company_id int REFERENCES res_company,
            write_uid int REFERENCES res_users, write_date timestamp);
        CREATE TABLE parameter (id int PRIMARY KEY, key text, value text, create_uid int REFERENCES res_users, write_uid int REFERENCES res_users);
        CREATE TABLE sale_order (id int PRIMARY KEY, name text NOT NULL, partner_id int REFERENCES partner,
            company_id int REFERENCES res_company, date_order timestamp NOT NULL, amount_total numeric(9,2), create_date timestamp);
        CREATE TABLE sale_order_line (id int PRIMARY KEY, order_id int REFERENCES sale_order, name text NOT NULL,
            product_id int REFERENCES product, qty numeric(9,2), create_date timestamp);
        CREATE TABLE sale_order_line_tax_rel (line_id int REFERENCES sale_order_line, tax_id int REFERENCES tax, PRIMARY KEY (line_id, tax_id));
        CREATE TABLE stock_move (id int PRIMARY KEY, line_id int REFERENCES sale_order_line, done timestamp);
        """,
        {
            "fact_sale_order": ["sale_order"],
            "fact_sale_order_line": ["sale_order_line", "sale_order"],
            "fact_sale_order_line_tax_rel": ["sale_order_line_tax_rel"],
            "fact_stock_move": ["stock_move"],
        },
        {"fact_sale_order_line": "date_order_date"},
    ),
    # Money in cents, days that are only those of the row, lines that are line items.
    Manner(
        "orm",
        """
        CREATE TABLE accounts (id uuid PRIMARY KEY, name text, created_at timestamp, discarded_at timestamp);
        CREATE TABLE invoices (id uuid PRIMARY KEY, account_id uuid REFERENCES accounts, number text, total_cents bigint,
            created_at timestamp, updated_at timestamp, deleted_at timestamp);
        CREATE TABLE invoice_line_items (id uuid PRIMARY KEY, invoice_id uuid REFERENCES invoices, quantity numeric(9,2), unit_price_cents bigint,
            created_at timestamp);
        CREATE TABLE payments (id uuid PRIMARY KEY, invoice_id uuid REFERENCES invoices, amount_cents bigint, captured_at timestamp);
        CREATE TABLE refunds (id uuid PRIMARY KEY, payment_id uuid REFERENCES payments, amount_cents bigint, created_at timestamp);
        CREATE TABLE rooms (id uuid PRIMARY KEY, account_id uuid REFERENCES accounts, opened_on date, limit_cents bigint);
        CREATE TABLE nights (room_id uuid REFERENCES rooms, bed text, on_hand int, PRIMARY KEY (room_id, bed));
        CREATE TABLE labels (id int PRIMARY KEY, account_id uuid REFERENCES accounts, colour text, deleted_at timestamp);
        """,
        {
            "fact_invoices": ["invoices"],
            "fact_invoice_line_items": ["invoice_line_items", "invoices"],
            "fact_payments": ["payments"],
            "fact_refunds": ["refunds"],
            "fact_nights": ["nights"],
        },
        {"fact_invoices": "created_date", "fact_invoice_line_items": "invoices_created_date"},
        {
            "fact_invoices": "A fact: the header of invoice_line_items, with the day that it was made and amounts."
        },
    ),
    # Columns begin with what their table is called; lines are called otherwise than their header, and numbered.
    Manner(
        "decisions",
        """
        CREATE TABLE customer (c_custkey int PRIMARY KEY, c_name text, c_acctbal numeric(9,2));
        CREATE TABLE part (p_partkey int PRIMARY KEY, p_name text, p_retailprice numeric(9,2));
        CREATE TABLE promotion (p_promo_sk int PRIMARY KEY, p_customer int REFERENCES customer, p_part int REFERENCES part, p_begun date,
            p_cost numeric(9,2), p_promo_name text);
        CREATE TABLE orders (o_orderkey int PRIMARY KEY, o_custkey int REFERENCES customer, o_orderdate date, o_totalprice numeric(9,2));
        CREATE TABLE lineitem (l_orderkey int REFERENCES orders, l_partkey int REFERENCES part, l_promo int REFERENCES promotion,
            l_linenumber int, l_quantity numeric(9,2), PRIMARY KEY (l_orderkey, l_linenumber));
        """,
        {"fact_orders": ["orders"], "fact_lineitem": ["lineitem", "orders"]},
    ),
    # A warehouse as a source: days are in a table of their own, and what is sold may be returned.
    Manner(
        "warehouse",
        """
        CREATE TABLE date_dim (d_date_sk int PRIMARY KEY, d_date date);
        CREATE TABLE item (i_item_sk int PRIMARY KEY, i_rec_start_date date, i_rec_end_date date, i_current_price numeric(7,2));
        CREATE TABLE store (s_store_sk int PRIMARY KEY, s_store_name text, s_closed int REFERENCES date_dim);
        CREATE TABLE store_sales (ss_sold int REFERENCES date_dim, ss_item_sk int REFERENCES item, ss_store_sk int REFERENCES store,
            ss_ticket_number int, ss_net_paid numeric(7,2), PRIMARY KEY (ss_item_sk, ss_ticket_number));
        CREATE TABLE store_returns (sr_returned int REFERENCES date_dim, sr_item_sk int REFERENCES item, sr_ticket_number int,
            sr_amount numeric(7,2), PRIMARY KEY (sr_item_sk, sr_ticket_number),
            FOREIGN KEY (sr_item_sk, sr_ticket_number) REFERENCES store_sales);
        """,
        {"fact_store_sales": ["store_sales"], "fact_store_returns": ["store_returns"]},
    ),
    # An account is what bookings, cards and balances are about; a balance of a day is no line of it.
    Manner(
        "bank",
        """
        CREATE TABLE customers (no char(10) PRIMARY KEY, tax_id text);
        CREATE TABLE currencies (iso char(3) PRIMARY KEY, digits smallint);
        CREATE TABLE accounts (iban text PRIMARY KEY, customer_no char(10) REFERENCES customers, currency char(3) REFERENCES currencies,
            opened date, overdraft numeric(38,10));
        CREATE TABLE journals (id bigint PRIMARY KEY, booked date, reversal_of bigint REFERENCES journals);
        CREATE TABLE entries (journal_id bigint REFERENCES journals, line smallint, iban text REFERENCES accounts, amount numeric(38,10),
            PRIMARY KEY (journal_id, line));
        CREATE TABLE balances (iban text REFERENCES accounts, day date, balance numeric(38,10), PRIMARY KEY (iban, day));
        CREATE TABLE cards (pan bytea PRIMARY KEY, iban text REFERENCES accounts, limited numeric(9,2));
        CREATE TABLE mandates (id int PRIMARY KEY, iban text REFERENCES accounts, creditor text);
        """,
        {
            "fact_journals": ["journals"],
            "fact_entries": ["entries", "journals"],
            "fact_balances": ["balances"],
            "fact_cards": ["cards"],
        },
        {"fact_entries": "booked"},
    ),
    # Tables of one family begin alike, and refer to one another without it.
    Manner(
        "family",
        """
        CREATE TABLE wp_users ("ID" bigint PRIMARY KEY, user_login text);
        CREATE TABLE wp_posts ("ID" bigint PRIMARY KEY, post_date timestamp, post_title text, comment_count bigint);
        CREATE TABLE wp_postmeta (meta_id bigint PRIMARY KEY, post_id bigint, meta_value text);
        CREATE TABLE wp_comments (comment_id bigint PRIMARY KEY, user_id bigint, comment_date timestamp);
        CREATE TABLE wp_role (parent bigint REFERENCES wp_users, child bigint REFERENCES wp_users, PRIMARY KEY (parent, child));
        """,
        {"fact_wp_comments": ["wp_comments"], "fact_wp_role": ["wp_role"]},
        {},
        {"fact_wp_role": "A fact without amounts, a bridge: its key ties rows of wp_users to one another."},
    ),
]


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.name)
def test_facts_are_those_that_a_person_would_make(manner: Manner, database: Callable[..., str]) -> None:
    url = database()
    execute(url, manner.ddl)
    with closing(psycopg2.connect(url)) as connection:
        catalog = read(connection, ["public"], [])
    star = design(declare(catalog).tables, catalog.foreign_keys)
    facts = {fact.name: fact for fact in star.facts}
    assert {
        name: [fact.table.name, *(join.table.name for join in fact.joins)] for name, fact in facts.items()
    } == manner.facts
    assert {name: facts[name].days[0] for name in manner.days} == manner.days
    assert {name: facts[name].why for name in manner.told} == manner.told


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Заказы", "zakazy"), ("Строка заказа", "stroka_zakaza"), ("Объект", "obekt"), ("Ёлка", "elka"), ("Їжак", "izhak"),
        ("Πελάτης", "pelatis"), ("Größe", "grosse"), ("łódź", "lodz"), ("børn", "born"), ("表2", "table_2"), ("class", "table_class"),
    ],
)  # fmt: skip
def test_a_table_of_another_script_is_called_as_it_sounds(name: str, called: str) -> None:
    assert slug(name, "table") == called
