"""Two years of believable business in an empty database, of any size and the same for the same seed.

Here: content, made by the server from row numbers and a hash; nothing depends on the clock or on `random()`.
Not here: the tables (`schema.sql`, `classroom.sql`), and what happens after the two years (`simulator`).

The business is a row of deals numbered by time. Deal `t` is a sale or a purchase; its order has the next number of
its kind, its transaction has the number `t`. Every column of a deal follows from `t` and the seed.
"""

import math
from collections.abc import Mapping
from contextlib import closing
from importlib import resources
from types import MappingProxyType
from typing import Literal

import psycopg2
from psycopg2 import sql

Variant = Literal["totesys", "classroom"]

TABLES = (
    "address", "counterparty", "currency", "department", "design", "payment", "payment_type", "purchase_order",
    "sales_order", "staff", "transaction",
)  # fmt: skip
FIRST_NAMES = (
    "Jeremie", "Deron", "Jeanette", "Ana", "Magdalena", "Korey", "Raphael", "Oswaldo", "Brody", "Jazmyn", "Meda",
    "Imani", "Stan", "Zoë", "Anne-Marie", "D'Arcy", "Cătălina", "José", "Elva", "Pierre",
)  # fmt: skip
LAST_NAMES = (
    "Franey", "Beier", "Erdman", "Glover", "Zieme", "Kreiger", "Rippin", "Boehm", "Ledner", "Kuhn", "Cremin",
    "O'Keefe", "Padberg", "de la Cruz", "Predovic", "Leannon", "D'Amore", "Swaniawski", "Ó Briain", "Fahey",
    "McDermott", "Kohler", "Nader",
)  # fmt: skip
COMPANY_FORMS = (
    "<a> and Sons", "<a>, <b> and Co", "<a>-<b>", "<a> Inc", "<a> LLC", 'The "<a>" Company', "<a> Group", "<a> & <b>",
    "<a>'s Warehouse",
)  # fmt: skip
STREETS = (
    "Herzog Via", "St John's Road", "Alexie Cliffs", "Queen's Parade", "Sincere Fort", "Rue de l'Église",
    "Königstraße", "Tremaine Circles", "Mill Lane, Unit 4", "Hermann Plaza", "Kovacek Trafficway",
)  # fmt: skip
SECOND_LINES = (None, "", "Suite 12, 2nd floor", None, " ", 'c/o "The Loft"', None)
DISTRICTS = ("Avon", None, "Bedfordshire", "", "King's County", None, "Cambridgeshire", "Borders ")
CITIES = (
    "New Patienceburgh", "Aliso Viejo ", "Lake Charles", "King's Lynn", " East Bobbie", "Hackensack", "Kendraburgh",
    "Saint-Étienne", "Köln", "Utica", "Beaulahcester", "Fresno", "Stockport",
)  # fmt: skip
COUNTRIES = (
    "United Kingdom",
    "Ireland",
    "Turkey",
    "Cote d'Ivoire",
    "Micronesia, Federated States of",
    "Germany",
)
MATERIALS = (
    "Wooden",
    "Granite",
    "Concrete",
    "Steel",
    "Bronze",
    "Canvas",
    "Cotton",
    'The "Big"',
    "Weaver's",
    "Salt, Pepper",
)
BAGS = ("Tote", "Shopper", "Holdall", "Carry-all", "Beach Bag", "Bucket Bag", "Satchel")
FILE_LOCATIONS = (
    "/usr",
    "/usr/share/designs",
    "/private/var",
    "/home/user/dir",
    "/lost+found",
    "/Users/d'arcy/My Bags",
)

_SALES = 11_000
_PURCHASES = 4_600
_KEYS = "-- KEYS"
_SCHEMAS: Mapping[str, str] = MappingProxyType({"totesys": "schema.sql", "classroom": "classroom.sql"})
_ENUMS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"totesys": ("TransactionType", "PaymentTypeName"), "classroom": ("varchar", "varchar")}
)


class DatabaseNotEmptyError(RuntimeError):
    """The database holds the tables already; nothing was changed."""


