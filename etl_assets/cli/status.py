"""`etl status`: where lake and warehouse stand, and how the last runs went. Reads only, starts nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etl_assets.cli import environment, output
from etl_assets.errors import EtlError
from etl_assets.settings import Settings, duckdb_path

if TYPE_CHECKING:
    import dagster as dg


class StatusError(EtlError):
    """What is asked for its status can't be read."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show what lake and warehouse hold, and the last runs."""
    settings = environment.settings()
    path = duckdb_path(settings.warehouse_url)
    lake, warehouse, runs = _lake(settings), _warehouse(path), _runs(settings)
    if as_json:
        output.emit_json({"lake": lake, "warehouse": warehouse, "runs": runs})
        return
    _show_lake(lake)
    click.echo()
    _show_warehouse(warehouse)
    click.echo()
    _show_runs(runs)


def _lake(settings: Settings) -> dict[str, Any]:
    from etl_assets.lake.batches import Batches
    from etl_assets.lake.files import open_files

    files = open_files(settings.lake_url)
    batches = Batches(files)
    numbers = batches.numbers()
    newest = batches.get(numbers[-1]) if numbers else None
    return {
        "url": files.url,
        "batches": len(numbers),
        "newest": newest
        and {"batch": newest.batch, "source_time": newest.server_time, "run_id": newest.run_id},
        "tables": {
            name: {"rows": state.rows, "versions": state.versions, "changed_in": state.changed_in}
            for name, state in (newest.tables if newest else {}).items()
        },
    }


def _warehouse(path: Path) -> dict[str, Any]:
    """What `star.loads` says. Not through the resource, which opens the file to write."""
    import duckdb

    held: dict[str, Any] = {"path": str(path), "in_use": False, "tables": {}}
    if not path.exists():
        return held
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            loads = connection.execute(
                "SELECT table_name, max(batch), sum(rows)::BIGINT, max(loaded_at), arg_max(run_id, loaded_at)"
                " FROM star.loads GROUP BY ALL ORDER BY table_name"
            ).fetchall()
    except duckdb.CatalogException:  # a file that nothing was loaded into
        return held
    except duckdb.IOException as error:
        reason = " ".join(str(error).split())
        if "lock" not in reason.lower():
            raise StatusError(f"can't read the warehouse {path}: {reason}") from error
        return held | {"in_use": True}
    held["tables"] = {
        name: {"rows": rows, "batch": batch, "loaded_at": loaded_at, "run_id": run_id}
        for name, batch, rows, loaded_at, run_id in loads
    }
    return held


def _runs(settings: Settings) -> dict[str, Any]:
    """The last runs of Dagster's instance; it is not made if there is none yet."""
    runs: dict[str, Any] = {"last_success": None, "last_failure": None, "running": []}
    if environment.dagster_home(settings) is None:
        return runs
    environment.arrange_dagster_home(settings)

    import dagster as dg

    from etl_assets.cli.failures import last_failure

    kinds = dg.DagsterRunStatus
    with environment.open_instance() as instance:
        for name, statuses in {
            "last_success": [kinds.SUCCESS],
            "last_failure": [kinds.FAILURE],
            "running": [kinds.QUEUED, kinds.STARTING, kinds.STARTED, kinds.CANCELING],
        }.items():
            limit = None if name == "running" else 1
            found = instance.get_run_records(dg.RunsFilter(statuses=statuses), limit=limit)
            told = [_run(record) for record in found]
            runs[name] = told if limit is None else next(iter(told), None)
        if runs["last_failure"]:
            runs["last_failure"]["error"] = last_failure(instance, runs["last_failure"]["run_id"])
    return runs


def _run(record: "dg.RunRecord") -> dict[str, Any]:
    import datetime

    def moment(timestamp: float | None) -> datetime.datetime | None:
        return datetime.datetime.fromtimestamp(timestamp, datetime.UTC) if timestamp else None

    return {
        "run_id": record.dagster_run.run_id,
        "job": record.dagster_run.job_name,
        "status": record.dagster_run.status.value,
        "started": moment(record.start_time),
        "ended": moment(record.end_time),
    }


def _show_lake(lake: dict[str, Any]) -> None:
    newest = lake["newest"]
    if newest is None:
        click.echo(f"lake {lake['url']}: no batch yet (etl run takes the first)")
        return
    click.echo(
        f"lake {lake['url']}: {output.count(lake['batches'], 'batch', 'batches')}; newest {newest['batch']}, "
        f"the source as of {output.moment(newest['source_time'])}, run {newest['run_id']}"
    )
    output.table(
        ["table", "rows", "versions", "changed in"],
        [(name, t["rows"], t["versions"], t["changed_in"]) for name, t in lake["tables"].items()],
    )


def _show_warehouse(warehouse: dict[str, Any]) -> None:
    where = f"warehouse {warehouse['path']}"
    if warehouse["in_use"]:
        click.echo(f"{where}: in use by a process that writes to it; ask again when it is done")
        return
    if not warehouse["tables"]:
        click.echo(f"{where}: not loaded yet")
        return
    click.echo(where)
    output.table(
        ["table", "rows", "batch", "loaded at (UTC)"],
        [(name, t["rows"], t["batch"], t["loaded_at"]) for name, t in warehouse["tables"].items()],
    )


def _show_runs(runs: dict[str, Any]) -> None:
    succeeded, failed, running = runs["last_success"], runs["last_failure"], runs["running"]
    if not (succeeded or failed or running):
        click.echo("no run yet")
        return
    if succeeded:
        click.echo(
            f"last success: {output.moment(succeeded['ended'])} UTC, {succeeded['job']}, run {succeeded['run_id']}"
        )
    else:
        click.echo("last success: none yet")
    if failed:
        click.echo(
            f"last failure: {output.moment(failed['ended'])} UTC, {failed['job']}, run {failed['run_id']}: "
            f"{failed['error'] or 'no reason was recorded'}"
        )
    for one in running:
        click.echo(f"{one['status'].lower()}: {one['job']}, run {one['run_id']}")
