"""The wheel works where there is no repository: installed into an empty environment, started in an empty folder."""

import ast
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.request import urlopen
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


# What is imported by those who asked for it: module -> the extra that brings it.
OPTIONAL = {"statsmodels": "forecast", "matplotlib": "forecast", "moto": "stand-ins", "pymysql": "mysql"}


def imported(archive: ZipFile) -> Iterator[str]:
    """The modules that the code of a wheel imports, at once, later, or by name."""
    for name in archive.namelist():
        for node in ast.walk(ast.parse(archive.read(name))) if name.endswith(".py") else ():
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Later":
                yield from (
                    one.value
                    for one in node.args
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                )


def test_whatever_it_imports_is_brought_by_what_it_says_that_it_needs(wheel: Path) -> None:
    """The tests' environment has more than that, so that nothing would be missed here."""
    archive = ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    needed: dict[str, set[str]] = {}
    for line in message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", []):
        extra = re.search(r"extra == ['\"](.+?)['\"]", line)
        named = re.match(r"[\w.-]+", line)
        assert named
        needed.setdefault(extra[1] if extra else "", set()).add(_normal(named[0]))
    brings = packages_distributions()
    modules = (
        {module.partition(".")[0] for module in imported(archive)} - sys.stdlib_module_names - {"etl_assets"}
    )
    assert {"duckdb", "pydantic", "yaml", "pandas"} <= modules
    missing = [
        module
        for module in sorted(modules)
        if not {_normal(one) for one in brings.get(module, [])} & needed[OPTIONAL.get(module, "")]
    ]
    assert missing == []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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


@pytest.mark.places
def test_the_demo_and_the_interface_start_in_an_empty_folder(installed: Path) -> None:
    # Started by root, the demo's server is nobody's, who may not enter the tests' own folders.
    with tempfile.TemporaryDirectory(prefix="etl-assets-tests-") as name:
        Path(name).chmod(0o711)
        assert_started(installed, Path(name))


def assert_started(installed: Path, tmp_path: Path) -> None:
    done = etl(installed, tmp_path, "demo")
    assert done.returncode == 0, done.stderr
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    known = {n: v for n, v in os.environ.items() if not n.startswith(("ETL_", "DAGSTER", "PYTHON"))}
    with (tmp_path / "said").open("wb") as said:
        serving = subprocess.Popen(
            [str(installed), "ui", "--port", str(port)], cwd=tmp_path, env=known, stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + 120
        while not (told := _server_info(port)):
            assert serving.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline, (tmp_path / "said").read_text()
            time.sleep(0.2)
        assert "dagster_webserver_version" in told
    finally:
        serving.terminate()
        serving.wait(60)


def _server_info(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""
