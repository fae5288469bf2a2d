"""What the tests of the interface share."""

from collections.abc import Iterator
from typing import Any

import pytest

from etl_assets_tests.browser.chromium import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started
