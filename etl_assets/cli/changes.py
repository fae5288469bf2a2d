"""`etl changes`: what is new, changed and removed between two runs."""

from typing import TYPE_CHECKING, Any

import click

from etl_assets.cli import environment, output

if TYPE_CHECKING:
    from etl_assets.automation.changes import Difference, ModelChanges
    from etl_assets.automation.runs import Run


@click.command()
@click.argument("runs", metavar="[RUN RUN]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def changes(runs: tuple[str, ...], as_json: bool) -> None:
    """Show which models and which data changed from one run to another.

    Models are the code of assets, and the files that are observed (reference files, and those that ETL_MODELS names).
    RUN is a run's id, or as much of its beginning as tells it from others, the earlier run first. Without, the last
    two successful runs of the whole flow are compared.

    \b
    Exit codes:
      0  they were compared, whether something changed or not
      1  an error, for instance an unknown run
      3  there are no two successful runs yet
    """
    if len(runs) not in (0, 2):
        raise click.UsageError("give two runs, or none for the last two successful ones")
    settings = environment.settings()
    if environment.dagster_home(settings) is None and not runs:
        output.nothing_yet("no two successful runs yet: there was no run at all")
    environment.arrange_dagster_home(settings)

    from etl_assets.automation.changes import changes as compare
    from etl_assets.automation.runs import find, last_successes

    with environment.open_instance() as instance:
        naming = environment.naming(settings)
        compared = [find(instance, run, naming) for run in runs] or last_successes(instance, 2, naming)[::-1]
        if len(compared) < 2:
            output.nothing_yet(f"no two successful runs of the whole flow yet, but {len(compared)}")
        before, after = compared
        found = compare(before, after)
    if found.partial:
        output.say("one of them made only a part: what the other one alone made is left out", err=True)
    if as_json:
        output.emit_json(_as_object(before, after, found))
        return
    _show(found)


def _as_object(before: "Run", after: "Run", found: "ModelChanges") -> dict[str, Any]:
    def told(difference: "Difference") -> dict[str, Any]:
        return {
            "new": list(difference.new),
            "changed": list(difference.changed),
            "removed": list(difference.removed),
        }

    return {
        "before": before.as_object(),
        "after": after.as_object(),
        "partial": found.partial,
        "code": told(found.code),
        "files": told(found.files),
        "data": told(found.data),
    }


def _show(found: "ModelChanges") -> None:
    rows = [
        (change, kind, name)
        for kind, difference in (("code", found.code), ("file", found.files), ("data", found.data))
        for change in ("new", "changed", "removed")
        for name in getattr(difference, change)
    ]
    if rows:
        output.table(["change", "of", "name"], rows)
    else:
        output.say("nothing changed")
