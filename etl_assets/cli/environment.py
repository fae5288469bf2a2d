"""What a command finds around it: `.env`, the settings, Dagster's home, resources. Nothing is started here."""

import fcntl
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl_assets import addresses, permissions
from etl_assets.cli import output
from etl_assets.cli.history_damage import set_aside, sqlite_error
from etl_assets.errors import EtlError, SettingsError
from etl_assets.plain import plain
from etl_assets.settings import Settings, keep

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.presentation import Naming
    from etl_assets.project import Project

_CONFIGURATION = "dagster.yaml"
_LOCK = ".filling.lock"
_SETTING = re.compile(r"\bETL_[A-Z0-9_]+")
# What SQLite says of a place rather than of a file's content.
_NO_ROOM = ("disk is full", "disk I/O error")
_BUSY = ("is locked", "readonly", "unable to open")
# Used where there is no dagster.yaml to link to.
_MINIMAL = """\
storage:
  custom:
    module: etl_assets.automation.events
    class: SmallHistory
    config: {base_dir: {env: DAGSTER_HOME}}
telemetry: {enabled: false}
nux: {enabled: false}
python_logs: {python_log_level: INFO}
run_coordinator: {module: etl_assets.automation.lanes, class: Lanes}
run_monitoring: {enabled: true, poll_interval_seconds: 10, free_slots_after_run_end_seconds: 60}
run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}
"""


class InstanceError(EtlError):
    """Dagster's instance can't be opened."""


class UnreadableError(EtlError):
    """What lake or warehouse hold can't be read."""


def settings() -> Settings:
    """The settings, as the environment and `.env` in the current folder say; the environment wins. What this process
    writes from now on is for those whom ETL_FILE_MODE names."""
    from dotenv import dotenv_values, load_dotenv

    written = _written(Path.cwd() / ".env")
    keep(os.environ, dotenv_values(stream=io.StringIO(written)))
    load_dotenv(stream=io.StringIO(written))
    known = Settings.read(os.environ)
    permissions.apply(known.file_mode)
    return known


def _written(path: Path) -> str:
    """What a `.env` says; nothing if there is none. Raises `SettingsError` where a setting of ours would be passed over: its
    default may be another lake. Nothing of a line is repeated but the name, since the rest may be a password."""
    if not path.is_file():
        return ""
    from dotenv.parser import parse_stream

    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}: line {line} is no UTF-8: save the file as UTF-8") from None
    for binding in parse_stream(io.StringIO(text)):
        lost = binding.original.string
        if binding.error and (setting := _SETTING.search(lost)):
            line = binding.original.line + len(lost) - len(lost.lstrip("\n"))
            raise SettingsError(
                f"{path}: line {line} can't be read: write {setting[0]}=…, and close its quotes"
            )
    return text


def project(known: Settings) -> "Project":
    """The project that the settings name. Raises `ProjectError`."""
    from etl_assets.project import load

    return load(known.project)


def is_demo(known: Settings) -> bool:
    """Whether the project is the one that ships, which has a source of its own. Raises `ProjectError`."""
    from etl_assets.project import SHIPPED, place

    return place(known.project) == SHIPPED


def naming(known: Settings) -> "Naming":
    """What the project's parts are called in Dagster."""
    from etl_assets.presentation import Naming

    return Naming(known.key_prefix)


def dagster_home(known: Settings) -> Path | None:
    """Dagster's home, None if it does not exist yet. Touches nothing."""
    home = Path(os.environ.get("DAGSTER_HOME") or known.data / "dagster")
    return home if os.environ.get("DAGSTER_HOME") or (home / _CONFIGURATION).exists() else None


