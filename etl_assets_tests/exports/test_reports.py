"""Reports are exact, complete and deterministic, and say so before they are published."""

import dataclasses
import datetime
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from typing import Any

import dagster as dg
import pandas as pd
import psycopg2
import pytest
from psycopg2.extras import execute_values

from etl_assets.exports.assets import export_assets, export_key, report_type
from etl_assets.exports.contract import Report, ReportColumn, ReportError, content_version, report
from etl_assets.exports.lineage import ReportQuery, traced
from etl_assets.lake.certificates import certificate_path
from etl_assets.lake.names import manifest_path
from etl_assets.star.schema import Column, Dimension, Fact
from etl_assets.totesys.reports import AGES, age, sales_by_month, top_designs, unpaid_payments
from etl_assets_tests.exports.conftest import DAY, TABLES, Star
from etl_assets_tests.shipped import REPORTS, SCHEMAS

Metadata = Callable[[dg.ExecuteInProcessResult], dict[str, dict[str, Any]]]


def test_revenue_is_exact_to_the_cent(star: Star) -> None:
    # More digits than a float holds.
    star.sales(
        {"units_sold": 9_000_001, "unit_price": Decimal("99999999.99")},
        {"units_sold": 1, "unit_price": Decimal("0.01")},
    )
    (row,) = star.report(sales_by_month)
    assert row["revenue"] == Decimal("900000099909999.99") + Decimal("0.01")
    assert (row["orders"], row["units"]) == (2, 9_000_002)


@pytest.mark.parametrize("declared", REPORTS, ids=lambda r: r.name)
def test_queries_run_unchanged_on_postgresql(
    star: Star, database: Callable[..., str], declared: Report
) -> None:
    star.sales({"units_sold": 7, "unit_price": Decimal("2.01")}, {"currency_id": 2, "sales_staff_id": 2})
    with closing(psycopg2.connect(database())) as connection, connection.cursor() as cursor:
        cursor.execute("create schema star")
        for table in TABLES:
            columns = ", ".join(f"{c.name} {c.type.name}" for c in table.columns)
            cursor.execute(f"create table star.{table.name} ({columns})")
            if isinstance(table, Fact):
                cursor.execute(f"create view star.{table.name}_current as select * from star.{table.name}")
            rows = star.warehouse.query(f"SELECT * FROM star.{table.name}").itertuples(index=False)
            values = [tuple(None if value is pd.NA else value for value in row) for row in rows]
            execute_values(cursor, f"insert into star.{table.name} values %s", values)

        def answer(query: str) -> pd.DataFrame:
            cursor.execute(query)
            names = [column.name for column in cursor.description or ()]
            return pd.DataFrame(cursor.fetchall(), columns=names, dtype=object)

        made = declared.make(answer(declared.query))
        pd.testing.assert_frame_equal(made, declared.make(star.warehouse.query(declared.query)))
        if declared.control:
            assert declared.differences(made, answer(declared.control)) == []


def test_sellers_of_the_same_name_stay_apart(star: Star) -> None:
    star.sales({"sales_staff_id": 1}, {"sales_staff_id": 2})
    assert [(r["staff_id"], r["seller"]) for r in star.report(sales_by_month)] == [
        (1, "Ada Byron"),
        (2, "Ada Byron"),
    ]


def test_currencies_and_months_are_never_added_up(star: Star) -> None:
    star.sales(
        {"currency_id": 1, "created_date": datetime.date(2026, 1, 31)},
        {"currency_id": 2, "created_date": datetime.date(2026, 1, 1)},
        {"currency_id": 1, "created_date": datetime.date(2026, 2, 1)},
    )
    assert [(r["month"], r["currency_code"], r["orders"]) for r in star.report(sales_by_month)] == [
        (datetime.date(2026, 1, 1), "EUR", 1),
        (datetime.date(2026, 1, 1), "GBP", 1),
        (datetime.date(2026, 2, 1), "GBP", 1),
    ]


