"""`etl status`: where lake and warehouse stand, and how the last runs went. Reads only, starts nothing."""

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from etl_assets.cli import environment, output
from etl_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.automation.runs import RunStep
    from etl_assets.lake.manifest import Manifest
    from etl_assets.star.definition import Inputs
    from etl_assets.star.files import StarFile, StarFiles

_FAILED = 5
"""How many failed runs are told, of the last ones."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--last-success",
    "wanted",
    type=click.Choice(["completed", "id"]),
    is_flag=False,
    flag_value="completed",
    help="Print only when the last successful run of the whole flow was completed (ISO 8601, UTC), or its id.",
)
def status(as_json: bool, wanted: str | None) -> None:
    """Show what lake and warehouse hold, which star tables are behind or no longer declared, how the last runs
    went, and what is out of date, and why.

    \b
    Exit codes:
      0  it is shown
      1  an error
      3  --last-success, and no run of the whole flow has succeeded yet
    """
    settings = environment.settings()
    if wanted:
        if as_json:
            raise click.UsageError("give either --json or --last-success")
        _print_last_success(settings, wanted)
        return
    lake, warehouse, recorded = _lake(settings), _warehouse(settings), _recorded(settings)
    star, apis = _star(settings, warehouse), _apis(settings)
    if as_json:
        output.emit_json({"lake": lake, "apis": apis, "warehouse": warehouse, "star": star, **recorded})
        return
    _show_lake(lake)
    _show_apis(apis)
    output.say()
    _show_warehouse(warehouse)
    output.say()
    _show_star(star)
    _show_runs(recorded["runs"])
    _show_assets(recorded["assets"])


def _print_last_success(settings: Settings, wanted: str) -> None:
    none = "no successful run of the whole flow yet"
    if environment.dagster_home(settings) is None:
        output.nothing_yet(none)
    environment.arrange_dagster_home(settings)

    from etl_assets.automation.runs import last_successes

    with environment.open_instance() as instance:
        found = last_successes(instance, 1, environment.naming(settings))
    if not found:
        output.nothing_yet(none)
    completed = found[0].completed
    output.say(found[0].id if wanted == "id" or completed is None else completed.isoformat())


def _lake(settings: Settings) -> dict[str, Any]:
    from etl_assets.lake.batches import Batches
    from etl_assets.lake.names import number
    from etl_assets.lake.opening import open_files

    files = open_files(settings.lake_url, settings.data / "cache")
    batches = Batches(files)
    newest = batches.latest()
    return {
        "url": files.url,
        "batches": newest.batch if newest else 0,
        "newest": newest
        and {"batch": number(newest.batch), "source_time": newest.server_time, "run_id": newest.run_id},
        "tables": {
            name: {"rows": state.rows, "versions": state.versions, "changed_in": number(state.changed_in)}
            for name, state in (newest.tables if newest else {}).items()
        },
    }


def _apis(settings: Settings) -> dict[str, Any]:
    """How the windows of each API stand, by what has landed."""
    project = environment.project(settings)
    if not project.apis:
        return {}

    from etl_assets.apis.due import due
    from etl_assets.apis.takes import COMPLETE, LOADED, REJECTED, takes
    from etl_assets.lake.opening import open_files

    files, now = open_files(settings.lake_url, settings.data / "cache"), datetime.now(UTC)
    told = {}
    for api in project.apis.values():
        newest = {take.window: take for take in takes(files, api.name)}
        states = Counter(take.state for take in newest.values())
        asked = [summary.received for take in newest.values() if (summary := take.summary())]
        told[api.name] = {
            "loaded": states[LOADED],
            "waiting": states[COMPLETE],
            "rejected": states[REJECTED],
            "due": sum(1 for _ in due(api, files, now)),
            "last_asked": datetime.fromtimestamp(max(asked), UTC) if asked else None,
        }
    return told


def _warehouse(settings: Settings) -> dict[str, Any]:
    """What the books of the warehouse say."""
    from etl_assets.lake.names import number
    from etl_assets.warehouse.contract import WarehouseInUse

    with environment.resources(settings, "warehouse") as found:
        told: dict[str, Any] = {
            "path": found.warehouse.where,
            "in_use": False,
            "tables": {},
            "stand_ins": {},
        }
        try:
            noted = found.warehouse.noted()
        except WarehouseInUse:
            return told | {"in_use": True}
    tables = {name: asdict(held) | {"batch": number(held.batch)} for name, held in noted.tables.items()}
    return told | {"tables": tables, "stand_ins": dict(noted.stand_ins)}


def _star(settings: Settings, warehouse: dict[str, Any]) -> dict[str, Any]:
    """Which batch lake and warehouse show of each star table, and what there is of tables that aren't declared."""
    from etl_assets.lake.batches import Batches
    from etl_assets.lake.opening import open_files
    from etl_assets.star.files import StarFiles
    from etl_assets.star.retired import in_lake

    files = open_files(settings.lake_url, settings.data / "cache")
    star = StarFiles(files, Batches(files))
    manifest = star.batches.latest()
    if manifest is None and not warehouse["tables"] and not in_lake(star, {}):
        return {"tables": {}, "no_longer_declared": {}}
    project = environment.project(settings)
    kept = in_lake(star, {name: made.schema for name, made in project.star.items()})
    left = {name: ["lake"] for name in kept}
    for name in warehouse["tables"]:
        if name not in project.star:
            left.setdefault(name, []).append("warehouse")
    tables = {}
    if manifest is not None:
        due = _due(project.inputs, star, manifest)
        tables = {
            name: _standing(star.shown(made.schema), due[name], warehouse, name)
            for name, made in project.star.items()
        }
    return {"tables": tables, "no_longer_declared": dict(sorted(left.items()))}