def arrange_dagster_home(known: Settings) -> Path:
    """Make sure that this process and those it starts share one Dagster instance, and return its home.

    A DAGSTER_HOME that is set is the user's own: of what is in it nothing is changed, but without a dagster.yaml it
    gets one, since Dagster would send telemetry. Else it is `dagster` in the data folder. In the project's folder its
    dagster.yaml is linked to, as the paths in it are relative to that folder.
    """
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else known.data / "dagster"
    if given and not home.is_dir():
        return home  # whoever opens it says what is wrong
    home.mkdir(parents=True, exist_ok=True)
    home = home if given else plain(home)
    with _alone(home):
        configuration = home / _CONFIGURATION
        if not os.path.lexists(configuration):
            if not given and Path(_CONFIGURATION).exists() and not os.environ.get("ETL_DATA", "").strip():
                configuration.symlink_to(Path("..", "..", _CONFIGURATION))
            else:
                configuration.write_text(_MINIMAL)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Of several commands that meet an empty home, one fills it and the others wait. In a home that others fill, which
    this user can't write to, nothing is waited for."""
    try:
        lock = (home / _LOCK).open("a")
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it however we end
        yield


def open_instance() -> "dg.DagsterInstance":
    """The instance in DAGSTER_HOME; a history that is damaged is set aside, and another one begun. Raises
    `InstanceError`."""
    import dagster as dg

    home = Path(os.environ["DAGSTER_HOME"])
    try:
        with _alone(home):
            try:
                return _instance()
            except Exception as error:
                told = set_aside(home) if sqlite_error(error) else None
                if told is None:
                    raise
            output.say(f"etl: {told}", err=True)
            return _instance()
    except Exception as error:
        if fault := history_fault(error):
            raise InstanceError(fault) from None
        if not isinstance(error, dg.DagsterError):
            raise
        reason = addresses.without_secrets(" ".join(str(error).split()), os.environ)
        raise InstanceError(
            f"Dagster can't use DAGSTER_HOME={os.environ['DAGSTER_HOME']}: {reason}"
        ) from None


def _instance() -> "dg.DagsterInstance":
    import dagster as dg

    instance = dg.DagsterInstance.get()
    # Each makes its tables when it is first asked for, and says only then that it is damaged.
    instance.get_runs_count()
    instance.event_log_storage.get_maximum_record_id()
    instance.all_instigator_state()
    return instance


def history_fault(error: BaseException) -> str | None:
    """What to do about an error that comes from Dagster's history in SQLite; None if it comes from elsewhere. It may be
    told of at any time: a file's pages are read when they are needed. What is damaged is set aside."""
    link = sqlite_error(error)
    home = os.environ.get("DAGSTER_HOME")
    if link is None or not home:
        return None
    told = " ".join(str(link).split())
    if any(sign in told for sign in _BUSY):
        return f"Dagster's history in {home} can't be used: {told}; see that nobody else holds it and that this user can write there"
    if any(sign in told for sign in _NO_ROOM):
        return f"Dagster's history in {home} can't be written: {told}; make room there and run again, what was committed stays"
    with _alone(Path(home)):
        if done := set_aside(Path(home)):
            return f"{done}; what this command did is not in it: run again"
    return (
        f"Dagster's history in {home} is damaged ({told}): end the interface, if one goes on with it, and run again, which "
        f"begins another; if that says the same, move {home}/history and {home}/schedules away, and run "
        "again. What goes with it is the list of runs and which sensors and schedules are switched on; lake, warehouse "
        "and source are not touched"
    )


@contextmanager
def resources(known: Settings, *names: str, instance: "dg.DagsterInstance | None" = None) -> Iterator[Any]:
    """Some of the deployment's resources, as a run gets them: variables filled in, and ended when the block is.
    Raises `UnreadableError` for what DuckDB refuses in the block."""
    import dagster as dg
    import duckdb

    from etl_assets import faults
    from etl_assets.deployments import resources

    found = resources(known)
    try:
        with dg.build_resources({name: found[name] for name in names}, instance=instance) as built:
            yield built
    except (duckdb.Error, faults.Fault) as error:
        raise UnreadableError(
            f"lake or warehouse can't be read: {faults.told(error)}; etl verify tells where"
        ).with_traceback(error.__traceback__) from None
