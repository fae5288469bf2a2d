"""How long it takes from a commit in the source until the warehouse shows it.

    python -m benchmarks.latency [--changes 20] [--scale 1] [--folder data/latency]

`etl ui` runs as a process of its own, with its daemon and the workers that it starts, at a pace of nothing (`ETL_EVERY=0`), over
ToteSys with all its assets. Each change is one sale in one transaction, at a random moment after the one before has arrived and
its run has ended. The warehouse is looked at when its file has changed, so that looking keeps no run from loading it.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from statistics import median, quantiles

import dagster as dg
import duckdb
import psycopg2

from etl_assets.cli import environment
from etl_assets.settings import Settings
from etl_assets.stand_ins.postgres import serve
from etl_assets.totesys.demo.generator import generate

_SALE = """
INSERT INTO sales_order (created_at, last_updated, design_id, staff_id, counterparty_id, units_sold, unit_price,
                         currency_id, agreed_delivery_date, agreed_payment_date, agreed_delivery_location_id)
SELECT created_at, last_updated, design_id, staff_id, counterparty_id, units_sold, unit_price, currency_id,
       agreed_delivery_date, agreed_payment_date, agreed_delivery_location_id
FROM sales_order ORDER BY sales_order_id DESC LIMIT 1 RETURNING sales_order_id
"""
_ARRIVED = "SELECT count(*) FROM star.fact_sales_order WHERE sales_order_id = ?"
_LOOK_SECONDS = 0.02
_FIRST_LOAD_SECONDS, _CHANGE_SECONDS = 900, 300
_PAUSE_SECONDS = 12  # longer than the sensor's interval, so that a change comes at any moment of it


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__.split("\n")[0])
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--scale", type=float, default=1, help="1: 11,000 sales orders")
    parser.add_argument("--folder", type=Path, default=Path("data/latency"))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ.pop("DAGSTER_HOME", None)
    with serve(folder / "source") as url:
        generate(url, scale=arguments.scale)
        os.environ |= {"ETL_SOURCE_URL": url, "ETL_DATA": str(folder / "data"), "ETL_EVERY": "0"}
        environment.arrange_dagster_home(Settings.read(os.environ))
        warehouse = folder / "data/warehouse.duckdb"
        with interface(folder), environment.open_instance() as instance:
            wait(lambda: runs_ended(instance), _FIRST_LOAD_SECONDS, "the first load", every=1)
            rng = Random(1)
            took = [latency(url, warehouse, instance, rng) for _ in range(arguments.changes)]
    print(f"commit to warehouse, {len(took)} changes of one row: median {median(took):.1f} s, ", end="")
    print(f"90 % within {quantiles(took, n=10)[-1]:.1f} s, at most {max(took):.1f} s")


@contextmanager
def interface(folder: Path) -> Iterator[None]:
    """`etl ui` as a process, until the block ends."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with (folder / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "etl_assets.cli", "ui", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def latency(url: str, warehouse: Path, instance: dg.DagsterInstance, rng: Random) -> float:
    """Seconds from the commit of a sale until the warehouse has it."""
    time.sleep(rng.uniform(0, _PAUSE_SECONDS))
    stamp = warehouse.stat().st_mtime_ns
    with closing(psycopg2.connect(url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(_SALE)
            ((sale,),) = cursor.fetchall()
        connection.commit()
    committed = time.monotonic()

    def arrived() -> bool:
        nonlocal stamp
        now = warehouse.stat().st_mtime_ns
        if now == stamp:
            return False
        try:
            with closing(duckdb.connect(str(warehouse), read_only=True)) as connection:
                found = connection.execute(_ARRIVED, [sale]).fetchall()[0][0]
        except duckdb.IOException:  # a run is loading it
            return False
        stamp = now
        return bool(found)

    wait(arrived, _CHANGE_SECONDS, f"sale {sale}")
    seconds = time.monotonic() - committed
    print(f"{seconds:.1f} s", file=sys.stderr, flush=True)
    wait(lambda: runs_ended(instance), _CHANGE_SECONDS, "the end of its run", every=0.5)
    return seconds


def runs_ended(instance: dg.DagsterInstance) -> bool:
    """Whether the last run has succeeded. One that failed ends the benchmark."""
    found = instance.get_runs(limit=1)
    if any(run.is_failure_or_canceled for run in found):
        raise SystemExit(f"run {found[0].run_id} has failed")
    return any(run.is_success for run in found)


def wait(condition: Callable[[], bool], seconds: float, what: str, every: float = _LOOK_SECONDS) -> None:
    """Wait until a condition holds. Ends the benchmark if it does not in so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come within {seconds} s")
        time.sleep(every)


if __name__ == "__main__":
    main()
