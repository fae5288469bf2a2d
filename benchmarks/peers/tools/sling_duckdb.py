"""sling: one replication of all tables into a DuckDB file."""

import importlib.util
import json
import sys
from pathlib import Path

from benchmarks.peers.tool import Task, Tool, Written, module, run

TOOL = Tool(
    name="sling",
    configured="one replication, into a DuckDB file: full refresh, then incremental by `update_key: last_updated`",
    written=Written("duckdb", "copy.duckdb", "shop"),
    program=module("sling_duckdb"),
    increments=True,
    environments=("sling", "sling-binary"),
    probe=("-m", "benchmarks.peers.tools.sling_duckdb", "--version"),
    variables=lambda task: task.variables(SLING_DISABLE_TELEMETRY="true"),
)


def program() -> str:
    """The program, where it came in a package, or what fetches it."""
    packaged = _packaged("sling_linux_amd64", "bin/sling-linux-amd64")
    return str(packaged[0] if packaged else Path(sys.executable).parent / "sling")


def _packaged(package: str, pattern: str) -> list[Path]:
    """Files that a package of the environment brings; none if it is not there."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return [path for folder in folders or () for path in Path(folder).glob(pattern)]


def _place_extension(folder: Path) -> None:
    """Put the extension by which DuckDB reads what sling hands over where DuckDB looks for it."""
    (file,) = _packaged("duckdb_extension_httpfs", "extensions/*/httpfs.duckdb_extension")
    place = folder / file.parent.name / "linux_amd64" / file.name
    if not place.exists():
        place.parent.mkdir(parents=True)
        place.symlink_to(file)


def copy(task: Task) -> None:
    """Run the replication. sling writes through DuckDB's own program, which is that of the environment: none is fetched."""
    _place_extension(task.folder / ".duckdb/extensions")
    streams = {
        f"public.{table}": {"object": f"shop.{table}", "primary_key": [key], "update_key": "last_updated"}
        for table, key in task.keys.items()
    }
    replication = {
        "source": "SOURCE",
        "target": "TARGET",
        "defaults": {"mode": "full-refresh" if task.first else "incremental"},
        "streams": streams,
    }
    file = task.folder / "replication.json"
    file.write_text(json.dumps(replication))
    variables = {
        "SOURCE": f"{task.url}?sslmode=disable",
        "TARGET": f"duckdb://{task.folder / 'copy.duckdb'}",
        "DUCKDB_USE_INSTALLED_EXTENSIONS": "true",
        "DUCKDB_PATH": str(Path(sys.executable).parent / "duckdb"),
    }
    run([program(), "run", "-r", str(file)], **variables)


if __name__ == "__main__":
    if sys.argv[1:]:
        run([program(), *sys.argv[1:]])
    else:
        copy(Task.given())
