"""The whole platform, in the order in which the data moves. This is what Dagster loads."""

import os

import dagster as dg

from etl_assets.automation import jobs
from etl_assets.automation.alerting import alerting
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.code_changed import code_changed
from etl_assets.automation.in_process import EXECUTOR
from etl_assets.automation.retention import forget_every_night, forget_old_runs
from etl_assets.automation.source_changed import source_changed
from etl_assets.automation.sweep import sweep_every_night
from etl_assets.automation.verification import verify, verify_every_night
from etl_assets.deployments import resources
from etl_assets.engine.definition import Inputs, definitions_in
from etl_assets.exports.assets import export_assets
from etl_assets.exports.reports import REPORTS
from etl_assets.proof.checks import certificate_checks, verification_asset, verification_checks
from etl_assets.raw.assets import raw_assets
from etl_assets.settings import Settings
from etl_assets.source import totesys
from etl_assets.source.assets import REFERENCES, file_assets, reference_files, source_assets
from etl_assets.source.models import ObservedFiles, models
from etl_assets.star import dimensions, facts
from etl_assets.star.assets import star_assets
from etl_assets.warehouse.assets import warehouse_assets

INPUTS = Inputs(
    tables={table.name: table for table in totesys.TABLES},
    star=definitions_in(dimensions, facts),
    references=REFERENCES,
)


def observed_files(settings: Settings) -> list[ObservedFiles]:
    """The reference files, and the model files that the settings name."""
    return [
        *reference_files(INPUTS.references),
        *models(settings.models, [*INPUTS.tables, *INPUTS.references]),
    ]


def definitions(settings: Settings) -> dg.Definitions:
    """The same assets in every deployment; only the resources follow the settings."""
    breaker = Breaker(settings.breaker_failures)
    observed = observed_files(settings)
    return dg.Definitions(
        assets=[
            *source_assets(totesys.TABLES),
            *file_assets(observed),
            raw_assets(totesys.TABLES),
            star_assets(INPUTS),
            warehouse_assets(INPUTS),
            *export_assets(REPORTS),
            verification_asset(INPUTS),
        ],
        asset_checks=[certificate_checks(INPUTS), verification_checks(INPUTS)],
        jobs=[*jobs.JOBS, verify, forget_old_runs],
        schedules=[
            jobs.every_15_minutes(breaker),
            jobs.every_night(breaker),
            verify_every_night(INPUTS, settings.verify_rows),
            sweep_every_night(breaker),
            forget_every_night,
        ],
        sensors=[
            source_changed(totesys.TABLES, breaker),
            code_changed(observed, breaker),
            alerting(settings.ui_url),
        ],
        resources=resources(settings),
        executor=EXECUTOR,
    )


defs = definitions(Settings.read(os.environ))
