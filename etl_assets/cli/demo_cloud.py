"""`etl demo-cloud`: the production deployment on this machine, its cloud services replaced by stand-ins."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import click

from etl_assets.cli import environment, output
from etl_assets.cli.demo import play, show_report
from etl_assets.cli.verify import verify

_BUCKET, _PROJECT, _SPREADSHEET = "demo-lake", "demo-project", "demo"
_CLOUDS = ("AWS_", "GOOGLE_", "BIGQUERY_", "STORAGE_")  # how the variables of their clients begin
_REPORT = """
    SELECT month, currency_code, sum(orders) AS orders, sum(units) AS units, sum(revenue) AS revenue
    FROM reporting.sales_by_month GROUP BY month, currency_code ORDER BY month DESC, currency_code LIMIT 9
"""


@click.command("demo-cloud", short_help="The demo with S3, BigQuery and Google Sheets, without any account.")
@click.pass_context
def demo_cloud(ctx: click.Context) -> None:
    """Try the production deployment: lake on S3, warehouse in BigQuery, reports in Google Sheets.

    No account is needed: small servers on this machine stand in for the services, and the real clients talk to them. A
    generated database, two runs with a day of business between them, and then everything is compared. What the
    stand-ins hold is in memory, and gone at the end.
    """
    from etl_assets.cli.display import display
    from etl_assets.deployments import production, resources
    from etl_assets.stand_ins.bigquery import BigQueryStandIn
    from etl_assets.stand_ins.s3 import serve_s3
    from etl_assets.stand_ins.sheets import serve_sheets
    from etl_assets.stand_ins.sheets_books import Book
    from etl_assets.totesys.demo.totesys import let_the_server_in, serve_totesys

    data = environment.settings().data / "demo-cloud"
    for left in ("cache", "scratch"):  # copies of what an earlier demo's services held
        shutil.rmtree(data / left, ignore_errors=True)
    data.mkdir(parents=True, exist_ok=True)
    let_the_server_in(data.parent)
    from etl_assets.project import SHIPPED

    with ExitStack() as stack:
        aws = stack.enter_context(serve_s3(_BUCKET))
        google = stack.enter_context(BigQueryStandIn(_PROJECT).serve())
        sheets = stack.enter_context(serve_sheets())
        sheets.books[_SPREADSHEET] = Book()
        source = stack.enter_context(serve_totesys(data / "source"))
        settings = {
            "ETL_DEPLOYMENT": production.__name__,
            "ETL_DATA": str(data),
            "ETL_PROJECT": SHIPPED,
            "ETL_SOURCE_URL": source,
            "ETL_LAKE_URL": f"s3://{_BUCKET}/etl",
            "ETL_WAREHOUSE_URL": f"bigquery://{_PROJECT}?location=EU",
            "ETL_SHEET_ID": _SPREADSHEET,
            "ETL_SHEETS_ENDPOINT": sheets.url,
            "DAGSTER_HOME": "",
            **aws,
            **google.environment(data),
        }
        stack.enter_context(_environment(settings))
        chosen = environment.settings()
        environment.arrange_dagster_home(chosen)
        play(ctx, chosen, source, display())
        show_report("BigQuery", resources(chosen)["warehouse"].query(_REPORT))
        output.say("\nthe spreadsheet")
        tabs = sheets.books[_SPREADSHEET].visible().items()
        output.table(
            ["tab", "rows", "cells"], [(name, len(rows), sum(map(len, rows))) for name, rows in tabs]
        )
        output.say("\nis it all equal?")
        ctx.invoke(verify, thorough=True)
        output.say(
            f"\nwhat the services held, which is gone now\n"
            f"lake       {settings['ETL_LAKE_URL']} at {aws['AWS_ENDPOINT_URL']}\n"
            f"warehouse  {settings['ETL_WAREHOUSE_URL']} at {google.url}\n"
            f"reports    https://docs.google.com/spreadsheets/d/{_SPREADSHEET} at {sheets.url}\n"
            f"what stays: the generated database and Dagster's history of the two runs, in {data}"
        )


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The settings, and none of the user's own, while the block runs."""
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(_CLOUDS)]:
        del os.environ[name]
    for name in [name for name in os.environ if name.startswith("ETL_")]:
        os.environ[name] = ""  # it may also be in .env, which then has no say
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
