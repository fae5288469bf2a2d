"""connectorx: each table as an Arrow table, read by as many connections as there are cores, and written as Parquet."""

import os

from benchmarks.peers.tool import Task, Tool, Written, module

TOOL = Tool(
    name="connectorx",
    configured="Arrow, partitions of the key over two connections, to Parquet by pyarrow",
    written=Written("parquet", "{table}.parquet"),
    program=module("connectorx_parquet"),
    increments=False,
    environments=("connectorx",),
)


def copy(task: Task) -> None:
    """Copy one table after the other."""
    import connectorx
    import pyarrow.parquet as pq

    for table, key in task.keys.items():
        arrow = connectorx.read_sql(
            task.url,
            f'SELECT * FROM "{table}"',
            return_type="arrow",
            partition_on=key,
            partition_num=os.cpu_count() or 1,
        )
        pq.write_table(arrow, task.folder / f"{table}.parquet")


if __name__ == "__main__":
    copy(Task.given())
