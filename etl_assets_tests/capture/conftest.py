"""An empty database with an empty lake beside it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etl_assets_tests.capture.comparing import Lake

_MEMORY = Path("/dev/shm")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is such a thing: fsync would be most of the time otherwise."""
    parent = _MEMORY if _MEMORY.is_dir() else None
    made = Path(tempfile.mkdtemp(prefix="etl-assets-lakes-", dir=parent))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def lake(database: Callable[..., str], folder: Path) -> Lake:
    """A lake without batches, for a new and empty database."""
    return Lake(database(), folder)
