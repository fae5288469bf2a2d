"""Places at which a test can end the process as `kill -9` would: one before or after each side effect.

`ETL_FAIL_AT=name` ends it when the place is reached, `name:3` when it is reached for the third time, and `*:7` at
the seventh place of any name. Unset, nothing happens.
"""

import os
import signal
from collections import Counter
from typing import Literal

Place = Literal[
    "snapshot taken",
    "block copied",
    "file written",
    "file published",
    "manifest written",
    "manifest committed",
    "base kept",
    "star staged",
    "star published",
    "warehouse loading",
    "warehouse committed",
    "report publishing",
    "report published",
]
_reached: Counter[str] = Counter()


def reached(place: Place) -> None:
    """End the process if the environment says so."""
    wanted = os.environ.get("ETL_FAIL_AT")
    if wanted:
        name, _, nth = wanted.partition(":")
        for counted in (place, "*"):
            _reached[counted] += 1
            if name == counted and _reached[counted] == int(nth or 1):
                os.kill(os.getpid(), signal.SIGKILL)
