"""Every value arrives as PostgreSQL writes it, character by character, when it is first read and when it is rewritten."""

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from etl_assets.lake.manifest import Manifest
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, connect
from etl_assets_tests.lake_layout import landed

T = Table("t", "", {"id": "text"})
_TEXTS = [
    "", " ", "  both  ", "NULL", "null", "\\N", "\\.", "\\", "\\\\", "a\\.b", "'", '"', '""', '"""', "a\"b", ",", ";", "\t", "|",
    "\n", "\r", "\r\n", "\n\n", "a\nb", "a\rb", "a\r\nb", "\ntrailing", "leading\n", '"\n"', ",\n,", "\\.\n\\.", "#", "--", "/*",
    "\ufeff", "\ufeffa", "é", "e\u0301", "ß", "🧾", "👩‍👩‍👧‍👦", "שלום", "مرحبا\u202e", "\u2028", "\u2029", "\u0085", "\u00a0", "\x01", "\x7f", "\x1b[0m",
    "=1+1", "+1", "-1", "@x", "0", "00", "1e3", "true", "2024-01-01", "x" * 70_000, '"' * 40_000, "\r" * 40_000, "m" * 1_048_576,
    ("é🧾\n\r\"'," * 40_000),
]  # fmt: skip
_NASTY: dict[str, list[str | None]] = {
    "text": [*_TEXTS, None],
    "varchar(20)": ["", " ", "a ", "\r", None],
    "char(5)": ["", "a", " a", None],
    '"char"': ["", "a", None],
    "name": ["", "a\nb", None],
    "smallint": ["-32768", "32767", "0", None],
    "integer": ["-2147483648", "2147483647", "0", None],
    "bigint": ["-9223372036854775808", "9223372036854775807", "0", None],
    "numeric": [
        "NaN", "Infinity", "-Infinity", "0", "-0.0", "0.00", "1.0", "1.10", "9" * 40, "-" + "9" * 40 + "." + "1" * 40, "1e-30",
        "1e100", "0." + "0" * 200 + "1", None,
    ],
    "numeric(38,10)": ["1", "-0.0000000001", "9" * 28 + "." + "9" * 10, "NaN", None],
    "real": ["NaN", "Infinity", "-Infinity", "0", "-0", "1e-45", "3.4028235e38", "0.1", "16777217", None],
    "double precision": ["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1", "1e15", "1e16", None],
    "boolean": ["true", "false", None],
    "date": ["infinity", "-infinity", "0044-03-15 BC", "4713-01-01 BC", "5874897-12-31", "0001-01-01", "2024-02-29", None],
    "time": ["24:00:00", "00:00:00", "23:59:59.999999", "12:00", None],
    "timetz": ["24:00:00-15:59", "00:00:00+15:59", "04:05:06.000001+05:30", None],
    "timestamp": ["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "2016-12-31 23:59:60", "1999-12-31 24:00", None],
    "timestamptz": ["infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "2024-03-31 01:30 Europe/London", "1900-01-01 00:00:00+00:19:32", None],
    "interval": ["0", "1 mon -1 day +00:00:01", "-178000000 years", "1 year 2 mons 3 days 04:05:06.789", "-00:00:00.000001", "1 day -24:00:00", "100000 hours", None],
    "bytea": ["", "\\x00", "\\x0d0a22", "\\xdeadbeef", None],
    "uuid": ["00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", None],
    "json": ["null", '"null"', '{"a": 1,   "a": 2}', "[1.10, 1e400]", '"\\u00e9\\n"', " 1 ", '"\n"' .replace("\n", "\\n"), None],
    "jsonb": ["null", "1.10", '{"b": 1, "a": [null, ""]}', "1e100", '"\\r"', None],
    "text[]": ["{}", "{NULL}", '{"NULL",""}', '{{a,b},{"c,d","e\\"f"}}', "[0:1]={a,b}", '{"\n","\r","\\\\."}', None],
    "int[]": ["{}", "{{1,2},{3,NULL}}", None],
    "inet": ["10.0.0.1", "10.1.2.3/8", "::1", "::ffff:1.2.3.4/128", None],
    "cidr": ["10.0.0.0/8", "::/0", None],
    "macaddr": ["08:00:2b:01:02:03", None],
    "int4range": ["empty", "(,)", "[1,5]", None],
    "numrange": ["(1.10,2]", "[NaN,]", None],
    "tstzrange": ["[-infinity,infinity]", '["2024-01-01 00:00+00","2024-01-02 00:00+00")', None],
    "int4multirange": ["{}", "{[1,2),[5,9)}", None],
    "bit(3)": ["101", None],
    "bit varying": ["", "1" * 99, None],
    "point": ["(1e-300,-0)", "(NaN,Infinity)", None],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))", None],
    "tsvector": ["", "'a b':1A,2 'c''d'", None],
    "oid": ["0", "4294967295", None],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF", None],
    "mood": ["", "so, so", 'a "b"', "null", None],
    "mood[]": ["{}", '{"","so, so",null}', None],
    "words": ["", "x\r", None],
    "pair": ["(,)", '("",1)', '("a,""b""\n",)', None],
    "small": ["-5", "7", None],
}  # fmt: skip
_TYPES = (
    """CREATE TYPE mood AS ENUM ('', 'so, so', 'a "b"', 'null')""",
    "CREATE DOMAIN words AS text",
    "CREATE TYPE pair AS (a text, b int)",
    "CREATE DOMAIN small AS int",
)
_COLUMNS = [f"c{n}" for n in range(len(_NASTY))]


