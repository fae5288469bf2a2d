"""`python -m benchmarks.header_line`: what a change of headers costs their lines.

    --lines 5_000_000   five lines to an order
    --folder DIR        where source, lake and warehouse are kept (default data/benchmark-lines); reused if it is there

A fact of order lines takes customer and dates from their orders. Reported are whole flows (capture, star, warehouse,
certificate), each in a process of its own: the first load, 5,000 changed lines, 5,000 changed orders, the same where the
function is compared whole, that function applied whole and written, and a verification.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import narwhals as nw
import psycopg2

from etl_assets.engine import duck
from etl_assets.proof.certificate import Certifier
from etl_assets.proof.verify import Verifier
from etl_assets.raw.landing import CaptureRequest, take_batch
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets.star.definition import Inputs, star_table
from etl_assets.star.resource import Lake
from etl_assets.star.schema import Column, Fact
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets.warehouse.load import load_star

TABLES = (
    Table("orders", "", {"order_id": "int", "customer_id": "int", "ordered": "date", "shipped": "date?"}),
    Table(
        "order_line",
        "",
        {
            "order_id": "int",
            "line_no": "int",
            "product_id": "int",
            "quantity": "int",
            "price": "numeric(10,2)",
        },
    ),
)
FACT = Fact(
    "fact_order_line",
    "One row is a version of a line of an order.",
    ("order_id", "line_no"),
    [
        Column("order_id", "int"),
        Column("line_no", "int"),
        Column("customer_id", "int?"),
        Column("ordered", "date?"),
        Column("shipped", "date?"),
        Column("product_id", "int"),
        Column("quantity", "int"),
        Column("price", "numeric(10,2)"),
    ],
    record="line_record_id",
)
_COLUMNS = [column.name for column in FACT.declared]


def by_key(order_line: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    return order_line.join(orders, on="order_id", how="left").select(*_COLUMNS)


def whole(order_line: nw.LazyFrame, orders: nw.LazyFrame) -> nw.LazyFrame:
    """The same; a rank over all orders makes it one that has to be compared whole."""
    ranked = orders.with_columns(nw.col("order_id").rank("min").alias("place"))
    return order_line.join(ranked.drop("place"), on="order_id", how="left").select(*_COLUMNS)


SOURCE = """
CREATE TABLE orders (order_id int PRIMARY KEY, customer_id int NOT NULL, ordered date NOT NULL, shipped date);
CREATE TABLE order_line (order_id int, line_no int, product_id int NOT NULL, quantity int NOT NULL,
                         price numeric(10,2) NOT NULL, PRIMARY KEY (order_id, line_no));
