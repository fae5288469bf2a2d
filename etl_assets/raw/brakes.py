"""What stops a batch that would do more to a table than is plausible, until somebody says that it is meant."""

from collections.abc import Sequence

from etl_assets.errors import EtlError

EVERY = "all"
"""Stands for all tables where some can be named."""
FEW_ROWS = 5
"""So many rows of a table may be deleted, or not fit, whatever share of it they are: small tables change like that."""


class Stopped(EtlError):
    """A batch would do more to a table than is plausible, unless somebody says that it is meant; `option` is which of the two
    options says so."""

    def __init__(self, table: str, message: str, option: str) -> None:
        super().__init__(message)
        self.table = table
        self.option = option


class TooManyMisfits(Stopped):
    """More rows than is plausible can't be represented as declared."""


class TooManyDeletions(Stopped):
    """The deletion brake: a batch would delete more of a table than is plausible."""


class TooMuch(EtlError):
    """What stops a batch, of all tables that do."""

    def __init__(self, stopped: Sequence[Stopped]) -> None:
        named = {s.option: f" {s.option} {s.table if len(stopped) == 1 else EVERY}" for s in stopped}
        super().__init__(
            f"{'; '.join(map(str, stopped))}; nothing was committed. Is that meant? Then run again with"
            + " and".join(named.values())
        )
