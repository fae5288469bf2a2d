"""`python -m benchmarks`: first load and increment of the flow, on a source of any size.

    --scale 455      5 million sales orders, 21 million rows in all (the generator's scale; 1 is 11,000 orders)
    --folder DIR     where source, lake and warehouse are kept (default data/benchmark); reused if it is there

Reported: seconds per stage as Dagster measured its steps, peak memory of the process, bytes written, beside what
`psql \\copy` of the same tables takes; for the increment the share of the proof.
"""

import argparse
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from etl_assets.stand_ins.postgres import find_binaries, serve
from etl_assets.totesys.demo.generator import generate

BIG = ("sales_order", "transaction", "payment")
# 4,793 row changes over the three big tables: inserts, silent updates, settled payments, deletions.
CHANGE = """
WITH o AS (
    INSERT INTO sales_order (created_at, last_updated, design_id, staff_id, counterparty_id, units_sold, unit_price,
                             currency_id, agreed_delivery_date, agreed_payment_date, agreed_delivery_location_id)
    SELECT m, m, 1 + n %% 50, 1 + n %% 20, 1 + n %% 20, 1000 + n, 2.5, 1 + n %% 3, '2025-11-05', '2025-11-06', 1 + n %% 30
    FROM generate_series(1, 900) n, (SELECT '2025-11-01 10:00:00.123'::timestamp(3)) t (m)
    RETURNING sales_order_id, counterparty_id, units_sold, unit_price, currency_id, created_at
), t AS (
    INSERT INTO transaction (created_at, last_updated, transaction_type, sales_order_id)
    SELECT created_at, created_at, 'SALE', sales_order_id FROM o RETURNING transaction_id, sales_order_id
)
INSERT INTO payment (created_at, last_updated, transaction_id, counterparty_id, payment_amount, currency_id,
                     payment_type_id, paid, payment_date, company_ac_number, counterparty_ac_number)
SELECT created_at, created_at, transaction_id, counterparty_id, round(units_sold * unit_price, 2), currency_id, 1,
       false, '2025-11-06', 12345678, 87654321
FROM t JOIN o USING (sales_order_id);
UPDATE sales_order SET agreed_delivery_date = '2025-11-0' || 1 + (sales_order_id + %(seed)s) %% 9
WHERE sales_order_id IN (SELECT n * (SELECT max(sales_order_id) / 1001 FROM sales_order) + %(seed)s
                         FROM generate_series(1, 1000) n);
UPDATE payment SET paid = NOT paid, last_updated = '2025-11-01 12:00:00'
WHERE payment_id IN (SELECT n * (SELECT max(payment_id) / 701 FROM payment) + %(seed)s FROM generate_series(1, 700) n);
CREATE TEMP TABLE cancelled AS SELECT transaction_id, sales_order_id FROM transaction WHERE sales_order_id IN
    (SELECT n * (SELECT max(sales_order_id) / 201 FROM sales_order) + 7 * %(seed)s FROM generate_series(1, 200) n);
DELETE FROM payment WHERE transaction_id IN (SELECT transaction_id FROM cancelled);
DELETE FROM transaction WHERE transaction_id IN (SELECT transaction_id FROM cancelled);
DELETE FROM sales_order WHERE sales_order_id IN (SELECT sales_order_id FROM cancelled);
DROP TABLE cancelled;
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=float, default=10, help="455: 5 million sales orders")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark"))
    parser.add_argument("--increments", type=int, default=3)
    parser.add_argument("--measure", choices=["run"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.measure:
        print(json.dumps(measured_run(folder)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    with serve(folder / "source") as url:
        os.environ |= {"ETL_SOURCE_URL": url, "ETL_DATA": str(folder)}
        prepare(url, arguments.scale)
        for leftover in ("lake", "scratch", "warehouse.duckdb", "reports.xlsx"):
            path = folder / leftover
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        copies = copy_seconds(url)
        print(f"psql \\copy of all tables, one after the other: {copies:.2f} s")
        report("first load", in_its_own_process(folder), copies)
        for number in range(arguments.increments):
            change(url, seed=number + 1)
            report(f"increment {number + 1}: 4,793 changed rows", in_its_own_process(folder), copies)
        report("nothing changed", in_its_own_process(folder), copies)


def prepare(url: str, scale: float) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.sales_order') IS NULL")
        ((empty,),) = cursor.fetchall()
    if empty:
        generate(url, scale=scale)
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for table in (*BIG, "purchase_order"):
            cursor.execute(f"SELECT count(*) FROM {table}")  # also warms the cache
            print(f"{table}: {cursor.fetchall()[0][0]:,} rows")


def change(url: str, seed: int) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(CHANGE, {"seed": seed})


def copy_seconds(url: str) -> float:
    """What the same rows take through PostgreSQL's own client."""
    psql = find_binaries() / "psql"
    started = time.perf_counter()
    for table in (*BIG, "purchase_order"):
        command = [str(psql), "-X", "-q", url, "-c", f"\\copy {table} to '/dev/null' csv header"]
        subprocess.run(command, check=True)
    return time.perf_counter() - started


