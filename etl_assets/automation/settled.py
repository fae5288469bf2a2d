"""Whether a run of the whole flow would find anything to do, told without assembling the flow.

A run that succeeded notes on its record what it was made with and how it left lake, warehouse and exports (`note`). While all
of that is as it was, and nothing was committed in the source since that run read it, another run would find nothing: it is
recorded as one without steps (`record`). Whatever can't be told, or is not as it was, is a reason for a usual run; so a crash,
damage, other code, or an export that is gone are found as ever.

What is compared is content, with two exceptions: landed files, which only `etl verify` reads again, and the rows of the
warehouse's star, of which the books, the columns and, where that costs nothing, the numbers of rows are compared.
"""

import hashlib
import importlib.util
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType
from pydantic import ValidationError

import etl_assets
from etl_assets.automation.history import FLOW, UNCHANGED_SINCE, UNDERWAY
from etl_assets.exports.publishing import ReportTables, Workbook
from etl_assets.lake.certificates import certificate_path, noted
from etl_assets.presentation import Naming
from etl_assets.project import place
from etl_assets.raw.assets import POSITION_TAG, reads_all
from etl_assets.settings import Settings
from etl_assets.source.assets import CODE_VERSION, DATA_VERSION
from etl_assets.source.files import models
from etl_assets.source.position import Position
from etl_assets.source.resource import PostgresSource
from etl_assets.star.files import BASELINES
from etl_assets.star.resource import Lake
from etl_assets.warehouse.contract import Warehouse, WarehouseInUse

_LEFT = ".dagster/etl_left"  # Dagster's interface hides what begins like this
_TOLD_AGAIN_SECONDS = 3600.0
"""So long after an asset was last told of, a run that finds nothing tells of it again: freshness counts from there."""
_TIMED = ("raw", "warehouse")
_LIBRARIES = ("dagster", "duckdb", "narwhals", "pandas", "pyarrow", "sqlglot", "xlsxwriter")
_KEPT = ("dagster/row_count", "batch")


@dataclass(frozen=True)
class FlowResources:
    """What the flow of a project reads and writes, and what its parts are called in Dagster."""

    source: PostgresSource
    lake: Lake
    warehouse: Warehouse
    tables: ReportTables
    workbook: Workbook
    naming: Naming


def made_with(settings: Settings) -> str:
    """A digest of what decides what a run makes: the platform, its libraries, the project, observed files and settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for name in _LIBRARIES:
        digest.update(f"{name} {version(name)}\n".encode())
    for path in _sources(settings):
        digest.update(f"{path}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for one in models(settings.models, ()):
        digest.update(f"{one.name} {one.version(one.checksums())}\n".encode())
    return digest.hexdigest()


def _sources(settings: Settings) -> Iterator[Path]:
    """The files of the platform and of the project; of a package all that lies in its outermost one, of which its functions
    may use anything."""
    roots = [Path(etl_assets.__file__).parent]
    where = place(settings.project)
    if isinstance(where, Path):
        roots.append(where)
    else:
        spec = importlib.util.find_spec(where.partition(".")[0])
        roots += map(Path, (spec and spec.submodule_search_locations) or ())
    for root in dict.fromkeys(roots):
        for path in sorted(root.rglob("*")):
            if path.suffix in {".py", ".csv"} and path.is_file():
                yield path


def left(instance: dg.DagsterInstance, resources: FlowResources, made_with: str) -> str | None:
    """A digest of how lake, warehouse, exports and the history of assets stand, and of what they are made with; None where that
    can't be told."""
    files, star = resources.lake.files(), resources.lake.star()
    manifest, shown = star.batches.latest(), star.manifest
    if manifest is None or shown is None:
        return None
    certificate = certificate_path(manifest.batch)
    try:
        exports = (resources.warehouse.standing(), resources.tables.standing(), resources.workbook.standing())
    except WarehouseInUse:  # a notebook has it, or a load of another project
        return None
    if None in exports or not files.exists(certificate) or noted(files, certificate) is None:
        return None
    baselines = sorted(name for name in files.names(BASELINES) if name.endswith(".json"))
    told = [
        made_with,
        star.batches.sha256(manifest.batch),
        shown.model_dump_json(),
        hashlib.sha256(files.read(certificate)).hexdigest(),
        [(name, hashlib.sha256(files.read(f"{BASELINES}/{name}")).hexdigest()) for name in baselines],
        exports,
        sorted(
            (key.to_user_string(), dict(_versions(made)))
            for key, made in _made(instance, resources.naming).items()
        ),
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def note(instance: dg.DagsterInstance, run_id: str, resources: FlowResources, made_with: str) -> None:
    """Note on a run of the whole flow that succeeded how it left everything."""
    if standing := left(instance, resources, made_with):
        instance.add_run_tags(run_id, {_LEFT: standing})


def settled(instance: dg.DagsterInstance, resources: FlowResources, made_with: str) -> dg.DagsterRun | None:
    """The run since which nothing happened that another one would have anything to do about; None if something did, or if that
    can't be told. Raises `SourceError` if the source can't be asked. It is asked first, in milliseconds, since as a rule it has
    changed, and again once all else is known to be as it was."""
    job, tags = resources.naming.name(FLOW), reads_all(resources.naming)
    whole = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS], tags=tags)
    newest = instance.get_runs(whole, limit=1)
    if not newest or instance.get_run_records(dg.RunsFilter(statuses=UNDERWAY), limit=1):
        return None
    run = newest[0]
    position = _position(run)
    if _LEFT not in run.tags or position is None or any(t.elsewhere for t in position.tables.values()):
        return None
    if not _stands_at(resources.source, position):
        return None
    if left(instance, resources, made_with) != run.tags[_LEFT] or _damaged(resources.lake):
        return None
    return run if _stands_at(resources.source, position) else None


