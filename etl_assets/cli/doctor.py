"""`etl doctor`: every connection and permission of this deployment, tried; what is missing, and what to do."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output
from etl_assets.errors import EtlError

if TYPE_CHECKING:
    from etl_assets.preflight import CheckResult
    from etl_assets.project import Project
    from etl_assets.settings import Settings

Found = tuple[str, "CheckResult"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--send-test-alert", is_flag=True, help="Send an alert, to see that it arrives.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, send_test_alert: bool) -> None:
    """Try every connection and permission that a run needs, and say what is missing.

    Nothing is loaded, and nothing that is written stays. Exit code 1 if something is missing.
    """
    found = []
    for about, checkup in _everything(send_test_alert=send_test_alert):
        found.append((about, checkup))
        if not as_json:
            output.say(f"{checkup.state:<8} {about:<10} {checkup.name:<20} {checkup.told}")
    missing = sum(checkup.state == "missing" for _, checkup in found)
    if as_json:
        checks = [{"about": about, "check": c.name, "state": c.state, "told": c.told} for about, c in found]
        output.emit_json({"ok": not missing, "checks": checks})
    else:
        count = output.count(missing, "thing is", "things are")
        output.say(f"\n{count} missing" if missing else "\neverything that a run needs is there")
    if missing:
        ctx.exit(1)


def _everything(*, send_test_alert: bool) -> Iterator[Found]:
    from etl_assets.preflight import CheckResult

    try:
        settings = environment.settings()
        # Importing the definitions loads them with the same settings.
        from etl_assets.deployments import resources
        from etl_assets.settings import mistaken

        project = environment.project(settings)
        found = resources(settings)
    except EtlError as error:
        yield "settings", CheckResult("read", str(error), "missing")
        return
    named = [name for name in os.environ if name.startswith("ETL_") and os.environ[name].strip()]
    told = f"the deployment {settings.deployment}; set: {', '.join(sorted(named)) or 'nothing'}"
    yield "settings", CheckResult("read", told)
    for name, meant in mistaken(os.environ).items():
        yield (
            "settings",
            CheckResult(name, f"is no setting, so it changes nothing: is {meant} meant?", "advice"),
        )
    yield "settings", CheckResult("pace", settings.every.told())
    for checkup in _dagster(settings):
        yield "dagster", checkup
    yield from _permissions(settings)
    for name in found:
        for checkup in _resource(settings, name, project):
            yield name, checkup
    for checkup in _steps(settings, project):
        yield "steps", checkup
    if send_test_alert:
        yield "alerts", _alerted(settings)


def _resource(settings: "Settings", name: str, project: "Project") -> "Iterator[CheckResult]":
    from etl_assets.apis.resource import Apis
    from etl_assets.preflight import Checked, CheckResult
    from etl_assets.source.resource import PostgresSource

    try:
        with environment.resources(settings, name) as built:
            resource = getattr(built, name)
            if isinstance(resource, PostgresSource):
                yield from resource.check(list(project.tables.values())) if project.tables else ()
            elif isinstance(resource, Apis):
                yield from resource.check(list(project.apis.values()))
            elif isinstance(resource, Checked):
                yield from resource.check()
    except EtlError as error:
        yield CheckResult("use", str(error), "missing")


def _dagster(settings: "Settings") -> "Iterator[CheckResult]":
    from etl_assets.preflight import CheckResult

    home = environment.dagster_home(settings)
    if home is None:
        yield CheckResult("home", f"{settings.data / 'dagster'}: the first run makes it")
        return
    if not Path(home).is_dir():
        yield CheckResult(
            "home", f"DAGSTER_HOME={home} is no folder: make it, or unset the variable", "missing"
        )
        return
    environment.arrange_dagster_home(settings)
    try:
        with environment.open_instance() as instance:
            yield CheckResult("storage", f"{home}: {output.count(instance.get_runs_count(), 'run', 'runs')}")
            storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
            revisions = [storage.alembic_version() for storage in storages if storage is not None]
            if any(revision is not None and revision[0] != revision[1] for revision in revisions):
                told = "its tables are of another version of Dagster: stop what uses it, then dagster instance migrate"
                yield CheckResult("migrations", told, "missing")
    except EtlError as error:
        yield CheckResult("storage", str(error), "missing")


def _permissions(settings: "Settings") -> "Iterator[Found]":
    """What was written before, or by others, keeps the bits that it has."""
    from etl_assets.lake.files import parts
    from etl_assets.permissions import is_open
    from etl_assets.preflight import CheckResult
    from etl_assets.settings import duckdb_path, warehouse_engine

    places = {"dagster": environment.dagster_home(settings)}
    scheme, folder = parts(settings.lake_url)
    if scheme == "file":
        places["lake"] = Path(folder).absolute()
    if warehouse_engine(settings.warehouse_url) == "duckdb":
        places["warehouse"] = duckdb_path(settings.warehouse_url)
    for about, path in places.items():
        if path is not None and is_open(path, settings.file_mode):
            told = f"{path} can be read by others of this machine: chmod -R o= it (go= for nobody else), or set ETL_FILE_MODE"
            yield about, CheckResult("permissions", told, "advice")


def _steps(settings: "Settings", project: "Project") -> "Iterator[CheckResult]":
    """The settings of steps, and a session in each database that they name."""
    from etl_assets.cli.check import missing_settings
    from etl_assets.preflight import CheckResult, probed
    from etl_assets.steps.sessions import WAREHOUSE, setting_of

    lacking = missing_settings(project, os.environ)
    yield from (CheckResult(name, "a step needs it: set it (docs/steps.md)", "missing") for name in lacking)
    databases = {one.works_in for group in project.steps.values() for one in group.steps} - {"", WAREHOUSE}
    for database in sorted(databases):
        if setting_of(database) not in lacking:
            yield probed(database, lambda database=database: _session(settings, database))  # type: ignore[misc]


def _session(settings: "Settings", database: str) -> str:
    with environment.resources(settings, "steps") as built:
        built.steps.session(database).close()
    return "a session can be opened"


def _alerted(settings: "Settings") -> "CheckResult":
    from etl_assets.clients.alerts import Alert
    from etl_assets.preflight import probed

    def send() -> str:
        with environment.resources(settings, "alerts") as built:
            text = (
                "Nothing has happened: somebody tries whether alerts arrive (etl doctor --send-test-alert)."
            )
            built.alerts.send(Alert("etl: a test alert", text, settings.ui_url, "", good=True))
        return "sent; see that it arrived"

    return probed("test alert", send)