def in_its_own_process(folder: Path) -> dict[str, object]:
    """One run, measured in a fresh process so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks", "--measure", "run", "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured_run(folder: Path) -> dict[str, object]:
    import dagster as dg

    from etl_assets.definitions import defs
    from etl_assets.raw import reading

    proof = {"seconds": 0.0}
    logging.disable(logging.CRITICAL)
    job = defs().resolve_job_def("etl")
    before = written(folder)
    with dg.instance_for_test() as instance, timed_sums(reading, proof):
        started = time.perf_counter()
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        total = time.perf_counter() - started
    if not result.success:
        sys.exit("the run failed")
    steps = {
        e.step_key: e.step_success_data.duration_ms / 1000 for e in result.all_events if e.is_step_success
    }
    after = written(folder)
    return {
        "total": total,
        "steps": steps,
        "sums": proof["seconds"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "new_bytes": sum(size for path, (size, stamp) in after.items() if before.get(path) != (size, stamp)),
        "new_bytes_dim_transaction": after.get("lake/star/dim_transaction.parquet", (0, 0))[0],
    }


@contextmanager
def timed_sums(module: object, proof: dict[str, float]) -> Iterator[None]:
    """Time what adds up the rows that came and went: the part of capture that is there for the proof alone."""
    original = module.sums  # type: ignore[attr-defined]

    def timed(*arguments: object) -> object:
        started = time.perf_counter()
        try:
            return original(*arguments)
        finally:
            proof["seconds"] += time.perf_counter() - started

    module.sums = timed  # type: ignore[attr-defined]
    yield
    module.sums = original  # type: ignore[attr-defined]


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file of the lake."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in (folder / "lake").rglob("*")
        if path.is_file()
    }


def report(title: str, run: dict[str, object], copies: float) -> None:
    steps: dict[str, float] = run["steps"]  # type: ignore[assignment]
    stages = {
        "capture": steps["capture"],
        "star": steps["derive_star"],
        "warehouse": steps["load"],
        "certificate": steps["certificate"],
        "exports": sum(seconds for name, seconds in steps.items() if name.startswith("exports__")),
    }
    work = stages["capture"] + stages["star"] + stages["warehouse"]
    print(f"\n{title}")
    print("  " + "   ".join(f"{name} {seconds:.2f} s" for name, seconds in stages.items()))
    print(f"  capture + star + warehouse: {work:.2f} s, {work / copies:.2f} of psql \\copy")
    print(f"  capture alone: {stages['capture'] / copies:.2f} of psql \\copy")
    proof = stages["certificate"] + float(run["sums"])  # type: ignore[arg-type]
    print(f"  proof beside it (certificate, sums of what came and went): {proof:.2f} s, {proof / work:.0%}")
    print(
        f"  peak memory {int(run['peak_bytes']) >> 20:,} MiB; lake files written {int(run['new_bytes']) / 1e6:,.1f} MB"
    )


if __name__ == "__main__":
    main()
