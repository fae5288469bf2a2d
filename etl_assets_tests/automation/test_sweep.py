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
from etl_assets.cli import environment
from etl_assets.definitions import definitions
from etl_assets.raw.assets import PARTS, STRAYS, SWEPT
from etl_assets_tests.automation.items import lay_out
from etl_assets_tests.commands import etl, use

NIGHT = datetime(2026, 3, 1, 4, tzinfo=UTC)


@pytest.fixture
def lake(database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    url = database()
    lay_out(url, tmp_path)
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL=url)
    return tmp_path / "data/lake"


@pytest.fixture
def instance(lake: Path) -> Iterator[dg.DagsterInstance]:
    assert etl("run").exit_code == 0
    with dg.DagsterInstance.from_config(str(lake.parent / "dagster")) as found:
        yield found


def falsify(lake: Path) -> None:
    """Let the lake hold two names that the source never had, as if a change of theirs had been missed."""
    path = lake / "raw/batches/000001.json"
    manifest = json.loads(path.read_text())
    rows = manifest["tables"]["item"]["changes"]["rows"]
    landed = lake / rows["path"]
    header, *lines = landed.read_text().splitlines()
    lines[2:4] = [line.replace(line.split(",")[1], "Nobody", 1) for line in lines[2:4]]
    landed.write_text("\n".join([header, *lines, ""]))
    content = landed.read_bytes()
    rows |= {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))


@pytest.mark.fault("F27")
def test_parts_are_swept_in_turn_and_what_is_found_is_mended_and_told(
    lake: Path, instance: dg.DagsterInstance
) -> None:
    assert next_part(instance) == 1
    assert etl("run", "--sweep").exit_code == 0
    assert next_part(instance) == 2
    falsify(lake)
    assert json.loads(etl("verify", "--thorough", "--json").stdout)["equal"] is False
    found = [etl("run", "--sweep") for _ in range(PARTS)]
    assert [done.exit_code for done in found] == [0] * PARTS
    (told,) = [done.stdout for done in found if "other than the lake held" in done.stdout]
    assert "raw/item: 2 rows were other than the lake held, though no row version said so" in told
    assert next_part(instance) == 2
    runs = instance.get_runs(dg.RunsFilter(tags={SWEPT: [str(part) for part in range(1, PARTS + 1)]}))
    assert len(runs) == PARTS + 1
    assert [run.tags[STRAYS] for run in runs if STRAYS in run.tags] == ["item 2"]
    assert json.loads(etl("verify", "--thorough", "--json").stdout)["equal"] is True


def test_every_night_the_next_part_is_asked_for(instance: dg.DagsterInstance) -> None:
    loaded = definitions(environment.settings())
    with dg.build_schedule_context(
        instance, scheduled_execution_time=NIGHT, repository_def=loaded.get_repository_def()
    ) as context:
        (request,) = sweep_every_night(Breaker(None)).evaluate_tick(context).run_requests or []
    assert request.tags[SWEPT] == "1"
    job = loaded.resolve_job_def("etl")
    result = job.execute_in_process(run_config=request.run_config, instance=instance, tags=request.tags)
    assert result.success
    assert next_part(instance) == 2