@contextmanager
def session(lake: Lake) -> Iterator[Cursor]:
    with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
        yield cursor


def insert(cursor: Cursor, first_key: int) -> int:
    """Insert every value, each in a row of its own so that one column's quoting can't hide another's; also all in common."""
    key = first_key
    for column, (type_, values) in zip(_COLUMNS, _NASTY.items(), strict=True):
        for value in values:
            cursor.execute(f"INSERT INTO t (id, {column}) VALUES (%s, %s::{type_})", (key, value))
            key += 1
    most = max(map(len, _NASTY.values()))
    for n in range(most):
        row = [values[n % len(values)] for values in _NASTY.values()]
        marks = ", ".join(f"%s::{type_}" for type_ in _NASTY)
        cursor.execute(f"INSERT INTO t VALUES (%s, {marks})", (key, *row))
        key += 1
    return key


def landed_differs(lake: Lake, cursor: Cursor, manifest: Manifest) -> int:
    """How many rows of the batch's file are not what the source has, after COPY has read the file back."""
    changes = manifest.changed["t"]
    assert changes.rows
    cursor.execute("DROP TABLE IF EXISTS back; CREATE TEMP TABLE back (LIKE t)")
    content = lake.path.joinpath(changes.rows.path).read_bytes()
    cursor.copy_expert("COPY back FROM STDIN (FORMAT csv, HEADER match)", io.BytesIO(content))
    assert cursor.rowcount == changes.rows.rows
    names = ["id", *_COLUMNS]
    written = [
        sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN format('%s', {0}) END").format(sql.SQL(f"{{}}.{n}"))
        for n in names
    ]
    text = sql.SQL(", ").join(written).as_string(cursor)
    cursor.execute(
        "SELECT count(*) FROM back JOIN t USING (id) "
        f"WHERE ROW({text.replace('{}', 'back')}) IS DISTINCT FROM ROW({text.replace('{}', 't')})"
    )
    (differing,) = cursor.fetchall()[0]
    return int(differing)


@pytest.fixture
def nasty(lake: Lake) -> Lake:
    columns = ", ".join(f"{column} {type_}" for column, type_ in zip(_COLUMNS, _NASTY, strict=True))
    with session(lake) as cursor:
        for statement in (*_TYPES, f"CREATE TABLE t (id bigint PRIMARY KEY, {columns})"):
            cursor.execute(statement)
    return lake


