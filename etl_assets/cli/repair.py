"""`etl repair`: supersede landed files that are damaged or lost by what is still known of them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etl_assets.apis.declaration import Api
    from etl_assets.apis.page_repair import DamagedFile, MendedPages
    from etl_assets.lake.batches import Batches
    from etl_assets.lake.manifest import Superseded
    from etl_assets.raw.repair import Damage


@click.command(short_help="Mend landed files that are damaged or lost, by what is still known.")
@click.option("--dry-run", is_flag=True, help="Only tell what is damaged.")
@click.option("--no-fetch", is_flag=True, help="Ask no API, whatever pages are lost.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def repair(ctx: click.Context, dry_run: bool, no_fetch: bool, as_json: bool) -> None:
    """Read all landed files of the lake; those that are not what was landed are superseded, in a batch of its own.

    What a file held is taken from a copy of it, from the source (rows that have not changed since; the pages of an API) and
    from the folds of older batches that the lake keeps. What none of them has is lost, and is named. Then a run reads all
    tables whole, and makes the star tables anew that the damage may show in. Nothing is removed from the lake. Windows of APIs of
    which pages are lost are fetched anew, and no others; rows that the API does not give again stay as they were, and are named.

    What is derived (folds, star, certificates, the warehouse) needs no repair: the next run makes it anew.
    """
    settings = environment.settings()
    environment.arrange_dagster_home(settings)

    from etl_assets.apis.page_repair import MendedPages, find_damaged_pages, repair_damaged_pages
    from etl_assets.apis.repair import repair_pages
    from etl_assets.definitions import definitions
    from etl_assets.lake.batches import Batches
    from etl_assets.lake.manifest import MAIN
    from etl_assets.proof.forecast import check_lake
    from etl_assets.raw import repair as repairing
    from etl_assets.raw.request import CaptureRequest

    project = environment.project(settings)
    with environment.resources(settings, "lake", "source") as found:
        batches = found.lake.batches()
        check_lake(batches, project.name)  # else its tables would be mended without their source
        latest = batches.latest()
        damaged = repairing.find_damage(batches, latest) if latest else []
        pages = find_damaged_pages(project.apis, batches)
        if dry_run or not damaged + pages:
            _tell_damage(damaged, pages, as_json)
            ctx.exit(1 if damaged or pages else 0)
        scratch = Path(found.lake.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        touched = {damage.table for damage in damaged}
        of_pages = repair_damaged_pages(project.apis, "repair", batches, scratch) if pages else MendedPages()
        mended = [
            *of_pages.superseded,
            *repair_pages(project.apis, "repair", Batches(batches.files), scratch),
        ]
        if latest and any(latest.tables[table].source == MAIN for table in touched):
            tables = [table for name, table in project.tables.items() if name in touched]
            request = CaptureRequest(found.source.address(), tables, run_id="repair", quarantine_limit=1)
            mended += repairing.repair(request, batches, scratch)
    if not as_json:
        _tell(damaged, pages, mended)

    from etl_assets.cli import flow
    from etl_assets.cli.display import display
    from etl_assets.cli.run import conclude, show

    defs, naming = definitions(settings), environment.naming(settings)
    failed = []
    star = [name for name in project.star if touched.intersection(project.inputs.sources(name))]
    job = "etl" if project.tables and touched else "derive"  # without a database nothing is captured
    decisions = flow.Decisions(
        whole=bool(touched), rebuild=star, allow_deletions=sorted(touched & project.tables.keys())
    )
    with environment.open_instance() as instance:
        for name, window in () if no_fetch else of_pages.lacking:
            planned = flow.plan(defs, "etl", f"source/{name}", naming)
            windows = project.apis[name].windows
            asked = flow.Decisions(api=name, window=window if windows else "")
            fetched = flow.run(planned, instance, display(), asked)
            if not fetched.success:
                failed.append(fetched)
        outcome = flow.run(flow.plan(defs, job, None, naming), instance, display(), decisions)
    apart = _without_page(project.apis, of_pages, Batches(batches.files), scratch)
    if as_json:
        told = [s.model_dump(mode="json") for s in mended]
        success = outcome.success and not failed
        windows_lacking = [{"api": name, "window": window} for name, window in of_pages.lacking]
        output.emit_json(
            {
                "superseded": told,
                "lacking": windows_lacking,
                "without_page": apart,
                "run_id": outcome.run_id,
                "success": success,
            }
        )
    elif outcome.success:
        show(outcome)
    for name, keys in apart.items() if not as_json else ():
        output.say(
            f"rows of {name} that stay as they were loaded, and of which no page tells any more: {len(keys):,}, key {_named(keys)}"
        )
    for one in (*failed, outcome):
        conclude(ctx, one)


def _without_page(
    apis: "Mapping[str, Api]", of_pages: "MendedPages", batches: "Batches", scratch: Path
) -> "dict[str, list[str]]":
    """API -> the keys of rows that no page tells of any more, of APIs whose pages were lost."""
    from etl_assets.apis.page_repair import rows_without_page

    names = dict.fromkeys(name for name, _ in of_pages.lacking)
    found = {name: rows_without_page(apis[name], batches, scratch) for name in names}
    return {name: [", ".join(key) for key in keys] for name, keys in found.items() if keys}


def _tell_damage(damaged: "Sequence[Damage]", pages: "Sequence[DamagedFile]", as_json: bool) -> None:
    if as_json:
        told = [*((d.file.path, d.what) for d in damaged), *((d.file.path, d.what) for d in pages)]
        output.emit_json({"damaged": [{"file": path, "what": what} for path, what in told]})
    elif damaged or pages:
        output.table(
            ["table", "file", "rows", "what is wrong"],
            [
                *((d.table, d.file.path, f"{d.file.rows:,}", d.what) for d in damaged),
                *((d.take.api, d.file.path, f"{d.file.pages:,} pages", d.what) for d in pages),
            ],
        )
    else:
        output.say("nothing to repair: every landed file is what its manifest lists")


def _tell(
    damaged: "Sequence[Damage]", pages: "Sequence[DamagedFile]", superseded: "Sequence[Superseded]"
) -> None:
    """What became of each file, and which rows are lost."""
    by_path = {one.path: one for one in superseded}
    waits = "waits to be loaded, and is fetched anew"
    output.table(
        ["table", "file", "what is known"],
        [
            *((d.table, d.file.path, by_path[d.file.path].reason) for d in damaged if d.file.path in by_path),
            *(
                (d.take.api, d.file.path, one.reason if (one := by_path.get(d.file.path)) else waits)
                for d in pages
            ),
        ],
    )
    for damage in damaged:
        lost = by_path[damage.file.path].lost if damage.file.path in by_path else ()
        if lost:
            output.say(f"lost for good, of {damage.table}: the rows with key {_named(lost)}")
    output.say()


def _named(keys: "Sequence[str]") -> str:
    more = f" and {len(keys) - 20:,} more" if len(keys) > 20 else ""
    return f"{'; '.join(keys[:20])}{more}"
