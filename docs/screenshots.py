"""Make the pictures of the documentation again: `make screenshots`.

The demo's data in a temporary folder, the real interface over it, and Chromium looking at it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from etl_assets_tests.browser.interface import CHROMIUM, interface

IMAGES = Path(__file__).parent / "images"
# The other two groups stay closed: all sixty assets are too many for one picture.
OPENED = ("star", "warehouse", "exports")
_WIDTH = 1600
_FACT = "fact_sales_order"


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with made(Path(tempfile.gettempdir(), "totesys")) as folder:
        subprocess.run(
            [sys.executable, "-m", "etl_assets.cli", "demo"],
            cwd=folder,
            env=os.environ | {"ETL_DATA": str(folder / "data"), "PYTHONPATH": str(Path.cwd())},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with interface(folder) as ui, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM))
            page = browser.new_page()
            page.goto(ui.url)
            page.get_by_text("Hide navigation").click()

            expanded = ",".join(f"global@global:{stage}" for stage in OPENED)
            shoot(page, f"{ui.url}/asset-groups?expanded={expanded}", "sales_workbook", 1350, "lineage")
            shoot(page, f"{ui.url}/assets/star/{_FACT}", "rows per second", 2250, "asset")
            shoot(
                page,
                f"{ui.url}/assets/warehouse/{_FACT}?view=checks",
                "everything, side by side",
                1050,
                "checks",
            )
            shoot(page, f"{ui.url}/automation", "source_changed", 700, "automation")
            browser.close()


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder for as long as the block runs. It can be seen in the pictures, so its name is not a random one."""
    folder.mkdir()
    folder.chmod(0o755)  # the demo's server has its own user if we are root
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def shoot(page: Page, url: str, awaited: str, height: int, name: str) -> None:
    """A picture of a page, once it shows the text that is awaited."""
    page.set_viewport_size({"width": _WIDTH, "height": height})
    page.goto(url)
    page.get_by_text(awaited, exact=True).first.wait_for()
    page.mouse.move(_WIDTH - 1, 1)
    page.wait_for_timeout(3000)  # status of all assets arrives after the page
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
