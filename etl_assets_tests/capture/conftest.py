"""An empty database with an empty lake beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from etl_assets_tests.capture.comparing import Lake


@pytest.fixture
def lake(database: Callable[..., str], tmp_path: Path) -> Lake:
    """A lake without batches, for a new and empty database."""
    return Lake(database(), tmp_path)
