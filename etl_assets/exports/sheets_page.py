"""Frames as pages of a spreadsheet: cells that Sheets keeps as they are, or a refusal; and whether it did keep them."""

import datetime
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import zip_longest
from typing import Any

import pandas as pd
import pyarrow as pa

from etl_assets import faults
from etl_assets.clients.sheets import Json, SheetsError
from etl_assets.exports.workbook import number_format

# Google, "Files you can store in Google Drive" and "Usage limits" of the Sheets API
MAX_CELLS = 10_000_000
MAX_COLUMNS = 18_278
MAX_TEXT = 50_000
MAX_TITLE = 100
MAX_DIGITS = 15
_REQUEST_BYTES = 1_000_000  # Google advises at most 2 MB

_FIRST_DAY = datetime.date(1899, 12, 30)  # serial number 0
_FIRST_MOMENT = datetime.datetime(1899, 12, 30)  # noqa: DTZ001  a spreadsheet knows no time zones
_DAY = datetime.timedelta(days=1)
UNFINISHED = "etl unfinished "
"""How the titles of hidden tabs begin; no page's may."""

Cell = str | int | float | bool


class SheetTab:
    """A frame as the cells of a tab: the header, a row per row, an empty one where there would be none below the header
    (Sheets freezes no header without)."""

    def __init__(self, title: str, frame: pd.DataFrame) -> None:
        self.title = title
        self.frame = frame

    @property
    def height(self) -> int:
        return max(2, len(self.frame) + 1)

    @property
    def width(self) -> int:
        return max(1, self.frame.shape[1])

    @property
    def cells(self) -> int:
        return self.height * self.width

    @cached_property
    def table(self) -> pa.Table:
        try:
            return pa.Table.from_pandas(self.frame, preserve_index=False)
        except (pa.ArrowException, ValueError) as error:
            raise SheetsError(
                f"tab {self.title!r}: its columns can't be told apart or typed: {faults.told(error)}"
            ) from None

    @cached_property
    def rows(self) -> list[list[Cell]]:
        """The cells as they are sent, and as Sheets gives them back. NULL and the empty text are both an empty cell.
        Raises `SheetsError` for a value that Sheets would cut, round or refuse."""
        columns = [
            [_cell(name, self._where(1, name)), *self._cells(name)] for name in self.table.column_names
        ]
        rows = [list(row) for row in zip(*columns, strict=True)] or [[""]]
        return rows + [[""] * self.width] * (self.height - len(rows))

    def _cells(self, name: str) -> Iterator[Cell]:
        for number, value in enumerate(self.table[name].to_pylist(), start=2):
            yield _cell(value, self._where(number, name))

    def _where(self, row: int, column: str) -> str:
        return f"tab {self.title!r}, row {row}, column {column!r}"


def check_sizes(pages: Sequence[SheetTab]) -> None:
    """Raises `SheetsError` for titles and sizes that no spreadsheet takes."""
    titles = [page.title.casefold() for page in pages]
    for page in pages:
        if not 0 < len(page.title) <= MAX_TITLE or page.title.startswith(UNFINISHED):
            raise SheetsError(f"{page.title!r} can't name a tab: use 1 to {MAX_TITLE} characters")
        if titles.count(page.title.casefold()) > 1:
            raise SheetsError(
                f"there are several tabs {page.title!r}; Sheets takes upper and lower case as the same"
            )
        if page.width > MAX_COLUMNS:
            raise SheetsError(
                f"tab {page.title!r} has {page.width:,} columns; Sheets holds {MAX_COLUMNS:,}: aggregate further"
            )
    check_cells(sum(page.cells for page in pages), "the tabs have")


def check_cells(cells: int, what: str) -> None:
    """Raise `WorkbookError` if a spreadsheet can't have so many cells."""
    if cells > MAX_CELLS:
        raise SheetsError(
            f"{what} {cells:,} cells, {cells - MAX_CELLS:,} more than the {MAX_CELLS:,} that a spreadsheet holds: "
            "aggregate further, or make room"
        )


