"""A table whose rows can't be told apart is named and left out; the others go on."""

import pytest

from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import Manifest
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest, Notes
from etl_assets.source.connection import SourceError
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute

T = Table("t", "", {"id": "int"})
GOOD = Table("good", "", {"id": "int"})
_GOOD = ("CREATE TABLE good (id int PRIMARY KEY)", "INSERT INTO good SELECT generate_series(1, 5)")


def take(lake: Lake, *tables: Table) -> tuple[Manifest | None, dict[str, str]]:
    """A batch, and why tables were left out."""
    notes = Notes()
    request = CaptureRequest(lake.url, tables, "a test")
    manifest = take_batch(request, Batches(lake.files), lake.folder, lambda table, size: None, notes)
    return manifest, {table: str(why) for table, why in notes.left_out.items()}


def test_a_table_without_a_key_is_left_out_and_the_others_go_on(lake: Lake) -> None:
    execute(lake.url, *_GOOD, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (1)")
    manifest, told = take(lake, T, GOOD)
    assert manifest
    assert set(manifest.tables) == {"good"}
    assert "table t has no primary key: name its key columns in its declaration (key=)" in told["t"]
    assert "declare a view that tells them apart" in told["t"]
    execute(lake.url, "INSERT INTO good VALUES (6)", "DELETE FROM t", "ALTER TABLE t ADD PRIMARY KEY (id)")
    manifest, told = take(lake, T, GOOD)
    assert told == {}
    assert lake.is_exact(T, GOOD)


def test_columns_that_an_index_only_carries_along_are_no_part_of_the_key(lake: Lake) -> None:
    execute(
        lake.url,
        "CREATE TABLE t (id int, a text, PRIMARY KEY (id) INCLUDE (a))",
        "INSERT INTO t VALUES (1, NULL)",
    )
    manifest, told = take(lake, T)
    assert manifest
    assert (told, manifest.tables["t"].key) == ({}, ("id",))
    execute(lake.url, "UPDATE t SET a = 'x'")
    manifest, _ = take(lake, T)
    assert manifest
    assert manifest.changed["t"].deletions is None
    assert lake.is_exact(T)


def test_a_primary_key_that_not_all_partitions_have_yet_is_not_believed(lake: Lake) -> None:
    execute(
        lake.url,
        "CREATE TABLE t (id int NOT NULL, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE part PARTITION OF t FOR VALUES FROM (0) TO (100)",
        "ALTER TABLE ONLY t ADD PRIMARY KEY (id)",
        "INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'z')",
        *_GOOD,
    )
    manifest, told = take(lake, T, GOOD)
    assert manifest
    assert set(manifest.tables) == {"good"}
    assert "1 values of the key of t (id) occur in several rows" in told["t"]
    execute(
        lake.url, "DELETE FROM t WHERE a = 'z'", "ALTER TABLE part ADD PRIMARY KEY (id)",
        "ALTER INDEX t_pkey ATTACH PARTITION part_pkey",
    )  # fmt: skip
    assert take(lake, T, GOOD)[1] == {}
    assert lake.is_exact(T, GOOD)


@pytest.mark.fault("F22")
@pytest.mark.parametrize("begun", [False, True])
def test_a_primary_key_whose_index_is_damaged_is_not_believed(lake: Lake, begun: bool) -> None:
    """As one is whose order is another since the C library was upgraded."""
    execute(
        lake.url,
        *_GOOD,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 20) n",
    )
    if begun:
        assert take(lake, T, GOOD)[1] == {}
    execute(
        lake.url,
        "SET allow_system_table_mods = on; UPDATE pg_index SET indisready = false WHERE indexrelid = 't_pkey'::regclass",
        "INSERT INTO t VALUES (7, 'again')",
        "SET allow_system_table_mods = on; UPDATE pg_index SET indisready = true WHERE indexrelid = 't_pkey'::regclass",
        "INSERT INTO good VALUES (6)",
    )
    manifest, told = take(lake, T, GOOD)
    assert manifest
    assert (
        "1 values of the primary key of t (id) occur in several rows, which its index should not" in told["t"]
    )
    assert ("t" in manifest.tables, manifest.tables["good"].rows) == (begun, 6)
    assert "t" not in manifest.changed
    landed = lake.path.glob("raw/t/*")
    assert [path.name[:6] for path in landed] == (["000001"] if begun else [])
    execute(lake.url, "DELETE FROM t WHERE a = 'again'", "REINDEX TABLE t")
    assert take(lake, T, GOOD)[1] == {}
    assert lake.is_exact(T, GOOD)


@pytest.mark.fault("F22")
def test_a_declared_key_that_rows_share_leaves_its_table_out_and_the_others_go_on(lake: Lake) -> None:
    keyed = Table("t", "", {"id": "int"}, key=("id",))
    execute(lake.url, *_GOOD, "CREATE TABLE t (id int, a int)", "INSERT INTO t VALUES (1, 1), (2, 2)")
    take(lake, keyed, GOOD)
    execute(lake.url, "INSERT INTO t VALUES (2, 3)", "INSERT INTO good VALUES (6)")
    manifest, told = take(lake, keyed, GOOD)
    assert manifest
    assert list(manifest.changed) == ["good"]
    assert "1 values of the key of t (id) occur in several rows or are NULL" in told["t"]
    execute(lake.url, "DELETE FROM t WHERE a = 3", "INSERT INTO t VALUES (3, 3)")
    take(lake, keyed, GOOD)
    assert lake.is_exact(keyed, GOOD)


@pytest.mark.parametrize("level", ["heir", "grandchild"])
def test_a_primary_key_is_not_believed_of_rows_that_heirs_have(lake: Lake, level: str) -> None:
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE heir () INHERITS (t)",
        "CREATE TABLE grandchild () INHERITS (heir)",
        "INSERT INTO t VALUES (1, 'x')",
        f"INSERT INTO {level} VALUES (2, 'y')",
    )
    lake.sync(T)
    assert lake.is_exact(T)
    execute(lake.url, f"INSERT INTO {level} VALUES (1, 'another')")
    with pytest.raises(
        SourceError, match=r"1 values of the key of t \(id\) .* \(tables that inherit from it have rows too\)"
    ):
        lake.sync(T)
    execute(lake.url, f"UPDATE {level} SET id = 3 WHERE a = 'another'")
    lake.sync(T)
    assert lake.is_exact(T)


def test_a_partitioned_table_is_believed_since_its_key_holds_for_all_parts(lake: Lake) -> None:
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE one PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "INSERT INTO t VALUES (1), (2)",
    )
    lake.sync(T)
    assert lake.is_exact(T)
