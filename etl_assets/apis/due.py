"""What is still to fetch of an API, derived from the lake alone."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from etl_assets.apis.declaration import Api
from etl_assets.apis.takes import REJECTED, DamagedPages, Take, open_takes, takes
from etl_assets.apis.windows import WHOLE
from etl_assets.lake.files import Files

_EVERY = timedelta(days=1)
"""How often an API without windows is due."""
_TAKES = 2
"""So many takes of a window in a row are rejected, before it is fetched anew only if somebody asks for it."""


def due(api: Api, files: Files, now: datetime) -> Iterator[str]:
    """The windows that are over and of which no take is complete, oldest first. An API without windows is due a day after
    it was last fetched. One whose pages were rejected is due once more, and no more than that: loading spends no quota."""
    found: dict[str, list[Take]] = {}
    for take in takes(files, api.name):
        found.setdefault(take.window, []).append(take)
    if api.windows is None:
        taken = found.get(WHOLE, [])
        last = next((summary.received for take in reversed(taken) if (summary := take.summary())), 0.0)
        if _is_due(taken) or now.timestamp() - last >= _EVERY.total_seconds():
            yield WHOLE
        return
    yield from (window.name for window in api.windows.ended(now) if _is_due(found.get(window.name, [])))


def _is_due(found: Sequence[Take]) -> bool:
    """Whether a window of which there are these takes is to be fetched, as far as they tell. One that was never complete
    could not be gone on with, and tells nothing."""
    if any(take.state != REJECTED for take in found):
        return False
    return sum(1 for take in found if take.summary()) < _TAKES


def calls_elsewhere(api: Api, files: Files, machine: str, moment: float) -> Iterator[float]:
    """When calls were made since a moment (seconds since 1970), by any but one machine, as far as landed pages tell."""
    for take in takes(files, api.name):
        summary = take.summary()
        if summary and summary.received >= moment and {*summary.machines} != {machine}:
            yield from [summary.received] * summary.calls
    for take in open_takes(files, api.name):
        with suppress(DamagedPages):  # whoever goes on with that take will tell
            for page in (page for file in take.landed() for page in take.read(file)):
                if page.machine != machine:
                    yield from (call for call in page.calls if call >= moment)
