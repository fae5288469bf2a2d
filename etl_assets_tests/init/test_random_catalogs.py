"""Whatever a database is like: what `etl init` writes of it is right, well written, and runs; and it stays equal."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import psycopg2
import pytest

from etl_assets import project
from etl_assets.engine.duck import identifier
from etl_assets.star.schema import Fact
from etl_assets_tests.commands import etl, use
from etl_assets_tests.direct import Direct
from etl_assets_tests.init.catalogs import Catalog
from etl_assets_tests.init.samples import quoted
from etl_assets_tests.init.test_projects import lint

# Some at once; more take minutes (make test-init).
_CATALOGS = int(os.environ.get("ETL_CATALOGS", "2"))
SEEDS = [pytest.param(n, marks=[] if n < 2 else [pytest.mark.init]) for n in range(_CATALOGS)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_database_becomes_a_project_that_follows_it(
    seed: int, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()
    catalog = Catalog(url, seed)
    catalog.make()
    use(monkeypatch, tmp_path / "data")
    done = etl("init", url)
    assert done.exit_code == 0, done.output
    lint(tmp_path / "etl_project")
    made = project.read(tmp_path / "etl_project")
    flow = Direct(url, tmp_path / "data", made.inputs)
    for count in (0, 60):
        assert catalog.change(count) >= count / 6
        flow.run(certified=False)
        assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []
        assert_as_many(made, flow)
        for name, (query, control) in made.queries.items():
            assert control
            frame = made.reports[name].make(flow.warehouse.query(query.sql))
            assert made.reports[name].differences(frame, flow.warehouse.query(control.sql)) == []


@pytest.mark.init
def test_the_command_line_runs_a_hostile_database(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Dagster, whose keys and names are made of the catalog's, the reports and the workbook."""
    url = database()
    catalog = Catalog(url, 3)
    catalog.make()
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL=url)
    assert etl("init", url).exit_code == 0
    for count in (0, 40):
        catalog.change(count)
        done = etl("run", "--allow-misfits", "all", "--allow-deletions", "all")
        assert done.exit_code == 0, done.output
        checked = etl("verify", "--thorough")
        assert checked.exit_code == 0, checked.output
    assert (tmp_path / "data" / "reports.xlsx").stat().st_size


def assert_as_many(made: project.Project, flow: Direct) -> None:
    """A star table has the keys that PostgreSQL itself counts in the table it is made of, but for what does not fit."""
    with flow.lake.open(made.inputs) as bench:
        quarantined = {name for name in made.tables if any(bench.builder.quarantined(bench.manifest, [name]))}
    with (
        closing(psycopg2.connect(flow.url)) as connection,
        connection.cursor() as cursor,
        duckdb.connect(str(flow.data / "warehouse.duckdb"), read_only=True) as warehouse,
    ):
        for name, definition in made.star.items():
            table = made.tables.get(definition.inputs[0]) if definition.inputs else None
            if (
                table is None
                or quarantined & set(definition.inputs)
                or definition.schema.rows != "one per row"
            ):
                continue
            cursor.execute(f"SELECT count(*) FROM {quoted(table.schema)}.{quoted(table.source_name)}")
            place = f"star.{identifier(name + '_current' if isinstance(definition.schema, Fact) else name)}"
            found = warehouse.sql(f"SELECT count(*) FROM {place} WHERE NOT deleted").fetchall()
            assert found == cursor.fetchall(), name
