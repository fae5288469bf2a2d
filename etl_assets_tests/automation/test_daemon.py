"""The sensor in a real daemon, over a real source: it is quick, it rests, and it survives what is killed.

The long form (`make test-soak MINUTES=10`) goes on for minutes and kills every part of Dagster in turn.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etl_assets_tests.automation.soak import VICTIMS, Report, Soak, runs, soak
from etl_assets_tests.browser.interface import Interface, interface

_SECONDS = 120
_TICKS = """
    { sensorOrError(sensorSelector: {
        repositoryLocationName: "etl_assets", repositoryName: "__repository__", sensorName: "source_changed"})
      { ... on Sensor { sensorState { status ticks(limit: 3) { status skipReason runIds error { message } } } } } }
"""
_SENSORS = """
    { repositoryOrError(repositorySelector: {
        repositoryLocationName: "etl_assets", repositoryName: "__repository__"})
      { ... on Repository { sensors { name sensorState { ticks(limit: 50) { status } } } } } }
"""
_SCHEDULE = """
    mutation ($name: String!, $at: Float!) { scheduleDryRun(timestamp: $at, selectorData: {
        repositoryLocationName: "etl_assets", repositoryName: "__repository__", scheduleName: $name})
      { ... on DryRunInstigationTick {
          evaluationResult { skipReason error { message } runRequests { runConfigYaml } } } } }
"""
_LAUNCH = """
    mutation { launchRun(executionParams: {mode: "default", selector: {
        repositoryLocationName: "etl_assets", repositoryName: "__repository__", jobName: "raw"}})
      { __typename ... on LaunchRunSuccess { run { runId } } } }
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="etl-assets-daemon-") as name:
        Path(name).chmod(0o755)  # the demo's server has its own user if we are root
        yield Path(name)


def ticks(ui: Interface) -> list[dict[str, Any]]:
    state = ui.ask(_TICKS)["sensorOrError"]["sensorState"]
    assert state["status"] == "RUNNING"
    found: list[dict[str, Any]] = state["ticks"]
    return found


def statuses(ui: Interface) -> dict[str, set[str]]:
    """Sensor -> how its ticks in the daemon ended; one may be going on."""
    sensors = ui.ask(_SENSORS)["repositoryOrError"]["sensors"]
    return {s["name"]: {t["status"] for t in s["sensorState"]["ticks"]} - {"STARTED"} for s in sensors}


def scheduled(ui: Interface, name: str) -> str:
    """What the code server says that a schedule would have done at its first moment since yesterday at this time."""
    found = ui.ask(_SCHEDULE, name=name, at=time.time() - 86_400)["scheduleDryRun"]["evaluationResult"]
    assert found["error"] is None
    return found["skipReason"] or f"{len(found['runRequests'])} run"


def told(ui: Interface) -> str:
    """What the interface's processes printed, without the steps of runs that went well."""
    lines = ui.log.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if " - DEBUG - " not in line and "fork_posix" not in line)[-8000:]


def assert_sound(report: Report) -> None:
    """Nothing lost, nothing doubled, nothing stuck; one run per change."""
    assert report.changes
    assert report.lost == []
    assert report.stuck == []
    assert report.together == []
    assert report.needless == []
    assert report.verified


@pytest.mark.fault("F2", "F43")
@pytest.mark.soak
def test_a_change_is_in_the_warehouse_within_a_minute_and_nothing_runs_without_one(folder: Path) -> None:
    soaking = Soak(folder, quiet_seconds=15)
    with interface(folder) as ui:
        # The first load, on nobody's command; and then rest.
        assert soaking.until(_SECONDS, lambda: [run["status"] for run in runs(ui)] == ["SUCCESS"]), told(ui)
        soaking.until(22)
        (first,) = runs(ui)
        flow = f"run {first['runId'][:8]} (etl, source_changed)"
        assert f"since {flow}" in ticks(ui)[0]["skipReason"]
        assert statuses(ui) == {
            "source_changed": {"SUCCESS", "SKIPPED"},
            "code_changed": {"SKIPPED"},
            "alert_on_failure_and_recovery": {"SKIPPED"},
        }
        assert scheduled(ui, "every_15_minutes") == "1 run"
        assert scheduled(ui, "every_night") == f"{flow} succeeded in the last 12 hours"
        assert scheduled(ui, "forget_every_night").startswith(
            "no run older than 30 days can be forgotten; the history takes "
        )

        change = soaking.change(1)
        assert soaking.until(_SECONDS, lambda: change.arrived is not None), told(ui)
        print(f"{change.seconds:.1f} s from commit to warehouse")  # noqa: T201
        assert change.seconds < 60

        # Two by hand, and one that the sensor asks for: one after the other.
        for _ in range(2):
            assert ui.ask(_LAUNCH)["launchRun"]["__typename"] == "LaunchRunSuccess"
        soaking.kill("worker", ui)
        soaking.settle(ui)
    soaking.verify()
    print(soaking.report)  # noqa: T201
    assert "FAILURE" in soaking.report.statuses, "the killed worker's run is told as failed"
    soaking.report.runs = [run for run in soaking.report.runs if run["jobName"] == "etl"]
    assert_sound(soaking.report)


@pytest.mark.fault("F2", "F43")
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_lost_doubled_or_stuck_while_parts_of_dagster_are_killed(folder: Path) -> None:
    minutes = float(os.environ.get("ETL_SOAK_MINUTES", "10"))
    rounds = max(1, round(minutes / len(VICTIMS) / 1.5))
    report = soak(folder, minutes * 60, [*VICTIMS] * rounds)
    print(report)  # noqa: T201
    assert_sound(report)
    assert report.slowest < 60
