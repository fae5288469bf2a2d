"""What is still to fetch of an API, derived from the lake alone."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from etl_assets.apis.declaration import Api
from etl_assets.apis.pages import takes
from etl_assets.apis.windows import WHOLE
from etl_assets.lake.batches import folder_of
from etl_assets.lake.files import Files

_EVERY = timedelta(days=1)
"""How often an API without windows is due."""


def due(api: Api, files: Files, now: datetime) -> Iterator[str]:
    """The windows that are over and of which no take is complete, oldest first. An API without windows is due a day after
    it was last fetched."""
    if api.windows is None:
        newest = next(
            (t for t in reversed(takes(files, api.name, WHOLE)) if t.state in ("complete", "loaded")), None
        )
        summary = newest.summary() if newest else None
        if summary is None or now.timestamp() - summary.received >= _EVERY.total_seconds():
            yield WHOLE
        return
    begun = set(files.folders(f"raw/{folder_of(api.name)}"))
    for window in api.windows.ended(now):
        if window.name not in begun or not _is_complete(files, api.name, window.name):
            yield window.name


def _is_complete(files: Files, api: str, window: str) -> bool:
    return any(take.state in ("complete", "loaded") for take in reversed(takes(files, api, window)))
