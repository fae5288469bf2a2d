"""ingestr: a command per table, as it is used, into a DuckDB file."""

import sys
from pathlib import Path

from benchmarks.peers.tool import Task, Tool, Written, module, run

TOOL = Tool(
    name="ingestr",
    configured="a command per table, into a DuckDB file: replace, then merge by `--incremental-key last_updated`",
    written=Written("duckdb", "copy.duckdb", "shop"),
    program=module("ingestr_duckdb"),
    increments=True,
    environments=("ingestr", "ingestr-python"),
    probe=("-m", "benchmarks.peers.tools.ingestr_duckdb", "--version"),
    variables=lambda task: task.variables(DISABLE_TELEMETRY="true", RUNTIME__DLTHUB_TELEMETRY="false"),
)


_PROGRAM = str(Path(sys.executable).parent / "ingestr")


def copy(task: Task) -> None:
    """Run the commands, one after the other."""
    addresses = {"SOURCE_URI": task.url, "DESTINATION_URI": f"duckdb:///{task.folder / 'copy.duckdb'}"}
    for table, key in task.keys.items():
        command = [_PROGRAM, "ingest", "--yes", "--progress", "log"]
        command += ["--source-table", f"public.{table}", "--dest-table", f"shop.{table}"]
        command += ["--incremental-key", "last_updated", "--primary-key", key]
        command += ["--incremental-strategy", "replace" if task.first else "merge"]
        run(command, **addresses)


if __name__ == "__main__":
    if sys.argv[1:]:
        run([_PROGRAM, *sys.argv[1:]])
    else:
        copy(Task.given())
