"""What is larger than the memory that a run may have is read all the same."""

from pathlib import Path

import duckdb
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


@pytest.mark.fault("F38")
@pytest.mark.parametrize("same", [True, False])
def test_who_has_spilled_can_open_another_session(tmp_path: Path, same: bool) -> None:
    """DuckDB lets nobody name a folder to spill to once there is something in it, not even the same one. So a star that was larger
    than the memory ended its run at the next stage."""
    folders = [tmp_path / name for name in ("one", "one" if same else "other")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    with duckdb.connect() as connection:
        duck.configure(connection, folders[0])
        connection.execute("SET memory_limit = '40MB'")
        connection.execute("CREATE TEMP TABLE large AS SELECT hash(range) AS h FROM range(10000000)")
        assert list(folders[0].iterdir())
        with connection.cursor() as another:
            duck.configure(another, folders[1])
            assert duck.one(another, "SELECT current_setting('temp_directory')") == (str(folders[0]),)
