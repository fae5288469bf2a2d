"""The pace: how often a source that always changes is read, and when it is left alone.

    1m                      at most once a minute
    0                       as often as possible
    1m, 22:00-06:00 1h      … and at night at most once an hour
    1m, 01:00-02:30 off     … and at night not at all

It is for runs that start by themselves. Hours are UTC, like those of all schedules; of several that hold, the first does.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from etl_assets import addresses
from etl_assets.errors import SettingsError

NAME = "ETL_EVERY"
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"0|([0-9]{1,5})([smh])")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9]) +(\S+)")
_OFF = "off"


@dataclass(frozen=True)
class Hours:
    """A part of each day, from one minute of it to before another, and the seconds between two runs in it; None: no run
    begins in it."""

    begin: int
    end: int
    seconds: int | None

    def hold(self, moment: datetime) -> bool:
        """Whether a moment lies in them. Where they end before they begin, they go over midnight."""
        minute = moment.hour * 60 + moment.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    @property
    def until(self) -> str:
        return f"{self.end // 60:02d}:{self.end % 60:02d}"


@dataclass(frozen=True)
class Pace:
    """The least seconds from the beginning of one run to that of the next, and the hours in which others hold. `written`:
    as the setting has it."""

    seconds: int = 0
    hours: tuple[Hours, ...] = ()
    written: str = "0"

    @classmethod
    def read(cls, written: str) -> "Pace":
        """The pace that a setting says. Raises `SettingsError`."""
        usual, *parts = (" ".join(part.split()) for part in written.split(","))
        seconds, hours = _duration(usual), [_hours(part) for part in parts]
        if seconds is None or None in hours:
            raise SettingsError(
                f"{NAME}={addresses.word(written)} is no pace: write 30s, 5m or 2h, or 0 for as often as possible; with quiet "
                "hours as 1m, 22:00-06:00 1h or 1m, 22:00-06:00 off (UTC)"
            )
        return cls(seconds, tuple(one for one in hours if one), written)

    def reason_to_wait(self, began: datetime | None, now: datetime) -> str | None:
        """Why no run is started now, in words; None if one may be. `began`: when the last one did, with its time zone."""
        now = now.astimezone(UTC)
        here = next((one for one in self.hours if one.hold(now)), None)
        seconds = here.seconds if here else self.seconds
        if seconds is None:
            assert here  # noqa: S101  the usual pace is a number
            return f"quiet hours until {here.until} UTC ({NAME}={self.written})"
        if began is None:
            return None
        since = now - began
        # Where a clock was set back, what it said before is no reason.
        if not timedelta() <= since < timedelta(seconds=seconds):
            return None
        left = timedelta(seconds=seconds) - since
        return f"next run in {max(left.total_seconds(), 1):.0f} s ({NAME}={self.written})"

    def told(self) -> str:
        """The pace in words, for people who look whether it is the one that they mean."""
        usual = f"at most every {self.seconds} s" if self.seconds else "as often as possible"
        return f"a source that changes is read {usual}" + "".join(
            f"; {one.begin // 60:02d}:{one.begin % 60:02d}-{one.until} UTC "
            + ("not at all" if one.seconds is None else f"every {one.seconds} s")
            for one in self.hours
        )


NO_PACE = Pace()
"""As often as possible."""


def _duration(text: str) -> int | None:
    """The seconds of `30s`, `5m`, `2h` or `0`; None for anything else."""
    found = _DURATION.fullmatch(text)
    if not found:
        return None
    return int(found[1]) * _SECONDS[found[2]] if found[1] else 0


def _hours(text: str) -> Hours | None:
    found = _HOURS.fullmatch(text)
    if not found:
        return None
    begin, end = (int(found[n]) * 60 + int(found[n + 1]) for n in (1, 3))
    seconds = None if found[5] == _OFF else _duration(found[5])
    if begin == end or (seconds is None and found[5] != _OFF):
        return None
    return Hours(begin, end, seconds)
