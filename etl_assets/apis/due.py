"""What is still to fetch of an API, derived from the lake alone."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta

from etl_assets.apis.declaration import Api
from etl_assets.apis.pages import REJECTED, DamagedPages, open_takes, takes
from etl_assets.apis.windows import WHOLE
from etl_assets.lake.files import Files

_EVERY = timedelta(days=1)
"""How often an API without windows is due."""


def due(api: Api, files: Files, now: datetime) -> Iterator[str]:
    """The windows that are over and of which no take is complete, oldest first. An API without windows is due a day after
    it was last fetched."""
    fetched = [take for take in takes(files, api.name) if take.state != REJECTED]
    if api.windows is None:
        summary = fetched[-1].summary() if fetched else None
        if summary is None or now.timestamp() - summary.received >= _EVERY.total_seconds():
            yield WHOLE
        return
    known = {take.window for take in fetched}
    yield from (window.name for window in api.windows.ended(now) if window.name not in known)


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
