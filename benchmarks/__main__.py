"""`python -m benchmarks`: what `etl run` and `etl verify` cost, on a source of any size, beside `psql \\copy` of its tables.

    --scale 108      5.07 million rows (the generator's scale; 1 is 11,000 orders, 455 is 21 million rows)
    --folder DIR     where source, lake and warehouse are kept (default data/benchmark); the source is reused if it is there
    --increments 3   how often 4,793 rows are changed, and brought
    peers            other tools beside it, on the same source: `python -m benchmarks peers --help`

Whole processes, from the shell's point of view, start-up included; `\\copy` is taken anew before each, and ratios are to that
one. Processor seconds are those of the process and of the server together. Linux only: it reads /proc.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from statistics import median

from benchmarks.cost import Cost, of_process
from benchmarks.peers import command
from benchmarks.source import BIG, Source, change, serving
from etl_assets.stand_ins.postgres import find_binaries


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.set_defaults(run=platform)
    parser.add_argument("--scale", type=float, default=10, help="108: 5 million rows; 455: 21 million")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark"))
    parser.add_argument("--increments", type=int, default=3)
    side_by_side = parser.add_subparsers().add_parser("peers", help=command.__doc__)
    side_by_side.set_defaults(run=command.run)
    command.add_arguments(side_by_side)
    arguments = parser.parse_args()
    arguments.run(arguments)


def platform(arguments: argparse.Namespace) -> None:
    """This platform, command by command."""
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with serving(folder / "source", arguments.scale) as source:
        for leftover in ("lake", "scratch", "dagster"):
            shutil.rmtree(folder / leftover, ignore_errors=True)
        for name in ("warehouse.duckdb", "reports.xlsx"):
            (folder / name).unlink(missing_ok=True)
        bench = Bench(folder, source)
        bench.heading()
        bench.line("first load", ["run", "--json"])
        for _ in range(arguments.increments):
            change(source.url)
            bench.line("4,793 changes", ["run", "--json"])
        bench.line("nothing changed", ["run", "--json"])
        bench.line("etl status", ["status", "--json"])
        bench.line("etl verify", ["verify", "--json"])
        bench.line("etl verify --thorough", ["verify", "--thorough", "--json"])
        bench.conclude()


class Bench:
    """A table of what commands cost, each beside a copy of the source's tables."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self.url = source.url
        self.postmaster = source.postmaster
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "DAGSTER_"))
        }
        self.environment = kept | {"ETL_SOURCE_URL": source.url, "ETL_DATA": str(folder)}
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


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files but the source's."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] != "source" and path.is_file()
    }


if __name__ == "__main__":
    main()
