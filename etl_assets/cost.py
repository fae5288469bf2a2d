"""What a piece of work costs this process: seconds, processor time, memory; and how an asset says it, so that it plots."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FIRST = " of the first load"
"""What figures of a first load are called, which is like nothing that follows, and would flatten every plot."""
PROCESSOR = "processor seconds"
SECONDS = "seconds"


@dataclass
class Cost:
    """What blocks that were counted took, together. `seconds` as they passed, `processor_seconds` of all threads of the
    process or of one, as it was counted; `peak_bytes`: the most memory that the process ever had, up to the last block's end."""

    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_bytes: int = 0

    @contextmanager
    def counting(self, processor: Callable[[], float] = time.process_time) -> Iterator[None]:
        """Add what a block takes, also where it fails. Where several go on at once, count `time.thread_time`."""
        started, spent = time.monotonic(), processor()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started
            self.processor_seconds += processor() - spent
            self.peak_bytes = peak_bytes()

    def figures(self, processor: str = PROCESSOR) -> dict[str, float]:
        """The cost as an asset's metadata; `processor` is what the processor time is called."""
        return {
            SECONDS: round(self.seconds, 4),
            processor: round(self.processor_seconds, 4),
            "peak MiB of the process": self.peak_bytes >> 20,
        }

    def rate(self, rows: int) -> dict[str, int]:
        """Rows per second, as an asset's metadata."""
        return {"rows per second": round(rows / self.seconds) if self.seconds else 0}


def named(figures: Mapping[str, float], *, is_first: bool) -> dict[str, float]:
    """Figures, of a first load under names of their own."""
    return {f"{name}{FIRST}": value for name, value in figures.items()} if is_first else dict(figures)


def peak_bytes() -> int:
    """The most memory that this process had so far."""
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says there may be of the process that started this one
        told = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(told["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
