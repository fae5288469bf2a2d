"""A small flow with its sensor and its schedule, ticked by hand: what the daemon does, without waiting for it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dagster as dg

from etl_assets.automation.breaker import Breaker
from etl_assets.automation.history import FLOW
from etl_assets.automation.jobs import every_15_minutes
from etl_assets.automation.source_changed import source_changed
from etl_assets.pace import NO_PACE, Pace
from etl_assets.raw.assets import raw_assets
from etl_assets.source.position import Position, read_position
from etl_assets.source.resource import PostgresSource
from etl_assets.star.resource import Lake
from etl_assets_tests.flow import execute
from etl_assets_tests.shop import INPUTS, SOURCE

TABLES = list(INPUTS.tables.values())
# Counters come up to a second late, and ten from an idle session: here everybody is gone at once.
_TICKS = 25


@dataclass
class Watching:
    """`mended` is whether what follows the capture works."""

    url: str
    folder: Path
    instance: dg.DagsterInstance
    failures: int | None = None
    mended: bool = True
    cursor: str | None = None
    pace: Pace = NO_PACE

    def definitions(self) -> dg.Definitions:
        @dg.asset(key=["star", "total"], deps=[["raw", table.name] for table in TABLES])
        def total() -> None:
            if not self.mended:
                raise ZeroDivisionError("the star is broken")

        breaker = Breaker(self.failures)
        lake = Lake(
            url=str(self.folder / "lake"),
            scratch=str(self.folder / "scratch"),
            cache=str(self.folder / "cache"),
        )
        return dg.Definitions(
            assets=[raw_assets(TABLES, "shop"), total],
            jobs=[
                dg.define_asset_job(FLOW, selection="*"),
                dg.define_asset_job("raw", selection=dg.AssetSelection.groups("raw")),
            ],
            sensors=[source_changed(TABLES, breaker, pace=self.pace)],
            resources={"source": self._source(), "lake": lake},
            executor=dg.in_process_executor,
        )

    def _source(self) -> PostgresSource:
        return PostgresSource(url=self.url, scratch=str(self.folder / "scratch"))

    @property
    def position(self) -> Position:
        return read_position(self.url, TABLES)

    def tick(self) -> dg.RunRequest | str:
        """What the sensor asks for, or why it does not."""
        defs = self.definitions()
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=defs.get_repository_def(),
            resources={"source": self._source()},
        )
        told = defs.resolve_sensor_def("source_changed").evaluate_tick(context)
        self.cursor = told.cursor or self.cursor
        if told.run_requests:
            (request,) = told.run_requests
            return request
        assert told.skip_message
        return told.skip_message

    def requested(self) -> dg.RunRequest:
        """The run that is asked for as soon as the source's counters have arrived."""
        for _ in range(_TICKS):
            if isinstance(told := self.tick(), dg.RunRequest):
                return told
            time.sleep(0.1)
        raise AssertionError(told)

    def run(self, request: dg.RunRequest | None = None, job: str = FLOW) -> dg.ExecuteInProcessResult:
        """The run that was asked for, or one by hand."""
        tags: Mapping[str, str] = request.tags if request else {}
        if request and request.run_key:
            tags = {**tags, "dagster/run_key": request.run_key, "dagster/sensor_name": "source_changed"}
        return (
            self.definitions()
            .resolve_job_def(job)
            .execute_in_process(instance=self.instance, tags=dict(tags), raise_on_error=False)
        )


def scheduled(
    watching: Watching,
    made: Callable[[Breaker], dg.ScheduleDefinition] = every_15_minutes,
    at: datetime | None = None,
) -> dg.RunRequest | str:
    """What a schedule asks for, or why it does not."""
    schedule = made(Breaker(watching.failures))
    context = dg.build_schedule_context(
        instance=watching.instance,
        repository_def=watching.definitions().get_repository_def(),
        scheduled_execution_time=at,
    )
    told = schedule.evaluate_tick(context)
    return told.run_requests[0] if told.run_requests else str(told.skip_message)


@contextmanager
def watching(url: str, folder: Path) -> Iterator[Watching]:
    home = folder / "dagster"
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        yield Watching(url, folder, instance)


@contextmanager
def ran_once(url: str, folder: Path) -> Iterator[Watching]:
    """A flow from an empty database, which is filled, after one run that went well."""
    execute(url, SOURCE)
    with watching(url, folder) as made:
        assert made.run().success
        yield made
