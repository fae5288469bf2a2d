"""What `etl init` writes of an unknown database runs as it is, and goes on to be what the database is."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import psycopg2
import pytest

from etl_assets import project
from etl_assets_tests.commands import etl, use
from etl_assets_tests.direct import Direct
from etl_assets_tests.init import samples
from etl_assets_tests.init.samples import Sample

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
RUFF = shutil.which("ruff", path=str(Path(sys.executable).parent)) or "ruff"
CHANGES = 50

# How each table is taken: what a person would say of these databases.
STARS = {
    "header_and_lines": "fact_employee_territories fact_order_details fact_orders; dim_customers dim_date dim_employees "
    "dim_products dim_suppliers dim_territories",
    "rentals": "fact_film_actor fact_payment fact_rental; dim_actor dim_address dim_customer dim_date dim_film dim_inventory",
    "camel_case": "fact_class fact_invoice fact_invoice_line fact_order_details fact_playlist_track; dim_customer dim_date "
    "dim_order_details_2 dim_playlist dim_track",
    "no_foreign_keys": "fact_movements fact_rates; dim_accounts dim_clients dim_date",
    "other_language": "fact_auftrag fact_zakaz; dim_date dim_kunde dim_wahrung",
}


# One at once; all of them take minutes (make test-init).
FIRST = samples.HEADER_AND_LINES
ALL = [pytest.param(s, id=s.name, marks=[] if s is FIRST else [pytest.mark.init]) for s in samples.ALL]


@pytest.mark.parametrize("sample", ALL)
def test_a_project_runs_as_it_is_and_follows_its_database(
    sample: Sample, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()
    sample.make(url)
    use(monkeypatch, tmp_path / "data")
    done = etl("init", url)
    assert done.exit_code == 0, done.output
    assert done.output.endswith("etl run\n")
    lint(tmp_path / "etl_project")

    made = project.read(tmp_path / "etl_project")
    if sample.name in STARS:
        facts, dimensions = STARS[sample.name].split("; ")
        assert sorted(made.star) == sorted(f"{facts} {dimensions}".split())
    flow = Direct(url, tmp_path / "data", made.inputs)
    flow.run(certified=False)
    assert_equal(sample, flow)
    assert_reported(made, flow)
    assert sample.change(url, CHANGES) > CHANGES / 2
    flow.run(certified=False)
    assert_equal(sample, flow)
    assert_reported(made, flow)


def lint(folder: Path) -> None:
    """The files are formatted, and break none of the project's own rules."""
    for arguments in (["format", "--check", "--diff"], ["check", "--no-cache"]):
        done = subprocess.run(
            [RUFF, *arguments, "--config", str(PYPROJECT), str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def assert_equal(sample: Sample, flow: Direct) -> None:
    """Every hop is equal, and a fact is what PostgreSQL says by itself."""
    assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []
    with closing(psycopg2.connect(flow.url)) as connection, connection.cursor() as cursor:
        cursor.execute(sample.source)
        expected = sorted(str([str(value) for value in row]) for row in cursor.fetchall())
    with flow.reading() as warehouse:
        found = warehouse.execute(sample.warehouse).fetchall()
    assert sorted(str([str(value) for value in row]) for row in found) == expected
    assert expected


def assert_reported(made: project.Project, flow: Direct) -> None:
    """Each fact has a report, whose sums are those of the fact."""
    assert len(made.reports) == sum(name.startswith("fact_") for name in made.star)
    for name, (query, control) in made.queries.items():
        assert control
        frame = made.reports[name].make(flow.warehouse.query(query.sql))
        assert made.reports[name].differences(frame, flow.warehouse.query(control.sql)) == []


@pytest.mark.places
def test_the_command_line_runs_it_by_what_was_written_and_a_password_from_elsewhere(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()
    samples.OTHER_LANGUAGE.make(url)
    use(monkeypatch, tmp_path / "data", PYTHONPATH=str(PYPROJECT.parent))
    assert etl("init", url).exit_code == 0
    monkeypatch.setenv("PGPASSWORD", urlsplit(url).password or "")
    for command in ("run", "verify"):
        done = subprocess.run(
            [sys.executable, "-m", "etl_assets.cli", command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    with duckdb.connect(str(tmp_path / "data" / "warehouse.duckdb"), read_only=True) as warehouse:
        months = warehouse.execute("SELECT sum(entries) FROM reporting.auftrag_by_month").fetchone()
    assert months == (40,)
