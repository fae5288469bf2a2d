"""The sweep on a schedule: the parts of the tables in turn, what is found mended and told."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.automation.breaker import Breaker
from etl_assets.automation.sweep import next_part, sweep_every_night
from etl_assets.raw.assets import PARTS, STRAYS, SWEPT
from etl_assets_tests.commands import etl, use
from etl_assets_tests.flow import Flow

NIGHT = datetime(2026, 3, 1, 4, tzinfo=UTC)


@pytest.fixture
def flow(
    database: Callable[..., str],
    template: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Flow:
    flow = Flow(database(template("totesys")), tmp_path)
    use(monkeypatch, flow.data, ETL_SOURCE_URL=flow.url)
    return flow


@pytest.fixture
def instance(flow: Flow) -> Iterator[dg.DagsterInstance]:
    assert etl("run").exit_code == 0
    with dg.DagsterInstance.from_config(str(flow.data / "dagster")) as found:
        yield found


def falsify(flow: Flow) -> None:
    """Let the lake hold two names that the source never had, as if a change of theirs had been missed."""
    path = flow.lake / "raw/batches/000001.json"
    manifest = json.loads(path.read_text())
    rows = manifest["tables"]["staff"]["changes"]["rows"]
    landed = flow.lake / rows["path"]
    header, *lines = landed.read_text().splitlines()
    lines[2:4] = [line.replace(line.split(",")[1], "Nobody", 1) for line in lines[2:4]]
    landed.write_text("\n".join([header, *lines, ""]))
    content = landed.read_bytes()
    rows |= {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))


@pytest.mark.fault("F27")
def test_parts_are_swept_in_turn_and_what_is_found_is_mended_and_told(
    flow: Flow, instance: dg.DagsterInstance
) -> None:
    assert next_part(instance) == 1
    assert etl("run", "--sweep").exit_code == 0
    assert next_part(instance) == 2
    falsify(flow)
    assert json.loads(etl("verify", "--thorough", "--json").stdout)["equal"] is False
    found = [etl("run", "--sweep") for _ in range(PARTS)]
    assert [done.exit_code for done in found] == [0] * PARTS
    (told,) = [done.stdout for done in found if "other than the lake held" in done.stdout]
    assert "raw/staff: 2 rows were other than the lake held, though no row version said so" in told
    assert next_part(instance) == 2
    runs = instance.get_runs(dg.RunsFilter(tags={SWEPT: [str(part) for part in range(1, PARTS + 1)]}))
    assert len(runs) == PARTS + 1
    assert [run.tags[STRAYS] for run in runs if STRAYS in run.tags] == ["staff 2"]
    assert json.loads(etl("verify", "--thorough", "--json").stdout)["equal"] is True


def test_every_night_the_next_part_is_asked_for(flow: Flow, instance: dg.DagsterInstance) -> None:
    definitions = flow.definitions()
    with dg.build_schedule_context(
        instance, scheduled_execution_time=NIGHT, repository_def=definitions.get_repository_def()
    ) as context:
        (request,) = sweep_every_night(Breaker(None)).evaluate_tick(context).run_requests or []
    assert request.tags[SWEPT] == "1"
    job = definitions.resolve_job_def("etl")
    result = job.execute_in_process(run_config=request.run_config, instance=instance, tags=request.tags)
    assert result.success
    assert next_part(instance) == 2
