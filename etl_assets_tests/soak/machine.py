"""A machine that fills the lake: processes that carry out runs, one after the other, and can be killed amid one."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import time_machine

from etl_assets.apis.errors import ApiError
from etl_assets.errors import EtlError
from etl_assets_tests.direct import Direct
from etl_assets_tests.soak import model, service

_RUN_SECONDS = 240


@dataclass(frozen=True)
class Order:
    """A run: `url` and `api` are where the source and the service are, `chance` decides what is asked of the service; of which
    edition of the models, and how many days the machine's clock is off."""

    url: str
    api: str
    chance: int
    data: Path
    lake: Path
    edition: str
    clock_days: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """`batch`: what it committed, if that is known. `refusal`: a line for whoever has to act; `mistake`: what nobody should
    ever see; both empty: it went well."""

    batch: int | None = None
    refusal: str = ""
    mistake: str = ""


def carried_out(order: Order) -> Outcome:
    """Take a batch, ask the service and load what it said, and bring star, warehouse and certificate up to both. A service that
    fails holds up nothing else."""
    off = (
        time_machine.travel(datetime.now(UTC) + timedelta(days=order.clock_days), tick=True)
        if order.clock_days
        else nullcontext()
    )
    batch, refusal = None, ""
    with off:
        try:
            flow = Direct(order.url, order.data, model.inputs(order.edition), lake_url=str(order.lake))
            manifest = flow.capture(wait_seconds=20)
            batch = manifest.batch if manifest else None
            try:
                service.fetch(order.api, flow.lake.batches(), flow.data / "scratch", order.chance)
            except ApiError as error:
                refusal = _told(error)
            batch = service.load(flow.lake.batches(), flow.data / "scratch") or batch
            flow.derive(alone=False)
        except EtlError as error:
            return Outcome(batch, refusal=_told(error))
        except Exception:  # noqa: BLE001  # it is told to whoever gave the order
            return Outcome(batch, mistake=traceback.format_exc())
    return Outcome(batch, refusal)


def _told(error: EtlError) -> str:
    return f"{type(error).__name__}: {error}"


def serve(orders: Connection) -> None:
    """Carry out what is ordered until nobody orders any more."""
    with suppress(EOFError, BrokenPipeError):
        while True:
            orders.send(carried_out(orders.recv()))


class Machine:
    """Carries out one run at a time. Who is killed starts again with the next order."""

    def __init__(self, name: str, data: Path) -> None:
        self.name, self.data = name, data
        self.outcome: Outcome | None = Outcome()
        self.runs = 0
        self._process: ForkServerProcess | None = None
        self._orders: Connection | None = None

    def start(self, order: Order) -> None:
        """Begin a run."""
        if self._process is None or self._orders is None:
            context = multiprocessing.get_context("forkserver")
            self._orders, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        self.outcome = None
        self.runs += 1
        self._orders.send(order)

    @property
    def is_idle(self) -> bool:
        if self.outcome is None:
            assert self._orders is not None
            if self._orders.poll():
                self.outcome = self._orders.recv()
        return self.outcome is not None

    def wait(self) -> Outcome:
        """How the run ended."""
        if self.outcome is None:
            assert self._orders is not None
            if not self._orders.poll(_RUN_SECONDS):
                self.kill()
                self.outcome = Outcome(mistake=f"the run did not end within {_RUN_SECONDS} s")
            else:
                self.outcome = self._orders.recv()
        assert self.outcome is not None
        return self.outcome

    def signal(self, sign: signal.Signals) -> None:
        if self._process is not None and self._process.pid:
            os.kill(self._process.pid, sign)

    def kill(self) -> None:
        """End the process, wherever it is, with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            assert self._orders is not None
            self._orders.close()
            self._process = self._orders = None
        self.outcome = Outcome(refusal="killed")


@contextmanager
def machines(*data: Path) -> Iterator[list[Machine]]:
    """Machines, each with a folder of its own."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])  # imported once
    with ExitStack() as stack:
        made = []
        for number, folder in enumerate(data):
            folder.mkdir(parents=True, exist_ok=True)
            made.append(Machine("AB"[number], folder))
            stack.callback(made[-1].kill)
        yield made
