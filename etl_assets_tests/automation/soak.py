"""Dagster as `etl ui` runs it, business going on in the source, and parts of Dagster killed again and again.

    python -m etl_assets_tests.automation.soak --minutes 10

At the end nothing may be lost, doubled or stuck; there was one run per change, and none without.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Literal

import duckdb
import psutil
import psycopg2

from etl_assets.totesys.demo.simulator import play_day, sell
from etl_assets.totesys.demo.totesys import serve_totesys
from etl_assets_tests.browser.interface import Interface, interface

Victim = Literal["daemon", "worker", "code server", "its parent", "interface", "everything"]
VICTIMS: Sequence[Victim] = ("daemon", "worker", "code server", "its parent", "interface", "everything")
_SIGNS: dict[Victim, str] = {
    "daemon": "etl_assets.interface.daemon",
    "code server": "dagster api grpc",
    "its parent": "dagster code-server start",
    "worker": "spawn_main",
    "interface": "etl_assets.cli ui",
    "everything": "etl_assets.cli ui",
}
# With these gone, `etl ui` ends by itself, and a user starts it again.
_ENDS_IT_ALL = ("daemon", "interface", "everything")
_UNENDED = {"NOT_STARTED", "QUEUED", "STARTING", "STARTED", "CANCELING"}
_ARRIVAL_SECONDS = 240
# `etl ui` starts its parent again, but not the process that has the definitions. This is the UI's button Reload.
_RELOAD = """
    mutation { reloadRepositoryLocation(repositoryLocationName: "etl_assets") { __typename
        ... on WorkspaceLocationEntry { loadStatus } } }
"""
_RUNS = """
    { runsOrError(limit: 1000) { ... on Runs { results {
        runId status jobName creationTime startTime endTime tags { key value } } } } }
