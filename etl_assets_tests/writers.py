"""Processes that fill lakes when they are told to, and are kept for the next time; they suspend themselves where they are
told to, and somebody else continues them.
"""

import multiprocessing
import os
import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from etl_assets import failpoints
from etl_assets.errors import EtlError
from etl_assets.source import snapshot
from etl_assets_tests.direct import Direct
from etl_assets_tests.shop import INPUTS


@dataclass(frozen=True)
class Order:
    """A run to be carried out, named `name`, whose kept things lie in `data`. It suspends itself at the place `stop_at`,
    if one is named. `granted`: no other run keeps it from the lake, as if each asked a server of its own for the claim."""

    name: str
    url: str
    data: Path
    lake_url: str
    stop_at: str
    granted: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a run: the batch that it committed, and what ended it, if something did: a line for whoever has to
    act, or what nobody should ever see."""

    batch: int | None
    refusal: str = ""
    mistake: str = ""


def carried_out(order: Order) -> Outcome:
    """Take a batch, and bring star and warehouse up to it."""
    batch = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETL_STOP_AT", order.stop_at)
        patch.setattr(failpoints, "_reached", Counter())
        if order.granted:
            patch.setattr(snapshot, "_claim", lambda connection, lake, wait_seconds: 0)
            patch.setattr(snapshot.Snapshot, "still_claimed", lambda taken: None)
        flow = Direct(order.url, order.data, INPUTS, lake_url=order.lake_url)
        try:
            manifest = flow.capture(run_id=order.name, wait_seconds=1)
            batch = manifest.batch if manifest else None
            flow.derive()
        except EtlError as error:
            return Outcome(batch, refusal=f"{type(error).__name__}: {error}")
        except Exception:  # noqa: BLE001  # it is told to whoever gave the order
            return Outcome(batch, mistake=traceback.format_exc())
    return Outcome(batch)


def serve(orders: Connection) -> None:
    """Carry out what is ordered until nobody orders any more."""
    with suppress(EOFError):
        while True:
            orders.send(carried_out(orders.recv()))


@dataclass
class Writer:
    """One of the processes."""

    process: ForkServerProcess
    orders: Connection
    order: Order | None = None
    outcome: Outcome | None = None

    def start(self, order: Order) -> None:
        self.order, self.outcome = order, None
        self.orders.send(order)

    @property
    def is_done(self) -> bool:
        if self.outcome is None and self.orders.poll():
            self.outcome = self.orders.recv()
        return self.outcome is not None

    @property
    def is_suspended(self) -> bool:
        return not self.is_done and self._itself.status() == psutil.STATUS_STOPPED

    def go_on(self) -> None:
        """Continue it; afterwards it is not suspended, until it comes to another place."""
        os.kill(self._itself.pid, signal.SIGCONT)

    @property
    def _itself(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


@contextmanager
def writers(count: int) -> Iterator[Sequence[Writer]]:
    """So many processes, with the environment of now."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by each of them
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            stack.callback(_end, process, ours)
            theirs.close()
            made.append(Writer(process, ours))
        yield made


def _end(process: ForkServerProcess, orders: Connection) -> None:
    orders.close()  # which it waits on, if it is not amid a run
    process.join(1)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()
