"""What changed of an input of a star function at a batch."""

from collections.abc import Callable
from dataclasses import dataclass

from etl_assets.engine.duck import identifier

# A row's key, beside the columns that a function sees: under a name that is not seen (U+2060 is the word joiner), and
# longer than PostgreSQL lets any be.
_HIDDEN = "\N{WORD JOINER}" * 22


def hidden(name: str) -> str:
    """The name under which a key column stands beside those that a function sees."""
    return _HIDDEN + name


def shown_key(name: str) -> str:
    """What people call a key column that stands under a hidden name."""
    return name.removeprefix(_HIDDEN)


@dataclass(frozen=True)
class InputChange:
    """An input of a function at a batch. All fields but `name`, `keys` and `changed` are names of relations with the
    input's columns and `keys`, its key under names that no column has.

    `rows`: as they are. `gone`: the rows that changed or left, as they were. `come`: those that changed or came, as
    they are. The rows as they were are `rows` without those of the keys in `come`, and `gone`. `pick` gives those of
    `rows` whose keys a table has (None: asking `rows` costs no more). `reshaped`: rows may read otherwise that are in
    neither `gone` nor `come`.
    """

    name: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    rows: str
    pick: Callable[[str], str] | None = None
    gone: str | None = None
    come: str | None = None
    reshaped: bool = False
    size: int | None = None
    """How many rows there are about, where that is known."""

    @property
    def changed(self) -> bool:
        return self.gone is not None

    def ever(self) -> str:
        """A FROM clause with the rows as they are and as they were."""
        if not self.changed:
            return self.rows
        names = ", ".join(map(identifier, [*self.columns, *self.keys]))
        return f"(SELECT {names} FROM {self.rows} UNION ALL SELECT {names} FROM {self.gone})"

    def before(self) -> str:
        """A FROM clause with the rows as they were."""
        if not self.changed:
            return self.rows
        names = ", ".join(map(identifier, [*self.columns, *self.keys]))
        same = " AND ".join(f"r.{identifier(k)} = c.{identifier(k)}" for k in self.keys)
        return (
            f"(SELECT {names} FROM {self.rows} AS r ANTI JOIN {self.come} AS c ON {same} "
            f"UNION ALL SELECT {names} FROM {self.gone})"
        )
