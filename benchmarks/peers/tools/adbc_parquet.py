"""ADBC's driver for PostgreSQL: each table as a stream of Arrow batches, written as Parquet while it comes."""

from benchmarks.peers.tool import Task, Tool, Written, module

TOOL = Tool(
    name="ADBC",
    configured="one snapshot, Arrow batches (by binary COPY) to Parquet by pyarrow",
    written=Written("parquet", "{table}.parquet"),
    program=module("adbc_parquet"),
    increments=False,
    environments=("adbc",),
)


def copy(task: Task) -> None:
    """Copy one table after the other, in one transaction."""
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow.parquet as pq

    with adbc.connect(task.url) as connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table in task.keys:
            cursor.execute(f'SELECT * FROM "{table}"')
            reader = cursor.fetch_record_batch()
            with pq.ParquetWriter(task.folder / f"{table}.parquet", reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)


if __name__ == "__main__":
    copy(Task.given())
