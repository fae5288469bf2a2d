"""One real PostgreSQL for the whole session, and databases that are cheap to copy and forgotten after a test."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Literal
from zlib import crc32

import psycopg2
import pytest
from psycopg2 import sql

from etl_assets.stand_ins.bigquery import BigQueryStandIn
from etl_assets.stand_ins.postgres import serve
from etl_assets.totesys.demo.generator import generate
from etl_assets_tests import hiring

_SCALE = 0.02

# What tests write lies in memory where there is enough of it (a container usually has 64 MB): most of the time goes
# into waiting for the disk otherwise, above all of SQLite, in which Dagster makes a database for every run.
_MEMORY = Path("/dev/shm")
_PARENT = _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 2 * 1024**3 else None
if _PARENT:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_PARENT))  # where pytest makes tmp_path

# Programs started by the tests get what a terminal would give them. A shell that runs the tests in the background
# hands these on as ignored, and what a test interrupts would then go on.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)


# Tests of what stands elsewhere: object stores, BigQuery, Sheets, warehouses in PostgreSQL, REST APIs, what steps and alerts
# reach, servers beside servers, the interface, deployments.
_PLACES = (
    "apis", "automation/test_alerting.py", "automation/test_events.py", "capture/test_servers.py",
    "exports/test_report_tables.py", "interface", "lake/test_object_faults.py", "project/test_side_by_side.py", "resources", "source/demo", "steps",
    "test_addresses.py", "test_demo_cloud.py", "test_deployment.py", "test_doctor.py", "test_lakes.py", "test_permissions.py",
    "test_retire.py", "test_surroundings.py", "test_take_over.py", "test_warehouses.py", "test_wheel.py", "test_writers.py",
)  # fmt: skip
_DAMAGE = ("test_damage.py", "test_full_disk.py", "test_history_damage.py")
_LONGEST = (
    "test_warehouses.py",
    "test_addresses.py",
    "test_law.py",
    "test_cli.py",
    "test_cli_proof.py",
    "test_kill.py",
)
_ONE_IN = 4


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what stands elsewhere; take of tests with many costly cases some, always the same ones, unless one is named or
    ETL_CASES=all; begin with the longest files: a worker has a file for itself, and nobody waits for these at the end."""
    here = Path(__file__).parent
    for item in items:
        for marker, paths in (("places", _PLACES), ("damage", _DAMAGE)):
            if any(item.path.is_relative_to(here / path) for path in paths):
                item.add_marker(marker)
    named = any("::" in argument for argument in config.args) or config.option.keyword
    if not named and os.environ.get("ETL_CASES") != "all":
        left_out = set(_cases_left_out(items))
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.path.name not in _LONGEST)


def _cases_left_out(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Of each test that is marked `many` all but one case in four, and at least one."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("many"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_one in cases.values():
        chance = {item: crc32(item.nodeid.encode()) for item in of_one}
        first = min(of_one, key=lambda item: chance[item] % _ONE_IN)
        yield from (item for item in of_one if chance[item] % _ONE_IN and item is not first)


_UMASK = os.umask(0o022)
os.umask(_UMASK)


@pytest.fixture(autouse=True)
def surroundings() -> Iterator[None]:
    """What a command sets for its process is for itself, and here the process is that of all tests: what others may read of
    what is written, and what it took from a `.env`."""
    os.umask(_UMASK)  # what a wider fixture ran may have set it
    settings = {n: v for n, v in os.environ.items() if n.startswith("ETL_")}
    yield
    os.umask(_UMASK)
    for name in [name for name in os.environ if name.startswith("ETL_") and name not in settings]:
        del os.environ[name]
    os.environ.update(settings)


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[Path]:
    """A folder that the server's user can enter; pytest's own, of mode 0700, would lock it out if we are root."""
    folder = Path(tempfile.mkdtemp(prefix="etl-assets-tests-", dir=_PARENT))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url(postgres_folder: Path) -> Iterator[str]:
    """The URL of the session's server; its own database is for administration only."""
    # What a test writes need not survive a machine crash; and nobody else commits while it looks.
    with serve(
        postgres_folder / "session", settings={"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
    ) as url:
        yield url


Source = Literal["bicycles", "totesys", "classroom"]
"""What a database is a copy of: the small project of the tests; a ToteSys; one with the loose types of the classroom."""


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Callable[[Source], str]:
    """The name of a database that is made once per session, to be copied and not touched."""
    known: dict[Source, str] = {}

    def made(source: Source) -> str:
        if source not in known:
            name = f"template_{source}"
            _administer(postgres_url, sql.SQL("create database {}").format(sql.Identifier(name)))
            url = _database_url(postgres_url, name)
            if source == "bicycles":
                with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
                    cursor.execute(hiring.SOURCE)
            else:
                generate(url, scale=_SCALE, variant=source)
            known[source] = name
        return known[source]

    return made


@pytest.fixture
def database(postgres_url: str) -> Iterator[Callable[..., str]]:
    """`database()` is the URL of a new empty database, `database("x")` that of a new copy of x."""
    with _databases(postgres_url) as create:
        yield create


@pytest.fixture(scope="module")
def module_database(postgres_url: str) -> Iterator[Callable[..., str]]:
    """As `database`, for what several tests of a module read."""
    with _databases(postgres_url) as create:
        yield create


@contextmanager
def _databases(postgres_url: str) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def create(copied: str = "template0") -> str:
        name = f"test_{next(_numbers)}"
        _administer(
            postgres_url,
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(copied)),
        )
        made.append(name)
        return _database_url(postgres_url, name)

    yield create
    for name in made:
        _administer(
            postgres_url, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )


@pytest.fixture
def bicycles(database: Callable[..., str], template: Callable[[Source], str]) -> str:
    """The URL of a fresh copy of the source of the small project `bicycles`."""
    return database(template("bicycles"))


@pytest.fixture
def totesys(database: Callable[..., str], template: Callable[[Source], str]) -> str:
    """The URL of a fresh copy of a small ToteSys."""
    return database(template("totesys"))


@pytest.fixture
def classroom(database: Callable[..., str], template: Callable[[Source], str]) -> str:
    """The URL of a fresh copy of a small ToteSys with the loose types of the classroom."""
    return database(template("classroom"))


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[BigQueryStandIn]:
    """An empty project in BigQuery, to which the environment leads; gs:// leads to the folder `objects`."""
    folder = tmp_path / "objects"
    project = BigQueryStandIn("demo-project", lambda uri: (folder / uri.removeprefix("gs://")).read_bytes())
    with project.serve(), pytest.MonkeyPatch.context() as environment:
        for name, value in project.environment(tmp_path).items():
            environment.setenv(name, value)
        yield project


_numbers = count(1)


def _database_url(postgres_url: str, name: str) -> str:
    return postgres_url.rsplit("/", 1)[0] + "/" + name


def _administer(postgres_url: str, statement: sql.Composed) -> None:
    with closing(psycopg2.connect(postgres_url)) as connection:
        # Databases cannot be created or dropped in a transaction.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
