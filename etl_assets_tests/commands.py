"""The `etl` command in this process, with nothing set but what a test says."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from etl_assets.cli import etl as command


def etl(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, prog_name="etl", catch_exceptions=False)


def use(patch: pytest.MonkeyPatch, data: Path, **settings: str) -> None:
    """Let `data` be where data goes, beside it be the present folder, and `settings` be all that is set."""
    for name in [name for name in os.environ if name.startswith("ETL_")]:
        patch.delenv(name)
    patch.chdir(data.parent)
    for name, value in {"ETL_DATA": str(data), "DAGSTER_HOME": "", **settings}.items():
        patch.setenv(name, value)