def _stands_at(source: PostgresSource, position: Position) -> bool:
    """Whether nothing was committed in the source since it stood somewhere."""
    now = source.position([])
    return (now.server, now.mark) == (position.server, position.mark)


def _damaged(lake: Lake) -> bool:
    """Whether a file of the star is not as its manifest lists it."""
    star = lake.star()
    return any(star.check(name) for name in (star.manifest.tables if star.manifest else ()))


def _position(run: dg.DagsterRun) -> Position | None:
    try:
        return Position.model_validate_json(run.tags.get(POSITION_TAG, ""))
    except ValidationError:
        return None


def record(
    instance: dg.DagsterInstance, since: dg.DagsterRun, tags: Mapping[str, str], naming: Naming
) -> str:
    """Record a run that found nothing, and return its id. `since` is the run that left everything as it is.

    It is a run without events: these would take a file of their own, of which the empty one is larger than all that there
    is to say.
    """
    run_id = str(uuid.uuid4())
    kept = {name: since.tags[name] for name in (POSITION_TAG, _LEFT)}
    first = since.tags.get(UNCHANGED_SINCE, since.run_id)
    instance.run_storage.add_run(
        dg.DagsterRun(
            job_name=since.job_name,
            run_id=run_id,
            status=dg.DagsterRunStatus.STARTED,
            tags={**tags, **reads_all(naming), **kept, UNCHANGED_SINCE: first},
            job_snapshot_id=since.job_snapshot_id,
            execution_plan_snapshot_id=since.execution_plan_snapshot_id,
        )
    )
    for kind in (DagsterEventType.RUN_START, DagsterEventType.RUN_SUCCESS):
        event = DagsterEvent(event_type_value=kind.value, job_name=since.job_name)
        instance.run_storage.handle_run_event(run_id, event)
    _tell_again(instance, naming)
    return run_id


def _tell_again(instance: dg.DagsterInstance, naming: Naming) -> None:
    """Tell of the assets that have a time limit, in few words, that they are as they were."""
    now = time.time()
    for key, made in _made(instance, naming).items():
        last = made.asset_materialization
        if naming.stage(key) in _TIMED and last and now - made.timestamp > _TOLD_AGAIN_SECONDS:
            kept = {name: last.metadata[name] for name in _KEPT if name in last.metadata}
            tags = {name: value for name, value in (last.tags or {}).items() if name.startswith("dagster/")}
            instance.report_runless_asset_event(
                dg.AssetMaterialization(key, metadata={**kept, "unchanged": True}, tags=tags)
            )


def _made(instance: dg.DagsterInstance, naming: Naming) -> Mapping[dg.AssetKey, dg.EventLogEntry]:
    """The last materialization of each asset of a project."""
    entries = [record.asset_entry for record in instance.get_asset_records()]
    return {
        entry.asset_key: entry.last_materialization
        for entry in entries
        if entry.last_materialization and naming.stage(entry.asset_key)
    }


def _versions(made: dg.EventLogEntry) -> Iterator[tuple[str, str]]:
    """Of which code and data an asset is."""
    last = made.asset_materialization
    for name in (CODE_VERSION, DATA_VERSION):
        if last and name in (last.tags or {}):
            yield name, (last.tags or {})[name]
