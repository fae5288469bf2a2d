"""Running assets in this process, as a run of the Dagster instance, and following it while it goes on."""

import contextlib
import logging
import os
import re
import sys
import time
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG
from dagster._utils.interrupts import capture_interrupts

from etl_assets.apis.assets import LOAD_PAGES
from etl_assets.automation.failures import failure_line, failure_trace
from etl_assets.automation.in_process import execute
from etl_assets.automation.orphans import process_tag
from etl_assets.cli.display import Display
from etl_assets.cli.made import MadeAsset
from etl_assets.presentation import Naming
from etl_assets.progress import observed_by
from etl_assets.proof.checks import SAID
from etl_assets.raw.assets import CAPTURE, SWEPT
from etl_assets.raw.assets import GROUP as RAW
from etl_assets.source.assets import source_key
from etl_assets.star.assets import DERIVE
from etl_assets.star.assets import GROUP as STAR
from etl_assets.warehouse.assets import LOAD

_LOGGER = "command_line"
# A key as people write it, where it is not said already that it is one. A lone one Dagster takes as it is.
_KEY = re.compile(r'(?<![\w:"/*])(\w+(?:/[\w*]+)+)')
_GROUP = re.compile(r'\bgroup:"?(\w+)"?')
# The second is what the UI finds the runs of a job by.
TAGS = {"etl/started_by": "command line", ".dagster/repository": "__repository__@etl_assets"}


@dataclass
class RunOutcome:
    """What a run did. `batch` is the one it took, None if it took none. `since`: the run since which there is nothing to do,
    if that was found out before anything was begun."""

    run_id: str
    success: bool = False
    interrupted: bool = False
    seconds: float = 0.0
    made: list[MadeAsset] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    failed_checks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)
    since: str | None = None
    said: str | None = None
    """What the run brought, and what its proof came to, in a sentence."""

    @property
    def captured(self) -> list[MadeAsset]:
        return [made for made in self.made if made.stage == RAW]

    @property
    def batch(self) -> str | None:
        return next((made.batch for made in self.captured if not made.unchanged), None)

    @property
    def unchanged(self) -> bool:
        return self.success and all(made.unchanged for made in self.made)

    @property
    def error(self) -> str | None:
        if not self.errors:
            return None
        more = len(self.errors) - 1
        return self.errors[0] + (f" (and {more} more: see run {self.run_id})" if more else "")


@dataclass(frozen=True)
class RunPlan:
    """A job and the assets of it that a run is to make, in an order in which they can be made."""

    naming: Naming
    job: dg.JobDefinition
    keys: Sequence[dg.AssetKey]
    partial: bool
    stage_of_step: dict[str, str]
    events: logging.Logger

    @property
    def stages(self) -> dict[str, int]:
        """How many assets of each stage."""
        stages: dict[str, int] = {}
        for key in self.keys:
            stage = key.path[-2]
            stages[stage] = stages.get(stage, 0) + 1
        return stages


class SelectionError(ValueError):
    """A selection that names nothing that can be made."""


def plan(definitions: dg.Definitions, job: str, selection: str | None, naming: Naming) -> RunPlan:
    """A job, or of all assets those that a selection in Dagster's syntax names. Raises `SelectionError`."""
    events = logging.Logger(_LOGGER, logging.DEBUG)

    # Takes the place of Dagster's own logger, which writes to the console.
    logger = dg.LoggerDefinition(lambda _: events, description="Hands a run's events to the command line.")
    followed = dg.Definitions.merge(definitions, dg.Definitions(loggers={_LOGGER: logger}))
    graph = followed.resolve_asset_graph()
    assets = [definition for definition in graph.assets_defs if definition.is_executable]
    if selection is None:
        resolved = followed.resolve_job_def(naming.name(job))
        chosen = resolved.asset_layer.selected_asset_keys
    else:
        resolved = followed.resolve_implicit_global_asset_job_def()
        named = _named(graph, selection, naming)
        # As in the UI: what is made together in one transaction is made together.
        chosen = named | {k for a in assets if not a.can_subset and named & a.keys for k in a.keys}
    ordered = [key for key in graph.toposorted_asset_keys if key in chosen]
    return RunPlan(
        naming, resolved, ordered, selection is not None, {a.op.name: _stage(a) for a in assets}, events
    )


