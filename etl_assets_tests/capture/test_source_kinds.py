"""Everything in PostgreSQL that can be selected from is held exactly, by row version where it has them, else whole."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from etl_assets.lake.manifest import Manifest
from etl_assets.source.connection import SourceError
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, connect, execute
from etl_assets_tests.capture.servers import role
from etl_assets_tests.flow import as_role

T = Table("t", "", {"id": "text"}, key=("id",))
_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/lib/postgres_fdw.so"))


def follow(lake: Lake, *statements: str, table: Table = T) -> Manifest | None:
    """Run statements, sync, and compare."""
    execute(lake.url, *statements)
    manifest = lake.sync(table, deletion_brake=1.0)
    assert lake.is_exact(table)
    return manifest


def reads(lake: Lake, *statements: str, table: Table = T) -> tuple[str, str]:
    """How the table was read after some statements, and why."""
    manifest = follow(lake, *statements, table=table)
    assert manifest is not None
    state = manifest.tables[table.name]
    return state.read, state.why


_BEHIND = (
    "CREATE TABLE behind (id int PRIMARY KEY, a text)",
    "INSERT INTO behind SELECT n, 'x' FROM generate_series(1, 40) AS n",
)
_CHANGES = (
    "UPDATE behind SET a = 'y' WHERE id < 3; DELETE FROM behind WHERE id = 9; INSERT INTO behind VALUES (99)"
)


@pytest.mark.fault("F21")
def test_a_view_is_read_whole_and_compared(lake: Lake) -> None:
    follow(lake, *_BEHIND, "CREATE VIEW t AS SELECT id, upper(a) AS a FROM behind WHERE id <> 7")
    manifest = follow(lake, _CHANGES)
    assert manifest is not None
    state = manifest.tables["t"]
    assert (state.read, state.why) == ("whole", "a view has no row versions to go by")
    assert state.changes
    assert (state.changes.new, state.changes.changed, state.changes.deleted) == (1, 2, 1)
    assert follow(lake) is None


def test_a_view_without_a_declared_key_is_an_error_that_says_so(lake: Lake) -> None:
    execute(lake.url, *_BEHIND, "CREATE VIEW t AS SELECT * FROM behind")
    with pytest.raises(SourceError, match=r"table t has no primary key: name its key columns"):
        lake.sync(Table("t", "", {"id": "int"}))


def test_a_materialized_view_shows_what_it_was_refreshed_to(lake: Lake) -> None:
    follow(lake, *_BEHIND, "CREATE MATERIALIZED VIEW t AS SELECT * FROM behind")
    assert follow(lake, _CHANGES) is None
    assert reads(lake, "REFRESH MATERIALIZED VIEW t") == (
        "whole",
        "a materialized view has no row versions to go by",
    )


@pytest.mark.parametrize("value", ["1", "NULL"])
def test_a_declared_key_that_tells_no_rows_apart_is_refused(lake: Lake, value: str) -> None:
    execute(lake.url, "CREATE TABLE t (id int, a int)", f"INSERT INTO t VALUES (1, 1), ({value}, 2)")
    with pytest.raises(
        SourceError, match=r"1 values of the key of t \(id\) occur in several rows or are NULL"
    ):
        lake.sync(T)
    assert lake.everything() == {}
    assert follow(lake, "DELETE FROM t WHERE a = 2")
    execute(lake.url, f"INSERT INTO t VALUES ({value}, 3)")
    with pytest.raises(SourceError, match="occur in several rows"):
        lake.sync(T)


def test_a_table_with_no_key_but_a_declared_one_is_read_by_row_version(lake: Lake) -> None:
    follow(lake, "CREATE TABLE t (id int, a int)", "INSERT INTO t VALUES (1, 1), (2, 2)")
    assert reads(lake, "UPDATE t SET a = 3 WHERE id = 2; DELETE FROM t WHERE id = 1")[0] == "horizon"


@pytest.mark.fault("F21")
def test_a_partitioned_table_and_rows_that_move_between_partitions(lake: Lake) -> None:
    follow(
        lake,
        "CREATE TABLE t (id int, part int, a text, PRIMARY KEY (id, part)) PARTITION BY RANGE (part)",
        "CREATE TABLE one PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE two (a text, dropped int, part int NOT NULL, id int NOT NULL)",
        "ALTER TABLE two DROP dropped",
        "ALTER TABLE t ATTACH PARTITION two FOR VALUES FROM (10) TO (20)",
        "INSERT INTO t SELECT n, n % 20, 'x' FROM generate_series(1, 60) AS n",
        table=(pair := Table("t", "", {"id": "int", "part": "int"})),
    )
    assert reads(lake, "UPDATE t SET part = part + 10 WHERE part < 3", table=pair)[0] == "horizon"
    assert reads(lake, "UPDATE t SET a = 'y' WHERE part IN (4, 14)", table=pair)[0] == "horizon"
    detached = reads(lake, "ALTER TABLE t DETACH PARTITION two", table=pair)
    assert detached == ("whole", "its partitions changed")
    attached = reads(lake, "ALTER TABLE t ATTACH PARTITION two FOR VALUES FROM (10) TO (20)", table=pair)
    assert attached == ("whole", "its partitions changed")
    exchange = (
        "ALTER TABLE t DETACH PARTITION two; CREATE TABLE three PARTITION OF t FOR VALUES FROM (10) TO (20);"
        "INSERT INTO three SELECT id, part, 'z' FROM two"
    )
    assert reads(lake, exchange, table=pair)[1] == "its partitions changed"
    assert reads(lake, "DELETE FROM t WHERE id = 44", table=pair)[0] == "horizon"


def test_a_partition_on_its_way_out_is_none(lake: Lake) -> None:
    """Its rows are not seen any more. Back again they are as old as they were, and as many may have gone."""
    follow(
        lake,
        "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE one PARTITION OF t FOR VALUES FROM (1) TO (11)",
        "CREATE TABLE two PARTITION OF t FOR VALUES FROM (11) TO (21)",
        "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 20) n",
    )
    with closing(connect(lake.url)) as reader, reader.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM t")
        with pytest.raises(psycopg2.errors.QueryCanceled):
            execute(
                lake.url, "SET statement_timeout = '200ms'", "ALTER TABLE t DETACH PARTITION two CONCURRENTLY"
            )
        assert reads(lake) == ("whole", "its partitions changed")
    execute(lake.url, "ALTER TABLE t DETACH PARTITION two FINALIZE", "DELETE FROM t")
    back = "ALTER TABLE t ATTACH PARTITION two FOR VALUES FROM (11) TO (21)"
    assert reads(lake, back) == ("whole", "its partitions changed")


def test_a_table_shows_the_rows_of_its_heirs(lake: Lake) -> None:
    follow(
        lake,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE heir (more int) INHERITS (t)",
        "CREATE TABLE grandchild () INHERITS (heir)",
        "INSERT INTO t VALUES (1, 'x')",
        "INSERT INTO heir VALUES (2, 'y', 0)",
        "INSERT INTO grandchild VALUES (3, 'z', 0)",
    )
    assert reads(lake, "UPDATE grandchild SET a = 'new'; DELETE FROM heir WHERE id = 2")[0] == "horizon"
    disowned = reads(lake, "ALTER TABLE grandchild NO INHERIT heir")
    assert disowned == ("whole", "its partitions changed")


def test_row_security_that_shows_other_rows_is_followed(lake: Lake) -> None:
    execute(
        lake.url,
        *_BEHIND,
        "CREATE TABLE t (id int PRIMARY KEY, tenant int)",
        "INSERT INTO t SELECT n, n % 2 FROM generate_series(1, 40) AS n",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON t USING (tenant = 0)",
    )
    with role(lake) as ours:
        ours.sync(T)
        assert ours.is_exact(T)
        execute(lake.url, "ALTER POLICY mine ON t USING (tenant = 1)")
        ours.sync(T, deletion_brake=1.0)
        assert ours.is_exact(T)
        assert ours.latest().tables["t"].why == "row security decides which of its rows are seen"


@pytest.mark.fault("F21")
def test_rows_that_a_policy_hid_arrive_when_it_is_gone_though_as_many_went(lake: Lake) -> None:
    """They are as old as before, and the count is the same."""
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 40) AS n",
        "CREATE POLICY early ON t USING (id <= 20); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    )
    with role(lake) as ours:
        ours.sync(T)
        assert ours.is_exact(T)
        execute(lake.url, "ALTER TABLE t DISABLE ROW LEVEL SECURITY", "DELETE FROM t WHERE id <= 20")
        ours.sync(T, deletion_brake=1.0)
        assert ours.is_exact(T)
        assert "or row security no longer decides" in ours.latest().tables["t"].why
        execute(lake.url, "UPDATE t SET a = 'y' WHERE id = 30")
        assert ours.committed(T).tables["t"].read == "horizon"
        assert ours.is_exact(T)


def test_a_partition_that_is_kept_in_another_way_has_its_table_read_whole(lake: Lake) -> None:
    """Of rows that are no heap's nobody knows what their versions say."""
    follow(
        lake,
        "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler",
        "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE near PARTITION OF t FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE far PARTITION OF t FOR VALUES FROM (100) TO (200) USING other",
        "INSERT INTO t VALUES (1, 'x'), (101, 'x')",
    )
    assert reads(lake, "UPDATE t SET a = 'y'") == ("whole", "its storage has no row versions to go by")


