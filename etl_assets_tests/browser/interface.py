"""Dagster's web interface as `etl ui` starts it, for whoever drives it with a browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
LOCATION = "etl_assets"
_STARTUP_SECONDS = 120
_GRACE_SECONDS = 30
_LOCATIONS = """
    { workspaceOrError { ... on Workspace { locationEntries {
        loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""


class InterfaceError(Exception):
    """The interface did not start, or can't answer."""


@dataclass(frozen=True)
class Interface:
    """A running interface. `started` is when its process was, by `time.monotonic()`."""

    url: str
    started: float
    log: Path

    def ask(self, query: str, **variables: Any) -> Mapping[str, Any]:
        """The data that a GraphQL query gives."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(  # noqa: S310  always our own http://127.0.0.1
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            told = json.load(answer)
        if told.get("errors"):
            raise InterfaceError(f"GraphQL: {told['errors'][0]['message']}")
        data: Mapping[str, Any] = told["data"]
        return data


@contextmanager
def interface(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Interface]:
    """`etl ui` on a free port, with everything that it keeps in `folder`; what it prints goes to `folder`/ui.log.

    It is stopped as Ctrl-C in a terminal does, and then none of its processes is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ETL_", "DAGSTER_", "PYTEST_"))
    }
    root = str(Path(__file__).parents[2])
    ours = {"ETL_DATA": str(folder / "data"), "ETL_EVERY": "0", "PYTHONPATH": root}
    environment = inherited | ours | dict(settings or {})
    log = folder / "ui.log"
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "etl_assets.cli", "ui", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    served = Interface(f"http://127.0.0.1:{port}", started, log)
    try:
        _wait(served, process)
        yield served
    finally:
        _stop(process)


def _wait(served: Interface, process: subprocess.Popen[bytes]) -> None:
    """Until the definitions are loaded."""
    while process.poll() is None and time.monotonic() < served.started + _STARTUP_SECONDS:
        with suppress(OSError):  # not listening yet
            (location,) = served.ask(_LOCATIONS)["workspaceOrError"]["locationEntries"]
            loaded = location["locationOrLoadError"]
            if loaded and loaded["__typename"] == "PythonError":
                raise InterfaceError(f"the definitions do not load: {loaded['message']}")
            if loaded and location["loadStatus"] == "LOADED":
                return
        time.sleep(0.2)
    raise InterfaceError(f"the interface did not start; it printed: {served.log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
            break
    deadline = time.monotonic() + _GRACE_SECONDS
    while _any_left(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _any_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
