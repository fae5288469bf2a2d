"""`etl ui`: Dagster's web interface over the same definitions and the same history."""

import socket
import subprocess
import sys
from contextlib import closing, suppress

import click

from etl_assets.cli import environment, output

# Outside the project's folder too, the code location has the name that schedules and history go by.
_WORKSPACE = """\
load_from:
  - python_module: {module_name: etl_assets.definitions, location_name: etl_assets}
"""


@click.command()
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--host", default="127.0.0.1", show_default=True, help="An address of this machine.")
@click.option(
    "--let-anybody-on-the-network-control-this",
    "anybody",
    is_flag=True,
    help="Allow a --host that other machines reach. The interface has no login.",
)
@click.option(
    "--simulate", is_flag=True, help="Let business go on in the demo's database (see etl simulate)."
)
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    type=click.Choice(["critical", "error", "warning", "info", "debug"]),
    help="What Dagster tells on the screen.",
)
def ui(port: int, host: str, anybody: bool, simulate: bool, log_level: str) -> None:
    """Open Dagster's interface on http://127.0.0.1:PORT, and start its daemon.

    It answers its own pages and programs of this machine, not the pages of other sites.
    """
    from etl_assets.interface.serving import taken

    settings = environment.settings()
    with closing(taken(host, port, anybody=anybody)) as listener:
        home = environment.arrange_dagster_home(settings)
        settings.data.mkdir(parents=True, exist_ok=True)
        # From here on it takes seconds: what can be refused was.
        from dagster._utils.log import configure_loggers

        from etl_assets.interface.alone import alone, refuse_another_daemon
        from etl_assets.interface.doors import Doors
        from etl_assets.interface.serving import serve

        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        names = {"localhost", host.lower(), *({socket.gethostname().lower()} if anybody else ())}
        with environment.open_instance() as instance, alone(home, address) as lock:
            refuse_another_daemon(instance, home)
            workspace = (home if home == settings.data / "dagster" else settings.data) / "workspace.yaml"
            workspace.write_text(_WORKSPACE)
            if simulate:
                command = [sys.executable, "-m", "etl_assets.cli", "simulate", "--with-parent"]
                subprocess.Popen(command, stdin=subprocess.DEVNULL)
            configure_loggers(log_level=log_level.upper())
            output.say(
                f"the interface will be at {address}; Ctrl-C ends it. Each run says here what it brought.",
                err=True,
            )
            try:
                with suppress(KeyboardInterrupt):
                    serve(
                        instance,
                        workspace,
                        listener,
                        Doors(settings.ui_url, frozenset(names)),
                        lock,
                        log_level,
                    )
            finally:  # what the daemon reported last is not to be taken for a sign of life
                instance.wipe_daemon_heartbeats()