def test_only_the_latest_version_of_what_exists_counts(star: Star) -> None:
    star.sales(
        {"sales_order_id": 1, "units_sold": 10},
        {"sales_order_id": 1, "units_sold": 7},
        {"sales_order_id": 2, "units_sold": 100},
        {"sales_order_id": 2, "units_sold": 100, "deleted": True},
    )
    assert [(r["orders"], r["units"]) for r in star.report(sales_by_month)] == [(1, 7)]


@pytest.mark.parametrize(
    ("days", "bucket"),
    [(-5, 0), (0, 0), (1, 1), (30, 1), (31, 2), (60, 2), (61, 3), (90, 3), (91, 4), (4000, 4)],
)
def test_age_is_in_days_since_the_payment_was_due(days: int, bucket: int) -> None:
    assert age(DAY - datetime.timedelta(days=days), DAY) == AGES[bucket]


@pytest.mark.fault("F26")
def test_age_is_counted_from_the_newest_day_in_the_data_not_from_the_clock(star: Star) -> None:
    due = datetime.date(2024, 1, 1)
    star.payments(
        {"payment_date": due, "last_updated_date": due},
        {"payment_date": due, "last_updated_date": due + datetime.timedelta(days=31), "paid": True},
    )
    (row,) = star.report(unpaid_payments)
    assert (row["age"], row["as_of"], row["payments"]) == ("31-60 days", datetime.date(2024, 2, 1), 1)


def test_what_is_owed_to_us_is_not_added_to_what_we_owe(star: Star) -> None:
    star.payments({"payment_type_id": 1}, {"payment_type_id": 2}, {"payment_type_id": 2})
    assert [(r["payment_type"], r["amount"]) for r in star.report(unpaid_payments)] == [
        ("PURCHASE_PAYMENT", Decimal("2.00")),
        ("SALES_RECEIPT", Decimal("1.00")),
    ]


def test_ages_are_listed_from_young_to_old(star: Star) -> None:
    star.payments(
        *[
            {"payment_date": DAY - datetime.timedelta(days=days), "last_updated_date": DAY}
            for days in (95, 65, 40, 5, 0)
        ]
    )
    assert [r["age"] for r in star.report(unpaid_payments)] == AGES


def test_the_twenty_best_designs_of_a_currency_are_ranked(star: Star) -> None:
    star.sales(
        *[{"design_id": n, "units_sold": 10 * n} for n in range(1, 26)], {"currency_id": 2, "design_id": 3}
    )
    rows = star.report(top_designs)
    assert [(r["currency_code"], r["rank"], r["design_id"]) for r in rows[:3]] == [
        ("EUR", 1, 3),
        ("GBP", 1, 25),
        ("GBP", 2, 24),
    ]
    assert len(rows) == 21
    assert rows[1]["share_percent"] == Decimal("7.69")  # 250 of 3250: of all designs, not of the twenty


def test_designs_of_equal_revenue_are_ranked_by_id(star: Star) -> None:
    star.sales({"design_id": 9}, {"design_id": 4}, {"design_id": 7})
    assert [r["design_id"] for r in star.report(top_designs)] == [4, 7, 9]


def test_top_designs_cover_the_newest_month_and_the_eleven_before(star: Star) -> None:
    star.sales(
        {"design_id": 1, "created_date": datetime.date(2025, 3, 31), "units_sold": 1000},
        {"design_id": 2, "created_date": datetime.date(2025, 4, 1)},
        {"design_id": 3, "created_date": datetime.date(2026, 3, 1)},
    )
    assert [r["design_id"] for r in star.report(top_designs)] == [2, 3]


def test_designs_without_revenue_have_no_share(star: Star) -> None:
    star.sales({"unit_price": Decimal("0.00")})
    assert [r["share_percent"] for r in star.report(top_designs)] == [Decimal("0.00")]


@pytest.mark.parametrize("declared", REPORTS, ids=lambda r: r.name)
def test_a_star_without_facts_gives_empty_reports_of_the_same_types(star: Star, declared: Report) -> None:
    full = declared.make(star.warehouse.query(declared.query))
    star.sales()
    star.payments()
    empty = declared.make(star.warehouse.query(declared.query))
    assert empty.empty
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert star.publish().success


