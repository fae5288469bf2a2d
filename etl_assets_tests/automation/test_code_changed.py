"""An edit of code or of a reference file reaches everything that is made from it, and nothing else, and the source is
left alone. Without this an analyst would read what yesterday's code made of today's data.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest

import etl_assets
from etl_assets import definitions as assembled
from etl_assets import project
from etl_assets.automation import code_changed
from etl_assets.automation.code_changed import ATTEMPTS
from etl_assets.project import read
from etl_assets_tests.automation.shown import shown
from etl_assets_tests.flow import Flow, execute
from etl_assets_tests.hiring import BICYCLES

PROJECT = project.load(BICYCLES.project)
NOWHERE = "postgresql://nobody:nothing@no-such-host.invalid/none"
BIKE = {"star/dim_bike", "warehouse/dim_bike", "exports/takings", "exports/hires_workbook"}
DERIVED = ("star", "warehouse", "exports")
NAMED = 'nw.coalesce(nw.col("colour_name"), nw.col("colour")).alias("colour")'

SHOUTED = NAMED.replace(".alias(", ".str.to_uppercase().alias(")
WHISPERED = NAMED.replace(".alias(", ".str.to_lowercase().alias(")


@dataclass(frozen=True)
class Platform:
    """A flow with a history: an instance, and a source that may be gone."""

    flow: Flow
    instance: dg.DagsterInstance

    @contextmanager
    def definitions(self) -> Iterator[dg.Definitions]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.flow.environment.items():
                patch.setenv(name, value)
            yield self.flow.definitions()

    def run(
        self, job: str, request: dg.RunRequest | None = None, *selected: str
    ) -> tuple[bool, Sequence[str]]:
        """Run a job, or what a sensor asks for; whether it succeeded, and what it made."""
        with self.definitions() as defs:
            chosen = (
                request.asset_selection if request else [dg.AssetKey(name.split("/")) for name in selected]
            )
            result = defs.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                asset_selection=list(chosen or []) or None,
                tags={**request.tags, "dagster/run_key": str(request.run_key)} if request else None,
                raise_on_error=False,
            )
        made = [event.materialization.asset_key for event in result.get_asset_materialization_events()]
        return result.success, [key.to_user_string() for key in made]

    def tick(self) -> tuple[dg.RunRequest | None, str | None]:
        """What the sensor asks for, or why it asks for nothing. What it reports is recorded, as the daemon does."""
        with self.definitions() as defs:
            repository = defs.get_repository_def()
            with dg.build_sensor_context(instance=self.instance, repository_def=repository) as context:
                told = repository.get_sensor_def("code_changed").evaluate_tick(context)
        for event in told.asset_events:
            self.instance.report_runless_asset_event(event)
        assert len(told.run_requests or []) <= 1
        return next(iter(told.run_requests or []), None), told.skip_message

    def asked(self) -> dg.RunRequest:
        request, reason = self.tick()
        assert request, reason
        return request

    def skipped(self) -> str:
        request, reason = self.tick()
        assert request is None
        return reason or ""

    def stale(self) -> set[str]:
        """As the interface shows it, but for steps: nobody has asked for them."""
        with self.definitions() as defs:
            stands = shown(self.instance, defs)
        steps = {f"{group.name}/{one.name}" for group in PROJECT.steps.values() for one in group.steps}
        return {name for name, (status, _) in stands.items() if status != "fresh" and name not in steps}


def opened(folder: Path) -> dg.DagsterInstance:
    """The Dagster instance that is kept in a folder."""
    folder.mkdir(exist_ok=True)
    return dg.DagsterInstance.local_temp(str(folder))


def selected(request: dg.RunRequest) -> set[str]:
    return {key.to_user_string() for key in request.asset_selection or []}


@pytest.fixture(scope="module")
def after_two_batches(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """The URL of a source, and a folder with what two runs of the whole flow made of it."""
    url, folder = module_database(template("bicycles")), tmp_path_factory.mktemp("made")
    with opened(folder / "dagster") as instance:
        platform = Platform(Flow(url, folder / "data"), instance)
        assert platform.run("etl")[0]
        execute(url, "update hire set minutes = minutes + 1 where hire_id <= 3")
        assert platform.run("etl")[0]
    return url, folder


@pytest.fixture
def platform(after_two_batches: tuple[str, Path], tmp_path: Path) -> Iterator[Platform]:
    """A copy of that, whose source is gone: whatever runs now does without it."""
    _, folder = after_two_batches
    shutil.copytree(folder, tmp_path / "copy")
    with opened(tmp_path / "copy" / "dagster") as instance:
        yield Platform(Flow(NOWHERE, tmp_path / "copy" / "data"), instance)


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Edit a copy of the project as it is: replace a text that stands in one of its modules once."""

    def make(old: str, new: str) -> None:
        copied = tmp_path / f"edit-{len(list(tmp_path.iterdir()))}" / "bicycles"
        shutil.copytree(PROJECT.root, copied, ignore=shutil.ignore_patterns("__pycache__"))
        (module,) = [path for path in copied.glob("*.py") if path.read_text().count(old)]
        assert module.read_text().count(old) == 1
        module.write_text(module.read_text().replace(old, new))
        edited = read(copied)
        monkeypatch.setattr(assembled, "load", lambda _: edited)

    return make


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the colours' reference file that may be edited."""
    copied = tmp_path / "reference" / "colours.csv"
    copied.parent.mkdir()
    shutil.copy(PROJECT.references["colours"], copied)
    references = {"colours": copied}
    moved = replace(PROJECT, references=references, inputs=replace(PROJECT.inputs, references=references))
    monkeypatch.setattr(assembled, "load", lambda _: moved)
    return copied


