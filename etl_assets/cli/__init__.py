"""The `etl` command: a thin face of the definitions that the UI loads.

Results go to stdout, progress and errors to stderr. Exit codes: 0 fine, 1 an error, told in one line, 2 wrong usage, 3 there
is nothing yet of what was asked for, 130 interrupted, 143 terminated. One module per command; a module imports what is heavy
(Dagster, DuckDB, pandas) inside its functions, so that `etl --help` answers at once.
"""

import gc
import io
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

import click

from etl_assets.cli import environment, output
from etl_assets.cli.breaker import breaker
from etl_assets.cli.changes import changes
from etl_assets.cli.check import check
from etl_assets.cli.demo import demo
from etl_assets.cli.demo_cloud import demo_cloud
from etl_assets.cli.doctor import doctor
from etl_assets.cli.explain import explain
from etl_assets.cli.fetch import fetch
from etl_assets.cli.files import files
from etl_assets.cli.history import history
from etl_assets.cli.init import init
from etl_assets.cli.plan import plan
from etl_assets.cli.quarantine import quarantine
from etl_assets.cli.repair import repair
from etl_assets.cli.retire import retire
from etl_assets.cli.run import run
from etl_assets.cli.simulate import simulate
from etl_assets.cli.status import status
from etl_assets.cli.steps import steps
from etl_assets.cli.take_over import take_over
from etl_assets.cli.ui import ui
from etl_assets.cli.verify import verify
from etl_assets.engine.printable import printable
from etl_assets.errors import EtlError, first_line

_INTERRUPTED = 130


class _Commands(click.Group):
    """A group whose commands end with one line on stderr when something goes wrong that a user can act on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _Terminated:  # by a supervisor, which knows why
            raise click.exceptions.Exit(128 + signal.SIGTERM) from None
        except KeyboardInterrupt:
            _end("interrupted; what was committed stays, nothing is half-written: run it again", _INTERRUPTED)
        except EtlError as error:
            if ctx.params["traceback"]:
                raise
            _end(first_line(str(error)))
        except BrokenPipeError:  # `etl status | head`: click ends that quietly
            raise
        except OSError as error:
            if ctx.params["traceback"]:
                raise
            _end(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except Exception as error:
            fault = environment.history_fault(error)
            if ctx.params["traceback"] or fault is None:
                raise
            _end(fault)


def _end(line: str, code: int = 1) -> NoReturn:
    output.say(f"etl: {printable(line)}", err=True)
    raise click.exceptions.Exit(code)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        try:
            output.say(f"etl {version('etl-assets')}")
        except PackageNotFoundError:
            output.say("etl, not installed")
        ctx.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings (ETL_SOURCE_URL, ETL_LAKE_URL, …) come from the environment or ./.env; see .env.example.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
@click.option("--traceback", is_flag=True, envvar="ETL_TRACEBACK", help="Show where an error comes from.")
def etl(traceback: bool) -> None:
    """Keep a star schema equal to its operational PostgreSQL database."""


for _command in (
    breaker,
    changes,
    check,
    demo,
    demo_cloud,
    doctor,
    explain,
    fetch,
    files,
    history,
    init,
    plan,
    quarantine,
    repair,
    retire,
    run,
    simulate,
    status,
    steps,
    ui,
    verify,
    take_over,
):
    etl.add_command(_command)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which Python would die of at once: an embedded server would go on without its users."""


def _terminated(*_: object) -> NoReturn:
    raise _Terminated


# What a command makes while it starts (modules, declarations, parsed queries) stays to its end. Python would look
# through all of it for circles every 700 objects: a tenth of the time that a project of 500 tables takes to load.
_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def _complete_streams() -> None:
    """Standard streams that somebody closed lead nowhere: else the next file that is opened has the number of one, a file of the
    lake or the warehouse maybe, and what a library prints goes into it. A character that the locale's encoding does not have is
    shown as an escape."""
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr always


def main() -> None:
    _complete_streams()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    signal.signal(signal.SIGTERM, _terminated)
    etl(prog_name="etl")