def test_a_role_that_may_not_read_a_table_gets_one_line(lake: Lake) -> None:
    name = f"stranger_{os.getpid()}"
    execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY)", f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    try:
        stranger = Lake(as_role(lake.url, name, "x"), lake.folder)
        with pytest.raises(SourceError, match="table t may not be read by this role: grant SELECT on it"):
            stranger.sync(T)
    finally:
        execute(lake.url, f"DROP ROLE {name}")


@pytest.mark.fault("F21")
@pytest.mark.many
@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("VACUUM (FULL) t", "horizon"),
        ("CLUSTER t USING t_pkey", "horizon"),
        ("VACUUM (FREEZE) t", "horizon"),
        ("ALTER TABLE t SET UNLOGGED", "horizon"),
        ("ALTER TABLE t ALTER a TYPE text USING a || '!'", "horizon"),
        ("CREATE TABLE u AS TABLE t; DROP TABLE t; ALTER TABLE u RENAME TO t; ALTER TABLE t ADD PRIMARY KEY (id)", "whole"),
        ("BEGIN; CREATE TEMP TABLE u AS TABLE t; TRUNCATE t; INSERT INTO t TABLE u; COMMIT", "horizon"),
        ("SELECT pg_current_xact_id()", "horizon"),
    ],
)  # fmt: skip
def test_a_rewritten_table_is_held_exactly(lake: Lake, change: str, read: str) -> None:
    follow(
        lake,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 50) n",
    )
    execute(lake.url, "UPDATE t SET a = 'y' WHERE id < 5", "DELETE FROM t WHERE id = 50")
    assert reads(lake, change)[0] == read
    assert reads(lake, "DELETE FROM t WHERE id = 7; UPDATE t SET a = 'z' WHERE id = 8")[0] == "horizon"