def test_after_a_run_of_the_flow_nothing_is_stale_and_the_sensor_rests(platform: Platform) -> None:
    assert platform.stale() == set()
    assert platform.skipped() == "everything is what code, files and batches make of it"


def test_editing_a_comment_makes_nothing_stale(platform: Platform, edit: Callable[[str, str], None]) -> None:
    edit(
        "# A left join: no bicycle vanishes for want of a station.",
        "# A left join: see above.\n",
    )
    assert platform.stale() == set()
    assert platform.skipped().startswith("everything is")


def test_editing_the_logic_of_a_dimension_makes_again_what_it_reaches_and_nothing_else(
    platform: Platform, edit: Callable[[str, str], None]
) -> None:
    edit(NAMED, SHOUTED)
    assert platform.stale() == {"star/dim_bike"}
    request = platform.asked()
    assert selected(request) == BIKE
    assert request.tags["etl/why"] == "star/dim_bike: its code changed"
    success, made = platform.run("derive", request)
    assert success
    assert sorted(made) == sorted(BIKE)
    assert platform.stale() == set()
    assert platform.skipped().startswith("everything is")
    assert platform.flow.dump()["dim_bike"] == platform.flow.lake_dump()["dim_bike"]
    names = platform.flow.query("SELECT DISTINCT colour FROM star.dim_bike")
    assert names
    assert all(name == name.upper() for (name,) in names)


def test_editing_a_reference_file_makes_again_what_is_made_from_it(
    platform: Platform, reference: Path
) -> None:
    assert platform.skipped().startswith("everything is"), "a copy is as good as the original"
    reference.write_text(reference.read_text().replace("red", "scarlet"))
    request = platform.asked()
    assert platform.stale() == {"star/dim_bike"}
    assert selected(request) == BIKE
    assert platform.run("derive", request)[0]
    assert platform.stale() == set()
    assert platform.skipped().startswith("everything is")
    assert ("scarlet",) in platform.flow.query("SELECT colour FROM star.dim_bike")


def test_editing_the_logic_of_a_fact_rebuilds_it_from_all_batches(
    platform: Platform, edit: Callable[[str, str], None]
) -> None:
    records = "SELECT hire_record_id, hire_id, batch FROM star.fact_hire ORDER BY 1"
    before = platform.flow.query(records)
    assert {batch for _, _, batch in before} == {1, 2}
    edit(
        '"returned_on",\n        "minutes",', '"returned_on",\n        nw.lit(1, nw.Int32).alias("minutes"),'
    )
    assert platform.stale() == {"star/fact_hire"}
    request = platform.asked()
    assert selected(request) & {"star/dim_bike", "star/fact_payment", "warehouse/fact_payment"} == set()
    assert {"star/fact_hire", "star/dim_date", "warehouse/fact_hire"} <= selected(request)
    assert platform.run("derive", request)[0]
    assert platform.flow.query("SELECT DISTINCT minutes FROM star.fact_hire") == [(1,)]
    assert platform.flow.query(records) == before, "surrogate keys and batches stay"
    assert platform.stale() == set()


