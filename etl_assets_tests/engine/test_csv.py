"""CSV files as PostgreSQL writes them, read by DuckDB."""

from pathlib import Path

import duckdb
import pytest

from etl_assets.engine import duck


@pytest.mark.parametrize("name", ["cr\r\nlf", "cr\rlf", "lf\nlf", 'a"b', "a,b"])
def test_whatever_a_column_is_called_no_row_is_lost(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    quoted = name.replace('"', '""')
    path.write_bytes(f'id,"{quoted}",z\n1,"x\r\ny",\n2,"","\r"\n'.encode())
    with duckdb.connect() as connection:
        rows = duck.read_csv(connection, [path])
        assert rows.columns[:3] == ["id", name, "z"]
        assert [row[:3] for row in rows.fetchall()] == [("1", "x\r\ny", None), ("2", "", "\r")]
