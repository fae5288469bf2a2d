"""What goes wrong with a row is told without the row: in the line, in the history, in a mail, on the screen."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import pandas as pd
import psycopg2
import pyarrow as pa
import pytest

from etl_assets import faults
from etl_assets.engine.duck import identifier
from etl_assets.source.connection import SourceError, explained
from etl_assets.star.function import ContractError, StarFunction
from etl_assets.star.schema import Column, Dimension
from etl_assets.warehouse.contract import WarehouseError
from etl_assets.warehouse.postgres import PostgresWarehouse
from etl_assets_tests.flow import Flow, as_role, execute

VALUE = "Slartibartfast-4242"
"""The value of a row that no message may have."""


def everything(error: BaseException) -> str:
    """What Dagster would keep of an error: it and its causes."""
    return "".join(traceback.format_exception(error))


# -- PostgreSQL ------------------------------------------------------------------------------------------------------

TABLES = f"""
    CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, amount numeric(4,2), day date, short varchar(3),
        positive int CONSTRAINT above CHECK (positive > 0), filled text NOT NULL DEFAULT '');
    INSERT INTO t (id, name) VALUES (1, '{VALUE}');
    CREATE TABLE u (t_id int REFERENCES t, name text);
    CREATE DOMAIN small AS text CHECK (length(VALUE) < 4);
    CREATE FUNCTION fails(text) RETURNS int LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''no %% here'', $1 USING ERRCODE = ''42501''; END';
    CREATE VIEW v AS SELECT id, fails(name) FROM t;
    CREATE VIEW c AS SELECT id, name::int AS n FROM t;
