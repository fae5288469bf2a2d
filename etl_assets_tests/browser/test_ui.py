"""The interface as a user meets it: started, a button pressed, and everything there is to know shown."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from etl_assets_tests.browser.interface import LOCATION, Interface, interface

pytestmark = pytest.mark.browser

STAGES = ("source", "raw", "star", "warehouse", "exports")
_RUN_SECONDS = 120
_RUNS = "{ runsOrError { ... on Runs { results { runId status jobName } } } }"
_ASSETS = """
    { assetNodes {
        assetKey { path } groupName description kinds isMaterializable
        owners { ... on TeamAssetOwner { team } }
        assetMaterializations(limit: 10) { timestamp metadataEntries {
            label
            ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
            ... on TextMetadataEntry { text } ... on BoolMetadataEntry { boolValue }
            ... on MarkdownMetadataEntry { mdStr } ... on PathMetadataEntry { path }
            ... on TableSchemaMetadataEntry { schema { columns { name } } } } }
        metadataEntries { label ... on TableColumnLineageMetadataEntry {
            lineage { columnName columnDeps { assetKey { path } columnName } } } }
        assetChecksOrError { ... on AssetChecks { checks {
            name executionForLatestMaterialization { status } } } }
    } }
"""
_AUTOMATION = """
    { repositoriesOrError { ... on RepositoryConnection { nodes {
        jobs { name } schedules { name cronSchedule scheduleState { status } } } } } }
