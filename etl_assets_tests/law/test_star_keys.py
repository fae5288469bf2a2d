"""Keys that are not the source's own, tables that come later, numbers that are none; and slips that are refused before
there is any data."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import narwhals as nw
import pytest

from etl_assets.errors import EtlError
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.schema import Dimension, Fact
from etl_assets_tests.law.cases import Make, asked, changed, described, is_proven, shown, versions

# -- business keys -----------------------------------------------------------------------------------------------


@star_table(Dimension("dim_product", "", "sku", described(sku="text", name="text")))
def dim_product(product: nw.LazyFrame) -> nw.LazyFrame:
    return product.select("sku", "name")


@star_table(
    Fact(
        "fact_invoice",
        "",
        "number",
        described(number="text", total="numeric(10,2)"),
        record="invoice_record_id",
    )
)
def fact_invoice(invoice: nw.LazyFrame) -> nw.LazyFrame:
    return invoice.select("number", "total")


BUSINESS = """
    CREATE TABLE product (id int PRIMARY KEY, sku text UNIQUE, name text);
    CREATE TABLE invoice (id int PRIMARY KEY, number text UNIQUE, total numeric(10,2));
    INSERT INTO product VALUES (1, 'b-1', 'one'), (2, 'a-2', 'two'), (3, 'c-3', 'three');
    INSERT INTO invoice VALUES (1, 'n1', 1.50), (2, 'n2', 2.50), (3, 'n0', 3.50);
