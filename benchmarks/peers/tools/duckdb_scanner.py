"""DuckDB with its scanner for PostgreSQL: each table into a DuckDB file."""

from pathlib import Path

from benchmarks.peers.tool import Task, Tool, Written, module

TOOL = Tool(
    name="DuckDB",
    configured="scanner for PostgreSQL, `CREATE TABLE AS`, into a DuckDB file, in one transaction",
    written=Written("duckdb", "copy.duckdb"),
    program=module("duckdb_scanner"),
    increments=False,
    environments=("duckdb",),
)


def copy(task: Task) -> None:
    """Copy all tables in one transaction, which reads one snapshot."""
    import duckdb
    import duckdb_extension_postgres_scanner as extension  # the extension in a package: nothing is fetched

    (file,) = Path(extension.__path__[0]).rglob("postgres_scanner.duckdb_extension")
    with duckdb.connect(str(task.folder / "copy.duckdb")) as connection:
        connection.load_extension(str(file))
        address = task.url.replace("'", "''")
        connection.execute(f"ATTACH '{address}' AS source (TYPE postgres, READ_ONLY)")
        connection.begin()
        for table in task.keys:
            connection.execute(f'CREATE TABLE "{table}" AS FROM source.public."{table}"')
        connection.commit()


if __name__ == "__main__":
    copy(Task.given())
