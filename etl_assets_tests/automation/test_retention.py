"""Old runs go with all that hangs on them; what anything stands on stays, and nothing looks different after."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.testclient import TestClient

from etl_assets.automation.history_size import history_bytes
from etl_assets.automation.retention import (
    DAYS,
    forget_beyond,
    forget_every_night,
    forget_old_runs,
    forget_run,
    forgettable,
)
from etl_assets.definitions import definitions
from etl_assets.settings import Settings
from etl_assets_tests.automation.shown import served

IN_PROCESS = dg.in_process_executor


@dg.asset(check_specs=[dg.AssetCheckSpec("fine", asset="often")])
def often(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    print("something for the captured output")  # noqa: T201
    assert "fail" not in context.run.tags
    passed = "odd" not in context.run.tags
    return dg.MaterializeResult(
        data_version=dg.DataVersion("1"),
        check_results=[dg.AssetCheckResult(passed=passed, check_name="fine")],
    )


@dg.asset(deps=[often])
def once() -> None: ...


FREQUENT = dg.define_asset_job("frequent", [often], executor_def=IN_PROCESS)
RARE = dg.define_asset_job("rare", [often, once], executor_def=IN_PROCESS)
DEFS = dg.Definitions([often, once], jobs=[FREQUENT, RARE, forget_old_runs()], executor=IN_PROCESS)
MODULE = "from etl_assets_tests.automation.test_retention import DEFS as defs"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def instance(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance in SQLite that keeps the two newest runs of each job and outcome."""
    monkeypatch.setattr("etl_assets.automation.retention.NEWEST_KEPT", 2)
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home)) as made:
        yield made


def run(instance: dg.DagsterInstance, job: str = "frequent", **tags: str) -> str:
    done = DEFS.resolve_job_def(job).execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return done.run_id


def age(home: Path, days: int, *but: str) -> None:
    """Make the runs so old, as far as SQLite knows."""
    created = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with closing(sqlite3.connect(home / "history/runs.db")) as connection, connection:
        marks = ", ".join("?" * len(but))
        connection.execute(
            f"UPDATE runs SET create_timestamp = ? WHERE run_id NOT IN ({marks})", (created, *but)
        )


def rows(database: Path, table: str, run_ids: Sequence[str]) -> int:
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(f"SELECT run_id FROM {table}").fetchall()
    return sum(1 for (run_id,) in found if run_id in run_ids)


def old() -> datetime:
    return datetime.now(UTC) - timedelta(days=DAYS)


def test_what_something_stands_on_stays_and_the_rest_goes(instance: dg.DagsterInstance, home: Path) -> None:
    rare = run(instance, "rare")
    odd = run(instance, odd="yes")
    failed = [run(instance, fail="yes") for _ in range(3)]
    frequent = [run(instance) for _ in range(4)]
    unended = instance.create_run_for_job(DEFS.resolve_job_def("rare")).run_id
    young = run(instance)
    age(home, DAYS + 1, young)
    gone = [failed[0], *frequent[:3]]
    assert forgettable(instance, old()) == gone
    assert forgettable(instance, old(), at_most=2) == gone[:2]
    assert forgettable(instance, datetime.now(UTC) - timedelta(days=DAYS + 2)) == []
    for run_id in gone:
        forget_run(instance, run_id)
    assert {r.run_id for r in instance.get_runs()} == {rare, odd, *failed[1:], frequent[3], unended, young}
    assert forgettable(instance, old()) == []


def test_nothing_of_a_forgotten_run_is_left_on_disk(instance: dg.DagsterInstance, home: Path) -> None:
    goes, stays = run(instance, mine="yes"), run(instance, mine="yes")
    index, runs = home / "history/runs/index.db", home / "history/runs.db"

    def traces(run_id: str) -> dict[str, int]:
        tables = {"event_logs": index, "asset_check_executions": index, "runs": runs, "run_tags": runs}
        found = {table: rows(database, table, [run_id]) for table, database in tables.items()}
        return found | {"files": sum(run_id in str(path) for path in home.rglob("*"))}

    before = traces(stays)
    assert all(traces(goes).values())
    forget_run(instance, goes)
    assert not any(traces(goes).values())
    assert traces(stays) == before
    assert instance.all_logs(stays)