def generate(url: str, *, scale: float = 1.0, seed: int = 1, variant: Variant = "totesys") -> None:
    """Create the tables in the database at `url` and fill them, in one transaction.

    Scale 1 is 11,000 sales and 4,600 purchases from November 2023 to October 2025; orders, transactions and payments
    grow with the scale, what they refer to with its square root. Raises DatabaseNotEmptyError, and ValueError for a
    scale that leaves no sale or no purchase.
    """
    sales, purchases = round(_SALES * scale), round(_PURCHASES * scale)
    if sales < 1 or purchases < 1:
        raise ValueError(f"a scale of {scale} leaves no sale or no purchase: use at least 0.001")
    growth = max(1.0, math.sqrt(scale))
    values = {
        "seed": seed,
        "sales": sales,
        "deals": sales + purchases,
        "addresses": round(30 * growth),
        "counterparties": round(20 * growth),
        "designs": round(54 * growth),
        "staff": round(20 * growth),
        "first_names": list(FIRST_NAMES),
        "last_names": list(LAST_NAMES),
        "company_forms": list(COMPANY_FORMS),
        "streets": list(STREETS),
        "second_lines": list(SECOND_LINES),
        "districts": list(DISTRICTS),
        "cities": list(CITIES),
        "countries": list(COUNTRIES),
        "materials": list(MATERIALS),
        "bags": list(BAGS),
        "file_locations": list(FILE_LOCATIONS),
    }
    transaction_type, payment_type_name = (sql.Identifier(name) for name in _ENUMS[variant])
    schema = (
        resources.files("etl_assets.totesys.demo").joinpath(_SCHEMAS[variant]).read_text(encoding="utf-8")
    )
    tables, keys = schema.split(_KEYS)
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("select to_regclass('public.sales_order') is not null")
        if cursor.fetchone() == (True,):
            raise DatabaseNotEmptyError(
                "the database has a table sales_order: generate into an empty database"
            )
        cursor.execute(_SESSION)
        cursor.execute(tables)
        cursor.execute(_FUNCTIONS, values)
        cursor.execute(sql.SQL(_MEMBERS).format(payment_type_name=payment_type_name), values)
        cursor.execute(_DEALS, values)
        cursor.execute(sql.SQL(_RECORDS).format(transaction_type=transaction_type), values)
        # Keys after rows: building an index and checking a reference once for all is several times as fast.
        cursor.execute(_KEYS + keys)
        for table in TABLES:
            cursor.execute(
                sql.SQL(
                    "select setval(pg_get_serial_sequence({name}, {key}), max({column})) from {table}"
                ).format(
                    name=sql.Literal(table),
                    key=sql.Literal(f"{table}_id"),
                    column=sql.Identifier(f"{table}_id"),
                    table=sql.Identifier(table),
                )
            )
            cursor.execute(sql.SQL("analyze {}").format(sql.Identifier(table)))


_SESSION = """
set local search_path = public;
set local datestyle = 'ISO';
set local maintenance_work_mem = '256MB';
set local work_mem = '64MB';
set local jit = off;
"""

# `draw(n, stream, size)`: a number from 0 to size - 1 for row n; each use has a stream of its own.
# `cycle(n, stream, words)`: every word in turn from a place that depends on the seed, so that a table with as many
# rows as words holds all of them.
_FUNCTIONS = """
create function pg_temp.draw(n bigint, stream bigint, size bigint) returns bigint language sql immutable
    as $$ select mod(hashint8extended(n, %(seed)s * 1000 + stream) & 9223372036854775807, size) $$;

create function pg_temp.cycle(n bigint, stream bigint, words text[]) returns text language sql immutable
    as $$ select words[1 + mod(n + pg_temp.draw(0, stream, cardinality(words)), cardinality(words))] $$;

-- Reference data is older than the first order; one row in four has whole seconds.
create function pg_temp.founded(n bigint, stream bigint) returns timestamp language sql immutable
    as $$ select timestamp '2023-10-02 08:00' + pg_temp.draw(n, stream, 2000000)
        * case mod(n, 4) when 0 then interval '1 second' else interval '1.001 seconds' end $$;
"""

