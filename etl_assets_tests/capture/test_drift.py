"""The source's tables change their shape between batches and during one: the copy follows exactly, or nothing is written."""

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import Manifest
from etl_assets.raw.landing import take_batch
from etl_assets.raw.plan import SchemaFrozen
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.connection import SourceError
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, connect, execute

T = Table("t", "", {"id": "text"}, key=("id",))
_TWENTY = (
    "CREATE TABLE t (id int PRIMARY KEY, a text, b int)",
    "INSERT INTO t SELECT n, 'x', n FROM generate_series(1, 20) AS n",
)
_ENUM = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TABLE t (id int PRIMARY KEY, a mood, b mood[])",
    "INSERT INTO t VALUES (1, 'sad', '{sad,ok}'), (2, 'ok', '{}'), (3, NULL, NULL)",
)


def begin(lake: Lake, *statements: str) -> None:
    execute(lake.url, *statements)
    assert lake.sync(T)
    assert lake.is_exact(T)


def follow(lake: Lake, statement: str) -> Manifest | None:
    execute(lake.url, statement)
    manifest = lake.sync(T, deletion_brake=1.0)
    assert lake.is_exact(T)
    return manifest


@pytest.mark.fault("F20")
@pytest.mark.many
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE t ADD c text",
        "ALTER TABLE t ADD c text DEFAULT 'no row is rewritten for it'",
        "ALTER TABLE t ADD c timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE t ADD c int GENERATED ALWAYS AS (b * 2) STORED",
        "ALTER TABLE t DROP a",
        "ALTER TABLE t RENAME a TO z",
        "ALTER TABLE t RENAME a TO z; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME z TO b",
        "ALTER TABLE t DROP a; ALTER TABLE t ADD a text; UPDATE t SET a = 'x'",
        "ALTER TABLE t ALTER a SET NOT NULL",
        "ALTER TABLE t ALTER id TYPE bigint; INSERT INTO t VALUES (5000000000)",
        "ALTER TABLE t ALTER id TYPE text; INSERT INTO t VALUES ('abc')",
        "ALTER TABLE t ALTER b TYPE bigint",
        "ALTER TABLE t ALTER b TYPE numeric(10,2)",
        "ALTER TABLE t ALTER b TYPE numeric; UPDATE t SET b = 1.6 WHERE id = 2",
        "ALTER TABLE t ALTER b TYPE text; UPDATE t SET b = '007' WHERE id = 7; UPDATE t SET b = 'x' WHERE id = 3",
        "ALTER TABLE t ALTER b TYPE boolean USING b % 2 = 0",
        "ALTER TABLE t ALTER a TYPE varchar(5)",
        "ALTER TABLE t ALTER a TYPE char(5)",
    ],
)
def test_a_change_of_columns_arrives_with_its_values(lake: Lake, change: str) -> None:
    begin(lake, *_TWENTY)
    manifest = follow(lake, change)
    assert manifest is not None
    assert manifest.tables["t"].why.startswith("its columns changed: ")
    # The price is paid once.
    manifest = follow(lake, "UPDATE t SET b = NULL WHERE id::text = '3'; DELETE FROM t WHERE id::text = '4'")
    assert manifest is not None
    assert manifest.tables["t"].read == "horizon"


