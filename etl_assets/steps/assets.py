"""A group of steps as assets of Dagster: one per step, made by one operation, so that a session is theirs alone and shared.

An asset per operation would do for an executor that runs all in one process; where each operation is a process, a temporary
table would be gone before the next one asks. Here it holds for any executor.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

from etl_assets.engine.preview import markdown
from etl_assets.errors import SettingsError
from etl_assets.presentation import PLAIN, Naming, time_partitions
from etl_assets.steps import credentials
from etl_assets.steps.contract import Picture, Step
from etl_assets.steps.functions import FunctionStep
from etl_assets.steps.group import Steps
from etl_assets.steps.parameters import Parameter, ParameterError, Part, Partitions, Value, values
from etl_assets.steps.resource import StepSurroundings
from etl_assets.steps.running import Done, Failed, StepsFailed, missing, run

_CONFIGURED = {"int": dg.Int, "bigint": dg.Int, "double": dg.Float, "boolean": dg.Bool}


def operation(group: Steps) -> str:
    """The name of the operation that runs a group: its configuration has the parameters."""
    return f"{group.name}_steps"


def step_assets(
    groups: Sequence[Steps], star: Sequence[str], naming: Naming = PLAIN
) -> list[dg.AssetsDefinition]:
    """The assets of groups of steps, over a star."""
    return [_assets(group, star, naming) for group in groups]


def step_jobs(
    groups: Sequence[Steps], naming: Naming = PLAIN, executor: dg.ExecutorDefinition | None = None
) -> list[Any]:
    """A job per group that runs it whole; None: as the code location runs jobs."""
    return [
        dg.define_asset_job(
            naming.name(group.name),
            selection=dg.AssetSelection.groups(naming.name(group.name)),
            description=group.description,
            executor_def=executor,
        )
        for group in groups
    ]


def _assets(group: Steps, star: Sequence[str], naming: Naming) -> dg.AssetsDefinition:
    specs = [_spec(group, one, star, naming) for one in group.steps]

    @dg.multi_asset(
        name=naming.name(operation(group)),
        description=group.description,
        specs=specs,
        can_subset=True,
        partitions_def=partitions(group.partitions) if group.partitions else None,
        config_schema={one.name: _field(group, one) for one in group.parameters if not one.partition},
    )
    @naming.resources
    def made(context: dg.AssetExecutionContext, steps: StepSurroundings) -> Iterator[dg.MaterializeResult]:
        selected = {key.path[-1] for key in context.selected_asset_keys}
        part = _part(context) if group.partitions else None
        told = _told(group, selected, context.op_execution_context.op_config or {}, part)
        work = steps.work(group, told, part.key if part else "", context.run.run_id)
        try:
            for outcome in run(group, selected, work):
                if isinstance(outcome, Done):
                    yield _result(naming.key(group.name, outcome.step.name), outcome)
                elif isinstance(outcome, Failed):
                    context.log.error(f"{outcome}\n{outcome.stack}")
                else:
                    context.log.warning(str(outcome))
        except StepsFailed as error:
            raise dg.Failure(str(error), metadata=_failures(error), allow_retries=True) from None

    return made


def _told(
    group: Steps, selected: Collection[str], given: Mapping[str, object], part: Part | None
) -> Mapping[str, Value]:
    """The values of the parameters. Raises `SettingsError` that names all that a run lacks, and all that is wrong."""
    needed = [*missing(group, selected, os.environ), *credentials.lacking(group, selected)]
    wrong = [f"{', '.join(needed)} must be set"] if needed else []
    try:
        found = values(group.parameters, given, part)
    except ParameterError as error:
        wrong.append(str(error))
    if wrong:
        raise SettingsError(f"{group.name}: {'; '.join(wrong)}; nothing was run")
    return found


def _spec(group: Steps, one: Step, star: Sequence[str], naming: Naming) -> dg.AssetSpec:
    also = one.also if isinstance(one, FunctionStep) else frozenset()
    read = [naming.key("warehouse", table) for table in one.star_tables(star)]
    named = [dg.AssetKey(key.split("/")) for key in one.deps]
    return dg.AssetSpec(
        naming.key(group.name, one.name),
        deps=[
            *(naming.key(group.name, name) for name in group.needs[one.name]),
            *dict.fromkeys([*read, *named]),
        ],
        description=one.description,
        group_name=naming.name(group.name),
        kinds={*one.kinds, *also},
        owners=naming.owners,
        code_version=one.code_version,
        metadata={name: dg.MetadataValue.md(text) for name, text in one.shown().items()},
    )


def _field(group: Steps, one: Parameter) -> dg.Field:
    """A parameter in the launchpad."""
    kind: Any = _CONFIGURED.get(one.kind.name, dg.String)
    if one.one_of:
        kind = dg.Enum(f"{group.name}_{one.name}", [dg.EnumValue(text) for text in one.one_of])
    default: dict[str, Any] = {"default_value": None} if one.kind.nullable else {}
    if one.default is not None:
        plain = isinstance(one.default, str | int | float)
        default = {"default_value": one.default if plain else str(one.default)}
    return dg.Field(
        dg.Noneable(kind) if one.kind.nullable else kind,
        is_required=one.is_required,
        description=f"{one.description} ({one.type})".strip(),
        **default,
    )


def partitions(declared: Partitions) -> dg.PartitionsDefinition:
    """The partitions of a group, as Dagster has them."""
    if declared.keys:
        return dg.StaticPartitionsDefinition(list(declared.keys))
    return time_partitions(declared.every, date.fromisoformat(declared.start))


def _part(context: dg.AssetExecutionContext) -> Part:
    """The partition that a run is for."""
    key = context.partition_key
    if isinstance(context.assets_def.partitions_def, dg.StaticPartitionsDefinition):
        return Part(key)
    window = context.partition_time_window
    return Part(key, window.start.date(), window.end.date())


def _result(key: dg.AssetKey, done: Done) -> dg.MaterializeResult:
    made = done.made
    figures: dict[str, Any] = {name: _shown(value) for name, value in made.metadata.items()}
    if made.rows is not None:
        figures["dagster/row_count"] = made.rows
    if made.table is not None:
        figures["dagster/column_schema"] = dg.TableSchema(
            [dg.TableColumn(field.name, str(field.type)) for field in made.table.schema]
        )
        rows = [tuple(row.values()) for row in made.table.to_pylist()]
        figures["preview"] = dg.MetadataValue.md(markdown(made.table.column_names, rows))
    return dg.MaterializeResult(
        asset_key=key,
        metadata={**figures, "seconds": done.seconds},
        data_version=dg.DataVersion(made.version) if made.version else None,
    )


def _shown(value: Any) -> Any:
    if isinstance(value, Picture):
        return dg.MetadataValue.md(f"![]({value.address})")
    return value


def _failures(error: StepsFailed) -> dict[str, Any]:
    """Every failure, and every step that was left out for one, with the stack of each."""
    rows = [(one.step.name, one.why) for one in error.failed]
    rows += [(one.step.name, f"left out: needs {', '.join(one.needs)}") for one in error.left_out]
    stacks = "\n".join(f"{one}\n{one.stack}" for one in error.failed)
    return {
        "failures": dg.MetadataValue.md(markdown(["step", "why"], rows)),
        "stacks": dg.MetadataValue.md(f"```\n{stacks}\n```"),
    }
