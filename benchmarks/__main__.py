"""`python -m benchmarks`: what `etl run` and `etl verify` cost, on a source of any size, beside `psql \\copy` of its tables.

    --scale 108      5.07 million rows (the generator's scale; 1 is 11,000 orders, 455 is 21 million rows)
    --folder DIR     where source, lake and warehouse are kept (default data/benchmark); the source is reused if it is there
    --increments 3   how often 4,793 rows are changed, and brought

Whole processes, from the shell's point of view, start-up included; `\\copy` is taken anew before each, and ratios are to that
one. Processor seconds are those of the process and of the server together. Linux only: it reads /proc.
"""

import argparse
import json
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from statistics import median

import psycopg2

from benchmarks.cost import Cost, of_process
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
    parser.add_argument("--scale", type=float, default=10, help="108: 5 million rows; 455: 21 million")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark"))
    parser.add_argument("--increments", type=int, default=3)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with serve(folder / "source") as url:
        prepare(url, arguments.scale)
        for leftover in ("lake", "scratch", "dagster"):
            shutil.rmtree(folder / leftover, ignore_errors=True)
        for name in ("warehouse.duckdb", "reports.xlsx"):
            (folder / name).unlink(missing_ok=True)
        bench = Bench(folder, url)
        bench.heading()
        bench.line("first load", ["run", "--json"])
        for number in range(arguments.increments):
            change(url, seed=number + 1)
            bench.line("4,793 changes", ["run", "--json"])
        bench.line("nothing changed", ["run", "--json"])
        bench.line("etl status", ["status", "--json"])
        bench.line("etl verify", ["verify", "--json"])
        bench.line("etl verify --thorough", ["verify", "--thorough", "--json"])
        bench.conclude()


class Bench:
    """A table of what commands cost, each beside a copy of the source's tables."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        (running,) = (folder / "source").rglob("postmaster.pid")
        self.postmaster = int(running.read_text().split()[0])
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "DAGSTER_"))
        }
        self.environment = kept | {"ETL_SOURCE_URL": url, "ETL_DATA": str(folder)}
        self.copies: list[Cost] = []

    def heading(self) -> None:
        """The first lines of the table, in Markdown."""
        print("\n| | wall s | of `\\copy` | processor s | of `\\copy` | peak MiB | written MB |")
        print("|---|---|---|---|---|---|---|", flush=True)

    def line(self, title: str, arguments: list[str]) -> None:
        """Take a copy, run a command, and print what it cost."""
        copied = self.copied()
        before = written(self.folder)
        etl = [sys.executable, "-m", "etl_assets.cli", *arguments]
        cost = of_process(etl, self.environment, self.postmaster)
        new = sum(
            size for path, (size, stamp) in written(self.folder).items() if before.get(path) != (size, stamp)
        )
        print(
            f"| {title} | {cost.wall:.1f} | {cost.wall / copied.wall:.2f} | {cost.processor:.1f} | "
            f"{cost.processor / copied.processor:.2f} | {cost.peak_bytes >> 20:,} | {new / 1e6:,.1f} |",
            flush=True,
        )
        if arguments[0] == "run" and (stages := json.loads(cost.output).get("stages")):
            print(
                "  " + ", ".join(f"{name} {of['seconds']:.1f} s" for name, of in stages.items()),
                file=sys.stderr,
            )

    def copied(self) -> Cost:
        """What the same rows take through PostgreSQL's own client, one table after the other."""
        command = [str(find_binaries() / "psql"), "-X", "-q", self.url]
        for table in (*BIG, "purchase_order"):
            command += ["-c", f"\\copy {table} to '/dev/null' csv header"]
        self.copies.append(of_process(command, self.environment, self.postmaster))
        return self.copies[-1]

    def conclude(self) -> None:
        """The copies, for the ratios' sake."""
        wall, processor = (
            median(values) for values in zip(*((c.wall, c.processor) for c in self.copies), strict=True)
        )
        print(
            f"| `\\copy` of all tables (median of {len(self.copies)}) | {wall:.1f} | 1 | {processor:.1f} | 1 | | |"
        )


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


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files but the source's."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] != "source" and path.is_file()
    }


if __name__ == "__main__":
    main()
