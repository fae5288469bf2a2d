"""What we call stale is what the interface shows as stale. Were there two truths, the sensor would mend what looks well,
or leave what does not.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.automation.staleness import downstream, standings
from etl_assets_tests.automation import ages
from etl_assets_tests.automation.shown import shown


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def ours(instance: dg.DagsterInstance, flow: dg.Definitions) -> Mapping[str, tuple[str, list[str]]]:
    found = standings(instance, flow.resolve_asset_graph())
    return {
        key.to_user_string(): (one.status, sorted(cause.kind for cause in one.causes))
        for key, one in found.items()
    }


def agreed(instance: dg.DagsterInstance, flow: dg.Definitions) -> Mapping[str, tuple[str, list[str]]]:
    """What is not fresh, as we and the interface see it."""
    found = ours(instance, flow)
    assert found == shown(instance, flow)
    return {name: standing for name, standing in found.items() if standing[0] != "fresh"}


def materialize(instance: dg.DagsterInstance, flow: dg.Definitions, *names: str) -> None:
    job = flow.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name.split("/")) for name in names]
    assert job.execute_in_process(instance=instance, asset_selection=keys or None).success


def report(instance: dg.DagsterInstance, name: str, version: str | None = None) -> None:
    tags = {"dagster/data_version": version} if version else {}
    instance.report_runless_asset_event(dg.AssetMaterialization(name.split("/"), tags=tags))


def test_what_was_never_made_is_missing_and_what_was_just_made_is_fresh(instance: dg.DagsterInstance) -> None:
    assert {status for status, _ in agreed(instance, ages.before).values()} == {"missing"}
    materialize(instance, ages.before)
    assert agreed(instance, ages.before) == {}


def test_edits_of_code_and_of_dependencies_show(instance: dg.DagsterInstance) -> None:
    materialize(instance, ages.before)
    assert agreed(instance, ages.after) == {
        "star/code": ("stale", ["code"]),
        "star/more": ("stale", ["inputs"]),
        "star/fewer": ("stale", ["inputs"]),
        "star/new": ("missing", []),
    }
    # The next layer only once the one before it has other data.
    materialize(instance, ages.after, "star/code", "star/more", "star/fewer", "star/new")
    assert agreed(instance, ages.after) == {"star/from_code": ("stale", ["data"])}
    materialize(instance, ages.after, "star/from_code")
    assert agreed(instance, ages.after) == {}


def test_an_observed_file_makes_stale_what_is_made_from_it(instance: dg.DagsterInstance) -> None:
    materialize(instance, ages.before)
    report(instance, "source/file", "file")
    assert agreed(instance, ages.before) == {}
    report(instance, "source/file", "another")
    assert agreed(instance, ages.before) == {"star/from_file": ("stale", ["data"])}


def test_an_external_table_makes_nothing_stale_until_it_has_a_version(instance: dg.DagsterInstance) -> None:
    materialize(instance, ages.before)
    report(instance, "source/table", "1")
    assert agreed(instance, ages.before) == {"raw/a": ("stale", ["data"]), "raw/b": ("stale", ["data"])}


def test_what_is_made_again_with_the_same_data_makes_nothing_stale(instance: dg.DagsterInstance) -> None:
    materialize(instance, ages.before)
    materialize(instance, ages.before, "star/same", "raw/a")
    assert agreed(instance, ages.before) == {}
    materialize(instance, ages.before, "star/unversioned")
    assert agreed(instance, ages.before) == {"star/from_unversioned": ("stale", ["data"])}


def test_what_was_made_without_its_inputs_shows_once_they_are_there(instance: dg.DagsterInstance) -> None:
    materialize(instance, ages.before, "star/from_file")
    assert "star/from_file" not in agreed(instance, ages.before)
    materialize(instance, ages.before, "source/file")
    assert agreed(instance, ages.before)["star/from_file"] == ("stale", ["data"])


def test_what_was_reported_by_hand_is_judged_by_its_time(instance: dg.DagsterInstance) -> None:
    materialize(instance, ages.before)
    report(instance, "star/from_file", "by hand")
    assert agreed(instance, ages.before) == {}
    report(instance, "source/file", "another")
    assert agreed(instance, ages.before) == {"star/from_file": ("stale", ["data"])}
    report(instance, "star/code")
    assert "star/from_code" in agreed(instance, ages.before)


def test_downstream_is_all_that_follows() -> None:
    graph = ages.after.resolve_asset_graph()
    followed = downstream(graph, [dg.AssetKey(["source", "file"]), dg.AssetKey(["star", "same"])])
    assert {key.to_user_string() for key in followed} == {
        "source/file", "star/from_file", "star/same", "star/from_same", "star/new",
    }  # fmt: skip
