"""`etl simulate`: business goes on in the demo's database, so that there is something to watch."""

import os
from pathlib import Path

import click

from etl_assets.cli import environment, output
from etl_assets.cli.demo import NOT_THE_DEMO


@click.command()
@click.option(
    "--every", default=15.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds between."
)
@click.option(
    "--with-parent", is_flag=True, hidden=True, help="End when the process that started this one does."
)
@click.pass_context
def simulate(ctx: click.Context, every: float, with_parent: bool) -> None:
    """Sell, settle, change and cancel in the demo's database until interrupted.

    The interface (etl ui) shows how it arrives in the warehouse.
    """
    settings = environment.settings()
    if settings.source_url:
        output.say("etl: only the demo's own database is written to: unset ETL_SOURCE_URL", err=True)
        ctx.exit(2)
    if not environment.is_demo(settings):
        output.say(NOT_THE_DEMO, err=True)
        ctx.exit(2)

    from etl_assets.deployments import resources
    from etl_assets.totesys.demo.simulator import go_on
    from etl_assets.totesys.demo.totesys import serve_totesys

    parent = os.getppid()
    with serve_totesys(Path(resources(settings)["source"].folder)) as url:
        for line in go_on(url, every):
            output.say(line)
            if with_parent and os.getppid() != parent:
                break
