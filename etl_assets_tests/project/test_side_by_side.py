"""Two projects of one model and of the same names: in one warehouse, each in schemas of its own, and in one Dagster."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import duckdb
import psycopg2
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from etl_assets.component import project_definitions
from etl_assets.errors import SettingsError
from etl_assets.presentation import JOBS, Naming
from etl_assets.settings import Settings
from etl_assets.stand_ins.bigquery import BigQueryStandIn
from etl_assets_tests.capture.comparing import execute
from etl_assets_tests.commands import etl, use
from etl_assets_tests.project.test_outside import MODULES, SOURCE

NAMES = ("one", "two")
ENGINES = ("duckdb", "postgresql", "bigquery")


class Projects:
    """Two folders, each with a project that is called as the other, and a source of the same tables."""

    def __init__(self, root: Path, database: Callable[..., str], patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.patch = patch
        self.sources = {name: database() for name in NAMES}
        for index, (name, url) in enumerate(self.sources.items(), 1):
            execute(url, *SOURCE, f"DELETE FROM parts.sale WHERE no > {40 - 10 * index}")
            for module, text in MODULES.items():
                path = root / name / "my_parts" / module
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text.lstrip())

    def settings(self, name: str, **more: str) -> dict[str, str]:
        return {
            "ETL_PROJECT": str(self.root / name / "my_parts"),
            "ETL_DATA": str(self.root / name / "data"),
            "ETL_SOURCE_URL": self.sources[name],
            **more,
        }

    def as_(self, name: str, **more: str) -> None:
        """Let the settings be those of a project."""
        use(self.patch, self.root / name / "data", **self.settings(name, **more))

    def pieces(self, name: str) -> list[tuple[str, int]]:
        """What the report of a project has to say, as its source has it."""
        connection = psycopg2.connect(self.sources[name])
        with connection, connection.cursor() as cursor:
            cursor.execute(
                'SELECT upper(p.name), sum(s.pieces) FROM parts.sale s JOIN parts."Part" p ON p.id = s.part '
                "GROUP BY 1 ORDER BY 1"
            )
            found = [(str(part), int(pieces)) for part, pieces in cursor.fetchall()]
        connection.close()
        return found


@pytest.fixture
def projects(tmp_path: Path, database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Projects:
    return Projects(tmp_path, database, monkeypatch)


def reported(url: str, place: str, stand_in: BigQueryStandIn) -> list[tuple[str, int]]:
    """A report as the engine itself gives it."""
    asked = f"SELECT name, pieces FROM {place}.pieces_by_part ORDER BY name"
    if url.startswith("duckdb"):
        with duckdb.connect(url.removeprefix("duckdb:///"), read_only=True) as warehouse:
            return warehouse.sql(asked).fetchall()
    if url.startswith("postgresql"):
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute(asked)
            found = [(str(part), int(pieces)) for part, pieces in cursor.fetchall()]
        connection.close()
        return found
    rows: list[tuple[str, int]] = stand_in.tables.database.execute(asked).fetchall()
    return rows


@pytest.mark.many
@pytest.mark.parametrize("engine", ENGINES)
def test_two_projects_share_a_warehouse(
    engine: str, projects: Projects, database: Callable[..., str], stand_in: BigQueryStandIn, tmp_path: Path
) -> None:
    # A file that is called as one of the schemas: DuckDB would take one for the other.
    shared = {
        "duckdb": f"duckdb:///{tmp_path / 'shop_one.duckdb'}",
        "postgresql": database(),
        "bigquery": f"bigquery://{stand_in.project}?location=EU",
    }[engine]

    def using(name: str, schema: str = "") -> None:
        projects.as_(name, ETL_WAREHOUSE_URL=shared, ETL_WAREHOUSE_SCHEMA=schema or f"shop_{name}")

    for name in NAMES:
        using(name)
        done = etl("run")
        assert done.exit_code == 0, done.output
    for name in NAMES:
        assert reported(shared, f"shop_{name}_reporting", stand_in) == projects.pieces(name)
    assert projects.pieces("one") != projects.pieces("two")

    execute(
        projects.sources["one"],
        "UPDATE parts.sale SET pieces = 9 WHERE no = 1",
        "DELETE FROM parts.sale WHERE no = 2",
    )
    using("one")
    assert etl("run").exit_code == 0
    for name in NAMES:
        using(name)
        verified = etl("verify", "--thorough")
        assert verified.exit_code == 0, verified.output
        assert reported(shared, f"shop_{name}_reporting", stand_in) == projects.pieces(name)
        status = json.loads(etl("status", "--json").stdout)
        assert status["star"]["tables"]["fact_sale"]["newest"]
        assert status["star"]["no_longer_declared"] == {}
    assert etl("explain", "sale", "3").exit_code == 0

    # The schema of the other one is refused, by a load and by what would remove it.
    using("two", "shop_one")
    refused = etl("run")
    assert refused.exit_code == 1
    last = refused.stderr.splitlines()[-1]
    assert "schema shop_one of the warehouse" in last
    assert "ETL_WAREHOUSE_SCHEMA" in last
    star = tmp_path / "two/my_parts/star.py"
    star.write_text(star.read_text().replace("fact_sale", "fact_sold"))
    reports = tmp_path / "two/my_parts/reports.py"
    reports.write_text(reports.read_text().replace("fact_sale", "fact_sold"))
    gone = subprocess.run(
        [sys.executable, "-m", "etl_assets.cli", "retire", "--yes"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert gone.returncode == 1, gone.stdout
    assert "schema shop_one of the warehouse" in gone.stderr
    assert reported(shared, "shop_one_reporting", stand_in) == projects.pieces("one")


@pytest.mark.many
@pytest.mark.parametrize("engine", ENGINES[:2])
def test_they_load_it_at_once(
    engine: str, projects: Projects, database: Callable[..., str], tmp_path: Path, stand_in: BigQueryStandIn
) -> None:
    shared = f"duckdb:///{tmp_path / 'shared.duckdb'}" if engine == "duckdb" else database()
    running = []
    for name in NAMES:
        projects.as_(name, ETL_WAREHOUSE_URL=shared, ETL_WAREHOUSE_SCHEMA=name)
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "etl_assets.cli", "run"], stderr=subprocess.PIPE, text=True
            )
        )
    told = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    for name in NAMES:
        assert reported(shared, f"{name}_reporting", stand_in) == projects.pieces(name)


@pytest.mark.parametrize(
    "schema", ["Shop", "reporting", "a_reporting", "a_staging", "pg_a", "a-b", "main", 'a"b', "1a", "a" * 51]
)
def test_a_schema_that_can_t_be_used_is_refused_when_settings_are_read(schema: str) -> None:
    with pytest.raises(SettingsError, match="ETL_WAREHOUSE_SCHEMA=") as refused:
        Settings.read({"ETL_WAREHOUSE_SCHEMA": schema})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("prefix", ["a b", "a//b", "/a", "a/", "a__b", "ä", "1a"])
def test_a_prefix_that_dagster_would_refuse_is_refused_when_settings_are_read(prefix: str) -> None:
    with pytest.raises(SettingsError, match="ETL_KEY_PREFIX="):
        Settings.read({"ETL_KEY_PREFIX": prefix})


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as made:
        yield made


def ticked(definitions: dg.Definitions, instance: dg.DagsterInstance, sensor: str) -> str:
    """Why a sensor does nothing."""
    repository = definitions.get_repository_def()
    found = definitions.resolve_sensor_def(sensor)
    needed = {
        name: one
        for name, one in (definitions.resources or {}).items()
        if name in found.required_resource_keys
    }
    context = dg.build_sensor_context(
        instance, repository_def=repository, sensor_name=sensor, resources=needed
    )
    return str(found.evaluate_tick(context).skip_message)


def test_two_projects_are_merged_in_one_dagster(projects: Projects, instance: dg.DagsterInstance) -> None:
    projects.as_("one", DAGSTER_HOME=instance.root_directory)
    for name in ("ETL_PROJECT", "ETL_DATA", "ETL_SOURCE_URL"):
        projects.patch.delenv(name)
    prefixes = {"one": "one", "two": "company/two"}
    merged = dg.Definitions.merge(
        *(
            project_definitions(settings.pop("ETL_PROJECT"), settings)
            for name, prefix in prefixes.items()
            for settings in [projects.settings(name, ETL_KEY_PREFIX=prefix, ETL_EVERY="0")]
        )
    )
    dg.Definitions.validate_loadable(merged)
    jobs = {job.name for job in merged.resolve_all_job_defs() if not job.name.startswith("__")}
    assert jobs == {f"{name}_{job}" for name in ("one", "company_two") for job in JOBS}
    keys = {spec.key.to_user_string() for spec in merged.resolve_all_asset_specs()}
    assert {"one/star/fact_sale", "company/two/star/fact_sale", "one/source/colours"} <= keys
    for name in ("one", "company_two"):
        result = merged.resolve_job_def(f"{name}_etl").execute_in_process(instance=instance)
        made = {one.materialization.asset_key.path[-3] for one in result.get_asset_materialization_events()}
        assert (result.success, made) == (True, {name.rpartition("_")[2]})
        assert merged.resolve_job_def(f"{name}_verify").execute_in_process(instance=instance).success
    for name in NAMES:
        with duckdb.connect(projects.root / name / "data/warehouse.duckdb", read_only=True) as warehouse:
            found = warehouse.sql(
                "SELECT name, pieces FROM reporting.pieces_by_part ORDER BY name"
            ).fetchall()
        assert found == projects.pieces(name)

    execute(projects.sources["two"], "DELETE FROM parts.sale WHERE no = 1")
    assert "no table was changed" in ticked(merged, instance, "one_source_changed")
    for _ in range(50):  # counters come up to a second late
        if (told := ticked(merged, instance, "company_two_source_changed")) == "None":
            break
        time.sleep(0.1)
    assert told == "None"  # it asks for a run
    for name in ("one", "company_two"):
        assert "everything is what code" in ticked(merged, instance, f"{name}_code_changed")
    assert merged.resolve_job_def("company_two_etl").execute_in_process(instance=instance).success

    # The command line of each sees its own, whether keys are written with the prefix or without.
    last = {}
    for name, prefix in prefixes.items():
        projects.as_(name, ETL_KEY_PREFIX=prefix, DAGSTER_HOME=instance.root_directory)
        status = json.loads(etl("status", "--json").stdout)
        assert {one["asset"] for one in status["assets"]} == {
            key
            for key in keys
            if key.startswith(f"{prefix}/") and f"{prefix}/source" not in key and "proof" not in key
        } | {f"{prefix}/source/colours"}
        assert {one["status"] for one in status["assets"]} == {"fresh"}
        last[name] = status["runs"]["last_success"]
        for selection in ("star/dim_part", f"{prefix}/star/dim_part", "group:star"):
            done = etl("run", "--select", selection)
            assert done.exit_code == 0, done.output
        assert etl("run", "--rebuild", "star/dim_part").exit_code == 0
        done = etl("changes")
        assert done.exit_code == 0
        assert "nothing changed" in done.stdout
        assert etl("breaker").exit_code == 0
    assert {name: one["job"] for name, one in last.items()} == {"one": "one_etl", "two": "company_two_etl"}


def test_a_run_is_of_the_project_whose_prefix_it_has_and_of_no_longer_one() -> None:
    shop = Naming(("shop",))
    runs = {
        "shop_etl": True,
        "shop_eu_etl": False,
        "etl": False,
        "shop_mine": False,
    }
    assert {name: shop.owns(dg.DagsterRun(name)) for name in runs} == runs
    picked = {
        ("shop", "star", "a"): True,
        ("shop", "eu", "star", "a"): False,
        ("star", "a"): False,
        ("a",): False,
    }
    for path, ours in picked.items():
        run = dg.DagsterRun("__ASSET_JOB", asset_selection={dg.AssetKey(list(path))})
        assert shop.owns(run) is ours, path


LOCATION = """
import os
from etl_assets.component import project_definitions

