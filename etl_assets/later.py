"""Libraries that are imported when something of them is first used: they are many, large, and most commands need few."""

import importlib
from typing import Any


class Later:
    """Stands for a module in the files that use it, until an attribute of it is asked for.

        if TYPE_CHECKING:
            import pandas as pd
        else:
            pd = Later("pandas")

    What such a file says of types stands in quotes, or is left unevaluated (`from __future__ import annotations`).
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = getattr(importlib.import_module(self._name), name)
        setattr(self, name, found)
        return found
