"""Text is the source's own, whatever its sessions are set to; where it is written otherwise without a row being written,
the table is read whole."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from etl_assets.source.connection import SourceError
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, connect, execute
from etl_assets_tests.capture.servers import as_role

T = Table("t", "", {"id": "int"})


def database_of(lake: Lake) -> str:
    return lake.url.rsplit("/", 1)[1]


# -- what is written otherwise ---------------------------------------------------------------------------------------

_MADE = {
    "composite": "CREATE TYPE made AS (a int, b text)",
    "enum": "CREATE TYPE made AS ENUM ('1', '(1,x)')",
    "row": "CREATE TABLE made (a int, b text)",
}


@pytest.mark.many
@pytest.mark.parametrize(
    ("kind", "type_", "change"),
    [
        ("composite", "made", "ALTER TYPE made ADD ATTRIBUTE c int"),
        ("composite", "made", "ALTER TYPE made DROP ATTRIBUTE b"),
        ("composite", "made[]", "ALTER TYPE made ADD ATTRIBUTE c int"),
        ("composite", "over", "ALTER TYPE made ADD ATTRIBUTE c int"),
        ("composite", "over_over[]", "ALTER TYPE made ADD ATTRIBUTE c int"),
        ("composite", "nested", "ALTER TYPE made ADD ATTRIBUTE c int"),
        ("row", "made", "ALTER TABLE made ADD c int"),
        ("enum", "made", "ALTER TYPE made RENAME VALUE '(1,x)' TO 'other'"),
        ("enum", "over_over[]", "ALTER TYPE made RENAME VALUE '(1,x)' TO 'other'"),
        ("enum", "span", "ALTER TYPE made RENAME VALUE '(1,x)' TO 'other'"),
        ("enum", "spanmulti", "ALTER TYPE made RENAME VALUE '(1,x)' TO 'other'"),
    ],
)
def test_what_is_made_of_a_type_that_was_altered_is_read_whole(
    lake: Lake, kind: str, type_: str, change: str
) -> None:
    value = {
        "made": "(1,x)", "over": "(1,x)", "made[]": '{"(1,x)"}', "over_over[]": '{"(1,x)"}', "nested": '("(1,x)",2)',
        "span": '["(1,x)","(1,x)"]', "spanmulti": '{["(1,x)","(1,x)"]}',
    }[type_]  # fmt: skip
    execute(lake.url, _MADE[kind])
    if type_.startswith("over"):
        execute(lake.url, "CREATE DOMAIN over AS made", "CREATE DOMAIN over_over AS over")
    if type_ == "nested":
        execute(lake.url, "CREATE TYPE nested AS (m made, n int)")
    if type_.startswith("span"):
        execute(lake.url, "CREATE TYPE span AS RANGE (subtype = made, multirange_type_name = spanmulti)")
    execute(
        lake.url,
        f"CREATE TABLE t (id int PRIMARY KEY, v {type_})",
        f"INSERT INTO t VALUES (1, '{value}'), (2, NULL)",
    )
    lake.sync(T)
    assert lake.is_exact(T)
    execute(lake.url, change)
    manifest = lake.sync(T)
    assert manifest
    assert manifest.tables["t"].read == "whole"
    assert "how values are written changed" in manifest.tables["t"].why
    assert lake.is_exact(T)
    execute(lake.url, "UPDATE t SET v = NULL WHERE id = 1")
    assert (last := lake.sync(T))
    assert last.tables["t"].read == "horizon"


def test_names_of_the_catalog_are_looked_at_each_time(lake: Lake) -> None:
    execute(
        lake.url,
        "CREATE TABLE other (a int)",
        "CREATE TABLE t (id int PRIMARY KEY, v regclass[])",
        "INSERT INTO t VALUES (1, ARRAY['other'::regclass])",
    )
    lake.sync(T)
    execute(lake.url, "ALTER TABLE other RENAME TO another")
    manifest = lake.sync(T)
    assert manifest
    assert "names of the catalog" in manifest.tables["t"].why
    assert lake.held(T).rows == {("1", "{public.another}"): 1}


def test_money_is_read_whole_when_its_locale_changes_and_never_converted(lake: Lake) -> None:
    execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY, v money)", "INSERT INTO t VALUES (1, '1234.5')")
    lake.sync(T)
    execute(lake.url, f"ALTER DATABASE {database_of(lake)} SET lc_monetary = 'C.UTF-8'")
    lake.sync(T)
    execute(lake.url, f"ALTER DATABASE {database_of(lake)} SET lc_monetary = 'POSIX'")
    manifest = lake.sync(T)
    assert manifest
    assert manifest.tables["t"].read == "whole"


# -- what nobody's settings change -----------------------------------------------------------------------------------


@pytest.mark.fault("F19")
@pytest.mark.many
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("datestyle", "SQL, DMY"), ("intervalstyle", "iso_8601"), ("extra_float_digits", "-15"), ("bytea_output", "escape"),
        ("timezone", "Asia/Kathmandu"), ("xmlbinary", "hex"), ("quote_all_identifiers", "on"),
    ],
)  # fmt: skip
def test_values_are_written_alike_whatever_is_set_for_role_and_database(
    lake: Lake, setting: str, value: str
) -> None:
    role = f"printer_{os.getpid()}"
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, d date, i interval, f float8, b bytea, s timestamptz)",
        "INSERT INTO t VALUES (1, '2024-05-01', '1 day 2 h', 1.0/3, '\\x0061', '2024-05-01 12:00+02')",
        f"CREATE ROLE {role} SUPERUSER LOGIN",
    )
    told = ("1", "2024-05-01", "1 day 02:00:00", "0.3333333333333333", "\\x0061", "2024-05-01 10:00:00+00")
    try:
        execute(lake.url, f"ALTER DATABASE {database_of(lake)} SET {setting} = '{value}'")
        execute(lake.url, f"ALTER ROLE {role} SET {setting} = '{value}'")
        ours = Lake(as_role(lake.url, role), lake.folder)
        ours.sync(T)
        assert ours.held(T).rows == {told: 1}
        assert ours.committed(T, whole=True).changed == {}
    finally:
        execute(lake.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.many
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("of", ["database", "role", "url", "options", "service"])
def test_names_and_values_come_in_utf_8_whatever_encoding_is_set(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, of: str
) -> None:
    role, url = f"encoder_{os.getpid()}", lake.url
    execute(url, "CREATE TABLE t (id int PRIMARY KEY, größe text)", "INSERT INTO t VALUES (1, 'Ж é')")
    execute(url, f"CREATE ROLE {role} SUPERUSER LOGIN")
    try:
        if of == "database":
            execute(url, f"ALTER DATABASE {database_of(lake)} SET client_encoding = '{encoding}'")
        elif of == "role":
            execute(url, f"ALTER ROLE {role} SET client_encoding = '{encoding}'")
            url = as_role(url, role)
        elif of == "url":
            url = f"{url}?client_encoding={encoding}"
        elif of == "options":
            url = f"{url}?options=-c%20client_encoding%3D{encoding}"
        else:
            (tmp_path / "services").write_text(f"[ours]\nclient_encoding={encoding}\n")
            monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
            url = f"{url}?service=ours"
        ours = Lake(url, lake.folder)
        table = Table("t", "", {"id": "int", "größe": "text"})
        ours.sync(table)
        assert ours.held(table).columns == ("id", "größe")
        assert ours.held(table).rows == {("1", "Ж é"): 1}
    finally:
        execute(lake.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture(scope="module")
def bytes_only(postgres_folder: Path) -> Iterator[Callable[[str], str]]:
    """New databases in an encoding of one's choice, on a server of their own."""
    with serve(postgres_folder / "encodings", settings={"fsync": "off"}) as url:

        def made(encoding: str) -> str:
            with closing(connect(url)) as connection, connection.cursor() as cursor:
                cursor.execute(
                    f"CREATE DATABASE {encoding.lower()} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
                )
            return f"{url.rsplit('/', 1)[0]}/{encoding.lower()}"

        yield made