@pytest.mark.parametrize("compacted", [False, True])
def test_a_text_column_that_becomes_an_integer_takes_its_values_along(
    lake: Lake, compacted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compacted:
        monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
    begin(
        lake,
        _TWENTY[0],
        "INSERT INTO t VALUES (1, '007', 1), (2, 'was never a number', 1), (3, 'nor this', 1), (4, NULL, 1)",
    )
    follow(lake, "UPDATE t SET a = '8' WHERE id = 2; DELETE FROM t WHERE id = 3")
    follow(lake, "ALTER TABLE t ALTER a TYPE int USING a::int")
    follow(lake, "UPDATE t SET a = 9 WHERE id = 4; INSERT INTO t VALUES (3, 10, 1)")
    follow(lake, "ALTER TABLE t ALTER a TYPE text")
    follow(lake, "UPDATE t SET a = 'none again' WHERE id = 1")


@pytest.mark.fault("F20")
@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("after", ["", "UPDATE t SET b = 0 WHERE id = 1"])
def test_a_column_that_was_dropped_and_comes_back_does_not_bring_its_old_values(
    lake: Lake, compacted: bool, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(lake, *_TWENTY)
    if compacted:
        monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
    follow(lake, f"ALTER TABLE t DROP a; {after}")
    follow(lake, "ALTER TABLE t ADD a text")
    follow(lake, "UPDATE t SET a = 'new' WHERE id = 2")
    lake.forget_bases()
    assert lake.is_exact(T)


@pytest.mark.fault("F20")
@pytest.mark.parametrize(
    ("before", "change"),
    [
        (_TWENTY, "ALTER TABLE t DROP b, ADD b int DEFAULT 7"),
        (_TWENTY, "ALTER TABLE t DROP b, ADD b int"),
        (_ENUM, "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'"),
        (
            (
                "CREATE TYPE mood AS ENUM ('sad', 'ok')",
                "CREATE DOMAIN moods AS mood[]",
                "CREATE TYPE two AS (one int, other moods)",
                "CREATE TABLE t (id int PRIMARY KEY, a two)",
                "INSERT INTO t VALUES (1, '(1,{sad})'), (2, NULL)",
            ),
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        ),
    ],
)
def test_what_changes_values_without_writing_a_row_is_noticed(
    lake: Lake, before: tuple[str, ...], change: str
) -> None:
    begin(lake, *before)
    follow(lake, change)
    assert lake.latest().tables["t"].why.startswith("a column was replaced")
    follow(lake, "INSERT INTO t VALUES (99)")
    assert lake.latest().tables["t"].read == "horizon"


_APART = {
    "partition": (
        "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE part PARTITION OF t FOR VALUES FROM (0) TO (100)",
        "ALTER TABLE t DETACH PARTITION part",
        "ALTER TABLE t ATTACH PARTITION part FOR VALUES FROM (0) TO (100)",
    ),
    "heir": (
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE part (own int) INHERITS (t)",
        "ALTER TABLE part NO INHERIT t",
        "ALTER TABLE part INHERIT t",
    ),
}


@pytest.mark.fault("F20")
@pytest.mark.parametrize("kind", _APART)
def test_a_part_of_a_table_that_was_altered_while_it_was_apart_is_noticed(lake: Lake, kind: str) -> None:
    """Its rows have other values, and are no younger for it."""
    table, part, apart, together = _APART[kind]
    begin(lake, table, part, "INSERT INTO part (id, a) SELECT n, 'x' FROM generate_series(1, 20) n")
    follow(lake, f"{apart}; ALTER TABLE part DROP a, ADD a text DEFAULT 'other'; {together}")
    assert lake.held(T).rows["1", "other"] == 1
    follow(lake, "UPDATE t SET a = 'y' WHERE id = 3")
    assert lake.latest().tables["t"].read == "horizon"


def test_a_virtual_column_whose_expression_changes_is_noticed(lake: Lake) -> None:
    with closing(connect(lake.url)) as connection:
        if connection.server_version < 180000:
            pytest.skip("virtual generated columns came with PostgreSQL 18")
    begin(
        lake,
        "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) VIRTUAL)",
        "INSERT INTO t VALUES (1), (2)",
    )
    follow(lake, "ALTER TABLE t ALTER g SET EXPRESSION AS (id * 3)")


@pytest.mark.fault("F20")
def test_a_new_enum_value_arrives(lake: Lake) -> None:
    begin(lake, *_ENUM)
    execute(lake.url, "ALTER TYPE mood ADD VALUE 'great' BEFORE 'ok'")
    follow(lake, "UPDATE t SET a = 'great' WHERE id = 1")


def test_a_key_that_becomes_an_integer_is_refused_and_nothing_written(lake: Lake) -> None:
    begin(lake, "CREATE TABLE t (id text PRIMARY KEY)", "INSERT INTO t VALUES ('1'), ('x')")
    before = lake.everything()
    execute(lake.url, "DELETE FROM t WHERE id = 'x'; ALTER TABLE t ALTER id TYPE int USING id::int")
    with pytest.raises(SourceError, match="the key id of t has become an integer"):
        lake.sync(T, deletion_brake=1.0)
    assert lake.everything() == before


@pytest.mark.fault("F20")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER TABLE t ADD c int", "c integer added"),
        ("ALTER TABLE t DROP a", "a dropped"),
        ("ALTER TABLE t ALTER b TYPE bigint", "b is bigint, was integer"),
        ("ALTER TABLE t ALTER b SET NOT NULL", "b may no longer be NULL"),
        ("ALTER TABLE t DROP a; ALTER TABLE t ADD a text", "reordered"),
    ],
)
def test_a_frozen_table_stops_the_batch_before_anything_is_written(
    lake: Lake, change: str, told: str
) -> None:
    frozen = Table("t", "", {"id": "int"}, drift="freeze")
    other = Table("other", "", {"id": "int"})
    execute(lake.url, *_TWENTY, "CREATE TABLE other (id int PRIMARY KEY)")
    lake.sync(frozen, other)
    before = lake.everything()
    execute(lake.url, change, "INSERT INTO other VALUES (1)")
    with pytest.raises(SchemaFrozen, match=told):
        lake.sync(frozen, other)
    assert lake.everything() == before


