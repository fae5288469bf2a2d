"""The sensor that fetches the windows of APIs that are over, oldest first and one at a time, and has their pages loaded.

    pages landed and not loaded? ► load them, and all that is made of them
    a window over and not fetched? ► fetch it; after a failure later, and after three no more, so that the next one has its turn

A success makes failures before it forgotten. An API without windows has three attempts each day. A run that ended since what the
API allows was used up did not fail: it goes on as soon as it may. What is due is read from the lake, so after a failure, a restore or a pause of weeks the right windows are fetched.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from etl_assets.apis.assets import GOES_ON_TAG
from etl_assets.apis.declaration import Api
from etl_assets.apis.due import due
from etl_assets.apis.takes import waiting
from etl_assets.apis.windows import WHOLE
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.history import UNDERWAY, History, told
from etl_assets.automation.in_process import EXECUTOR
from etl_assets.errors import EtlError
from etl_assets.lake.resource import RawLake
from etl_assets.presentation import PLAIN, Naming
from etl_assets.proof.checks import only_verifies
from etl_assets.source.assets import source_key

SECONDS_BETWEEN = 30
ATTEMPTS = 3
PAUSE_SECONDS = 60
_DAY_SECONDS = 86_400.0
WINDOW_TAG = "etl/window"
PAGES_TAG = "etl/pages"


def fetch_jobs(apis: Sequence[Api], naming: Naming = PLAIN) -> dict[str, UnresolvedAssetJobDefinition]:
    """A job for each API that fetches one of its windows."""
    return {
        api.name: dg.define_asset_job(
            naming.name(f"fetch_{api.name}"),
            selection=dg.AssetSelection.assets(source_key(api.name, naming)),
            description=f"Land the pages of a window of {api.name}. A run ends after {api.limits.seconds:,.0f} s.",
            executor_def=EXECUTOR,
            # The fetch keeps to its time by itself. This is for one that hangs.
            tags={"dagster/max_runtime": str(round(api.limits.seconds) + 60)},
        )
        for api in apis
    }


def windows_due(
    apis: Sequence[Api],
    derive: UnresolvedAssetJobDefinition,
    jobs: Mapping[str, UnresolvedAssetJobDefinition],
    breaker: Breaker,
    naming: Naming = PLAIN,
) -> dg.SensorDefinition:
    """The sensor over all APIs: it starts `derive` for pages that have landed, and of `jobs` the one that fetches a window."""

    @dg.sensor(
        name=naming.name("windows_due"),
        jobs=[derive, *jobs.values()],
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fetches the windows of APIs that are over, oldest first and one at a time, and has their pages loaded.",
    )
    @naming.resources
    def sensor(context: dg.SensorEvaluationContext, lake: RawLake) -> dg.RunRequest | dg.SkipReason:
        records = context.instance.get_run_records(dg.RunsFilter(statuses=UNDERWAY))
        underway = [record.dagster_run for record in records if not only_verifies(record.dagster_run)]
        if underway:
            return dg.SkipReason(f"waits for {told(underway[0])}")
        if reason := breaker.held_back(History.of(context, naming)):
            return dg.SkipReason(reason)
        try:
            return next(
                _requests(context, apis, derive.name, jobs, lake),
                dg.SkipReason("no window is due, and all pages are loaded"),
            )
        except EtlError as error:
            return dg.SkipReason(f"the lake can't be read, next try in {SECONDS_BETWEEN} s: {error}")

    return sensor


def _requests(
    context: dg.SensorEvaluationContext,
    apis: Sequence[Api],
    derive: str,
    jobs: Mapping[str, UnresolvedAssetJobDefinition],
    lake: RawLake,
) -> Iterator[dg.RunRequest]:
    """What there is to do, in order."""
    files = lake.files()
    takes = [take for api in apis for take in waiting(files, api.name)]
    if takes:
        newest = takes[-1].folder
        yield from _tried(context, derive, PAGES_TAG, f"{len(takes)} to {newest}", None)
    now = datetime.now(UTC)
    # Those of all APIs by their days: a table that is made of several can be made soon.
    windows = [(window != WHOLE, window, api.name) for api in apis for window in due(api, files, now)]
    for _, window, name in sorted(windows):
        key = None if window == WHOLE else window
        yield from _tried(context, jobs[name].name, WINDOW_TAG, f"{name} {window}", key)


def _tried(
    context: dg.SensorEvaluationContext, job: str, tag: str, what: str, partition: str | None
) -> Iterator[dg.RunRequest]:
    """A run, unless it was tried often enough, or a moment ago."""
    now, runs = time.time(), context.instance.get_run_records(dg.RunsFilter(tags={tag: what}))  # newest first
    # What succeeded and is due again was undone since, or is due every day.
    since = list(takewhile(lambda run: run.dagster_run.status != dg.DagsterRunStatus.SUCCESS, runs))
    failed = [run for run in since if GOES_ON_TAG not in run.dagster_run.tags]
    if tag == WINDOW_TAG and partition is None:
        failed = [run for run in failed if now - _ended(run) < _DAY_SECONDS]
    if len(failed) >= ATTEMPTS:
        return
    if failed and now - max(map(_ended, failed)) < PAUSE_SECONDS * 2 ** (len(failed) - 1):
        return
    goes_on = since[0].dagster_run.tags.get(GOES_ON_TAG) if since else None
    if goes_on and now < datetime.fromisoformat(goes_on).timestamp():
        return
    # How many runs there are would come again: old ones are forgotten. Which one was the last does not.
    last = runs[0].dagster_run.run_id if runs else "first"
    yield dg.RunRequest(run_key=f"{what}:{last}", job_name=job, partition_key=partition, tags={tag: what})


def _ended(run: dg.RunRecord) -> float:
    """When a run was over, or as good as that (seconds since 1970)."""
    return run.end_time or run.create_timestamp.timestamp()
