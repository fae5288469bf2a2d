"""Reports as an Excel workbook: a formatted .xlsx file, replaced as a whole, byte for byte the same for the same data."""

import datetime
import filecmp
import hashlib
import os
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from etl_assets.engine.types import EXACT
from etl_assets.errors import EtlError
from etl_assets.exports.contract import ABOUT
from etl_assets.exports.publishing import PublishResult, Sheet, Workbook
from etl_assets.later import Later
from etl_assets.permissions import new_file
from etl_assets.preflight import CheckResult, room

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    import xlsxwriter
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

    from etl_assets.exports.workbook_page import ColumnWorksheet
else:
    pd = Later("pandas")
    pa = Later("pyarrow")
    pc = Later("pyarrow.compute")
    xlsxwriter = Later("xlsxwriter")

# Microsoft, "Excel specifications and limits"
MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
MAX_TEXT = 32_767
MAX_DIGITS = 15
_FIRST_DAY = datetime.date(1900, 1, 1)

# Text is text, whatever it looks like: a name such as =HYPERLINK(...) must not become a formula.
_OPTIONS = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
# xlsxwriter would write the present time
_CREATED = datetime.datetime(2000, 1, 1)  # noqa: DTZ001  xlsxwriter writes it as it is, as UTC
_WIDTHS = (8, 50)
_WIDTH_ROWS = 1_000


class WorkbookError(EtlError):
    """A workbook can't hold what it is given."""


class XlsxWorkbook(Workbook):
    """An .xlsx file."""

    path: str = Field(description="The file; its folder is made if there is none.")

    def check(self) -> Iterator[CheckResult]:
        """See whether its folder can be written."""
        yield room("write", Path(self.path).parent, "ETL_DATA")

    def standing(self) -> str | None:
        path = Path(self.path)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"

    def publish(self, title: str, sheets: Sequence[Sheet]) -> PublishResult:
        for sheet in sheets:
            check_limits(sheet)
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: a rename must not cross file systems.
        unfinished = new_file(path.parent, f".{path.name}.unfinished-", ".xlsx")
        try:
            write_workbook(unfinished, title, sheets)
            unchanged = path.exists() and filecmp.cmp(unfinished, path, shallow=False)
            if not unchanged:
                _replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        rows = sum(len(sheet.frame) for sheet in sheets)
        return PublishResult(str(path), rows, path.stat().st_size, unchanged)


def check_limits(sheet: Sheet) -> None:
    """Raises `WorkbookError` for what Excel would cut, round or refuse."""
    rows, columns = sheet.frame.shape
    if rows + 1 > MAX_ROWS or columns > MAX_COLUMNS:
        raise WorkbookError(
            f"sheet {sheet.title!r} has {rows:,} rows and {columns:,} columns; Excel holds {MAX_ROWS - 1:,} rows below "
            f"a header and {MAX_COLUMNS:,} columns: aggregate further"
        )
    for column in sheet.frame.columns:
        if _fits(pa.array(sheet.frame[column].array)):
            continue
        for number, value in enumerate(sheet.frame[column], start=2):
            problem = _problem(value)
            if problem:
                raise WorkbookError(f"sheet {sheet.title!r}, row {number}, column {column!r}: {problem}")


def _fits(values: "pa.Array | pa.ChunkedArray") -> bool:
    """Whether the longest text, or the least and the greatest value, tell that Excel holds all values of a column exactly. If
    not, each has to be looked at."""
    type_ = values.type
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        longest: int = pc.max(pc.utf8_length(values)).as_py() or 0
        return 2 * longest <= MAX_TEXT  # a character is one or two UTF-16 units
    if pa.types.is_integer(type_) or pa.types.is_decimal(type_):
        ends = [value for value in pc.min_max(values).as_py().values() if value is not None]
        return all(len(Decimal(value).as_tuple().digits) <= MAX_DIGITS for value in ends)
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        return _problem(pc.min(values).as_py()) is None
    return False


