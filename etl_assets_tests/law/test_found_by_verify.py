"""What makes the cases of `test_star_cases` come out right, taken out: verification says which table, and which rows."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from unittest import mock

import narwhals as nw
import pytest

from etl_assets.source.table import Table
from etl_assets.star import application, frames, reach
from etl_assets.star.course import Course
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.reach import Reach
from etl_assets.star.schema import Dimension, Fact
from etl_assets_tests.flow import execute
from etl_assets_tests.law import test_star_cases as cases
from etl_assets_tests.law.cases import Make, described
from etl_assets_tests.law.test_law import unguarded
from etl_assets_tests.law.test_mistakes import MISTAKES_IN_REACH, mistaken


@star_table(Dimension("dim_product", "", "sku", described(sku="text", name="text")))
def dim_product(product: nw.LazyFrame) -> nw.LazyFrame:
    return product.select("sku", "name")


@star_table(Fact("fact_invoice", "", "number", described(number="text", total="int"), record="record_id"))
def fact_invoice(invoice: nw.LazyFrame) -> nw.LazyFrame:
    return invoice.select("number", "total")


@dataclass(frozen=True)
class Taken:
    """A case, its change, what is taken out meanwhile; and what a difference has to say."""

    source: str
    tables: tuple[Table, ...]
    star: StarFunction
    change: str
    out: Callable[[], AbstractContextManager[object]]
    told: str


def nothing_of_the_right() -> AbstractContextManager[object]:
    return mock.patch.object(Reach, "_of_right", return_value=())


def nothing_at_all() -> AbstractContextManager[object]:
    return mock.patch.object(Reach, "_touched", return_value=())


def only_rows_that_changed() -> AbstractContextManager[object]:
    wrong = mistaken(reach, *MISTAKES_IN_REACH["of a group only the rows that changed are read"])
    return mock.patch.object(application, "Reach", wrong.Reach)


def no_row_is_deleted() -> AbstractContextManager[object]:
    return mock.patch.object(frames, "DELETED", "false")


def nothing_leaves() -> AbstractContextManager[object]:
    nothing = "(SELECT {} FROM {} LIMIT 0)".format
    return mock.patch.object(Course, "without", lambda self, rows, others: nothing(self.declared, rows))


EMPLOYEES = """
    CREATE TABLE employee (id int PRIMARY KEY, name text, boss int);
    INSERT INTO employee VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 1);
"""
MEMBERS = """
    CREATE TABLE member (id int PRIMARY KEY, team int);
    INSERT INTO member VALUES (1, 1), (2, 1), (3, 2);
"""
PRODUCTS = """
    CREATE TABLE product (id int PRIMARY KEY, sku text UNIQUE, name text);
    CREATE TABLE invoice (id int PRIMARY KEY, number text UNIQUE, total int);
    INSERT INTO product VALUES (1, 's1', 'bag'), (2, 's2', 'hat');
    INSERT INTO invoice VALUES (1, 'n1', 10), (2, 'n2', 20);
"""
EMPLOYEE = (Table("employee", "", {"id": "int", "name": "text", "boss": "int?"}),)
MEMBER = (Table("member", "", {"id": "int", "team": "int?"}),)
PRODUCT = (Table("product", "", {"sku": "text", "name": "text"}),)
INVOICE = (Table("invoice", "", {"number": "text", "total": "int"}),)
TAKEN: Mapping[str, Taken] = {
    "deleted rows of a bridge are not joined": Taken(
        cases.BRIDGE, cases.BRIDGED, cases.dim_item, "DELETE FROM item_cat WHERE item_id = 3", no_row_is_deleted,
        "id 3: label is cat 2 and should be None",
    ),
    "a header reaches its lines": Taken(
        cases.ORDERS, cases.ORDERED, cases.fact_order_line, "UPDATE orders SET customer_id = 9 WHERE order_id = 2",
        nothing_of_the_right, "order_id 2, line_no 1: customer_id is 2 and should be 9",
    ),
    "a manager reaches who reports to them": Taken(
        EMPLOYEES, EMPLOYEE, cases.dim_employee, "UPDATE employee SET name = 'x' WHERE id = 1", nothing_of_the_right,
        "id 2: boss is a and should be x; id 3: boss is a and should be x",
    ),
    "a group is computed whole": Taken(
        MEMBERS, MEMBER, cases.dim_member, "INSERT INTO member VALUES (4, 1)", only_rows_that_changed,
        "id 1: members is 2 and should be 3",
    ),
    "an update arrives under a key of its own": Taken(
        PRODUCTS, PRODUCT, dim_product, "UPDATE product SET name = 'cap' WHERE id = 2", nothing_at_all,
        "sku s2: name is hat and should be cap",
    ),
    "what leaves is recorded under a key of its own": Taken(
        PRODUCTS, INVOICE, fact_invoice, "DELETE FROM invoice WHERE id = 2", nothing_leaves,
        "number n2 is there and should not be",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_wrong_once_the_mending_is_taken_out_is_named(case: str, make: Make) -> None:
    taken = TAKEN[case]
    flow = make(taken.source, taken.tables, taken.star)
    execute(flow.url, taken.change)
    with taken.out(), unguarded():
        flow.run(certified=False)
    told = {f.table: f.difference for f in flow.verified(source=False) if not f.equal}
    assert set(told) == {taken.star.name}, told
    assert taken.told in told[taken.star.name], told