def _stage(assets: dg.AssetsDefinition) -> str:
    """The stage that a step belongs to: that of what it makes or, if it only checks, of what it checks."""
    keys = list(assets.keys) or [check.asset_key for check in assets.check_keys]
    return keys[0].path[-2]


def _named(graph: Any, selection: str, naming: Naming) -> set[dg.AssetKey]:
    written = _GROUP.sub(
        lambda group: f'group:"{naming.name(group[1])}"', _KEY.sub(partial(_key, naming), selection)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # of Dagster's own parser about its own parameter
            keys = set(dg.AssetSelection.from_string(written).resolve(graph))
    except dg.DagsterInvalidSubsetError:  # a key that is not there
        keys = set()
    except dg.DagsterError as error:
        raise SelectionError(
            f"{selection!r} is not in Dagster's selection syntax; {_examples(graph)}"
        ) from error
    makeable = keys & set(graph.materializable_asset_keys)
    if makeable:
        return makeable
    wanted = selection.rpartition("/")[2]
    near = sorted(k.to_user_string() for k in graph.materializable_asset_keys if k.path[-1] == wanted)
    raise SelectionError(
        f"{selection!r} selects nothing that can be made: "
        + (f"did you mean {' or '.join(near)}?" if near else _examples(graph))
    )


def _examples(graph: Any) -> str:
    """What to write, of the project at hand."""
    keys = [
        "/".join(k.path[-2:]) for k in graph.toposorted_asset_keys if k in graph.materializable_asset_keys
    ]
    key = next((one for one in keys if one.startswith(f"{STAR}/")), keys[0])
    stage = key.partition("/")[0]
    return f"write {key}, {stage}/*, +{key} (with all it needs) or group:{stage}"


def _key(naming: Naming, found: re.Match[str]) -> str:
    """A key as people write it, with the project's prefix or without."""
    key = found[1].split("/")
    whole = key if tuple(key[: len(naming.prefix)]) == naming.prefix else [*naming.prefix, *key]
    return f'key:"{"/".join(whole)}"'


@dataclass(frozen=True)
class Decisions:
    """What is decided for a single run; tables by name."""

    allow_deletions: Sequence[str] = ()
    allow_misfits: Sequence[str] = ()
    whole: bool = False
    adopt: bool = False
    sweep: int = 0
    rebuild: Sequence[str] = ()
    replay: Sequence[str] = ()
    from_now: Sequence[str] = ()
    api: str = ""
    """The API of which a window is fetched, `again` though its pages wait; `window`: its name, if the API has any."""
    window: str = ""
    again: bool = False

    def of_steps(self, steps: Collection[str], naming: Naming) -> dict[str, Any]:
        """The configuration of those steps that are run, as far as it is not the usual."""
        rebuild = [table_name(name) for name in self.rebuild]
        wanted: dict[str, dict[str, Any]] = {
            CAPTURE: {
                "allow_deletions": list(self.allow_deletions),
                "allow_misfits": list(self.allow_misfits),
                "whole": self.whole,
                "adopt": self.adopt,
                "sweep": self.sweep,
            },
            DERIVE: {
                "rebuild": rebuild,
                "whole": self.whole,
                "replay": list(self.replay),
                "from_now": list(self.from_now),
            },
            LOAD_PAGES: {"allow_misfits": list(self.allow_misfits)},
            LOAD: {"anew": rebuild, "whole": self.whole, "adopt": self.adopt},
        }
        named = {naming.name(step): config for step, config in wanted.items()}
        if self.api:
            named["__".join(source_key(self.api, naming).path)] = {"again": self.again}
        return {
            step: {"config": config}
            for step, config in named.items()
            if step in steps and any(config.values())
        }


def table_name(written: str) -> str:
    """The name of a table that may be written as its key."""
    return written.rpartition("/")[2]


def run(
    planned: RunPlan,
    instance: dg.DagsterInstance,
    display: Display,
    decisions: Decisions | None = None,
    *,
    ops: Mapping[str, Any] | None = None,
    partition: str | None = None,
) -> RunOutcome:
    """Make what is planned; `ops` configures operations, `partition` is the key of what is made. Never raises for a failure of what runs: the outcome tells."""
    outcome = RunOutcome(str(uuid.uuid4()))
    follower = _Follower(planned, instance, display, outcome)
    config: dict[str, Any] = {"loggers": {_LOGGER: {}}, "ops": dict(ops or {})}
    if decisions:
        config["ops"] |= decisions.of_steps(
            [step for step, stage in planned.stage_of_step.items() if stage in planned.stages],
            planned.naming,
        )
    tags = {PARTITION_NAME_TAG: partition} if partition else {}
    if decisions and decisions.sweep:
        tags[SWEPT] = str(decisions.sweep)
    if decisions and decisions.window:
        tags |= planned.job.get_tags_for_partition_key(decisions.window, planned.keys)
    started = time.monotonic()
    planned.events.handlers = [follower]
    with (
        display.showing(planned.stages),
        observed_by(display.read),
        _stdout_kept(),
        # Ctrl-C is obeyed in a step, or before the next; not while Dagster writes its history.
        capture_interrupts(),
    ):
        result = execute(
            planned.job,
            instance,
            run_config=config,
            assets=planned.keys if planned.partial else None,
            run_id=outcome.run_id,
            tags=TAGS | process_tag() | tags,
        )
    outcome.success = result.success
    made = instance.get_run_by_id(outcome.run_id)
    outcome.said = made.tags.get(SAID) if made else None
    outcome.seconds = time.monotonic() - started
    if not outcome.success and not outcome.errors:
        outcome.errors.append("interrupted" if outcome.interrupted else "the run failed; see it in the UI")
    return outcome


class _Follower(logging.Handler):
    """Gets the run's events as they happen."""

    def __init__(
        self, planned: RunPlan, instance: dg.DagsterInstance, display: Display, outcome: RunOutcome
    ) -> None:
        super().__init__()
        self._planned = planned
        self._instance = instance
        self._display = display
        self._outcome = outcome

    def emit(self, record: logging.LogRecord) -> None:
        event: dg.DagsterEvent | None = getattr(record, "dagster_event", None)
        if event is not None:
            self._follow(event)

    def _follow(self, event: dg.DagsterEvent) -> None:
        kind = event.event_type
        stage = self._planned.stage_of_step.get(event.step_key or "", "")
        if kind == dg.DagsterEventType.STEP_START:
            self._display.begin(stage)
        elif kind == dg.DagsterEventType.ASSET_MATERIALIZATION:
            made = MadeAsset.of(event.materialization)
            self._outcome.made.append(made)
            self._display.made(made)
        elif kind == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                name = f"{check.asset_key.to_user_string()}: {check.check_name}"
                self._outcome.failed_checks.append(name)
                self._display.check_failed(name)
        elif kind == dg.DagsterEventType.STEP_SUCCESS:
            seconds = event.step_success_data.duration_ms / 1000
            self._outcome.stage_seconds[stage] = self._outcome.stage_seconds.get(stage, 0.0) + seconds
            self._display.end(stage, seconds)
        elif kind == dg.DagsterEventType.STEP_FAILURE:
            source = event.step_failure_data.error_source
            if source.value == "INTERRUPT":
                self._cancel()
            else:
                self._fail(event)
            self._display.fail(stage)
        elif kind == dg.DagsterEventType.RUN_FAILURE and not self._outcome.errors:
            reason = event.job_failure_data.failure_reason
            if reason is not None and reason.value == "UNEXPECTED_TERMINATION":
                self._outcome.interrupted = True
            else:
                self._fail(event)

    def _fail(self, event: dg.DagsterEvent) -> None:
        line = failure_line(event)
        if line is None or line in self._outcome.errors:  # several assets may fail for one reason
            return
        self._outcome.errors.append(line)
        self._outcome.traces.append(failure_trace(event) or line)

    def _cancel(self) -> None:
        self._outcome.interrupted = True
        # Else Dagster would count it as a worker that died, and a daemon might start it again.
        dagster_run = self._instance.get_run_by_id(self._outcome.run_id)
        if dagster_run:
            self._instance.report_run_canceling(dagster_run, "Interrupted at the command line.")


@contextlib.contextmanager
def _stdout_kept() -> Iterator[None]:
    """Keep stdout for results: what anything prints there while the block runs goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)  # also what C code and subprocesses print
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
