"""Small databases unlike each other, in the spirit of those that everybody knows: what `etl init` has to make a project of."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2


@dataclass(frozen=True)
class Sample:
    """A database: how it is made, changes (`{0}`, `{1}`, `{2}` stand for small numbers) that may be made to it, and one fact:
    its rows as PostgreSQL and as the warehouse say."""

    name: str
    ddl: str
    changes: Sequence[str]
    source: str
    warehouse: str
    patterns: Sequence[str] = ()

    def make(self, url: str) -> None:
        execute(url, self.ddl)

    def change(self, url: str, count: int, seed: int = 7) -> int:
        """Make random changes, those that the database takes; how many those were."""
        chance = random.Random(seed)
        made = 0
        connection = psycopg2.connect(url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for _ in range(count):
                numbers = (chance.randint(1, 40), chance.randint(1, 8), chance.randint(100, 10_000))
                try:
                    cursor.execute(chance.choice(self.changes).format(*numbers))
                    made += 1
                except psycopg2.IntegrityError:
                    pass
        connection.close()
        return made


def execute(url: str, statements: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statements)
    connection.close()


HEADER_AND_LINES = Sample(
    "header_and_lines",
    """
    CREATE TABLE regions (region_id smallint PRIMARY KEY, description varchar(40) NOT NULL);
    CREATE TABLE territories (territory_id varchar(10) PRIMARY KEY, name bpchar NOT NULL, region_id smallint NOT NULL REFERENCES regions);
    CREATE TABLE employees (id smallint PRIMARY KEY, last_name text NOT NULL, first_name text, hired date, boss smallint REFERENCES employees,
        photo bytea, notes text);
    CREATE TABLE employee_territories (employee_id smallint REFERENCES employees ON DELETE CASCADE, territory_id varchar(10) REFERENCES territories,
        PRIMARY KEY (employee_id, territory_id));
    CREATE TABLE customers (customer_id bpchar PRIMARY KEY, company text NOT NULL, city text, class smallint, batch int, deleted boolean);
    CREATE TABLE categories (id smallint PRIMARY KEY, name varchar(15) NOT NULL, picture bytea);
    CREATE TABLE suppliers (id int PRIMARY KEY, company text NOT NULL, country text, phone text, homepage text);
    CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, supplier_id int REFERENCES suppliers, category_id smallint REFERENCES categories,
        unit_price numeric(10,4), discontinued boolean NOT NULL);
    CREATE TABLE orders (order_id bigint PRIMARY KEY, customer_id bpchar REFERENCES customers, employee_id smallint REFERENCES employees ON DELETE SET NULL,
        order_date date, shipped_at timestamp, freight real, ship_name text);
    CREATE TABLE order_details (order_id bigint REFERENCES orders ON DELETE CASCADE, product_id int REFERENCES products, unit_price numeric(10,4) NOT NULL,
        quantity smallint NOT NULL, discount real NOT NULL, PRIMARY KEY (order_id, product_id));
    INSERT INTO regions SELECT n, 'region ' || n FROM generate_series(1, 3) n;
    INSERT INTO territories SELECT lpad(n::text, 5, '0'), 'territory ' || n, n % 3 + 1 FROM generate_series(1, 8) n;
    INSERT INTO employees SELECT n, 'last ' || n, 'first', date '2020-01-01' + n, NULL, '\\x00ff', 'notes' FROM generate_series(1, 8) n;
    INSERT INTO employee_territories SELECT n, lpad(n::text, 5, '0') FROM generate_series(1, 8) n;
    INSERT INTO customers SELECT 'C' || n, 'company ' || n, 'city', n, n, n % 2 = 0 FROM generate_series(1, 8) n;
    INSERT INTO categories SELECT n, 'category ' || n, '\\x01' FROM generate_series(1, 3) n;
    INSERT INTO suppliers SELECT n, 'supplier ' || n, 'country' FROM generate_series(1, 3) n;
    INSERT INTO products SELECT n, 'product ' || n, n % 3 + 1, n % 3 + 1, n + 0.25, false FROM generate_series(1, 8) n;
    INSERT INTO orders SELECT n, 'C' || n % 8 + 1, n % 8 + 1, date '2024-01-01' + n * 9, timestamp '2024-01-02 10:00' + n * interval '9 days', n, 'name'
        FROM generate_series(1, 40) n;
    INSERT INTO order_details SELECT n, m, m + 0.25, n % 7 + 1, 0.1 FROM generate_series(1, 40) n, generate_series(1, 3) m;
    """,
    (
        "UPDATE order_details SET quantity = {1}, product_id = {1} WHERE order_id = {0}",
        "UPDATE orders SET customer_id = 'C{1}' WHERE order_id = {0}",
        "UPDATE orders SET order_date = NULL WHERE order_id = {0}",
        "UPDATE orders SET order_date = date '2025-01-01' + {2} WHERE order_id = {0}",
        "DELETE FROM orders WHERE order_id = {0}",
        "DELETE FROM order_details WHERE order_id = {0} AND product_id = {1}",
        "INSERT INTO orders VALUES ({2}, 'C{1}', {1}, '2024-05-05'); INSERT INTO order_details VALUES ({2}, {1}, 9.5, 3, 0)",
        "UPDATE products SET category_id = {1} % 3 + 1, name = 'renamed {2}' WHERE id = {1}",
        "UPDATE categories SET name = 'other {2}' WHERE id = {1}",
        "DELETE FROM employees WHERE id = {1}",
    ),
    """SELECT d.order_id, d.product_id, d.unit_price, d.quantity, o.customer_id, o.order_date, o.shipped_at::date
       FROM order_details d JOIN orders o USING (order_id)""",
    """SELECT order_id, product_id, unit_price, quantity, customer_id, order_date, shipped_date
       FROM star.fact_order_details_current""",
)

RENTALS = Sample(
    "rentals",
    """
    CREATE DOMAIN year AS integer CHECK (VALUE BETWEEN 1901 AND 2155);
    CREATE DOMAIN amount AS numeric(7,2); CREATE DOMAIN fee AS amount NOT NULL;
    CREATE TYPE rating AS ENUM ('G', 'PG', 'R''s');
    CREATE TABLE language (language_id int PRIMARY KEY, name char(20) NOT NULL, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE country (country_id int PRIMARY KEY, country text NOT NULL, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE city (city_id int PRIMARY KEY, city text NOT NULL, country_id int NOT NULL REFERENCES country, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE address (address_id int PRIMARY KEY, address text NOT NULL, address2 text, district text NOT NULL, city_id int NOT NULL REFERENCES city,
        phone text NOT NULL, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE film (film_id int PRIMARY KEY, title text NOT NULL, release_year year, language_id int NOT NULL REFERENCES language,
        original_language_id int REFERENCES language, rental_rate numeric(4,2) NOT NULL, length smallint, rating rating DEFAULT 'G',
        special_features text[], fulltext tsvector NOT NULL DEFAULT '', length_range int4range, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE actor (actor_id int PRIMARY KEY, first_name text NOT NULL, last_name text NOT NULL, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE film_actor (actor_id int REFERENCES actor, film_id int REFERENCES film, last_update timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (actor_id, film_id));
    CREATE TABLE customer (customer_id int PRIMARY KEY, first_name text NOT NULL, email text, address_id int NOT NULL REFERENCES address,
        active boolean NOT NULL, create_date date NOT NULL, last_update timestamptz DEFAULT now());
    CREATE TABLE inventory (inventory_id int PRIMARY KEY, film_id int NOT NULL REFERENCES film, shelf text, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE rental (rental_id bigint PRIMARY KEY, rental_date timestamp NOT NULL, inventory_id int NOT NULL REFERENCES inventory,
        customer_id int NOT NULL REFERENCES customer, return_date timestamp, last_update timestamptz NOT NULL DEFAULT now());
    CREATE TABLE payment (payment_id int, customer_id int NOT NULL, rental_id int, amount fee, tip numeric, payment_date timestamptz NOT NULL,
        PRIMARY KEY (payment_date, payment_id)) PARTITION BY RANGE (payment_date);
    CREATE TABLE payment_1 PARTITION OF payment FOR VALUES FROM ('2024-01-01Z') TO ('2024-07-01Z');
    CREATE TABLE payment_2 PARTITION OF payment FOR VALUES FROM ('2024-07-01Z') TO ('2025-01-01Z');
    ALTER TABLE payment_1 ADD FOREIGN KEY (customer_id) REFERENCES customer; ALTER TABLE payment_2 ADD FOREIGN KEY (customer_id) REFERENCES customer;
    ALTER TABLE payment_1 ADD FOREIGN KEY (rental_id) REFERENCES rental ON DELETE SET NULL;
    ALTER TABLE payment_2 ADD FOREIGN KEY (rental_id) REFERENCES rental ON DELETE SET NULL;
    CREATE VIEW film_list AS SELECT * FROM film;
    CREATE MATERIALIZED VIEW takings AS SELECT sum(amount) FROM payment;
    CREATE TEMP TABLE forgotten (id int PRIMARY KEY);
    INSERT INTO language SELECT n, 'language ' || n FROM generate_series(1, 3) n;
    INSERT INTO country SELECT n, 'country ' || n FROM generate_series(1, 3) n;
    INSERT INTO city SELECT n, 'city ' || n, n % 3 + 1 FROM generate_series(1, 8) n;
    INSERT INTO address SELECT n, 'street ' || n, NULL, 'd', n, '0' FROM generate_series(1, 8) n;
    INSERT INTO film SELECT n, 'film ' || n, 2000 + n, n % 3 + 1, NULL, 4.99, 90, 'R''s', ARRAY['Trailers', 'a"b'], 'cat', '[1,5)' FROM generate_series(1, 8) n;
    INSERT INTO actor SELECT n, 'first', 'last ' || n FROM generate_series(1, 8) n;
    INSERT INTO film_actor SELECT n, m FROM generate_series(1, 8) n, generate_series(1, 3) m;
    INSERT INTO customer SELECT n, 'customer ' || n, NULL, n, true, '2024-01-01' FROM generate_series(1, 8) n;
    INSERT INTO inventory SELECT n, n % 8 + 1 FROM generate_series(1, 12) n;
    INSERT INTO rental SELECT n, timestamp '2024-02-01' + n * interval '3 days 5 hours', n % 12 + 1, n % 8 + 1 FROM generate_series(1, 40) n;
    INSERT INTO payment SELECT n, n % 8 + 1, n, n + 0.99, n * 0.125, timestamptz '2024-03-01 23:30Z' + n * interval '5 days' FROM generate_series(1, 40) n;
    """,
    (
        "UPDATE payment SET customer_id = {1} WHERE payment_id = {0}",
        "UPDATE payment SET payment_date = '2024-11-01Z' WHERE payment_id = {0}",
        "UPDATE payment SET amount = {2} WHERE payment_id = {0}",
        "DELETE FROM payment WHERE payment_id = {0}",
        "DELETE FROM rental WHERE rental_id = {0}",
        "INSERT INTO payment VALUES ({2}, {1}, NULL, 3.5, 1, '2024-04-04 01:00Z')",
        "UPDATE rental SET inventory_id = {1}, return_date = '2024-06-06' WHERE rental_id = {0}",
        "UPDATE city SET country_id = {1} % 3 + 1 WHERE city_id = {1}",
        "UPDATE country SET country = 'other {2}' WHERE country_id = {1}",
        "UPDATE film SET original_language_id = {1} % 3 + 1, special_features = '{{x,{2}}}' WHERE film_id = {1}",
        "DELETE FROM film_actor WHERE film_id = {1} AND actor_id = {1}",
    ),
    """SELECT payment_id, customer_id, rental_id, amount, tip::numeric(38,9), (payment_date AT TIME ZONE 'UTC')::date FROM payment""",
    """SELECT payment_id, customer_id, rental_id, amount, tip, payment_day FROM star.fact_payment_current""",
)

CAMEL_CASE = Sample(
    "camel_case",
    """
    CREATE TABLE "Artist" ("ArtistId" int PRIMARY KEY, "Name" varchar(120));
    CREATE TABLE "Album" ("AlbumId" int PRIMARY KEY, "Title" varchar(160) NOT NULL, "ArtistId" int NOT NULL REFERENCES "Artist");
    CREATE TABLE "MediaType" ("MediaTypeId" int PRIMARY KEY, "Name" varchar(120));
    CREATE TABLE "Track" ("TrackId" int PRIMARY KEY, "Name" varchar(200) NOT NULL, "AlbumId" int REFERENCES "Album", "MediaTypeId" int NOT NULL
        REFERENCES "MediaType", "Composer" text, "Milliseconds" int NOT NULL, "Bytes" int, "UnitPrice" numeric(10,2) NOT NULL);
    CREATE TABLE "Playlist" ("PlaylistId" int PRIMARY KEY, "Name" text);
    CREATE TABLE "PlaylistTrack" ("PlaylistId" int REFERENCES "Playlist", "TrackId" int REFERENCES "Track", PRIMARY KEY ("PlaylistId", "TrackId"));
    CREATE TABLE "Customer" ("CustomerId" int PRIMARY KEY, "FirstName" text NOT NULL, "Last Name" text, "E-Mail" text, "Select" text);
    CREATE TABLE "Invoice" ("InvoiceId" int PRIMARY KEY, "CustomerId" int NOT NULL REFERENCES "Customer", "InvoiceDate" timestamp NOT NULL,
        "BillingCity" text, "Total" numeric(10,2) NOT NULL);
    CREATE TABLE "InvoiceLine" ("InvoiceLineId" int PRIMARY KEY, "InvoiceId" int NOT NULL REFERENCES "Invoice" ON DELETE CASCADE, "TrackId" int NOT NULL
        REFERENCES "Track", "UnitPrice" numeric(10,2) NOT NULL, "Quantity" int NOT NULL);
    CREATE TABLE "Order Details" ("Id" int PRIMARY KEY, "Total" numeric(8,2), "On" date);
    CREATE TABLE "order-details" ("Id" int PRIMARY KEY, "class" text);
    CREATE TABLE "class" ("def" int PRIMARY KEY, "import" text, "None" date, "lambda" numeric(6,2));
    INSERT INTO "Artist" SELECT n, 'artist ' || n FROM generate_series(1, 8) n;
    INSERT INTO "Album" SELECT n, 'album ' || n, n FROM generate_series(1, 8) n;
    INSERT INTO "MediaType" SELECT n, 'type ' || n FROM generate_series(1, 2) n;
    INSERT INTO "Track" SELECT n, 'track ' || n, n % 8 + 1, n % 2 + 1, NULL, n * 1000, n, 0.99 FROM generate_series(1, 8) n;
    INSERT INTO "Playlist" SELECT n, 'list ' || n FROM generate_series(1, 3) n;
    INSERT INTO "PlaylistTrack" SELECT n, m FROM generate_series(1, 3) n, generate_series(1, 8) m;
    INSERT INTO "Customer" SELECT n, 'first ' || n, 'last', 'a@b', 's' FROM generate_series(1, 8) n;
    INSERT INTO "Invoice" SELECT n, n % 8 + 1, timestamp '2024-01-01' + n * interval '11 days', 'city', n FROM generate_series(1, 40) n;
    INSERT INTO "InvoiceLine" SELECT n * 10 + m, n, m, 0.99, m FROM generate_series(1, 40) n, generate_series(1, 2) m;
    INSERT INTO "Order Details" SELECT n, n, '2024-01-01' FROM generate_series(1, 4) n;
    INSERT INTO "order-details" SELECT n, 'x' FROM generate_series(1, 4) n;
    INSERT INTO "class" SELECT n, 'x', '2024-01-01', 1.5 FROM generate_series(1, 4) n;
    """,
    (
        'UPDATE "InvoiceLine" SET "Quantity" = {2} WHERE "InvoiceId" = {0}',
        'UPDATE "InvoiceLine" SET "TrackId" = {1} WHERE "InvoiceId" = {0}',
        'UPDATE "Invoice" SET "CustomerId" = {1} WHERE "InvoiceId" = {0}',
        """UPDATE "Invoice" SET "InvoiceDate" = '2023-03-03' WHERE "InvoiceId" = {0}""",
        'DELETE FROM "Invoice" WHERE "InvoiceId" = {0}',
        'INSERT INTO "InvoiceLine" VALUES ({2}, {0}, {1}, 1.25, 3)',
        'DELETE FROM "PlaylistTrack" WHERE "TrackId" = {1}',
        """UPDATE "Artist" SET "Name" = 'other {2}' WHERE "ArtistId" = {1}""",
        """UPDATE "MediaType" SET "Name" = 'other {2}' WHERE "MediaTypeId" = {1}""",
    ),
    """SELECT "InvoiceLineId", l."InvoiceId", "TrackId", "UnitPrice", "Quantity", "CustomerId", "InvoiceDate"::date
       FROM "InvoiceLine" l JOIN "Invoice" i ON i."InvoiceId" = l."InvoiceId" """,
    """SELECT invoice_line_id, invoice_id, track_id, unit_price, quantity, customer_id, invoice_day
       FROM star.fact_invoice_line_current""",
)

SCHEMAS = Sample(
    "schemas",
    """
    CREATE SCHEMA sales; CREATE SCHEMA purchasing; CREATE SCHEMA "Human Resources";
    CREATE TABLE sales.product (product_id int PRIMARY KEY, name text NOT NULL, line text, colour text, weight text);
    CREATE TABLE sales.store (company int, store_no smallint, name text NOT NULL, town text NOT NULL, country text NOT NULL, manager text,
        PRIMARY KEY (company, store_no));
    CREATE TABLE sales.order_header (id int PRIMARY KEY, company bigint NOT NULL, store_no int NOT NULL, ordered_on date NOT NULL, due_on date);
    ALTER TABLE sales.order_header ADD FOREIGN KEY (company, store_no) REFERENCES sales.store;
    CREATE TABLE sales.order_detail (order_id int REFERENCES sales.order_header ON DELETE CASCADE, line smallint, product_id smallint NOT NULL
        REFERENCES sales.product, qty int NOT NULL, amount numeric(12,2) NOT NULL, PRIMARY KEY (order_id, line));
    CREATE TABLE purchasing.product (product_id bigint PRIMARY KEY, vendor text NOT NULL, lead_days int, a text, b text);
    CREATE TABLE purchasing.delivery (id uuid PRIMARY KEY, product_id bigint REFERENCES purchasing.product, day date NOT NULL, cost numeric(30,4) NOT NULL);
    CREATE TABLE "Human Resources".product (product_id int PRIMARY KEY, training text);
    CREATE TABLE product (id int PRIMARY KEY, of_public text);
    CREATE TABLE dim_date (date_id int PRIMARY KEY, holiday boolean);
    CREATE TABLE fact_sale (id int PRIMARY KEY, d date NOT NULL, amount numeric(9,2));
    CREATE TABLE sale (id int PRIMARY KEY, d date NOT NULL, amount numeric(9,2));
    CREATE TABLE sale_current (id int PRIMARY KEY, d date NOT NULL, amount numeric(9,2));
    INSERT INTO sales.product SELECT n, 'product ' || n FROM generate_series(1, 8) n;
    INSERT INTO sales.store SELECT n % 2 + 1, n, 'store ' || n, 't', 'c' FROM generate_series(1, 8) n;
    INSERT INTO sales.order_header SELECT n, n % 2 + 1, n % 8 + (CASE n % 8 WHEN 0 THEN 8 ELSE 0 END), date '2024-01-01' + n FROM generate_series(1, 40) n;
    INSERT INTO sales.order_detail SELECT n, m, m, n, n * 1.5 FROM generate_series(1, 40) n, generate_series(1, 3) m;
    INSERT INTO purchasing.product SELECT n, 'vendor ' || n FROM generate_series(1, 8) n;
    INSERT INTO purchasing.delivery SELECT md5(n::text)::uuid, n % 8 + 1, date '2024-01-01' + n, n FROM generate_series(1, 40) n;
    INSERT INTO "Human Resources".product SELECT n, 't' FROM generate_series(1, 4) n;
    INSERT INTO product SELECT n, 'p' FROM generate_series(1, 4) n;
    INSERT INTO dim_date SELECT n, false FROM generate_series(1, 4) n;
    INSERT INTO fact_sale SELECT n, '2024-01-01', n FROM generate_series(1, 4) n;
    INSERT INTO sale SELECT n, '2024-01-01', n FROM generate_series(1, 4) n;
    INSERT INTO sale_current SELECT n, '2024-01-01', n FROM generate_series(1, 4) n;
    """,
    (
        "UPDATE sales.order_header SET company = {1} % 2 + 1, store_no = {1} WHERE id = {0}",
        "UPDATE sales.order_header SET ordered_on = '2023-12-24' WHERE id = {0}",
        "UPDATE sales.order_detail SET product_id = {1} WHERE order_id = {0}",
        "UPDATE sales.order_detail SET amount = {2} WHERE order_id = {0} AND line = 2",
        "DELETE FROM sales.order_header WHERE id = {0}",
        "INSERT INTO sales.order_detail VALUES ({0}, {2}, {1}, 1, 2.5)",
        "UPDATE purchasing.delivery SET product_id = {1} WHERE cost = {0}",
        "DELETE FROM purchasing.delivery WHERE cost = {0}",
        "UPDATE sales.store SET name = 'other {2}' WHERE store_no = {1}",
        "INSERT INTO sales.product VALUES ({2}, 'new')",
    ),
    """SELECT order_id, d.line, product_id, qty, amount, company, store_no, ordered_on
       FROM sales.order_detail d JOIN sales.order_header h ON h.id = d.order_id""",
    """SELECT order_id, line, product_id, qty, amount, company, store_no, ordered_on
       FROM star.fact_order_detail_current""",
)

NO_FOREIGN_KEYS = Sample(
    "no_foreign_keys",
    """
    CREATE TABLE clients (id int PRIMARY KEY, name text NOT NULL, segment text, opened text NOT NULL, payload text);
    CREATE TABLE accounts (id int PRIMARY KEY, client_id int NOT NULL, iban text NOT NULL, opened_on text, currency char(3) NOT NULL);
    CREATE TABLE movements (id bigint NOT NULL, account_id int NOT NULL, booked date NOT NULL, value_time time, amount numeric NOT NULL, fee money,
        ratio double precision, note text);
    CREATE UNIQUE INDEX ON movements (id) INCLUDE (note);
    CREATE TABLE journal (at timestamp, what text);
    CREATE TABLE maybe (id int, what text); CREATE UNIQUE INDEX ON maybe (id);
    CREATE TABLE partly (id int NOT NULL, what text); CREATE UNIQUE INDEX ON partly (id) WHERE what IS NOT NULL;
    CREATE UNIQUE INDEX ON partly ((id + 1));
    CREATE TABLE nothing ();
    CREATE TABLE rates (day date, pair char(7), bid numeric(12,6) NOT NULL, PRIMARY KEY (day, pair) INCLUDE (bid));
    INSERT INTO clients SELECT n, 'client ' || n, 's', (date '2020-01-01' + n)::text FROM generate_series(1, 8) n;
    INSERT INTO accounts SELECT n, n, 'DE' || n, NULL, 'EUR' FROM generate_series(1, 8) n;
    INSERT INTO movements SELECT n, n % 8 + 1, date '2024-01-01' + n * 5, '24:00', n + 0.125, n, 0.5, 'x' FROM generate_series(1, 40) n;
    INSERT INTO journal VALUES (now(), 'x');
    INSERT INTO rates SELECT date '2024-01-01' + n, 'EUR/USD', 1.1 FROM generate_series(1, 10) n;
    """,
    (
        "UPDATE movements SET account_id = {1} WHERE id = {0}",
        "UPDATE movements SET amount = {2} / 8.0 WHERE id = {0}",
        "UPDATE movements SET booked = '2022-02-22' WHERE id = {0}",
        "DELETE FROM movements WHERE id = {0}",
        "INSERT INTO movements VALUES ({2}, {1}, '2024-05-05', '10:00', 7.5, 1, 1, 'new')",
        "UPDATE rates SET bid = {2} / 1000.0 WHERE day = date '2024-01-01' + {1}",
        "DELETE FROM clients WHERE id = {1} AND id > 6",
        "UPDATE accounts SET client_id = {1}",
    ),
    "SELECT id, account_id, booked, value_time::text, amount::numeric(38,9) FROM movements",
    "SELECT id, account_id, booked, value_time, amount FROM star.fact_movements_current",
)

OTHER_LANGUAGE = Sample(
    "other_language",
    """
    CREATE TABLE kunde (kundennr int PRIMARY KEY, name text NOT NULL, größe int, straße text, ort text, anlagedatum date);
    COMMENT ON TABLE kunde IS 'Alle Kunden; auch „gesperrte“. Der Name ist \\ der Firmenname, z. B. "Müller & Söhne"
        über zwei Zeilen';
    COMMENT ON COLUMN kunde.größe IS 'Anzahl der Beschäftigten (geschätzt)';
    CREATE TABLE währung (kürzel char(3) PRIMARY KEY, bezeichnung text NOT NULL);
    CREATE TABLE auftrag (auftragsnr int PRIMARY KEY, kundennr int NOT NULL REFERENCES kunde, kürzel char(3) NOT NULL REFERENCES währung,
        bestelldatum date NOT NULL, lieferdatum date, betrag numeric(11,2) NOT NULL, "Menge in Stück" int);
    COMMENT ON TABLE auftrag IS '注文。一行は一件の注文です';
    COMMENT ON COLUMN auftrag.betrag IS 'Сумма заказа в валюте # noqa fmt: off';
    CREATE TABLE заказ (номер int PRIMARY KEY, дата date NOT NULL, сумма numeric(9,2) NOT NULL, kundennr int REFERENCES kunde);
    INSERT INTO kunde SELECT n, 'Kunde ' || n, n, 'Straße', 'Köln', '2020-01-01' FROM generate_series(1, 8) n;
    INSERT INTO währung VALUES ('EUR', 'Euro'), ('CHF', 'Franken');
    INSERT INTO auftrag SELECT n, n % 8 + 1, 'EUR', date '2024-01-01' + n * 4, NULL, n + 0.5, n FROM generate_series(1, 40) n;
    INSERT INTO заказ SELECT n, date '2024-01-01' + n, n, n % 8 + 1 FROM generate_series(1, 40) n;
    """,
    (
        "UPDATE auftrag SET kundennr = {1} WHERE auftragsnr = {0}",
        "UPDATE auftrag SET lieferdatum = '2024-08-08', kürzel = 'CHF' WHERE auftragsnr = {0}",
        "DELETE FROM auftrag WHERE auftragsnr = {0}",
        "INSERT INTO auftrag VALUES ({2}, {1}, 'EUR', '2024-05-05', NULL, 9.75, 1)",
        "UPDATE kunde SET ort = 'Ort {2}' WHERE kundennr = {1}",
        "UPDATE заказ SET сумма = {2} WHERE номер = {0}",
        "DELETE FROM заказ WHERE номер = {0}",
    ),
    "SELECT auftragsnr, kundennr, kürzel, bestelldatum, lieferdatum, betrag FROM auftrag",
    "SELECT auftragsnr, kundennr, kürzel, bestelldatum, lieferdatum, betrag FROM star.fact_auftrag_current",
)

_NAMES = (
    '"; DROP TABLE x; --', "'); DROP TABLE x; --", '""" + exit() + """', "''' + exit() + '''", "new\nline", "back\\slash", "ends\\",
    "it's", 'a "quoted" name', "select", "from", "order", "class", "None", "lambda", "nw", "{}", "%s", "%(x)s", "$1", ":x", "?", "a.b",
    "*", "#", "# noqa", "\u202egnp", "\u2060id", "\t", " ", "'", '"', "n" * 63, "é" * 31, "deleted", "Deleted2", "batch", "rowid",
    "year", "month", "entries", "hostile_record_id", "date", "password", "\U0001f600", "1st", "_private", "_TABLE_x",
)  # fmt: skip

_TABLES = (
    '"; DROP TABLE x; --', '""" + exit() + """', "new\nline", "ends\\", "select", "order", "nw", "\u202egnp", "n" * 63, "deleted", "é" * 31,
    "'); DROP TABLE x; --", "'" * 3 + " + exit() + " + "'" * 3, "class", "None", "import", "%(x)s", "{0}", "cr\r\nlf",
)  # fmt: skip


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"E'{escaped}'"


def _hostile() -> str:
    columns = ", ".join(f"{quoted(name)} text" for name in _NAMES)
    made = [f"CREATE TABLE hostile (id int PRIMARY KEY, happened date, amount numeric(9,2), {columns})"]
    made += [
        f"COMMENT ON COLUMN hostile.{quoted(name)} IS {text(name + ' end' + chr(92))}" for name in _NAMES
    ]
    made.append(
        f"COMMENT ON TABLE hostile IS {text(chr(34) * 3 + chr(10) + 'import os' + chr(13) + chr(10) + chr(39) * 3 + chr(34) * 4)}"
    )
    for number, name in enumerate(_TABLES):
        made += [
            f"CREATE TABLE {quoted(name)} (id int PRIMARY KEY, {quoted(name)} text, of int REFERENCES hostile ON DELETE SET NULL, day date)",
            f"COMMENT ON TABLE {quoted(name)} IS {text(name)}",
            f"INSERT INTO {quoted(name)} VALUES (1, {text(name)}, NULL, '2024-01-{number % 28 + 1:02}')",
        ]
    for name in ("raw", "batches", "Star", "star", "_", "l", "fact_", "joined"):
        made.append(
            f"CREATE TABLE {quoted(name)} (id int PRIMARY KEY, {quoted(name)} text, source_deleted int, deleted int)"
        )
        made.append(f"INSERT INTO {quoted(name)} VALUES (1, 'x', 2, 3)")
    made += [
        'CREATE TABLE cases (id int PRIMARY KEY, "Id" int, a text, "A" text, "Á" text, "á" text)',
        "INSERT INTO cases VALUES (1, 2, 'a', 'A', 'Á', 'á')",
        "CREATE TABLE generated (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)",
        "INSERT INTO generated VALUES (1, 2)",
        "CREATE TABLE none ()",
        "CREATE TABLE ancestor (id int PRIMARY KEY, x text)",
        "CREATE TABLE heir (y text) INHERITS (ancestor)",
        f"CREATE TABLE two_keys ({quoted('a' * 63)} int, {quoted('b' * 63)} int, {quoted('c' * 63)} int, PRIMARY KEY "
        f"({quoted('a' * 63)}, {quoted('b' * 63)}, {quoted('c' * 63)}))",
        f"CREATE TABLE refers (id int PRIMARY KEY, {quoted('x' * 63)} int, {quoted('y' * 63)} int, {quoted('z' * 63)} int, on_day timestamptz, "
        f"{quoted('T' * 63)} timestamp, FOREIGN KEY ({quoted('x' * 63)}, {quoted('y' * 63)}, {quoted('z' * 63)}) REFERENCES two_keys)",
        "INSERT INTO two_keys VALUES (1, 2, 3); INSERT INTO refers VALUES (1, 1, 2, 3, '2024-01-01', '2024-01-02')",
        "INSERT INTO hostile (id, happened, amount) SELECT n, date '2024-01-01' + n, n FROM generate_series(1, 40) n",
    ]
    return ";\n".join(made)


HOSTILE = Sample(
    "hostile",
    _hostile(),
    (
        "UPDATE hostile SET amount = {2}, \"select\" = '{1}' WHERE id = {0}",
        "UPDATE hostile SET happened = '2023-03-03' WHERE id = {0}",
        "DELETE FROM hostile WHERE id = {0}",
        "INSERT INTO hostile (id, happened) VALUES ({2}, '2024-02-02')",
        "UPDATE raw SET raw = '{2}'",
        'UPDATE "select" SET of = {0}',
        'DELETE FROM "order" WHERE id = {1}',
        "UPDATE cases SET a = '{1}', \"A\" = '{2}'",
        "UPDATE generated SET n = {2}",
    ),
    'SELECT id, "select", day, of FROM "select"',
    'SELECT id, "select", day, "of" FROM star.fact_select_current',
)

ALL = (HEADER_AND_LINES, RENTALS, CAMEL_CASE, SCHEMAS, NO_FOREIGN_KEYS, OTHER_LANGUAGE, HOSTILE)
