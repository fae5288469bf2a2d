r"""PostgreSQL's own client: `\copy` of each table, one after the other. What ratios are to."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.peers.tool import Task, Tool, Written
from etl_assets.stand_ins.postgres import find_binaries


def program(task: Task, _: Path) -> Sequence[str]:
    """One process for all tables."""
    copies = (
        word
        for table in task.keys
        for word in ("-c", f"\\copy {table} to '{task.folder / table}.csv' csv header")
    )
    return [str(find_binaries() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *copies]


def variables(task: Task) -> dict[str, str]:
    """The address, as the client reads it from its environment."""
    address = urlsplit(task.url)
    return {
        "PGHOST": str(address.hostname),
        "PGPORT": str(address.port),
        "PGUSER": str(address.username),
        "PGPASSWORD": address.password or "",
        "PGDATABASE": address.path[1:],
    }


TOOL = Tool(
    name="psql `\\copy`",
    configured="one table after the other, to CSV files",
    written=Written("csv", "{table}.csv"),
    program=program,
    increments=False,
    variables=variables,
)
