"""A worksheet that takes whole columns: xlsxwriter takes a cell at a time, and reports have a hundred thousand of them."""

import datetime
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from xlsxwriter.format import Format
from xlsxwriter.utility import xl_col_to_name
from xlsxwriter.worksheet import Worksheet

_DAYS_TO_1970 = 25_569  # from the day that Excel counts from
_AFTER_THE_DAY_THAT_NEVER_WAS = datetime.date(1900, 3, 1)  # before it, Excel counts a 29th of February 1900

_SHARED = ' t="s"'


class ColumnWorksheet(Worksheet):  # type: ignore[misc]  # xlsxwriter has no types
    """A worksheet whose first row is written as ever, and whose other rows may be given as columns."""

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[tuple[pa.Array, bool, Format]] = []

    def take(self, table: pa.Table, formats: Sequence[Format]) -> bool:
        """Take the rows below the first one; nothing is taken, and False returned, if a column is of a kind that has to be written
        cell by cell."""
        columns = [column.combine_chunks() for column in table.columns]
        if not len(table) or not all(_is_plain(column) for column in columns):
            return False
        self._check_dimensions(len(table), len(columns) - 1)
        self._columns = [
            (*self._written(column), shown) for column, shown in zip(columns, formats, strict=True)
        ]
        return True

    def _written(self, values: pa.Array) -> tuple[pa.Array, bool]:
        """The values as they are written, and whether they are places in the list of texts that all sheets share."""
        if _is_text(values.type):
            known = values.cast(pa.string()).dictionary_encode()
            places = [self.str_table._get_shared_string_index(text) for text in known.dictionary.to_pylist()]
            self.str_table.count += len(values) - values.null_count - len(places)
            return pa.array(places, pa.int64()).take(known.indices).cast(pa.string()), True
        if pa.types.is_date32(values.type):
            values = pc.add(values.cast(pa.int32()), _DAYS_TO_1970)
        return values.cast(pa.string()), False

    def _write_rows(self) -> None:
        super()._write_rows()
        if not self._columns:
            return
        size = len(self._columns[0][0])
        rows = pc.cast(pa.array(range(2, size + 2)), pa.string())
        cells = [
            pc.binary_join_element_wise(
                f'<c r="{xl_col_to_name(position)}',
                rows,
                f'" s="{shown._get_xf_index()}"{_SHARED if shared else ""}><v>',
                values,
                "</v></c>",
                "",
            ).fill_null("")
            for position, (values, shared, shown) in enumerate(self._columns)
        ]
        spans = f'" spans="1:{len(cells)}">'
        lines = pc.binary_join_element_wise('<row r="', rows, spans, *cells, "</row>", "")
        self.fh.write("".join(lines.to_pylist()))


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_plain(values: pa.Array) -> bool:
    """Whether the text of values is what a sheet holds."""
    if pa.types.is_date32(values.type):
        first = pc.min(values).as_py()
        return first is None or first >= _AFTER_THE_DAY_THAT_NEVER_WAS
    return _is_text(values.type) or pa.types.is_integer(values.type) or pa.types.is_decimal(values.type)
