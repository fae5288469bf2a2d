"""Rows on their way into a PostgreSQL warehouse: all of them arrive, whatever is in them and however old the server is."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from etl_assets.engine import duck
from etl_assets.stand_ins.postgres import serve, wheel_binaries
from etl_assets.star.schema import Column
from etl_assets.warehouse.contract import WarehouseError
from etl_assets.warehouse.postgres import copy_in, declared

ODD = ["a", "\\.", "", None, "\\.\n\\.", "x\n\\.\ny", "\\N", "NULL", '"', ",", "\r", "\\", " ", "b"]
COLUMN = Column("words", "text?")


@pytest.fixture(scope="module", params=[16, 18])
def server(request: pytest.FixtureRequest, postgres_folder: Path) -> Iterator[str]:
    with serve(postgres_folder / f"copy{request.param}", binaries=wheel_binaries(request.param)) as url:
        yield url


@pytest.mark.fault("F18")
def test_every_text_arrives_also_where_it_is_all_of_a_row(server: str, tmp_path: Path) -> None:
    with (
        closing(psycopg2.connect(server)) as connection,
        connection.cursor() as cursor,
        duck.connect(tmp_path) as lake,
    ):
        cursor.execute(f"CREATE TEMP TABLE arrived ({declared([COLUMN])})")
        lake.execute("CREATE TABLE sent AS SELECT unnest($odd) AS words", {"odd": ODD})
        copy_in(cursor, "arrived", [COLUMN], lake, "sent", tmp_path)
        cursor.execute("SELECT words FROM arrived")
        assert sorted(cursor.fetchall(), key=str) == sorted([(one,) for one in ODD], key=str)


def test_rows_that_do_not_arrive_are_an_error(server: str, tmp_path: Path) -> None:
    with (
        closing(psycopg2.connect(server)) as connection,
        connection.cursor() as cursor,
        duck.connect(tmp_path) as lake,
    ):
        cursor.execute(
            f"""CREATE TEMP TABLE arrived ({declared([COLUMN])});
            CREATE FUNCTION pg_temp.loses() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER loses BEFORE INSERT ON arrived FOR EACH ROW WHEN (NEW.words = 'b') EXECUTE FUNCTION pg_temp.loses()"""
        )
        lake.execute("CREATE TABLE sent AS SELECT unnest(['a', 'b']) AS words")
        with pytest.raises(WarehouseError, match="of 2 rows for arrived 1 arrived"):
            copy_in(cursor, "arrived", [COLUMN], lake, "sent", tmp_path)
