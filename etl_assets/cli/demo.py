"""`etl demo`: a generated business, the flow, a day of business, the flow again: what a batch is, in half a minute."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output
from etl_assets.cli.run import conclude

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl_assets.cli.display import Display
    from etl_assets.cli.flow import RunOutcome
    from etl_assets.cli.made import MadeAsset
    from etl_assets.settings import Settings
    from etl_assets.totesys.demo.simulator import DaySummary

NOT_THE_DEMO = (
    "etl: the demo is of the project that ships, and a project of yours is taken here: start it in another folder, without "
    "ETL_PROJECT, or call etl run"
)
_REPORT = """
    SELECT strftime(created_date, '%Y-%m') AS month, currency_code AS currency, count(*) AS orders,
        sum(units_sold)::BIGINT AS units, sum(units_sold * unit_price)::DECIMAL(18, 2) AS revenue
    FROM star.fact_sales_order_current JOIN star.dim_currency USING (currency_id)
    WHERE date_trunc('month', created_date) >= (
        SELECT date_trunc('month', max(created_date)) - INTERVAL 2 MONTH FROM star.fact_sales_order_current)
    GROUP BY 1, 2 ORDER BY month DESC, currency
"""


@click.command(short_help="Try it all with a generated database, in half a minute.")
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Try it all: a generated database, two runs, and a day of business between them.

    All of it stays on this machine, in ./data or $ETL_DATA. Run it again for another day.
    """
    settings = environment.settings()
    if settings.source_url:
        output.say(
            "etl: the demo brings its own source: unset ETL_SOURCE_URL (it may be in .env), or call etl run",
            err=True,
        )
        ctx.exit(2)
    if not environment.is_demo(settings):
        output.say(NOT_THE_DEMO, err=True)
        ctx.exit(2)
    environment.arrange_dagster_home(settings)

    from etl_assets.cli.display import display
    from etl_assets.deployments import resources
    from etl_assets.totesys.demo.resource import EmbeddedSource
    from etl_assets.totesys.demo.totesys import serve_totesys

    found = resources(settings)
    source: EmbeddedSource = found["source"]
    shown = display()
    shown.say("starting PostgreSQL with ToteSys, the database of a company that sells tote bags")
    with serve_totesys(Path(source.folder)) as url:
        play(ctx, settings, url, shown)
    show_report("the warehouse", found["warehouse"].query(_REPORT))
    output.say(
        f"\nlake       {settings.lake_url}\nwarehouse  {found['warehouse'].where}\n"
        "See it all in Dagster: make ui (or etl ui)"
    )


def play(ctx: click.Context, settings: "Settings", source: str, shown: "Display") -> None:
    """The flow, a day of business, and the flow again; `source` is the URL of the database of that business."""
    from etl_assets.cli import flow
    from etl_assets.definitions import definitions
    from etl_assets.totesys.demo.simulator import play_day

    loaded = definitions(settings)
    with environment.open_instance() as instance:
        shown.say("running the flow")
        first = flow.run(flow.plan(loaded, "etl", None, environment.naming(settings)), instance, shown)
        conclude(ctx, first)
        shown.say("a day of business")
        day = play_day(source)
        shown.say("running the flow again")
        second = flow.run(flow.plan(loaded, "etl", None, environment.naming(settings)), instance, shown)
        conclude(ctx, second)
    _show_batches(first, second)
    _show_day(day)


def show_report(of: str, report: "DataFrame") -> None:
    """Print the first rows of a reporting table."""
    output.say(f"\nsales, from {of}")
    output.table(list(report.columns), list(report.itertuples(index=False, name=None)))


def _show_batches(first: "RunOutcome", second: "RunOutcome") -> None:
    before = {made.name: made for made in first.captured}
    output.say("what arrived: + new, ~ changed, - deleted")
    output.table(
        ["table", f"before the day: {_batch(first)}", f"after it: {_batch(second)}", "rows"],
        [(m.name, _changes(before[m.name]), _changes(m), m.rows) for m in second.captured],
    )


def _batch(outcome: "RunOutcome") -> str:
    return f"batch {outcome.batch}" if outcome.batch else "no batch, as nothing changed"


def _changes(made: "MadeAsset") -> str:
    counts = {"+": made.new, "~": made.changed, "-": made.deleted}
    return " ".join(f"{sign}{count:,}" for sign, count in counts.items() if count)


def _show_day(day: "DaySummary") -> None:
    def listed(rows: Mapping[str, int]) -> str:
        return ", ".join(f"{table} {count}" for table, count in rows.items() if count) or "none"

    output.say(f"\nthe business of {day.day}")
    output.table(
        ["what happened", "rows"],
        [
            ("sales", str(day.sales)),
            ("purchases", str(day.purchases)),
            ("payments settled", str(day.payments_settled)),
            ("members added", listed(day.added)),
            ("changed, with last_updated left as it was", listed(day.silent_updates)),
            ("deleted", listed(day.deleted)),
        ],
    )
