"""The parts of time that an API is asked for, one at a time. All in UTC."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from string import Formatter
from typing import Any, Literal

_DAY = re.compile(r"\{(start|end|last)(?::([^{}]*))?\}")
WHOLE = "whole"
"""The window of an API that is asked for everything at once."""


@dataclass(frozen=True)
class Window:
    """A part of time: the days from `start` up to, not including, `end`. Named by its first day."""

    start: date
    end: date

    @property
    def name(self) -> str:
        return self.start.isoformat()

    @property
    def days(self) -> dict[str, date]:
        """What stands for it in what an API is asked."""
        return {"start": self.start, "end": self.end, "last": self.end - timedelta(days=1)}


def names_days(text: str) -> bool:
    """Whether a text has a place for a day of a window."""
    return bool(_DAY.search(text))


def filled(body: Any, days: Mapping[str, date]) -> Any:
    """A JSON body, or a text, with the days of a window in its texts; what stands in other braces is left as it is."""
    if isinstance(body, str):
        return _DAY.sub(lambda found: format(days[found[1]], found[2] or ""), body)
    if isinstance(body, Mapping):
        return {name: filled(value, days) for name, value in body.items()}
    return [filled(value, days) for value in body] if isinstance(body, list | tuple) else body


@dataclass(frozen=True)
class Windows:
    """The windows of an API: `every` day, week (from Monday on) or month, from the one that `since` lies in on.

    `parameters` tell the API which window is meant: `{start}` stands for its first day, `{end}` for the day after its last,
    `{last}` for its last, each as `2024-01-31`, or as `strftime` writes it (`{start:%d.%m.%Y}`, `{start:%G-W%V}`). `late_days`:
    how long after its end a window is fetched first.
    """

    every: Literal["day", "week", "month"]
    since: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    late_days: int = 0

    def __post_init__(self) -> None:
        if self.every not in ("day", "week", "month"):
            raise ValueError(f"every={self.every!r} is none of day, week, month")
        try:
            date.fromisoformat(self.since)
        except (TypeError, ValueError):
            raise ValueError(f"since={self.since!r} is no day: write it as 2024-01-31") from None
        for parameter, text in self.parameters.items():
            try:
                names = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
            except (TypeError, ValueError):
                raise ValueError(f"parameters: {parameter}={text!r} can't be read") from None
            if wrong := sorted(names - {"start", "end", "last"}):
                raise ValueError(
                    f"parameters: {parameter} names {{{wrong[0]}}}; there are {{start}}, {{end}}, {{last}}"
                )
        if self.late_days < 0:
            raise ValueError(f"late_days={self.late_days}: a window can't be fetched before it has ended")

    @property
    def first(self) -> Window:
        return self._of(date.fromisoformat(self.since))

    def named(self, name: str) -> Window:
        """The window that begins on a day. Raises `ValueError` if none does."""
        try:
            window = self._of(date.fromisoformat(name))
        except ValueError:
            raise ValueError(
                f"{name!r} is no day: windows are named by their first, as {self.first.name}"
            ) from None
        if window.name != name or window.start < self.first.start:
            raise ValueError(
                f"no window begins on {name}: there is one every {self.every}, from {self.first.name} on "
                f"({window.name} is the one that has this day)"
            )
        return window

    def ended(self, now: datetime) -> Iterator[Window]:
        """The windows that are over by a time, oldest first."""
        window = self.first
        while window.end + timedelta(days=self.late_days) <= now.date():
            yield window
            window = self._of(window.end)

    def told(self, window: Window) -> dict[str, str]:
        """The parameters that tell the API which window is meant."""
        return {name: text.format(**window.days) for name, text in self.parameters.items()}

    def _of(self, day: date) -> Window:
        """The window that a day lies in."""
        if self.every == "day":
            return Window(day, day + timedelta(days=1))
        if self.every == "week":
            start = day - timedelta(days=day.weekday())
            return Window(start, start + timedelta(days=7))
        start = day.replace(day=1)
        return Window(start, (start + timedelta(days=32)).replace(day=1))
