"""What is still to fetch of an API, derived from the lake alone."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from etl_assets.apis.declaration import Api
from etl_assets.apis.pages import REJECTED, takes
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


def calls_since(api: Api, files: Files, moment: float) -> Iterator[tuple[float, int]]:
    """When calls were made that complete takes needed since a moment (seconds since 1970), and how many."""
    for take in takes(files, api.name):
        summary = take.summary()
        if summary and summary.received >= moment:
            yield summary.received, summary.calls