"""
_EXPECTED_METADATA = {
    "raw": {
        "dagster/row_count", "rows of the first load", "rows changed", "rows deleted", "rows quarantined",
        *(f"{figure} of the first load" for figure in (
            "bytes read", "bytes landed", "seconds", "processor seconds of its thread", "peak MiB of the process",
            "rows per second", "rows per second, of those of COPY alone",
        )), "batch", "dagster/uri", "preview", "dagster/column_schema",
    },
    "star": {
        "dagster/row_count", "rows of the first load", "rows changed", "rows deleted", *(f"{figure} of the first load" for figure in (
            "rows written", "bytes written", "seconds", "processor seconds", "peak MiB of the process", "rows per second",
        )), "batch", "dagster/uri", "preview",
    },
    "warehouse": {
        "dagster/row_count", "seconds behind the source", "batch", "preview",
    },
    "exports": {"dagster/row_count", "bytes", "seconds", "processor seconds", "rows per second"},
}  # fmt: skip


@pytest.fixture(scope="module")
def ui(postgres_folder: Path) -> Iterator[Interface]:
    with interface(postgres_folder / "interface") as served:
        yield served


def test_whoever_starts_the_interface_and_presses_the_button_sees_it_all(ui: Interface, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    troubles = watch(page)

    # From the command to the graph.
    page.goto(f"{ui.url}/asset-groups")
    page.get_by_text("Materialize all").wait_for()
    for stage in STAGES:
        page.get_by_text(stage, exact=True).first.wait_for()
    seconds_to_graph = time.monotonic() - ui.started
    print(f"\n{seconds_to_graph:.1f} s from `etl ui` to the asset graph")

    jobs, schedules = automation(ui)
    assert {"etl", "raw", "star", "warehouse", "exports", "verify"} <= jobs
    assert schedules == {
        "every_15_minutes": ("*/15 * * * *", "STOPPED"),
        "every_night": ("30 2 * * *", "RUNNING"),
        "verify_every_night": ("30 3 * * *", "RUNNING"),
        "sweep_every_night": ("0 4 * * *", "RUNNING"),
        "forget_every_night": ("45 3 * * *", "RUNNING"),
    }

    # One button runs the whole flow.
    page.goto(f"{ui.url}/locations/{LOCATION}/jobs/etl")
    page.get_by_role("button", name="Materialize all").click()
    status = finished_run(ui)
    print(f"{time.monotonic() - ui.started:.1f} s from `etl ui` to the end of the first run")
    assert status == "SUCCESS", ui.log.read_text()[-3000:]

    # What is to be known of each asset.
    nodes = {tuple(node["assetKey"]["path"]): node for node in ui.ask(_ASSETS)["assetNodes"]}
    proof = nodes.pop(("proof", "verification"))  # belongs to no stage: its checks are the verification's
    assert (proof["groupName"], proof["isMaterializable"]) == ("proof", False)
    steps = {
        path: nodes.pop(path) for path in list(nodes) if path[0] == "forecast"
    }  # made when somebody asks
    assert ("forecast", "predictions") in steps
    assert [path for path, one in steps.items() if one["groupName"] != "forecast"] == []
    assert [path for path, one in steps.items() if not (one["description"] and one["kinds"])] == []
    assert {path[0] for path in nodes} == set(STAGES)
    for (stage, name), node in nodes.items():
        asset = f"{stage}/{name}"
        assert node["groupName"] == stage, asset
        assert node["description"].startswith("One "), asset
        assert node["kinds"], asset
        assert node["owners"], asset
        if not node["isMaterializable"]:
            assert stage == "source", asset
            continue
        assert set(metadata_of(node)) >= _EXPECTED_METADATA.get(stage, set()), asset
        for check in node["assetChecksOrError"]["checks"]:
            # A batch that did not change a table says nothing about its volume.
            fine = {"SUCCEEDED", "SKIPPED"} if check["name"] == "volume_is_usual" else {"SUCCEEDED"}
            assert check["executionForLatestMaterialization"]["status"] in fine, f"{asset}: {check}"
    fact = metadata_of(nodes["star", "fact_sales_order"])
    assert fact["rows of the first load"]["intValue"] == fact["dagster/row_count"]["intValue"] > 0
    assert "| sales_record_id |" in fact["preview"]["mdStr"]
    declared = {entry["label"]: entry for entry in nodes["star", "fact_sales_order"]["metadataEntries"]}
    lineage = {one["columnName"]: one["columnDeps"] for one in declared["dagster/column_lineage"]["lineage"]}
    assert lineage["created_date"] == [
        {"assetKey": {"path": ["raw", "sales_order"]}, "columnName": "created_at"}
    ]
    checks = {c["name"] for c in nodes["warehouse", "fact_sales_order"]["assetChecksOrError"]["checks"]}
    assert checks == {"equals_the_source", "references_resolve"}

    # And the pages show it.
    for path, texts in {
        "star/fact_sales_order": [
            "One row is a version of a sales order, or the record of its deletion.",
            "Row count", "Parquet", "data-platform", "agreed_delivery_location_id", "references dim_location",
        ],
        f"star/fact_sales_order?view=events&asOf={moment(nodes['star', 'fact_sales_order'])}": [
            "rows of the first load", "bytes written of the first load", "rows per second of the first load",
        ],
        f"raw/staff?view=events&asOf={moment(nodes['raw', 'staff'])}": ["rows quarantined", "source as of"],
        "warehouse/fact_sales_order?view=checks": [
            "equals_the_source", "references_resolve", "Passed", "everything, side by side",
            "the batch, side by side", "landed", "units_sold",
        ],
        "exports/sales_by_month": ["One row is what a seller sold in a month in a currency.", "revenue"],
        "source/staff": ["One row is a member of staff.", "External Asset", "email_address"],
    }.items():  # fmt: skip
        page.goto(f"{ui.url}/assets/{path}")
        for text in texts:
            page.get_by_text(text, exact=True).first.wait_for(timeout=15_000)
        # Only a failed load of the definitions, or a daemon that is not there, puts up a banner.
        assert page.get_by_text("failed to load").count() == 0, path
    page.close()
    assert not troubles


def test_the_definitions_pass_dagsters_own_check_without_a_warning(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    shutil.copy(root / "dagster.yaml", tmp_path)
    checked = subprocess.run(
        [str(Path(sys.executable).with_name("dg")), "check", "defs"],
        cwd=root,
        env={
            "PATH": str(Path(sys.executable).parent),
            "HOME": str(tmp_path),
            "PYTHONPATH": str(root),
            "ETL_DATA": str(tmp_path / "data"),
            "DAGSTER_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    told = checked.stdout + checked.stderr
    assert checked.returncode == 0, told
    assert "warning" not in told.lower(), told
    assert "loaded successfully" in told, told


def watch(page: Any) -> list[str]:
    """Gets what goes wrong in a page from now on: console errors, requests that fail, answers that say so."""
    troubles: list[str] = []

    def console(message: Any) -> None:
        if message.type == "error":
            troubles.append(f"console: {message.text}")

    def failed(request: Any) -> None:
        # What a page no longer wants when it is left is no failure.
        if request.failure != "net::ERR_ABORTED":
            troubles.append(f"{request.failure}: {request.url}")

    def answered(response: Any) -> None:
        if response.status >= 400:
            troubles.append(f"{response.status}: {response.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: troubles.append(f"page: {error}"))
    page.on("requestfailed", failed)
    page.on("response", answered)
    return troubles


def automation(ui: Interface) -> tuple[set[str], dict[str, tuple[str, str]]]:
    """The names of the jobs, and of each schedule when it is due and whether it is switched on."""
    (repository,) = ui.ask(_AUTOMATION)["repositoriesOrError"]["nodes"]
    schedules = {
        s["name"]: (s["cronSchedule"], s["scheduleState"]["status"]) for s in repository["schedules"]
    }
    return {job["name"] for job in repository["jobs"]}, schedules


def finished_run(ui: Interface) -> str:
    """Waits for all runs there are (the sensor starts one too); how they ended."""
    deadline = time.monotonic() + _RUN_SECONDS
    statuses = {"no run was started"}
    while time.monotonic() < deadline:
        statuses = {str(run["status"]) for run in ui.ask(_RUNS)["runsOrError"]["results"]} or statuses
        if statuses <= {"SUCCESS", "FAILURE", "CANCELED"}:
            break
        time.sleep(0.3)
    return ", ".join(sorted(statuses))


def first_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The materialization of the first run: the sensor starts one too, and one of the two finds nothing more."""
    return node["assetMaterializations"][-1]  # type: ignore[no-any-return]


def moment(node: Mapping[str, Any]) -> str:
    """When that was, as the address of the page takes it."""
    return str(first_of(node)["timestamp"])


def metadata_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return {entry["label"]: entry for entry in first_of(node)["metadataEntries"]}
