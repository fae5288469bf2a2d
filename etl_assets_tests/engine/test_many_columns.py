"""What star functions cost where a table has as many columns as PostgreSQL takes."""

import time

import duckdb
import narwhals as nw
import pytest

from etl_assets.engine import duck

COLUMNS = 1600


def test_a_selection_of_all_columns_takes_no_second() -> None:
    assert duck.FILE  # it is imported before a function is called
    names = [f"c{number}" for number in range(COLUMNS)]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE wide ({' INT, '.join(names)} INT)")
        frame = nw.from_native(connection.table("wide"))
        started = time.process_time()
        assert frame.select(*names).to_native().columns == names
        assert time.process_time() - started < 0.5


def test_a_string_that_is_called_like_a_column_is_still_told_of() -> None:
    with duckdb.connect() as connection:
        rows = connection.sql("SELECT 'b' AS a, 1 AS b")
        with pytest.warns(UserWarning, match="'b' is used as a string value, and it is also a column name"):
            found = rows.filter(duckdb.ColumnExpression("a") == "b")
        assert found.fetchall() == [("b", 1)]
