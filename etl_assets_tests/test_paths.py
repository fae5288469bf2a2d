"""A path is a path: no folder, file or table name means anything to the engines that read what lies there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from etl_assets.cli import environment
from etl_assets.engine import duck
from etl_assets.errors import EtlError, SettingsError
from etl_assets.settings import Settings, duckdb_path
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute
from etl_assets_tests.flow import Flow, assert_equal_to

_ODD = (
    "country=UK",
    "x[1]",
    "a*b",
    "q?z",
    "**",
    "[!x]",
    "{a,b}",
    "%41",
    "back\\slash",
    "'quoted'",
    "~",
    "deleted=true",
)


@pytest.mark.parametrize("name", _ODD)
def test_a_folder_of_any_name_gives_the_files_that_lie_in_it_and_no_others(name: str, tmp_path: Path) -> None:
    for sibling in ("x1", "azb", "qqz", "A", "a", "backslash", name):
        folder = tmp_path / sibling
        folder.mkdir(exist_ok=True)
        with duckdb.connect() as connection:
            rows = connection.sql(f"SELECT '{'here' if sibling == name else 'elsewhere'}' AS country")
            duck.write_csv(rows, folder / "1.csv")
            duck.write_parquet(rows, folder / "1.parquet", {})
    place = tmp_path / name
    with duckdb.connect() as connection:
        for read in (
            duck.read_csv(connection, [place / "1.csv"]).project("country"),
            duck.read_any_csv(connection, place / "1.csv"),
            duck.read_parquet(connection, [place / "1.parquet"]),
        ):
            assert read.columns == ["country"]
            assert read.fetchall() == [("here",)]


def test_the_one_kind_of_path_that_cant_be_said_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EtlError, match=r"can't have a backslash too; choose another folder"):
        duck.parquet([tmp_path / "x[1]\\y.parquet"])


@pytest.mark.fault("F34")
@pytest.mark.parametrize("name", ["t[1]", "t*", "t?", "t=1"])
def test_a_table_of_any_name_is_kept_apart_from_those_that_it_matches(
    database: Callable[..., str], tmp_path: Path, name: str
) -> None:
    lake = Lake(database(), tmp_path)
    tables = [Table(called, "", {"id": "int"}) for called in (name, "t1")]
    for table in tables:
        execute(lake.url, f'CREATE TABLE "{table.name}" (id int PRIMARY KEY, a text)')
        execute(lake.url, f"INSERT INTO \"{table.name}\" VALUES (1, '{table.name}')")
    lake.sync(*tables)
    for table in tables:
        execute(lake.url, f'UPDATE "{table.name}" SET a = a || a; INSERT INTO "{table.name}" VALUES (2)')
    lake.sync(*tables)
    assert lake.is_exact(*tables)


@pytest.mark.places
@pytest.mark.fault("F42")
def test_the_flow_and_its_proofs_read_what_is_in_the_files_wherever_they_lie(
    bicycles: str, tmp_path: Path
) -> None:
    data = tmp_path / "city=York" / "x[1]*" / "colour=X #%41 'é\""
    flow = Flow(bicycles, data, {"ETL_WAREHOUSE_URL": f"duckdb:///{data / 'star.duckdb'}"})
    first = flow.run()
    assert first.success, first.error_lines
    # What a pattern would find too.
    shutil.copytree(data, tmp_path / "city=York" / "x1*" / data.name)
    execute(bicycles, "UPDATE station SET city = 'Elsewhere' WHERE station_id = 3")
    run = flow.run()
    assert run.success, run.error_lines
    plain = Flow(bicycles, tmp_path / "plain")
    shutil.copytree(data, plain.data)
    (plain.data / "star.duckdb").rename(plain.data / "warehouse.duckdb")
    assert_equal_to(plain.moment, plain)
    done = subprocess.run(
        [sys.executable, "-m", "etl_assets.cli", "verify", "--thorough"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **flow.environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    differ = [line for line in done.stdout.splitlines() if ": " in line and "comparisons" not in line]
    assert [line for line in differ if not line.startswith("exports, ")] == [], done.stdout + done.stderr
    assert "2 of 26 comparisons differ" in done.stdout  # the reports, which were not made


def test_history_is_kept_in_a_data_folder_of_any_name_and_nowhere_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("ETL_WAREHOUSE_URL", f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    for name in ("what?now", "50%", "a#b", "x[1]*"):
        monkeypatch.setenv("ETL_DATA", name)
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        environment.arrange_dagster_home(environment.settings())
        with environment.open_instance() as instance:
            assert instance.get_runs_count() == 0
        assert (tmp_path / name / "dagster" / "history" / "runs.db").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50%", "a#b", "what?now", "x[1]*"]


def test_a_duckdb_warehouse_where_duckdb_can_have_none_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match=r"has a \? in its path, .*set ETL_WAREHOUSE_URL to another file"):
        duckdb_path("duckdb:////data/what?now/warehouse.duckdb")


@pytest.mark.parametrize("setting", ["ETL_DATA", "ETL_LAKE_URL"])
@pytest.mark.parametrize("value", ["~/data", "$HOME/data"])
def test_what_only_a_shell_makes_a_home_of_is_refused(setting: str, value: str) -> None:
    """Else a folder of that name is made in whatever folder a command is started in, and filled."""
    with pytest.raises(SettingsError, match=f"{setting} begins with .*: write the whole path"):
        Settings.read({setting: value})
    with pytest.raises(SettingsError, match="ETL_WAREHOUSE_URL begins with"):
        duckdb_path(f"duckdb:///{value}/warehouse.duckdb")


def test_a_folder_whose_name_is_no_text_is_refused_before_anything_lands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/no utf-8 \xfc"))
    folder.mkdir()
    for settings in ({"ETL_DATA": str(folder)}, {"ETL_LAKE_URL": str(folder / "lake")}):
        with pytest.raises(SettingsError, match="whose name is no UTF-8"):
            Settings.read(settings)
    monkeypatch.chdir(folder)
    with pytest.raises(SettingsError, match="ETL_DATA leads to a folder whose name is no UTF-8"):
        Settings.read({})
