"""`python -m benchmarks.header_line`: what a change of headers costs their lines.

    --lines 5_000_000   five lines to an order
    --folder DIR        where source, lake and warehouse are kept (default data/benchmark-lines); the source is reused if it is there

A fact of order lines takes customer and dates from their orders. Reported are whole commands, from the shell's point of view: a
first load, 5,000 changed lines, 5,000 changed orders, the same where the function has to be compared whole, and a verification.
Beside the comparison stands the function alone, applied to all rows and written. Linux only: it reads /proc.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psycopg2

from benchmarks.cost import of_process
from benchmarks.header_line.shop import RANKED
from etl_assets.engine import duck
from etl_assets.project import load
from etl_assets.stand_ins.postgres import serve
from etl_assets.star.resource import Lake

PROJECT = "benchmarks.header_line.shop"
FACT = "fact_order_line"
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
    parser.add_argument("--apply", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apply:
        print(json.dumps(apply(arguments.apply)))
        return
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    orders = arguments.lines // 5
    with serve(folder / "source") as url:
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('orders') IS NULL")
            if cursor.fetchall() == [(True,)]:
                cursor.execute(SOURCE, {"orders": orders, "lines": arguments.lines})
        (running,) = (folder / "source").rglob("postmaster.pid")
        postmaster = int(running.read_text().split()[0])
        step = orders // 5_000
        print("| | wall s | processor s | peak MiB | of it capture, star, warehouse |\n|---|---|---|---|---|")
        by_key = environment(folder / "by_key", url, {})
        told("first load", ["run"], by_key, postmaster)
        for seed in (1, 2, 3):
            change(url, LINES, step, seed)
            told("5,000 changed lines, by key", ["run"], by_key, postmaster)
            change(url, ORDERS, step, seed)
            told("5,000 changed orders, by key", ["run"], by_key, postmaster)
        told("verification", ["verify"], by_key, postmaster)
        whole = environment(folder / "whole", url, {RANKED: "yes"})
        told("first load of what is compared whole", ["run"], whole, postmaster)
        for seed in (4, 5, 6):
            change(url, ORDERS, step, seed)
            told("5,000 changed orders, compared whole", ["run"], whole, postmaster)
        command = [sys.executable, "-m", "benchmarks.header_line", "--apply", whole["ETL_DATA"]]
        cost = of_process(command, whole, postmaster)
        seconds = json.loads(cost.output)
        print(
            f"| its function alone, applied to all and written | {cost.wall:.1f} | {cost.processor:.1f} | "
            f"{cost.peak_bytes >> 20:,} | {seconds:.1f} |"
        )


def environment(data: Path, url: str, more: dict[str, str]) -> dict[str, str]:
    """What a command runs with: an empty folder of its own, and nothing of the user's settings."""
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "DAGSTER_"))}
    return kept | {"ETL_SOURCE_URL": url, "ETL_DATA": str(data), "ETL_PROJECT": PROJECT} | more


def change(url: str, statement: str, step: int, seed: int) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, {"step": step, "seed": seed % step})


def told(title: str, arguments: list[str], environment: Mapping[str, str], postmaster: int) -> None:
    """Run a command, and print what it cost."""
    cost = of_process([sys.executable, "-m", "etl_assets.cli", *arguments, "--json"], environment, postmaster)
    stages = json.loads(cost.output).get("stages", {})
    parts = ", ".join(
        f"{stages[name]['seconds']:.1f}" for name in ("raw", "star", "warehouse") if name in stages
    )
    print(
        f"| {title} | {cost.wall:.1f} | {cost.processor:.1f} | {cost.peak_bytes >> 20:,} | {parts} |",
        flush=True,
    )


def apply(data: Path) -> float:
    """Seconds that the function takes on all rows, written as a first load writes them."""
    project = load(PROJECT)
    definition = project.star[FACT]
    lake = Lake(url=str(data / "lake"), scratch=str(data / "scratch"), cache=str(data / "cache"))
    with lake.open(project.inputs) as bench:
        relations = {name: bench.builder.existing(name, bench.manifest) for name in definition.inputs}
        started = time.perf_counter()
        made = definition.apply(bench.connection, relations).order("order_id, line_no")
        duck.write_parquet(made, data / "applied.parquet", {})
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
