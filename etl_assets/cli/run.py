"""`etl run`: the flow, or a part of it, in this process."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from etl_assets.cli import environment, output
from etl_assets.engine.printable import printable
from etl_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.cli.flow import Decisions, RunOutcome, RunPlan
    from etl_assets.presentation import Naming


@click.command()
@click.option(
    "--select",
    "selection",
    metavar="SELECTION",
    help="Only these assets, in Dagster's syntax: star/TABLE, 'star/* or raw/TABLE', +warehouse/TABLE (with all it needs).",
)
@click.option(
    "--allow-deletions",
    metavar="TABLE",
    multiple=True,
    help="Let more rows of a table be deleted than the deletion brake lets through; all: of every table. Repeatable.",
)
@click.option(
    "--allow-misfits",
    metavar="TABLE",
    multiple=True,
    help="Let more rows of a table be quarantined than the quarantine limit lets through; all: of every table. Repeatable.",
)
@click.option(
    "--whole",
    is_flag=True,
    help="Read whole tables and compare them, in the star and the warehouse too; mend what differs.",
)
@click.option(
    "--adopt",
    is_flag=True,
    help="Go on with another database than the lake was filled from, or an older state of it; read it whole.",
)
@click.option(
    "--sweep",
    is_flag=True,
    help="Compare the next part of each table whatever its row versions say, as the sweep does every night.",
)
@click.option(
    "--rebuild",
    metavar="TABLE",
    multiple=True,
    help="Make a star table anew from its first batch on. Repeatable.",
)
@click.option(
    "--replay",
    metavar="TABLE",
    multiple=True,
    help="Let a star table be made from more batches than ETL_REPLAY_BATCHES. Repeatable.",
)
@click.option(
    "--from-now",
    metavar="TABLE",
    multiple=True,
    help="Let a star table begin at the newest batch, and give up what it was before. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def run(
    ctx: click.Context,
    selection: str | None,
    allow_deletions: tuple[str, ...],
    allow_misfits: tuple[str, ...],
    whole: bool,
    adopt: bool,
    sweep: bool,
    rebuild: tuple[str, ...],
    replay: tuple[str, ...],
    from_now: tuple[str, ...],
    as_json: bool,
) -> None:
    """Bring lake and warehouse up to what the source is now.

    The run is one of the Dagster instance: the UI shows it like any other.
    """
    settings = environment.settings()
    environment.arrange_dagster_home(settings)

    from etl_assets.cli import flow, unchanged
    from etl_assets.cli.display import display

    decisions = flow.Decisions(
        allow_deletions, allow_misfits, whole, adopt, int(sweep), rebuild, replay, from_now
    )
    usual = selection is None and decisions == flow.Decisions()
    planned = None if usual else _planned(settings, selection, decisions)
    with environment.open_instance() as instance, unchanged.looking(settings, instance, usual) as look:
        outcome = look.nothing_to_do()
        if outcome is None:
            planned = planned or _planned(settings, selection, decisions)
            outcome = flow.run(
                planned, instance, display(), _with_part(decisions, instance, environment.naming(settings))
            )
            if not environment.project(settings).apis:  # pages may land between runs, which no source tells
                look.note(outcome)
    if as_json:
        output.emit_json(as_object(outcome))
    elif outcome.success:
        show(outcome)
    else:  # what failed may be for want of what was left out, and why that was is told here only
        _show_notices(outcome, err=True)
    conclude(ctx, outcome)


def _planned(settings: Settings, selection: str | None, decisions: "Decisions") -> "RunPlan":
    """The assets to make. Raises `UsageError` for options that name what there is not, or that fit no selected asset."""
    from etl_assets.cli import flow
    from etl_assets.definitions import definitions
    from etl_assets.raw.assets import GROUP as RAW
    from etl_assets.raw.brakes import EVERY

    project, naming = environment.project(settings), environment.naming(settings)
    allowed = (
        ("--allow-deletions", decisions.allow_deletions),
        ("--allow-misfits", decisions.allow_misfits),
    )
    for option, named in allowed:
        if unknown := sorted({*named} - {EVERY, *project.inputs.tables}):
            raise click.UsageError(
                f"{option} {', '.join(unknown)}: the tables are {', '.join(project.inputs.tables)}, or all"
            )
    for option, tables in (
        ("--rebuild", decisions.rebuild),
        ("--replay", decisions.replay),
        ("--from-now", decisions.from_now),
    ):
        if unknown := [t for t in tables if flow.table_name(t) not in project.star]:
            raise click.UsageError(f"{option} {', '.join(unknown)}: the tables are {', '.join(project.star)}")
    try:
        planned = flow.plan(definitions(settings), "etl", selection, naming)
    except flow.SelectionError as error:
        raise click.UsageError(f"--select {error}") from error
    for option, named in allowed:
        if named and RAW not in planned.stages:
            raise click.UsageError(f"{option} needs a selection that reads the source")
    if decisions.whole and not {"raw", "star", "warehouse"} & planned.stages.keys():
        raise click.UsageError("--whole needs a selection that has tables of raw, star or warehouse")
    if (decisions.adopt or decisions.sweep) and RAW not in planned.stages:
        raise click.UsageError(
            f"--{'adopt' if decisions.adopt else 'sweep'} needs a selection that reads the source"
        )
    return planned


def _with_part(decisions: "Decisions", instance: "dg.DagsterInstance", naming: "Naming") -> "Decisions":
    """The same with the part that is swept next, if one is to be."""
    from etl_assets.automation.sweep import next_part

    return replace(decisions, sweep=next_part(instance, naming)) if decisions.sweep else decisions


def conclude(ctx: click.Context, outcome: "RunOutcome") -> None:
    """Leave with the exit code and the one line that the outcome asks for."""
    if outcome.interrupted:
        raise KeyboardInterrupt
    if not outcome.success:
        if ctx.find_root().params["traceback"]:
            output.say("\n".join(outcome.traces), err=True)
        output.say(f"etl: {printable(str(outcome.error))}", err=True)
        ctx.exit(1)


def show(outcome: "RunOutcome") -> None:
    """What a run did, as tables."""
    if outcome.since:
        output.say("nothing changed: no batch was taken, and nothing was made")
        output.say(
            f"(nothing was committed in the source since run {outcome.since} read it; lake, warehouse and exports stand as it "
            "left them)"
        )
        output.say(f"\nrun {outcome.run_id}, {outcome.seconds:.2f} s")
        return
    changed = [made for made in outcome.captured if not made.unchanged]
    if changed:
        output.say(f"batch {outcome.batch}\n")
        output.table(
            ["table", "rows", "new", "changed", "deleted", "landed"],
            [(m.name, m.rows, m.new, m.changed, m.deleted, output.size(m.bytes)) for m in changed],
        )
        same = [made.name for made in outcome.captured if made.unchanged]
        if same:
            output.say(f"unchanged: {', '.join(same)}")
        output.say()
    elif outcome.captured:
        output.say("nothing changed: no batch was taken\n")
    output.table(
        ["stage", "assets", "brought up to date", "read", "seconds"],
        [
            (
                stage,
                len(made := [m for m in outcome.made if m.stage == stage]),
                sum(not m.unchanged for m in made),
                output.size(read) if (read := sum(m.bytes_read for m in made)) else "",
                seconds,
            )
            for stage, seconds in outcome.stage_seconds.items()
        ],
    )
    _show_notices(outcome)
    for check in outcome.failed_checks:
        output.say(f"check failed: {check}")
    output.say()
    if outcome.said:
        output.say(outcome.said)
    output.say(f"run {outcome.run_id}, {outcome.seconds:.2f} s")


def _show_notices(outcome: "RunOutcome", *, err: bool = False) -> None:
    """What a run did that is unusual, with the assets that it did it to."""
    noticed: dict[str, list[str]] = {}
    for one in outcome.made:
        if one.notice:
            noticed.setdefault(one.notice, []).append(one.key)
    for notice, keys in noticed.items():
        output.say(f"{', '.join(keys)}: {notice}", err=err)


def as_object(outcome: "RunOutcome") -> dict[str, Any]:
    """What a run did, for scripts."""
    told: dict[str, Any] = {
        "run_id": outcome.run_id,
        "success": outcome.success,
        "batch": outcome.batch,
        "said": outcome.said,
        "unchanged": outcome.unchanged,
        "seconds": round(outcome.seconds, 3),
        "stages": {stage: {"seconds": round(s, 3)} for stage, s in outcome.stage_seconds.items()},
        "tables": {
            made.name: {
                "rows": made.rows,
                "new": made.new,
                "changed": made.changed,
                "deleted": made.deleted,
                "bytes_read": made.bytes_read,
                "bytes": made.bytes,
                "seconds": made.seconds,
            }
            for made in outcome.captured
        },
        "failed_checks": outcome.failed_checks,
        "assets": {
            made.key: {"rows": made.rows, "unchanged": made.unchanged, "seconds": made.seconds}
            | ({"notice": made.notice} if made.notice else {})
            for made in outcome.made
        },
    }
    told |= {"unchanged_since": outcome.since} if outcome.since else {}
    return told | ({"error": outcome.error} if outcome.error else {})
