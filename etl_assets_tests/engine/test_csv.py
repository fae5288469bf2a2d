"""CSV files as PostgreSQL writes them, and as people do, read by DuckDB."""

import csv
from pathlib import Path

import duckdb
import pytest

from etl_assets.engine import duck
from etl_assets.star.definition import Inputs
from etl_assets.star.function import ContractError, StarFunction
from etl_assets.star.schema import Column, Dimension


@pytest.mark.parametrize("name", ["cr\r\nlf", "cr\rlf", "lf\nlf", 'a"b', "a,b"])
def test_whatever_a_column_is_called_no_row_is_lost(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    quoted = name.replace('"', '""')
    path.write_bytes(f'id,"{quoted}",z\n1,"x\r\ny",\n2,"","\r"\n'.encode())
    with duckdb.connect() as connection:
        rows = duck.read_csv(connection, [path])
        assert rows.columns[:3] == ["id", name, "z"]
        assert [row[:3] for row in rows.fetchall()] == [("1", "x\r\ny", None), ("2", "", "\r")]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "rows",
    [
        [["code", "name"], ["#ff0000", "red"], ["c", "#"], ["# a", ""]],
        [["code"], ["x;y"], ["p|q"], ["t\tb"], ["'"], ["b"]],
        [["code", "name"], ["'", "'"], ['"x"', "l1\nl2"], ["\\", '\\"']],
        [["code name", "it"], ["a", "NULL"], ["007", "1,5"]],
        [[" code", "Code", ""], ["1", " 2", "3 "]],
    ],
)
def test_what_somebody_wrote_is_read_as_it_is(rows: list[list[str]], ends: str, tmp_path: Path) -> None:
    """DuckDB guesses otherwise: rows are comments, or a value parts the fields of all."""
    path = tmp_path / "rows.csv"
    for delimiter in ",;\t|":
        if any(delimiter in name for name in rows[0]):
            continue
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, lineterminator=ends, delimiter=delimiter).writerows(rows)
        with duckdb.connect() as connection:
            read = duck.read_any_csv(connection, path)
            assert read.fetchall() == [tuple(value or None for value in row) for row in rows[1:]], delimiter
            assert len(set(map(str.lower, read.columns))) == len(rows[0])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("code,name\na,größe\n".encode("latin-1"), r"rows.csv(, line \d: it)? is not UTF-8: save it as such"),
        (b"code,name\n" + b"a,b\n" * 9999 + b"a,\xe4\n", r"rows.csv, line 10001: it is not UTF-8"),
        (b"", "rows.csv has no header"),
        (b"code,name\na,b,c\n", "rows.csv, line 2: it has another number of values than the header"),
        (b"code,name\na,b\nc\n", "rows.csv, line 3: it has another number of values than the header"),
        (b'code,name\na,"b\n', "rows.csv, line 2: a quote is not closed"),
    ],
)
def test_a_reference_file_that_can_not_be_read_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    schema = Dimension("dim_colour", "", "code", [Column("code", "text"), Column("name", "text?")])
    made = StarFunction(schema, lambda colours: colours.select("code", "name"))
    with pytest.raises(ContractError, match=f"^the reference file {told}"):
        Inputs({}, {"dim_colour": made}, {"colours": path})
