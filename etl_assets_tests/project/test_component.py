"""A project in somebody's Dagster project, beside their own assets and jobs: as a component, and merged in Python."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from etl_assets.component import EtlProject, project_definitions
from etl_assets.errors import SettingsError
from etl_assets_tests.capture.comparing import execute
from etl_assets_tests.project.test_outside import MODULES, SOURCE

PYPROJECT = '[project]\nname = "theirs"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "theirs"\n'
DEFINITIONS = """
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
OWN = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["warehouse", "fact_sale"])])
def mine() -> None: ...


own_job = dg.define_asset_job("own_job", selection=["mine"])
"""
DEFS_YAML = """
type: etl_assets.component.EtlProject
attributes:
  project: my_parts
  settings:
    ETL_DATA: {data}
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The layout that create-dagster makes, with our project beside their package."""
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "theirs/__init__.py": "",
        "theirs/definitions.py": DEFINITIONS,
        "theirs/defs/__init__.py": "",
        "theirs/defs/own.py": OWN,
        "theirs/defs/parts/defs.yaml": DEFS_YAML.format(data=tmp_path / "data"),
        **{f"my_parts/{name}": text.lstrip() for name, text in MODULES.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for known in [one for one in sys.modules if one.partition(".")[0] == "theirs"]:
        del sys.modules[known]  # else it would be a module that a project can't be called like


def test_a_component_brings_the_project_beside_what_is_theirs(
    theirs: Path, database: "object", monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()  # type: ignore[operator]
    execute(url, *SOURCE)
    monkeypatch.setenv("ETL_SOURCE_URL", url)
    from theirs.definitions import defs  # type: ignore[import-not-found]

    os.umask(0o022)
    loaded = defs()
    keys = {spec.key.to_user_string() for spec in loaded.resolve_all_asset_specs()}
    assert {"mine", "raw/part", "star/fact_sale", "exports/pieces_by_part"} <= keys
    dg.Definitions.validate_loadable(loaded)
    with dg.DagsterInstance.ephemeral() as instance:
        result = loaded.resolve_job_def("etl").execute_in_process(instance=instance, raise_on_error=False)
        assert result.success
        assert loaded.resolve_job_def("own_job").execute_in_process(instance=instance).success
    for path in ("data/warehouse.duckdb", "data/lake/raw/batches/000001.json", "data/reports.xlsx"):
        assert (theirs / path).stat().st_mode & 0o077 == 0, "what is ours is private"
    assert os.umask(0o022) == 0o022, "what is theirs is as they have it"


@pytest.mark.places
def test_dg_writes_the_component_and_finds_nothing_wrong(theirs: Path) -> None:
    """By the entry point that dg finds it by, and the project as it stands there."""
    shutil.rmtree(theirs / "theirs/defs/parts")
    tool = Path(sys.executable).parent / "dg"
    for arguments in (
        ["scaffold", "defs", "etl_assets.component.EtlProject", "parts", "--project", "my_parts"],
        ["check", "defs"],
    ):
        done = subprocess.run(
            [tool, *arguments], cwd=theirs, capture_output=True, text=True, check=False,
            env={**os.environ, "ETL_DATA": str(theirs / "data"), "PYTHONPATH": str(theirs)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    written = yaml.safe_load((theirs / "theirs/defs/parts/defs.yaml").read_text())
    assert written == {"type": "etl_assets.component.EtlProject", "attributes": {"project": "my_parts"}}
    assert (
        dg.load_from_defs_folder(path_within_project=theirs / "theirs")
        .resolve_asset_graph()
        .has(dg.AssetKey(["star", "fact_sale"]))
    )


def test_whoever_writes_python_merges(theirs: Path) -> None:
    @dg.asset
    def theirs_too() -> None: ...

    own = dg.Definitions(
        [dg.AssetSpec("theirs"), theirs_too],
        jobs=[dg.define_asset_job("theirs", selection=[theirs_too])],
        executor=dg.multiprocess_executor,
        resources={name: object() for name in ("warehouse", "lake", "source", "alerts", "reports")},
    )
    merged = dg.Definitions.merge(own, project_definitions("my_parts", {"ETL_DATA": str(theirs / "data")}))
    assert {"theirs", "star/dim_part"} <= {s.key.to_user_string() for s in merged.resolve_all_asset_specs()}
    assert merged.resolve_job_def("theirs").executor_def is dg.multiprocess_executor
    ours = [one for one in merged.resolve_all_job_defs() if not one.name.startswith(("__", "theirs"))]
    assert {one.executor_def.name for one in ours} == {"in_process"}
    assert len(ours) > 6
    assert not any(one.name.startswith("forget") for one in ours), "their old runs are theirs"
    dg.Definitions.validate_loadable(merged)


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="PGPASSWORD is no setting of ours"):
        project_definitions("etl_assets.totesys", {"PGPASSWORD": "x"})
    with pytest.raises(
        SettingsError, match="ETL_LAKE_ULR is no setting of ours: write ETL_LAKE_URL; there are"
    ):
        project_definitions("etl_assets.totesys", {"ETL_LAKE_ULR": "x"})
    assert EtlProject.__doc__
