"""What a small batch costs after ten batches, and after very many.

    python -m benchmarks.year [--batches 10000] [--folder data/year]

The first ten batches are taken, and the last forty; those between are written as batches are that bring one version of a row
each, with what their merged files and folded books would be, and old ones are moved into checkpoints as a run would do it. Their
landed files are links to a few, so that half a million of them (a year at the default pace) need no disk to speak of. All runs are the whole flow, with Dagster's history in SQLite.
CPU seconds are this process's, so that a busy machine counts less; requests are what an object store would be asked.
"""

import argparse
import hashlib
import logging
import math
import os
import shutil
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import duckdb
import psycopg2

from etl_assets.cli import environment
from etl_assets.definitions import definitions
from etl_assets.engine import duck
from etl_assets.lake import checkpoints, resource
from etl_assets.lake.certificates import certificate_path
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.manifest import FORMAT, FORMAT_WITH_CHECKPOINTS, LandedFile, Manifest, TableChanges
from etl_assets.lake.names import FileNames, manifest_path, number
from etl_assets.lake.seal import sealed
from etl_assets.project import load
from etl_assets.raw.writing import history_of
from etl_assets.settings import Settings
from etl_assets.stand_ins.postgres import serve
from etl_assets.star.files import TableFiles, listed
from etl_assets.star.resource import Lake, OpenLake

_PROJECT = '''
import narwhals as nw
from etl_assets.project import Column, Table, dimension, fact

ITEM = Table("item", "One row is an item.", {"id": "int", "name": "text"})
SALE = Table("sale", "One row is a sale.", {"id": "int", "item_id": "int", "amount": "numeric(10,2)"})

@dimension(key="item_id", columns=[Column("item_id", "int"), Column("name", "text")])
def dim_item(item: nw.LazyFrame) -> nw.LazyFrame:
    """One row is an item."""
    return item.select(nw.col("id").alias("item_id"), "name")

@fact(key="sale_id", record="sale_record_id", columns=[
    Column("sale_id", "int"), Column("item_id", "int", references="dim_item"), Column("amount", "numeric(10,2)")])
def fact_sale(sale: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of a sale."""
    return sale.select(nw.col("id").alias("sale_id"), "item_id", "amount")
'''
_SOURCE = """
CREATE TABLE item (id int PRIMARY KEY, name text);
CREATE TABLE sale (id int PRIMARY KEY, item_id int, amount numeric(10,2));
INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 100) n;
INSERT INTO sale SELECT n, 1 + n % 100, n FROM generate_series(1, 20000) n;
"""
_CHANGE = """
UPDATE sale SET amount = amount + 1 WHERE id BETWEEN 100 AND 129;
INSERT INTO sale SELECT max(id) + 1, 1, 5 FROM sale;
UPDATE item SET name = name || '.' WHERE id = 7
"""
_EARLY, _LATE, _JUDGED = 10, 40, 8
_LINKS = 10_000  # to one file: file systems have a limit
_PAGE = 1000  # keys that an object store lists in one answer
_TABLE, _FACT = "sale", "fact_sale"


class Counting(LocalFiles):
    """A folder that counts the requests that an object store would get."""

    asked: Counter[str] = Counter()  # noqa: RUF012  one for all

    def names(self, folder: str) -> list[str]:
        found = super().names(folder)
        self.asked["listings"] += max(1, math.ceil(len(found) / _PAGE))
        return found

    def sizes(self, folder: str) -> dict[str, int]:
        found = super().sizes(folder)
        self.asked["listings"] += max(1, math.ceil(len(found) / _PAGE))
        return found

    def exists(self, path: str) -> bool:
        self.asked["questions"] += 1
        return super().exists(path)

    def read(self, path: str) -> bytes:
        self.asked["reads"] += 1
        return super().read(path)


@dataclass(frozen=True)
class Cost:
    """What a run took. `history`: bytes that it left in Dagster's."""

    cpu: float
    wall: float
    listings: int
    questions: int
    reads: int
    history: int

    @classmethod
    def of_many(cls, costs: "list[Cost]") -> "Cost":
        """The median of each figure."""
        return cls(*(median(getattr(cost, name) for cost in costs) for name in cls.__annotations__))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.year", description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("data/year"))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shop").mkdir(parents=True)
    (folder / "shop/__init__.py").write_text(_PROJECT)
    logging.disable(logging.CRITICAL)
    resource.open_files = lambda url, cache: Counting(Path(url))  # type: ignore[attr-defined]
    with serve(folder / "source") as url:
        settings = {
            "ETL_SOURCE_URL": url,
            "ETL_DATA": str(folder / "data"),
            "ETL_PROJECT": str(folder / "shop"),
        }
        os.environ |= settings
        os.environ.pop("DAGSTER_HOME", None)
        environment.arrange_dagster_home(Settings.read(os.environ))
        execute(url, _SOURCE)
        early = [run(url, folder) for _ in range(_EARLY)][-_JUDGED:]
        grow(folder, arguments.batches - _EARLY - _LATE)
        late = [run(url, folder) for _ in range(_LATE)][-_JUDGED:]
    show(Cost.of_many(early), Cost.of_many(late), arguments.batches, folder / "data")


def run(url: str, folder: Path) -> Cost:
    """A small change, and the whole flow."""
    execute(url, _CHANGE)
    before = history_bytes(folder)
    Counting.asked.clear()
    job = definitions(Settings.read(os.environ)).resolve_job_def("etl")
    with environment.open_instance() as instance:
        cpu, wall = time.process_time(), time.perf_counter()
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if not result.success:
        raise SystemExit("a run failed")
    asked = Counting.asked
    return Cost(
        cpu, wall, asked["listings"], asked["questions"], asked["reads"], history_bytes(folder) - before
    )


def execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def history_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "data/dagster").rglob("*.db"))


def grow(folder: Path, batches: int) -> None:
    """Write so many batches, each with the present version of one row once more."""
    inputs = load(str(folder / "shop")).inputs
    data = folder / "data"
    lake = Lake(url=str(data / "lake"), scratch=str(data / "scratch"), cache=str(data / "cache"))
    with lake.open(inputs) as bench:
        before = bench.manifest
        newest = before
        landed = bench.star.files.read(before.tables[_TABLE].changes.rows.path)  # type: ignore[union-attr]
        header, row = landed.splitlines(keepends=True)[:2]
        certificate = bench.star.files.read(certificate_path(before.batch))
        for _ in range(batches):
            newest = _one_more(newest, header + row)
            _landed(data / "lake", newest, header + row)
            (data / "lake" / certificate_path(newest.batch)).write_bytes(certificate)
            if newest.batch == before.batch + batches:
                bench.builder.batches.commit(newest)
            else:  # not durable: a machine that fails begins the benchmark anew
                (data / "lake" / manifest_path(newest.batch)).write_bytes(_written(newest))
                if checkpoints.is_due(newest.batch):
                    bench.builder.batches.checkpoints.fold(newest.batch)
        bench.star.publish({_FACT: _grown(bench, before, newest, int(row.split(b",")[0]))}, newest.batch)
    with closing(duckdb.connect(str(data / "warehouse.duckdb"))) as warehouse:
        warehouse.execute(
            "INSERT INTO star.batches SELECT n, source_time, run_id, lake, project, certified FROM star.batches, "
            f"range({before.batch + 1}, {newest.batch}) t(n) WHERE batch = {before.batch}"
        )


def _written(manifest: Manifest) -> bytes:
    return sealed(manifest.model_dump_json(indent=1).encode())


def _landed(lake: Path, manifest: Manifest, content: bytes) -> None:
    """The file that a batch landed, as a link to one with its content."""
    changes = manifest.tables[_TABLE].changes
    assert changes
    assert changes.rows
    linked = lake.parent / f"landed-{manifest.batch // _LINKS}.csv"
    if not linked.exists():
        linked.write_bytes(content)
    (lake / changes.rows.path).hardlink_to(linked)


def _one_more(before: Manifest, content: bytes) -> Manifest:
    """The manifest of the next batch, which brought one row."""
    names = FileNames.of_a_run(before.batch + 1)
    digest = hashlib.sha256(content).hexdigest()
    file = LandedFile(path=names.rows(_TABLE), rows=1, bytes=len(content), sha256=digest)
    changes = TableChanges(rows=file, deletions=None, quarantined=None, new=0, changed=1, deleted=0)
    held = before.tables[_TABLE]
    state = held.model_copy(
        update={
            "changed_in": names.batch,
            "previous": held.changed_in,
            "read_in": names.batch,
            "versions": held.versions + 1,
            "history": history_of(held, names.batch, changes),
            "changes": changes,
        }
    )
    others = {name: one.model_copy(update={"changes": None}) for name, one in before.tables.items()}
    return before.model_copy(
        update={
            "format": FORMAT_WITH_CHECKPOINTS if checkpoints.may_be(names.batch) else FORMAT,
            "batch": names.batch,
            "previous": hashlib.sha256(_written(before)).hexdigest(),
            "tables": {**others, _TABLE: state},
        }
    )


def _grown(bench: OpenLake, before: Manifest, newest: Manifest, sale: int) -> TableFiles:
    """The fact's files with one more, which holds what the batches brought."""
    held = bench.star.table(_FACT)
    assert held
    first, batches = before.tables[_TABLE].versions, newest.batch - before.batch
    files = duck.parquet([bench.star.local(file.path) for file in held.files])
    rows = bench.connection.sql(
        f"SELECT {first} + n AS sale_record_id, l.* EXCLUDE (sale_record_id, batch), "
        f"CAST({before.batch} + n AS BIGINT) AS batch FROM (FROM {files} WHERE sale_id = {sale} "
        f"ORDER BY sale_record_id DESC LIMIT 1) l, range(1, {batches + 1}) t(n) ORDER BY 1"
    )
    names = ", ".join(c.name for c in bench.builder.inputs.star[_FACT].schema.columns)
    staged = bench.star.staging(_FACT, newest.batch)
    duck.write_parquet(rows.project(names), staged.local, {})
    version = bench.builder.version(_FACT, newest)
    file = listed(staged.path, staged.local, version, newest.batch, batches)
    staged.publish()
    file = file.model_copy(update={"since": before.batch + 1, "batches": batches})
    return held.model_copy(update={"files": (*held.files, file)})


def show(early: Cost, late: Cost, batches: int, data: Path) -> None:
    """The two side by side, and what is kept."""
    print(f"{'a small batch':<42}{'after 10':>12}{f'after {batches:,}':>16}{'ratio':>8}")
    for name in Cost.__annotations__:
        one, other = getattr(early, name), getattr(late, name)
        print(f"{name:<42}{one:>12,.2f}{other:>16,.2f}{other / one if one else 1:>8.2f}")
    for folder in ("lake/raw", "lake/star", "lake/current", "dagster"):
        files = [path for path in (data / folder).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(f"{folder}: {len(files):,} files, {size / 1e6:,.1f} MB")
    star = max((data / "lake/star/batches").iterdir(), key=lambda path: path.stat().st_mtime)
    print(f"the star's manifest: {star.stat().st_size / 1e3:,.1f} kB; a batch's manifest: ", end="")
    print(f"{(data / 'lake/raw/batches' / f'{number(batches)}.json').stat().st_size / 1e3:,.1f} kB")


if __name__ == "__main__":
    main()
