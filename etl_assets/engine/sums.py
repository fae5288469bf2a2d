"""Exact sums of decimals, whatever the number of their digits and of the rows. No table of anybody's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb

from etl_assets.engine.types import EXACT

_MOST_DIGITS = 38
_LOWER_DIGITS = 19


@dataclass(frozen=True)
class Amount:
    """SQL that gives a decimal with `scale` digits behind the point, or NULL."""

    value: str
    scale: int


def added_up(
    ask: Callable[[str], tuple[Any, ...]], rows: str, amounts: Mapping[str, Amount]
) -> tuple[int, dict[str, Decimal]]:
    """How many rows there are (a FROM clause), and the sum of each amount in them. `ask` gives the only row of a query.

    DuckDB's sums have 38 digits. Where that is too few it says so, and the numbers are cut in two: what is before their
    last 19 digits, and these.
    """
    wholes = [f"coalesce(sum({a.value}), 0)" for a in amounts.values()]
    try:
        count, *sums = ask(f"SELECT {', '.join(['count(*)', *wholes])} FROM {rows}")
        return count, {name: Decimal(value) for name, value in zip(amounts, sums, strict=True)}
    except duckdb.OutOfRangeException:
        pass
    halves = [half for amount in amounts.values() for half in _halves(amount)]
    count, *sums = ask(f"SELECT {', '.join(['count(*)', *halves])} FROM {rows}")
    return count, {
        name: _joined(amount, upper, lower)
        for (name, amount), upper, lower in zip(amounts.items(), sums[::2], sums[1::2], strict=True)
    }


def _halves(amount: Amount) -> tuple[str, str]:
    typed = f"CAST({amount.value} AS DECIMAL({_MOST_DIGITS},{amount.scale}))"
    # One digit more than a decimal has: the 0 before the point of one that has none there.
    digits = f"lpad(ltrim(replace(CAST({typed} AS VARCHAR), '.', ''), '-'), {_MOST_DIGITS + 1}, '0')"
    sign = f"CASE WHEN {amount.value} < 0 THEN -1 ELSE 1 END"
    upper, lower = f"left({digits}, -{_LOWER_DIGITS})", f"right({digits}, {_LOWER_DIGITS})"
    return tuple(f"coalesce(sum({sign} * CAST({half} AS HUGEINT)), 0)" for half in (upper, lower))  # type: ignore[return-value]


def _joined(amount: Amount, upper: object, lower: object) -> Decimal:
    unscaled = EXACT.add(EXACT.scaleb(Decimal(str(upper)), _LOWER_DIGITS), Decimal(str(lower)))
    return EXACT.scaleb(unscaled, -amount.scale)