defs = project_definitions({project!r}, {settings!r})
"""


def test_two_projects_are_code_locations_of_one_dagster(
    projects: Projects, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    files = []
    for name in NAMES:
        settings = projects.settings(name, ETL_KEY_PREFIX=name)
        file = tmp_path / f"{name}.py"
        file.write_text(LOCATION.format(project=settings.pop("ETL_PROJECT"), settings=settings))
        files.append(f"  - python_file: {{relative_path: {file.name}, location_name: {name}}}\n")
    (tmp_path / "workspace.yaml").write_text("load_from:\n" + "".join(files))
    target = WorkspaceFileTarget([str(tmp_path / "workspace.yaml")])
    with WorkspaceProcessContext(instance, target) as workspace:
        request = workspace.create_request_context()
        assert [e.load_error for e in request.get_code_location_entries().values()] == [None, None]
        graph = request.asset_graph
        stars = {key.to_user_string() for key in graph.get_all_asset_keys() if "star" in key.path}
        assert {"one/star/fact_sale", "two/star/fact_sale"} <= stars
        names = [
            {
                job.name
                for repository in location.get_repositories().values()
                for job in repository.get_all_jobs()
            }
            for location in request.code_locations
        ]
        assert {name for name in names[0] & names[1] if not name.startswith("__")} == set()
    for name in NAMES:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "dagster",
                "job",
                "execute",
                "-f",
                str(tmp_path / f"{name}.py"),
                "-j",
                f"{name}_etl",
            ],
            env={**os.environ, "DAGSTER_HOME": instance.root_directory},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with duckdb.connect(projects.root / name / "data/warehouse.duckdb", read_only=True) as warehouse:
            found = warehouse.sql(
                "SELECT name, pieces FROM reporting.pieces_by_part ORDER BY name"
            ).fetchall()
        assert found == projects.pieces(name)
    done_jobs = {run.job_name: run.status.value for run in instance.get_runs()}
    assert done_jobs == {"one_etl": "SUCCESS", "two_etl": "SUCCESS"}
