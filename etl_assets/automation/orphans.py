"""Runs whose process is gone without a word. They would stay "started", and since one run at a time is executed, all
others would wait for them.

A code server tells of its workers that die. Who is killed together with the code server is told of by nobody (with
Dagster's default launcher run monitoring does not look), nor is a killed `etl run`.
"""

import socket
from collections.abc import Sequence

import dagster as dg
import psutil

_TAG = "etl/process"
_LAUNCHED = ".dagster/grpc_info"  # by a code server on this machine: in its container, if it has one
_Status = dg.DagsterRunStatus


def process_tag() -> dict[str, str]:
    """Names this process; the moment it began tells it from a later one with the same number."""
    process = psutil.Process()
    return {_TAG: f"{process.pid} since {process.create_time():.2f} on {socket.gethostname()}"}


def end_orphans(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """Mark the runs as failed whose process on this machine is gone, and return them."""
    unended = dg.RunsFilter(statuses=[_Status.STARTING, _Status.STARTED, _Status.CANCELING])
    ended = []
    for run in instance.get_runs(unended):
        process = run.tags.get(_TAG)
        if _is_gone(process) if process else _LAUNCHED in run.tags and _worker_is_gone(instance, run):
            instance.report_run_failed(run, f"Its process is gone ({process or 'a worker'}): it was killed.")
            ended.append(run)
    return ended


def _worker_is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process is gone that began a run. Those that never began have a time limit of Dagster's."""
    began = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_START)
    if not began:
        return False
    pid = began[-1].get_dagster_event().pid
    try:
        # A process that is younger only has the same number.
        return pid is not None and psutil.Process(pid).create_time() > began[-1].timestamp
    except psutil.NoSuchProcess:
        return True


def _is_gone(process: str) -> bool:
    pid, _, since, _, host = process.split(" ", 4)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != since
    except psutil.NoSuchProcess:
        return True
