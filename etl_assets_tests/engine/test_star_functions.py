"""What a star function may do, and what a change costs then: read from its SQL, or refused with what to write instead.

The cases below are also what `docs/star-functions.md` is made of: `ETL_WRITE_DOCS=1 pytest etl_assets_tests/engine`
writes it.
"""

import inspect
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import pandas as pd
import pytest

from etl_assets.engine.determinism import undetermined
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import ContractError, StarFunction, star_table
from etl_assets.star.schema import Column, Dimension, Fact

DOCUMENT = Path(__file__).parents[2] / "docs" / "star-functions.md"
TABLES = {
    table.name: table
    for table in (
        Table("orders", "", {"order_id": "int", "customer_id": "int?", "shipped": "date?"}),
        Table(
            "order_line",
            "",
            {"order_id": "int", "line_no": "int", "product_id": "int?", "amount": "numeric(10,2)"},
        ),
        Table("product", "", {"product_id": "int", "name": "text", "price": "double?", "tags": "text?"}),
        Table("employee", "", {"id": "int", "name": "text", "boss": "int?", "team": "text"}),
    )
}
INT, TEXT, COUNT, AMOUNT = "int", "text", "bigint", "numeric(38,2)"


@dataclass(frozen=True)
class Case:
    """A function, the columns that it gives (the first ones are the key), and what is said of it."""

    title: str
    function: Callable[..., Any]
    columns: dict[str, str]
    key: Sequence[str]
    outcome: str
    rows: str = "one per row"
    by: Any = None

    def definition(self, *, strict: bool = False) -> StarFunction:
        columns = [Column(name, type_) for name, type_ in self.columns.items()]
        schema = Dimension("made", "", self.key, columns, rows=self.rows, by=self.by, strict=strict)  # type: ignore[arg-type]
        return star_table(schema)(self.function)


def renamed(orders: nw.LazyFrame) -> nw.LazyFrame:
    return orders.select("order_id", nw.col("customer_id").alias("customer"))


def filtered(orders: nw.LazyFrame) -> nw.LazyFrame:
    return orders.filter(~nw.col("shipped").is_null()).select("order_id", "customer_id")


