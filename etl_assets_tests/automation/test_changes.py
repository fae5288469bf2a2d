"""What an orchestrator's users ask of it between two executions: which models are new, changed and gone, when the last
success was, and how many rows each step processed. Scripts decide on the answers, so each has its form and exit code.
"""

import datetime as dt
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.automation.history import FLOW
from etl_assets.cli import environment
from etl_assets.settings import Settings
from etl_assets.source.assets import file_assets
from etl_assets.source.files import models
from etl_assets_tests.commands import etl, use
from etl_assets_tests.hiring import BICYCLES

LARGEST = 9223372036854775807


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with nothing set but the project, where data goes, and model files."""
    observed = "load=models/LOAD/*.sql;transform=models/TRANSFORM/*.sql"
    use(monkeypatch, tmp_path / "data", ETL_PROJECT=BICYCLES.project, ETL_MODELS=observed)
    return tmp_path


@pytest.fixture
def instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    """The instance that the command looks at."""
    environment.arrange_dagster_home(Settings.read(os.environ))
    with dg.DagsterInstance.get() as opened:
        yield opened


def told(*arguments: str) -> Any:
    done = etl(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def write(folder: Path, **steps: Mapping[str, str]) -> None:
    """The model files of each step, and no others."""
    for step, files in steps.items():
        place = folder / "models" / step
        place.mkdir(parents=True, exist_ok=True)
        for path in place.iterdir():
            path.unlink()
        for name, text in files.items():
            (place / f"{name}.sql").write_text(text)


def flow(*made: str, code: str = "1", during: Callable[[], object] = lambda: None) -> dg.Definitions:
    """A flow that observes the model files, and makes assets. `during` is called in the midst of a run."""

    def asset(name: str) -> dg.AssetsDefinition:
        @dg.asset(key=name.split("/"), code_version=code)
        def one() -> dg.MaterializeResult:
            during()
            return dg.MaterializeResult(
                data_version=dg.DataVersion(f"data {code}"), metadata={"dagster/row_count": LARGEST}
            )

        return one

    observed = file_assets(models(os.environ["ETL_MODELS"], []))
    job = dg.define_asset_job(FLOW, selection=dg.AssetSelection.all())
    return dg.Definitions(assets=[*observed, *map(asset, made)], jobs=[job])


def execute(
    instance: dg.DagsterInstance, definitions: dg.Definitions, *selected: str, succeeds: bool = True
) -> str:
    """Run the flow, or a part of it; the run's id."""
    result = definitions.resolve_job_def(FLOW).execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(name.split("/")) for name in selected] or None,
        raise_on_error=False,
    )
    assert result.success == succeeds
    return result.run_id


def nothing() -> dict[str, list[str]]:
    return {"new": [], "changed": [], "removed": []}


def test_the_scenario_of_the_old_orchestrator(folder: Path, instance: dg.DagsterInstance) -> None:
    assert etl("status", "--last-success").exit_code == 3
    write(folder, LOAD={"m1": "1", "m2": "2"}, TRANSFORM={"t1": "1", "t2": "2", "t3": "3"})
    first = execute(instance, flow("star/orders"))

    write(folder, LOAD={"m1": "1", "m2": "2"}, TRANSFORM={"t1": "1", "t2": "modified", "t4": "4"})
    while_second: list[str] = []
    second = execute(
        instance,
        flow("star/orders", during=lambda: while_second.append(etl("status", "--last-success", "id").stdout)),
    )
    assert while_second == [f"{first}\n"], "a run that goes on is no success yet"
    assert etl("status", "--last-success", "id").stdout == f"{second}\n"

    found = told("changes")
    assert (found["before"]["id"], found["after"]["id"]) == (first, second)
    assert found["files"] == {
        "new": ["source/transform/t4.sql"],
        "changed": ["source/transform/t2.sql"],
        "removed": ["source/transform/t3.sql"],
    }
    assert (found["code"], found["data"], found["partial"]) == (nothing(), nothing(), False)
    assert etl("changes").stdout.splitlines() == [
        "change   of    name",
        "new      file  source/transform/t4.sql",
        "changed  file  source/transform/t2.sql",
        "removed  file  source/transform/t3.sql",
    ]

    status = told("status")["runs"]
    assert status["last_success"] == found["after"]
    assert set(found["after"]) == {"id", "job", "status", "started", "completed", "duration_seconds"}
    completed = dt.datetime.fromisoformat(etl("status", "--last-success").stdout.strip())
    assert str(completed) == status["last_success"]["completed"]
    assert (dt.datetime.now(dt.UTC) - completed).total_seconds() < 60
    steps = {step["step"]: step for step in status["last"]["steps"]}
    assert steps["star__orders"]["assets"] == [{"asset": "star/orders", "rows": LARGEST, "unchanged": False}]
    assert steps["star__orders"]["status"] == "SUCCESS"
    assert steps["star__orders"]["duration_seconds"] > 0
    assert steps["source__load"]["assets"] == [{"asset": "source/load", "rows": 2, "unchanged": True}]
    assert "9,223,372,036,854,775,807" in etl("status").stdout


