"""Make the pictures of the documentation again: `make screenshots`.

The demo in a temporary folder, data and code, the real interface over it, and Chromium looking at it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

from etl_assets_tests.browser.interface import CHROMIUM, LOCATION, Interface, interface

IMAGES = Path(__file__).parent / "images"
PACKAGE = Path(__file__).parents[1] / "etl_assets"
# The other two groups stay closed: all sixty assets are too many for one picture.
OPENED = ("star", "warehouse", "exports")
_WIDTH = 1600
_FACT = "fact_sales_order"
_SENSOR = """
    query ($location: String!, $name: String!) {
        sensorOrError(sensorSelector: {
            repositoryLocationName: $location, repositoryName: "__repository__", sensorName: $name
        }) { ... on Sensor { sensorState { id } } } }
"""
_STOP = "mutation ($id: String!) { stopSensor(id: $id) { ... on StopSensorMutationResult { __typename } } }"
_RELOAD = """
    mutation ($location: String!) {
        reloadRepositoryLocation(repositoryLocationName: $location) { __typename } }
"""


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with made(Path(tempfile.gettempdir(), "totesys")) as folder:
        code = {"PYTHONPATH": str(folder)}
        subprocess.run(
            [sys.executable, "-m", "etl_assets.cli", "demo"],
            cwd=folder,
            env=os.environ | {"ETL_DATA": str(folder / "data")} | code,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with interface(folder, code) as ui, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM))
            page = browser.new_page()
            page.goto(ui.url)
            page.get_by_text("Hide navigation").click()

            expanded = ",".join(f"global@global:{stage}" for stage in OPENED)
            shoot(page, f"{ui.url}/asset-groups?expanded={expanded}", "sales_workbook", 1350, "lineage")
            shoot(page, f"{ui.url}/assets/star/{_FACT}", "Row count", 2250, "asset")
            shoot(
                page,
                f"{ui.url}/assets/warehouse/{_FACT}?view=checks",
                "everything, side by side",
                1050,
                "checks",
            )
            shoot(page, f"{ui.url}/automation", "source_changed", 700, "automation")
            shoot(
                page,
                f"{ui.url}/locations/{LOCATION}/sensors/source_changed",
                "0 runs requested",
                690,
                "skipped",
                page.get_by_text("0 runs requested").first,
            )

            stop(ui, "code_changed")  # it would make the asset again
            edit_dim_design(folder)
            ui.ask(_RELOAD, location=LOCATION)
            shoot(
                page,
                f"{ui.url}/assets/star/dim_design?view=lineage",
                "Unsynced (1)",
                750,
                "stale",
                page.locator("foreignObject").get_by_text("Unsynced"),
            )
            browser.close()


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder with a copy of the package, for as long as the block runs. It can be seen in the pictures, so its
    name is not a random one."""
    folder.mkdir()
    folder.chmod(0o755)  # the demo's server has its own user if we are root
    try:
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        yield folder
    finally:
        shutil.rmtree(folder)


def stop(ui: Interface, sensor: str) -> None:
    found = ui.ask(_SENSOR, location=LOCATION, name=sensor)
    ui.ask(_STOP, id=found["sensorOrError"]["sensorState"]["id"])


def edit_dim_design(folder: Path) -> None:
    """Other logic in the copy of the package: names of designs in lower case."""
    path = folder / PACKAGE.name / "star" / "dimensions.py"
    before = '"design_id", "design_name"'
    path.write_text(path.read_text().replace(before, '"design_id", nw.col("design_name").str.to_lowercase()'))


def shoot(
    page: Page, url: str, awaited: str, height: int, name: str, explained: Locator | None = None
) -> None:
    """A picture of a page, once it shows the text that is awaited. The mouse is on what is to be `explained`, so
    that its tooltip is in the picture."""
    page.set_viewport_size({"width": _WIDTH, "height": height})
    page.goto(url)
    page.get_by_text(awaited, exact=True).first.wait_for()
    page.mouse.move(_WIDTH - 1, 1)
    page.wait_for_timeout(3000)  # status of all assets arrives after the page
    if explained:
        explained.hover()
        page.wait_for_timeout(1000)  # so long a tooltip takes
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
