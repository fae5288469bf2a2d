"""The sensor that brings star, warehouse and exports up to the code and the files that they are made from.

It compares what is with what should be, rather than wait for an event (as automation conditions do): what failed,
what was interrupted, and batches that were landed and not derived are found as well. The source is not read.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

import etl_assets
from etl_assets.apis.assets import LOADED_FROM_PAGES
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.history import FLOW, UNDERWAY, History, told
from etl_assets.automation.jobs import DERIVE
from etl_assets.automation.orphans import end_orphans
from etl_assets.automation.staleness import Standing, downstream, standings
from etl_assets.engine.code_version import declared_version
from etl_assets.presentation import PLAIN, Naming
from etl_assets.proof.checks import only_verifies
from etl_assets.raw.assets import GROUP as RAW
from etl_assets.source.assets import data_version, observation
from etl_assets.source.files import ModelError, ObservedFiles

ATTEMPTS = 3
PAUSE_SECONDS = 30
"""Between the first attempt and the second; one more of it after each."""
CHANGE = "etl/change"
"""The tag of a run that says which change it is for."""
_DERIVED = ("star", "warehouse", "exports")


def code_changed(
    observed: Sequence[ObservedFiles], breaker: Breaker, naming: Naming = PLAIN
) -> dg.SensorDefinition:
    """The sensor. It also reports what observed files are now, so that what is made from them shows as stale."""
    loaded = _sources()

    @dg.sensor(
        name=naming.name("code_changed"),
        job_name=naming.name(DERIVE),
        minimum_interval_seconds=20,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Derive again what is stale, and all that follows from it: its code, a reference file or a batch "
        "that was landed is not what it was made from. The source is not read.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        end_orphans(context.instance)
        reports, problems = _reports(context.instance, observed, naming)
        reported = {event.asset_key: data_version(event) for event in reports}
        outcome = _request(context, reported, loaded, breaker, naming)
        if isinstance(outcome, str):
            return dg.SensorResult(skip_reason="; ".join([*problems, outcome]), asset_events=reports)
        for problem in problems:
            context.log.warning(problem)
        return dg.SensorResult(run_requests=[outcome], asset_events=reports)

    return sensor


def _reports(
    instance: dg.DagsterInstance, observed: Sequence[ObservedFiles], naming: Naming
) -> tuple[list[dg.AssetMaterialization], list[str]]:
    """Files that are not as they were last reported; and why some can't be looked at."""
    reports, problems = [], []
    for files in observed:
        try:
            now = observation(files, naming)
        except ModelError as error:
            problems.append(str(error))
            continue
        held = instance.get_latest_materialization_event(now.asset_key)
        before = held.asset_materialization if held else None
        if before is None or data_version(before) != data_version(now):
            reports.append(now)
    return reports, problems


def _request(
    context: dg.SensorEvaluationContext,
    reported: Mapping[dg.AssetKey, str],
    loaded: frozenset[object],
    breaker: Breaker,
    naming: Naming,
) -> dg.RunRequest | str:
    """The run that is needed, or why there is none."""
    instance = context.instance
    assert context.repository_def  # noqa: S101  sensors are evaluated where their definitions are
    graph = context.repository_def.asset_graph
    # Asked before how things stand: a run that ends meanwhile is in one of them.
    underway = [
        record.dagster_run
        for record in instance.get_run_records(dg.RunsFilter(statuses=UNDERWAY))
        if naming.owns(record.dagster_run) and not only_verifies(record.dagster_run)
    ]
    all_ = standings(instance, graph, reported)
    unmade = [
        key.to_user_string()
        for key, one in all_.items()
        # What an API's table is made of may never come.
        if one.status == "missing"
        and naming.stage(key) == RAW
        and not graph.get(key).tags.items() >= LOADED_FROM_PAGES.items()
    ]
    if unmade:
        return f"the first run of the flow is still to come (job {naming.name(FLOW)}): {unmade[0]} was never materialized"
    needed = {
        key: one
        for key, one in all_.items()
        if naming.stage(key) in _DERIVED and one.status in ("stale", "missing")
    }
    if not needed:
        return "everything is what code, files and batches make of it"
    why = _why(needed)
    if underway:
        return f"{why}; waits for {told(underway[0])}, which is {underway[0].status.value.lower()}"
    if reason := breaker.held_back(History.of(context, naming)):
        return f"{why}; {reason}"
    if loaded != _sources() and any(cause.kind == "code" for one in needed.values() for cause in one.causes):
        return f"{why}; code was edited since it was loaded: reload the code location, so that all of it is one version"
    change = declared_version(
        *(
            f"{key.to_user_string()} {cause.text} {cause.version}"
            for key, one in needed.items()
            for cause in one.causes
        ),
        *(f"{key.to_user_string()} {graph.get(key).code_version}" for key in needed),
    )
    tried = instance.get_run_records(dg.RunsFilter(tags={CHANGE: change}))
    if len(tried) >= ATTEMPTS:
        return f"{why}; gave up after {len(tried)} runs that did not mend it: see the last of them, then start {naming.name(DERIVE)}"
    pause = PAUSE_SECONDS * len(tried)
    left = min(pause, max(((run.end_time or 0.0) + pause - time.time() for run in tried), default=0))
    if left > 0:
        return f"{why}; next attempt in {left:.0f} s, {told(tried[0].dagster_run)} did not mend it"
    wanted = {key for key in downstream(graph, needed) if naming.stage(key) in _DERIVED}
    return dg.RunRequest(
        run_key=f"{change}:{len(tried) + 1}",
        asset_selection=[key for key in graph.toposorted_asset_keys if key in wanted],
        tags={CHANGE: change, "etl/why": why},
    )


def _why(needed: Mapping[dg.AssetKey, Standing]) -> str:
    first = next(iter(needed.values()))
    told = f"{first.key.to_user_string()}: {first.causes[0].text if first.causes else 'it was never made'}"
    return told + (f" (and {len(needed) - 1} more)" if len(needed) > 1 else "")


def _sources() -> frozenset[object]:
    """The package's modules as they are on disk: a run loads them anew, the sensor works with what was loaded."""
    found = ((path, path.stat()) for path in Path(etl_assets.__file__).parent.rglob("*.py"))
    return frozenset((path, stat.st_mtime_ns, stat.st_size) for path, stat in found)
