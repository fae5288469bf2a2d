"""What a report promises, and how it is made to keep it. No report is declared here, and none is published here.

The contract of a report is a Dagster type made with dagster-pandas: a frame that breaks it fails the step before
anything is published.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from functools import cached_property
from operator import add
from typing import TYPE_CHECKING, Any

from etl_assets import faults
from etl_assets.engine.code_version import code_version
from etl_assets.engine.location import location
from etl_assets.engine.mistakes import columns_of, refuse
from etl_assets.engine.types import EXACT, Type, checked
from etl_assets.errors import EtlError
from etl_assets.later import Later

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv
else:
    pd = Later("pandas")
    pa = Later("pyarrow")
    csv = Later("pyarrow.csv")

ABOUT = "About"
"""The sheet of a workbook that says what the others are."""
_TITLES_TAKEN = {"history"}  # by Excel
_TITLE_LENGTH = 31  # of a sheet, in Excel
_TITLE_FORBIDS = frozenset("[]:*?/\\'")


class ReportError(EtlError):
    """A report does not give what it declares, or does not agree with the facts."""


@dataclass(frozen=True)
class ReportColumn:
    """A column of a report: its type in PostgreSQL's terms (`?` allows NULL), its meaning, and its limits.

    The order of `one_of` is the order in which its values are sorted.
    """

    name: str
    declared: str
    description: str = ""
    at_least: int | None = None
    one_of: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` for a type that there is not, and for a limit that is no number."""
        _ = self.type
        limit: object = self.at_least
        if limit is not None and not isinstance(limit, int | float | Decimal):
            refuse(self, f"{self.name}: at_least={limit!r} is no number")

    @cached_property
    def type(self) -> Type:
        return checked(self, self.name, self.declared)