@dataclass(frozen=True)
class Block:
    """Rows of a page: `first` and those after it, before `end`."""

    page: SheetTab
    first: int
    end: int

    @property
    def rows(self) -> list[list[Cell]]:
        return self.page.rows[self.first : self.end]

    def range(self, title: str) -> str:
        """The A1 notation of some rows and columns of a sheet."""
        quoted = title.replace("'", "''")
        return f"'{quoted}'!A{self.first + 1}:{_letters(self.page.width)}{self.end}"


def portions(pages: Sequence[SheetTab]) -> Iterator[list[Block]]:
    """The rows of the pages, split into what one request may carry."""
    portion: list[Block] = []
    size = 0
    for page in pages:
        first = 0
        for number, row in enumerate(page.rows):
            length = len(json.dumps(row))
            if size and size + length > _REQUEST_BYTES:
                yield portion if first == number else [*portion, Block(page, first, number)]
                portion, size, first = [], 0, number
            size += length
        portion.append(Block(page, first, page.height))
    if portion:
        yield portion


def same(rows: Sequence[Sequence[Cell]], held: Sequence[Sequence[Any]]) -> bool:
    """`held` lacks the empty cells at the ends."""
    if len(held) > len(rows):
        return False
    for row, found in zip_longest(rows, held, fillvalue=()):
        padded = [*found, *[""] * (len(row) - len(found))]
        if [(_kind(cell), cell) for cell in row] != [(_kind(cell), cell) for cell in padded]:
            return False
    return True


def _kind(cell: Cell) -> str:
    """1 is not true."""
    return "number" if isinstance(cell, int | float) and not isinstance(cell, bool) else type(cell).__name__


def _cell(value: Any, where: str) -> Cell:
    """A value as JSON that Sheets keeps as it is. Raises `SheetsError` if it would not."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        length = len(value.encode("utf-16-le")) // 2
        if length > MAX_TEXT:
            raise SheetsError(f"{where}: a text of {length:,} characters; Sheets holds {MAX_TEXT:,}")
        return value
    if isinstance(value, int | Decimal):
        exact = Decimal(value)
        digits = "".join(map(str, exact.as_tuple().digits)).strip("0")
        if len(digits) > MAX_DIGITS or not math.isfinite(float(exact)):
            raise SheetsError(f"{where}: {value} has more digits than the {MAX_DIGITS} that Sheets holds")
        return value if isinstance(value, int) else float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SheetsError(f"{where}: {value} is no number that Sheets holds")
        return value
    if isinstance(value, datetime.date):
        return _serial(value, where)
    if isinstance(value, datetime.time):
        return (datetime.datetime.combine(_FIRST_DAY, value.replace(tzinfo=None)) - _FIRST_MOMENT) / _DAY
    raise SheetsError(
        f"{where}: a {type(value).__name__} can't be put into a cell: make it a text or a number"
    )


def _serial(value: datetime.date, where: str) -> int | float:
    """Days since 1899-12-30. Instants with a time zone are shown in UTC."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        serial: int | float = (value - _FIRST_MOMENT) / _DAY
    else:
        serial = (value - _FIRST_DAY).days
    if serial < 0:
        raise SheetsError(f"{where}: {value} is before {_FIRST_DAY}, where Sheets' calendar starts")
    return serial


def shown_as(name: str, type_: pa.DataType) -> Json | None:
    """How Sheets shows a column; None: by its own lights."""
    pattern = number_format(name, type_)
    if pattern == "General":
        return None
    if pa.types.is_timestamp(type_):
        return {"type": "DATE_TIME", "pattern": pattern + (' "UTC"' if type_.tz else "")}
    kinds = {"@": "TEXT", "yyyy-mm-dd": "DATE", "hh:mm:ss.000": "TIME"}
    return {"type": kinds.get(pattern, "NUMBER"), "pattern": pattern}


def _letters(column: int) -> str:
    """1 is A, 27 is AA."""
    letters = ""
    while column:
        column, digit = divmod(column - 1, 26)
        letters = chr(ord("A") + digit) + letters
    return letters