def test_bytes_that_are_no_text_are_named_with_table_key_and_column(
    bytes_only: Callable[[str], str], tmp_path: Path
) -> None:
    for encoding, value in (("SQL_ASCII", rb"gr\366\337e"), ("WIN1252", rb"a\201")):
        lake = Lake(bytes_only(encoding), tmp_path / encoding)
        lake.folder.mkdir()
        with closing(psycopg2.connect(lake.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET client_encoding = 'SQL_ASCII'")
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
            cursor.execute(b"INSERT INTO t VALUES (1, 'x', 'y'), (2, 'x', E'" + value + b"'), (3, NULL, '')")
        with pytest.MonkeyPatch.context() as machine:
            # A table may be larger than all that temporary files have room for.
            machine.setattr("tempfile.TemporaryFile", None)
            with pytest.raises(
                SourceError, match=r"the b of row \(2\) of t holds bytes that are no text"
            ) as caught:
                lake.sync(T)
        assert "\n" not in str(caught.value)
        assert not lake.path.joinpath("raw/t").exists() or not list(lake.path.joinpath("raw/t").glob("*.csv"))
        without = Table("t", "", {"id": "int"}, exclude=("b",))
        lake.sync(without)
        assert lake.held(without).rows == {("1", "x"): 1, ("2", "x"): 1, ("3", None): 1}


# -- whose functions are called --------------------------------------------------------------------------------------


def test_functions_of_the_role_never_stand_in_for_those_of_the_catalog(lake: Lake) -> None:
    role = f"shadow_{os.getpid()}"
    execute(
        lake.url,
        f"CREATE ROLE {role} SUPERUSER LOGIN",
        f"ALTER ROLE {role} SET search_path = shadow, pg_catalog, public",
        "CREATE SCHEMA shadow",
        "CREATE FUNCTION shadow.age(xid) RETURNS int LANGUAGE sql AS 'SELECT 2147483647'",
        "CREATE FUNCTION shadow.format_type(oid, int) RETURNS text LANGUAGE sql AS $$ SELECT 'text' $$",
        "CREATE FUNCTION shadow.row_security_active(oid) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
        "CREATE FUNCTION shadow.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE VIEW shadow.pg_class AS SELECT * FROM pg_catalog.pg_class WHERE false",
        "CREATE TABLE t (id int PRIMARY KEY, a int)",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 9) n",
    )
    try:
        ours = Lake(as_role(lake.url, role), lake.folder)
        ours.sync(T)
        execute(lake.url, "UPDATE t SET a = 0 WHERE id = 5; DELETE FROM t WHERE id = 6")
        manifest = ours.sync(T)
        assert manifest
        assert manifest.tables["t"].read == "horizon"
        assert [c.type for c in manifest.tables["t"].columns] == ["integer", "integer"]
        assert lake.is_exact(T)
    finally:
        execute(lake.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_view_still_finds_the_functions_that_its_own_functions_name(lake: Lake) -> None:
    role = f"viewer_{os.getpid()}"
    execute(
        lake.url,
        f"CREATE ROLE {role} SUPERUSER LOGIN",
        f"ALTER ROLE {role} SET search_path = app",
        "CREATE SCHEMA app; CREATE TABLE app.rates (a int); INSERT INTO app.rates VALUES (7)",
        "CREATE FUNCTION app.rate() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(a) FROM rates); END'",
        "CREATE VIEW t AS SELECT 1 AS id, app.rate() AS rate",
    )
    view = Table("t", "", {"id": "int"}, key=("id",))
    try:
        ours = Lake(as_role(lake.url, role), lake.folder)
        ours.sync(view)
        assert ours.held(view).rows == {("1", "7"): 1}
    finally:
        execute(lake.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


# -- types built on types --------------------------------------------------------------------------------------------


def test_a_domain_counts_as_what_it_is_over_however_many_lie_between(lake: Lake) -> None:
    execute(
        lake.url,
        *(
            f"CREATE DOMAIN {name}1 AS {base}; CREATE DOMAIN {name}2 AS {name}1; CREATE DOMAIN {name}3 AS {name}2"
            for name, base in {
                "b": "boolean",
                "i": "int",
                "n": "numeric(10,2)",
                "d": "date",
                "v": "varchar(20)",
            }.items()
        ),
        "CREATE TABLE t (id i3 PRIMARY KEY, b b3, n n3, d d2, v v3, l i3[])",
        "INSERT INTO t VALUES (1, true, 1.5, '2024-05-01', 'x', '{1,2}')",
    )
    table = Table(
        "t", "", {"id": "int", "b": "boolean", "n": "numeric(10,2)", "d": "date", "v": "text", "l": "array"}
    )
    manifest = lake.sync(table)
    assert manifest
    assert [c.type for c in manifest.tables["t"].columns] == [
        "integer", "boolean", "numeric(10,2)", "date", "character varying(20)", "i3[]",
    ]  # fmt: skip
    assert manifest.changed["t"].quarantined_rows == 0
    execute(lake.url, "INSERT INTO t (id, b, n, d, v, l) VALUES (2, false, 2, '2024-05-02', '', '{}')")
    execute(lake.url, "DELETE FROM t WHERE id = 1")
    lake.sync(table, deletion_brake=1)
    assert lake.is_exact(table)
    assert lake.latest().tables["t"].controls["n"].held == "2.00"
