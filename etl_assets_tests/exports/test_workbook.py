"""A workbook shows what the reports hold: numbers as numbers, text as text, and the old file until the new one is whole."""

import datetime
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
from openpyxl.worksheet.worksheet import Worksheet

from etl_assets.exports import workbook
from etl_assets.exports.publishing import Sheet
from etl_assets.exports.workbook import WorkbookError, XlsxWorkbook, check_limits
from etl_assets.exports.workbook_page import ColumnWorksheet
from etl_assets_tests.exports.conftest import Star


def sheet(title: str = "Cash", **columns: tuple[Sequence[Any], pa.DataType]) -> Sheet:
    table = pa.table({name: pa.array(values, type_) for name, (values, type_) in columns.items()})
    return Sheet(title, "One row is a test.", table.to_pandas(types_mapper=pd.ArrowDtype))


def page(path: Path, title: str = "Cash") -> Worksheet:
    found = openpyxl.load_workbook(path)[title]
    assert isinstance(found, Worksheet)
    return found


@pytest.fixture
def book(tmp_path: Path) -> XlsxWorkbook:
    return XlsxWorkbook(path=str(tmp_path / "out" / "book.xlsx"))


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "https://example.org", "00123", "{=1}", "TRUE", " x "]
)
def test_text_stays_text(book: XlsxWorkbook, text: str) -> None:
    book.publish("T", [sheet(name=([text], pa.string()))])
    cell = page(Path(book.path))["A2"]
    assert (cell.value, cell.data_type, cell.hyperlink) == (text, "s", None)


@pytest.mark.fault("F32")
def test_a_formula_stays_text_all_the_way_from_the_warehouse(star: Star) -> None:
    star.publish()
    cell = page(star.workbook, "Unpaid payments")["C2"]
    assert (cell.value, cell.data_type) == ("=SUM(A1:A9)", "s")


def test_numbers_and_dates_are_typed_and_formatted(book: XlsxWorkbook) -> None:
    day = datetime.date(2026, 3, 1)
    book.publish(
        "T",
        [
            sheet(
                amount=([Decimal("1234567890123.45")], pa.decimal128(18, 2)),
                units=([12345], pa.int64()),
                staff_id=([12345], pa.int32()),
                day=([day], pa.date32()),
                at=([datetime.datetime(2026, 3, 1, 9, 30)], pa.timestamp("us")),  # noqa: DTZ001
                clock=([datetime.time(9, 30)], pa.time64("us")),
                paid=([True], pa.bool_()),
                ratio=([0.5], pa.float64()),
            )
        ],
    )
    cells = page(Path(book.path))[2]
    assert [c.value for c in cells[:3]] == [1234567890123.45, 12345, 12345]
    assert cells[3].value.date() == day
    assert (cells[6].value, cells[7].value) == (True, 0.5)
    assert [c.number_format for c in cells] == [
        "#,##0.00",
        "#,##0",
        "0",
        "yyyy-mm-dd",
        "yyyy-mm-dd hh:mm:ss",
        "hh:mm:ss.000",
        "General",
        "General",
    ]


def test_null_is_an_empty_cell(book: XlsxWorkbook) -> None:
    book.publish(
        "T", [sheet(a=([None], pa.string()), b=([None], pa.decimal128(5, 2)), c=([None], pa.date32()))]
    )
    assert [cell.value for cell in page(Path(book.path))[2]] == [None, None, None]


def test_headers_are_bold_frozen_and_filtered(star: Star) -> None:
    star.publish()
    sales = page(star.workbook, "Sales by month")
    assert sales["A1"].font.bold
    assert sales.freeze_panes == "A2"
    assert sales.auto_filter.ref == "A1:G2"


def test_the_first_sheet_lists_the_others(star: Star) -> None:
    star.publish()
    book = openpyxl.load_workbook(star.workbook)
    assert book.sheetnames == ["About", "Sales by month", "Unpaid payments", "Top designs"]
    assert [row[0] for row in book["About"].iter_rows(min_row=4, values_only=True)] == book.sheetnames[1:]


def test_the_same_data_gives_the_same_bytes(book: XlsxWorkbook, tmp_path: Path) -> None:
    other = XlsxWorkbook(path=str(tmp_path / "other.xlsx"))
    for one in (book, other):
        assert not one.publish("T", [sheet(a=(["x"], pa.string()))]).unchanged
    assert Path(book.path).read_bytes() == Path(other.path).read_bytes()


def test_an_unchanged_workbook_is_not_touched(book: XlsxWorkbook) -> None:
    sheets = [sheet(a=(["x"], pa.string()))]
    book.publish("T", sheets)
    before = Path(book.path).stat()
    published = book.publish("T", sheets)
    after = Path(book.path).stat()
    assert published.unchanged
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert (published.rows, published.bytes) == (1, after.st_size)


