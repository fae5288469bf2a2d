"""Every batch has a certificate beside its manifest: source, raw, star and warehouse side by side, and equal."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg
import narwhals as nw
import psycopg2
import pytest

from etl_assets.proof.certificate import Certifier, TableProof
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import star_table
from etl_assets.star.schema import Column, Dimension, Fact
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import Flow, execute
from etl_assets_tests.shop import DAY, INPUTS, SOURCE, fact_sale
from etl_assets_tests.test_verify import in_warehouse, rewritten


@pytest.fixture
def shop(database: Callable[[], str], tmp_path: Path) -> Direct:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE)
    flow.run()
    return flow


def certificate(data: Path, batch: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((data / f"lake/raw/batches/{batch}.certificate.json").read_text())
    return content


def proofs(flow: Direct) -> Mapping[str, TableProof]:
    """What a certificate would say now."""
    with flow.lake.open(flow.inputs) as bench, flow.warehouse.reading() as reader:
        made = Certifier(bench.builder, bench.manifest, reader).proofs()
    return {proof.table: proof for proof in made}


def test_it_says_what_the_source_said_and_what_each_hop_has(shop: Direct) -> None:
    told, manifest = certificate(shop.data, "000001"), shop.lake.batches().get(1)
    assert (told["batch"], told["lake"], told["snapshot"], told["equal"]) == (
        "000001", manifest.lake, manifest.snapshot, True,
    )  # fmt: skip
    with closing(psycopg2.connect(shop.url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), sum(amount)::text, sum(amount) FILTER (WHERE due <> 'soon') FROM sale"
        )
        ((rows, total, fitting),) = cursor.fetchall()
    assert told["source_totals"]["sale"]["rows"] == rows
    assert told["source_totals"]["sale"]["controls"]["amount"]["sum"] == total
    fact = told["tables"]["fact_sale"]
    assert fact["quarantined_rows"] == 6
    assert list(fact["hops"]) == ["landed", "star", "warehouse"]
    assert [(hop["rows"], hop["sums"]["amount"]) for hop in fact["hops"].values()] == 3 * [
        (rows - 6, str(fitting))
    ]
    members = {"rows": 30, "sums": {}}
    assert told["tables"]["dim_worker"]["hops"] == {"source": members, "star": members, "warehouse": members}


def test_each_batch_has_its_own_and_an_old_one_stays_as_it_is(shop: Direct) -> None:
    first = certificate(shop.data, "000001")
    execute(shop.url, DAY)
    shop.run()
    second = certificate(shop.data, "000002")
    # 30 new, 12 changed; the batch's amounts and not the table's.
    assert second["tables"]["fact_sale"]["hops"]["landed"]["rows"] == 42
    assert second["tables"]["dim_worker"]["hops"]["source"]["rows"] == 31
    assert second["equal"]
    assert certificate(shop.data, "000001") == first


def test_an_amount_that_a_function_computes_is_no_difference_and_is_not_vouched_for(shop: Direct) -> None:
    @star_table(fact_sale.schema)
    def doubled(sale: nw.LazyFrame) -> nw.LazyFrame:
        amount = (nw.col("amount") * 2).cast(nw.Decimal(10, 2))
        return sale.select(nw.col("id").alias("sale_id"), "worker_id", amount.alias("amount"), "due")

    inputs = Inputs(INPUTS.tables, {**INPUTS.star, "fact_sale": doubled}, {})
    again = Direct(shop.url, shop.data, inputs)
    again.run()
    told = certificate(shop.data, "000001")
    assert told["equal"]
    assert all("amount" not in hop["sums"] for hop in told["tables"]["fact_sale"]["hops"].values())


def test_no_batch_means_no_new_certificate(shop: Direct) -> None:
    path = shop.data / "lake/raw/batches/000001.certificate.json"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert shop.run() is None
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert len(list(path.parent.glob("*.certificate.json"))) == 1


def test_a_certificate_of_a_batch_that_was_taken_again_is_not_believed(shop: Direct) -> None:
    execute(shop.url, DAY)
    shop.run()
    manifest = shop.data / "lake/raw/batches/000002.json"
    before, of_before = manifest.read_bytes(), certificate(shop.data, "000002")
    manifest.unlink()
    execute(shop.url, "UPDATE sale SET amount = amount + 1 WHERE id = 3")
    shop.run()
    again = certificate(shop.data, "000002")
    assert of_before["manifest"] == sha256(before).hexdigest()
    assert again["manifest"] == sha256(manifest.read_bytes()).hexdigest() != of_before["manifest"]
    assert again["equal"]
    assert [finding for finding in shop.verified(thorough=True) if not finding.equal] == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT * REPLACE (amount + 1 AS amount) FROM file", "star has 294 rows"),
        ("SELECT * FROM file WHERE sale_id <> 7", "star has 293 rows"),
    ],
)
def test_a_star_that_is_not_what_was_landed_is_not_certified(query: str, said: str, shop: Direct) -> None:
    rewritten(shop.data / "lake", "fact_sale", query)
    proof = proofs(shop)["fact_sale"]
    assert not proof.equal
    assert "batch 000001 of fact_sale" in proof.differences[0]
    assert said in proof.differences[0]


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE star.fact_sale SET amount = amount + 0.01 WHERE sale_id = 7", "fact_sale"),
        ("DELETE FROM star.fact_sale WHERE sale_id = 7", "fact_sale"),
        ("DELETE FROM star.dim_worker WHERE worker_id = 7", "dim_worker"),
    ],
)
def test_a_warehouse_that_is_not_the_star_is_not_certified(statement: str, table: str, shop: Direct) -> None:
    in_warehouse(shop, statement)
    found = proofs(shop)
    assert [name for name, proof in found.items() if not proof.equal] == [table]
    assert "warehouse has" in found[table].differences[0]


def test_the_run_shows_it_as_a_check_of_every_table_and_fails_where_it_does_not_hold(
    bicycles: str, tmp_path: Path
) -> None:
    flow = Flow(bicycles, tmp_path)
    run = flow.run()
    assert run.success, run.error_lines
    checks = {
        e.asset_key.path[-1]: e
        for e in run.result.get_asset_check_evaluations()
        if e.check_name == "equals_the_source"
    }
    assert set(checks) == set(flow.tables)
    assert all(check.passed for check in checks.values())
    with closing(psycopg2.connect(bicycles)) as connection, connection.cursor() as cursor:
        for fact, amount in (("fact_payment", "amount"), ("fact_hire", "price")):
            table, _ = flow.model.facts[fact]
            cursor.execute(f"SELECT count(*), sum({amount})::text FROM {table}")
            ((rows, total),) = cursor.fetchall()
            # In a first batch, what the batch brought is everything.
            tables = [v for n, v in checks[fact].metadata.items() if n.endswith("side by side")]
            shown = [table.records for table in tables if isinstance(table, dg.TableMetadataValue)]
            records = [list(record.data.values()) for table in shown for record in table]
            assert {"source", "landed", "star", "warehouse"} <= {record[0] for record in records}
            for _, *told in records:
                # As numbers: the source's column has more digits after the point than the star's.
                figures = {Decimal(t.replace(",", "")) for t in map(str, told) if re.fullmatch(r"[\d,.]+", t)}
                assert {Decimal(rows), Decimal(total)} <= figures
    in_warehouse(Direct(flow.url, flow.data, INPUTS), "DELETE FROM star.fact_payment WHERE payment_id = 7")
    again = flow.run("warehouse")
    failed = [
        e.asset_key.path[-1]
        for e in again.result.get_asset_check_evaluations()
        if e.check_name == "equals_the_source" and not e.passed
    ]
    assert failed == ["fact_payment"]
    (line,) = (line for line in again.error_lines if "fact_payment" in line)
    assert "batch 000001: " in line
    assert re.search(r"warehouse has 239 rows, .* has 240 rows, ", line)
    assert "etl run --whole mends what differs" in line


# -- rows that are not one for one ---------------------------------------------------------------------------------


@star_table(
    Dimension("dim_label", "", "label", [Column("label", "text"), Column("items", "bigint")], rows="any")
)
def dim_label(item: nw.LazyFrame) -> nw.LazyFrame:
    return item.group_by("label").agg(nw.len().alias("items"))


@star_table(
    Fact(
        "fact_item",
        "",
        "id",
        [Column("id", "int"), Column("label", "text")],
        rows="any",
        record="item_record_id",
    )
)
def fact_item(item: nw.LazyFrame) -> nw.LazyFrame:
    return item.filter(nw.col("id") > 0).select("id", "label")


@pytest.mark.parametrize("engine", ["duckdb", "postgresql"])
@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("fact_item", "UPDATE star.fact_item SET label = CASE id WHEN 1 THEN 'b' ELSE 'a' END"),
        ("dim_label", "UPDATE star.dim_label SET items = CASE label WHEN 'a' THEN 1 ELSE 2 END"),
    ],
)
def test_values_that_trade_places_are_found_where_counts_and_sums_say_nothing(
    table: str, statement: str, engine: str, database: Callable[[], str], tmp_path: Path
) -> None:
    inputs = Inputs(
        {"item": Table("item", "", {"id": "int", "label": "text"})},
        {"dim_label": dim_label, "fact_item": fact_item},
        {},
    )
    url = database() if engine == "postgresql" else None
    flow = Direct(database(), tmp_path, inputs, warehouse_url=url)
    execute(
        flow.url,
        "CREATE TABLE item (id int PRIMARY KEY, label text); INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, 'a')",
    )
    flow.run()
    assert certificate(tmp_path, "000001")["tables"][table]["hops"]["star"]["digest"]
    if url:
        execute(url, statement)
    else:
        in_warehouse(flow, statement)
    found = proofs(flow)
    assert [name for name, proof in found.items() if not proof.equal] == [table]
