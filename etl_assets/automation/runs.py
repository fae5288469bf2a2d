"""What single runs were and did, as Dagster recorded it."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from etl_assets.automation.history import FLOW, UNCHANGED_SINCE
from etl_assets.errors import EtlError
from etl_assets.presentation import PLAIN, Naming, stage
from etl_assets.raw.assets import reads_all
from etl_assets.source.assets import CODE_VERSION, DATA_VERSION, FILES
from etl_assets.source.assets import GROUP as SOURCE

_LAST_STAGE = "exports"
_LOOKED_AT = 50


class RunError(EtlError):
    """There is no such run."""


@dataclass(frozen=True)
class RecordedAsset:
    """What a run materialized. `code_version` is None where none is declared."""

    key: dg.AssetKey
    step: str | None
    rows: int | None
    unchanged: bool
    code_version: str | None
    data_version: str | None
    files: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.key.to_user_string()


@dataclass(frozen=True)
class RunStep:
    """A step of a run: what came of it, how long it took and what it made."""

    name: str
    status: str
    seconds: float | None
    made: Sequence[RecordedAsset]


class Run:
    """A run of an instance."""

    def __init__(self, instance: dg.DagsterInstance, record: dg.RunRecord, naming: Naming = PLAIN) -> None:
        self._instance = instance
        self._record = record
        self._naming = naming

    @property
    def id(self) -> str:
        return self._record.dagster_run.run_id

    @property
    def job(self) -> str:
        return self._record.dagster_run.job_name

    @property
    def status(self) -> str:
        return self._record.dagster_run.status.value

    @property
    def started(self) -> datetime.datetime | None:
        return _moment(self._record.start_time)

    @property
    def completed(self) -> datetime.datetime | None:
        return _moment(self._record.end_time)

    @property
    def duration_seconds(self) -> float | None:
        return _seconds(self._record.start_time, self._record.end_time)

    def as_object(self) -> dict[str, Any]:
        """What identifies it and how it went, for scripts."""
        return {
            "id": self.id,
            "job": self.job,
            "status": self.status,
            "started": self.started,
            "completed": self.completed,
            "duration_seconds": self.duration_seconds,
        }

    @property
    def _since(self) -> str | None:
        """The run that left everything as this one found it, if it was recorded without steps."""
        return self._record.dagster_run.tags.get(UNCHANGED_SINCE)

    @cached_property
    def made(self) -> Mapping[str, RecordedAsset]:
        """By the asset's name; of what was made twice the last. What a run without steps found was made by another."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        found = (_made(entry) for entry in self._instance.all_logs(self._since or self.id, of_type=kind))
        return {made.name: made for made in found if made}

    @property
    def whole(self) -> bool:
        """Whether it brought the whole flow up to date, as the flow was then.

        A run without a selection did. The UI gives every run one; there, it reached from all tables to the exports.
        """
        run = self._record.dagster_run
        again = run.parent_run_id and run.step_keys_to_execute is not None  # some steps of another run
        if run.job_name != self._naming.name(FLOW) or not run.is_success or again:
            return False
        if not run.asset_selection:
            return True
        return reads_all(self._naming).items() <= run.tags.items() and any(
            stage(made.key) == _LAST_STAGE for made in self.made.values()
        )

    def steps(self) -> Iterator[RunStep]:
        """In the order in which they began."""
        if self._since:
            return
        stats = self._instance.get_run_step_stats(self.id)
        for step in sorted(stats, key=lambda step: step.start_time or 0.0):
            yield RunStep(
                step.step_key,
                step.status.value if step.status else "STARTED",
                _seconds(step.start_time, step.end_time),
                [made for made in self.made.values() if made.step == step.step_key],
            )


def newest(
    instance: dg.DagsterInstance,
    statuses: Sequence[dg.DagsterRunStatus] = (),
    limit: int | None = 1,
    naming: Naming = PLAIN,
) -> list[Run]:
    """The newest runs of a project, of any job, in one of the states."""
    wanted = dg.RunsFilter(statuses=list(statuses)) if statuses else None
    most = _LOOKED_AT if limit and naming.prefix else limit  # the others' are among them
    records = instance.get_run_records(wanted, limit=most)
    return [Run(instance, record, naming) for record in records if naming.owns(record.dagster_run)][:limit]


def last_successes(instance: dg.DagsterInstance, count: int, naming: Naming = PLAIN) -> list[Run]:
    """The last successful runs of the whole flow, newest first; fewer if there are not so many."""
    succeeded = dg.RunsFilter(job_name=naming.name(FLOW), statuses=[dg.DagsterRunStatus.SUCCESS])
    found = []
    for record in instance.get_run_records(succeeded, limit=_LOOKED_AT):
        run = Run(instance, record, naming)
        if run.whole:
            found.append(run)
        if len(found) == count:
            break
    return found


def find(instance: dg.DagsterInstance, named: str, naming: Naming = PLAIN) -> Run:
    """The run with an id, or with the only id that begins so. Raises `RunError`."""
    record = instance.get_run_record_by_id(named)
    if record is None:
        ids = [run_id for run_id in instance.get_run_ids() if named and run_id.startswith(named)]
        if len(ids) > 1:
            raise RunError(f"{len(ids)} runs have ids that begin with {named}: write more of it")
        record = instance.get_run_record_by_id(ids[0]) if ids else None
    if record is None:
        raise RunError(f"there is no run {named}: etl status lists the last ones, the UI all")
    return Run(instance, record, naming)


def _made(entry: dg.EventLogEntry) -> RecordedAsset | None:
    materialization = entry.asset_materialization
    if materialization is None:
        return None
    tags = materialization.tags or {}
    told = {name: value.value for name, value in materialization.metadata.items()}
    rows, files = told.get("dagster/row_count"), told.get(FILES)
    # Dagster notes the run's own id where an asset declares no version of its code.
    version = tags.get(CODE_VERSION)
    return RecordedAsset(
        materialization.asset_key,
        entry.step_key,
        rows if isinstance(rows, int) else None,
        bool(told.get("unchanged")),
        version if version != entry.run_id else None,
        tags.get(DATA_VERSION),
        files if isinstance(files, dict) and stage(materialization.asset_key) == SOURCE else {},
    )


def _moment(timestamp: float | None) -> datetime.datetime | None:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC) if timestamp else None


def _seconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 3)
