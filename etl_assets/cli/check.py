"""`etl check`: is the project right, as far as that can be said without a source?"""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output
from etl_assets.settings import Settings, warehouse_engine

if TYPE_CHECKING:
    from etl_assets.project import Project, Slip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Load the project that ETL_PROJECT names, try its functions on empty tables and its reports over an empty star, and tell
    every slip: the file and line, what is wrong, and what to write instead. No source is asked, nothing is written. Ends
    with 1 if there is any."""
    settings = environment.settings()

    from etl_assets.project import ProjectError, Slip

    slips: list[Slip] = []
    try:
        project = environment.project(settings)
        slips = list(_of_reports(project, settings))
    except ProjectError as error:
        slips = list(error.slips)
    if as_json:
        told = [{"where": slip.where, "what": slip.what} for slip in slips]
        output.emit_json({"right": not slips, "slips": told})
    elif slips:
        for slip in slips:
            output.say(str(slip))
    else:
        output.say(
            f"{project.name} is right: {output.count(len(project.tables), 'table', 'tables')} read, "
            + (f"{output.count(len(project.apis), 'API', 'APIs')} called, " if project.apis else "")
            + f"{output.count(len(project.star), 'star table', 'star tables')}, "
            f"{output.count(len(project.reports), 'report', 'reports')}{_steps(project)} ({project.root})"
        )
    if slips:
        ctx.exit(1)


def _of_reports(project: "Project", settings: Settings) -> "Iterator[Slip]":
    """The slips of reports that show when they are tried, in the dialect of the warehouse that they are for."""
    if not project.reports or warehouse_engine(settings.warehouse_url) != "duckdb":
        return

    from etl_assets.exports.trial import tried
    from etl_assets.project.contract import Slip, at

    schemas = {name: one.schema for name, one in project.star.items()}
    for report, told in tried(project.reports.values(), schemas):
        yield Slip(at(report.where), told)


def _steps(project: "Project") -> str:
    """How many steps there are, and which settings of theirs are not set."""
    if not project.steps:
        return ""
    told = f", {output.count(sum(len(group.steps) for group in project.steps.values()), 'step', 'steps')}"
    lacking = missing_settings(project, os.environ)
    return told + (f" that need {', '.join(lacking)} to be set" if lacking else "")


def missing_settings(project: "Project", environment: Mapping[str, str]) -> list[str]:
    """The settings that steps of a project need and that are not there."""
    from etl_assets.steps.running import missing

    found = [name for group in project.steps.values() for name in missing(group, group.by_name, environment)]
    return list(dict.fromkeys(found))
