"""The whole platform, in the order in which the data moves. This is what Dagster loads."""

import os

import dagster as dg

from etl_assets import permissions
from etl_assets.apis.assets import api_assets, api_tables
from etl_assets.automation.alerting import alerting
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.code_changed import code_changed
from etl_assets.automation.in_process import EXECUTOR
from etl_assets.automation.jobs import DERIVE, every_15_minutes, every_night, jobs
from etl_assets.automation.retention import forget_every_night, forget_old_runs
from etl_assets.automation.source_changed import source_changed
from etl_assets.automation.sweep import sweep_every_night
from etl_assets.automation.verification import verify, verify_every_night
from etl_assets.automation.windows_due import fetch_jobs, windows_due
from etl_assets.deployments import resources
from etl_assets.exports.assets import export_assets
from etl_assets.presentation import Naming
from etl_assets.project import Project, load
from etl_assets.proof.checks import certificate_checks, differing, verification_asset, verification_checks
from etl_assets.raw.assets import raw_assets
from etl_assets.settings import Settings, restore
from etl_assets.source.assets import file_assets, reference_files, source_assets
from etl_assets.source.files import ObservedFiles, models
from etl_assets.star.assets import star_assets
from etl_assets.steps.assets import step_assets, step_jobs
from etl_assets.warehouse.assets import warehouse_assets


def observed_files(project: Project, settings: Settings) -> list[ObservedFiles]:
    """The reference files, and the model files that the settings name."""
    return [
        *reference_files(project.references),
        *models(settings.models, [*project.tables, *project.references]),
    ]


def definitions(settings: Settings, resource_prefix: tuple[str, ...] = ()) -> dg.Definitions:
    """The assets of the project, the same in every deployment; only the resources follow the settings. Its jobs have their
    executor; what else is run in the same Dagster is not ours to say. `resource_prefix`: what the keys of its resources begin with where
    it has no prefix of its own. Raises `ProjectError`."""
    project = load(settings.project)
    naming = Naming(
        settings.key_prefix,
        settings.key_prefix or resource_prefix,
        project.options.owners,
        project.options.source_owners,
    )
    # Elsewhere the history is somebody else's, with runs of theirs.
    is_at_home = bool(settings.key_prefix) or not resource_prefix
    inputs, tables, apis = project.inputs, list(project.tables.values()), list(project.apis.values())
    breaker = Breaker(settings.breaker_failures)
    observed = observed_files(project, settings)
    described = {
        **{name: f"One row of {name}.csv." for name in project.references},
        **project.options.references,
    }
    flow, fetching = jobs(naming), fetch_jobs(apis, naming)
    return dg.Definitions(
        assets=[
            *source_assets(tables, naming),
            *api_assets(apis, naming),
            *file_assets(observed, described, naming),
            *([raw_assets(tables, project.name, naming)] if tables else []),
            *([api_tables(apis, project.name, naming)] if apis else []),
            star_assets(inputs, differing, naming),
            warehouse_assets(inputs, project.name, naming, settings.warehouse_schema),
            *export_assets(list(project.reports.values()), project.queries, project.options.workbook, naming),
            verification_asset(inputs, naming),
            *step_assets(list(project.steps.values()), list(project.star), naming),
        ],
        asset_checks=[certificate_checks(inputs, naming), verification_checks(inputs, apis, naming)],
        jobs=[
            *flow.values(),
            *fetching.values(),
            verify(naming),
            *([forget_old_runs(naming, settings.history_mb)] if is_at_home else []),
            *step_jobs(list(project.steps.values()), naming, EXECUTOR),
        ],
        schedules=[
            every_15_minutes(breaker, naming),
            every_night(breaker, naming),
            verify_every_night(inputs, settings.verify_rows, naming),
            *([sweep_every_night(breaker, naming)] if tables else []),
            *([forget_every_night(naming, settings.history_mb)] if is_at_home else []),
        ],
        sensors=[
            *([source_changed(tables, breaker, naming, settings.every)] if tables else []),
            *([windows_due(apis, flow[DERIVE], fetching, breaker, naming)] if apis else []),
            code_changed(observed, breaker, naming),
            alerting(settings.ui_url, naming),
        ],
        resources={naming.resource(name): one for name, one in resources(settings).items()},
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What a code location loads: not before it is asked for, since who imports this module may mean another project."""
    restore(os.environ)
    settings = Settings.read(os.environ)
    permissions.apply(settings.file_mode)
    return dg.Definitions.merge(definitions(settings), dg.Definitions(executor=EXECUTOR))
