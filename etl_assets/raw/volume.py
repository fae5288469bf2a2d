"""Whether a batch brought about as much as batches usually do: counts and sums, from the manifests alone.

What is usual is a band around the median of the last batches that changed the table, `WIDTH` times as wide as they
scatter. Scatter is the median distance from the median (MAD), scaled to be the standard deviation of normal values:
a single odd batch moves neither. Where they hardly scatter the band is not narrower than chance, or a few rows, make it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from statistics import median

from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import Manifest, TableState

CHECK = "volume_is_usual"
HISTORY = 30
"""How many batches before the one that is judged are looked at."""
ENOUGH = 5
"""How many of them must have changed the table."""
WIDTH = 6
_MAD_OF_NORMAL = Decimal("1.4826")
_FEW_ROWS = Decimal(10)


@dataclass(frozen=True)
class Measure:
    """A number of a batch beside those of the batches before it. `floor` is the least scatter assumed."""

    name: str
    value: Decimal
    history: Sequence[Decimal]
    floor: Decimal

    @property
    def usual(self) -> Decimal:
        return Decimal(median(self.history))

    @property
    def band(self) -> tuple[Decimal, Decimal]:
        scatter = _MAD_OF_NORMAL * median(abs(value - self.usual) for value in self.history)
        half = WIDTH * max(scatter, self.floor)
        return self.usual - half, self.usual + half

    @property
    def is_usual(self) -> bool:
        low, high = self.band
        return low <= self.value <= high


def recent(batches: Batches, upto: Manifest) -> list[Manifest]:
    """The batch of a manifest and those before it that it is compared with, oldest first."""
    return [*batches.before(upto.batch, HISTORY + 1), upto]


def measures(table: str, manifests: Sequence[Manifest]) -> list[Measure]:
    """The measures of a table in the last of the manifests; none if it is not changed there, or too few were."""
    changed = [
        (before.tables[table], after.tables[table])
        for before, after in pairwise(manifests)
        # A first load is like nothing that follows.
        if table in before.tables and after.tables[table].changes
    ]
    if len(changed) <= ENOUGH or not manifests[-1].tables[table].changes:
        return []
    return [
        measure
        for name, values in _values(changed).items()
        if (measure := _measure(name, values, changed[-1][0], changed)) is not None
    ]


Change = tuple[TableState, TableState]


def _values(changed: Sequence[Change]) -> dict[str, list[Decimal | None]]:
    """What each batch brought, by measure; None where the source did not say a sum."""
    changes = [after.changes for _, after in changed if after.changes]
    sums = {
        f"sum of {column}": [_difference(before, after, column) for before, after in changed]
        for column, control in changed[-1][1].controls.items()
        if control.sum is not None
    }
    return {
        "rows new or changed": [Decimal(c.new + c.changed) for c in changes],
        "rows deleted": [Decimal(c.deleted) for c in changes],
        **sums,
    }


def _difference(before: TableState, after: TableState, column: str) -> Decimal | None:
    """By how much a batch changed the sum of a column."""
    known = [state.controls[column].sum if column in state.controls else None for state in (before, after)]
    # The sum of no row is NULL in SQL, as is that of a column that was not there.
    then, now = (Decimal(0) if text is None else Decimal(text) for text in known)
    return now - then if column in before.controls and then.is_finite() and now.is_finite() else None


def _measure(
    name: str, values: Sequence[Decimal | None], before: TableState, changed: Sequence[Change]
) -> Measure | None:
    *history, value = values
    known = [number for number in history if number is not None]
    if value is None or len(known) < ENOUGH:
        return None
    versions = [Decimal(after.changes.versions) for _, after in changed[:-1] if after.changes]
    rows = max(Decimal(median(versions)).sqrt(), _FEW_ROWS)
    if not name.startswith("sum of "):
        return Measure(name, value, known, rows)
    total = before.controls[name.removeprefix("sum of ")].sum
    average = abs(Decimal(total or 0)) / max(before.rows, 1)
    return Measure(name, value, known, rows * average)


def judged(found: Sequence[Measure]) -> tuple[bool, str]:
    """Whether the measures of a table are usual, and what is to be said of them."""
    odd = [measure for measure in found if not measure.is_usual]
    if not found:
        return (
            True,
            f"not enough history: fewer than {ENOUGH} of the last {HISTORY} batches changed the table",
        )
    if odd:
        return False, "; ".join(map(_sentence, odd)) + ": look whether that is meant"
    return True, f"as the last {len(found[0].history)} batches that changed the table"


HOW = (
    f"Usual is the median ± {WIDTH} × the scatter (1.4826 × the median distance from the median) of those of the last "
    f"{HISTORY} batches that changed the table. A sum counts by how much a batch changed it."
)


def _sentence(measure: Measure) -> str:
    low, high = measure.band
    direction = "more" if measure.value > high else "less"
    return (
        f"{measure.name} {_text(measure.value)} is {direction} than usual: {_text(max(low, _least(measure)))} to "
        f"{_text(high)}, median {_text(measure.usual)} of {len(measure.history)} batches"
    )


def _least(measure: Measure) -> Decimal:
    """A count can't be less than zero."""
    return Decimal("-Infinity") if measure.name.startswith("sum of ") else Decimal(0)


def plotted(measure: Measure) -> Iterator[tuple[str, float]]:
    """A measure and its band as numbers, which Dagster plots over the batches."""
    low, high = measure.band
    yield measure.name, float(measure.value)
    yield f"{measure.name}: usual from", float(max(low, _least(measure)))
    yield f"{measure.name}: usual to", float(high)


def _text(number: Decimal) -> str:
    """With the digits that tell something."""
    return (
        f"{number:,.0f}" if number == number.to_integral_value() or abs(number) >= 1000 else f"{number:,.2f}"
    )
