"""What a step may use while it runs: the values of the parameters, sessions, what other steps made, places for files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etl_assets.steps.keeping import Keeping, Kind
from etl_assets.steps.parameters import Parameter, Value
from etl_assets.steps.places import FilePlaces
from etl_assets.steps.sessions import Session, Sessions


@dataclass(frozen=True)
class Notice:
    """A message to people: `to` names the channel, none is that of alerts."""

    to: str
    subject: str
    text: str
    good: bool
    exact: bool = False
    """Nothing is added to the text: a program reads it."""


@dataclass(frozen=True)
class Work:
    """The surroundings of a step in a run of its group."""

    group: str
    parameters: Mapping[str, Parameter]
    values: Mapping[str, Value]
    kinds: Mapping[str, Kind]
    """What kind of thing each step gives that gives something."""
    sessions: Sessions
    keeping: Keeping
    places: FilePlaces
    send: Callable[[Notice], str]
    """Delivers a message, and says where to."""
    unproven: Callable[[Sequence[str]], str | None]
    """Why tables of the warehouse must not be read now; None if they may be."""
    folder: Path
    """Where files on this machine lie whose paths are relative."""
    failures: list[str] = field(default_factory=list)
    """What failed so far, and what was left out for it, a line each."""
    unmade: set[str] = field(default_factory=set)
    """Steps of this run that failed or were left out."""

    def session(self, database: str) -> Session:
        """The run's session in a database; opened if it is the first to ask."""
        return self.sessions.of(database)
