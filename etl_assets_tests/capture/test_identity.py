"""Copies of a source that look like it: what a copy shares with the one before can't vouch for it, so it is read whole."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from etl_assets.capture.table import Table
from etl_assets.source.demo.postgres import serve
from etl_assets_tests.capture.comparing import Lake, execute

T = Table("t", "", {"id": "int", "v": "text?"})


def begun(url: str) -> None:
    execute(
        url,
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 50) n",
    )


def read(lake: Lake) -> str:
    """How a sync read the table, and why."""
    taken = lake.sync(T)
    assert taken
    state = taken.tables["t"]
    return f"{state.read}: {state.why}"


def test_a_copy_made_from_a_template_is_read_whole(database: Callable[..., str], tmp_path: Path) -> None:
    """Server, database name, relation, ids and log position: all are as before, or ahead."""
    golden = database()
    begun(golden)
    admin, _, name = golden.rpartition("/")
    execute(f"{admin}/postgres", f"CREATE DATABASE {name}_shop TEMPLATE {name}")
    lake = Lake(f"{admin}/{name}_shop", tmp_path)
    try:
        lake.sync(T)
        execute(golden, "UPDATE t SET v = 'changed in the template' WHERE id IN (3, 4, 5)")
        execute(lake.url, "UPDATE t SET v = 'lost with the copy' WHERE id = 7")
        assert read(lake).startswith("horizon: ")
        execute(
            f"{admin}/postgres",
            f"DROP DATABASE {name}_shop WITH (FORCE)",
            f"CREATE DATABASE {name}_shop TEMPLATE {name}",
        )
        assert read(lake).startswith("whole: the database was dropped and made again, or is a copy")
        assert lake.is_exact(T)
        execute(lake.url, "UPDATE t SET v = 'later' WHERE id = 1")
        assert read(lake).startswith("horizon: ")
        assert lake.is_exact(T)
    finally:
        execute(f"{admin}/postgres", f"DROP DATABASE IF EXISTS {name}_shop WITH (FORCE)")


def test_a_server_that_was_set_back_to_a_copy_of_its_disk_is_read_whole(
    postgres_folder: Path, tmp_path: Path
) -> None:
    """Ids and log position have caught up: nothing but the start of the process tells the two apart."""
    folder, copy = postgres_folder / "disk", postgres_folder / "copy of the disk"
    with serve(folder) as url:
        begun(url)
        Lake(url, tmp_path).sync(T)
    subprocess.run(["cp", "-a", folder, copy], check=True)
    with serve(folder) as url:
        lake = Lake(url, tmp_path)
        execute(
            url, "UPDATE t SET v = 'set back' WHERE id IN (3, 4)", "INSERT INTO t VALUES (99, 'set back')"
        )
        assert read(lake).startswith("whole: the server was started since the last batch")
        execute(url, "UPDATE t SET v = 'set back too' WHERE id = 5")
        assert read(lake).startswith("horizon: ")
    shutil.rmtree(folder)
    copy.rename(folder)
    with serve(folder) as url:
        lake = Lake(url, tmp_path)
        for _ in range(30):
            execute(url, *["UPDATE t SET v = v WHERE id = 1"] * 10)
        execute(url, "UPDATE t SET v = 'new' WHERE id = 2")
        assert read(lake).startswith("whole: ")
        assert lake.is_exact(T)
