"""A group of steps: what runs in one go, in which order, with which parameters and sessions."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from etl_assets.engine.location import caller
from etl_assets.steps.contract import Step, inputs_told
from etl_assets.steps.functions import FunctionStep
from etl_assets.steps.keeping import Kind
from etl_assets.steps.messages import Message
from etl_assets.steps.objects import CsvFile
from etl_assets.steps.parameters import Parameter, Partitions
from etl_assets.steps.sql import SqlWrite

STAGES = frozenset(
    {
        "source",
        "raw",
        "star",
        "warehouse",
        "exports",
        "etl",
        "derive",
        "verify",
        "forget_old_runs",
        "proof",
        "steps",
        "files",
    }
)
_FRAMES_ONLY = (SqlWrite, CsvFile)


@dataclass(frozen=True)
class Steps:
    """Steps in the order in which they run. `name` is their group in the interface, the first part of their keys, and the job
    that runs them. `parameters` are what a run is told; `partitions` what the work is divided into, if it is.

    A step that fails stops those that need it, the others go on; at the end the run fails and names every failure. A step needs
    the steps whose results it takes, those that it names (`after=`), and in a database the statements and writes before it.
    """

    name: str
    description: str
    steps: Sequence[Step]
    parameters: Sequence[Parameter] = ()
    partitions: Partitions | None = None
    where: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", caller(1))
        if not (self.name.isidentifier() and self.name.isascii()):
            raise ValueError(
                f"{self.name!r} can't name a group of steps: write a word of letters, digits and _"
            )
        if self.name.lower() in STAGES:
            raise ValueError(f"{self.name} is the platform's own: give the group another name")
        if not self.steps:
            raise ValueError(f"{self.name}: it has no steps")
        for one in self.steps:
            if not isinstance(one, Step):
                raise ValueError(
                    f"{self.name}: {type(one).__name__} is no step: write SqlQuery(…), or @step above a function"
                )

    @cached_property
    def by_name(self) -> Mapping[str, Step]:
        return {one.name: one for one in self.steps}

    @cached_property
    def known(self) -> Mapping[str, Parameter]:
        """The parameters by name."""
        return {one.name: one for one in self.parameters}

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """What kind of thing each step gives that gives something."""
        return {one.name: one.gives for one in self.steps if one.gives}

    def inputs(self, one: Step) -> list[str]:
        """The steps whose results a step takes."""
        if isinstance(one, FunctionStep):
            return [name for name in one.arguments if name not in self.known]
        return list(one.inputs)

    @cached_property
    def needs(self) -> Mapping[str, Sequence[str]]:
        """The steps that each step needs."""
        found: dict[str, Sequence[str]] = {}
        for n, one in enumerate(self.steps):
            earlier = self.steps[:n]
            session = [e.name for e in earlier if e.changes_session and e.works_in == one.works_in]
            all_ = [e.name for e in earlier] if isinstance(one, Message) else []
            found[one.name] = list(dict.fromkeys([*self.inputs(one), *one.after, *session, *all_]))
        return found

    def mistakes(self) -> Iterator[tuple[str, str]]:
        """What is wrong with it: the place, and what to write."""
        doubles = [one.name for one in self.parameters]
        for one in self.parameters:
            if doubles.count(one.name) > 1:
                yield one.where, f"parameter {one.name} is declared twice in {self.name}"
            if one.partition and not self.partitions:
                yield one.where, f"{one.name} follows from the partition, and {self.name} has no partitions=…"
            if one.partition in ("begin", "end") and self.partitions and self.partitions.keys:
                yield one.where, f"{one.name}: partitions by keys have no {one.partition}"
        earlier: list[str] = []
        for step in self.steps:
            yield from ((step.where, f"{step.name}: {what}") for what in self._mistakes(step, earlier))
            earlier.append(step.name)

    def _mistakes(self, step: Step, earlier: Collection[str]) -> Iterator[str]:
        if step.name in earlier:
            yield f"there are two steps of that name in {self.name}: give one another"
        if step.name in self.known:
            yield f"a parameter of {self.name} has that name too: give one another"
        for name in [*self.inputs(step), *step.after]:
            if name not in earlier:
                yield f"{name!r} is no step before it; {inputs_told(name, [*earlier, *self.known])}"
        for name in self.inputs(step):
            if name in earlier and name not in self.kinds:
                yield f"{name} gives nothing that it could take"
            elif name in earlier and isinstance(step, _FRAMES_ONLY) and self.kinds[name] != "frame":
                yield f"it takes a frame, and {name} gives {self.kinds[name]}"
            elif name in earlier and isinstance(step, Message) and self.kinds[name] not in ("text", "json"):
                yield f"a message is a text or JSON, and {name} gives {self.kinds[name]}"
        yield from step.mistakes(self.known)
