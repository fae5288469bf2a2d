"""`etl init` beside the star that it makes: what it tells, what it leaves alone, and how a project keeps up with its source."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from etl_assets import project
from etl_assets.init.writing import without_password
from etl_assets_tests.commands import etl, use
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import as_role
from etl_assets_tests.init.samples import execute
from etl_assets_tests.init.test_projects import lint

SHOP = """
    CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customer, day date NOT NULL, amount numeric(9,2));
    INSERT INTO customer VALUES (1, 'one'); INSERT INTO orders VALUES (1, 1, '2024-01-01', 2.50);
"""


@pytest.fixture
def shop(database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a small shop; the present folder is empty."""
    url = database()
    execute(url, SHOP)
    # What a command takes from .env stays in the environment of its process, which here is the tests'.
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL="", ETL_PROJECT="")
    monkeypatch.setattr(project, "load", _anew)  # a process reads a project once, and a test is many commands
    return url


def _anew(setting: str | None = None) -> project.Project:
    return project.read(project.place(setting))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def test_nothing_is_overwritten(shop: str, tmp_path: Path) -> None:
    for name in (".env", ".gitignore", "README.md"):
        (tmp_path / name).write_text("mine")
    done = etl("init", shop)
    assert done.exit_code == 0
    assert "left as they are: .env, .gitignore, README.md" in done.output
    assert "export ETL_SOURCE_URL='postgresql://" in done.output  # as no .env says it
    before = contents(tmp_path)
    assert before[".env"] == "mine"
    again = etl("init", shop)
    assert again.exit_code == 1
    assert again.output.startswith("etl: etl_project is there already, and is left as it is")
    assert again.output.count("\n") == 1
    assert contents(tmp_path) == before