def test_assets_that_are_new_changed_and_gone(folder: Path, instance: dg.DagsterInstance) -> None:
    write(folder, LOAD={}, TRANSFORM={})
    first = execute(instance, flow("star/a", "star/b"))
    second = execute(instance, flow("star/b", "star/c", code="2"))
    differences = {"new": ["star/c"], "changed": ["star/b"], "removed": ["star/a"]}
    found = told("changes")
    assert (found["code"], found["data"], found["files"]) == (differences, differences, nothing())
    backwards = told("changes", second[:13], first[:13])
    assert backwards["code"] == {"new": ["star/a"], "changed": ["star/b"], "removed": ["star/c"]}
    assert etl("changes", first, first).stdout == "nothing changed\n"


def test_a_run_of_a_part_says_nothing_of_the_rest(folder: Path, instance: dg.DagsterInstance) -> None:
    write(folder, LOAD={"m1": "1"}, TRANSFORM={"t1": "1"})
    whole = execute(instance, flow("star/a", "star/b"))
    write(folder, LOAD={"m2": "1"}, TRANSFORM={"t2": "1"})
    part = execute(instance, flow("star/a", "star/b", code="2"), "star/a", "source/load")
    done = etl("changes", whole, part, "--json")
    assert done.exit_code == 0
    assert "only a part" in done.stderr
    found = json.loads(done.stdout)
    assert found["partial"]
    assert found["code"] == nothing() | {"changed": ["star/a"]}
    assert found["files"] == nothing() | {"new": ["source/load/m2.sql"], "removed": ["source/load/m1.sql"]}
    last = etl("changes")
    assert (last.exit_code, last.stdout) == (3, ""), "a part is no run of the whole flow"


def test_assets_without_a_version_of_their_code_are_not_always_changed(
    folder: Path, instance: dg.DagsterInstance
) -> None:
    write(folder, LOAD={}, TRANSFORM={})

    @dg.asset
    def unversioned() -> None: ...

    job = dg.define_asset_job(FLOW, selection="*")
    for _ in range(2):
        execute(instance, dg.Definitions(assets=[unversioned], jobs=[job]))
    assert told("changes")["code"] == nothing()


def test_failed_and_queued_runs_and_their_steps_are_told(folder: Path, instance: dg.DagsterInstance) -> None:
    write(folder, LOAD={}, TRANSFORM={})

    def fail() -> None:
        raise dg.Failure("the well is dry")

    succeeded = execute(instance, flow("star/a"))
    failed = execute(instance, flow("star/a", during=fail), succeeds=False)
    status = told("status")["runs"]
    assert status["last_success"]["id"] == succeeded
    assert [(run["id"], run["status"], run["error"]) for run in status["failed"]] == [
        (failed, "FAILURE", "the well is dry")
    ]
    assert (status["running"], status["queued"]) == ([], [])
    steps = {step["step"]: (step["status"], step["assets"]) for step in status["last"]["steps"]}
    assert steps["star__a"] == ("FAILURE", [])
    job = flow("star/a").resolve_job_def(FLOW)
    started = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert [run["id"] for run in told("status")["runs"]["running"]] == [started.run_id]


def test_without_two_successful_runs_there_is_a_word_and_a_code(folder: Path) -> None:
    for arguments, said in (
        (["changes"], "etl: no two successful runs yet: there was no run at all\n"),
        (["status", "--last-success"], "etl: no successful run of the whole flow yet\n"),
    ):
        done = etl(*arguments)
        assert (done.exit_code, done.stdout, done.stderr) == (3, "", said)
        assert "    3  " in etl(arguments[0], "--help").stdout
    assert list(folder.iterdir()) == [], "asking leaves no trace"


def test_after_one_successful_run_there_is_nothing_to_compare_yet(
    folder: Path, instance: dg.DagsterInstance
) -> None:
    write(folder, LOAD={}, TRANSFORM={})
    execute(instance, flow("star/a"))
    done = etl("changes")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "etl: no two successful runs of the whole flow yet, but 1\n"


def test_an_unknown_run_is_one_line_and_exit_code_1(folder: Path, instance: dg.DagsterInstance) -> None:
    write(folder, LOAD={}, TRANSFORM={})
    run = execute(instance, flow("star/a"))
    done = etl("changes", run, "moon")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "etl: there is no run moon: etl status lists the last ones, the UI all\n"


def test_the_beginning_of_an_id_must_name_one_run(folder: Path, instance: dg.DagsterInstance) -> None:
    write(folder, LOAD={}, TRANSFORM={})
    job = flow("star/a").resolve_job_def(FLOW)
    for number in (1, 2):
        instance.create_run_for_job(job, run_id=f"abcd000{number}-0000-4000-8000-000000000000")
    done = etl("changes", "abcd", "abcd0002")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "etl: 2 runs have ids that begin with abcd: write more of it\n"
    assert etl("changes", "abcd0001", "abcd0002").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [["changes", "one"], ["changes", "1", "2", "3"], ["status", "--json", "--last-success"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = etl(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")


def test_status_says_what_is_stale_and_why(folder: Path, instance: dg.DagsterInstance) -> None:
    write(folder, LOAD={}, TRANSFORM={})
    execute(instance, flow("star/dim_bike"))
    assets = {one["asset"]: (one["status"], one["why"]) for one in told("status")["assets"]}
    assert assets["source/load"] == ("fresh", [])
    assert assets["raw/bike"] == ("missing", [])
    status, why = assets["star/dim_bike"]
    assert status == "stale"
    assert why == [
        "its code changed",
        "it is now made from raw/bike too",
        "it is now made from raw/station too",
        "it is now made from source/colours too",
    ]
    assert "it is now made from raw/bike too" in etl("status").stdout