@pytest.mark.fault("F20", "F21")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DROP TABLE t", r"table public.t does not exist \(.*:\d+\)\."),
        (
            'CREATE SCHEMA "Old"; ALTER TABLE t SET SCHEMA "Old"',
            r'does not exist .*; there is one in the schema "Old": is it schema= that differs\?',
        ),
        ("ALTER TABLE t RENAME id TO key", "table t has no column id"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey", "table t has no primary key"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)", "the key of t was id and is now b"),
        ('ALTER TABLE t ADD "A" int', "differ only in case"),
    ],
)
def test_what_can_not_be_carried_on_stops_the_batch_in_one_line(lake: Lake, change: str, told: str) -> None:
    table = Table("t", "", {"id": "int"})
    execute(lake.url, *_TWENTY)
    lake.sync(table)
    before = lake.everything()
    execute(lake.url, change)
    with pytest.raises(SourceError, match=told) as caught:
        lake.sync(table)
    assert "\n" not in str(caught.value)
    assert lake.everything() == before


@pytest.mark.fault("F20")
@pytest.mark.parametrize("again", [False, True])
def test_an_alter_during_a_batch_waits_for_it_and_the_batch_shows_what_was_before(
    database: Callable[..., str], tmp_path: Path, again: bool
) -> None:
    lake = Lake(database(), tmp_path)
    tables = [Table(f"t{n}", "", {"id": "int"}) for n in range(6)]  # more than there are connections
    for table in tables:
        execute(
            lake.url,
            f"CREATE TABLE {table.name} (id int PRIMARY KEY, a int)",
            f"INSERT INTO {table.name} SELECT n, n FROM generate_series(1, 50) AS n",
        )
    if again:
        lake.sync(*tables)
        execute(
            lake.url,
            *[f"UPDATE {t.name} SET a = 0 WHERE id < 9; DELETE FROM {t.name} WHERE id = 9" for t in tables],
        )
    altered = threading.Event()
    told = {}
    altering: list[threading.Thread] = []
    once = threading.Lock()

    def alter() -> None:
        execute(lake.url, *[f"ALTER TABLE {t.name} DROP a, ADD late int DEFAULT 5" for t in reversed(tables)])
        altered.set()

    def progress(table: str, size: int) -> None:
        with once:
            if altering:
                return
            altering.append(threading.Thread(target=alter))
            altering[0].start()
            with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
                waiting = 0
                while not waiting:
                    cursor.execute(
                        "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
                    )
                    ((waiting,),) = cursor.fetchall()
            told["altered"] = altered.is_set()

    manifest = take_batch(CaptureRequest(lake.url, tables, "run"), Batches(lake.files), tmp_path, progress)
    assert manifest is not None
    altering[0].join()
    assert told == {"altered": False}
    for table in tables:
        assert [column.name for column in manifest.tables[table.name].columns] == ["id", "a"]
        held = lake.held(table).rows
        assert sum(int(str(a)) for _, a in held) == (sum(range(9, 51)) - 9 if again else sum(range(1, 51)))
    lake.sync(*tables)
    assert lake.is_exact(*tables)
