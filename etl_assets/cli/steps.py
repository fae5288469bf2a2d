"""`etl steps`: the groups of steps of the project, and a run of one of them with its parameters."""

import os
from typing import TYPE_CHECKING, Any

import click

from etl_assets.cli import environment, output
from etl_assets.cli.run import conclude

if TYPE_CHECKING:
    from etl_assets.cli.flow import RunOutcome
    from etl_assets.project import Parameter, Steps


@click.command()
@click.argument("group", required=False)
@click.option(
    "--set", "given", metavar="NAME=VALUE", multiple=True, help="The value of a parameter. Repeatable."
)
@click.option("--partition", metavar="KEY", help="The partition, of a group that has some: 2026-01-01.")
@click.option(
    "--step", "chosen", metavar="STEP", multiple=True, help="Only this step of the group. Repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def steps(
    ctx: click.Context,
    group: str | None,
    given: tuple[str, ...],
    partition: str | None,
    chosen: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a GROUP of steps of the project; without one, list the groups with their steps and parameters.

    The run is one of the Dagster instance: the UI shows it like any other.
    """
    settings = environment.settings()
    groups = environment.project(settings).steps
    if group is None:
        _list(list(groups.values()), as_json)
        return
    if group not in groups:
        raise click.UsageError(f"there is no group {group}; there are {', '.join(groups) or 'none'}")
    found = groups[group]
    config = _values(found, given, chosen)
    if unknown := sorted({*chosen} - {*found.by_name}):
        raise click.UsageError(f"--step {', '.join(unknown)}: the steps are {', '.join(found.by_name)}")
    if bool(found.partitions) != bool(partition):
        raise click.UsageError(f"{group} {'needs' if found.partitions else 'has no'} --partition")
    outcome = _run(settings, found, config, partition, chosen)
    if as_json:
        output.emit_json(_as_object(outcome))
    elif outcome.success:
        output.table(
            ["step", "rows", "seconds"],
            [(made.name, "" if made.rows is None else made.rows, made.seconds) for made in outcome.made],
        )
        output.say(f"\nrun {outcome.run_id}, {outcome.seconds:.2f} s")
    conclude(ctx, outcome)


def _run(
    settings: Any, group: "Steps", config: dict[str, Any], partition: str | None, chosen: tuple[str, ...]
) -> "RunOutcome":
    environment.arrange_dagster_home(settings)

    from etl_assets.cli import flow
    from etl_assets.cli.display import display
    from etl_assets.definitions import definitions
    from etl_assets.steps.assets import operation

    naming = environment.naming(settings)
    selection = " or ".join(f"{group.name}/{name}" for name in chosen) or None
    planned = flow.plan(definitions(settings), group.name, selection, naming)
    with environment.open_instance() as instance:
        return flow.run(
            planned,
            instance,
            display(),
            ops={naming.name(operation(group)): {"config": config}} if config else {},
            partition=partition,
        )


def _values(group: "Steps", given: tuple[str, ...], chosen: tuple[str, ...]) -> dict[str, Any]:
    """What is given on the command line, as Dagster's configuration has it. All that is wrong is one error."""
    from etl_assets.steps.parameters import ParameterError
    from etl_assets.steps.running import missing

    found: dict[str, Any] = {}
    wrong: list[str] = []
    for one in given:
        name, separator, text = one.partition("=")
        parameter = group.known.get(name)
        if not separator or parameter is None or parameter.partition:
            names = [p.name for p in group.parameters if not p.partition]
            wrong.append(f"--set {one}: write NAME=VALUE; the parameters are {', '.join(names) or 'none'}")
            continue
        try:
            value = parameter.read(text)
        except ParameterError as error:
            wrong.append(f"--set {one}: {error}")
            continue
        found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    named = {one.partition("=")[0] for one in given}
    if lacking := [p.name for p in group.parameters if p.is_required and p.name not in named]:
        wrong.append(f"{group.name} must be told {', '.join(f'--set {name}=…' for name in lacking)}")
    if unset := missing(group, chosen or group.by_name, os.environ) if wrong else []:
        wrong.append(f"{', '.join(unset)} must be set")
    if wrong:
        raise click.UsageError("; ".join(wrong))
    return found


def _list(groups: "list[Steps]", as_json: bool) -> None:
    if as_json:
        output.emit_json({"groups": [_described(group) for group in groups]})
        return
    if not groups:
        output.say("the project declares no steps (docs/steps.md)")
    for group in groups:
        output.say(f"{group.name}: {group.description}")
        output.table(["step", "what it is"], [(one.name, one.description) for one in group.steps])
        if group.parameters:
            output.say()
            output.table(
                ["parameter", "type", "default", "what it says"],
                [(one.name, one.type, _default(one), one.description) for one in group.parameters],
            )
        output.say()


def _default(one: "Parameter") -> str:
    if one.partition:
        return f"the partition's {one.partition}"
    return "must be said" if one.is_required else "" if one.default is None else str(one.default)


def _described(group: "Steps") -> dict[str, Any]:
    return {
        "group": group.name,
        "description": group.description,
        "steps": [
            {"step": one.name, "description": one.description, "needs": group.needs[one.name]}
            for one in group.steps
        ],
        "parameters": [
            {
                "parameter": one.name,
                "type": one.type,
                "description": one.description,
                "default": None if one.default is None else str(one.default),
                "required": one.is_required,
            }
            for one in group.parameters
        ],
    }


def _as_object(outcome: "RunOutcome") -> dict[str, Any]:
    told: dict[str, Any] = {
        "run_id": outcome.run_id,
        "success": outcome.success,
        "seconds": round(outcome.seconds, 3),
        "steps": {made.name: {"rows": made.rows, "seconds": made.seconds} for made in outcome.made},
    }
    return told | ({"error": outcome.error} if outcome.error else {})
