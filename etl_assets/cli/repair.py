"""`etl repair`: supersede landed files that are damaged or lost by what is still known of them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl_assets.lake.batches import Superseded
    from etl_assets.raw.repair import Damage


@click.command(short_help="Mend landed files that are damaged or lost, by what is still known.")
@click.option("--dry-run", is_flag=True, help="Only tell what is damaged.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def repair(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Read all landed files of the lake; those that are not what their manifests list are superseded, in a batch of its own.

    What a file held is taken from a copy of it, from the source (rows that have not changed since; the pages of an API) and
    from the folds of older batches that the lake keeps. What none of them has is lost, and is named. Then a run reads all
    tables whole, and makes the star tables anew that the damage may show in. Nothing is removed from the lake, and no API
    is asked.

    What is derived (folds, star, certificates, the warehouse) needs no repair: the next run makes it anew.
    """
    settings = environment.settings()
    environment.arrange_dagster_home(settings)

    from etl_assets.apis.repair import repair_pages
    from etl_assets.definitions import definitions
    from etl_assets.lake.batches import MAIN
    from etl_assets.raw import repair as repairing
    from etl_assets.raw.landing import CaptureRequest

    project = environment.project(settings)
    with environment.resources(settings, "lake", "source") as found:
        batches = found.lake.batches()
        latest = batches.latest()
        damaged = repairing.find_damage(batches, latest) if latest else []
        if dry_run or latest is None or not damaged:
            _tell_damage(damaged, as_json)
            ctx.exit(1 if damaged else 0)
        scratch = Path(found.lake.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        touched = {damage.table for damage in damaged}
        mended = list(repair_pages(project.apis, "repair", batches, scratch))
        if any(latest.tables[table].source == MAIN for table in touched):
            tables = [table for name, table in project.tables.items() if name in touched]
            request = CaptureRequest(found.source.address(), tables, run_id="repair", quarantine_limit=1)
            mended += repairing.repair(request, batches, scratch)
    if not as_json:
        _tell(damaged, mended)

    from etl_assets.cli import flow
    from etl_assets.cli.display import display
    from etl_assets.cli.run import conclude, show

    star = [name for name in project.star if touched.intersection(project.inputs.sources(name))]
    job = "etl" if project.tables else "derive"  # without a database nothing is captured
    decisions = flow.Decisions(
        whole=True, rebuild=star, allow_deletions=sorted(touched & project.tables.keys())
    )
    with environment.open_instance() as instance:
        outcome = flow.run(
            flow.plan(definitions(settings), job, None, environment.naming(settings)),
            instance,
            display(),
            decisions,
        )
    if as_json:
        told = [s.model_dump(mode="json") for s in mended]
        output.emit_json({"superseded": told, "run_id": outcome.run_id, "success": outcome.success})
    elif outcome.success:
        show(outcome)
    conclude(ctx, outcome)


def _tell_damage(damaged: "Sequence[Damage]", as_json: bool) -> None:
    if as_json:
        output.emit_json({"damaged": [{"file": d.file.path, "what": d.what} for d in damaged]})
    elif damaged:
        output.table(
            ["table", "file", "rows", "what is wrong"],
            [(d.table, d.file.path, d.file.rows, d.what) for d in damaged],
        )
    else:
        output.say("nothing to repair: every landed file is what its manifest lists")


def _tell(damaged: "Sequence[Damage]", superseded: "Sequence[Superseded]") -> None:
    """What became of each file, and which rows are lost."""
    by_path = {one.path: one for one in superseded}
    output.table(
        ["table", "file", "what is known"],
        [(d.table, d.file.path, by_path[d.file.path].reason) for d in damaged if d.file.path in by_path],
    )
    for damage in damaged:
        lost = by_path[damage.file.path].lost if damage.file.path in by_path else ()
        if lost:
            more = f" and {len(lost) - 20:,} more" if len(lost) > 20 else ""
            output.say(f"lost for good, of {damage.table}: the rows with key {'; '.join(lost[:20])}{more}")
    output.say()
