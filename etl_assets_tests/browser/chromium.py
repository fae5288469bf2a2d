"""Chromium, as the system has it, driven by playwright. A test is skipped where one of them is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from etl_assets_tests.browser.interface import CHROMIUM


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A browser that is started with these arguments."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=str(CHROMIUM), args=list(arguments))
        yield launched
        launched.close()
