"""A lake and warehouses that version 0.1 made go on. What is kept in `made_by_0_1` is what that version left, from the rows in
`rows.sql`: two batches, taken before and after the changes there."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_assets.lake.batches import Batches
from etl_assets_tests.capture.comparing import Lake, execute
from etl_assets_tests.commands import etl, use
from etl_assets_tests.shipped import TABLES

HERE = Path(__file__).parent
KEPT = HERE / "made_by_0_1"
SCHEMA = HERE.parent / "etl_assets/totesys/demo/schema.sql"


def unpack(engine: str, data: Path) -> None:
    """The lake, and the warehouse that the engine had of it."""
    with tarfile.open(KEPT / f"{engine}.tar.xz") as kept:
        kept.extractall(data, filter="data")


@pytest.fixture
def source(database: Callable[..., str]) -> str:
    """What the source held when version 0.1 took its last batch."""
    url = database()
    execute(url, SCHEMA.read_text(), (KEPT / "rows.sql").read_text())
    return url


@pytest.mark.fault("F41")
def test_a_lake_that_version_0_1_made_is_read_as_it_stands(source: str, tmp_path: Path) -> None:
    unpack("duckdb", tmp_path)
    lake = Lake(source, tmp_path)
    assert json.loads((lake.path / "raw/batches/000002.json").read_text())["format"] == 1
    assert list(Batches(lake.files).chain(lake.latest())) == []
    assert lake.is_exact(*TABLES)


@pytest.mark.places
@pytest.mark.fault("F41")
@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
def test_what_version_0_1_made_is_carried_on(
    engine: str,
    source: str,
    database: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tmp_path / "data"
    unpack(engine, data)
    settings = {"ETL_SOURCE_URL": source}
    if engine == "postgres":
        settings["ETL_WAREHOUSE_URL"] = database()
        execute(settings["ETL_WAREHOUSE_URL"], (data / "warehouse.sql").read_text())
    use(monkeypatch, data, **settings)
    refused = etl("run")
    assert refused.exit_code == 1
    assert "another database; if that is meant, etl run --adopt" in refused.stderr.splitlines()[-1]
    execute(
        source,
        "UPDATE payment SET payment_amount = 7 WHERE payment_id = 3; DELETE FROM payment WHERE payment_id = 4",
    )
    adopted = etl("run", "--adopt", "--json")
    assert adopted.exit_code == 0, adopted.output
    verified = etl("verify", "--thorough", "--rebuild")
    assert verified.exit_code == 0, verified.output
    assert "batch 000003" in verified.output
