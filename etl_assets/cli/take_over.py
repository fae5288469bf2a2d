"""`etl take-over`: begin a lake with what an older pipeline kept."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output

if TYPE_CHECKING:
    from etl_assets.raw.take_over import Taken


@click.command("take-over", short_help="Begin a lake with what an older pipeline kept.")
@click.argument("url")
@click.option(
    "--without", multiple=True, metavar="TABLE", help="Leave a table out; the next run reads it whole."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def take_over(url: str, without: tuple[str, ...], as_json: bool) -> None:
    """Take over what an older pipeline kept at URL as the first batch of a new lake.

    URL is a folder, s3://bucket/prefix or gs://bucket/prefix. It holds whole tables as CSV with a header, as Python or
    pandas write it:

    \b
    input_csv_key/<table>.csv      exported, and not yet processed
    processed_csv_key/<table>.csv  moved there afterwards

    A table's latest content is the first of these that there is. Nothing is changed there. Keys and types come from the
    source, so it must be reachable; no row of it is read. The next run reads every table whole, compares, and lands the
    differences.
    """
    settings = environment.settings()

    from etl_assets.lake.names import number
    from etl_assets.raw import take_over as taking
    from etl_assets.raw.request import CaptureRequest

    project = environment.project(settings)
    if unknown := set(without) - set(project.tables):
        raise click.UsageError(f"no table is declared as {', '.join(sorted(unknown))}")
    tables = [table for name, table in project.tables.items() if name not in without]
    with environment.resources(settings, "lake", "source") as found:
        old = taking.find(url, tables, Path(found.lake.cache))
        scratch = Path(found.lake.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        request = CaptureRequest(found.source.address(), tables, run_id="takeover", quarantine_limit=1)
        manifest, taken = taking.take_over(old, request, found.lake.batches(), scratch)
    missing = [*without, *old.missing]
    if as_json:
        told = {t.table.name: {"rows": t.rows, "file": t.table.path, "run": t.table.run} for t in taken}
        output.emit_json(
            {
                "from": old.files.url,
                "lake": settings.lake_url,
                "batch": number(manifest.batch),
                "tables": told,
                "not_taken_over": missing,
                "other_files": list(old.others),
            }
        )
        return
    output.table(
        ["table", "rows", "file", "run", "columns"],
        [(t.table.name, t.rows, t.table.path, t.table.run, _columns(t)) for t in taken],
    )
    output.say(
        f"\nbatch {number(manifest.batch)} of {settings.lake_url} holds what was kept in {old.files.url}, which stays as it is"
    )
    if missing:
        output.say(f"read from the source by the next run: {', '.join(missing)}")
    if old.others:
        output.say(f"not of a declared table: {', '.join(old.others)}")
    output.say("Now: etl run reads every table whole and lands what is different")


def _columns(taken: "Taken") -> str:
    told = [f"not in the source: {', '.join(taken.dropped)}"] if taken.dropped else []
    told += [f"not in the file: {', '.join(taken.lacking)}"] if taken.lacking else []
    return "; ".join(told) or "all"
