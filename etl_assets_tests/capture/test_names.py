"""Tables that are called otherwise in the project than in the source: any name, in any schema."""

from pathlib import Path

import pytest

from etl_assets.source.position import read_position
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, execute

_NAMES = (
    "Order Details",
    "class",
    "select",
    'quo"ted',
    "größe",
    "a-b",
    "UPPER",
    "x" * 63,
    "a/b",
    ".hidden",
    "t[1]",
)


@pytest.mark.fault("F33")
@pytest.mark.many
@pytest.mark.parametrize("name", _NAMES)
def test_a_table_of_any_name_is_read_as_the_project_calls_it(lake: Lake, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    execute(
        lake.url,
        f"CREATE TABLE {quoted} (id int PRIMARY KEY, v numeric(10,2))",
        f"INSERT INTO {quoted} SELECT n, n FROM generate_series(1, 20) n",
    )
    table = Table(name, "", {"id": "int", "v": "numeric(10,2)?"}, as_="ours")
    assert (table.name, table.source_name) == ("ours", name)
    first = lake.sync(table)
    assert first
    assert list(first.tables) == ["ours"]
    before = read_position(lake.url, [table])
    execute(lake.url, f"UPDATE {quoted} SET v = 7.5 WHERE id = 3", f"DELETE FROM {quoted} WHERE id = 4")
    second = lake.sync(table)
    assert second
    assert second.tables["ours"].read == "horizon"
    assert second.changed["ours"].changed == second.changed["ours"].deleted == 1
    assert lake.is_exact(table)
    assert before.tables.keys() == {"ours"}


def test_tables_of_one_name_in_two_schemas_are_told_apart(lake: Lake, tmp_path: Path) -> None:
    execute(
        lake.url,
        "CREATE SCHEMA eu; CREATE SCHEMA us",
        "CREATE TABLE eu.sale (id int PRIMARY KEY); INSERT INTO eu.sale VALUES (1)",
        "CREATE TABLE us.sale (id int PRIMARY KEY); INSERT INTO us.sale VALUES (1), (2)",
    )
    eu = Table("sale", "", {"id": "int"}, schema="eu", as_="sale_eu")
    us = Table("sale", "", {"id": "int"}, schema="us", as_="sale_us")
    lake.sync(eu, us)
    assert {name: state.rows for name, state in lake.latest().tables.items()} == {"sale_eu": 1, "sale_us": 2}
    position = read_position(lake.url, [eu, us])
    execute(lake.url, "INSERT INTO us.sale VALUES (3)")
    assert lake.sync(eu, us)
    assert set(lake.latest().changed) == {"sale_us"}
    assert lake.is_exact(eu, us)
    assert position.tables.keys() == {"sale_eu", "sale_us"}
