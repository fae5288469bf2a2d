"""`etl check`: is the project right, as far as that can be said without a source?"""

import click

from etl_assets.cli import environment, output


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Load the project that ETL_PROJECT names, try its functions on empty tables, and tell every slip: the file and line,
    what is wrong, and what to write instead. No source is asked, nothing is written. Ends with 1 if there is any."""
    settings = environment.settings()

    from etl_assets.project import ProjectError, Slip

    slips: list[Slip] = []
    try:
        project = environment.project(settings)
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
            f"{output.count(len(project.reports), 'report', 'reports')} ({project.root})"
        )
    if slips:
        ctx.exit(1)
