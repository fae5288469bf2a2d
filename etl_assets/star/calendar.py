"""The calendar: a dimension that has the days that facts and dimensions refer to. It finds those by itself.

Between 1900 and 2199 it has no hole. Of the days beyond, which mostly mean "never", it has those that are used.
"""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import narwhals as nw

from etl_assets.engine.location import caller
from etl_assets.later import Later
from etl_assets.star.function import ContractError, StarFunction
from etl_assets.star.schema import Column, Dimension, Fact

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")

_FIRST, _LAST = dt.date(1900, 1, 1), dt.date(2199, 12, 31)
_AT_ONCE = 50  # columns of a scan: what a frame asks of a thousand expressions grows with their square


@dataclass(frozen=True)
class Calendar:
    """A calendar that is declared; which tables it spans shows when all of them are known."""

    name: str
    key: str
    description: str
    where: str

    def spanning(self, star: Mapping[str, StarFunction]) -> StarFunction:
        """The star table, made from the facts and dimensions that refer to it. Raises `ContractError` if none does."""
        days = {
            name: [columns[0] for columns, dimension in made.schema.links.items() if dimension == self.name]
            for name, made in star.items()
            if name != self.name and self.name in made.schema.links.values()
        }
        if not days:
            raise ContractError(
                f'{self.name}: nothing refers to this calendar: write references="{self.name}" at a column of a fact or a '
                "dimension, or leave the calendar out"
            )
        schema = Dimension(
            self.name,
            self.description,
            self.key,
            [
                Column(self.key, "date", "The day."),
                Column("year", "int"),
                Column("month", "int", "1 to 12."),
                Column("day", "int", "Day of the month, 1 to 31."),
                Column("day_of_week", "int", "ISO 8601: Monday is 1, Sunday is 7."),
                Column("quarter", "int", "1 to 4."),
                Column("day_name", "text", "In English: Monday to Sunday."),
                Column("month_name", "text", "In English: January to December."),
            ],
            rows="any",
            # A version that was corrected since refers to its days all the same.
            versions_of=tuple(name for name in days if isinstance(star[name].schema, Fact)),
        )
        return StarFunction(schema, _of(self.key, days), is_ours=True)


def calendar(
    name: str = "dim_date",
    key: str = "date_id",
    description: str = "One row is a calendar day, from the first to the last that any fact refers to, without a hole "
    "between 1900 and 2199.",
) -> Calendar:
    """Declare a calendar: year, month, day, day_of_week, quarter, and their English names, for each day by `key`."""
    return Calendar(name, key, description, caller())


def _of(key: str, columns: Mapping[str, Sequence[str]]) -> Callable[..., pd.DataFrame]:
    """The function of a calendar over columns of facts."""

    def days(**facts: nw.LazyFrame) -> pd.DataFrame:
        """Pandas, because a calendar is not computed from rows: only its two ends are, and the days that are far away."""
        found = [day for name, names in columns.items() for day in _days(facts[name], names)]
        near = [day for day in found if _FIRST <= day <= _LAST]
        dates = pd.DatetimeIndex(sorted(set(found) - set(near)), dtype="datetime64[s]")
        if near:
            dates = dates.union(pd.date_range(min(near), max(near), freq="D", unit="s"))
        return pd.DataFrame(
            {
                key: dates.date,
                "year": dates.year,
                "month": dates.month,
                "day": dates.day,
                "day_of_week": dates.isocalendar().day.to_numpy(),
                "quarter": dates.quarter,
                "day_name": dates.day_name(),
                "month_name": dates.month_name(),
            }
        )

    made: Any = days
    made.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in columns]
    )
    return days


def _days(fact: nw.LazyFrame, columns: Sequence[str]) -> Iterator[dt.date]:
    """The first and the last day in each of the columns; all days of one that has some which are far away."""
    for start in range(0, len(columns), _AT_ONCE):
        names = columns[start : start + _AT_ONCE]
        dates = fact.select(*names)
        row = dates.select(
            *[nw.col(name).min().alias(f"{name} from") for name in names],
            *[nw.col(name).max().alias(f"{name} to") for name in names],
        )
        ends = row.collect().row(0)
        for name, first, last in zip(names, ends, ends[len(names) :], strict=False):
            if first is None:
                continue
            if first >= _FIRST and last <= _LAST:
                yield from (first, last)
            else:
                yield from dates.select(name).drop_nulls().unique().collect()[name].to_list()
