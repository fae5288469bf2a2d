"""A run's progress on stderr: live on a terminal, else a line per finished asset."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from etl_assets.cli.output import size
from etl_assets.engine.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from etl_assets.cli.made import MadeAsset


class Display:
    """What a run tells while it goes on; this one shows nothing. `read` is called from several threads."""

    @contextmanager
    def showing(self, stages: Mapping[str, int]) -> Iterator[None]:
        """Show the run that takes place in the block; `stages` says how many assets each of them has."""
        yield

    def say(self, text: str) -> None:
        """A line between runs."""

    def begin(self, stage: str) -> None:
        """A step of a stage begins."""

    def read(self, table: str, size: int) -> None:
        """That many more bytes were read of a table."""

    def made(self, made: "MadeAsset") -> None:
        """An asset is finished."""

    def check_failed(self, check: str) -> None:
        """A check of an asset did not pass; whether that fails the run is the check's to say."""

    def end(self, stage: str, seconds: float) -> None:
        """A step of a stage has ended well."""

    def fail(self, stage: str) -> None:
        """A step of a stage has failed."""


def display() -> Display:
    """What suits stderr."""
    return Live() if sys.stderr.isatty() else Lines()


@contextmanager
def _stderr() -> Iterator[TextIO]:
    """stderr as it is now. Dagster puts a file in its place while it runs steps, to keep what they print."""
    descriptor = None
    with suppress(OSError, ValueError):
        descriptor = os.dup(sys.stderr.fileno())
    if descriptor is None:  # a test's stand-in
        yield sys.stderr
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
        yield stream


class Lines(Display):
    """A line per finished asset, without colours: for logs."""

    def __init__(self) -> None:
        self._stream: TextIO = sys.stderr

    def say(self, text: str) -> None:
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()

    @contextmanager
    def showing(self, stages: Mapping[str, int]) -> Iterator[None]:
        outer = self._stream
        with _stderr() as self._stream:
            try:
                yield
            finally:
                self._stream = outer

    def made(self, made: "MadeAsset") -> None:
        self.say(f"{made.key:<30}{told(made)}")

    def check_failed(self, check: str) -> None:
        self.say(f"check failed: {check}")


class Live(Display):
    """A line per stage that changes in place, and below it what is being read."""

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._read: dict[str, int] = {}

    def say(self, text: str) -> None:
        sys.stderr.write(f"{printable(text)}\n")

    @contextmanager
    def showing(self, stages: Mapping[str, int]) -> Iterator[None]:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._stages = {name: _Stage(name, assets) for name, assets in stages.items()}
        self._read = {}
        with (
            _stderr() as stream,
            RichLive(
                console=Console(file=stream),
                get_renderable=self._render,
                refresh_per_second=10,
                redirect_stdout=False,
                redirect_stderr=False,
            ),
        ):
            yield

    def begin(self, stage: str) -> None:
        if stage in self._stages:
            state = self._stages[stage]
            state.started = state.started or time.monotonic()

    def read(self, table: str, size: int) -> None:
        self._read[table] = self._read.get(table, 0) + size

    def made(self, made: "MadeAsset") -> None:
        if made.stage in self._stages:
            self._stages[made.stage].made.append(made)

    def end(self, stage: str, seconds: float) -> None:
        if stage in self._stages:
            state = self._stages[stage]
            state.seconds += seconds
            state.ended = len(state.made) >= state.assets

    def fail(self, stage: str) -> None:
        if stage in self._stages:
            self._stages[stage].failed = True

    def _render(self) -> "Table":
        from rich.spinner import Spinner
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=1)
        grid.add_column(min_width=10)
        grid.add_column()
        grid.add_column(justify="right")
        for stage in self._stages.values():
            state, style = stage.state
            marks: dict[str, RenderableType] = {
                "running": Spinner("dots"),
                "done": "✓",
                "failed": "✗",
                "waiting": "·",
            }
            clock = stage.seconds if state != "running" else time.monotonic() - (stage.started or 0)
            grid.add_row(
                marks[state], stage.name, stage.text(), f"{clock:.1f} s" if clock else "", style=style
            )
            if state == "running" and not stage.made and self._read:
                for table, read in sorted(self._read.copy().items(), key=lambda item: -item[1]):
                    grid.add_row("", "", f"{table}  {size(read)}", "", style="dim")
        return grid


@dataclass
class _Stage:
    name: str
    assets: int
    made: list["MadeAsset"] = field(default_factory=list)
    started: float | None = None
    seconds: float = 0.0
    ended: bool = False
    failed: bool = False

    @property
    def state(self) -> tuple[str, str]:
        """What to call it, and rich's style for that."""
        if self.failed:
            return "failed", "red"
        if self.ended:
            return "done", ""
        return ("running", "bold") if self.started else ("waiting", "dim")

    def text(self) -> str:
        made = list(self.made)
        if not made:
            return f"{self.assets} to do"
        same = sum(one.unchanged for one in made)
        parts = [f"{len(made)} of {self.assets}" if len(made) < self.assets else f"{len(made)} done"]
        read = sum(one.bytes_read for one in made)
        if read:
            parts.append(f"{size(read)} read")
        new, changed, deleted = (sum(getattr(m, n) for m in made) for n in ("new", "changed", "deleted"))
        if self.name == "raw" and (new or changed or deleted):
            parts.append(f"+{new:,} ~{changed:,} -{deleted:,}")
        if same:
            parts.append(f"{same} unchanged")
        return ", ".join(parts)


def told(made: "MadeAsset") -> str:
    """What there is to say of a finished asset."""
    parts = [f"{made.rows:>11,} rows" if made.rows is not None else " " * 16]
    if made.unchanged:
        parts.append("unchanged")
    elif made.stage == "raw":
        parts.append(f"+{made.new:,} ~{made.changed:,} -{made.deleted:,}")
    parts.append(f"{made.seconds:.2f} s")
    return "  ".join(parts)
