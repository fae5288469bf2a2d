"""Places at which a test can end the process as `kill -9` would, or suspend it: one before or after each side effect.

`ETL_FAIL_AT=name` ends it when the place is reached, `name:3` when it is reached for the third time, and `*:7` at
the seventh place of any name. `ETL_STOP_AT` suspends it there, until somebody continues it. Unset, nothing happens.
"""

import os
import signal
from collections import Counter
from typing import Literal

Place = Literal[
    "pages fetched",
    "pages landed",
    "snapshot taken",
    "block copied",
    "file written",
    "file published",
    "manifest written",
    "manifest committed",
    "base kept",
    "star staged",
    "star published",
    "star switched",
    "warehouse loading",
    "warehouse committed",
    "report publishing",
    "report published",
]
_reached: Counter[str] = Counter()


def reached(place: Place) -> None:
    """End or suspend the process if the environment says so."""
    wanted = {
        wish: sign
        for setting, sign in (("ETL_FAIL_AT", signal.SIGKILL), ("ETL_STOP_AT", signal.SIGSTOP))
        if (wish := os.environ.get(setting))
    }
    if wanted:
        for counted in (place, "*"):
            _reached[counted] += 1
            for wish, sign in wanted.items():
                name, _, nth = wish.partition(":")
                if name == counted and _reached[counted] == int(nth or 1):
                    os.kill(os.getpid(), sign)