def _due(inputs: "Inputs", star: "StarFiles", manifest: "Manifest") -> dict[str, str | None]:
    """The version that each star table should have; None where it is made from what no batch has read yet."""
    import duckdb

    from etl_assets.lake.current import Current
    from etl_assets.lake.files import LakeError
    from etl_assets.star.frames import Frames

    due: dict[str, str | None] = {}
    with duckdb.connect() as connection:
        frames = Frames(inputs, Current(star.batches, connection), star, connection)
        for name in inputs.star:
            try:
                due[name] = frames.version(name, manifest)
            except LakeError:
                due[name] = None
    return due


def _standing(
    shown: "StarFile | None", due: str | None, warehouse: dict[str, Any], name: str
) -> dict[str, Any]:
    """Which batch lake and warehouse show of a star table, and why that is not the newest state of it."""
    from etl_assets.lake.names import number

    held = warehouse["tables"].get(name)
    why = None
    if shown is None:
        why = "the lake has no file of it that can be read"
    elif shown.version != due:
        why = "the lake shows an older batch of it, or what other code made"
    elif not warehouse["in_use"] and (held is None or held["version"] != shown.version):
        why = "the warehouse does not show what the lake does"
    return {
        "lake": shown and number(shown.batch),
        "warehouse": held and held["batch"],
        "newest": why is None,
        "why": why,
    }


def _recorded(settings: Settings) -> dict[str, Any]:
    """What Dagster's instance tells of runs and assets; it is not made if there is none yet."""
    runs: dict[str, Any] = {"last_success": None, "last": None, "running": [], "queued": [], "failed": []}
    if environment.dagster_home(settings) is None:
        return {"runs": runs, "assets": []}
    environment.arrange_dagster_home(settings)

    import dagster as dg

    from etl_assets.automation.failures import last_failure
    from etl_assets.automation.runs import last_successes, newest

    kinds, naming = dg.DagsterRunStatus, environment.naming(settings)
    with environment.open_instance() as instance:
        runs["last_success"] = next((run.as_object() for run in last_successes(instance, 1, naming)), None)
        runs["last"] = next(
            (
                run.as_object() | {"steps": [_step(step) for step in run.steps()]}
                for run in newest(instance, naming=naming)
            ),
            None,
        )
        running = newest(
            instance, [kinds.STARTING, kinds.STARTED, kinds.CANCELING], limit=None, naming=naming
        )
        runs["running"] = [run.as_object() for run in running]
        runs["queued"] = [run.as_object() for run in newest(instance, [kinds.QUEUED], None, naming)]
        runs["failed"] = [
            run.as_object() | {"error": last_failure(instance, run.id)}
            for run in newest(instance, [kinds.FAILURE], _FAILED, naming)
        ]
        return {"runs": runs, "assets": _assets(settings, instance)}


def _step(step: "RunStep") -> dict[str, Any]:
    return {
        "step": step.name,
        "status": step.status,
        "duration_seconds": step.seconds,
        "assets": [{"asset": one.name, "rows": one.rows, "unchanged": one.unchanged} for one in step.made],
    }


