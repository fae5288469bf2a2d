"""What `etl doctor` asks of a resource: would everything work that a run needs of it? A resource that can say so offers
`check`; those that can't are passed over.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from etl_assets.errors import EtlError

if TYPE_CHECKING:
    pass

_FEW_BYTES = 1_000_000_000


@dataclass(frozen=True)
class CheckResult:
    """One thing that was tried. `told` is one line without secrets: what was found, or what to do. `advice`: runs work,
    but would do better."""

    name: str
    told: str
    state: Literal["ok", "advice", "missing"] = "ok"


@runtime_checkable
class Checked(Protocol):
    """A resource that can be tried out."""

    def check(self) -> Iterator[CheckResult]:
        """Try, one by one, what a run will do. Nothing that is written stays."""


def probed(name: str, act: Callable[[], str]) -> CheckResult:
    """Try something; it says what it found, or raises what is to be done."""
    try:
        return CheckResult(name, act())
    except EtlError as error:
        return CheckResult(name, str(error), "missing")


def room(name: str, folder: Path, setting: str) -> CheckResult:
    """Whether files can be made in a folder (which a run would make if there is none), and how much room there is."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return CheckResult(
            name, f"{existing} can't be written by this user; change that, or {setting}", "missing"
        )
    free = shutil.disk_usage(existing).free
    told = f"{folder}: {free / 1e9:,.1f} GB free" + ("" if folder.exists() else "; the first run makes it")
    return CheckResult(name, told, "advice" if free < _FEW_BYTES else "ok")
