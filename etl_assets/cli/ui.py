"""`etl ui`: Dagster's web interface over the same definitions and the same history."""

import os
import subprocess
import sys
from pathlib import Path

import click

from etl_assets.cli import environment

# Outside the project's folder too, the code location has the name that schedules and history go by.
_WORKSPACE = """\
load_from:
  - python_module: {module_name: etl_assets.definitions, location_name: etl_assets}
"""


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--simulate", is_flag=True, help="Let business go on in the demo's database (see etl simulate)."
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def ui(port: int, simulate: bool, arguments: tuple[str, ...]) -> None:
    """Open Dagster's interface on http://127.0.0.1:PORT.

    ARGUMENTS go to `dg dev` as they are.
    """
    settings = environment.settings()
    home = environment.arrange_dagster_home(settings)
    settings.data.mkdir(parents=True, exist_ok=True)
    workspace = (home if home == settings.data / "dagster" else settings.data) / "workspace.yaml"
    workspace.write_text(_WORKSPACE)
    program = Path(sys.executable).with_name("dg")
    if simulate:
        # This process becomes Dagster's: the simulator ends with it.
        command = [sys.executable, "-m", "etl_assets.cli", "simulate", "--with-parent"]
        subprocess.Popen(command, stdin=subprocess.DEVNULL)
    sys.stdout.flush()
    os.execv(  # noqa: S606  no shell is the point
        program,
        [str(program), "dev", "-w", str(workspace), "--host", "127.0.0.1", "--port", str(port), *arguments],
    )
