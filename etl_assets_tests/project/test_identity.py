"""Whose lake and warehouse these are: those of another project are not filled, nor shown."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from etl_assets_tests.capture.comparing import execute
from etl_assets_tests.commands import etl, use
from etl_assets_tests.project.test_outside import MODULES, SOURCE


@pytest.fixture
def ours(database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A source with two databases of one model, and a project that was run once."""
    url = database()
    execute(url, *SOURCE)
    (tmp_path / "my_parts").mkdir()
    for name, text in MODULES.items():
        (tmp_path / "my_parts" / name).write_text(text.lstrip())
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL=url, ETL_PROJECT="my_parts")
    assert etl("run").exit_code == 0
    return url, tmp_path


def test_the_batches_of_the_warehouse_say_whose_they_are_and_that_they_are_certified(
    ours: tuple[str, Path],
) -> None:
    url, folder = ours
    execute(url, "UPDATE parts.sale SET pieces = 3 WHERE no = 1")
    assert etl("run").exit_code == 0
    with duckdb.connect(folder / "data/warehouse.duckdb", read_only=True) as warehouse:
        rows = warehouse.sql(
            "SELECT batch, project, certified IS NOT NULL, source_time < certified, run_id FROM star.batches ORDER BY batch"
        ).fetchall()
    assert [row[:4] for row in rows] == [(1, "my_parts", True, True), (2, "my_parts", True, True)]
    assert len({row[4] for row in rows}) == 2


def test_a_lake_of_another_project_is_refused_until_it_is_adopted(
    ours: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = ours
    (folder / "my_parts").rename(folder / "theirs")
    words = folder / "theirs" / "star.py"
    words.write_text(words.read_text().replace("my_parts", "theirs"))
    monkeypatch.setenv("ETL_PROJECT", "theirs")
    planned = etl("plan", "--offline")
    refused = etl("run")
    assert refused.exit_code == 1
    last = refused.stderr.splitlines()[-1]
    assert "is that of the project my_parts, and this is theirs: name another lake" in last
    assert (planned.exit_code, planned.stderr.splitlines()) == (1, [last])
    adopted = etl("run", "--adopt")
    assert adopted.exit_code == 0, adopted.stderr
    again = etl("run")
    assert again.exit_code == 0, again.stderr


def test_a_warehouse_of_another_lake_is_not_overwritten(
    ours: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = ours
    monkeypatch.setenv("ETL_DATA", str(folder / "more"))
    monkeypatch.setenv("ETL_WAREHOUSE_URL", f"duckdb:///{folder}/data/warehouse.duckdb")
    before = (folder / "data/warehouse.duckdb").read_bytes()
    unfilled = etl("plan")
    refused = etl("run")
    assert refused.exit_code == 1
    planned = etl("plan")  # the lake is filled now
    assert planned.exit_code == unfilled.exit_code == 1
    assert planned.stderr.splitlines()[-1] == refused.stderr.splitlines()[-1]
    assert "was filled from the lake" in unfilled.stderr
    assert "was filled from the lake" in refused.stderr.splitlines()[-1]
    assert (
        "name another schema (ETL_WAREHOUSE_SCHEMA) or another warehouse" in refused.stderr.splitlines()[-1]
    )
    assert (folder / "data/warehouse.duckdb").read_bytes() == before
    execute(url, "DELETE FROM parts.sale WHERE no = 2")
    assert etl("run", "--adopt").exit_code == 0
    with duckdb.connect(folder / "data/warehouse.duckdb", read_only=True) as warehouse:
        assert warehouse.sql("SELECT count(*) FROM star.fact_sale_current").fetchall() == [(39,)]
        assert len(warehouse.sql("SELECT DISTINCT lake FROM star.batches").fetchall()) == 1
    assert etl("verify").exit_code == 0
