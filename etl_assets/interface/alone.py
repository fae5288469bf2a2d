"""One daemon per history: two would take runs from each other, and end them with themselves.

Who serves the interface holds a lock in Dagster's home, and its daemon holds it too: the lock is the kernel's, and goes
with the last of the two, however they end. Daemons that were started otherwise hold none. They are found among the
processes of this machine, or, where one may be elsewhere, by the reports that daemons leave in the history.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from etl_assets.errors import EtlError

if TYPE_CHECKING:
    import dagster as dg

_LOCK = "interface.lock"
_REPORTS_SECONDS = 30  # between two reports of a daemon
_LATE_SECONDS = 10
_ENDING_SECONDS = 60  # that a daemon may take to end after who started it was killed
_LOOK_SECONDS = 0.2


class AlreadyServed(EtlError):
    """A daemon goes on with this history already."""


@contextmanager
def alone(home: Path, address: str) -> Iterator[IO[str]]:
    """Hold the lock of the history in `home` while the block runs; what is yielded is for the daemon to inherit.
    `address` is what others are told. Raises `AlreadyServed`."""
    with (home / _LOCK).open("a+") as lock:
        _take(lock)
        lock.truncate(0)
        json.dump({"process": os.getpid(), "address": address}, lock)
        lock.flush()
        yield lock


def _take(lock: IO[str]) -> None:
    """Its holder may have been killed: then what it started is about to end, and is waited for."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        process, address = _holder(lock)
        if psutil.pid_exists(process) or time.monotonic() > deadline:
            raise AlreadyServed(
                f"this history is served already, by process {process} at {address}: use that one, or end it first"
            )
        time.sleep(_LOOK_SECONDS)


def _holder(lock: IO[str]) -> tuple[int, str]:
    lock.seek(0)
    try:
        told = json.load(lock)
        return int(told["process"]), str(told["address"])
    except (ValueError, KeyError):  # it is writing this moment
        return os.getpid(), "an address that it has not told yet"


def refuse_another_daemon(instance: "dg.DagsterInstance", home: Path) -> None:
    """Raise `AlreadyServed` if a daemon without our lock goes on with the history of an instance."""
    certain, possible = _daemons(home)
    if certain:
        raise AlreadyServed(
            f"a daemon goes on with this history already, process {certain[0]}: end it first, or use the interface beside it"
        )
    elsewhere = "Sqlite" not in type(instance.run_storage).__name__
    if (possible or elsewhere) and _goes_on(instance):
        raise AlreadyServed(
            "a daemon goes on with this history already, of another user or on another machine: end it first"
        )


def _daemons(home: Path) -> tuple[list[int], list[int]]:
    """The processes that are daemons of the history in `home`, and those that may be."""
    certain, possible = [], []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if not _is_daemon(process):
                continue
            try:
                named = process.environ().get("DAGSTER_HOME")
            except psutil.AccessDenied:
                named = None
            if named is None:
                possible.append(process.pid)
            elif Path(named).resolve() == home.resolve():
                certain.append(process.pid)
    return certain, possible


def _is_daemon(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.AccessDenied:
        return False
    programs = {Path(word).name for word in words[:2]}
    return "run" in words and ("dagster-daemon" in programs or "dagster._daemon" in words)


def _goes_on(instance: "dg.DagsterInstance") -> bool:
    """Whether a daemon reports. One that was killed a moment ago reported too, so its next report is waited for."""
    latest = _latest_report(instance)
    due = latest + _REPORTS_SECONDS + _LATE_SECONDS
    while time.time() < due:
        if _latest_report(instance) > latest:
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def _latest_report(instance: "dg.DagsterInstance") -> float:
    return max((report.timestamp for report in instance.get_daemon_heartbeats().values()), default=0.0)
