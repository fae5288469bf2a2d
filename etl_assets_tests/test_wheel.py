"""The wheel works where there is no repository: installed into an empty environment, started in an empty folder."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, so that the build leaves nothing in the work tree.
    listed = subprocess.run(["git", "ls-files", "etl_assets", "pyproject.toml", "README.md", "LICENSE"], cwd=REPOSITORY,
                            capture_output=True, text=True, check=True).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (REPOSITORY / name).exists():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "copy" / name).write_bytes((REPOSITORY / name).read_bytes())
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(folder / "copy"), "--no-deps", "-q", "-w", str(folder)],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        pytest.skip(f"a wheel can't be built without a package index: {built.stderr.splitlines()[-1:]}")
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `etl` of an environment that has the wheel; its dependencies are those of the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(folder / "bin/python"),
            "install",
            "-q",
            "--no-deps",
            str(wheel),
        ],
        check=True,
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "etl"


def etl(installed: Path, folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ETL_", "DAGSTER", "PYTHON"))
    }
    return subprocess.run(
        [str(installed), *arguments],
        cwd=folder,
        env={**known, **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wheel_has_the_project_that_ships_and_no_tests(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert {
        "etl_assets/totesys/iso_4217.csv", "etl_assets/totesys/demo/schema.sql", "etl_assets/py.typed",
        "etl_assets/project/__init__.py",
    } <= set(names)  # fmt: skip
    assert not [name for name in names if "etl_assets_tests" in name or name.startswith("data/")]


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [installed.parent / "python", "-c", "import etl_assets; print(etl_assets.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(installed.parent.parent) in where


@pytest.mark.fault("F42")
def test_a_flow_runs_in_an_empty_folder(
    installed: Path, tmp_path: Path, database: Callable[..., str], template: Callable[..., str]
) -> None:
    url = database(template("totesys"))
    checked = etl(installed, tmp_path, "check")
    assert checked.returncode == 0, checked.stderr
    assert "totesys is right: 11 tables read" in checked.stdout
    ran = etl(installed, tmp_path, "run", ETL_SOURCE_URL=url)
    assert ran.returncode == 0, ran.stderr
    verified = etl(installed, tmp_path, "verify", ETL_SOURCE_URL=url)
    assert verified.returncode == 0, verified.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