"""


@dataclass
class Change:
    """A sale, and when it was committed and seen in the warehouse."""

    order: int
    committed: float
    arrived: float | None = None
    disturbed: bool = False

    @property
    def seconds(self) -> float:
        return (self.arrived or float("inf")) - self.committed


@dataclass
class Report:
    """What happened."""

    changes: list[Change] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    batches: dict[str, str] = field(default_factory=dict)
    verified: bool = False

    @property
    def lost(self) -> list[int]:
        return [change.order for change in self.changes if change.arrived is None]

    @property
    def stuck(self) -> list[str]:
        return [run["runId"] for run in self.runs if run["status"] in _UNENDED]

    @property
    def statuses(self) -> dict[str, int]:
        all_ = [run["status"] for run in self.runs]
        return {status: all_.count(status) for status in sorted(set(all_))}

    @property
    def needless(self) -> list[str]:
        """Runs of the flow that found nothing, although the one before them had succeeded."""
        flow = [run for run in self._in_order() if run["jobName"] == "etl"]
        return [
            run["runId"]
            for before, run in pairwise(flow)
            if run["status"] == "SUCCESS" == before["status"] and run["runId"] not in self.batches.values()
        ]

    @property
    def together(self) -> list[tuple[str, str]]:
        """Runs that went on at the same time, as Dagster saw it."""
        return [
            (one["runId"], other["runId"])
            for one, other in pairwise(self._in_order())
            if other["startTime"] < (one["endTime"] or float("inf"))
        ]

    def _in_order(self) -> list[dict[str, Any]]:
        return sorted((run for run in self.runs if run["startTime"]), key=lambda run: run["startTime"])

    @property
    def slowest(self) -> float:
        """Seconds from commit to warehouse, of what no kill came between."""
        return max((change.seconds for change in self.changes if not change.disturbed), default=0.0)

    def __str__(self) -> str:
        undisturbed = sorted(change.seconds for change in self.changes if not change.disturbed)
        disturbed = sorted(change.seconds for change in self.changes if change.disturbed)
        return "\n".join(
            [
                f"changes     {len(self.changes)}, lost {len(self.lost)}",
                f"runs        {self.statuses}, stuck {len(self.stuck)}, at the same time {len(self.together)}",
                f"batches     {len(self.batches)}, runs that found nothing to do {len(self.needless)}",
                f"undisturbed {_spread(undisturbed)} from commit to warehouse",
                f"kills       {', '.join(self.kills) or 'none'}; with one between: {_spread(disturbed)}",
                f"verified    {self.verified}",
            ]
        )


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    return (
        f"{len(seconds)}, {seconds[0]:.0f} to {seconds[-1]:.0f} s, median {seconds[len(seconds) // 2]:.0f} s"
    )


@dataclass
class Soak:
    """`folder` holds all that is kept. `between` are the seconds from a change to the next."""

    folder: Path
    between: tuple[float, float] = (5, 40)
    quiet_seconds: float = 35  # at the end: long enough for a late counter and two ticks
    report: Report = field(default_factory=Report)
    say: Callable[[str], None] = lambda line: None
    _closed: threading.Event = field(default_factory=threading.Event)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    # -- what goes on meanwhile ------------------------------------------------------------------------------------

    @contextmanager
    def business(self) -> Iterator[None]:
        """Sales in the source, and a look at what has arrived, until the block ends; then no sale more."""
        writer = threading.Thread(target=self._sell, daemon=True)
        writer.start()
        try:
            yield
        finally:
            self._closed.set()
            writer.join()

    def _sell(self) -> None:
        rng = random.Random(1)
        n = 0
        while not self._closed.wait(rng.uniform(*self.between)):
            n += 1
            self.change(n)

    def change(self, n: int) -> Change:
        """Sell something; every seventh time after a day of business."""
        with serve_totesys(self.data / "source") as url:
            if n % 7 == 0:
                play_day(url, orders=5)
            with closing(psycopg2.connect(url)) as connection:
                order = sell(connection, n)
        self.report.changes.append(made := Change(order, time.time()))
        return made

    def look(self) -> None:
        """Note which sales are in the warehouse by now. While it is being loaded, nobody can look."""
        waited_for = [change for change in self.report.changes if change.arrived is None]
        path = self.data / "warehouse.duckdb"
        if not waited_for or not path.exists():
            return
        with suppress(duckdb.IOException), duckdb.connect(str(path), read_only=True) as connection:
            tables = connection.execute("SELECT table_name FROM information_schema.tables").fetchall()
            if ("fact_sales_order",) not in tables:
                return
            orders = {
                row[0]
                for row in connection.execute("SELECT sales_order_id FROM star.fact_sales_order").fetchall()
            }
            for change in waited_for:
                if change.order in orders:
                    change.arrived = time.time()

    def until(self, seconds: float, reached: Callable[[], bool] = lambda: False) -> bool:
        """Look on for so many seconds, or until something is reached; whether it was."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.look()
            if reached():
                return True
            time.sleep(1)
        return False

    # -- the nemesis -----------------------------------------------------------------------------------------------

    def kill(self, victim: Victim, ui: Interface) -> None:
        if victim == "worker":  # there is one only while a run goes on
            self.change(0)
            assert self.until(
                _ARRIVAL_SECONDS, lambda: any(map(_is_at_work, runs(ui))) and bool(_found(victim))
            )
        for change in self.report.changes:
            change.disturbed |= change.arrived is None
        found = _found(victim)
        assert found, f"no {victim} is running"
        if victim == "everything":
            os.killpg(os.getpgid(found[0].pid), signal.SIGKILL)
        else:
            found[-1].kill()
        self.report.kills.append(victim)
        self.say(f"killed {victim}")
        if victim == "code server":
            ui.ask(_RELOAD)

    # -- the end ---------------------------------------------------------------------------------------------------

    def settle(self, ui: Interface) -> None:
        """Wait for what is still to arrive, then see that nothing more is started."""
        self.until(_ARRIVAL_SECONDS, lambda: not self.report.lost)
        self.until(_ARRIVAL_SECONDS, lambda: not any(run["status"] in _UNENDED for run in runs(ui)))
        self.until(self.quiet_seconds)
        self.report.runs = runs(ui)
        for path in (self.data / "lake/raw/batches").glob("*.json"):
            if path.stem.isdecimal():
                self.report.batches[path.stem] = json.loads(path.read_text())["run_id"]

    def verify(self) -> None:
        """`etl verify`: everything that is held is what the source holds."""
        done = subprocess.run(
            [sys.executable, "-m", "etl_assets.cli", "verify", "--thorough"],
            cwd=self.folder,
            env=os.environ | {"ETL_DATA": str(self.data), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        self.report.verified = done.returncode == 0
        if done.returncode:
            self.say(done.stdout + done.stderr)


def soak(
    folder: Path, seconds: float, victims: Sequence[Victim], *, say: Callable[[str], None] = print
) -> Report:
    """Run for so long, with a kill in each equal part of it; the report of what happened."""
    one = Soak(folder, say=say)
    parts, stay = iter(victims), seconds / (len(victims) + 1)
    victim: Victim | None = None
    with one.business():
        ended = False
        while not ended:
            with interface(folder) as ui:
                say("started")
                while True:
                    one.until(stay)
                    say(f"{len(one.report.changes)} changes, {len(one.report.lost)} of them still to arrive")
                    victim = next(parts, None)
                    if victim is None:
                        ended = True
                        break
                    one.kill(victim, ui)
                    if victim in _ENDS_IT_ALL:
                        break
                if ended:
                    one._closed.set()
                    one.settle(ui)
    one.verify()
    return one.report


def runs(ui: Interface) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ui.ask(_RUNS)["runsOrError"]["results"]
    return found


def _is_at_work(run: dict[str, Any]) -> bool:
    return (run["status"], run["jobName"]) == ("STARTED", "etl")


def _found(victim: Victim) -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if _SIGNS[victim] in _command(p)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    minutes = parser.parse_args().minutes
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {line}", flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory(prefix="etl-assets-soak-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the demo's server has its own user if we are root
        many = [victim for victim, _ in zip(cycle(VICTIMS), range(max(1, round(minutes))), strict=False)]
        report = soak(folder, minutes * 60, many, say=say)
        print(report)  # noqa: T201
        failed = report.lost or report.stuck or not report.verified or report.needless or report.slowest >= 60
        if failed:
            print((folder / "ui.log").read_text()[-5000:])  # noqa: T201
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
