"""This platform: the whole flow, and its first stage alone, which is what the other tools do."""

from collections.abc import Sequence

from benchmarks.peers.tool import Task, Tool, Written

_LAKE = Written("batches", "lake")


def _variables(task: Task) -> dict[str, str]:
    return {"ETL_SOURCE_URL": task.url, "ETL_DATA": str(task.folder)}


def _run(*arguments: str) -> Sequence[str]:
    return ["-m", "etl_assets.cli", "run", *arguments]


FLOW = Tool(
    name="etl run",
    configured="raw, star, warehouse, certificate, reports; contents are those of raw",
    written=_LAKE,
    program=lambda _, python: [str(python), *_run()],
    increments=True,
    variables=_variables,
)
RAW = Tool(
    name="etl run, raw alone",
    configured="CSV batches in one snapshot, sums compared with the source's",
    written=_LAKE,
    program=lambda task, python: [
        str(python),
        *_run("--select", " or ".join(f"raw/{table}" for table in task.keys)),
    ],
    increments=True,
    variables=_variables,
)