def test_totals_that_differ_from_the_facts_fail_the_step_and_publish_nothing(star: Star) -> None:
    # A sale of a seller that dim_staff does not have: the report loses it, the facts do not.
    star.sales({"units_sold": 5}, {"units_sold": 7, "sales_staff_id": 99})
    result = star.publish([sales_by_month], expect_failure=True)
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told
    assert told.description == (
        "sales_by_month is not published: orders of GBP is 1, the facts say 2; units of GBP is 5, the facts say 12; "
        "revenue of GBP is 5.00, the facts say 12.00"
    )
    assert not result.get_asset_materialization_events()


def test_totals_that_agree_are_recorded_as_a_check(star: Star) -> None:
    checks = star.publish().get_asset_check_evaluations()
    assert {(c.asset_key.path[-1], c.passed) for c in checks} == {
        ("sales_by_month", True),
        ("unpaid_payments", True),
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [("seller", None), ("units", -1), ("currency_code", "EUR")],
    ids=["a NULL", "below the minimum", "a repeated key"],
)
def test_a_contract_violation_publishes_nothing(star: Star, column: str, value: object) -> None:
    star.sales({"currency_id": 1}, {"currency_id": 2})

    def shape(answer: pd.DataFrame) -> pd.DataFrame:
        return sales_by_month.shape(answer).assign(**{column: pd.Series([value] * len(answer), dtype=object)})

    broken = dataclasses.replace(sales_by_month, control=None, shape=shape)
    made = broken.make(star.warehouse.query(broken.query))
    verdict = report_type(broken, "x").type_check(None, made)  # type: ignore[arg-type]
    assert not verdict.success
    with pytest.raises(dg.DagsterTypeCheckDidNotPass):
        dg.materialize(
            export_assets([broken], traced([broken], SCHEMAS), "Sales"),
            instance=dg.DagsterInstance.ephemeral(str(star.folder)),
            resources={
                "warehouse": star.warehouse,
                "lake": star.lake,
                "reports": _NoTables(),
                "workbook": dg.ResourceDefinition.none_resource(),
            },
            selection=[export_key("sales_by_month")],
        )


class _NoTables(dg.IOManager):
    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        raise AssertionError("published")

    def load_input(self, context: dg.InputContext) -> None:
        raise AssertionError("loaded")


def test_an_amount_that_became_a_float_is_refused() -> None:
    answer = pd.DataFrame({"amount": [0.1]})
    with pytest.raises(ReportError, match="cash: amount became a float on its way; keep it numeric"):
        _cash().make(answer)


def test_a_fraction_of_a_cent_is_refused_not_rounded() -> None:
    with pytest.raises(ReportError, match="cash: amount holds what numeric") as raised:
        _cash().make(pd.DataFrame({"amount": [Decimal("0.123")]}))
    assert "0.123" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ReportError, match="cash: its function gives no amount"):
        _cash().make(pd.DataFrame({"sum": [1]}))


def test_a_report_that_returns_no_frame_is_told() -> None:
    def forgetful(answer: pd.DataFrame) -> Any:
        answer.copy()

    with pytest.raises(ReportError, match="cash: its function returns NoneType; return a DataFrame"):
        dataclasses.replace(_cash(), shape=forgetful).make(pd.DataFrame({"amount": [Decimal(1)]}))


def test_a_wrong_name_in_a_query_is_an_error_before_any_data_exists() -> None:
    wrong_column = dataclasses.replace(sales_by_month, query="SELECT d.yaer FROM star.dim_date AS d")
    with pytest.raises(ReportError, match=r"sales_by_month: its query is wrong: .*yaer"):
        traced([wrong_column], SCHEMAS)
    with pytest.raises(ReportError, match=r"can read star tables only; did you mean star.dim_date\?$"):
        traced([dataclasses.replace(sales_by_month, query="SELECT * FROM star.dim_dates")], SCHEMAS)


def test_dependencies_follow_from_the_query() -> None:
    reports = {
        asset.key.path[-1]: asset for asset in export_assets(REPORTS, traced(REPORTS, SCHEMAS), "Sales")
    }
    deps = {
        key.to_user_string() for key in reports["unpaid_payments"].asset_deps[export_key("unpaid_payments")]
    }
    assert deps == {
        f"warehouse/{t}" for t in ("fact_payment", "dim_payment_type", "dim_counterparty", "dim_currency")
    }