def write_workbook(path: Path, title: str, sheets: Sequence[Sheet]) -> None:
    """Write the sheets, and before them one that says what they are."""
    from etl_assets.exports.workbook_page import ColumnWorksheet  # here, since it needs xlsxwriter

    with xlsxwriter.Workbook(str(path), _OPTIONS) as book:
        book.set_properties({"title": title, "created": _CREATED})
        header = book.add_format({"bold": True, "bottom": 1, "bg_color": "#E7ECF2"})
        about = book.add_worksheet(ABOUT)
        about.write_string(0, 0, title, book.add_format({"bold": True, "font_size": 16}))
        for position, text in enumerate(["Sheet", "Rows", "What it shows"]):
            about.write_string(2, position, text, header)
        for row, sheet in enumerate(sheets, start=3):
            about.write_url(row, 0, f"internal:'{sheet.title}'!A1", string=sheet.title)
            about.write_number(row, 1, len(sheet.frame), book.add_format({"num_format": "#,##0"}))
            about.write_string(row, 2, " ".join(sheet.description.split()))
            _write_sheet(book, book.add_worksheet(sheet.title, ColumnWorksheet), sheet.frame, header)
        about.set_column(0, 0, 24)
        about.set_column(2, 2, 100)


def _write_sheet(
    book: "xlsxwriter.Workbook", page: "ColumnWorksheet", frame: "pd.DataFrame", header: "Format"
) -> None:
    page.freeze_panes(1, 0)
    if frame.shape[1]:
        page.autofilter(0, 0, len(frame), frame.shape[1] - 1)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    formats = [
        book.add_format({"num_format": number_format(field.name, field.type)}) for field in table.schema
    ]
    taken = page.take(table, formats)
    for position, (name, shown) in enumerate(zip(frame.columns, formats, strict=True)):
        values = frame[name]
        page.write_string(0, position, name, header)
        if not taken:
            write = _writer(page, table.schema.field(position).type)
            for row, value in enumerate(values, start=1):
                if value is not pd.NA:
                    write(row, position, value, shown)
        lengths = [
            len(f"{value:,}" if isinstance(value, Decimal | int) else str(value))
            for value in values[:_WIDTH_ROWS]
        ]
        # Three characters more: the filter's button covers the end of the header.
        page.set_column(position, position, min(max(len(name) + 3, *lengths, _WIDTHS[0]) + 1, _WIDTHS[1]))


def number_format(name: str, type_: "pa.DataType") -> str:
    """How Excel shows a column."""
    if pa.types.is_decimal(type_) and type_.scale:
        return f"#,##0.{'0' * type_.scale}"
    if pa.types.is_integer(type_) or pa.types.is_decimal(type_):
        return "0" if name.endswith("_id") else "#,##0"  # an id is a name, not a quantity
    if pa.types.is_date(type_):
        return "yyyy-mm-dd"
    if pa.types.is_timestamp(type_):
        return "yyyy-mm-dd hh:mm:ss"
    if pa.types.is_time(type_):
        return "hh:mm:ss.000"
    return "@" if pa.types.is_string(type_) or pa.types.is_large_string(type_) else "General"


def _writer(page: "Worksheet", type_: "pa.DataType") -> Any:
    """The method that writes values of a type."""
    if pa.types.is_boolean(type_):
        return page.write_boolean
    if pa.types.is_temporal(type_):
        return page.write_datetime
    if pa.types.is_integer(type_) or pa.types.is_decimal(type_) or pa.types.is_floating(type_):
        return page.write_number
    return page.write_string


def _problem(value: Any) -> str | None:
    """Why Excel can't hold a value exactly; None if it can."""
    if isinstance(value, str):
        length = len(value.encode("utf-16-le")) // 2  # Excel counts UTF-16 units
        return f"a text of {length:,} characters; Excel holds {MAX_TEXT:,}" if length > MAX_TEXT else None
    if (
        isinstance(value, Decimal | int)
        and len(EXACT.create_decimal(value).normalize(EXACT).as_tuple().digits) > MAX_DIGITS
    ):
        return f"{value} has more digits than the {MAX_DIGITS} that Excel holds"
    if isinstance(value, datetime.date):
        day = value.date() if isinstance(value, datetime.datetime) else value
        return f"{value} is before {_FIRST_DAY}, where Excel's calendar starts" if day < _FIRST_DAY else None
    return None


def _replace(unfinished: Path, path: Path) -> None:
    """Put a finished file in place of the old one so that a crash leaves the one or the other."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    if os.name != "nt":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
