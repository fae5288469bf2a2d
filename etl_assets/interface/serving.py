"""The processes behind `etl ui`: this one serves the interface, a child has the definitions, another is the daemon.

They are what `dagster dev` starts, with doors before the interface (`doors`), a lock on the history (`alone`), and a
port that is taken before anything is started.
"""

import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import IO, TYPE_CHECKING

from etl_assets.errors import EtlError
from etl_assets.interface.doors import Doors, Guarded

if TYPE_CHECKING:
    import dagster as dg
    import uvicorn

_DAEMON_ENDS_SECONDS = 60
_ANSWERS_END_SECONDS = 5
_LOOK_SECONDS = 1
# As `dagster-webserver` has them: of a statement, of a connection, and how many more than usual.
_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _MORE_CONNECTIONS = 15_000, 3_600, 20
_POLL_MILLISECONDS = 2_000


class ServingError(EtlError):
    """The interface can't be served."""


def taken(host: str, port: int, *, anybody: bool) -> socket.socket:
    """A port of this machine that nobody else has, listened to. With `anybody` other machines may reach it.

    Raises `ServingError` for a port that is taken, and for a host that other machines reach.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ServingError(f"--host {host} is no address of this machine: {error.strerror}") from None
    if not ip_address(str(place[0]).partition("%")[0]).is_loopback and not anybody:
        raise ServingError(
            f"--host {host} lets everybody who reaches this machine start runs and read tables: the interface has no "
            "login. Leave it out, or add --let-anybody-on-the-network-control-this"
        )
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the last one left is no hindrance
    try:
        listener.bind(place)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ServingError(
            f"port {port} of {host} can't be had: {(error.strerror or str(error)).lower()}; end what has it, or choose "
            "another with --port"
        ) from None
    return listener


def serve(
    instance: "dg.DagsterInstance",
    workspace: Path,
    listener: socket.socket,
    doors: Doors,
    lock: IO[str],
    log_level: str = "info",
) -> None:
    """Serve the interface until it is interrupted. `workspace` says what has the definitions; the daemon inherits the
    lock. Raises `ServingError` when the daemon ends by itself."""
    import uvicorn
    from dagster._cli.proxy_server_manager import ProxyServerManager
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _MORE_CONNECTIONS)
    with (
        _terminated_as_interrupted(),
        ProxyServerManager(instance, WorkspaceFileTarget([str(workspace)]), "warning") as definitions,
        _workspace_of(definitions.get_code_server_specs()) as served,
        _daemon(served, lock, log_level) as daemon,
        WorkspaceProcessContext(
            instance, WorkspaceFileTarget([str(served)]), version=__version__, code_server_log_level="warning"
        ) as context,
    ):
        application = create_app_from_workspace_process_context(context, "", _POLL_MILLISECONDS)
        server = uvicorn.Server(
            uvicorn.Config(
                Guarded(application, doors),
                lifespan="off",
                log_level="warning",
                proxy_headers=False,
                timeout_graceful_shutdown=_ANSWERS_END_SECONDS,
            )
        )
        threading.Thread(target=_end_with, args=(daemon, server), daemon=True).start()
        server.run(sockets=[listener])
        if daemon.poll() is not None:
            raise ServingError(
                f"Dagster's daemon has ended (exit code {daemon.returncode}), and so does this; start it again"
            )


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A supervisor's SIGTERM ends the children too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _workspace_of(servers: object) -> Iterator[Path]:
    import yaml

    with tempfile.TemporaryDirectory(prefix="etl-ui-") as folder:
        workspace = Path(folder) / "workspace.yaml"
        workspace.write_text(yaml.safe_dump({"load_from": servers}))
        yield workspace


@contextmanager
def _daemon(workspace: Path, lock: IO[str], log_level: str) -> Iterator["subprocess.Popen[bytes]"]:
    options = ["--workspace", str(workspace), "--log-level", log_level]
    daemon = subprocess.Popen(
        [sys.executable, "-m", "etl_assets.interface.daemon", "run", *options],
        stdin=subprocess.PIPE,
        pass_fds=[lock.fileno()],
    )
    try:
        yield daemon
    finally:
        assert daemon.stdin is not None  # noqa: S101  it was asked for
        daemon.stdin.close()
        try:
            daemon.wait(_DAEMON_ENDS_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _end_with(daemon: "subprocess.Popen[bytes]", server: "uvicorn.Server") -> None:
    while daemon.poll() is None and not server.should_exit:
        threading.Event().wait(_LOOK_SECONDS)
    server.should_exit = True
