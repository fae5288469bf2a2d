"""What Dagster's interface shows of staleness, asked in its own language (GraphQL), in this process."""

import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget, PythonFileTarget
from dagster_graphql.test.utils import execute_dagster_graphql

loaded = dg.Definitions()
"""What the interface loads: it finds definitions as an attribute of a module."""
_QUERY = "{ assetNodes { assetKey { path } isMaterializable staleStatus staleCauses { category } } }"
_KINDS = {"CODE": "code", "DATA": "data", "DEPENDENCIES": "inputs"}


def shown(instance: dg.DagsterInstance, definitions: dg.Definitions) -> Mapping[str, tuple[str, list[str]]]:
    """Asset -> its status and the kinds of causes, of the assets that can be made."""
    global loaded
    loaded = definitions
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name=__name__, attribute="loaded"), location_name="tests"
    )
    with (
        # Dagster itself reads a property of schedules that it has deprecated.
        warnings.catch_warnings(action="ignore", category=DeprecationWarning),
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as process,
    ):
        answer = execute_dagster_graphql(process.create_request_context(), _QUERY)
    assert answer.data
    return {
        "/".join(node["assetKey"]["path"]): (
            node["staleStatus"].lower(),
            sorted(_KINDS[cause["category"]] for cause in node["staleCauses"]),
        )
        for node in answer.data["assetNodes"]
        if node["isMaterializable"]
    }


@contextmanager
def served(instance: dg.DagsterInstance, module: Path) -> Iterator[WorkspaceProcessContext]:
    """A workspace over a module that a code server of its own has loaded; that it has ended is seen to."""
    workspace = WorkspaceProcessContext(instance, PythonFileTarget(str(module), None, None, "here"))
    registry = workspace._grpc_server_registry
    assert registry is not None
    try:
        with workspace:
            yield workspace
    finally:
        for server in registry._all_processes:
            try:
                server.server_process.wait(30)
            except subprocess.TimeoutExpired:
                server.server_process.kill()
                server.server_process.wait()
