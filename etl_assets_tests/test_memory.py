"""A table that is larger than the memory that a run may have goes through all stages, and a run takes no more for it than for a
few rows."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import narwhals as nw
import pytest

from etl_assets.engine import duck
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs, star_table
from etl_assets.star.schema import Column, Fact
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute

_MIB = 1 << 20
_MEMORY_BYTES = 256 * _MIB
"""What DuckDB may have before it spills, as in a container of twice that."""
_FEW, _MANY = 1_000, 800_000
_ROW_BYTES = 400
SOURCE = "CREATE TABLE sale (id int PRIMARY KEY, amount numeric(12,2) NOT NULL, note text NOT NULL)"
FILLED = "INSERT INTO sale SELECT n, n * 0.01, repeat(md5(n::text), 12) FROM generate_series({}, {}) AS n"
SALE = Table("sale", "", {"id": "int", "amount": "numeric(12,2)", "note": "text"})


@star_table(
    Fact(
        "fact_sale",
        "",
        "sale_id",
        [Column("sale_id", "int"), Column("amount", "numeric(12,2)"), Column("note", "text")],
        record="sale_record_id",
    )
)
def fact_sale(sale: nw.LazyFrame) -> nw.LazyFrame:
    return sale.select(nw.col("id").alias("sale_id"), "amount", "note")


def most_bytes() -> int:
    """The most memory that this process has had."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) << 10


def run(url: str, folder: str) -> None:
    """A first load of a few rows, one of many, and a change of them all, each certified; tell the most memory by then."""
    pytest.MonkeyPatch().setattr(duck, "memory_bytes", lambda: _MEMORY_BYTES)
    inputs = Inputs({"sale": SALE}, {"fact_sale": fact_sale}, {})
    told = {}
    execute(url, f"{SOURCE}; {FILLED.format(1, _FEW)}")
    for what, statement in {
        "few": "SELECT 1",
        "many": FILLED.format(_FEW + 1, _MANY),
        "all changed": "UPDATE sale SET amount = amount + 1",
    }.items():
        execute(url, statement)
        data = Path(folder, "few" if what == "few" else "many")
        assert Direct(url, data, inputs).run()
        told[what] = most_bytes()
    print(json.dumps(told))  # noqa: T201


@pytest.mark.fault("F38")
def test_a_file_that_is_larger_than_the_memory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duck, "memory_bytes", lambda: 128 * _MIB)
    line = f"7,{'x' * 1000}\n"
    rows = 150 * _MIB // len(line)
    (tmp_path / "large.csv").write_text("id,note\n" + line * rows)
    with duck.connect(tmp_path / "scratch") as connection:
        rows_of = duck.csv_rows([tmp_path / "large.csv"])
        found = duck.one(connection, f"SELECT count(*), sum(strlen(note)) FROM {rows_of}")
    assert found == (rows, 1000 * rows)


@pytest.mark.slow
@pytest.mark.fault("F38")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_run_takes_no_more_memory_for_a_table_that_is_larger_than_what_it_may_have(
    database: Callable[..., str], tmp_path: Path
) -> None:
    """It is certified, so that all of it is there."""
    ran = subprocess.run(
        [sys.executable, "-m", __name__, database(), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    most = json.loads(ran.stdout)
    assert _MANY * _ROW_BYTES > _MEMORY_BYTES
    for what in ("many", "all changed"):
        assert most[what] - most["few"] < _MEMORY_BYTES + 32 * _MIB, {k: v // _MIB for k, v in most.items()}


if __name__ == "__main__":
    run(*sys.argv[1:])