@pytest.mark.fault("F18", "F19")
def test_every_value_arrives_as_it_is_when_read_first_and_when_rewritten(
    nasty: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session(nasty) as cursor:
        following = insert(cursor, 1)
        first = nasty.sync(T)
        assert first is not None
        assert landed_differs(nasty, cursor, first) == 0
        assert nasty.is_exact(T)
        # Nothing may look changed only because it is hard to read.
        assert nasty.committed(T, whole=True).changed == {}

        insert(cursor, following)
        swapped = ", ".join(
            f"{c} = (SELECT {c} FROM t AS o WHERE o.id = {following - 1} - t.id)" for c in _COLUMNS
        )
        cursor.execute(f"UPDATE t SET {swapped} WHERE id % 3 = 0")
        second = nasty.sync(T)
        assert second is not None
        assert second.tables["t"].read == "horizon"
        assert landed_differs(nasty, cursor, second) == 0
        assert nasty.is_exact(T)
        assert nasty.sync(T) is None
        assert nasty.committed(T, whole=True).changed == {}

        monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
        cursor.execute("UPDATE t SET c0 = 'x' WHERE id = 1")
        nasty.sync(T)
        assert list(nasty.path.glob("current/t/*.parquet"))
        assert nasty.is_exact(T)


@pytest.mark.fault("F18")
def test_null_and_the_empty_text_stay_apart_through_every_stage(lake: Lake) -> None:
    with session(lake) as cursor:
        cursor.execute("CREATE TABLE t (id text PRIMARY KEY, a text)")
        cursor.execute("INSERT INTO t VALUES ('', NULL), ('x', '')")
        lake.sync(T)
        assert lake.held(T).rows == {("", None): 1, ("x", ""): 1}
        cursor.execute("UPDATE t SET a = CASE WHEN a IS NULL THEN '' END")
        manifest = lake.sync(T)
        assert manifest is not None
        assert manifest.changed["t"].changed == 2
        assert lake.held(T).rows == {("", ""): 1, ("x", None): 1}
        assert landed(lake.path, "t", 2).read_bytes() == b'id,a\n"",""\nx,\n'


def test_equal_numbers_that_are_written_differently_are_a_change(lake: Lake) -> None:
    with session(lake) as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric, j jsonb, f float8)")
        cursor.execute("INSERT INTO t VALUES (1, 1.0, '1.0', '0')")
        lake.sync(T)
        cursor.execute("UPDATE t SET n = 1.00, j = '1.00', f = '-0'")
        assert lake.sync(T)
        assert lake.held(T).rows == {("1", "1.00", "1.00", "-0"): 1}


@pytest.mark.fault("F18", "F19")
@pytest.mark.parametrize(
    "setting",
    ["datestyle = 'German, DMY'", "intervalstyle = 'iso_8601'", "timezone = 'Asia/Kathmandu'", "bytea_output = 'escape'",
     "extra_float_digits = -15", "client_encoding = 'LATIN1'", "default_transaction_isolation = 'serializable'",
     "search_path = 'pg_catalog'", "standard_conforming_strings = off", "statement_timeout = '1ms'"],
)  # fmt: skip
def test_settings_of_the_source_do_not_change_what_is_read(lake: Lake, setting: str) -> None:
    with session(lake) as cursor:
        cursor.execute(
            "CREATE TABLE t (id int PRIMARY KEY, d timestamptz, i interval, b bytea, f float8, a text)"
        )
        cursor.execute(
            r"INSERT INTO t VALUES (1, '2024-02-01 03:04:05+00', '1 day 2 h', '\x0061', 0.1, 'é\')"
        )
        name = lake.url.rsplit("/", 1)[1]
        cursor.execute(f"ALTER DATABASE {name} SET {setting}")
    lake.sync(T)
    with session(lake) as cursor:
        cursor.execute(f"ALTER DATABASE {name} RESET ALL")
    assert lake.held(T).rows == {
        ("1", "2024-02-01 03:04:05+00", "1 day 02:00:00", "\\x0061", "0.1", "é\\"): 1
    }