INSERT INTO orders SELECT n, 1 + n %% 20000, date '2024-01-01' + n %% 700, NULL FROM generate_series(1, %(orders)s) n;
INSERT INTO order_line SELECT 1 + n / 5, 1 + n %% 5, 1 + n %% 3000, 1 + n %% 9, (n %% 10000) / 100.0
FROM generate_series(0, %(lines)s - 1) n;
"""
LINES = "UPDATE order_line SET quantity = quantity + 1 WHERE line_no = 1 AND order_id %% %(step)s = %(seed)s"
ORDERS = "UPDATE orders SET shipped = '2026-01-01', customer_id = customer_id + 1 WHERE order_id %% %(step)s = %(seed)s"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.header_line")
    parser.add_argument("--lines", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark-lines"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure, folder)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    orders = arguments.lines // 5
    with serve(folder / "source") as url:
        (folder / "url").write_text(url)
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('orders') IS NULL")
            if cursor.fetchall() == [(True,)]:
                cursor.execute(SOURCE, {"orders": orders, "lines": arguments.lines})
        for leftover in ("by_key", "whole"):
            shutil.rmtree(folder / leftover, ignore_errors=True)
        step = orders // 5_000
        told("first load", folder, "run by_key")
        for seed in (1, 2, 3):
            change(url, LINES, step, seed)
            told("5,000 changed lines, by key", folder, "run by_key")
            change(url, ORDERS, step, seed)
            told("5,000 changed orders, by key", folder, "run by_key")
        told("verification", folder, "verify by_key")
        told("first load of the one that is compared whole", folder, "run whole")
        for seed in (4, 5):
            change(url, ORDERS, step, seed)
            told("5,000 changed orders, compared whole", folder, "run whole")
        told("its function applied whole and written", folder, "apply whole")


def change(url: str, statement: str, step: int, seed: int) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, {"step": step, "seed": seed})


def told(title: str, folder: Path, what: str) -> None:
    command = [sys.executable, "-m", "benchmarks.header_line", "--measure", what, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    stages = "   ".join(f"{name} {seconds:.2f} s" for name, seconds in found["stages"].items())
    print(
        f"{title}: {found['seconds']:.2f} s, peak {found['peak'] >> 20:,} MiB ({stages}) {found['how']}",
        flush=True,
    )


def measured(what: str, folder: Path) -> dict[str, object]:
    task, _, name = what.partition(" ")
    started = time.perf_counter()
    function = {"by_key": by_key, "whole": whole}[name]
    inputs = Inputs({table.name: table for table in TABLES}, {FACT.name: star_table(FACT)(function)}, {})
    place = folder / name
    scratch = place / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    lake = Lake(url=str(place / "lake"), scratch=str(scratch), cache=str(place / "cache"))
    stages: dict[str, float] = {}
    how = {"run": run, "apply": apply, "verify": verify}[task](
        inputs, lake, place, (folder / "url").read_text(), stages
    )
    return {
        "seconds": time.perf_counter() - started,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "stages": stages,
        "how": how,
    }


def timed(stages: dict[str, float], name: str, work: Callable[[], object]) -> object:
    started = time.perf_counter()
    try:
        return work()
    finally:
        stages[name] = time.perf_counter() - started


def run(inputs: Inputs, lake: Lake, place: Path, url: str, stages: dict[str, float]) -> str:
    request = CaptureRequest(url, list(TABLES), "a benchmark")
    scratch = Path(lake.scratch)
    timed(stages, "capture", lambda: take_batch(request, lake.batches(), scratch, lambda table, size: None))
    warehouse = DuckDBWarehouse(path=str(place / "warehouse.duckdb"), scratch=lake.scratch)
    how = ""

    def derive() -> None:
        nonlocal how
        for build in bench.builder.derive(bench.manifest):
            assert build.passed, build.failure
            how = build.how
            bench.publish([build])

    with lake.open(inputs) as bench:
        timed(stages, "star", derive)
        versions = {FACT.name: bench.builder.version(FACT.name, bench.manifest)}
        timed(stages, "warehouse", lambda: load_star(warehouse, bench.star, [FACT], versions, "a benchmark"))

        def certify() -> None:
            with warehouse.reading() as reader:
                proofs = (certifier := Certifier(bench.builder, bench.manifest, reader)).proofs()
                assert all(proof.equal for proof in proofs), [proof.differences for proof in proofs]
                certifier.publish(proofs)

        timed(stages, "certificate", certify)
    return how


def apply(inputs: Inputs, lake: Lake, place: Path, url: str, stages: dict[str, float]) -> str:
    """The function on all rows, as a first load writes it."""
    with lake.open(inputs) as bench:
        builder, definition = bench.builder, inputs.star[FACT.name]
        relations = {name: builder.existing(name, bench.manifest) for name in definition.inputs}
        made = definition.apply(bench.connection, relations).order("order_id, line_no")
        timed(stages, "star", lambda: duck.write_parquet(made, place / "applied.parquet", {}))
    return ""


def verify(inputs: Inputs, lake: Lake, place: Path, url: str, stages: dict[str, float]) -> str:
    warehouse = DuckDBWarehouse(path=str(place / "warehouse.duckdb"), scratch=lake.scratch)
    with lake.open(inputs) as bench, Verifier(bench.builder, bench.manifest, Path(lake.scratch)) as verifier:
        found: list[object] = []
        timed(stages, "files", lambda: found.extend(verifier.files()))
        timed(stages, "raw", lambda: found.extend(verifier.raw()))
        timed(stages, "star", lambda: found.extend(verifier.star()))
        with warehouse.reading() as reader:
            timed(stages, "warehouse", lambda: found.extend(verifier.warehouse(reader)))
        timed(stages, "source", lambda: found.extend(verifier.source(url, list(TABLES), thorough=False)))
    return "; ".join(str(finding) for finding in found if not finding.equal) or "equal"  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
