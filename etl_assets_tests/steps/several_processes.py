"""A group of steps under an executor that starts a process per operation. The environment says where all is."""

import os

import dagster as dg

from etl_assets.deployments import resources
from etl_assets.project import Parameter, SqlExecute, SqlQuery, Steps
from etl_assets.settings import Settings
from etl_assets.steps.assets import step_assets, step_jobs

GROUP = Steps(
    "lot", "By way of a temporary table.",
    [
        SqlExecute("made", "A temporary table.", database="shop", sql="CREATE TEMPORARY TABLE chosen AS SELECT :n AS n"),
        SqlQuery("read", "What is in it.", sql="SELECT n FROM chosen", database="shop"),
    ],
    [Parameter("n", "int", default=7)],
)  # fmt: skip


def job() -> dg.JobDefinition:
    """The group as a job."""
    return dg.Definitions(
        assets=step_assets([GROUP], []),
        jobs=step_jobs([GROUP]),
        resources=dict(resources(Settings.read(os.environ))),
        executor=dg.multiprocess_executor.configured({"max_concurrent": 2}),
    ).resolve_job_def("lot")
