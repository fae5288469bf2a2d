"""Keys that are not the source's own, tables that come later, numbers that are none; and slips that are refused before
there is any data."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import narwhals as nw
import pytest

from etl_assets.errors import EtlError
from etl_assets.proof.history import at_batch, table_then
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.schema import Dimension, Fact
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
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


# -- keys that come from what is joined ---------------------------------------------------------------------------


@star_table(Dimension("dim_taken", "", "id", described(id="int", name="text")))
def dim_mate(person: nw.LazyFrame) -> nw.LazyFrame:
    """Each under the number of whom it goes with."""
    mates = person.select(nw.col("id").alias("mate"), nw.col("id").alias("number"))
    return person.join(mates, on="mate", how="inner").select(nw.col("number").alias("id"), "name")


@star_table(Dimension("dim_taken", "", "id", described(id="int", name="text")))
def dim_room(room: nw.LazyFrame, person: nw.LazyFrame) -> nw.LazyFrame:
    """A room, by way of who is in it."""
    rooms = room.select(nw.col("id").alias("mate"), nw.col("id").alias("number"))
    return person.join(rooms, on="mate", how="inner").select(nw.col("number").alias("id"), "name")


@pytest.mark.parametrize("function", [dim_mate, dim_room])
def test_a_key_of_what_is_joined_that_two_rows_take_is_told_and_loses_neither(
    function: StarFunction, make: Make
) -> None:
    """It is a key of the source, and yet not of the rows that each row of the star is made from."""
    flow = make(
        """CREATE TABLE person (id int PRIMARY KEY, mate int, name text); CREATE TABLE room (id int PRIMARY KEY);
        INSERT INTO person VALUES (1, 2, 'one'), (2, 1, 'two'), (3, 4, 'three'), (4, 3, 'four');
        INSERT INTO room SELECT id FROM person""",
        (Table("person", "", {"id": "int", "mate": "int", "name": "text"}), Table("room", "", {"id": "int"})),
        function,
    )
    execute(flow.url, "UPDATE person SET mate = 4 WHERE id = 1")
    with pytest.raises(AssertionError, match=r"dim_taken can't show[^\n]*keys_are_unique: 1 \(4\)"):
        flow.run()
    changed(flow, "UPDATE person SET mate = 2 WHERE id = 1")
    assert shown(flow, "dim_taken", "id, name") == asked(flow, "SELECT mate, name FROM person")
    assert is_proven(flow)


# -- names with capitals ------------------------------------------------------------------------------------------


@star_table(
    Fact(
        "fact_line",
        "",
        ("Order", "line"),
        described(Order="int", line="int", day="date?", Price="numeric(8,2)"),
        record="line_record_id",
    )
)
def fact_capital_line(lines: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    return lines.join(orders, left_on="Order", right_on="ID", how="left").select(
        "Order", nw.col("Line").alias("line"), nw.col("Day").alias("day"), "Price"
    )


@star_table(Fact("fact_order", "", "id", described(id="int", day="date?"), record="order_record_id"))
def fact_capital_order(orders: nw.LazyFrame) -> nw.LazyFrame:
    return orders.select(nw.col("ID").alias("id"), nw.col("Day").alias("day"))


def test_a_row_has_a_version_for_each_of_its_sources_whatever_its_key_is_called(make: Make) -> None:
    """Of what the star does not show, too; and what it adds up to is compared from the source on."""
    flow = make(
        """CREATE TABLE "Orders" ("ID" int PRIMARY KEY, "Day" date, "Note" text);
        CREATE TABLE "Lines" ("Order" int, "Line" int, "Price" numeric(8,2), "Memo" text, PRIMARY KEY ("Order", "Line"));
        INSERT INTO "Orders" SELECT n, DATE '2024-01-01' + n FROM generate_series(1, 3) n;
        INSERT INTO "Lines" SELECT o, l, o * l FROM generate_series(1, 3) o, generate_series(1, 2) l""",
        (
            Table("Orders", "", {"ID": "int", "Day": "date?"}, as_="orders"),
            Table("Lines", "", {"Order": "int", "Line": "int", "Price": "numeric(8,2)"}, as_="lines"),
        ),
        fact_capital_line,
        fact_capital_order,
    )
    changed(
        flow,
        """UPDATE "Orders" SET "Note" = 'x' WHERE "ID" = 2; UPDATE "Lines" SET "Memo" = 'x' WHERE "Order" = 3""",
    )
    assert versions(flow, "fact_order", "order_record_id, id, batch")[3:] == [(4, 2, 2)]
    assert versions(flow, "fact_line", '"line_record_id", "Order", line, batch')[6:] == [
        (7, 3, 1, 2),
        (8, 3, 2, 2),
    ]
    execute(flow.url, """UPDATE "Lines" SET "Price" = 7 WHERE "Order" = 1""")
    flow.capture()
    (proof,) = [one for one in flow.derive() if one.table == "fact_line"]
    assert proof.hops["landed"].sums == {"Price": Decimal("14.00")}
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


@star_table(Dimension("dim_invoice", "", "id", described(id="int", product="text?")))
def dim_invoice_with_product(invoice: nw.LazyFrame, product: nw.LazyFrame) -> nw.LazyFrame:
    return fact_invoice_with_product.function(invoice, product).select("id", "product")  # type: ignore[no-any-return]


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
            {"invoice": invoice, "product": product},
            {"fact_invoice": fact_invoice_with_product, "dim_invoice": dim_invoice_with_product},
            {},
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
    for name in ("fact_invoice", "dim_invoice"):
        assert then(flow, name, 1) == [(1, "late"), (2, None)]
        assert then(flow, name, 3) == [(1, "late"), (2, None), (3, "late")]


def then(flow: Direct, name: str, batch: int) -> list[tuple[Any, ...]]:
    """What `etl history` shows of invoices after a batch."""
    with flow.lake.open(flow.inputs) as bench:
        manifest = at_batch(bench.builder.batches, batch)
        with table_then(bench.builder, name, manifest, flow.data / "scratch") as rows:
            return rows.project("id, product").fetchall()


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


# -- numbers of versions ------------------------------------------------------------------------------------------


@star_table(
    Fact("fact_visit", "", "id", described(id="int", guests="int", paid="boolean?"), record="visit_record_id")
)
def fact_visit(visit: nw.LazyFrame) -> nw.LazyFrame:
    return visit.select("id", "guests", "paid")


VISITS = """
    CREATE TABLE visit (id int PRIMARY KEY, guests int, paid boolean);
    INSERT INTO visit SELECT n, n, true FROM generate_series(1, 6) n;