def test_no_password_is_written_or_told(shop: str, tmp_path: Path) -> None:
    execute(
        shop,
        "CREATE ROLE careless LOGIN PASSWORD 'pass#/w@rd'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO careless",
    )
    try:
        url = as_role(shop, "careless", "pass%23%2Fw%40rd")
        done = etl("init", url)
        assert done.exit_code == 0, done.output
        written = "".join(contents(tmp_path).values()) + done.output
        assert "%40rd" not in written
        assert "w@rd" not in written
        where = urlsplit(shop)
        assert f"ETL_SOURCE_URL=postgresql://careless@{where.hostname}:{where.port}{where.path}\n" in written
        assert "put the password into ~/.pgpass, or: export PGPASSWORD=…" in done.output
        wrong = etl("init", as_role(shop, "careless", "n0t-this"), "other")
        assert wrong.exit_code == 1
        assert "n0t-this" not in wrong.output
        assert not (tmp_path / "other").exists()
    finally:
        execute(shop, "DROP OWNED BY careless; DROP ROLE careless")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:5433/d?sslmode=require", "postgresql://u@h:5433/d?sslmode=require"),
        ("host=h user=u password='p q' dbname='a b'", "postgresql://u@h/a%20b"),
        ("postgresql://u:p@a,b:1/d", "postgresql://u@a,b:1/d"),
        ("postgresql:///d?host=/run/pg&password=p", "postgresql:///d?host=%2Frun%2Fpg"),
        ("postgresql://u:p@[::1]:5432/d?passfile=/x", "postgresql://u@[::1]:5432/d"),
        ("postgresql://?service=s", "postgresql:///?service=s"),
        ("aws-secret://prod/shop", "aws-secret://prod/shop"),
    ],
)
def test_an_address_is_kept_without_what_is_secret(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_only_what_is_asked_for_is_read(shop: str, tmp_path: Path) -> None:
    execute(
        shop,
        "CREATE SCHEMA other; CREATE TABLE other.orders (id int PRIMARY KEY, day date, amount numeric(5,2))",
    )
    assert etl("init", shop, "one", "--tables", "ord*").exit_code == 0
    assert sorted(project.read(tmp_path / "one").tables) == ["orders", "other_orders"]
    assert etl("init", "two", shop, "--schema", "other").exit_code == 0
    assert sorted(project.read(tmp_path / "two").tables) == ["orders"]
    none = etl("init", shop, "three", "--schema", "nowhere")
    assert (none.exit_code, none.output) == (1, "etl: there are no tables in nowhere\n")
    assert not (tmp_path / "three").exists()


def test_what_is_left_out_is_told_with_what_to_write(shop: str) -> None:
    execute(
        shop,
        "CREATE TABLE keyless (a int); CREATE VIEW seen AS SELECT * FROM customer; CREATE TABLE locked (id int PRIMARY KEY);"
        "CREATE TABLE narrow (id int PRIMARY KEY, m money, d text); CREATE ROLE guest LOGIN PASSWORD 'x';"
        "GRANT SELECT ON customer, orders, keyless, seen, narrow TO guest;"
        "INSERT INTO narrow SELECT n, 1, '2024-01-0' || n FROM generate_series(1, 5) n",
    )
    try:
        told = etl("init", as_role(shop, "guest", "x")).output
    finally:
        execute(shop, "DROP OWNED BY guest; DROP ROLE guest")
    assert "keyless: it has no key" in told
    assert 'write Table(…, key=("…",)), naming the columns' in told
    assert "seen: it is a view" in told
    assert "locked: no right to read it; write GRANT SELECT ON public.locked TO guest" in told
    assert "narrow.m: money is read as the text" in told
    assert 'narrow.d: a text that is always a date in the rows looked at; write "date?" for it' in told


def test_a_foreign_key_that_can_be_no_reference_is_told(shop: str, tmp_path: Path) -> None:
    execute(
        shop,
        "ALTER TABLE customer ADD email text UNIQUE, ADD born date, ADD city text, ADD phone text;"
        "CREATE TABLE place (id numeric(9,0) PRIMARY KEY, town text, street text, country text, manager text);"
        "CREATE TABLE clock (at timestamptz PRIMARY KEY, label text);"
        "CREATE TABLE visit (id int PRIMARY KEY, email text REFERENCES customer (email), place int REFERENCES place,"
        " at timestamp REFERENCES clock, day date, spent numeric(5,2))",
    )
    told = etl("init", shop).output
    assert "visit.email: it refers to columns of customer that are not its key: no reference" in told
    assert "visit.at: it refers to clock, and the one is timestamp, the other timestamptz: neither" in told
    assert project.read(tmp_path / "etl_project").star["fact_visit"].schema.links == {
        ("at_date",): "dim_date",
        ("day",): "dim_date",
        ("place",): "dim_place",
    }


# What an extension calls citext, which not every server has.
CITEXT = """
    CREATE TYPE citext;
    CREATE FUNCTION citextin(cstring) RETURNS citext LANGUAGE internal IMMUTABLE STRICT AS 'textin';
    CREATE FUNCTION citextout(citext) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
    CREATE TYPE citext (INPUT = citextin, OUTPUT = citextout, LIKE = text, COLLATABLE = true);
    CREATE CAST (citext AS text) WITHOUT FUNCTION AS IMPLICIT;
    CREATE FUNCTION alike(citext, citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT AS 'SELECT lower($1::text) = lower($2::text)';
    CREATE FUNCTION compared(citext, citext) RETURNS int LANGUAGE sql IMMUTABLE STRICT
        AS 'SELECT bttextcmp(lower($1::text), lower($2::text))';
    CREATE OPERATOR = (LEFTARG = citext, RIGHTARG = citext, FUNCTION = alike);
    CREATE OPERATOR CLASS citext_ops DEFAULT FOR TYPE citext USING btree
        AS OPERATOR 3 =, FUNCTION 1 compared(citext, citext);
"""
# k's keys are text to o, and to nobody else; the key of tag refers to a key that is padded.
PADDED = """
    CREATE TABLE k (code char(5) PRIMARY KEY, label text);
    CREATE TABLE wide (code char(8) PRIMARY KEY REFERENCES k, label text);
    CREATE TABLE c (id int PRIMARY KEY, k varchar(8) REFERENCES k, w char(6) REFERENCES wide, name text, b text, d text, e text);
    CREATE TABLE o (id int PRIMARY KEY, c int REFERENCES c, k text REFERENCES k, day date, spent numeric(9,2));
    CREATE TABLE tag (k varchar(8) REFERENCES k, name text, a text, b text, d text, PRIMARY KEY (k, name));
    CREATE TABLE loose (code citext PRIMARY KEY, label text);
    CREATE TABLE l (id int PRIMARY KEY, loose citext REFERENCES loose, day date, spent numeric(9,2));
    INSERT INTO k VALUES ('ab', 'one'), (' b', 'two'), ('', 'none');
    INSERT INTO wide VALUES ('ab', 'ONE'); INSERT INTO loose VALUES ('ab', 'one');
    INSERT INTO c VALUES (1, 'ab', 'ab'), (2, ' b ', NULL), (3, '', NULL), (4, NULL, NULL);
    INSERT INTO o VALUES (1, 1, 'ab ', '2024-01-01', 1), (2, 2, ' b', '2024-01-01', 2), (3, 4, '', NULL, 3);
    INSERT INTO tag VALUES ('ab', 'x'), ('ab ', 'x'); INSERT INTO l VALUES (1, 'AB', '2024-01-01', 1);
"""


def test_padded_keys_are_joined_as_the_source_compares_them(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()
    execute(url, CITEXT + PADDED)
    use(monkeypatch, tmp_path / "data")
    told = etl("init", url).output
    lint(tmp_path / "etl_project")
    made = project.read(tmp_path / "etl_project")
    flow = Direct(url, tmp_path / "data", made.inputs)
    # Foreign keys compare as bpchar; that the operator would compare with a text otherwise is another matter.
    questions = {
        "SELECT id, k_label, w_label FROM star.dim_c WHERE id IS NOT NULL ORDER BY 1": "SELECT c.id, k.label, w.label FROM c "
        "LEFT JOIN k ON k.code = c.k LEFT JOIN wide w ON w.code = c.w ORDER BY 1",
        "SELECT o.id, k.label FROM star.fact_o_current o JOIN star.dim_k k ON k.code = o.k ORDER BY 1": "SELECT o.id, k.label "
        "FROM o JOIN k ON k.code = o.k::bpchar ORDER BY 1",
        "SELECT count(*) FROM star.dim_k": "SELECT count(*) FROM k",
    }
    for change in (
        "SELECT",
        "UPDATE k SET label = 'three' WHERE code = 'ab'; UPDATE o SET k = 'ab' WHERE id = 2",
    ):
        execute(url, change)
        flow.run(certified=change != "SELECT")
        assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []
        with (
            flow.reading() as warehouse,
            closing(psycopg2.connect(url)) as connection,
            connection.cursor() as cursor,
        ):
            for star, source in questions.items():
                cursor.execute(source)
                assert warehouse.execute(star).fetchall() == cursor.fetchall(), star
    assert "tag.k: it refers to k, and char(n) is compared without trailing blanks: neither a ref" in told
    assert "l.loose: it refers to loose, and its type or collation takes texts for equal" in told
    # What several columns have in common is told once.
    assert "  char(n) is compared without trailing blanks, as its functions do in joining k:\n    " in told
    assert made.star["fact_l"].schema.links == {("day",): "dim_date"}


def test_what_has_a_name_is_a_dimension_whatever_else_it_has(shop: str, tmp_path: Path) -> None:
    execute(
        shop,
        "CREATE TABLE kind (id int PRIMARY KEY, label text); CREATE TABLE unit (id int PRIMARY KEY, label text);"
        "CREATE TABLE product (id int PRIMARY KEY, name text, kind_id int REFERENCES kind, unit_id int REFERENCES unit,"
        " sold_from date, list_price numeric(9,2));"
        "CREATE TABLE product_price (product_id int REFERENCES product, since date, price numeric(9,2), PRIMARY KEY (product_id, since));"
        "CREATE TABLE order_line (order_id int REFERENCES orders, line int, product_id int REFERENCES product, quantity int,"
        " PRIMARY KEY (order_id, line))",
    )
    assert etl("init", shop).exit_code == 0
    star = project.read(tmp_path / "etl_project").star
    assert sorted(star) == [
        "dim_customer", "dim_date", "dim_product", "fact_order_line", "fact_orders", "fact_product_price",
    ]  # fmt: skip
    assert star["fact_order_line"].inputs == ["order_line", "orders"]
    assert star["fact_product_price"].inputs == ["product_price"]
    assert star["dim_product"].inputs == ["product", "kind", "unit"]
    assert star["fact_order_line"].schema.links == {
        ("product_id",): "dim_product",
        ("customer_id",): "dim_customer",
        ("day",): "dim_date",
    }


def test_what_is_called_like_a_secret_is_told_where_it_can_be_one(shop: str) -> None:
    secrets = ("user_pass", "pass_crypt", "password_hash", "reset_token", "token", "client_secret", "apiKey")
    others = {
        "password_changed_at": "timestamptz", "access_token_lifespan": "int", "has_password": "boolean", "passed": "text",
        "passport": "text", "compass": "text", "token_count": "text",
    }  # fmt: skip
    columns = [*(f'"{name}" text' for name in secrets), *(f"{name} {kind}" for name, kind in others.items())]
    execute(shop, f"CREATE TABLE member (id int PRIMARY KEY, {', '.join(columns)})")
    told = etl("init", shop).output
    found = {line.split(":")[0] for line in told.splitlines() if "called like a secret" in line}
    assert found == {f"  member.{name}" for name in secrets}


STRANGE = """
    CREATE TABLE price (item text, since date, until date NOT NULL DEFAULT 'infinity', ended timestamptz DEFAULT NULL, seen timestamptz,
        typed date, ended_day date GENERATED ALWAYS AS (coalesce(since, 'infinity')) STORED, days date[], value double precision, odd real,
        plain double precision, PRIMARY KEY (item, since));
    INSERT INTO price (item, since, until, ended, seen, typed, days, value, odd, plain) SELECT 'i' || n, date '2024-01-01' + n, CASE WHEN n > 20 THEN 'infinity'::date ELSE '2024-05-05' END, NULL,
        CASE WHEN n = 2 THEN '-infinity'::timestamptz ELSE now() END, CASE WHEN n = 1 THEN '20204-01-01'::date ELSE '2024-01-01' END,
        ARRAY['infinity'::date], CASE WHEN n % 4 = 0 THEN 'NaN'::float8 WHEN n % 4 = 1 THEN '-Infinity' ELSE n END,
        CASE WHEN n = 1 THEN 'NaN'::real ELSE n END, n FROM generate_series(1, 40) n;
    CREATE TABLE span (opened date, closed date PRIMARY KEY);
    INSERT INTO span SELECT '2024-01-01', date '2024-01-01' + n FROM generate_series(1, 60) n; INSERT INTO span VALUES ('2024-01-01', 'infinity');
    CREATE TABLE closing (id int PRIMARY KEY, span date REFERENCES span, amount numeric(9,2));
    INSERT INTO closing SELECT n, CASE WHEN n > 5 THEN 'infinity'::date ELSE date '2024-01-01' + n END, n FROM generate_series(1, 10) n;
"""


def test_values_that_no_warehouse_has_are_kept_where_they_mean_something(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(shop, STRANGE)
    told = etl("init", shop).output
    made = project.read(tmp_path / "etl_project")
    price = dict(made.tables["price"].columns)
    assert {name: price[name] for name in ("since", "until", "ended", "seen", "typed", "ended_day", "days")} == {
        "since": "date", "until": "text", "ended": "timestamptz?", "seen": "text?", "typed": "date?", "ended_day": "text?",
        "days": "array?",
    }  # fmt: skip
    assert {name: price[name] for name in ("value", "odd", "plain")} == {
        "value": "text?", "odd": "real?", "plain": "double?"
    }  # fmt: skip
    assert (
        "price.odd: it has values that no warehouse has (NaN, or infinity): their rows go into quarantine"
        in told
    )
    assert (
        "price.typed: it has days that no warehouse has (infinity, or beyond the years 1 to 9999): their rows"
        in told
    )
    assert "price.value: it has values that no warehouse has (NaN, or infinity), and is kept as text" in told
    assert "price.days" not in told
    # What refers to a day without end, which the first rows of its table did not show, is of its type.
    assert (
        made.tables["span"].columns["closed"]
        == made.tables["closing"].columns["span"].removesuffix("?")
        == "text"
    )
    assert made.star["fact_closing"].schema.links == {("span",): "dim_span"}
    flow = Direct(shop, tmp_path / "data", made.inputs)
    flow.run()
    with flow.reading() as warehouse:
        found = warehouse.execute("SELECT count(*) FROM star.dim_price WHERE NOT deleted").fetchall()
    assert found == [(39,)]  # one slip of the pen has its row kept aside


LATER = """
    CREATE TABLE held (id int PRIMARY KEY, a text, k int); INSERT INTO held VALUES (1, NULL, NULL);
    ALTER TABLE held ADD NOT NULL a NOT VALID, ADD NOT NULL k NOT VALID; CREATE UNIQUE INDEX ON held (k); INSERT INTO held VALUES (2, 'x', 2);
    CREATE TABLE keyless (k int); INSERT INTO keyless VALUES (NULL); ALTER TABLE keyless ADD NOT NULL k NOT VALID;
    CREATE UNIQUE INDEX ON keyless (k);
    CREATE TABLE let (room int4range, valid daterange, rent numeric(9,2), PRIMARY KEY (room, valid WITHOUT OVERLAPS));
    CREATE TABLE stay (id int PRIMARY KEY, room int4range, valid daterange, FOREIGN KEY (room, PERIOD valid) REFERENCES let (room, PERIOD valid));
"""


def test_what_may_be_null_in_older_rows_is_no_key_and_may_be_null(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(psycopg2.connect(shop)) as connection:
        if connection.server_version < 180000:
            pytest.skip("NOT NULL is valid for all rows before PostgreSQL 18")
    execute(shop, LATER)
    told = etl("init", shop).output
    assert "  keyless: it has no key: no primary key, no unique index over columns that are NOT NULL" in told
    made = project.read(tmp_path / "etl_project")
    assert dict(made.tables["held"].columns) == {"id": "int", "a": "text?", "k": "int?"}
    flow = Direct(shop, tmp_path / "data", made.inputs)
    flow.run()
    with flow.reading() as warehouse:
        assert warehouse.execute("SELECT id, a, k FROM star.dim_held ORDER BY 1").fetchall() == [
            (1, None, None), (2, "x", 2),
        ]  # fmt: skip
    # A project that says otherwise is told.
    file = tmp_path / "etl_project" / "tables.py"
    file.write_text(file.read_text().replace('"a": "text?"', '"a": "text"'))
    monkeypatch.setenv("ETL_SOURCE_URL", shop)
    doctor = etl("doctor").output
    assert "a is text with NULL, declared text" in doctor
    assert "let" in made.tables
    assert (
        "written differently" not in told + doctor
    )  # a period is covered by rows of another table, and refers to none


def test_names_with_what_stands_for_values_in_sql_can_be_followed(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(
        shop,
        'CREATE SCHEMA "100%"; CREATE TABLE "100%"."50% off" ("%s" int, "%(id)s" text, "a%" text, "{}" text, ":b" text, "$1" text, "?" text,'
        " PRIMARY KEY (\"%s\", \"%(id)s\")); INSERT INTO \"100%\".\"50% off\" VALUES (1, 'x', 'seen', 'c', 'd', 'e', 'f')",
    )
    assert etl("init", shop, "--schema", "100%").exit_code == 0
    monkeypatch.setenv("ETL_SOURCE_URL", shop)
    ran = etl("run")
    assert ran.exit_code == 0, ran.output
    (name,) = project.read(tmp_path / "etl_project").tables
    for command in (
        ["explain", name, "1,x"],
        ["verify", "--thorough", "--rebuild"],
        ["doctor"],
        ["plan"],
        ["status"],
    ):
        done = etl(*command)
        assert done.exit_code == 0, done.output
        assert command[0] != "explain" or "  a%      seen" in done.output


def test_a_row_is_followed_by_its_key_as_anybody_writes_it(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(
        shop,
        "CREATE TYPE pair AS (x int, y text); CREATE TABLE paired (k pair PRIMARY KEY, seen text); CREATE TABLE padded (k char(5) PRIMARY KEY,"
        " seen text); CREATE TABLE scaled (k numeric(9,4), l char(3), seen text, PRIMARY KEY (k, l)); INSERT INTO paired VALUES ((1, 'x'), 'a');"
        "INSERT INTO padded VALUES ('ab', 'a'); INSERT INTO scaled VALUES (1.5, 'c', 'a')",
    )
    assert etl("init", shop).exit_code == 0
    monkeypatch.setenv("ETL_SOURCE_URL", shop)
    assert etl("run").exit_code == 0
    for table, key in (("paired", "(1,x)"), ("padded", "ab"), ("scaled", "1.5,c"), ("dim_scaled", "1.5,c")):
        done = etl("explain", table, key)
        assert done.exit_code == 0, done.output
        assert "source  has it, as it was landed last" in done.output, done.output


def test_sums_of_many_digits_are_rounded_to_what_a_sheet_holds(shop: str, tmp_path: Path) -> None:
    execute(
        shop,
        "CREATE TABLE entry (id int PRIMARY KEY, customer_id int REFERENCES customer, day date, amount numeric(38,10), fee numeric(9,2),"
        " weight numeric); INSERT INTO entry SELECT n, 1, date '2024-01-01' + n, 123456.0123456789, n, n FROM generate_series(1, 90) n",
    )
    assert etl("init", shop).exit_code == 0
    lint(tmp_path / "etl_project")
    made = project.read(tmp_path / "etl_project")
    entries = made.reports["entry_by_month"]
    assert [(c.name, c.declared) for c in entries.columns][3:] == [
        ("amount", "numeric(38,4)"), ("fee", "numeric(38,2)"), ("weight", "numeric(38,9)"),
    ]  # fmt: skip
    flow = Direct(shop, tmp_path / "data", made.inputs)
    flow.run()
    query, control = made.queries["entry_by_month"]
    assert control
    frame = entries.make(flow.warehouse.query(query.sql))
    total = flow.warehouse.query(control.sql)
    assert entries.differences(frame, total) == []
    assert list(total.columns) == ["entries", "fee", "weight"]
    assert [str(amount) for amount in frame["amount"]] == ["3703680.3704", "3580224.3580", "3827136.3827"]


def test_rows_that_other_tables_inherit_are_told_to_have_no_key_among_them(shop: str) -> None:
    execute(
        shop,
        "CREATE TABLE city (name text PRIMARY KEY, height int); CREATE TABLE capital (state text) INHERITS (city);"
        "CREATE TABLE day (at date PRIMARY KEY) PARTITION BY RANGE (at); CREATE TABLE day_1 PARTITION OF day DEFAULT",
    )
    told = etl("init", shop).output
    assert (
        "city: the rows of capital are read as its own, and nothing keeps its key unique among them" in told
    )
    assert "the rows of day_1" not in told


def test_an_update_shows_what_is_new_and_adds_it_only_when_told_to(shop: str, tmp_path: Path) -> None:
    assert etl("init", shop).exit_code == 0
    up_to_date = etl("init", shop, "--update")
    assert up_to_date.output == "the project has all that the catalog has\n"
    execute(
        shop,
        'ALTER TABLE orders ADD paid boolean NOT NULL DEFAULT false, ADD "a ""b""" text; ALTER TABLE customer DROP name;'
        "CREATE TABLE refund (id int PRIMARY KEY, order_id int REFERENCES orders)",
    )
    tables = tmp_path / "etl_project" / "tables.py"
    before = tables.read_text()
    shown = etl("init", "--update", shop).output
    assert tables.read_text() == before
    for line in (
        "--- etl_project/tables.py",
        '+        "paid": "boolean",',
        '+        \'a "b"\': "text?",',
        "+REFUND = Table(",
    ):
        assert line in shown.splitlines()
    assert not [line for line in shown.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert "gone from the source: column name of customer (tables.py:" in shown
    assert etl("init", "--update", "--write", shop).exit_code == 0
    lint(tmp_path / "etl_project")
    made = project.read(tmp_path / "etl_project")
    assert (
        dict(made.tables["orders"].columns) | {"paid": "boolean", 'a "b"': "text?"}
        == made.tables["orders"].columns
    )
    assert "refund" in made.tables
    assert "dim_refund" in made.star
    assert '"name": "text"' in tables.read_text()  # nothing is taken away
    assert "+" not in etl("init", "--update", shop).output


@pytest.mark.parametrize(
    ("encoding", "ends", "first"),
    [("utf-8-sig", "\r\n", ""), ("latin-1", "\n", "# -*- coding: latin-1 -*-\n# Größe\n")],
)
def test_a_module_keeps_its_encoding_and_what_ends_its_lines(
    shop: str, tmp_path: Path, encoding: str, ends: str, first: str
) -> None:
    assert etl("init", shop).exit_code == 0
    folder = tmp_path / "etl_project"
    for path in folder.glob("*.py"):
        path.write_text(first + path.read_text(), encoding=encoding, newline=ends)
    tables = folder / "tables.py"
    before = tables.read_bytes()
    execute(shop, "ALTER TABLE orders ADD paid boolean; CREATE TABLE refund (id int PRIMARY KEY, label text)")
    assert etl("init", "--update", "--write", shop).exit_code == 0
    added = f'        "paid": "boolean?",{ends}'.encode()
    after = tables.read_bytes()
    assert added in after
    assert after.replace(added, b"").startswith(before)
    assert after.count(b"\r") == (after.count(b"\n") if "\r" in ends else 0)
    assert "dim_refund" in project.read(folder).star


def test_new_columns_of_a_declaration_that_is_written_otherwise_are_told_in_a_comment(
    shop: str, tmp_path: Path
) -> None:
    assert etl("init", shop).exit_code == 0
    tables = tmp_path / "etl_project" / "tables.py"
    tables.write_text(
        'from etl_assets.project import Table\n\nC = Table("customer", "", {"id": "int", "name": "text"})\n'
        'O = Table("orders", "", dict(id="int", customer_id="int", day="date", amount="numeric(9,2)?"))\n'
    )
    execute(shop, "ALTER TABLE customer ADD email text; ALTER TABLE orders ADD note text")
    done = etl("init", "--update", "--write", shop)
    assert done.exit_code == 0, done.output
    assert tables.read_text().endswith(
        "\n\n# New columns of customer, to be declared if the star uses them: 'email': 'text?'\n\n"
        "# New columns of orders, to be declared if the star uses them: 'note': 'text?'\n"
    )


def test_an_update_shows_what_is_otherwise_and_leaves_it_to_a_person(shop: str, tmp_path: Path) -> None:
    execute(
        shop, "CREATE TABLE shop (id int PRIMARY KEY, name text, a text, b text, d text);"
        "ALTER TABLE orders ADD shop int NOT NULL DEFAULT 1; INSERT INTO shop VALUES (1, 'x')",
    )  # fmt: skip
    assert etl("init", shop).exit_code == 0
    execute(
        shop,
        "ALTER TABLE orders ALTER amount TYPE numeric(20,4), ALTER day TYPE timestamptz, ALTER customer_id DROP NOT NULL,"
        " ADD FOREIGN KEY (shop) REFERENCES shop (id); ALTER TABLE customer ALTER id TYPE bigint;"
        "COMMENT ON TABLE orders IS 'What was ordered'; COMMENT ON COLUMN customer.name IS 'As it calls itself';"
        "CREATE TABLE place (id int PRIMARY KEY, name text, a text, b text, d text);"
        "ALTER TABLE orders ADD place int REFERENCES place; ALTER TABLE shop ADD country int REFERENCES place;"
        "ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customer;"
        "CREATE TABLE refund (id int PRIMARY KEY, place int REFERENCES place, day date, amount numeric(9,2))",
    )
    tables, facts = tmp_path / "etl_project" / "tables.py", tmp_path / "etl_project" / "facts.py"
    before = tables.read_text()
    shown = etl("init", "--update", shop).output
    assert tables.read_text() == before
    for line in (
        '-        "amount": "numeric(9,2)?",', '+        "amount": "numeric(20,4)?",', '+        "day": "timestamptz",',
        '+        "customer_id": "bigint?",', '+        "id": "bigint",', "+REFUND = Table(", "+def fact_refund(refund: nw.LazyFrame) -> nw.LazyFrame:",
        '+        Column("place", "int?", references="dim_place"),', "+def refund_by_month(answer: pd.DataFrame) -> pd.DataFrame:",
    ):  # fmt: skip
        assert line in shown.splitlines(), line
    for told in (
        'orders.amount is numeric(20,4) with NULL: write "numeric(20,4)?" for "numeric(9,2)?"',
        'customer.id is bigint: write "bigint" for "int"',
        'orders: the source says what it is: write "What was ordered"',
        'dim_customer.name: the source says what it is: write "As it calls itself"',
        "fact_orders: shop refers to dim_shop by a foreign key: write references=",
    ):
        assert told in shown, told
    written = etl("init", "--update", "--write", shop)
    assert "by hand: tables.py:" in written.output
    assert '"amount": "numeric(9,2)?"' in tables.read_text()  # what somebody wrote is theirs
    lint(tmp_path / "etl_project")
    assert "fact_refund" in project.read(tmp_path / "etl_project").star
    assert facts.read_text().count("def fact_refund(") == 1
    again = etl("init", "--update", shop).output
    assert "REFUND" not in again
    assert "by hand: " in again


def test_an_update_needs_a_project_of_a_database(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = etl("init", "--update", shop)
    assert (done.exit_code, done.output) == (1, "etl: there is no project here: etl init begins one\n")
    monkeypatch.setenv("ETL_PROJECT", "etl_assets.cards")
    done = etl("init", "--update", shop)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith("etl: the project cards reads no table of a database")


# As in public samples: a table that ties others together and is measured, keys by unique indexes, identifiers in lookups,
# words run together, plurals that no rule makes.
ODD = """
    CREATE TABLE ticket (id int PRIMARY KEY, holder text);
    CREATE TABLE airport (code char(3) PRIMARY KEY, city text); CREATE TABLE plane (code char(3) PRIMARY KEY, model text);
    CREATE TABLE flight (id int PRIMARY KEY, departs timestamptz, origin char(3) REFERENCES airport, plane char(3) REFERENCES plane);
    CREATE TABLE leg (ticket_id int REFERENCES ticket, flight_id int REFERENCES flight, price numeric(9,2), PRIMARY KEY (ticket_id, flight_id));
    CREATE TABLE boarding (ticket_id int, flight_id int, seat text, PRIMARY KEY (ticket_id, flight_id),
        FOREIGN KEY (ticket_id, flight_id) REFERENCES leg);
    CREATE TABLE department (id int UNIQUE NOT NULL, capital text UNIQUE NOT NULL, code text UNIQUE NOT NULL, a text, b text, d text);
    CREATE TABLE vote (capital text UNIQUE NOT NULL, number int UNIQUE NOT NULL, department text REFERENCES department (code), votedate timestamp, count int);
    CREATE TABLE kind (id int PRIMARY KEY, label text, rowguid uuid);
    CREATE TABLE people (id int PRIMARY KEY, name text, kind_id int REFERENCES kind, password text, born date, a text);
    CREATE TABLE taste (person_id int, kind_id int, PRIMARY KEY (person_id, kind_id));
    CREATE TABLE visit (id int PRIMARY KEY, person_id int, day date, spent numeric(9,2), kind int);
    INSERT INTO visit (id, kind) VALUES (1, 404); ALTER TABLE visit ADD FOREIGN KEY (kind) REFERENCES kind NOT VALID;
    CREATE TABLE pay (id int, day date, plane char(3), airport char(3), spent numeric(9,2), PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE pay_1 PARTITION OF pay FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE pay_2 PARTITION OF pay FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    ALTER TABLE pay_1 ADD FOREIGN KEY (plane) REFERENCES plane, ADD FOREIGN KEY (airport) REFERENCES airport;
    ALTER TABLE pay_2 ADD FOREIGN KEY (plane) REFERENCES plane;
"""


def test_a_star_is_what_a_person_would_make_of_odd_tables(shop: str, tmp_path: Path) -> None:
    execute(shop, ODD)
    told = etl("init", shop).output
    lint(tmp_path / "etl_project")
    made = project.read(tmp_path / "etl_project")
    star = made.star
    assert "taste_by_people" in made.reports  # though no foreign key says so
    assert sorted(name for name in star if name.startswith("fact_")) == [
        "fact_flight", "fact_leg", "fact_orders", "fact_pay", "fact_taste", "fact_visit", "fact_vote",
    ]  # fmt: skip
    assert star["fact_leg"].inputs == ["leg", "flight"]  # the header's day and what it refers to
    assert star["fact_leg"].schema.links == {
        ("ticket_id",): "dim_ticket",
        ("origin",): "dim_airport",
        ("plane",): "dim_plane",
        ("departs_date",): "dim_date",
    }
    # A key of one partition, and one that was never validated, may not hold.
    assert star["fact_pay"].schema.links == {("plane",): "dim_plane", ("day",): "dim_date"}
    assert star["fact_visit"].schema.links == {("day",): "dim_date"}
    assert star["dim_department"].schema.key_columns == ("code",)  # by which others refer to it
    assert star["fact_vote"].schema.key_columns == ("number",)
    assert star["fact_vote"].schema.links == {("department",): "dim_department", ("voteday",): "dim_date"}
    assert "kind_label" in star["dim_people"].schema.by_name
    assert "kind_rowguid" not in star["dim_people"].schema.by_name
    assert "  it looks like a reference to people, and is no foreign key" in told
    assert "    taste.person_id, visit.person_id\n" in told
    assert "people.password: it is called like a secret, and would lie in the lake" in told


def test_500_tables_and_1500_columns_take_seconds(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()
    many = ";".join(
        f"CREATE TABLE t{n} (id int PRIMARY KEY, a text, day date, amount numeric(9,2), t{n // 2}_id int"
        + (f" REFERENCES t{n // 2})" if n else ")")
        for n in range(500)
    )
    for start in range(0, 500, 100):
        execute(url, ";".join(many.split(";")[start : start + 100]))
    execute(url, f"CREATE TABLE wide (id int PRIMARY KEY, {', '.join(f'c{n} text' for n in range(1500))})")
    use(monkeypatch, tmp_path / "data")
    started = time.process_time()
    done = etl("init", url)
    assert done.exit_code == 0, done.output
    assert time.process_time() - started < 10
    assert (tmp_path / "etl_project" / "tables.py").read_text().count(" = Table(") == 501
    lint(tmp_path / "etl_project")