def test_the_room_of_forgotten_runs_is_used_again(instance: dg.DagsterInstance, home: Path) -> None:
    """SQLite's index keeps its size and fills the gaps; the file of a run, which is most of it, is gone."""
    index = home / "history/runs/index.db"
    runs = [run(instance) for _ in range(7)]

    def size() -> int:
        with closing(sqlite3.connect(index)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return index.stat().st_size

    full = size()
    for run_id in runs[:-1]:
        forget_run(instance, run_id)
    assert size() == full
    for _ in range(5):
        run(instance)
    assert size() <= full


def on_disk(home: Path) -> int:
    folders = [home / name for name in ("history", "schedules", "storage")]
    return sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())


def test_the_oldest_go_while_the_history_takes_more_than_it_may(
    instance: dg.DagsterInstance, home: Path
) -> None:
    rare, *frequent = run(instance, "rare"), *(run(instance) for _ in range(8))
    before = on_disk(home)
    assert history_bytes(instance, 0) == before
    assert forget_beyond(instance, before) == (0, before)
    limit = before * 2 // 3
    gone, size = forget_beyond(instance, limit)
    kept = [run_id for run_id in frequent if instance.get_run_by_id(run_id)]
    assert kept == frequent[gone:]
    assert len(kept) > 2, "more went than had to"
    assert on_disk(home) == size <= limit
    assert forget_beyond(instance, 1)[0] == len(kept) - 2  # on the others something stands
    assert instance.get_run_by_id(rare)


QUERY = """{
    assetNodes {
        id staleStatus staleCauses { reason }
        assetMaterializations(limit: 1) { runId timestamp metadataEntries { label } }
        assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization {
            runId status evaluation { success } } } } }
    }
    runsOrError(limit: 3) { ... on Runs { results { runId status jobName startTime endTime } } }
}"""


@pytest.mark.places
def test_the_interface_shows_the_same_before_and_after(
    instance: dg.DagsterInstance, home: Path, tmp_path: Path
) -> None:
    run(instance, "rare")
    for _ in range(3):
        run(instance)
    run(instance, fail="yes")
    run(instance)
    age(home, DAYS + 1)
    module = tmp_path / "module.py"
    module.write_text(MODULE)

    with served(instance, module) as workspace:
        client = TestClient(create_app_from_workspace_process_context(workspace))

        def shown() -> Any:
            return client.post("/graphql", json={"query": QUERY}).json()["data"]

        before = shown()
        assert {node["staleStatus"] for node in before["assetNodes"]} == {"FRESH"}
        assert "SUCCEEDED" in json.dumps(before)
        gone = forgettable(instance, old())
        assert len(gone) == 2
        for run_id in gone:
            forget_run(instance, run_id)
        assert shown() == before


def test_the_job_forgets_and_the_schedule_starts_it_only_if_there_is_something_to_forget(
    instance: dg.DagsterInstance, home: Path
) -> None:
    first = run(instance)
    for _ in range(6):
        run(instance)

    def tick(megabytes: int = 0) -> dg.RunRequest | str | None:
        now = datetime.now(UTC)
        with dg.build_schedule_context(instance, scheduled_execution_time=now) as context:
            tick = forget_every_night(megabytes=megabytes).evaluate_tick(context)
        return tick.run_requests[0] if tick.run_requests else tick.skip_message

    size = history_bytes(instance, 0) / 1e6
    assert size > 1
    assert isinstance(tick(megabytes=1), dg.RunRequest)
    assert (
        tick(megabytes=1000)
        == f"no run older than {DAYS} days can be forgotten; the history takes {size:.1f} MB, of 1,000 that it may"
    )
    assert tick() == f"no run older than {DAYS} days can be forgotten"
    age(home, DAYS + 1)
    assert isinstance(tick(), dg.RunRequest)
    assert DEFS.resolve_job_def("forget_old_runs").execute_in_process(instance=instance).success
    assert instance.get_run_by_id(first) is None
    assert instance.get_runs_count(dg.RunsFilter(job_name="frequent")) == 2
    assert tick() == f"no run older than {DAYS} days can be forgotten"


def test_housekeeping_is_part_of_the_platform_and_on(tmp_path: Path) -> None:
    defs = definitions(Settings.read({"ETL_DATA": str(tmp_path)}))
    assert defs.resolve_job_def("forget_old_runs").name == "forget_old_runs"
    schedule = defs.resolve_schedule_def("forget_every_night")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert "if the history takes more than 1,500 MB" in (schedule.description or "")
