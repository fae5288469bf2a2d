"""The whole platform, in the order in which the data moves. This is what Dagster loads."""

import os

import dagster as dg

from etl_assets import automation
from etl_assets.deployments import resources
from etl_assets.engine.definition import Inputs, definitions_in
from etl_assets.exports.assets import export_assets
from etl_assets.exports.reports import REPORTS
from etl_assets.proof.checks import certificate_checks
from etl_assets.raw.assets import raw_assets
from etl_assets.settings import Settings
from etl_assets.source import totesys
from etl_assets.source.assets import REFERENCES, source_assets
from etl_assets.star import dimensions, facts
from etl_assets.star.assets import star_assets
from etl_assets.warehouse.assets import warehouse_assets

INPUTS = Inputs(
    tables={table.name: table for table in totesys.TABLES},
    star=definitions_in(dimensions, facts),
    references=REFERENCES,
)


def definitions(settings: Settings) -> dg.Definitions:
    """The same assets in every deployment; only the resources follow the settings."""
    return dg.Definitions(
        assets=[
            *source_assets(totesys.TABLES),
            raw_assets(totesys.TABLES),
            *star_assets(INPUTS),
            warehouse_assets(INPUTS),
            *export_assets(REPORTS),
        ],
        asset_checks=[certificate_checks(INPUTS)],
        jobs=automation.JOBS,
        schedules=automation.SCHEDULES,
        resources=resources(settings),
        executor=dg.in_process_executor,  # spawned processes would cost seconds per step; capture has threads
    )


defs = definitions(Settings.read(os.environ))
