"""The whole platform, in the order in which the data moves. This is what Dagster loads."""

import os

import dagster as dg

from etl_assets.apis.assets import api_assets, api_tables
from etl_assets.automation import jobs
from etl_assets.automation.alerting import alerting
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.code_changed import code_changed
from etl_assets.automation.in_process import EXECUTOR
from etl_assets.automation.retention import forget_every_night, forget_old_runs
from etl_assets.automation.source_changed import source_changed
from etl_assets.automation.sweep import sweep_every_night
from etl_assets.automation.verification import verify, verify_every_night
from etl_assets.automation.windows_due import fetch_jobs, windows_due
from etl_assets.deployments import resources
from etl_assets.exports.assets import export_assets
from etl_assets.project import Project, load
from etl_assets.proof.checks import certificate_checks, verification_asset, verification_checks
from etl_assets.proof.verify import differing
from etl_assets.raw.assets import raw_assets
from etl_assets.settings import Settings
from etl_assets.source.assets import file_assets, reference_files, source_assets
from etl_assets.source.files import ObservedFiles, models
from etl_assets.star.assets import star_assets
from etl_assets.warehouse.assets import warehouse_assets


def observed_files(project: Project, settings: Settings) -> list[ObservedFiles]:
    """The reference files, and the model files that the settings name."""
    return [
        *reference_files(project.references),
        *models(settings.models, [*project.tables, *project.references]),
    ]


def definitions(settings: Settings) -> dg.Definitions:
    """The assets of the project, the same in every deployment; only the resources follow the settings. Raises
    `ProjectError`."""
    project = load(settings.project)
    inputs, tables, apis = project.inputs, list(project.tables.values()), list(project.apis.values())
    breaker = Breaker(settings.breaker_failures)
    observed = observed_files(project, settings)
    described = {
        **{name: f"One row of {name}.csv." for name in project.references},
        **project.options.references,
    }
    fetching = fetch_jobs(apis)
    return dg.Definitions(
        assets=[
            *source_assets(tables),
            *api_assets(apis),
            *file_assets(observed, described),
            *([raw_assets(tables, project.name)] if tables else []),
            *([api_tables(apis, project.name)] if apis else []),
            star_assets(inputs, differing),
            warehouse_assets(inputs, project.name),
            *export_assets(list(project.reports.values()), project.schemas, project.options.workbook),
            verification_asset(inputs),
        ],
        asset_checks=[certificate_checks(inputs), verification_checks(inputs, apis)],
        jobs=[*jobs.JOBS, *fetching.values(), verify, forget_old_runs],
        schedules=[
            jobs.every_15_minutes(breaker),
            jobs.every_night(breaker),
            verify_every_night(inputs, settings.verify_rows),
            *([sweep_every_night(breaker)] if tables else []),
            forget_every_night,
        ],
        sensors=[
            *([source_changed(tables, breaker)] if tables else []),
            *([windows_due(apis, fetching, breaker)] if apis else []),
            code_changed(observed, breaker),
            alerting(settings.ui_url),
        ],
        resources=resources(settings),
        executor=EXECUTOR,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What a code location loads: not before it is asked for, since who imports this module may mean another project."""
    return definitions(Settings.read(os.environ))
