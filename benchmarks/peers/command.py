"""`python -m benchmarks peers`: this platform and other tools side by side."""

import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks.peers import report
from benchmarks.peers.environments import Environment, NotToBeHad, environment
from benchmarks.peers.measuring import Line, Sitting, clean_environment
from benchmarks.peers.tool import Tool
from benchmarks.peers.tools import (
    adbc_parquet,
    connectorx_parquet,
    dlt_connectorx,
    duckdb_scanner,
    ingestr_duckdb,
    pandas_chunks,
    platform,
    psql,
    sling_duckdb,
)
from benchmarks.source import serving
from etl_assets.totesys.demo.generator import TABLES

TOOLS = (
    psql.TOOL,
    duckdb_scanner.TOOL,
    connectorx_parquet.TOOL,
    adbc_parquet.TOOL,
    dlt_connectorx.TOOL,
    ingestr_duckdb.TOOL,
    sling_duckdb.TOOL,
    pandas_chunks.TOOL,
    platform.RAW,
    platform.FLOW,
)
KEYS = {table: f"{table}_id" for table in TABLES}


def add_arguments(parser: ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument(
        "--scales",
        default="0.5,2",
        help="sizes of the source, e.g. 2,22,108,455: 0.1, 1, 5 and 21 million rows",
    )
    parser.add_argument("--repeats", type=int, default=1, help="of each case; medians are told")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a run has failed")
    parser.add_argument("--only", help="tools, by the beginning of their names: psql,dlt,etl")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark-peers"))


def run(arguments: Namespace) -> None:
    """Measure, and write table and picture after each size. Ends with 1 if a tool failed."""
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    only = tuple(arguments.only.split(",")) if arguments.only else ("",)
    tools, missing = _environments(
        folder / "environments", [tool for tool in TOOLS if tool.name.startswith(only)]
    )
    lines: list[Line] = []
    for scale in arguments.scales.split(","):
        with serving(folder / f"source-{scale}", float(scale)) as source:
            sitting = Sitting(
                scale, source, folder / "tools", tools, KEYS, arguments.repeats, arguments.limit
            )
            lines += sitting.lines()
        shutil.rmtree(folder / "tools")
        table = report.write(folder, lines, tools, missing, base=psql.TOOL.name)
    print(table)
    print(f"{folder / report.TABLE}, {folder / report.PICTURE}", file=sys.stderr)
    if any(line.failed for line in lines):
        raise SystemExit(1)


def _environments(folder: Path, tools: list[Tool]) -> tuple[dict[Tool, Environment], dict[Tool, str]]:
    """The tools that can be had, and why the others can't."""
    made, missing = {}, {}
    for tool in tools:
        print(f"environment of {tool.name}", file=sys.stderr)
        try:
            made[tool] = environment(folder, tool, clean_environment(home=folder))
        except NotToBeHad as error:
            missing[tool] = str(error)
    return made, missing