def test_column_lineage_follows_from_the_query_and_is_part_of_the_definition() -> None:
    reports = export_assets(REPORTS, traced(REPORTS, SCHEMAS), "Sales")
    (spec,) = next(asset.specs for asset in reports if asset.key == export_key("sales_by_month"))
    lineage = spec.metadata["dagster/column_lineage"].deps_by_column
    assert {(d.asset_key.path[-1], d.column_name) for d in lineage["revenue"]} == {
        ("fact_sales_order", "units_sold"),
        ("fact_sales_order", "unit_price"),
    }


def test_a_common_table_expression_is_no_table_of_the_star() -> None:
    query = ReportQuery(
        "q", "WITH s AS (SELECT staff_id FROM star.dim_staff) SELECT s.staff_id FROM s", SCHEMAS
    )
    assert query.tables == ["dim_staff"]
    assert query.sources == {"staff_id": [("dim_staff", "staff_id")]}


def test_a_column_whose_name_needs_quotes_is_found() -> None:
    columns = [Column("id", "int"), Column("CustomerId", "int"), Column("größe x", "int")]
    star = {"dim_c": Dimension("dim_c", "One row is a customer.", "id", columns)}
    query = ReportQuery(
        "q",
        'SELECT c."CustomerId", c."größe x" AS g, c.ID, COUNT(*) AS n FROM star.dim_c AS c GROUP BY 1, 2, 3',
        star,
    )
    assert query.columns == ["CustomerId", "g", "id", "n"]
    assert query.sources["CustomerId"] == [("dim_c", "CustomerId")]
    assert query.sources["g"] == [("dim_c", "größe x")]


def test_content_has_the_same_version_in_every_run_and_another_when_it_changes(star: Star) -> None:
    frame = sales_by_month.make(star.warehouse.query(sales_by_month.query))
    again = sales_by_month.make(star.warehouse.query(sales_by_month.query))
    assert content_version(frame) == content_version(again)
    star.sales({"units_sold": 1000, "unit_price": Decimal("2.02")})
    assert content_version(frame) != content_version(
        sales_by_month.make(star.warehouse.query(sales_by_month.query))
    )


@pytest.mark.parametrize(
    "nonsense",
    [
        {"title": "Sales: a title of far more than 31 characters"},
        {"title": "a/b"},
        {"key": ["nobody"]},
        {"description": ""},
    ],
    ids=lambda n: next(iter(n)),
)
def test_a_report_that_makes_no_sense_is_refused(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sales_by_month: "):
        dataclasses.replace(sales_by_month, **nonsense)


def test_definitions_load_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anew = [dataclasses.replace(declared) for declared in REPORTS]
        export_assets(anew, traced(anew, SCHEMAS), "Sales")
    load = "from etl_assets.definitions import defs; defs()"
    said = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True)
    assert said.stderr == ""


def _cash() -> Report:
    @report(
        title="Cash",
        key=["amount"],
        columns=[ReportColumn("amount", "numeric(10,2)")],
        query="SELECT 1 AS amount",
    )
    def cash(answer: pd.DataFrame) -> pd.DataFrame:
        """One row is an amount."""
        return answer

    return cash


def test_a_report_over_a_table_that_is_not_certified_is_not_published(star: Star) -> None:
    star.publish()
    before = star.tables.read("sales_by_month")
    star.sales({"units_sold": 5, "unit_price": Decimal("3.00")})
    files = star.lake.files()
    files.create(manifest_path(1), b"{}")
    proofs = {
        "fact_sales_order": {"equal": False, "differences": ["fact_sales_order shows batch 000000"]},
        "fact_payment": {"equal": True, "differences": []},
    }
    files.create(certificate_path(1), json.dumps({"tables": proofs}).encode())
    result = star.publish(expect_failure=True)
    told = {e.step_key for e in result.all_events if e.is_step_failure}
    assert told == {"exports__sales_by_month", "exports__top_designs"}
    assert star.tables.read("sales_by_month").equals(before)