@pytest.mark.fault("F21")
def test_a_table_without_rows_or_with_nothing_but_a_key_is_held(lake: Lake) -> None:
    assert follow(lake, "CREATE TABLE t (id int PRIMARY KEY)")
    assert follow(lake) is None
    assert follow(lake, "INSERT INTO t VALUES (1), (0), (-1)")
    assert follow(lake, "DELETE FROM t WHERE id = 0")
    assert follow(lake, "TRUNCATE t")
    assert follow(lake, "INSERT INTO t VALUES (0)")


@pytest.mark.fault("F33")
def test_odd_names_are_only_names(lake: Lake) -> None:
    name = 'we;ird ""T\'%s é🧾'
    table = Table(name.replace('""', '"'), "", {'k"; DROP TABLE x': "int"}, schema="Od d")
    follow(
        lake,
        'CREATE SCHEMA "Od d"',
        f'CREATE TABLE "Od d"."{name}" ("k""; DROP TABLE x" int PRIMARY KEY, "a,b" text, " " text, "line\nbreak" text,'
        ' "bits" int, bucket int, "%s {} {0}" text, r int, h int, key int, batch int, deleted int, "select" int)',
        f"INSERT INTO \"Od d\".\"{name}\" SELECT n, 'a', 'b', 'c', n FROM generate_series(1, 9) n",
        table=table,
    )
    change = f'UPDATE "Od d"."{name}" SET bits = 0, "%s {{}} {{0}}" = 1 WHERE r IS NULL AND bits = 3'
    assert reads(lake, change, f'DELETE FROM "Od d"."{name}" WHERE bits = 5', table=table)[0] == "horizon"


