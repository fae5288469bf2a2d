"""Dagster's history stays small: what a run leaves in it is bounded, and all of it can be read."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from etl_assets.automation.events import SmallEventLog, packed, unpacked
from etl_assets.automation.history import UNCHANGED_SINCE
from etl_assets.cli import environment
from etl_assets.cost import PROCESSOR, SECONDS
from etl_assets.raw.assets import OF_COPY
from etl_assets.totesys.demo.generator import Variant
from etl_assets.totesys.demo.simulator import play_day
from etl_assets_tests.commands import etl, use

CHANGED, UNCHANGED = 200_000, 50_000
"""Bytes that a run of the demo's assets may leave: with a day's changes, and where nothing changed."""


@pytest.fixture(scope="module")
def history(
    module_database: Callable[..., str],
    template: Callable[[Variant], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, list[int]]]:
    """The home of Dagster after five runs, with what each added to it: a first one, two with few changes, two without."""
    url, folder = module_database(template("totesys")), tmp_path_factory.mktemp("history")
    home = folder / "data/dagster"
    added, before = [], 0
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder / "data", ETL_SOURCE_URL=url)
        for day in (None, 1, 2, None, None):
            if day:
                play_day(url, orders=10, seed=day)
            done = etl("run", "--json")
            assert json.loads(done.stdout)["success"], done.stderr
            now = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
            added.append(now - before)
            before = now
        yield home, added


@pytest.mark.places
def test_a_run_leaves_little_in_the_history(history: tuple[Path, list[int]]) -> None:
    _, (_, *changed, first_without, second_without) = history
    print(changed, first_without, second_without)  # noqa: T201
    assert max(changed) <= CHANGED
    assert second_without <= UNCHANGED


def test_what_it_leaves_can_be_read_and_says_what_happened(history: tuple[Path, list[int]]) -> None:
    home, _ = history
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with environment.open_instance() as instance:
            runs = [run for run in instance.get_runs() if "etl/unchanged_since" not in run.tags]
            told = {
                entry.dagster_event.event_type_value
                for entry in instance.all_logs(runs[0].run_id)
                if entry.dagster_event
            }
            made = instance.get_latest_materialization_event(dg.AssetKey(["star", "fact_sales_order"]))
            said = runs[0].tags["etl/batch"]
    assert re.fullmatch(
        r"batch 000003 as of 20..-..-.. ..:..:.. UTC: .*sales_order \+.*; equal in source, raw, star, warehouse",
        said,
    )
    assert {"PIPELINE_START", "STEP_START", "STEP_SUCCESS", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION",
            "PIPELINE_SUCCESS"} <= told  # fmt: skip
    assert "STEP_OUTPUT" not in told  # only who goes on with a run that failed needs it
    assert made
    assert made.asset_materialization
    assert {"rows new", "preview"} <= set(made.asset_materialization.metadata)


def test_each_asset_says_what_it_cost_and_no_figure_speaks_of_several(
    history: tuple[Path, list[int]],
) -> None:
    home, _ = history
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with environment.open_instance() as instance:
            runs = [run.run_id for run in instance.get_runs() if UNCHANGED_SINCE not in run.tags]
            changed, first = ([*figures(instance, run_id)] for run_id in (runs[0], runs[-1]))
    for told, suffix in ((changed, ""), (first, " of the first load")):
        for stage, processor in (
            ("raw", "processor seconds of its thread"),
            ("star", PROCESSOR),
            ("warehouse", PROCESSOR),
        ):
            names = {
                f"{name}{suffix}"
                for name in (SECONDS, processor, "peak MiB of the process", "rows per second")
            }
            # Of dimensions, which are loaded whole, a first load is like any other.
            made = [one for where, one in told if where == stage and one.keys() & {f"{SECONDS}{suffix}"}]
            assert len(made) > 2, stage
            assert all(names <= one.keys() for one in made), stage
            assert min(one[f"{SECONDS}{suffix}"] for one in made) > 0, stage
            assert len({one[f"{SECONDS}{suffix}"] for one in made}) > len(made) // 2, "shared seconds"
    shares = [one[f"{OF_COPY} of the first load"] for where, one in first if where == "raw"]
    assert len(shares) > 5
    assert all(0 < share < 1 for share in shares)
    assert not any(OF_COPY in one for _, one in changed), "a look at what changed is no copy"
    published = [one for where, one in changed if where == "exports"]
    assert all({SECONDS, PROCESSOR, "bytes", "rows per second"} <= one.keys() for one in published)


def figures(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The stage of each asset that a run made, and what it says of it."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        made = entry.asset_materialization
        assert made
        yield made.asset_key.path[-2], {name: value.value for name, value in made.metadata.items()}


@pytest.mark.parametrize(
    "text", ["", "{}", '{"__class__": "EventLogEntry", "message": "é\\u0000 🎒"}', "x" * 100_000]
)
def test_an_event_is_unpacked_as_it_was(text: str) -> None:
    assert unpacked(packed(text)) == text == unpacked(text)


def test_events_that_dagster_s_own_storage_wrote_are_read_and_carried_on(tmp_path: Path) -> None:
    @dg.asset
    def one() -> None: ...

    def stored(events: type[SqliteEventLogStorage]) -> dg.DagsterInstance:
        config = {
            "telemetry": {"enabled": False},
            "event_log_storage": {
                "module": events.__module__,
                "class": events.__name__,
                "config": {"base_dir": str(tmp_path / "history/runs")},
            },
        }
        return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path), overrides=config))

    ids = []
    for kind in (SqliteEventLogStorage, SmallEventLog):
        with stored(kind) as instance:
            ids.append(dg.materialize([one], instance=instance).run_id)
    with stored(SmallEventLog) as instance:
        assert [len(instance.get_run_step_stats(run_id)) for run_id in ids] == [1, 1]
        found = instance.fetch_materializations(dg.AssetKey("one"), limit=10).records
        assert {record.run_id for record in found} == set(ids)
    sizes = [(tmp_path / "history/runs" / f"{run_id}.db").stat().st_size for run_id in ids]
    assert sizes[1] < sizes[0] / 3
