"""A column may be called anything: what the lake calls its own columns can't be the name of one of a source."""

from pathlib import Path

import pytest

from etl_assets.engine import duck
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import Current
from etl_assets.source.connection import SourceError
from etl_assets.source.table import Table
from etl_assets.star.build import Builder
from etl_assets.star.definition import Inputs
from etl_assets.star.files import StarFiles
from etl_assets.star.function import star_table
from etl_assets.star.outcome import publish
from etl_assets.star.schema import Column, Fact
from etl_assets_tests.capture.comparing import Lake, execute

_LONGEST = "n" * 63
_NAMES = (
    "__file", "__deleted", "__batch", "__new", "__first", "__refits", "__bucket", "__bits", "__past", "filename", "rowid",
    "file_row_number", "file_index", "hive_partitioning", 'a "quoted" name', "it's", "\N{WORD JOINER}", "\N{WORD JOINER}id",
    "a,b", "%s", "{}", "$1", "new\nline", "misfit", "key", "column", "value", "r", "h", "step_1", "written", _LONGEST,
    "__file".ljust(63, "_"), "__deleted".ljust(63, "_"), "ctid_", "tableoid_", "NULL", "é", "_id", "deleted", "batch",
)  # fmt: skip
_QUOTED = ['"' + name.replace('"', '""') + '"' for name in _NAMES]


@pytest.mark.fault("F33")
def test_columns_of_any_name_arrive_change_and_leave(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("t", "", {"id": "int", **dict.fromkeys(_NAMES, "text?")})
    execute(
        lake.url,
        f"CREATE TABLE t (id int PRIMARY KEY, {', '.join(f'{name} text' for name in _QUOTED)})",
        f"INSERT INTO t SELECT n, {', '.join(f'{i} * n' for i in range(len(_NAMES)))} FROM generate_series(1, 40) n",
    )
    monkeypatch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
    lake.sync(table)
    assert lake.is_exact(table)
    for i, name in enumerate(_QUOTED):
        execute(lake.url, f"UPDATE t SET {name} = 'x' WHERE id = {i % 40 + 1}")
    execute(lake.url, "DELETE FROM t WHERE id = 40")
    manifest = lake.sync(table)
    assert manifest
    assert manifest.tables["t"].read == "horizon"
    assert lake.is_exact(table)
    assert lake.committed(table, whole=True).changed == {}


def test_a_key_of_any_name_finds_its_rows(lake: Lake) -> None:
    for number, name in enumerate(("__deleted", "\N{WORD JOINER}id", "filename", "__batch")):
        table = Table(f"t{number}", "", {name: "int"})
        execute(
            lake.url,
            f'CREATE TABLE t{number} ("{name}" int PRIMARY KEY, id text)',
            f"INSERT INTO t{number} SELECT n, n FROM generate_series(1, 20) n",
        )
        lake.sync(table)
        execute(
            lake.url,
            f'DELETE FROM t{number} WHERE "{name}" = 3; UPDATE t{number} SET id = 0 WHERE "{name}" = 4',
        )
        lake.sync(table)
        assert lake.is_exact(table)


def test_the_star_sees_a_column_beside_a_key_whatever_it_is_called(lake: Lake, tmp_path: Path) -> None:
    joined = "\N{WORD JOINER}id"
    execute(
        lake.url,
        f'CREATE TABLE t (id int PRIMARY KEY, "{joined}" text, "__deleted" boolean)',
        "INSERT INTO t VALUES (1, 'one', true), (2, 'two', false)",
    )
    table = Table("t", "", {"id": "int", joined: "text", "__deleted": "boolean"})

    @star_table(
        Fact(
            "fact_t",
            "",
            "id",
            [Column("id", "int"), Column(joined, "text"), Column("__deleted", "boolean")],
            record="n",
        )
    )
    def fact_t(t):  # type: ignore[no-untyped-def]
        return t.select("id", joined, "__deleted")

    inputs = Inputs({"t": table}, {"fact_t": fact_t}, {})
    for _ in range(2):
        manifest = lake.sync(table)
        assert manifest
        batches = Batches(lake.files)
        with duck.connect(tmp_path) as connection:
            star = StarFiles(lake.files, batches)
            builds = list(Builder(inputs, Current(batches, connection), star, connection).derive(manifest))
            assert [build.failure for build in builds if not build.passed] == []
            publish(star, builds, connection)
            paths = [lake.files.local(path) for path in star.paths(fact_t.schema)]
            rows = (
                duck.read_parquet(connection, paths)
                .order("n")
                .project(f'id, "{joined}", "__deleted"')
                .fetchall()
            )
        execute(lake.url, f"UPDATE t SET \"{joined}\" = 'new' WHERE id = 2")
    assert rows == [(1, "one", True), (2, "two", False), (2, "new", False)]


def test_columns_that_differ_in_case_only_are_refused_until_one_is_left_out(lake: Lake) -> None:
    execute(
        lake.url,
        'CREATE TABLE t (id int PRIMARY KEY, a text, "A" text)',
        "INSERT INTO t VALUES (1, 'x', 'y')",
    )
    execute(lake.url, "CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)")
    batch = lake.sync(Table("t", "", {"id": "int"}), Table("other", "", {"id": "int"}))
    assert batch
    assert list(batch.tables) == ["other"]  # one is left out, and stops none
    with pytest.raises(
        SourceError, match=r"differ only in case \(a, A\): leave all but one out \(exclude=\)"
    ):
        lake.sync(Table("t", "", {"id": "int"}))
    table = Table("t", "", {"id": "int"}, exclude=("A",))
    lake.sync(table)
    assert lake.held(table).rows == {("1", "x"): 1}
