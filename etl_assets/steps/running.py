"""The run of a group: each step in its turn, those that need what failed left out, and at the end all failures.

Not here: Dagster. What is yielded becomes its events.
"""

import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from etl_assets import faults
from etl_assets.steps.contract import Made, Step, StepError
from etl_assets.steps.group import Steps
from etl_assets.steps.work import Work


@dataclass(frozen=True)
class Done:
    """A step that was done, and how long it took."""

    step: Step
    made: Made
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A step that failed: why, in one line without values, and the stack."""

    step: Step
    why: str
    stack: str

    def __str__(self) -> str:
        return f"{self.step.name} ({_short(self.step.where)}): {self.why}"


@dataclass(frozen=True)
class SkippedStep:
    """A step that was left out, since steps that it needs were not done."""

    step: Step
    needs: Sequence[str]

    def __str__(self) -> str:
        return f"{self.step.name} was left out: it needs {', '.join(self.needs)}"


class StepsFailed(StepError):
    """Steps of a run failed. Its text names each of them with its cause."""

    def __init__(
        self, group: str, failed: Sequence[Failed], left_out: Sequence[SkippedStep], ends: Sequence[str]
    ) -> None:
        super().__init__(f"{group}: {'; '.join([*map(str, failed), *map(str, left_out), *ends])}")
        self.failed = failed
        self.left_out = left_out


def missing(group: Steps, selected: Collection[str], environment: Mapping[str, str]) -> list[str]:
    """The settings that selected steps need and that are not there."""
    needed = [name for one in group.steps if one.name in selected for name in one.settings]
    return [name for name in dict.fromkeys(needed) if not environment.get(name, "").strip()]


def run(group: Steps, selected: Collection[str], work: Work) -> Iterator[Done | Failed | SkippedStep]:
    """Run the selected steps of a group in their order, and tell what became of each. The sessions are closed at the end,
    however it ends. Raises `StepsFailed` if any failed."""
    failed: list[Failed] = []
    left_out: list[SkippedStep] = []
    ends: list[str] = []
    try:
        for one in group.steps:
            if one.name not in selected:
                continue
            outcome = _outcome(group, one, work)
            if isinstance(outcome, Failed):
                failed.append(outcome)
            elif isinstance(outcome, SkippedStep):
                left_out.append(outcome)
            if not isinstance(outcome, Done):
                work.unmade.add(one.name)
                work.failures.append(str(outcome))
            yield outcome
    finally:
        ends = work.sessions.close()
    if failed or ends:
        raise StepsFailed(group.name, failed, left_out, ends)


def _outcome(group: Steps, one: Step, work: Work) -> Done | Failed | SkippedStep:
    needs = group.needs[one.name]
    if (
        one.always
    ):  # what it takes was made by this run, or it is not there: an older one would be told as new
        needs = [] if one.does_without else group.inputs(one)
    if unmade := [name for name in needs if name in work.unmade]:
        return SkippedStep(one, unmade)
    started = time.monotonic()
    try:
        made = one.make(work)
    except Exception as error:  # noqa: BLE001  whatever a step raises is its failure, told at the end
        stack = "".join(traceback.format_tb(error.__traceback__))
        return Failed(one, faults.told(error), stack)
    return Done(one, made, round(time.monotonic() - started, 3))


def _short(where: str) -> str:
    """A place without the folders above the project's."""
    return "/".join(where.split("/")[-2:])
