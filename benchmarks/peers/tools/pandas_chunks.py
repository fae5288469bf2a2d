"""A script as older pipelines had it: pandas reads chunks, by a cursor on `last_updated`, and writes CSV."""

import json

from benchmarks.peers.tool import Task, Tool, Written, module

_CHUNK = 100_000

TOOL = Tool(
    name="pandas script",
    configured="`read_sql` in chunks of 100,000 rows through a server-side cursor, to CSV; then rows above the newest `last_updated`",
    written=Written("versions", "{table}"),
    program=module("pandas_chunks"),
    increments=True,
    environments=("pandas",),
)


def copy(task: Task) -> None:
    """Write the new rows of each table into a file with the next number, and remember the newest time."""
    import pandas
    import sqlalchemy

    state = task.folder / "newest.json"
    newest = json.loads(state.read_text()) if state.exists() else {}
    engine = sqlalchemy.create_engine(task.url.replace("postgresql:", "postgresql+psycopg2:", 1))
    with engine.connect().execution_options(stream_results=True) as connection:
        for table in task.keys:
            since = newest.get(table, "-infinity")
            query = sqlalchemy.text(f'SELECT * FROM "{table}" WHERE last_updated > :since')
            folder = task.folder / table
            folder.mkdir(exist_ok=True)
            file = folder / f"{len(list(folder.iterdir())):06}.csv"
            for chunk in pandas.read_sql(query, connection, params={"since": since}, chunksize=_CHUNK):
                if len(chunk):
                    chunk.to_csv(file, mode="a", index=False, header=not file.exists())
                    newest[table] = max(newest.get(table, ""), str(chunk["last_updated"].max()))
    state.write_text(json.dumps(newest))


if __name__ == "__main__":
    copy(Task.given())
