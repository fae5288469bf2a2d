"""How a project shows itself in Dagster: what its assets, jobs and resources are called, and when a copy is late."""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.resource_annotation import get_resource_args

from etl_assets.owners import OWNERS, SOURCE_OWNERS

# Runs come when the source changes, and once a day if it does not (see automation/jobs.py): later than that is late,
# a day later than that is wrong. An hour is for a run that waits or takes long.
DAILY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=25), fail_window=timedelta(hours=49))

JOBS = ("etl", "derive", "raw", "star", "warehouse", "exports", "verify", "forget_old_runs")
"""The jobs of a project."""


def column(
    name: str,
    type_name: str,
    description: str = "",
    *,
    nullable: bool,
    unique: bool = False,
    other: str = "",
) -> dg.TableColumn:
    """A column of a table as the UI shows it; `other` says what else holds of its values."""
    constraints = dg.TableColumnConstraints(nullable, unique, [other] if other else [])
    return dg.TableColumn(name, type_name, description or None, constraints)


@dataclass(frozen=True)
class Naming:
    """What the parts of a project are called in one Dagster. Behind a `prefix` they clash with those of no other project."""

    prefix: tuple[str, ...] = ()
    resource_prefix: tuple[str, ...] | None = None
    """What the keys of resources begin with, if not with `prefix`."""
    owners: Sequence[str] = OWNERS
    source_owners: Sequence[str] = SOURCE_OWNERS
    """Whose the assets are, and whose what is outside is."""

    def key(self, stage: str, name: str) -> dg.AssetKey:
        """The asset key of something in a stage."""
        return dg.AssetKey([*self.prefix, stage, name])

    def name(self, plain: str) -> str:
        """The name of a job, a step, a sensor, a schedule or a group."""
        return "_".join([*self.prefix, plain])

    def resource(self, plain: str) -> str:
        """The key of a resource."""
        prefix = self.prefix if self.resource_prefix is None else self.resource_prefix
        return "_".join([*prefix, plain])

    def stage(self, key: dg.AssetKey) -> str | None:
        """The stage of an asset of this project; None of somebody else's."""
        return stage(key) if tuple(key.path[:-2]) == self.prefix else None

    def owns(self, run: dg.DagsterRun) -> bool:
        """Whether a run is of this project. Without a prefix it may be of any."""
        picked = [*(run.asset_selection or ()), *(c.asset_key for c in run.asset_check_selection or ())]
        if not self.prefix:
            return True
        if picked:
            return any(self.stage(key) for key in picked)
        return run.job_name in {self.name(job) for job in JOBS}

    def resources(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that asks for resources by parameters, asking for those of this project: Dagster finds a resource by
        the parameter's name."""
        if self.resource("") == "":
            return function
        asked = {self.resource(parameter.name): parameter.name for parameter in get_resource_args(function)}
        renamed = {plain: name for name, plain in asked.items()}

        def asking(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{asked.get(name, name): value for name, value in kwargs.items()})

        def yielding(*args: Any, **kwargs: Any) -> Any:
            yield from asking(*args, **kwargs)

        made = yielding if inspect.isgeneratorfunction(function) else asking  # Dagster looks for that
        functools.update_wrapper(made, function, updated=())
        del made.__wrapped__  # type: ignore[attr-defined]  # else Dagster would look at the names there
        signature = inspect.signature(function)
        parameters = [p.replace(name=renamed.get(p.name, p.name)) for p in signature.parameters.values()]
        made.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        hints = typing.get_type_hints(function, include_extras=True)
        made.__annotations__ = {renamed.get(name, name): hint for name, hint in hints.items()}
        return made


def time_partitions(every: str, start: date) -> dg.TimeWindowPartitionsDefinition:
    """A partition for each day, week or month from one on, named by its first day. Weeks begin on Monday: the first is the one
    that begins at `start` or after it."""
    if every == "day":
        return dg.DailyPartitionsDefinition(start.isoformat())
    if every == "month":
        return dg.MonthlyPartitionsDefinition(start.isoformat())
    monday = start + timedelta(days=-start.weekday() % 7)
    return dg.WeeklyPartitionsDefinition(monday.isoformat(), day_offset=1)


PLAIN = Naming()
"""The names of a project that is alone."""


def stage(key: dg.AssetKey) -> str | None:
    """The stage that the key of an asset names, whatever stands before it."""
    return key.path[-2] if len(key.path) > 1 else None
