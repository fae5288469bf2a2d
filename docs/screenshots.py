"""Make the pictures of the documentation again: `make screenshots`, or `python -m docs.screenshots own` for some of them.

The demo in a temporary folder, data and code, the real interface over it, and Chromium looking at it. Likewise a project that
`etl init` wrote of a small database.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.browser.interface import CHROMIUM, LOCATION, Interface, interface
from etl_assets_tests.init.samples import HEADER_AND_LINES

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


def main(names: Sequence[str]) -> None:
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM))
        for name in names or PICTURES:
            PICTURES[name](browser)
        browser.close()


def of_the_demo(browser: Browser) -> None:
    """The demo: lineage, an asset, its checks, sensors, and what is stale."""
    with made(Path(tempfile.gettempdir(), "totesys")) as folder:
        code = {"PYTHONPATH": str(folder)}
        etl(folder, code, "demo")
        with interface(folder, code) as ui:
            page = opened(browser, ui)
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
            page.close()


def of_a_project(browser: Browser) -> None:
    """What `etl init` makes of orders, their lines and what they refer to: from the source's tables to the reports."""
    with made(Path(tempfile.gettempdir(), "shop"), code=False) as folder, serve(folder / "postgres") as url:
        HEADER_AND_LINES.make(url)
        settings = {"ETL_SOURCE_URL": url}
        for command in ("init", "run"):
            etl(folder, settings, command)
        with interface(folder, settings) as ui:
            page = opened(browser, ui)
            expanded = ",".join(f"global@global:{stage}" for stage in ("star", "exports"))
            shoot(page, f"{ui.url}/asset-groups?expanded={expanded}", "fact_order_details", 900, "your-own")
            page.close()


PICTURES = {"demo": of_the_demo, "own": of_a_project}


def etl(folder: Path, settings: Mapping[str, str], command: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "etl_assets.cli", command],
        cwd=folder,
        env=os.environ | {"ETL_DATA": str(folder / "data"), "PYTHONPATH": str(PACKAGE.parent)} | settings,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def opened(browser: Browser, ui: Interface) -> Page:
    page = browser.new_page()
    page.goto(ui.url)
    page.get_by_text("Hide navigation").click()
    return page


@contextmanager
def made(folder: Path, *, code: bool = True) -> Iterator[Path]:
    """A folder, with a copy of the package if it is to be changed, for as long as the block runs. It can be seen in the pictures, so its
    name is not a random one."""
    folder.mkdir()
    folder.chmod(0o755)  # the demo's server has its own user if we are root
    try:
        if code:
            shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        yield folder
    finally:
        shutil.rmtree(folder)


def stop(ui: Interface, sensor: str) -> None:
    found = ui.ask(_SENSOR, location=LOCATION, name=sensor)
    ui.ask(_STOP, id=found["sensorOrError"]["sensorState"]["id"])


def edit_dim_design(folder: Path) -> None:
    """Other logic in the copy of the package: names of designs in lower case."""
    path = folder / PACKAGE.name / "totesys" / "dimensions.py"
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
    main(sys.argv[1:])