def test_batches_that_were_landed_and_not_derived_are_derived(
    after_two_batches: tuple[str, Path], platform: Platform
) -> None:
    url, _ = after_two_batches
    connected = Platform(Flow(url, platform.flow.data), platform.instance)
    execute(url, "update bike set model = 'Zora', last_updated = now() where bike_id = 1")
    raw = [key for key in platform.instance.get_asset_keys() if key.path[0] == "raw"]
    assert connected.run("etl", None, *[key.to_user_string() for key in raw])[0]
    request = platform.asked()
    assert {"star/dim_bike", "warehouse/dim_bike"} <= selected(request)
    assert "star/dim_station" not in selected(request)
    assert platform.run("derive", request)[0]
    assert platform.stale() == set()
    assert platform.flow.query("SELECT model FROM star.dim_bike WHERE bike_id = 1") == [("Zora",)]


def test_one_change_starts_one_run_and_a_failed_one_is_tried_again_so_many_times(
    platform: Platform, edit: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(NAMED, SHOUTED)
    first = platform.asked()
    assert platform.asked().run_key == first.run_key, "nothing has come of the first one yet"
    # All bicycles get the same id: the table is not published, and the run fails.
    edit('named.select("bike_id", ', 'named.select(nw.lit(1, nw.Int32).alias("bike_id"), ')
    keys = []
    for _ in range(ATTEMPTS):
        with monkeypatch.context() as patch:
            patch.setattr(code_changed, "PAUSE_SECONDS", 0)
            request = platform.asked()
        keys.append(request.run_key)
        success, made = platform.run("derive", request)
        assert (success, made) == (False, ["star/dim_bike"])  # it is told that it stays
        if len(keys) < ATTEMPTS:
            assert re.search(r"next attempt in \d+ s, run \w{8} \(derive, ", platform.skipped())
    assert len(set(keys)) == ATTEMPTS
    assert first.run_key not in keys
    assert "gave up after 3 runs" in platform.skipped()
    assert platform.flow.query("SELECT count(*) FROM star.dim_bike WHERE NOT deleted")[0][0] > 1
    edit(NAMED, WHISPERED)
    assert platform.run("derive", platform.asked())[0], "the next edit begins anew"


@pytest.mark.fault("F4")
def test_nothing_is_started_while_a_run_goes_on(platform: Platform, edit: Callable[[str, str], None]) -> None:
    edit(NAMED, SHOUTED)
    with platform.definitions() as defs:
        job = defs.resolve_job_def("etl")
        run = platform.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert f"waits for run {run.run_id[:8]} (etl, by hand), which is started" in platform.skipped()
    platform.instance.delete_run(run.run_id)
    assert selected(platform.asked()) == BIKE


def test_before_the_first_run_of_the_flow_there_is_nothing_to_derive(tmp_path: Path) -> None:
    with opened(tmp_path / "dagster") as instance:
        reason = Platform(Flow(NOWHERE, tmp_path / "data"), instance).skipped()
    assert reason.startswith("the first run of the flow is still to come (job etl): raw/")


def test_model_files_that_are_not_where_they_should_be_hold_up_nothing_else(
    platform: Platform, tmp_path: Path, edit: Callable[[str, str], None]
) -> None:
    flow = replace(platform.flow, settings={"ETL_MODELS": f"load={tmp_path}/none/*.sql"})
    misled = replace(platform, flow=flow)
    assert misled.skipped().startswith(f"source/load: {tmp_path}/none is not a folder; make it, or")
    edit(NAMED, SHOUTED)
    assert selected(misled.asked()) == BIKE


def test_code_that_was_edited_and_not_loaded_is_not_run_beside_the_loaded_one(
    platform: Platform, tmp_path: Path, edit: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package" / "etl_assets"
    shutil.copytree(Path(etl_assets.__file__).parent, package)
    monkeypatch.setattr(etl_assets, "__file__", str(package / "__init__.py"))
    edit(NAMED, SHOUTED)
    with platform.definitions() as defs:
        repository = defs.get_repository_def()
        sensor = repository.get_sensor_def("code_changed")
        with dg.build_sensor_context(instance=platform.instance, repository_def=repository) as context:
            assert sensor.evaluate_tick(context).run_requests
            (package / "star" / "facts.py").write_text("# edited\n")
            assert "reload the code location" in (sensor.evaluate_tick(context).skip_message or "")


def test_the_circuit_breaker_holds_it_back(platform: Platform, edit: Callable[[str, str], None]) -> None:
    broken = replace(platform, flow=replace(platform.flow, settings={"ETL_BREAKER_FAILURES": "1"}))
    edit(NAMED, SHOUTED)
    assert broken.asked().asset_selection
    assert not broken.run("etl")[0], "there is no source"
    assert "circuit breaker" in broken.skipped()