@pytest.mark.many
@pytest.mark.parametrize("type_", ["bigint", "integer", "smallint", "numeric", "text"])
def test_deleted_keys_at_the_edges_of_buckets_are_found_one_by_one(lake: Lake, type_: str) -> None:
    keys = [-33, -32, -31, -1, 0, 1, 31, 32, 33, 63, 64]
    keys += {
        "bigint": [2**62, 2**63 - 1, -(2**63)],
        "integer": [2**31 - 1, -(2**31)],
        "smallint": [2**15 - 1, -(2**15)],
    }.get(type_, [])
    values = ", ".join(f"('{key}')" for key in keys)
    follow(lake, f"CREATE TABLE t (id {type_} PRIMARY KEY)", f"INSERT INTO t VALUES {values}")
    for key in keys[::2]:
        manifest = follow(lake, f"DELETE FROM t WHERE id = '{key}'")
        assert manifest is not None
        assert manifest.tables["t"].read == "horizon"
        assert manifest.changed["t"].deleted == 1
    assert follow(lake, f"DELETE FROM t WHERE id <> '{keys[1]}'")


def test_text_keys_of_every_kind_are_found_when_deleted_or_changed(lake: Lake) -> None:
    nasty = [
        "",
        " ",
        "a",
        "A",
        "a ",
        "'",
        '"',
        '""',
        ",",
        "\n",
        "\r",
        "\r\n",
        "\\.",
        "NULL",
        "é",
        "e\u0301",
        "🧾",
        "\ufeff",
    ]
    execute(lake.url, "CREATE TABLE t (id text PRIMARY KEY, a int)")
    with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
        for key in nasty:
            cursor.execute("INSERT INTO t VALUES (%s, 0)", (key,))
        follow(lake)
        for key in nasty[::3]:
            cursor.execute("DELETE FROM t WHERE id = %s", (key,))
        for key in nasty[1::3]:
            cursor.execute("UPDATE t SET a = 1 WHERE id = %s", (key,))
    manifest = follow(lake)
    assert manifest is not None
    changes = manifest.changed["t"]
    assert (changes.new, changes.changed, changes.deleted) == (0, len(nasty[1::3]), len(nasty[::3]))


def test_two_tables_of_one_name_in_two_schemas_are_refused(lake: Lake) -> None:
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)",
    )
    with pytest.raises(SourceError, match="t is declared twice"):
        lake.sync(T, Table("t", "", {"id": "int"}, schema="s"))


@pytest.fixture(scope="module")
def debian(postgres_folder: Path) -> Iterator[str]:
    """A server with foreign data wrappers, which the wheel's has not."""
    if not _DEBIAN:
        pytest.skip("no PostgreSQL with postgres_fdw is installed")
    binaries = _DEBIAN[-1].parent.parent / "bin"
    with serve(postgres_folder / "debian", binaries=binaries, settings={"fsync": "off"}) as url:
        yield url


def test_foreign_tables_and_partitions_are_read_whole(debian: str, tmp_path: Path) -> None:
    port = debian.rsplit(":", 1)[1].split("/")[0]
    execute(
        debian,
        *_BEHIND,
        "CREATE TABLE behind2 (id int, a text)",
        "INSERT INTO behind2 SELECT n, 'old' FROM generate_series(2001, 2040) AS n",
        "CREATE EXTENSION postgres_fdw",
        f"CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname 'postgres')",
        f"CREATE USER MAPPING FOR postgres SERVER self OPTIONS (user 'postgres', password '{urlsplit(debian).password}')",
        "CREATE FOREIGN TABLE t (id int, a text) SERVER self OPTIONS (table_name 'behind')",
        "CREATE TABLE parts (id int, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE near PARTITION OF parts FOR VALUES FROM (0) TO (1000)",
        "CREATE FOREIGN TABLE far PARTITION OF parts FOR VALUES FROM (2000) TO (3000) SERVER self OPTIONS (table_name 'behind2')",
        "INSERT INTO near SELECT n, 'x' FROM generate_series(1, 40) n",
    )
    parts = Table("parts", "", {"id": "int"}, key=("id",))
    lake = Lake(debian, tmp_path)
    lake.sync(T, parts)
    assert lake.is_exact(T, parts)
    execute(
        debian,
        _CHANGES,
        "UPDATE behind2 SET a = 'new' WHERE id = 2003",
        "DELETE FROM behind2 WHERE id = 2004",
    )
    lake.sync(T, parts)
    assert lake.is_exact(T, parts)
    assert {state.why for state in lake.latest().tables.values()} == {
        "a foreign table has no row versions to go by"
    }