def header_and_line(order_line: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    return order_line.join(orders, on="order_id", how="left").select("order_id", "line_no", "customer_id")


def two_levels(order_line: nw.LazyFrame, orders: nw.LazyFrame, employee: nw.LazyFrame) -> nw.LazyFrame:
    people = employee.select("id", "name")
    return (
        order_line.join(orders, on="order_id", how="left")
        .join(people, left_on="customer_id", right_on="id", how="left")
        .select("order_id", "line_no", "name")
    )


def hierarchy(employee: nw.LazyFrame) -> nw.LazyFrame:
    boss = employee.select(nw.col("id").alias("boss"), nw.col("name").alias("boss_name"))
    return employee.join(boss, on="boss", how="left").select("id", "name", "boss_name")


def window(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.with_columns(nw.col("id").count().over("team").alias("colleagues")).select(
        "id", "colleagues"
    )


def ranked(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.with_columns(nw.col("id").rank("min").over("team").alias("place")).select("id", "place")


def totals(order_line: nw.LazyFrame) -> nw.LazyFrame:
    return order_line.group_by("order_id").agg(nw.col("amount").sum())


def looked_up_totals(orders: nw.LazyFrame, order_line: nw.LazyFrame) -> nw.LazyFrame:
    lines = order_line.group_by("order_id").agg(nw.col("amount").sum())
    return orders.join(lines, on="order_id", how="left").select("order_id", "amount")


def by_what_is_joined(order_line: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    return (
        order_line.join(orders.filter(~nw.col("customer_id").is_null()), on="order_id", how="inner")
        .group_by("customer_id")
        .agg(nw.col("amount").sum())
    )


def semi(orders: nw.LazyFrame, order_line: nw.LazyFrame) -> nw.LazyFrame:
    return orders.join(order_line, on="order_id", how="semi").select("order_id")


def distinct(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.select("team").unique()


def union(employee: nw.LazyFrame, product: nw.LazyFrame) -> nw.LazyFrame:
    return nw.concat(
        [
            employee.select("id", "name", nw.lit("employee").alias("kind")),
            product.select(nw.col("product_id").alias("id"), "name", nw.lit("product").alias("kind")),
        ]
    )


def window_over_all(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.with_columns(nw.col("id").rank("min").alias("place")).select("id", "place")


def one_row(order_line: nw.LazyFrame) -> nw.LazyFrame:
    return order_line.select(nw.len().alias("lines"), nw.col("amount").sum().alias("amount"))


def rolled_up(orders: nw.LazyFrame) -> Any:
    rolled = nw.to_native(orders).aggregate(
        "coalesce(customer_id, 0) AS customer, count(*) AS orders", "ROLLUP (customer_id)"
    )
    return nw.from_native(rolled)


def own_query(employee: nw.LazyFrame) -> Any:
    """The first of each team."""
    query = "SELECT team, id FROM e QUALIFY row_number() OVER (PARTITION BY team ORDER BY id) = 1"
    return nw.from_native(nw.to_native(employee).query("e", query))


def full_join(orders: nw.LazyFrame, employee: nw.LazyFrame) -> nw.LazyFrame:
    joined = orders.join(employee, left_on="order_id", right_on="id", how="full")
    return joined.select(nw.coalesce("order_id", "id").alias("id"), "name")


def cross_join(employee: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    return employee.join(orders, how="cross").select("id", "order_id")


def in_pandas(employee: pd.DataFrame) -> pd.DataFrame:
    return employee.assign(initial=employee["name"].str[:1])[["id", "initial"]]


def in_pandas_by_row(employee: pd.DataFrame) -> pd.DataFrame:
    return employee.assign(initial=employee["name"].str[:1])[["id", "initial"]]


def in_pandas_by_team(employee: pd.DataFrame) -> pd.DataFrame:
    return employee.groupby("team", as_index=False).agg(people=("id", "count"))[["team", "people"]]


def any_row(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.unique(subset=["team"], keep="any").select("team", "name")


def sum_of_floats(product: nw.LazyFrame) -> nw.LazyFrame:
    return product.group_by("tags").agg(nw.col("price").sum())


def deviation(product: nw.LazyFrame) -> nw.LazyFrame:
    return product.group_by("name").agg(nw.col("product_id").std().alias("spread"))


def first_rows(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.select("id", "name").head(10)


def exploded(product: nw.LazyFrame) -> nw.LazyFrame:
    """A row for each of its tags."""
    return product.select("product_id", nw.col("tags").str.split(",")).explode("tags").unique()


def latest(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.group_by("team").agg(nw.col("name").last(order_by="boss"))


def latest_and_alike(employee: nw.LazyFrame) -> nw.LazyFrame:
    return employee.group_by("team").agg(nw.col("name").last(order_by=["boss", "name"]))


def at_the_time(orders: nw.LazyFrame) -> Any:
    return nw.from_native(nw.to_native(orders).project("order_id, current_date - shipped AS days"))


SAID = (
    Case(
        "Columns chosen, renamed, computed",
        renamed,
        {"order_id": INT, "customer": "int?"},
        ["order_id"],
        "by row",
    ),
    Case("A filter", filtered, {"order_id": INT, "customer_id": "int?"}, ["order_id"], "by row", "any"),
    Case(
        "Header joined to its lines",
        header_and_line,
        {"order_id": INT, "line_no": INT, "customer_id": "int?"},
        ["order_id", "line_no"],
        "by key: order_line.key",
    ),
    Case(
        "Two joins in a row",
        two_levels,
        {"order_id": INT, "line_no": INT, "name": "text?"},
        ["order_id", "line_no"],
        "by key: order_line.key",
    ),
    Case(
        "A table joined to itself",
        hierarchy,
        {"id": INT, "name": TEXT, "boss_name": "text?"},
        ["id"],
        "by key: employee.key",
    ),
    Case("A window", window, {"id": INT, "colleagues": COUNT}, ["id"], "by key: employee.team"),
    Case("A rank", ranked, {"id": INT, "place": "bigint"}, ["id"], "by key: employee.team"),
    Case(
        "An aggregate",
        totals,
        {"order_id": INT, "amount": AMOUNT},
        ["order_id"],
        "by key: order_line.order_id",
        "any",
    ),
    Case(
        "An aggregate that is joined",
        looked_up_totals,
        {"order_id": INT, "amount": AMOUNT + "?"},
        ["order_id"],
        "by key: orders.key",
    ),
    Case(
        "An aggregate by a column of what is joined",
        by_what_is_joined,
        {"customer_id": INT, "amount": AMOUNT},
        ["customer_id"],
        "by key: orders.customer_id",
        "any",
    ),
    Case(
        "Rows that have, or have not, others (semi, anti)",
        semi,
        {"order_id": INT},
        ["order_id"],
        "by key: orders.key",
        "any",
    ),
    Case("Distinct rows", distinct, {"team": TEXT}, ["team"], "by key: employee.team", "any"),
    Case(
        "A union",
        union,
        {"id": INT, "name": TEXT, "kind": TEXT},
        ["kind", "id"],
        "by row",
        "any",
    ),
    Case(
        "Rows made of the items of a list (explode)",
        exploded,
        {"product_id": INT, "tags": TEXT},
        ["product_id", "tags"],
        "by key: product.product_id",
        "any",
    ),
    Case(
        "The last of each group in an order, as long as that leaves none of different value side by side",
        latest,
        {"team": TEXT, "name": TEXT},
        ["team"],
        "by key: employee.team",
        "any",
    ),
    Case(
        "The last of each group, in an order that ends with the value itself",
        latest_and_alike,
        {"team": TEXT, "name": TEXT},
        ["team"],
        "by key: employee.team",
        "any",
    ),
    Case(
        "A window over all rows",
        window_over_all,
        {"id": INT, "place": COUNT},
        ["id"],
        "compared whole: a window without PARTITION BY",
    ),
    Case(
        "One row of all",
        one_row,
        {"lines": COUNT, "amount": AMOUNT},
        ["lines"],
        "compared whole: an aggregate without GROUP BY",
        "any",
    ),
    Case(
        "Subtotals (ROLLUP, CUBE, GROUPING SETS)",
        rolled_up,
        {"customer": INT, "orders": COUNT},
        ["customer"],
        "compared whole: several groupings at once",
        "any",
    ),
    Case(
        "A query of its own, in SQL",
        own_query,
        {"team": TEXT, "id": INT},
        ["team"],
        "compared whole: a query of its own (.query)",
        "any",
    ),
    Case(
        "A full join", full_join, {"id": INT, "name": "text?"}, ["id"], "compared whole: a FULL JOIN", "any"
    ),
    Case(
        "A join without an equality",
        cross_join,
        {"id": INT, "order_id": INT},
        ["id", "order_id"],
        "compared whole: a join without an equality",
        "any",
    ),
    Case(
        "pandas, or Arrow",
        in_pandas,
        {"id": INT, "initial": TEXT},
        ["id"],
        "compared whole: it computes its frame in memory, and declares no by=",
    ),
    Case(
        'pandas, declared by="row"',
        in_pandas_by_row,
        {"id": INT, "initial": TEXT},
        ["id"],
        "by row",
        by="row",
    ),
    Case(
        'pandas, declared by="team"',
        in_pandas_by_team,
        {"team": TEXT, "people": COUNT},
        ["team"],
        "by key: team",
        "any",
        by="team",
    ),
)
REFUSED = (
    Case(
        "One of several rows, whichever comes first",
        any_row,
        {"team": TEXT, "name": TEXT},
        ["team"],
        "row_number over rows without an order names any of them: give it an order by the key (order_by=)",
        "any",
    ),
    Case(
        "A sum of floating-point numbers",
        sum_of_floats,
        {"tags": TEXT, "price": "double?"},
        ["tags"],
        "adds up floating-point numbers, whose last digits depend on the order of rows",
        "any",
    ),
    Case(
        "A deviation",
        deviation,
        {"name": TEXT, "spread": "double?"},
        ["name"],
        "is rounded otherwise, or chosen otherwise, when rows come in another order",
        "any",
    ),
    Case(
        "The clock",
        at_the_time,
        {"order_id": INT, "days": "bigint?"},
        ["order_id"],
        "current_date gives something else each time: take it from a column",
    ),
    Case(
        "The first rows of no order",
        first_rows,
        {"id": INT, "name": TEXT},
        ["id"],
        "the first rows of no order are any rows: sort by the key first",
        "any",
    ),
)


# What a query gives that is refused, with what is said of it; and the same written so that it says one thing.
OF_ORDER = "end with the value itself"
ROUNDED = "rounded otherwise, or chosen otherwise"
FLOATS = "adds up floating-point numbers"
CHANGING = "gives something else each time"
BESIDE = "reads what no parameter names"
NOT_ONE_THING = {
    **{f"{name}(price)": FLOATS for name in ("sum", "avg", "mean", "sum(DISTINCT price) + sum")},
    **{f"{name}(amount)": ROUNDED for name in ("fsum", "kahan_sum", "sumkahan", "favg")},
    **{f"{name}(price)": ROUNDED for name in ("stddev", "var_pop", "var_samp", "product", "skewness", "sem", "entropy")},
    "geomean(price)": FLOATS,
    "weighted_avg(amount, price)": FLOATS,
    **{f"{name}(price, product_id)": ROUNDED for name in ("corr", "covar_pop", "regr_slope", "regr_r2", "regr_avgx")},
    **{f"{name}(product_id)": ROUNDED for name in ("mode", "approx_count_distinct", "approx_top_k(product_id, 3), min")},
    "reservoir_quantile(product_id, 0.5)": ROUNDED,
    "list_aggregate([1, 2], 'reservoir_quantile', 0.5)": ROUNDED,
    **{f"{name}(name)": "takes rows in whatever order" for name in ("first", "last", "any_value", "list", "array_agg")},
    "string_agg(name, ',')": "takes rows in whatever order",
    "json_group_array(name)": "takes rows in whatever order",
    "first(name ORDER BY amount)": OF_ORDER,
    "string_agg(name, ',' ORDER BY amount)": OF_ORDER,
    "first(name ORDER BY amount) OVER (PARTITION BY product_id)": OF_ORDER,
    "first_value(name) OVER (PARTITION BY product_id ORDER BY amount)": OF_ORDER,
    "arg_max(name, amount)": "arg_max(name, row(day, name))",
    "max_by(name, row(amount, product_id))": "let the value be part of what it goes by",
    "min_by(name, amount, 2)": "let the value be part of what it goes by",
    "list(name) OVER (PARTITION BY product_id)": "takes rows in whatever order",
    "sum(amount) OVER (ROWS 1 PRECEDING)": "over rows without an order",
    "lag(name) OVER ()": "over rows without an order",
    **{f"age({day})": CHANGING for day in ("day", "min(day)")},
    **{
        f"{now}": CHANGING
        for now in (
            "now()", "current_date", "current_date - CAST(day AS DATE)", "age(localtimestamp, day)", "today()", "current_timestamp", "get_current_timestamp()", "current_localtime()",
            "current_localtimestamp()", "transaction_timestamp()", "random()", "uuid()", "gen_random_uuid()", "uuidv7()",
            "setseed(0.5)", "current_setting('threads')", "current_user", "current_schema()", "current_database()",
            "nextval('numbers')", "getvariable('x')", "txid_current()", "version()", "ago(INTERVAL 1 DAY)",
            "list_transform([1], lambda x: random())",
        )
    },
}  # fmt: skip
ONE_THING = (
    "sum(amount)", "avg(amount)", "avg(product_id)", "count(DISTINCT name)", "median(price)", "quantile_cont(price, 0.5)",
    "max(price)", "bool_or(price > 1)", "histogram(name)", "regr_count(price, amount)", "count(*) FILTER (price > 1)",
    "first(name ORDER BY amount, name)", "list(upper(name) ORDER BY name)", "string_agg(name, ',' ORDER BY name)",
    "first(name ORDER BY amount) OVER (PARTITION BY name)", "arg_max(name, row(amount, name))", "max_by(name, {'a': amount, 'b': name})",
    "first_value(name) OVER (PARTITION BY product_id ORDER BY amount, name)", "sum(amount) OVER ()",
    "count(*) OVER (PARTITION BY name)", "rank() OVER (ORDER BY amount)", "age(day, day)", "list_sum([1, 2])",
    "list_aggregate(['a', 'b'], 'string_agg', '')", "date_trunc('month', day)", "regexp_extract(name, 'a')", "hash(name)",
    "(SELECT min(amount) FROM sale)", "(SELECT name FROM sale WHERE product_id = 1)",
    "EXISTS (SELECT 1 FROM sale AS s WHERE s.product_id = sale.product_id)", "CASE WHEN price > 1 THEN error('high') END",
)  # fmt: skip
OF_ROWS = {
    "FROM sale USING SAMPLE 10%": "a sample is another one each time",
    "FROM sale LIMIT 1": "the first rows of no order",
    "FROM sale POSITIONAL JOIN sale AS other": "a positional join",
    "FROM sale, read_csv('pyproject.toml', columns={'a': 'VARCHAR'}, delim='|')": BESIDE,
    "FROM sale, read_text('pyproject.toml')": BESIDE,
    "FROM sale, glob('*')": BESIDE,
    "FROM sale, duckdb_settings() AS s": BESIDE,
    "FROM sale, information_schema.tables AS t": BESIDE,
    "FROM sale, 'pyproject.toml'": "",
    "FROM sale ORDER BY name LIMIT 1": None,
    "FROM (SELECT * FROM sale ORDER BY name) AS sale LIMIT 1": None,
    "FROM sale, range(3) AS r(i)": None,
    "FROM sale, (VALUES (1), (2)) AS v(i)": None,
}


@pytest.fixture(scope="module")
def sales() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE SCHEMA raw; CREATE SEQUENCE numbers; CREATE TABLE raw.sale (product_id INT, name VARCHAR, "
            "price DOUBLE, amount DECIMAL(10, 2), day TIMESTAMP)"
        )
        yield connection


def refusals(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    return "; ".join(undetermined(connection, f"WITH sale AS (FROM raw.sale) {query}"))


@pytest.mark.fault("F26")
def test_what_gives_another_thing_each_time_is_refused_by_name(sales: duckdb.DuckDBPyConnection) -> None:
    asked = {what: refusals(sales, f"SELECT {what} FROM sale") for what in NOT_ONE_THING}
    assert {w: told for w, told in asked.items() if not told or NOT_ONE_THING[w] not in told} == {}
    asked = {what: refusals(sales, f"SELECT {what} FROM sale") for what in ONE_THING}
    assert {what: told for what, told in asked.items() if told} == {}


@pytest.mark.fault("F26")
@pytest.mark.parametrize("rows", OF_ROWS)
def test_rows_that_nobody_can_name_are_refused(rows: str, sales: duckdb.DuckDBPyConnection) -> None:
    said, told = OF_ROWS[rows], refusals(sales, f"SELECT sale.name {rows}")
    assert told == "" if said is None else told and said in told


def inputs(case: Case, *, strict: bool = False) -> Inputs:
    return Inputs(TABLES, {"made": case.definition(strict=strict)}, {})


@pytest.mark.parametrize("case", SAID, ids=lambda case: case.title)
def test_what_a_change_is_compared_by_is_read_from_the_function(case: Case) -> None:
    made = inputs(case)
    assert made.classified(made.star["made"]) == case.outcome


@pytest.mark.fault("F26")
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.title)
def test_a_function_that_does_not_say_one_thing_is_refused(case: Case) -> None:
    with pytest.raises(ContractError) as refusal:
        inputs(case)
    assert case.outcome in str(refusal.value)


@pytest.mark.parametrize(
    ("query", "by_row"),
    [
        ("SELECT id, upper(name) AS name FROM employee", True),
        ("SELECT id, (SELECT CAST(count(*) AS VARCHAR) FROM employee) AS name FROM employee", False),
        ("SELECT id, CAST(boss IN (SELECT id FROM employee) AS VARCHAR) AS name FROM employee", False),
        ("SELECT id, CAST(EXISTS (SELECT id FROM employee) AS VARCHAR) AS name FROM employee", False),
        ("SELECT id, CAST(EXISTS (FROM employee) AS VARCHAR) AS name FROM employee", False),
        (
            "SELECT id, CAST(id IN (WITH b AS (FROM employee) SELECT boss FROM b) AS VARCHAR) AS name FROM employee",
            False,
        ),
        ("SELECT id, name FROM employee ORDER BY id FETCH FIRST 3 ROWS ONLY", False),
        ("SELECT id, name FROM employee ORDER BY id OFFSET 1", False),
        ("SELECT CAST(max(id) AS INTEGER) AS id, max(name) AS name FROM employee", False),
    ],
)
def test_rows_that_depend_on_others_are_not_taken_to_stand_alone(query: str, by_row: bool) -> None:
    def function(employee: nw.LazyFrame) -> Any:
        return nw.from_native(nw.to_native(employee).query("employee", query))

    made = inputs(Case("", function, {"id": INT, "name": TEXT}, ["id"], ""))
    assert made.by_row(made.star["made"]) == by_row


@pytest.mark.parametrize("case", SAID, ids=lambda case: case.title)
def test_a_table_declared_strict_is_refused_where_it_would_be_compared_whole(case: Case) -> None:
    if case.outcome.startswith("compared whole"):
        with pytest.raises(ContractError, match="declared strict"):
            inputs(case, strict=True)
    else:
        inputs(case, strict=True)


def test_the_document_says_what_the_tests_say() -> None:
    text = "\n".join(_document()) + "\n"
    if os.environ.get("ETL_WRITE_DOCS"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "run ETL_WRITE_DOCS=1 pytest etl_assets_tests/engine"


def _document() -> Iterator[str]:
    yield INTRODUCTION
    for case in SAID:
        yield f"### {case.title}\n\n{_code(case)}\n\n{_told(case.outcome)}\n"
    yield REFUSALS
    for case in REFUSED:
        yield f"### {case.title}\n\n{_code(case)}\n\nRefused: {case.outcome.partition(': annotate')[0]}.\n"
    yield COSTS


def _code(case: Case) -> str:
    source = textwrap.dedent(inspect.getsource(case.function)).rstrip()
    contract = "".join(
        f", {name}={value!r}"
        for name, value in (("rows", case.rows), ("by", case.by))
        if value not in (None, "one per row")
    )
    note = f"# declared with{contract[1:]}\n" if contract else ""
    return f"```python\n{note}{source}\n```"


def _told(outcome: str) -> str:
    how, _, what = outcome.partition(": ")
    if how == "by row":
        return "**By row**: the rows that changed."
    if how == "by key" and what.endswith(".key"):
        return f"**By key** of `{what.removesuffix('.key')}`: the rows of it that a change reaches, by way of what is joined."
    if how == "by key":
        return f"**By key** `{what}`: whole groups, those that a change reaches."
    return f"**Compared whole**, because of {what}."


INTRODUCTION = """\
# What a star function may do, and what it costs

This page is made from the tests: each function on it is one of them.

A star function may do whatever SQL, pandas or Arrow can: join, filter, explode, aggregate, rank. What the warehouse
shows follows one law:

> After every batch, the rows of a star table that are neither deleted nor inferred are exactly what its function gives
> for its inputs as of that batch: of a source table, the rows that its last read found and that fit their declared
> types; of a dimension, its current members; of a fact, its current rows, or all its versions (`versions_of=`, as a
> calendar needs them). A reference file counts as code.

- **What leaves** keeps the values of the batch before, with `deleted` true. A key that returns is the same row again.
- **A fact has a new version** of a key when a column of what the function gives for it differs. If the table has a row
  for each row of its first parameter (`rows="one per row"`, the default) and carries that one's key as its own, it also
  has one whenever the source's row has a new version.
- **A joined row that is in quarantine does not exist** for the function. What it takes along is recorded as deleted;
  when it heals there is a new version.
- **A table declared later** holds, for the batches before it was first read, what it held when it was. That is the one
  exception to the law.
- **A table that can't be shown** (two rows with one key, a required value missing, a function that fails) stays at the
  batch that it shows, and so does what reads or refers to it. The rest is loaded; the run is red and names the input
  whose rows are behind it. When they are mended the next run goes on.

What a change costs follows from the function. Its SQL is read when the definitions are loaded: where that shows what a
change can reach, only those rows are computed, from the old and the new version of each changed row; where it does not,
the function is applied to all rows and the outcome compared. The result is the same. Each run says which it was, and why,
in the metadata of the table (`compared`). `strict=True` makes it an error, when definitions are loaded, if a table would
be compared whole. Before a function is relied upon it is tried on some rows that belong together: the same rows in
other orders must give the same, and rows that come or go, chosen by chance several times, must not change more than is
said or believed. Where there were few rows it is tried again when there are more. A `by=` that is refuted stops the table,
and the run says so; a function that fails on some of the rows says nothing, and is taken by its word.

## What is read from the function
"""
REFUSALS = """\
## What is refused

Two readers must see the same star, and what is made again must be what was made. So a function may not depend on the
order in which rows come, on chance, on the clock, on a setting, nor on a file or table that no parameter names. What its
SQL shows of that is refused when definitions are loaded, and so is an aggregate of which it is not known that the order of
rows is all the same to it: a `mode`, a deviation, a correlation, what is approximate, a sum of floating-point numbers.
What takes one of several rows, or lines rows up (`first`, `last`, `list`, `string_agg`), needs an order. Whether that leaves
rows side by side depends on the data: the function is applied to the same rows in several orders, up to 20,000 of them, again
as there are more, and refused when it gives something else. That finds no tie that is not there yet, so let the order end with
the key, or with the value itself: then rows that it leaves side by side are alike. `arg_max(name, day)` is safe as
`arg_max(name, row(day, name))`. The same holds for windows (`row_number`, `lag`, a running sum), of which 300 rows are tried. (A date
of today that is written into a function as a literal shows nowhere: the star then changes with the code, not with the
day.)
"""
COSTS = """\
## When code changes

A table whose function, contract, types or reference file changed is made again from its first batch on, batch by batch:
data never rewrites history, code does. `etl run --rebuild star/dim_staff` does the same on demand. Where that would mean
going through more than `ETL_REPLAY_BATCHES` batches the table stays as it is, and the run asks: `--replay star/…` makes
it all the same; `--from-now star/…` lets the table begin at the newest batch, now and whenever it is made again, and
gives up what it was before.
"""


# The dimension above stands for a fact too: what is read from a function does not depend on which of them it makes.
def test_a_fact_is_told_the_same() -> None:
    columns = [Column("order_id", INT), Column("line_no", INT), Column("customer_id", "int?")]
    fact = Fact("made", "", ("order_id", "line_no"), columns, record="record_id")
    made = Inputs(TABLES, {"made": star_table(fact)(header_and_line)}, {})
    assert made.classified(made.star["made"]) == "by key: order_line.key"
