"""`etl plan`: what the next run would do, and why."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output

if TYPE_CHECKING:
    from etl_assets.proof.forecast import Ask, Make, Read


@click.command(short_help="What the next run would do, and why, without doing it.")
@click.option("--whole", is_flag=True, help="As for etl run --whole.")
@click.option(
    "--offline", is_flag=True, help="Leave the source alone: only what code and landed batches mean."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def plan(ctx: click.Context, whole: bool, offline: bool, as_json: bool) -> None:
    """Say what `etl run` would do now, without doing it: how each table is read and why, how many rows were written since,
    what of the star, the warehouse and the reports is made anew because of code, contract or data, and what the warehouse
    loses by it. What the run would refuse is refused here, too: exit code 1.

    Rows that were written need not differ, and rows that are deleted are counted by the run.
    """
    settings = environment.settings()

    from etl_assets.proof import forecast

    project = environment.project(settings)
    names = ["lake", "warehouse", *([] if offline else ["source"])]
    with environment.resources(settings, *names) as found:
        batches = found.lake.batches()
        forecast.check_lake(batches, project.name)
        tables = list(project.tables.values())
        reads = (
            []
            if offline or not tables
            else list(
                forecast.reads(
                    found.source.address(), tables, batches, whole=whole, one_history=settings.one_history
                )
            )
        )
        stopped = list(forecast.braked(reads, found.source.deletion_brake)) if reads else []
        asks = list(forecast.asks(list(project.apis.values()), batches, datetime.now(UTC)))
        changing = {read.table: _expected(read) for read in reads if read.changes}
        changing |= {ask.api: f"{ask.waiting:,} windows wait to be loaded" for ask in asks if ask.waiting}
        latest = batches.latest()
        if found.warehouse.exists:
            with found.warehouse.glancing() as reader:
                forecast.check_warehouse(found.warehouse, reader, latest, project.name)
        if latest is None:
            makes = [forecast.Make(name, "anew", "the lake is empty") for name in project.star]
            loads = list(makes)
        else:
            with found.lake.open(project.inputs) as bench:
                makes = list(forecast.makes(bench.builder, bench.manifest, changing, found.lake.most_batches))
                held = found.warehouse.held()
                if found.warehouse.exists:
                    with found.warehouse.glancing() as reader:
                        loads = list(forecast.loads(bench.builder, makes, held, reader))
                else:
                    loads = list(forecast.loads(bench.builder, makes, held, None))
    read_by = {
        name: sorted({*query.tables, *(control.tables if control else [])})
        for name, (query, control) in project.queries.items()
    }
    reports = list(forecast.reports(read_by, loads))
    waiting = [make for make in makes if make.what == "waits"]
    if as_json:
        output.emit_json(
            {
                "reads": [vars(read) for read in reads],
                "apis": [vars(ask) for ask in asks],
                "star": [vars(make) for make in makes],
                "warehouse": [vars(make) for make in loads],
                "reports": [vars(make) for make in reports],
                "stopped": [*stopped, *(make.why for make in waiting)],
            }
        )
    else:
        _show(reads, asks, {"star": makes, "warehouse": loads, "report": reports})
    if stopped:
        output.say(f"etl: the run would stop: {'; '.join(stopped)}", err=True)
    for one in waiting:
        output.say(f"etl: {one.why}", err=True)
    if stopped or waiting:
        ctx.exit(1)


def _show(reads: "Sequence[Read]", asks: "Sequence[Ask]", made: "Mapping[str, Sequence[Make]]") -> None:
    if reads:
        output.table(
            ["table", "read", "rows", "held", "written since", "why"],
            [
                (
                    r.table,
                    r.read,
                    r.rows,
                    "" if r.held is None else r.held,
                    "all compared" if r.written is None else r.written,
                    r.why,
                )
                for r in reads
            ],
        )
        output.say()
    if asks:
        output.table(
            ["API", "wait to be loaded", "due (etl fetch)", "calls at least"],
            [(ask.api, ask.waiting, ask.due, ask.due) for ask in asks],
        )
        output.say()
    for title, these in made.items():
        if not these:
            continue
        output.table([title, "would be", "why"], [_row(make) for make in these])
        output.say()


def _row(make: "Make") -> tuple[str, str, str]:
    told = {
        "nothing": "left as it is",
        "waits": "left as it is",
        "update": "brought up to date",
        "anew": "made anew",
    }
    return make.table, told[make.what], make.why


def _expected(read: "Read") -> str:
    if read.held is None:
        return "read for the first time"
    if read.written is None:
        return "read whole and compared"
    gone = f", {read.held - read.rows:,} rows fewer" if read.rows < read.held else ""
    return f"{read.written:,} rows written{gone}"
