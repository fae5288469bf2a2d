"""What a whole process costs, start-up included: seconds, processor time of it and of the server it asks, memory."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK = 512  # bytes in which the kernel counts what is written
# The server notes what a session took when the session has ended, which is a moment after its client has.
_SETTLES_SECONDS = 0.5


@dataclass(frozen=True)
class Cost:
    """`wall`, `client` and `server` are seconds: as they passed, of processor time of the process and its children, and of
    the PostgreSQL server. `peak_bytes` is the largest resident set of one process. `written_bytes` are those that the process and
    its children wrote to files of a disk, whether these still exist or not."""

    wall: float
    client: float
    server: float
    peak_bytes: int
    written_bytes: int
    output: str = ""

    @property
    def processor(self) -> float:
        """Processor seconds of all that took part: they say what work there was, whoever else used the machine."""
        return self.client + self.server


def of_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    postmaster: int,
    cwd: Path | None = None,
    errors: IO[str] | None = None,
    limit_seconds: float | None = None,
) -> Cost:
    """Run a command to its end. `postmaster` is the server's first process, `errors` takes what the command says beside its
    output. Raises `RuntimeError` if the command fails; after `limit_seconds` it and all that it started are killed."""
    before, started = _server_seconds(postmaster), time.perf_counter()
    with subprocess.Popen(
        command,
        env=dict(environment),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=limit_seconds is not None,
    ) as process:
        assert process.stdout
        limit = threading.Timer(limit_seconds or 0, os.killpg, (process.pid, signal.SIGKILL))
        if limit_seconds is not None:
            limit.start()
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        limit.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {process.returncode}")
    time.sleep(_SETTLES_SECONDS)
    client = used.ru_utime + used.ru_stime
    server = _server_seconds(postmaster) - before
    return Cost(wall, client, server, used.ru_maxrss * 1024, used.ru_oublock * _BLOCK, output)


def _server_seconds(postmaster: int) -> float:
    """Processor seconds of a server so far: of its first process, of the sessions that ended, and of those that there are."""
    own = _ticks(postmaster)
    children = [fields for pid in _processes() if (fields := _ticks(pid)) and fields[0] == postmaster]
    return (sum(own[1:]) + sum(sum(fields[1:3]) for fields in children)) / _TICKS


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _ticks(pid: int) -> tuple[int, ...]:
    """The parent of a process, its own ticks (user, system) and those of its ended children; nothing if it has ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()
    return (int(told[1]), *map(int, told[11:15]))
