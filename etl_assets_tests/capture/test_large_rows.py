"""Rows of hundreds of megabytes pass, larger ones are named before anything lands, and a column can be left out."""

import hashlib
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etl_assets.engine import duck
from etl_assets.engine.preview import markdown
from etl_assets.engine.types import Type
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import _BY_HASH
from etl_assets.proof import landed
from etl_assets.proof.landed import landed_table
from etl_assets.raw import sizes
from etl_assets.raw.sizes import TooLarge
from etl_assets.source.connection import SourceError
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, connect, execute

T = Table("t", "", {"id": "int"})
_MANY = 17 * 1024 * 1024


@pytest.mark.fault("F18")
def test_rows_of_many_megabytes_arrive_change_and_leave(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both a text that is declared and bytes that nobody declared, each beyond what DuckDB reads as a line."""
    monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 2)
    table = Table("t", "", {"id": "int", "a": "text?"})
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text, b bytea)",
        f"INSERT INTO t VALUES (1, repeat('x', {_MANY}), NULL), (2, 'small', decode(repeat('ab', {_MANY // 2}), 'hex'))",
    )
    first = lake.sync(table)
    assert first
    assert first.changed["t"].rows
    assert first.changed["t"].rows.longest_row > _MANY
    assert lake.sync(table) is None
    assert held(lake) == said(lake)
    execute(
        lake.url, f"UPDATE t SET a = repeat('y', {_MANY + 1}) WHERE id = 1; INSERT INTO t VALUES (3, 'z')"
    )
    assert lake.sync(table)
    assert held(lake) == said(lake)
    execute(lake.url, "DELETE FROM t WHERE id = 2; UPDATE t SET a = 'small again' WHERE id = 1")
    last = lake.sync(table, deletion_brake=1.0)
    assert last
    assert held(lake) == said(lake)
    assert lake.committed(table, whole=True).changed == {}
    with duck.connect(lake.folder) as connection:
        again = landed_table(table, first, Batches(lake.files), connection, lake.folder)
        assert (again.rows, again.misfits) == (2, 0)


def said(lake: Lake) -> list[tuple[object, ...]]:
    with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM t LIMIT 0")
        values = ", ".join(f"md5({c.name}::text)" for c in (cursor.description or ())[1:])
        cursor.execute(f"SELECT id, {values} FROM t ORDER BY id")
        return cursor.fetchall()


def held(lake: Lake) -> list[tuple[object, ...]]:
    rows = sorted(lake.held("t").rows, key=lambda row: int(str(row[0])))
    return [(int(str(row[0])), *map(digest, row[1:])) for row in rows]


def digest(text: str | None) -> str | None:
    return None if text is None else hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("a text", "repeat('x', 3 << 20)"),
        ("a bytea", "decode(repeat('00', 3 << 19), 'hex')"),
        ("a jsonb", "jsonb_build_array(repeat('x', 3 << 20))"),
        ("a text[]", "ARRAY[(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 3 << 15) n)]"),
    ],
)
def test_a_row_that_is_too_large_is_named_before_anything_lands(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, column: str, value: str
) -> None:
    monkeypatch.setattr(sizes, "MAX_ROW_BYTES", 2 << 20)
    monkeypatch.setattr(sizes, "_KEPT_ELSEWHERE_BYTES", 1 << 13)
    execute(lake.url, f"CREATE TABLE t (id int PRIMARY KEY, {column})", "INSERT INTO t VALUES (1, NULL)")
    lake.sync(T)
    before = lake.everything()
    execute(lake.url, f"INSERT INTO t SELECT 7, {value}")
    with pytest.raises(TooLarge, match=r"row \(7\) of t is too large: its column a alone has 3 MiB, and a row may have 2 MiB; "
                       r"leave it out in the table's declaration \(exclude=\('a',\)\)"):  # fmt: skip
        lake.sync(T)
    assert lake.everything() == before
    lake.sync(Table("t", "", {"id": "int"}, exclude=("a",)))
    assert lake.held("t").rows == {("1",): 1, ("7",): 1}


@pytest.mark.slow
@pytest.mark.fault("F38")
def test_a_row_that_the_server_can_not_even_write_is_named_too(lake: Lake) -> None:
    """Of a control character JSON makes six characters, and the server writes no text of more than a gigabyte."""
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text, b jsonb)",
        "INSERT INTO t VALUES (1, 'x', NULL), (7, 'y', to_jsonb(repeat(chr(1), 180000000)))",
    )
    with pytest.raises(
        TooLarge,
        match=r"a row of t is too large: the server can't write it .* is the b of \(7\)\); leave it out .*'b'",
    ):
        lake.sync(T)
    assert lake.everything() == {}


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_row_of_a_view_that_is_too_large_is_named_too(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(sizes, "MAX_ROW_BYTES", 2 << 20)
    monkeypatch.setattr(sizes, "_KEPT_ELSEWHERE_BYTES", 1 << 13)
    execute(lake.url, f"CREATE {kind} t AS SELECT 7 AS id, repeat('x', 3 << 20) AS a")
    with pytest.raises(TooLarge, match=r"row \(7\) of t is too large: its column a alone has 3 MiB"):
        lake.sync(Table("t", "", {"id": "int"}, key=("id",)))
    assert lake.everything() == {}


def test_values_for_the_star_that_are_too_large_together_for_the_memory_are_named_too(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duck, "memory_bytes", lambda: 3 * 30 << 20)
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
        f"INSERT INTO t SELECT n, repeat('x', {_MANY} + n), NULL FROM generate_series(1, 2) n",
    )
    with pytest.raises(
        TooLarge,
        match=r"34 MiB of them together, and with this memory they may have 30 MiB \(the column a of \(2\) has",
    ):
        lake.sync(Table("t", "", {"id": "int", "a": "text?"}))
    assert lake.everything() == {}


@pytest.mark.fault("F38")
@pytest.mark.parametrize("size", [8, pytest.param(1 << 18, marks=pytest.mark.slow)])
def test_large_values_that_the_star_has_no_use_for_may_be_more_than_the_memory(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Also such as are written with quotes and line breaks in them, or begin as what stands for them elsewhere. The short form
    takes what is small for large."""
    if size == 8:
        for module in ("engine.pieces", "lake.current", "raw.controls"):
            monkeypatch.setattr(f"etl_assets.{module}.are_long", lambda size, rows, longest: rows > 0)
        monkeypatch.setattr("etl_assets.engine.pieces.MAX_LINE_BYTES", 100)
        monkeypatch.setattr("etl_assets.lake.current._LONG_BYTES", 20)
        monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 2)
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text, b json, c bytea)",
        f"""INSERT INTO t SELECT n, repeat(E'x",\n""', {size}), to_json(repeat('"', 4 * {size})), decode(repeat('0a', {size}), 'hex')
            FROM generate_series(1, 9) n""",
        f"INSERT INTO t VALUES (17, '{_BY_HASH}'), (18, '')",
    )

    def sync(**options: Any) -> tuple[int, int, int] | None:
        with monkeypatch.context() as patch:
            if size > 8:
                patch.setattr(duck, "memory_bytes", lambda: 90 << 20)
            taken = lake.sync(T, deletion_brake=1.0, **options)
        brought = taken.changed.get("t") if taken else None
        return (brought.new, brought.changed, brought.deleted) if brought else None

    assert sync() == (11, 0, 0)
    assert held(lake) == said(lake)
    assert sync() is None
    execute(
        lake.url,
        "UPDATE t SET a = a || '.' WHERE id IN (2, 17); UPDATE t SET a = a WHERE id = 3; DELETE FROM t WHERE id = 5",
        "UPDATE t SET c = NULL WHERE id = 4; INSERT INTO t SELECT 19, a, b, c FROM t WHERE id = 1",
    )
    assert sync() == (1, 3, 1)
    assert held(lake) == said(lake)
    assert sync(whole=True) is None
    execute(lake.url, "UPDATE t SET a = 'small', b = NULL, c = NULL")
    assert sync() == (0, 11, 0)
    assert held(lake) == said(lake)
    assert not list(lake.path.glob("current/t/*"))


