"""The benchmark's comparison of contents finds what a tool may get wrong; its table says so."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from benchmarks.cost import of_process
from benchmarks.peers import report
from benchmarks.peers.contents import Truth, compare, read_source
from benchmarks.peers.environments import Environment, NotToBeHad, environment
from benchmarks.peers.measuring import CHANGES, FIRST, Line
from benchmarks.peers.tool import Task, Written
from benchmarks.peers.tools import psql
from etl_assets.totesys.demo.generator import Variant

KEYS = {"address": "address_id", "sales_order": "sales_order_id", "currency": "currency_id"}
FILE = Written("duckdb", "copy.duckdb")
ORDERS = "UPDATE sales_order SET"


@pytest.fixture(scope="module")
def truth(
    module_database: Callable[..., str],
    template: Callable[[Variant], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Truth:
    """A small source, as read for the comparison."""
    url = module_database(template("totesys"))
    truth = read_source(url, tmp_path_factory.mktemp("truth"), KEYS)
    task = Task(url, tmp_path_factory.mktemp("psql"), KEYS, first=True)
    subprocess.run(psql.TOOL.program(task, Path()), env=dict(psql.variables(task)), check=True)
    copied = compare(truth, task.folder, psql.TOOL.written)
    assert (copied.differences, copied.rows) == ((), truth.rows)
    return truth


def copy(truth: Truth, folder: Path, *damages: str) -> None:
    """The tables in a DuckDB file, in another order, and then changed."""
    types = {"integer": "INTEGER", "numeric": "DECIMAL(10,2)", "boolean": "BOOLEAN", "timestamp": "TIMESTAMP"}
    with closing(duckdb.connect(str(folder / "copy.duckdb"))) as connection:
        for table, columns in truth.columns.items():
            names = ", ".join(f"'{name}': '{types.get(kind, 'VARCHAR')}'" for name, kind in columns.items())
            connection.execute(
                f"CREATE TABLE {table} AS FROM read_csv('{truth.folder / table}.csv', auto_detect = false, header = true, "
                f"quote = '\"', escape = '\"', allow_quoted_nulls = false, columns = {{{names}}}) ORDER BY random()"
            )
        for damage in damages:
            connection.execute(damage)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param("SELECT 1", "", id="nothing"),
        pytest.param(f"{ORDERS} unit_price = unit_price + 0.01 WHERE sales_order_id = 7", "1 other unit_price", id="value"),
        pytest.param(f"{ORDERS} created_at = date_trunc('second', created_at) WHERE sales_order_id < 4", "3 other created_at", id="precision"),
        pytest.param(
            f"{ORDERS} unit_price = (SELECT unit_price FROM sales_order s WHERE s.sales_order_id = 3 - sales_order.sales_order_id) "
            "WHERE sales_order_id IN (1, 2)", "2 other unit_price", id="values of two rows, each the other's",
        ),
        pytest.param("DELETE FROM sales_order WHERE sales_order_id IN (3, 5)", "2 missing", id="lost rows"),
        pytest.param("INSERT INTO sales_order FROM sales_order WHERE sales_order_id = 3", "1 twice", id="row twice"),
        pytest.param(
            "INSERT INTO sales_order SELECT * REPLACE (100000 AS sales_order_id) FROM sales_order WHERE sales_order_id = 3",
            "1 deleted in the source and kept", id="deleted row",
        ),
        pytest.param(f"{ORDERS} agreed_payment_date = NULL WHERE sales_order_id = 3", "1 other agreed_payment_date", id="null"),
        pytest.param("ALTER TABLE sales_order DROP staff_id", "no column staff_id", id="column"),
        pytest.param("DROP TABLE sales_order", "cannot be read: ", id="table"),
    ],
)  # fmt: skip
def test_what_differs_is_told(truth: Truth, tmp_path: Path, damage: str, told: str) -> None:
    copy(truth, tmp_path, damage)
    found = compare(truth, tmp_path, FILE)
    assert [text[: len("sales_order: " + told)] for text in found.differences] == [
        f"sales_order: {told}"
    ] * bool(told)
    whole = compare(truth, truth.folder, Written("csv", "{table}.csv"))
    assert (found.digest == whole.digest) is not bool(told)


def test_an_empty_text_is_no_null(truth: Truth, tmp_path: Path) -> None:
    copy(truth, tmp_path, "UPDATE address SET address_line_2 = nullif(address_line_2, '')")
    (told,) = compare(truth, tmp_path, FILE).differences
    assert told.endswith(" other address_line_2")


def test_other_types_are_told_although_the_values_are_the_same(truth: Truth, tmp_path: Path) -> None:
    copy(
        truth,
        tmp_path,
        "ALTER TABLE sales_order ALTER unit_price TYPE DOUBLE",
        "ALTER TABLE address ALTER created_at TYPE VARCHAR",
    )
    found = compare(truth, tmp_path, FILE)
    assert (found.differences, sorted(found.types)) == (
        (),
        ["1 × numeric as double", "1 × timestamp as varchar"],
    )


@pytest.mark.parametrize(
    ("deleted", "told"), [(True, ()), (False, ("currency: 1 deleted in the source and kept",))]
)
def test_the_newest_batch_counts(truth: Truth, tmp_path: Path, deleted: bool, told: tuple[str, ...]) -> None:
    header, first, *others = (truth.folder / "currency.csv").read_text().splitlines(keepends=True)
    gone = f"77{first[first.index(',') :]}"
    files = {
        "1.csv": [header, first.replace("GBP", "XXX"), gone, *others],
        "2.csv": [header, first],
        "2.deleted.csv": ["currency_id\n", "77\n"],
    }
    batches = [
        {"rows": {"path": "1.csv"}},
        {"rows": {"path": "2.csv"}, "deletions": {"path": "2.deleted.csv"} if deleted else None},
        None,
    ]
    (tmp_path / "raw/batches").mkdir(parents=True)
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(lines))
    for number, changes in enumerate(batches, 1):
        (tmp_path / f"raw/batches/{number:06}.json").write_text(
            json.dumps({"tables": {"currency": {"changes": changes}}})
        )
    one = replace(truth, columns={"currency": truth.columns["currency"]})
    assert compare(one, tmp_path, Written("batches", ".")).differences == told


def test_table_and_picture_tell_ratios_differences_failures_and_what_is_not_to_be_had(
    truth: Truth, tmp_path: Path
) -> None:
    copy(truth, tmp_path, "DELETE FROM sales_order WHERE sales_order_id = 3")
    verdict = compare(truth, tmp_path, FILE)
    base = Line("2", 1_000_000, FIRST, psql.TOOL.name, 2.0, 3.0, 1 << 20, 10**6, verdict)
    lines = [
        base,
        replace(base, tool="slow", processor=7.5),
        replace(base, case=CHANGES, tool="other", failed="no disk"),
    ]
    there = Environment(Path("python"), ("slow==1",), ("slow==2: no address",))
    table = report.write(
        tmp_path, lines, {replace(psql.TOOL, name="slow"): there}, {psql.TOOL: "no network"}, psql.TOOL.name
    )
    assert "| slow | 2.0 | 7.5 | 7.50 | 2.50 | 1 | 1.0 | **not equal**: sales_order: 1 missing |" in table
    assert "failed: no disk" in table
    assert "slow (slow==1)" in table
    assert "Not to be had: slow==2: no address." in table
    assert "is not to be had here: no network" in table
    assert (tmp_path / report.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_what_no_environment_has_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "duckdb/bin").mkdir(parents=True)
    (tmp_path / "duckdb/bin/python").write_text("#!/bin/sh\necho no network >&2; exit 3\n")
    (tmp_path / "duckdb/bin/python").chmod(0o700)
    pinned = Path(report.__file__).parent / "requirements/duckdb.txt"
    (tmp_path / "duckdb/requirements.txt").write_text(pinned.read_text())
    tool = replace(psql.TOOL, environments=("duckdb",), probe=("-m", "duckdb"))
    with pytest.raises(NotToBeHad, match=r"^duckdb==[\d.]+: no network$"):
        environment(tmp_path, tool, {})


def test_a_tool_that_hangs_is_ended_with_what_it_started() -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="ended with -9"):
        of_process(["sh", "-c", "sleep 60 & sleep 60"], os.environ, os.getpid(), limit_seconds=0.2)
    assert time.monotonic() - began < 30