def _assets(settings: Settings, instance: "dg.DagsterInstance") -> list[dict[str, Any]]:
    """How the assets stand; observed files count as they are now, reported or not."""
    from etl_assets.automation.staleness import standings
    from etl_assets.definitions import definitions, observed_files
    from etl_assets.source.assets import data_version, observation

    naming = environment.naming(settings)
    files = [observation(one, naming) for one in observed_files(environment.project(settings), settings)]
    graph = definitions(settings).resolve_asset_graph()
    found = standings(instance, graph, {event.asset_key: data_version(event) for event in files})
    return [
        {"asset": key.to_user_string(), "status": one.status, "why": [cause.text for cause in one.causes]}
        for key, one in found.items()
    ]


def _show_lake(lake: dict[str, Any]) -> None:
    newest = lake["newest"]
    if newest is None:
        output.say(f"lake {lake['url']}: no batch yet (etl run takes the first)")
        return
    output.say(
        f"lake {lake['url']}: {output.count(lake['batches'], 'batch', 'batches')}; newest {newest['batch']}, "
        f"the source as of {output.moment(newest['source_time'])}, run {newest['run_id']}"
    )
    output.table(
        ["table", "rows", "versions", "changed in"],
        [(name, t["rows"], t["versions"], t["changed_in"]) for name, t in lake["tables"].items()],
    )


def _show_apis(apis: dict[str, Any]) -> None:
    if apis:
        output.say()
        output.table(
            ["API", "windows loaded", "wait to be loaded", "rejected", "due (etl fetch)", "last asked (UTC)"],
            [
                (name, one["loaded"], one["waiting"], one["rejected"], one["due"], one["last_asked"])
                for name, one in apis.items()
            ],
        )


def _show_warehouse(warehouse: dict[str, Any]) -> None:
    where = f"warehouse {warehouse['path']}"
    if warehouse["in_use"]:
        output.say(f"{where}: in use by a process that writes to it; ask again when it is done")
        return
    if not warehouse["tables"]:
        output.say(f"{where}: not loaded yet")
        return
    output.say(where)
    stand_ins, nothing = warehouse["stand_ins"], {"rows": 0, "batch": None, "loaded_at": None}
    output.table(
        ["table", "rows", "batch", "loaded at (UTC)", "stand-ins"],
        [
            (name, t["rows"], t["batch"], t["loaded_at"], stand_ins.get(name))
            for name, t in {**dict.fromkeys(stand_ins, nothing), **warehouse["tables"]}.items()
        ],
    )


def _show_star(star: dict[str, Any]) -> None:
    tables, left = star["tables"], star["no_longer_declared"]
    behind = {name: one for name, one in tables.items() if not one["newest"]}
    if tables:
        of = output.count(len(tables), "star table", "star tables")
        output.say(f"at the newest batch: {len(tables) - len(behind)} of {of}")
    if behind:
        output.table(
            ["star table", "lake", "warehouse", "because"],
            [(name, one["lake"], one["warehouse"], one["why"]) for name, one in behind.items()],
        )
    if left:
        told = [
            f"star/{name}{' as what it was before' if name in tables else ''} "
            + ", ".join(f"in the {place}" for place in places)
            for name, places in left.items()
        ]
        output.say(f"no longer declared: {'; '.join(told)}: etl retire removes them")
    if tables or left:
        output.say()


def _show_runs(runs: dict[str, Any]) -> None:
    succeeded, last = runs["last_success"], runs["last"]
    if last is None:
        output.say("no run yet")
        return
    if succeeded:
        output.say(
            f"last success: {output.moment(succeeded['completed'])} UTC, {succeeded['job']}, run {succeeded['id']}"
        )
    else:
        output.say("last success: none yet of the whole flow")
    for one in runs["failed"]:
        output.say(
            f"failed: {output.moment(one['completed'])} UTC, {one['job']}, run {one['id']}: "
            f"{one['error'] or 'no reason was recorded'}"
        )
    for one in (*runs["running"], *runs["queued"]):
        output.say(f"{one['status'].lower()}: {one['job']}, run {one['id']}")
    output.say(f"\nlast run {last['id']}, {last['job']}: {last['status'].lower()}")
    output.table(
        ["step", "outcome", "seconds", "asset", "rows"],
        [
            (
                step["step"],
                step["status"].lower(),
                step["duration_seconds"],
                made.get("asset"),
                made.get("rows"),
            )
            for step in last["steps"]
            for made in step["assets"] or [{}]
        ],
    )


def _show_assets(assets: list[dict[str, Any]]) -> None:
    if not assets:
        return
    behind = [one for one in assets if one["status"] != "fresh"]
    output.say(f"\nup to date: {len(assets) - len(behind)} of {output.count(len(assets), 'asset', 'assets')}")
    if behind:
        output.table(
            ["asset", "is", "because"],
            [(one["asset"], one["status"], "; ".join(one["why"])) for one in behind],
        )
