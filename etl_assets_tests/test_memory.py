"""What is larger than the memory that a run may have is read all the same."""

from pathlib import Path

import pytest

from etl_assets.engine import duck

_MIB = 1 << 20


@pytest.mark.fault("F38")
def test_a_file_that_is_larger_than_the_memory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 MiB are what DuckDB may have in a container of 256."""
    monkeypatch.setattr(duck, "memory_bytes", lambda: 128 * _MIB)
    line = f"7,{'x' * 1000}\n"
    rows = 150 * _MIB // len(line)
    (tmp_path / "large.csv").write_text("id,note\n" + line * rows)
    with duck.connect(tmp_path / "scratch") as connection:
        rows_of = duck.csv_rows([tmp_path / "large.csv"])
        found = duck.one(connection, f"SELECT count(*), sum(strlen(note)) FROM {rows_of}")
    assert found == (rows, 1000 * rows)