@pytest.mark.parametrize("crash_in", ["write_workbook", "_replace"])
def test_a_failed_publish_leaves_the_old_workbook_and_nothing_else(
    book: XlsxWorkbook, monkeypatch: pytest.MonkeyPatch, crash_in: str
) -> None:
    book.publish("T", [sheet(a=(["old"], pa.string()))])
    before = Path(book.path).read_bytes()

    def crash(path: Path, *args: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(workbook, crash_in, crash)
    with pytest.raises(OSError, match="no space left"):
        book.publish("T", [sheet(a=(["new"], pa.string()))])
    assert Path(book.path).read_bytes() == before
    assert list(Path(book.path).parent.iterdir()) == [Path(book.path)]


@pytest.mark.parametrize(
    ("values", "type_", "said"),
    [
        (["x" * 32_768], pa.string(), "row 2, column 'a': a text of 32,768 characters; Excel holds 32,767"),
        (["😀" * 16_384], pa.string(), "a text of 32,768 characters"),
        (
            [Decimal("12345678901234.56")],
            pa.decimal128(18, 2),
            "has more digits than the 15 that Excel holds",
        ),
        ([2**53], pa.int64(), "has more digits"),
        ([datetime.date(1899, 12, 31)], pa.date32(), "before 1900-01-01, where Excel's calendar starts"),
    ],
)
def test_what_excel_would_cut_or_round_is_refused(
    book: XlsxWorkbook, values: list[Any], type_: pa.DataType, said: str
) -> None:
    with pytest.raises(WorkbookError, match="sheet 'Cash', ") as caught:
        book.publish("T", [sheet(a=(values, type_))])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(book.path).exists()


def test_the_longest_text_that_excel_holds_is_written(book: XlsxWorkbook) -> None:
    text = "x" * 32_767
    book.publish("T", [sheet(a=([text], pa.string()))])
    assert page(Path(book.path))["A2"].value == text


def test_more_rows_than_a_sheet_holds_are_refused() -> None:
    with pytest.raises(
        WorkbookError, match=r"has 1,048,576 rows .* Excel holds 1,048,575 rows below a header"
    ):
        check_limits(sheet(a=([1] * 1_048_576, pa.int8())))


COLUMNS: dict[str, tuple[Sequence[Any], pa.DataType]] = {
    "text": (["a & b <c>", None, "", " x ", "=1+1", "\x01", "ü€😀", "a & b <c>"], pa.string()),
    "wide": (["<r>", "_x0041_", "\n", "'", '"', "00123", None, "TRUE"], pa.large_string()),
    "number": ([0, -1, None, 999_999_999_999_999, -999_999_999_999_999, 7, 8, 9], pa.int64()),
    "amount": (
        [Decimal(text) for text in ("0.00000001", "-0.5", "1234567.12345678", "0", "1E+3", "-7", "0.1")] + [None],
        pa.decimal128(20, 8),
    ),
    "day": ([datetime.date(1900, 3, 1), None, datetime.date(9999, 12, 31)] + 5 * [datetime.date(2026, 3, 1)], pa.date32()),
}  # fmt: skip


def test_columns_are_written_as_their_cells_would_be(
    book: XlsxWorkbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = [
        sheet("Few", text=COLUMNS["text"]),
        sheet("All", **COLUMNS),
        sheet("None", day=([], pa.date32())),
    ]
    book.publish("T", sheets)
    slow = XlsxWorkbook(path=str(tmp_path / "slow.xlsx"))
    monkeypatch.setattr(ColumnWorksheet, "take", lambda *_: False)
    slow.publish("T", sheets)
    for one in sheets:
        told, expected = (page(Path(made.path), one.title) for made in (book, slow))
        assert told.dimensions == expected.dimensions
        cells = [
            [(c.coordinate, c.value, c.data_type, c.number_format) for row in found.iter_rows() for c in row]
            for found in (told, expected)
        ]
        assert cells[0] == cells[1]


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (datetime.date(1900, 1, 1), pa.date32()),
        (datetime.datetime(2026, 3, 1, 12, 30), pa.timestamp("us")),  # noqa: DTZ001  a report's are without a zone
        (datetime.time(12, 30), pa.time64("us")),
        (True, pa.bool_()),
        (0.5, pa.float64()),
    ],
)
def test_a_sheet_with_a_column_of_another_kind_is_written_whole(
    book: XlsxWorkbook, value: Any, type_: pa.DataType
) -> None:
    book.publish("T", [sheet(name=(["x", None], pa.string()), other=([value, None], type_))])
    rows = [[cell.value for cell in row] for row in page(Path(book.path)).iter_rows(min_row=2)]
    shown = datetime.datetime(value.year, value.month, value.day) if type_ == pa.date32() else value  # noqa: DTZ001
    assert rows == [["x", shown], [None, None]] or rows == [["x", shown]]