def test_bytes_are_verified_in_memory_of_their_own_size() -> None:
    """An expression whose group repeats took 75 bytes for each."""
    text = pa.array(["\\x" + "ab" * (1 << 20), "\\xab0", "\\xAB", "\\x a", None])
    tracemalloc.start()
    try:
        values = landed._convert(Type("bytea"), "bytea", text)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.to_pylist() == [b"\xab" * (1 << 20), None, None, None, None]
    assert most < 6 * (2 << 20)


@pytest.mark.parametrize("value", ["word " * (1 << 20), b"\x00" * (4 << 20)])
def test_a_preview_looks_at_the_begin_of_a_long_value(value: str | bytes) -> None:
    tracemalloc.start()
    try:
        shown = markdown(["a"], [[value]])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shown.splitlines()[-1].strip("| `") == markdown(["a"], [[value[:200]]]).splitlines()[-1].strip(
        "| `"
    )
    assert most < 1 << 20


def test_a_column_that_is_left_out_is_nowhere_in_the_lake(lake: Lake) -> None:
    secret = "hunter2-Zaphod"
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, ssn text, a text)",
        f"INSERT INTO t VALUES (1, '{secret}', 'x')",
    )
    table = Table("t", "", {"id": "int", "a": "text"}, exclude=("ssn",))
    lake.sync(table)
    execute(lake.url, f"UPDATE t SET ssn = ssn || '!'; INSERT INTO t VALUES (2, '{secret}', 'y')")
    lake.sync(table)
    assert lake.held(table).columns == ("id", "a")
    assert lake.held(table).rows == {("1", "x"): 1, ("2", "y"): 1}
    assert not any(secret.encode() in content for content in lake.everything().values())


