"""`etl fetch`: the windows of APIs that are due, one after the other, and what is made of them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output
from etl_assets.cli.run import as_object, conclude, show

if TYPE_CHECKING:
    from etl_assets.apis.declaration import Api
    from etl_assets.cli.flow import RunOutcome


@click.command(short_help="Fetch the windows of APIs that are due, and load them.")
@click.argument("names", metavar="[API]...", nargs=-1)
@click.option(
    "--window",
    "windows",
    metavar="DAY",
    multiple=True,
    help="This window of the API, by its first day. Repeatable.",
)
@click.option("--again", is_flag=True, help="Fetch a window anew though its pages wait to be loaded.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="So many windows of each API at the most, oldest first."
)
@click.option("--only-pages", is_flag=True, help="Land the pages, and load nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def fetch(
    ctx: click.Context,
    names: tuple[str, ...],
    windows: tuple[str, ...],
    again: bool,
    limit: int | None,
    only_pages: bool,
    as_json: bool,
) -> None:
    """Fetch what is due of all APIs, or of those named: every window that is over and whose pages have not all landed, one
    after the other, each as a run of its own. Then load the pages, and bring star, warehouse and exports up to them.

    What has landed is never fetched twice: a window goes on from its last page that did. A window that is fetched again is
    compared with what is held.
    """
    settings = environment.settings()
    environment.arrange_dagster_home(settings)

    from etl_assets.apis.due import due
    from etl_assets.cli import flow
    from etl_assets.cli.display import display
    from etl_assets.definitions import definitions
    from etl_assets.lake.opening import open_files

    project, naming = environment.project(settings), environment.naming(settings)
    apis = _chosen(project.apis, names)
    if windows and len(apis) != 1:
        raise click.UsageError("--window is one of an API: name the API")
    wanted = [(api, window) for api in apis for window in _named(api, windows)]
    if not windows:
        files, now = open_files(settings.lake_url, settings.data / "cache"), datetime.now(UTC)
        wanted = [(api, window) for api in apis for window in list(due(api, files, now))[:limit]]
    defs = definitions(settings)
    outcomes: list[tuple[str, str, RunOutcome]] = []
    with environment.open_instance() as instance:
        for api, window in wanted:
            planned = flow.plan(defs, "etl", f"source/{api.name}", naming)
            decisions = flow.Decisions(again=again, window=window if api.windows else "", api=api.name)
            outcome = flow.run(planned, instance, display(), decisions)
            outcomes.append((api.name, window, outcome))
            if not as_json:
                _tell(api.name, window, outcome)
            if not outcome.success:
                break
        failed = next((outcome for _, _, outcome in outcomes if not outcome.success), None)
        loaded = None
        if not only_pages and not (failed and failed.interrupted):
            loaded = flow.run(flow.plan(defs, "derive", None, naming), instance, display())
    if as_json:
        output.emit_json(
            {
                "windows": [
                    {"api": name, "window": window} | as_object(outcome) for name, window, outcome in outcomes
                ],
                "loaded": loaded and as_object(loaded),
            }
        )
    else:
        if not outcomes:
            output.say("no window is due")
        if loaded and loaded.success:
            show(loaded)
    for one in (failed, loaded):
        if one is not None:
            conclude(ctx, one)


def _chosen(apis: "Mapping[str, Api]", names: tuple[str, ...]) -> "list[Api]":
    if not apis:
        raise click.UsageError("the project declares no API (docs/apis.md)")
    if unknown := [name for name in names if name not in apis]:
        raise click.UsageError(f"there is no API {unknown[0]}; there are {', '.join(apis)}")
    return [api for name, api in apis.items() if not names or name in names]


def _named(api: "Api", windows: tuple[str, ...]) -> list[str]:
    """The windows that somebody named. Raises `click.UsageError` for one that there is not."""
    if windows and api.windows is None:
        raise click.UsageError(f"{api.name} has no windows: it is fetched whole")
    try:
        return [api.windows.named(window).name for window in windows] if api.windows else []
    except ValueError as error:
        raise click.UsageError(f"--window: {error}") from error


def _tell(name: str, window: str, outcome: "RunOutcome") -> None:
    for made in outcome.made:
        told = "waits to be loaded, nothing was asked" if made.unchanged else f"{made.rows:,} records"
        output.say(f"{name} {window}: {told}, {outcome.seconds:.2f} s")