"""
VISITED = (Table("visit", "", {"id": "int", "guests": "int?", "paid": "boolean?"}),)


def each_version_has_its_number(flow: Direct) -> bool:
    found = versions(flow, "fact_visit", "visit_record_id, batch")
    assert len({number for number, _ in found}) == len(found)
    assert [batch for _, batch in found] == sorted(batch for _, batch in found)
    visits = "SELECT id, guests, paid FROM visit"
    assert shown(flow, "fact_visit", "id, guests, paid") == asked(flow, visits)
    assert is_proven(flow)
    return True


def test_versions_that_a_later_batch_makes_up_for_have_numbers_of_their_own(make: Make) -> None:
    """The batch that heals lands one row and shows the five that could not be shown before."""
    flow = make(VISITS, VISITED, fact_visit)
    execute(
        flow.url,
        "UPDATE visit SET guests = NULL WHERE id = 1; UPDATE visit SET guests = 9 WHERE id BETWEEN 2 AND 5",
    )
    with pytest.raises(AssertionError, match="required_values_are_present"):
        flow.run()
    changed(flow, "UPDATE visit SET guests = 1 WHERE id = 1")
    for guests in (7, 8):
        changed(flow, f"UPDATE visit SET guests = {guests} WHERE id = 6")
        assert each_version_has_its_number(flow)