"""
STATEMENTS = {
    f"INSERT INTO t (id, name) VALUES (2, '{VALUE}')": "duplicate key value violates unique constraint",
    "INSERT INTO u VALUES (4242, 'Slartibartfast-4242')": "violates foreign key constraint",
    f"INSERT INTO t (id, name, positive) VALUES (3, '{VALUE}', -1)": "above",
    f"INSERT INTO t (id, name, filled) VALUES (3, '{VALUE}', NULL)": "filled",
    f"INSERT INTO t (id, short) VALUES (3, '{VALUE}')": "string data right truncation (SQLSTATE 22001)",
    "INSERT INTO t (id, amount) VALUES (3, 4242)": "numeric value out of range (SQLSTATE 22003)",
    f"SELECT '{VALUE}'::int": "invalid text representation (SQLSTATE 22P02)",
    f"SELECT '{VALUE}'::date": "invalid datetime format (SQLSTATE 22007)",
    f"SELECT '{VALUE}'::small": "small",
    f"SELECT '{VALUE}'::json": "invalid text representation",
    "SELECT * FROM v": "insufficient privilege (SQLSTATE 42501)",
    "SELECT * FROM c": "invalid text representation",
    f"DO $$ BEGIN RAISE EXCEPTION '{VALUE}'; END $$": "raise exception (SQLSTATE P0001)",
    f"DO $$ BEGIN RAISE unique_violation USING MESSAGE = '{VALUE}', TABLE = 't'; END $$": "unique violation (SQLSTATE 23505)",
    "SELECT * FROM nothing": 'relation "nothing" does not exist',
    "SELECT nothing FROM t": 'column "nothing" does not exist',
    "SELECT 1/0": "division by zero (SQLSTATE 22012)",
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(module_database: Callable[..., str]) -> str:
    url = module_database()
    execute(url, TABLES)
    return url


@pytest.mark.parametrize("statement", STATEMENTS)
def test_an_error_of_postgresql_is_told_by_its_kind_and_place(shop: str, statement: str) -> None:
    with (
        closing(psycopg2.connect(shop)) as connection,
        connection.cursor() as cursor,
        pytest.raises(SourceError) as raised,
        explained("reading t"),
    ):
        cursor.execute(statement)
    assert STATEMENTS[statement] in str(raised.value)
    assert "\n" not in str(raised.value)
    for told in (str(raised.value), everything(raised.value)):
        # The statement itself stands in this file, which a stack shows.
        assert VALUE not in told.replace(f"'{VALUE}'", "").replace(statement, "")
        assert "DETAIL" not in told
        assert "CONTEXT" not in told


def test_a_copy_that_fails_quotes_no_line(shop: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(f"5,x\n6,{VALUE}\n{VALUE},y\n")
    warehouse = PostgresWarehouse(url=shop, scratch=str(tmp_path))
    with (
        pytest.raises(WarehouseError) as raised,
        warehouse.connect() as connection,
        connection.cursor() as cursor,
        file.open() as rows,
    ):
        cursor.copy_expert("COPY u FROM STDIN (FORMAT csv)", rows)
    assert "invalid text representation (SQLSTATE 22P02)" in str(raised.value)
    assert VALUE not in everything(raised.value)


# -- DuckDB, Arrow, Python -------------------------------------------------------------------------------------------

QUERIES = {
    f"SELECT CAST('{VALUE}' AS INTEGER)": "a value can't be converted (DuckDB: ConversionException)",
    f"SELECT CAST(a AS DATE) FROM (VALUES ('{VALUE}')) v(a)": "a value can't be converted",
    "SELECT 424242424242::BIGINT * 424242424242::BIGINT": "a number is out of range (DuckDB: OutOfRangeException)",
    f"CREATE TEMP TABLE k (a VARCHAR PRIMARY KEY); INSERT INTO k VALUES ('{VALUE}'), ('{VALUE}')": "rows break a constraint",
    f"SELECT error('{VALUE}')": "an input is invalid (DuckDB: InvalidInputException)",
    f"SELECT nothing FROM (VALUES ('{VALUE}')) v(a)": 'Referenced column "nothing" not found',
    "SELECT * FROM nothing": "Table with name nothing does not exist",
    f"SELECT '{VALUE}' FROM": "syntax error",
}


@pytest.mark.parametrize("query", QUERIES)
def test_an_error_of_duckdb_is_told_by_its_kind(query: str) -> None:
    with duckdb.connect() as connection, pytest.raises(faults.Fault) as raised, faults.without_values():
        connection.execute(query).fetchall()
    assert QUERIES[query] in str(raised.value)
    assert VALUE not in str(raised.value)
    assert "4242" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def _fails_in_pandas(sale: pd.DataFrame) -> pd.DataFrame:
    return sale.assign(id=[int(name) for name in sale["name"]])


def _fails_in_a_lookup(sale: pd.DataFrame) -> pd.DataFrame:
    known: dict[str, int] = {}
    return sale.assign(id=[known[name] for name in sale["name"]])


def _misspells(sale: pd.DataFrame) -> pd.DataFrame:
    return sale.assign(id=sale["nmae"])


def _misspells_one_of_several(sale: pd.DataFrame) -> pd.DataFrame:
    return sale[["id", "nmae"]]


def _returns_another_type(sale: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"id": list(sale["name"]), "name": list(sale["name"])})


def _names_no_column(sale: nw.LazyFrame) -> nw.LazyFrame:
    return sale.select(nw.col("nothing").alias("id"), "name")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_fails_in_pandas, "ValueError at test_faults.py:"),
        (_fails_in_a_lookup, "KeyError at test_faults.py:"),
        (_misspells, "KeyError (nmae) at test_faults.py:"),
        (_misspells_one_of_several, "KeyError (nmae) at test_faults.py:"),
        (_returns_another_type, "a value does not fit its declared type: Arrow"),
        (_names_no_column, "ColumnNotFoundError: "),
    ],
)
def test_an_error_of_a_function_is_told_by_its_kind_and_line(function: Callable[..., Any], said: str) -> None:
    schema = Dimension("dim_sale", "", "id", [Column("id", "int"), Column("name", "text")])
    definition = StarFunction(schema, function)
    with duckdb.connect() as connection:
        sale = connection.sql(f"SELECT 1 AS id, '{VALUE}' AS name")
        with pytest.raises(ContractError) as raised:
            definition.apply(connection, {"sale": sale}).fetchall()
    assert said in str(raised.value)
    assert VALUE not in everything(raised.value)


def test_an_error_keeps_where_it_comes_from() -> None:
    def deep() -> None:
        raise duckdb.ConversionException(f"Could not convert string '{VALUE}' to INT32")

    with pytest.raises(faults.Fault) as raised, faults.without_values():
        deep()
    assert "in deep" in everything(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowInvalid(f"Could not convert '{VALUE}'"),
        ValueError(f"invalid literal for int(): '{VALUE}'"),
        TypeError(f"Invalid value '{VALUE}' for dtype 'Int64'"),
        duckdb.Error(f"{VALUE}"),
        duckdb.InternalException(VALUE),
        psycopg2.DataError(VALUE),
        psycopg2.ProgrammingError(VALUE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_quote_a_value_is_not_repeated(error: Exception) -> None:
    assert VALUE not in faults.told(error)
    assert faults.told(error)


# -- the whole flow --------------------------------------------------------------------------------------------------


@pytest.fixture
def names(bicycles: str) -> Iterator[str]:
    """A source that fails at the value of a row, for a role whose rows are chosen by it."""
    execute(bicycles, f"UPDATE bike SET model = '{VALUE}' WHERE bike_id = 1")
    execute(
        bicycles,
        "CREATE ROLE tenant LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO tenant;"
        "ALTER TABLE bike ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON bike USING (model::int > 0)",
    )
    yield as_role(bicycles, "tenant", "x")
    execute(bicycles, "DROP OWNED BY tenant; DROP ROLE tenant")


@pytest.mark.fault("F35")
def test_a_run_that_fails_at_the_source_keeps_no_value_of_it(names: str, tmp_path: Path) -> None:
    run = Flow(names, tmp_path).run("raw/bike")
    assert not run.success
    assert "invalid text representation (SQLSTATE 22P02)" in run.error
    assert VALUE not in run.events


def test_a_query_of_a_warehouse_that_fails_keeps_no_value(shop: str, tmp_path: Path) -> None:
    warehouse = PostgresWarehouse(url=shop, scratch=str(tmp_path))
    with pytest.raises(WarehouseError) as raised:
        warehouse.query(f"SELECT CAST(name AS INTEGER) AS {identifier('n')} FROM t")
    assert VALUE not in everything(raised.value)


# -- BigQuery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "message", "said"),
    [
        ("invalidQuery", f"Bad int64 value: {VALUE}", "Bad int64 value … (the job has the rest"),
        ("invalidQuery", f"Invalid date: '{VALUE}'", "Invalid date …"),
        ("invalidQuery", f'Failed to parse input string "{VALUE}"', "Failed to parse input string …"),
        ("invalidQuery", "int64 overflow: 4242 * 4242", "int64 overflow …"),
        ("invalidQuery", "Cannot return an invalid timestamp value of 4242 microseconds", "Cannot return an"),
        (
            "invalid",
            f"Error while reading data, error message: Could not parse '{VALUE}'",
            "Error while reading",
        ),
        ("invalidQuery", "Unrecognized name: nothing at [1:8]", "Unrecognized name: nothing at [1:8]"),
        ("notFound", "Not found: Table p:star.t", "Not found: Table p:star.t"),
        ("accessDenied", "Access Denied: Project p", "Access Denied: Project p"),
    ],
)
def test_an_error_of_bigquery_ends_before_a_value(reason: str, message: str, said: str) -> None:
    from google.api_core.exceptions import BadRequest

    from etl_assets.clients.bigquery_jobs import explained as of_bigquery

    error = BadRequest(message, errors=[{"reason": reason, "message": message}])  # type: ignore[no-untyped-call]
    told = str(of_bigquery("star.t", error))
    assert said in told
    assert "4242" not in told
