"""What is declared of a function, or read from its SQL, is tried on some rows: what is not so is refused, what is so is
not, and where too few rows told it is tried again."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import numpy as np
import pandas as pd
import pytest

from etl_assets.lake.folder import LocalFiles
from etl_assets.source.table import Table
from etl_assets.star import trial
from etl_assets.star.change import InputChange, hidden
from etl_assets.star.definition import Inputs
from etl_assets.star.function import star_table
from etl_assets.star.schema import Column, Dimension
from etl_assets.star.trial import Refuted, Verdict, tried
from etl_assets_tests.law.cases import Make, asked, changed, described, shown

TABLES = {
    table.name: table
    for table in (
        Table("line", "", {"line_id": "int", "order_id": "int", "day": "int"}),
        Table("orders", "", {"order_id": "int", "customer": "text"}),
    )
}
KEYS = {"line": "line_id", "orders": "order_id"}
ROWS = {
    "line": "SELECT i::int AS line_id, (i * 7 % {orders})::int AS order_id, (i % 9)::int AS day FROM range({lines}) t(i)",
    "orders": "SELECT i::int AS order_id, 'c' || i % 5 AS customer FROM range({orders}) t(i)",
}


@dataclass(frozen=True)
class Trials:
    """A function, and a lake for what is found out about it."""

    connection: duckdb.DuckDBPyConnection
    files: LocalFiles

    def __call__(
        self, function: Callable[..., Any], by: Any, columns: Mapping[str, str], *, lines: int, orders: int
    ) -> Verdict:
        schema = Dimension(
            "made", "", next(iter(columns)), [Column(*c) for c in columns.items()], rows="any", by=by
        )
        inputs = Inputs(TABLES, {"made": star_table(schema)(function)}, {})
        changes = {name: self._rows(name, lines, orders) for name in inputs.star["made"].inputs}
        return tried(inputs.star["made"], inputs, changes, self.connection, self.files)

    def _rows(self, name: str, lines: int, orders: int) -> InputChange:
        key = KEYS[name]
        rows = ROWS[name].format(lines=lines, orders=orders)
        self.connection.execute(
            f'CREATE OR REPLACE TABLE {name} AS SELECT *, {key} AS "{hidden(key)}" FROM ({rows})'
        )
        return InputChange(name, tuple(TABLES[name].types), (hidden(key),), name, size=None)


@pytest.fixture
def trials(tmp_path: Path) -> Iterator[Trials]:
    with duckdb.connect() as connection:
        yield Trials(connection, LocalFiles(tmp_path / "lake"))


def looked_up(line: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    """As people write it who know that each line has its order."""
    who = dict(zip(orders.order_id, orders.customer, strict=True))
    return pd.DataFrame({"line_id": line.line_id, "customer": [who[o] for o in line.order_id]})


def looked_up_among_all(line: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    return looked_up(line, orders).assign(lines=len(line))[["line_id", "lines"]]


def of_all(line: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"line_id": line.line_id, "lines": len(line)})


def of_most(line: pd.DataFrame) -> pd.DataFrame:
    """Rows that have something to do with one another only where there are many."""
    return pd.DataFrame({"line_id": line.line_id, "lines": max(3, len(line))})


def of_orders(line: pd.DataFrame) -> pd.DataFrame:
    return line.groupby("order_id", as_index=False).agg(lines=("line_id", "count"))


def of_days(line: pd.DataFrame) -> pd.DataFrame:
    return line.groupby("day", as_index=False).agg(lines=("line_id", "count"))


def of_chance(line: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {"line_id": line.line_id, "lines": np.random.default_rng().integers(9, size=len(line))}
    )


def numbered(line: nw.LazyFrame) -> nw.LazyFrame:
    """In an order that leaves lines of one day side by side."""
    return line.select("line_id", nw.col("line_id").cum_count().over(order_by="day").alias("lines"))


def joined(line: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    return line.join(orders, on="order_id", how="left").select("line_id", "customer")


def last_line(line: nw.LazyFrame) -> nw.LazyFrame:
    return line.group_by("order_id").agg(nw.col("day").last(order_by="line_id"))


def any_of_the_last(line: nw.LazyFrame) -> nw.LazyFrame:
    """In an order that leaves few lines side by side: of 5,000 none among the first 300."""
    lines = line.with_columns((nw.col("day") // 4).alias("part"))
    return lines.group_by("order_id").agg(nw.col("line_id").last(order_by="part").alias("lines"))


LINES = {"line_id": "int", "lines": "bigint"}
CUSTOMERS = {"line_id": "int", "customer": "text?"}
RIGHT: Mapping[str, tuple[Callable[..., Any], Any, Mapping[str, str]]] = {
    "a lookup that fails where an order is missing, by row": (looked_up, "row", CUSTOMERS),
    "the same, said nothing of": (looked_up, None, CUSTOMERS),
    "the same, by a column of both": (looked_up, "order_id", CUSTOMERS),
    "a group by what is declared": (of_orders, "order_id", {"order_id": "int", "lines": "bigint"}),
    "a join": (joined, None, CUSTOMERS),
    "the last by the key": (last_line, None, {"order_id": "int", "day": "int"}),
}
WRONG: Mapping[str, tuple[Callable[..., Any], Any, Mapping[str, str], str]] = {
    "a count of all, by row": (of_all, "row", LINES, "a change of line reaches further than its by row says"),
    "a count of all, by order": (of_all, "order_id", LINES, "a change of line reaches further than its by key says"),
    "a count of all beside a lookup": (looked_up_among_all, "row", LINES, "reaches further than its by row says"),
    "a group by another column": (
        of_days, "order_id", {"day": "int", "lines": "bigint"}, "reaches further than its by key says"
    ),
    "chance": (of_chance, "row", LINES, "something else when the same rows come in another order"),
    "the last of some side by side": (
        any_of_the_last, None, {"order_id": "int", "lines": "int"}, "let the order end with the value itself"
    ),
    "a number among rows side by side": (numbered, None, LINES, "the same rows come in another order"),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize(("lines", "orders"), [(30, 10), (5_000, 3_000)])
def test_what_is_so_is_believed(case: str, lines: int, orders: int, trials: Trials) -> None:
    function, by, columns = RIGHT[case]
    verdict = trials(function, by, columns, lines=lines, orders=orders)
    assert (verdict.order, verdict.parts) == ("", "")
    assert verdict.rows["line"] == min(lines, 20_000 if function is last_line else 300)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize(("lines", "orders"), [(60, 10), (5_000, 3_000)])
def test_what_is_not_so_is_refused(case: str, lines: int, orders: int, trials: Trials) -> None:
    function, by, columns, why = WRONG[case]
    with pytest.raises(Refuted, match=why):
        trials(function, by, columns, lines=lines, orders=orders)


def test_what_too_few_rows_could_not_tell_is_tried_again(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lines in (0, 1, 3):
        assert trials(of_most, "row", LINES, lines=lines, orders=1).rows == ({"line": lines} if lines else {})
    monkeypatch.setattr(trial, "_known", {})  # another process: what is known is in the lake
    with pytest.raises(Refuted):
        trials(of_most, "row", LINES, lines=40, orders=1)
    with pytest.raises(Refuted):  # for good, however few rows there are later
        trials(of_most, "row", LINES, lines=1, orders=1)


def test_what_was_tried_on_enough_rows_is_not_tried_again(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lines in (40, 79):
        assert trials(
            of_orders, "order_id", {"order_id": "int", "lines": "bigint"}, lines=lines, orders=4
        ).rows == {"line": 40}
    monkeypatch.setattr(trial, "_tried", None)
    trials(of_orders, "order_id", {"order_id": "int", "lines": "bigint"}, lines=79, orders=4)


def test_rows_are_parted_in_several_ways_and_in_others_for_other_code(trials: Trials) -> None:
    """One row depends on one other: a parting that does not come between them shows nothing."""

    def found(number: int) -> bool:
        def made(line: pd.DataFrame) -> pd.DataFrame:
            there = (line.line_id == 1).any()
            shown = [int(there and i == 2) * number for i in line.line_id]
            return pd.DataFrame({"line_id": line.line_id, "lines": shown})

        try:
            trials(made, "row", LINES, lines=9, orders=1)
        except Refuted:
            return True
        return False

    assert sum(map(found, range(1, 7))) >= 4


# -- in a run ----------------------------------------------------------------------------------------------------


@star_table(Dimension("dim_line", "", "line_id", described(line_id="int", customer="text?"), by="order_id"))
def dim_line(line: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    return looked_up(line, orders)


@star_table(Dimension("dim_lie", "", "line_id", described(line_id="int", lines="bigint"), by="row"))
def dim_lie(line: pd.DataFrame) -> pd.DataFrame:
    return of_all(line)


ORDERS = """
    CREATE TABLE orders (order_id int PRIMARY KEY, customer text);
    CREATE TABLE line (line_id int PRIMARY KEY, order_id int REFERENCES orders, day int);
    INSERT INTO orders SELECT n, 'c' || mod(n, 3) FROM generate_series(1, 10) n;
"""


def test_a_function_that_relies_on_a_foreign_key_is_applied(make: Make) -> None:
    lines = "INSERT INTO line SELECT n, 1 + mod(n, 10), 1 FROM generate_series({}, {}) n"
    flow = make(ORDERS + lines.format(1, 30), list(TABLES.values()), dim_line)
    changed(flow, f"UPDATE orders SET customer = 'd' WHERE order_id = 3; {lines.format(31, 90)}")
    asks = "SELECT line_id, customer FROM line JOIN orders USING (order_id)"
    assert shown(flow, "dim_line", "line_id, customer") == asked(flow, asks)


def test_what_is_said_of_a_function_and_is_not_so_is_found_once_there_are_rows(make: Make) -> None:
    flow = make(ORDERS + "INSERT INTO line VALUES (1, 1, 1)", list(TABLES.values()), dim_lie)
    with pytest.raises(AssertionError, match="further than its by row says: declare another") as refusal:
        changed(flow, "INSERT INTO line SELECT n, 1, 1 FROM generate_series(2, 50) n")
    assert "change the function or its declaration" in str(refusal.value)
    assert "in the source" not in str(refusal.value)