def test_a_column_to_leave_out_that_there_is_not_is_an_error(lake: Lake) -> None:
    execute(lake.url, "CREATE TABLE t (id int PRIMARY KEY, ssn text)", "INSERT INTO t VALUES (1, 'x')")
    with pytest.raises(SourceError, match=r"table t has no column sssn to leave out \(exclude=\)"):
        lake.sync(Table("t", "", {"id": "int"}, exclude=("sssn",)))
    with pytest.raises(SourceError, match="its key id is to be left out"):
        lake.sync(Table("t", "", {"ssn": "text"}, exclude=("id",)))
    with pytest.raises(ValueError, match=r"\['ssn'\] can't be left out \(exclude=\) and used"):
        Table("t", "", {"id": "int", "ssn": "text"}, exclude=("ssn",))
    with pytest.raises(ValueError, match="exclude"):
        Table("t", "", {"id": "int"}, exclude="ssn")


# -- memory ----------------------------------------------------------------------------------------------------------

_MIB = 1 << 20


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{512 * _MIB}\n"}, 256),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{300 * _MIB}\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 150),
        ({"proc/self/cgroup": "0::/../outside\n", "sys/fs/cgroup/memory.max": f"{400 * _MIB}\n"}, 200),
        ({"proc/self/cgroup": "4:memory:/docker/x\n2:cpu:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{600 * _MIB}\n"}, 300),
        ({"proc/self/cgroup": "9:cpu,memory:/k\n", "sys/fs/cgroup/memory/k/memory.limit_in_bytes": f"{100 * _MIB}\n"}, 50),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_limit_of_a_container_is_the_one_that_counts(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    expected = duck.memory_bytes(tmp_path / "nothing") if limit is None else limit * _MIB
    assert duck.memory_bytes(tmp_path) == expected
