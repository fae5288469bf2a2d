"""A project that `etl init` wrote, in the interface: everything that the catalog knew is shown, and nothing is red."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etl_assets_tests.browser.interface import LOCATION, Interface, interface
from etl_assets_tests.browser.test_ui import STAGES, watch
from etl_assets_tests.init.samples import HEADER_AND_LINES, execute

pytestmark = pytest.mark.browser

PREFIX = "shop"
_SECONDS = 600
_SHOWN = 60_000
_RUNS = "{ runsOrError { ... on Runs { results { runId status jobName } } } }"
_ASSETS = """
    { assetNodes { assetKey { path } groupName description kinds isMaterializable
        metadataEntries { label ... on TableSchemaMetadataEntry { schema { columns { name type description } } } }
        assetMaterializations(limit: 10) { metadataEntries { label
            ... on IntMetadataEntry { intValue } ... on TextMetadataEntry { text } } }
        assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } }
"""


@pytest.fixture(scope="module")
def ui(module_database: Callable[..., str], postgres_folder: Path) -> Iterator[Interface]:
    """The interface of a project that was just written, behind a prefix: as one of several in a Dagster is."""
    url, folder = module_database(), postgres_folder / "your_own"
    HEADER_AND_LINES.make(url)
    execute(
        url,
        "COMMENT ON TABLE customers IS 'One row is somebody who buys <b>tea</b>.'; "
        "COMMENT ON COLUMN customers.company IS 'As it is in the register of \"companies\".'",
    )
    folder.mkdir()
    settings = {"ETL_SOURCE_URL": url, "ETL_KEY_PREFIX": PREFIX, "ETL_WAREHOUSE_SCHEMA": PREFIX}
    done = subprocess.run(
        [sys.executable, "-m", "etl_assets.cli", "init", url],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with interface(folder, settings) as served:
        yield served


def test_a_project_that_init_wrote_runs_by_a_button_and_shows_all_there_is_to_know(
    ui: Interface, browser: Any, postgres_folder: Path
) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(_SHOWN)
    troubles = watch(page)
    pictures = postgres_folder.parent / "etl-assets-pictures"
    pictures.mkdir(exist_ok=True)
    assert (
        "Warning" not in ui.log.read_text()
    )  # Python's own; what the daemon logs at its first start is Dagster's

    page.goto(f"{ui.url}/locations/{LOCATION}/jobs/{PREFIX}_etl")
    page.get_by_role("button", name="Materialize all").click()
    assert ended(ui) == {"SUCCESS"}, ui.log.read_text()[-3000:]

    nodes = {tuple(node["assetKey"]["path"]): node for node in ui.ask(_ASSETS)["assetNodes"]}
    assert {path[0] for path in nodes} == {PREFIX}
    assert {path[1] for path in nodes} == {*STAGES, "proof"}
    for path, node in nodes.items():
        asset = "/".join(path)
        assert node["groupName"] == f"{PREFIX}_{path[1]}", asset
        assert node["description"], asset
        assert node["kinds"], asset
        if not node["isMaterializable"]:
            continue
        made = node["assetMaterializations"][
            -1
        ]  # of the first run: the sensor starts one too, and it finds nothing
        labels = {entry["label"] for entry in made["metadataEntries"]}
        assert "dagster/row_count" in labels, asset
        if path[1] in {"raw", "star", "warehouse"}:
            assert {"preview", "batch"} <= labels, asset
        for check in node["assetChecksOrError"]["checks"]:
            status = (check["executionForLatestMaterialization"] or {"status": "SKIPPED"})["status"]
            assert status in {"SUCCEEDED", "SKIPPED"}, f"{asset}: {check}"
    customers = nodes[PREFIX, "star", "dim_customers"]
    assert customers["description"].startswith("One row is somebody who buys <b>tea</b>.")

    shown = {
        "star/fact_order_details": ["Row count", "Parquet"],
        "star/dim_customers": ["Row count", 'As it is in the register of "companies".'],
        "warehouse/fact_orders?view=checks": ["equals_the_source", "references_resolve", "Passed"],
        "raw/customers?view=events": ["batch", "bytes read"],
    }
    for number, (asset, texts) in enumerate(shown.items()):
        page.goto(f"{ui.url}/assets/{PREFIX}/{asset}")
        for text in texts:
            page.get_by_text(text, exact=True).first.wait_for()
        page.screenshot(path=pictures / f"{number}.png")
        assert page.get_by_text("failed to load").count() == 0, asset
    for name, place in {
        "graph": "asset-groups",
        "job": f"locations/{LOCATION}/jobs/{PREFIX}_etl",
        "automation": "automation",
    }.items():
        page.goto(f"{ui.url}/{place}")
        page.get_by_text(f"{PREFIX}_", exact=False).first.wait_for()
        page.wait_for_timeout(3000)
        page.screenshot(path=pictures / f"{name}.png")
    page.close()
    assert not troubles
    print(f"\npictures: {pictures}")


def ended(ui: Interface) -> set[str]:
    """How the runs ended, when none is left that has not."""
    deadline = time.monotonic() + _SECONDS
    statuses: set[str] = set()
    while time.monotonic() < deadline and not (statuses and statuses <= {"SUCCESS", "FAILURE", "CANCELED"}):
        statuses = {str(run["status"]) for run in ui.ask(_RUNS)["runsOrError"]["results"]}
        time.sleep(0.5)
    return statuses