"""
DEALT = (
    Table("product", "", {"id": "int", "sku": "text", "name": "text"}),
    Table("invoice", "", {"id": "int", "number": "text", "total": "numeric(10,2)"}),
)


def test_rows_known_by_what_people_call_them_arrive_change_and_leave(make: Make) -> None:
    flow = make(BUSINESS, DEALT, dim_product, fact_invoice)
    changed(
        flow,
        """UPDATE product SET name = 'renamed' WHERE id = 2; UPDATE invoice SET total = 9 WHERE id = 1;
        DELETE FROM invoice WHERE id = 2; INSERT INTO product VALUES (4, 'd-4', 'four')""",
    )
    assert shown(flow, "dim_product", "sku, name") == asked(flow, "SELECT sku, name FROM product")
    assert shown(flow, "fact_invoice", "number, total") == asked(flow, "SELECT number, total FROM invoice")
    assert versions(flow, "fact_invoice", "invoice_record_id, number, total::text, batch, deleted") == [
        (1, "n0", "3.50", 1, False),
        (2, "n1", "1.50", 1, False),
        (3, "n2", "2.50", 1, False),
        (4, "n1", "9.00", 2, False),
        (5, "n2", "2.50", 2, True),
    ]
    assert is_proven(flow)


@pytest.mark.fault("F28")
def test_rows_that_exchange_what_people_call_them_are_told_apart(make: Make) -> None:
    flow = make(BUSINESS, DEALT, dim_product, fact_invoice)
    changed(
        flow,
        """UPDATE product SET sku = 'x' WHERE id = 1; UPDATE product SET sku = 'b-1' WHERE id = 2;
        UPDATE product SET sku = 'a-2' WHERE id = 1; UPDATE invoice SET number = 'n9' WHERE id = 1""",
    )
    changed(flow, "UPDATE invoice SET number = 'n1' WHERE id = 2; UPDATE invoice SET total = 0 WHERE id = 1")
    assert shown(flow, "dim_product", "sku, name") == asked(flow, "SELECT sku, name FROM product")
    assert shown(flow, "fact_invoice", "number, total") == asked(flow, "SELECT number, total FROM invoice")
    records = [record for (record,) in versions(flow, "fact_invoice", "invoice_record_id")]
    assert len(set(records)) == len(records), "a number is given once"
    assert is_proven(flow)


# -- a table that comes later ------------------------------------------------------------------------------------


@star_table(
    Fact(
        "fact_invoice",
        "",
        "id",
        described(id="int", product="text?", total="numeric(10,2)"),
        record="invoice_record_id",
    )
)
def fact_invoice_with_product(invoice: nw.LazyFrame, product: nw.LazyFrame) -> nw.LazyFrame:
    named = product.select(nw.col("id").alias("product_id"), nw.col("name").alias("product"))
    return invoice.join(named, on="product_id", how="left").select("id", "product", "total")


@star_table(
    Fact("fact_invoice", "", "id", described(id="int", total="numeric(10,2)"), record="invoice_record_id")
)
def fact_invoice_alone(invoice: nw.LazyFrame) -> nw.LazyFrame:
    return invoice.select("id", "total")


def test_a_fact_made_anew_sees_a_later_table_as_its_first_batch_has_it(make: Make) -> None:
    invoice = Table("invoice", "", {"id": "int", "product_id": "int?", "total": "numeric(10,2)"})
    product = Table("product", "", {"id": "int", "name": "text"})
    flow = make(
        """
        CREATE TABLE product (id int PRIMARY KEY, name text);
        CREATE TABLE invoice (id int PRIMARY KEY, product_id int, total numeric(10,2));
        INSERT INTO product VALUES (1, 'early');
        INSERT INTO invoice VALUES (1, 1, 1), (2, 2, 2);
        """,
        [invoice],
        fact_invoice_alone,
    )
    changed(flow, "UPDATE invoice SET total = 5 WHERE id = 1; UPDATE product SET name = 'late' WHERE id = 1")
    flow = replace(
        flow,
        inputs=Inputs(
            {"invoice": invoice, "product": product}, {"fact_invoice": fact_invoice_with_product}, {}
        ),
    )
    changed(flow, "INSERT INTO invoice VALUES (3, 1, 3)")
    assert versions(flow, "fact_invoice", "invoice_record_id, id, product, total::int, batch") == [
        (1, 1, "late", 1, 1),
        (2, 2, None, 2, 1),
        (3, 1, "late", 5, 2),
        (4, 3, "late", 3, 3),
    ]
    changed(flow, "UPDATE product SET name = 'later' WHERE id = 1")
    assert [row[1:3] for row in versions(flow, "fact_invoice", "invoice_record_id, id, product")[4:]] == [
        (1, "later"),
        (3, "later"),
    ]
    assert is_proven(flow)


# -- numbers that are no numbers ---------------------------------------------------------------------------------


@star_table(
    Fact("fact_reading", "", "id", described(id="int", v="double?"), rows="any", record="reading_record_id")
)
def fact_reading(reading: nw.LazyFrame) -> nw.LazyFrame:
    unknown = nw.when(nw.col("v") > 100).then(nw.lit(float("nan"))).otherwise(nw.col("v"))
    return reading.select("id", unknown.alias("v"))


def test_nan_is_nan_and_minus_zero_is_zero(make: Make) -> None:
    flow = make(
        """
        CREATE TABLE reading (id int PRIMARY KEY, v double precision, note text);
        INSERT INTO reading VALUES (1, 0), (2, 200), (3, 7);
        """,
        [Table("reading", "", {"id": "int", "v": "double?"})],
        fact_reading,
    )
    changed(flow, "UPDATE reading SET v = '-0' WHERE id = 1; UPDATE reading SET v = 300 WHERE id = 2")
    assert len(versions(flow, "fact_reading", "reading_record_id")) == 3
    changed(flow, "UPDATE reading SET v = 8, note = 'x'")
    assert len(versions(flow, "fact_reading", "reading_record_id")) == 6
    assert is_proven(flow)


# -- slips -------------------------------------------------------------------------------------------------------


TABLE = Table("t", "", {"id": "int", "name": "text", "other": "bigint"})


def dimension(**columns: str) -> StarFunction:
    def made(t: nw.LazyFrame) -> nw.LazyFrame:
        return t.select(*(columns or {"id": "int"}))

    return StarFunction(Dimension("dim_t", "", "id", described(**(columns or {"id": "int"}))), made)


def fact(references: Mapping[Any, str], **columns: str) -> StarFunction:
    def made(t: nw.LazyFrame) -> nw.LazyFrame:
        return t.select(*columns)

    schema = Fact("fact_t", "", "id", described(**columns), record="t_record_id", references=references)
    return StarFunction(schema, made)


@pytest.mark.parametrize(
    ("references", "told"),
    [
        ({"id": "dim_s"}, "dim_t"),
        ({"id": "fact_t"}, "dim_t"),
        ({"other": "dim_t"}, "bigint"),
        ({("id", "other"): "dim_t"}, "key"),
    ],
    ids=["no such dimension", "a fact", "another type", "too many columns"],
)
def test_a_reference_that_leads_nowhere_is_refused(references: Mapping[Any, str], told: str) -> None:
    star = {"dim_t": dimension(), "fact_t": fact(references, id="int", other="bigint")}
    with pytest.raises(EtlError, match=rf"^fact_t: [^\n]*{told}[^\n]*$"):
        Inputs({"t": TABLE}, star, {})


@pytest.mark.parametrize("name", ["deleted", "batch", "t_record_id"])
def test_a_column_that_is_named_like_the_platforms_own_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^fact_t: [^\n]*{name}[^\n]*$"):
        fact({}, id="int", **{name: "text"})


@pytest.mark.parametrize("type_", ["numeric(5,-2)", "integre", "varchr(120)?", "datetime"])
def test_a_type_that_there_is_not_is_refused(type_: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
        Inputs({"t": TABLE}, {"dim_t": dimension(id="int", name=type_)}, {})
    assert type_ in str(refused.value)


def test_a_key_that_is_no_column_and_a_fact_without_a_surrogate_key_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^dim_t: [^\n]*'key'[^\n]*$"):
        Dimension("dim_t", "", "key", described(id="int"))
    with pytest.raises(ValueError, match=r"^fact_t: [^\n]*record=[^\n]*$"):
        Fact("fact_t", "", "id", described(id="int"))