# Rows come in the order of a hash, or with every eleventh row last: physical order is not id order.
_MEMBERS = """
insert into currency (currency_id, currency_code, created_at, last_updated)
select id, code, moment, moment
from (values (2, 'USD'), (3, 'EUR'), (1, 'GBP')) as list (id, code), pg_temp.founded(id, 1) as moment;

insert into payment_type (payment_type_id, payment_type_name, created_at, last_updated)
select id, name::{payment_type_name}, moment, moment
from (values (1, 'SALES_RECEIPT'), (3, 'PURCHASE_PAYMENT'), (2, 'SALES_REFUND'), (4, 'PURCHASE_REFUND'))
    as list (id, name), pg_temp.founded(id, 2) as moment;

insert into department (department_id, department_name, location, manager, created_at, last_updated)
select id, name, location, manager, moment, moment
from (values
    (1, 'Sales', 'Manchester', 'Richard Roma'),
    (3, 'Production', 'Leeds', 'Chester O''Ming'),
    (2, 'Purchasing', 'Manchester', 'Naomi Lapaglia'),
    (4, 'Dispatch', 'Leds ', 'Mark Hanna'),
    (6, 'Facilities', '', NULL),
    (5, 'Finance', 'Manchester', 'Jordan Belfort'),
    (7, 'Communications', NULL, 'Ann Blake, "interim"'),
    (8, 'HR', 'Leeds', '')
) as list (id, name, location, manager), pg_temp.founded(id, 3) as moment;

insert into address (address_id, address_line_1, address_line_2, district, city, postal_code, country, phone,
    created_at, last_updated)
select n, 1 + pg_temp.draw(n, 10, 998) || ' ' || pg_temp.cycle(n, 11, %(streets)s),
    pg_temp.cycle(n, 12, %(second_lines)s), pg_temp.cycle(n, 13, %(districts)s), pg_temp.cycle(n, 14, %(cities)s),
    case
        when n = 7 then '01138'
        when mod(n, 5) = 0 then 'M' || 1 + pg_temp.draw(n, 15, 40) || ' 1AB'
        when mod(n, 7) = 0 then '0' || lpad(pg_temp.draw(n, 15, 10000)::text, 4, '0')
        when mod(n, 3) = 0 then lpad(pg_temp.draw(n, 15, 100000)::text, 5, '0') || '-'
            || lpad(pg_temp.draw(n, 16, 10000)::text, 4, '0')
        else lpad(pg_temp.draw(n, 15, 100000)::text, 5, '0')
    end,
    pg_temp.cycle(n, 17, %(countries)s),
    case mod(n, 3) when 0 then '0161 496 ' when 1 then '+44 (0)1803 63' else '9621 88' end
        || lpad(pg_temp.draw(n, 18, 10000)::text, 4, '0'),
    moment, moment
from generate_series(1, %(addresses)s) as n, pg_temp.founded(n, 19) as moment
order by pg_temp.draw(n, 20, 1000000), n;

insert into counterparty (counterparty_id, counterparty_legal_name, legal_address_id, commercial_contact,
    delivery_contact, created_at, last_updated)
select n,
    replace(replace(pg_temp.cycle(n, 30, %(company_forms)s), '<a>', pg_temp.cycle(n, 31, %(last_names)s)),
        '<b>', pg_temp.cycle(n + n / 23, 32, %(last_names)s)),
    1 + pg_temp.draw(n, 33, %(addresses)s),
    case mod(n, 7) when 0 then NULL when 1 then '' else pg_temp.cycle(n, 34, %(first_names)s) || ' '
        || pg_temp.cycle(n, 35, %(last_names)s) end,
    case mod(n, 5) when 0 then NULL when 1 then '' else pg_temp.cycle(n, 36, %(first_names)s) || ' '
        || pg_temp.cycle(n, 37, %(last_names)s) end,
    moment, moment
from generate_series(1, %(counterparties)s) as n, pg_temp.founded(n, 38) as moment
order by pg_temp.draw(n, 39, 1000000), n;

insert into staff (staff_id, first_name, last_name, department_id, email_address, created_at, last_updated)
select n, first_name, last_name, 1 + mod(n, 8),
    lower(regexp_replace(first_name || '.' || last_name, '[ '']', '', 'g'))
        || case when n > 20 then n::text else '' end || '@terrifictotes.com',
    moment, moment
from generate_series(1, %(staff)s) as n, pg_temp.cycle(n, 40, %(first_names)s) as first_name,
    pg_temp.cycle(n, 41, %(last_names)s) as last_name, pg_temp.founded(n, 42) as moment
order by pg_temp.draw(n, 43, 1000000), n;

insert into design (design_id, created_at, design_name, file_location, file_name, last_updated)
select n, moment, name, pg_temp.cycle(n, 50, %(file_locations)s),
    lower(regexp_replace(name, '[^A-Za-z]+', '-', 'g')) || to_char(moment, '-YYYYMMDD-')
        || lpad(to_hex(pg_temp.draw(n, 51, 65536)), 4, '0') || '.json',
    moment
from generate_series(1, %(designs)s) as n, pg_temp.founded(n, 52) as moment,
    concat_ws(' ', pg_temp.cycle(n, 53, %(materials)s), pg_temp.cycle(n, 54, %(bags)s),
        case when mod(n, 13) = 0 then '' end) as name
order by pg_temp.draw(n, 55, 1000000), n;
"""