@dataclass(frozen=True)
class Report:
    """A reporting table: `query` aggregates in the warehouse, `shape` makes the rows, the rest is what is promised.

    `key` is unique, and rows are published in its order. `control` is a query whose columns are columns of the
    report: those of the key are groups, the others amounts, whose sums in the report must be exactly these.
    """

    name: str
    title: str
    description: str
    columns: Sequence[ReportColumn] = field(repr=False)
    key: Sequence[str]
    query: str = field(repr=False)
    control: str | None = field(repr=False)
    shape: Callable[[pd.DataFrame], pd.DataFrame] = field(repr=False)

    @property
    def where(self) -> str:
        """The file and line of the function, as an editor takes them."""
        return location(self.shape)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", columns_of(self, self.name, self.columns, ReportColumn))
        names = [column.name for column in self.columns]
        if len({name.lower() for name in names}) != len(names):
            refuse(self, f"{self.name}: a column is declared twice, in whatever case, in {names}")
        if not self.key or not set(self.key) <= set(names):
            refuse(self, f"{self.name}: its key {list(self.key)} must name columns among {names}")
        if not 0 < len(self.title) <= _TITLE_LENGTH or _TITLE_FORBIDS & set(self.title):
            refuse(
                self,
                f"{self.name}: the title {self.title!r} names a sheet: use 1 to {_TITLE_LENGTH} characters and none of "
                + " ".join(sorted(_TITLE_FORBIDS)),
            )
        elif not self.title.isprintable() or self.title != self.title.strip():
            refuse(
                self,
                f"{self.name}: the title {self.title!r} names a sheet: write it in one line, without space around it",
            )
        elif self.title.casefold() in _TITLES_TAKEN:
            refuse(self, f"{self.name}: Excel has a sheet {self.title} of its own: write another title")
        if not self.description:
            refuse(self, f"{self.name}: its function needs a docstring that says what one row is")
        try:
            inspect.signature(self.shape).bind(None)
        except TypeError:
            refuse(self, f"{self.name}: its function is given what the query answers: write one parameter")

    @cached_property
    def by_name(self) -> Mapping[str, ReportColumn]:
        return {column.name: column for column in self.columns}

    @cached_property
    def code_version(self) -> str:
        return code_version(self.shape, self.query, repr(self.control), repr(self.columns), repr(self.key))

    def make(self, answer: pd.DataFrame) -> pd.DataFrame:
        """The report from what its query answered: the declared columns in their exact types (Arrow's), sorted.

        Raises `ReportError` if a column is missing, or holds a value that its type can't.
        """
        shaped = self.shape(answer)
        if not isinstance(shaped, pd.DataFrame):
            raise ReportError(
                f"{self.name}: its function returns {type(shaped).__name__}; return a DataFrame"
            )
        missing = [name for name in self.by_name if name not in shaped.columns]
        if missing:
            raise ReportError(
                f"{self.name}: its function gives no {', '.join(missing)}; it gives {list(shaped.columns)}"
            )
        return self.typed(shaped)

    def typed(self, shaped: pd.DataFrame) -> pd.DataFrame:
        """The declared columns in their exact types, sorted: where a report is kept, types may be wider."""
        table = pa.table({column.name: self._exact(shaped[column.name], column) for column in self.columns})
        frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
        return self.in_order(frame)

    def in_order(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of the report by its key: tables of a database have no order."""
        return frame.sort_values(list(self.key), key=self._order, ignore_index=True)

    def differences(self, frame: pd.DataFrame, control: pd.DataFrame) -> list[str]:
        """Where sums of the report differ from control totals; empty if they agree to the last digit."""
        groups = [name for name in control.columns if name in self.key]
        amounts = [name for name in control.columns if name not in self.key]
        reported, expected = totals(frame, groups, amounts), totals(control, groups, amounts)
        nothing = (0,) * len(amounts)
        return [
            f"{name} of {', '.join(str(value) for value in group) or 'all'} is {ours}, the facts say {theirs}"
            for group in {**expected, **reported}
            for name, ours, theirs in zip(
                amounts, reported.get(group, nothing), expected.get(group, nothing), strict=True
            )
            if ours != theirs
        ]

    def _exact(self, values: pd.Series, column: ReportColumn) -> pa.Array | pa.ChunkedArray:
        held = pa.array(values.array, from_pandas=True)
        wanted = column.type.arrow
        if len(held) and pa.types.is_floating(held.type) and not pa.types.is_floating(wanted):
            raise ReportError(
                f"{self.name}: {column.name} became a float on its way; keep it {column.declared}"
            )
        try:
            return held.cast(wanted)
        except pa.ArrowException as error:
            raise ReportError(
                f"{self.name}: {column.name} holds what {column.declared} can't: {faults.told(error)}"
            ) from None

    def _order(self, values: pd.Series) -> pd.Series:
        ranks = {value: rank for rank, value in enumerate(self.by_name[str(values.name)].one_of)}
        return values.map(ranks) if ranks else values

    def statistics(self, frame: pd.DataFrame) -> dict[str, Any]:
        """What the UI shows beside a type check that passed."""
        amounts = [column.name for column in self.columns if pa.types.is_decimal(column.type.arrow)]
        (sums,) = totals(frame, [], amounts).values() or [()]
        return {"rows": len(frame)} | {
            f"sum of {name}": str(sum_) for name, sum_ in zip(amounts, sums, strict=False)
        }


def report(
    *,
    title: str,
    columns: Sequence[ReportColumn],
    key: str | Sequence[str],
    query: str,
    control: str | None = None,
) -> Callable[[Callable[[pd.DataFrame], pd.DataFrame]], Report]:
    """Declare that the function below shapes a report from what `query` answers; its docstring says what a row is."""

    def declared(shape: Callable[[pd.DataFrame], pd.DataFrame]) -> Report:
        return Report(
            name=shape.__name__,
            title=title,
            description=inspect.getdoc(shape) or "",
            columns=columns,
            key=(key,) if isinstance(key, str) else key,
            query=inspect.cleandoc(query),
            control=inspect.cleandoc(control) if control else None,
            shape=shape,
        )

    return declared


def workbook_name(title: str) -> str:
    """What the asset of a workbook with a title is called."""
    return f"{re.sub('[^a-z0-9]+', '_', title.lower()).strip('_')}_workbook"


def totals(
    frame: pd.DataFrame, groups: Sequence[str], amounts: Sequence[str]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Sums by group in Python's own integers and decimals: exact, and without a limit of digits."""
    sums: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for row in frame[[*groups, *amounts]].itertuples(index=False, name=None):
        group, values = row[: len(groups)], row[len(groups) :]
        with localcontext(EXACT):
            sums[group] = tuple(map(add, sums.get(group, (0,) * len(amounts)), values))
    return sums


def content_version(*frames: pd.DataFrame) -> str:
    """16 hexadecimal digits that identify names, types and values of frames with Arrow types, in their order."""
    digest = hashlib.sha256()
    for frame in frames:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        # As CSV, in which NULL and the empty text differ: Arrow's own memory may differ where values do not.
        texts = pa.table({name: _texts(table[name]) for name in table.column_names})
        content = pa.BufferOutputStream()
        csv.write_csv(texts, content, csv.WriteOptions(quoting_style="all_valid"))
        content = content.getvalue()
        digest.update(f"{len(frame)} {table.schema.remove_metadata()} {content.size}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _texts(values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Values as text, bytes in hexadecimal digits."""
    if pa.types.is_binary(values.type):
        return pa.array([value and value.hex() for value in values.to_pylist()], pa.string())
    return values.cast(pa.string())
