"""How `etl run` finds out that there is nothing to do, before it assembles anything."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from etl_assets.automation import settled
from etl_assets.automation.history import UNCHANGED_SINCE
from etl_assets.cli import environment
from etl_assets.cli.flow import TAGS, RunOutcome
from etl_assets.errors import EtlError
from etl_assets.settings import Settings


class Look:
    """A look at where everything stands; without `resources` it sees nothing, and nothing is noted."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        resources: settled.FlowResources | None = None,
        made_with: str = "",
    ) -> None:
        self.instance = instance
        self.resources = resources
        self.made_with = made_with

    def nothing_to_do(self) -> RunOutcome | None:
        """What a run did that found nothing, which is recorded; None if there may be something to do."""
        started = time.monotonic()
        if self.resources is None:
            return None
        try:
            since = settled.settled(self.instance, self.resources, self.made_with)
        except EtlError:  # a usual run meets the same, and records what it says
            return None
        if since is None:
            return None
        run_id = settled.record(self.instance, since, TAGS, self.resources.naming)
        first = since.tags.get(UNCHANGED_SINCE, since.run_id)
        return RunOutcome(run_id, success=True, seconds=time.monotonic() - started, since=first)

    def note(self, outcome: RunOutcome) -> None:
        """Note on a run how it left everything, unless it has something to say that is to be said again."""
        told = outcome.failed_checks or any(made.notice for made in outcome.made)
        if self.resources and outcome.success and not told:
            settled.note(self.instance, outcome.run_id, self.resources, self.made_with)


@contextmanager
def looking(settings: Settings, instance: dg.DagsterInstance, wanted: bool) -> Iterator[Look]:
    """A look, if it is wanted. An embedded source that is asked is kept up while the block runs."""
    if not wanted:
        yield Look(instance)
        return
    # Before the project is imported: what is edited from now on is not what this run is made with.
    made_with = settled.made_with(settings)
    names = ("source", "lake", "warehouse", "reports", "workbook")
    with environment.resources(settings, *names, instance=instance) as found:
        resources = settled.FlowResources(
            found.source,
            found.lake,
            found.warehouse,
            found.reports.tables,
            found.workbook,
            environment.naming(settings),
        )
        yield Look(instance, resources, made_with)