# A day has its share of the deals: weekends are quieter and business grows. Sales are spread evenly between
# purchases: `sold` counts those up to and with deal t.
_DEALS = """
create temporary table calendar on commit drop as
select day, 1 + %(deals)s * (before - weight) / total as first, %(deals)s * before / total as last
from (
    select day, weight, sum(weight) over (order by day)::bigint as before, sum(weight) over ()::bigint as total
    from (
        select date '2023-11-01' + n as day,
            case when extract(isodow from date '2023-11-01' + n) > 5 then 30 else 100 end + n / 15 as weight
        from generate_series(0, 730) as n
    ) as days
) as shares;

create temporary table deal on commit drop as
select t, sale, case when sale then sold else t - sold end as order_id,
    day + interval '8 hours' + interval '1 millisecond'
        * (millisecond - case when pg_temp.draw(t, 62, 16) = 0 then mod(millisecond, 1000) else 0 end) as moment,
    (1 + pg_temp.draw(t, 63, %(staff)s))::integer as staff_id,
    (1 + pg_temp.draw(t, 64, %(counterparties)s))::integer as counterparty_id,
    case when pg_temp.draw(t, 65, 9) < 5 then 1 else 2 + mod(t, 2)::integer end as currency_id,
    (1 + pg_temp.draw(t, 66, %(addresses)s))::integer as location_id,
    (case when sale then 1000 + pg_temp.draw(t, 67, 99001) else 1 + pg_temp.draw(t, 67, 1000) end)::integer as units,
    0.01 * case when sale then 200 + pg_temp.draw(t, 68, 201) else 300 + pg_temp.draw(t, 68, 99701) end as price,
    day + (1 + pg_temp.draw(t, 69, 7))::integer as delivery,
    day + (1 + pg_temp.draw(t, 70, 6))::integer as payment
from (
    select t, day, t * %(sales)s / %(deals)s as sold,
        t * %(sales)s / %(deals)s > (t - 1) * %(sales)s / %(deals)s as sale,
        ((t - first) * 36000000 + pg_temp.draw(t, 61, 36000000)) / (last - first + 1) as millisecond
    from (
        select day, first, last, t from calendar, generate_series(first, last) as t where mod(t, 11) <> 3
        union all
        select day, first, last, t from calendar, generate_series(first, last) as t where mod(t, 11) = 3
    ) as numbered
) as timed;
"""

# Payment numbers have holes, as a sequence leaves them. One deal in 53 is a refund. Most payments that were due
# before the end of the two years are paid; this is the only change that moves last_updated.
_RECORDS = """
insert into sales_order (sales_order_id, created_at, last_updated, design_id, staff_id, counterparty_id, units_sold,
    unit_price, currency_id, agreed_delivery_date, agreed_payment_date, agreed_delivery_location_id)
select order_id, moment, moment, 1 + pg_temp.draw(t, 80, %(designs)s), staff_id, counterparty_id, units, price,
    currency_id, delivery::text, payment::text, location_id
from deal where sale;

insert into purchase_order (purchase_order_id, created_at, last_updated, staff_id, counterparty_id, item_code,
    item_quantity, item_unit_price, currency_id, agreed_delivery_date, agreed_payment_date,
    agreed_delivery_location_id)
select order_id, moment, moment, staff_id, counterparty_id,
    case mod(order_id, 29) when 0 then '0' || pg_temp.draw(t, 81, 10000) when 1 then 'AX-' || mod(t, 977) || ' '
        else upper(lpad(to_hex(pg_temp.draw(t, 81, 268435456)), 7, '0')) end,
    units, price, currency_id, delivery::text, payment::text, location_id
from deal where not sale;

insert into transaction (transaction_id, transaction_type, sales_order_id, purchase_order_id, created_at, last_updated)
select t, (case when sale then 'SALE' else 'PURCHASE' end)::{transaction_type}, case when sale then order_id end,
    case when not sale then order_id end, moment, moment
from deal;

insert into payment (payment_id, created_at, last_updated, transaction_id, counterparty_id, payment_amount,
    currency_id, payment_type_id, paid, payment_date, company_ac_number, counterparty_ac_number)
select t + t / 97, moment,
    case when paid then payment + interval '9 hours' + pg_temp.draw(t, 82, 28800000) * interval '1 millisecond'
        else moment end,
    t, counterparty_id, units * price, currency_id,
    case when sale then 1 else 3 end + case when mod(t + pg_temp.draw(0, 83, 53), 53) = 0 then 1 else 0 end,
    paid, payment::text, 10000000 + pg_temp.draw(t, 84, 89999999), 10000000 + pg_temp.draw(t, 85, 89999999)
from (select *, payment <= date '2025-10-31' and pg_temp.draw(t, 86, 100) < 96 as paid from deal) as settled;
"""
