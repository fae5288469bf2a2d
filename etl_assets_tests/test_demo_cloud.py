"""`etl demo-cloud`: production's own clients, against services on this machine. Without it, the first who finds that the
parts do not fit is somebody with an account.
"""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from etl_assets.cli import etl


@pytest.mark.slow
def test_the_demo_ends_with_everything_equal_and_leaves_no_setting(
    postgres_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # What the user has set must neither be used nor be lost.
    data = postgres_folder / "data"
    monkeypatch.setenv("ETL_DATA", str(data))
    monkeypatch.setenv("ETL_SOURCE_URL", "postgresql://nowhere.invalid/shop")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    before = dict(os.environ)
    result = CliRunner().invoke(etl, ["demo-cloud"])
    assert result.exit_code == 0, result.output
    assert dict(os.environ) == before
    assert re.search(r"batch 000002, .*: \d+ comparisons are equal", result.stdout)
    assert re.search(r"^exports +sales_by_month .* equal$", result.stdout, re.MULTILINE)
    assert re.search(r"^warehouse +bigquery://demo-project", result.stdout, re.MULTILINE)
    assert re.search(r"^lake +s3://demo-lake/etl at http://127\.0\.0\.1:", result.stdout, re.MULTILINE)
    # Nothing was kept elsewhere instead.
    assert [path.name for path in data.iterdir()] == ["demo-cloud"]
    assert not list(data.rglob("*.duckdb")) + list(data.rglob("*.xlsx"))
    assert not list(tmp_path.iterdir())
