"""dlt with the quickest of its backends, into DuckDB: appended at first, then merged by a cursor on `last_updated`."""

from benchmarks.peers.tool import Task, Tool, Written, module

TOOL = Tool(
    name="dlt",
    configured="backend connectorx, into a DuckDB file: append, then merge by a cursor on `last_updated`",
    written=Written("duckdb", "copy.duckdb", "shop"),
    program=module("dlt_connectorx"),
    increments=True,
    environments=("dlt",),
    variables=lambda task: task.variables(RUNTIME__DLTHUB_TELEMETRY="false"),
)


def copy(task: Task) -> None:
    """Run the pipeline, whose state is in the folder."""
    import dlt
    from dlt.sources.sql_database import sql_table

    pipeline = dlt.pipeline(
        pipeline_name="shop",
        pipelines_dir=str(task.folder / "pipelines"),
        destination=dlt.destinations.duckdb(str(task.folder / "copy.duckdb")),
        dataset_name="shop",
    )
    resources = [
        sql_table(
            credentials=task.url,
            schema="public",
            table=table,
            backend="connectorx",
            backend_kwargs={"conn": task.url, "return_type": "arrow"},
            reflection_level="full_with_precision",
            incremental=dlt.sources.incremental("last_updated"),
            primary_key=key,
        )
        for table, key in task.keys.items()
    ]
    pipeline.run(resources, write_disposition="append" if task.first else "merge")


if __name__ == "__main__":
    copy(Task.given())
