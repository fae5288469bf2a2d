"""What disturbs the machines: one fault at a time, drawn at random, each with its end."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from etl_assets.stand_ins.web_api import Behaviour
from etl_assets_tests.network import Network
from etl_assets_tests.soak.business import Business
from etl_assets_tests.soak.machine import Machine
from etl_assets_tests.soak.service import FAULTS, Service

_DISK = "48m"


@dataclass
class Nemesis:
    """`between`: the network from the machines to the source. `restart`: stops the source's server at once, starts it anew and
    gives its port. `disk`: a small one that the first machine works on, None where none can be mounted."""

    seed: int
    machines: list[Machine]
    between: Network
    restart: Callable[[], int]
    business: Business
    service: Service
    disk: Path | None
    edition: str = "first"
    clock_days: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    api_faults: Counter[str] = field(default_factory=Counter)

    @property
    def is_done(self) -> bool:
        """Whether each fault was done once at least."""
        return all(self.done[name] for name in self.faults)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.faults: dict[str, Callable[[Machine], None]] = {
            "killed": self._kill,
            "suspended": self._suspend,
            "network cut": self._cut,
            "network cut amid an answer": self._cut_amid,
            "network away": self._away,
            "network slow": self._slow,
            "network silent": self._silent,
            "server stopped at once": self._server,
            "clock moved": self._clock,
            "models changed": self._models,
            "API fails": self._service,
            "API corrected": self._corrected,
        }
        if self.disk:
            self.faults["disk full"] = self._disk

    def strike(self) -> str:
        """Do one of the faults to one of the machines, the rarer ones first; its name."""
        fewest = min(self.done[name] for name in self.faults)
        name = self.rng.choice([name for name in self.faults if self.done[name] <= fewest + 1])
        self.faults[name](self.rng.choice(self.machines))
        self.done[name] += 1
        return name

    def _pause(self, longest: float) -> None:
        time.sleep(self.rng.uniform(0.05, longest))

    def _kill(self, machine: Machine) -> None:
        machine.kill()

    def _suspend(self, machine: Machine) -> None:
        machine.signal(signal.SIGSTOP)
        try:
            self._pause(4)
        finally:
            machine.signal(signal.SIGCONT)

    def _cut(self, machine: Machine) -> None:
        self.between.cut()

    def _cut_amid(self, machine: Machine) -> None:
        self.between.left_bytes = self.rng.choice((100, 3_000, 20_000, 100_000))
        self._pause(1)
        self.between.left_bytes = None

    def _away(self, machine: Machine) -> None:
        self.between.cut(lasting=True)
        self._pause(2)
        self.between.mend()

    def _slow(self, machine: Machine) -> None:
        self.between.bytes_per_second = self.rng.choice((20_000, 200_000))
        self._pause(3)
        self.between.mend()

    def _silent(self, machine: Machine) -> None:
        self.between.state = "stalled"
        self._pause(3)
        self.between.mend()

    def _server(self, machine: Machine) -> None:
        self.between.server_port = self.restart()

    def _clock(self, machine: Machine) -> None:
        self.clock_days = self.rng.choice((-400.0, -1.0, 0.0, 1.0, 30.0))

    def _models(self, machine: Machine) -> None:
        self.edition = "second" if self.edition == "first" else "first"

    def _service(self, machine: Machine) -> None:
        how = self.rng.choice(sorted(FAULTS))
        self.service.stand_in.behaviour = FAULTS[how]
        self.api_faults[how] += 1
        self._pause(5)
        self.service.stand_in.behaviour = Behaviour()

    def _corrected(self, machine: Machine) -> None:
        self.service.correct()

    def _disk(self, machine: Machine) -> None:
        assert self.disk
        ballast = self.disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        self._pause(3)
        ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A small disk at a folder; None where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
