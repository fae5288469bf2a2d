"""The calls of an API that were made on this machine, whichever run made them: what it allows is that of all together.

One file for each API and lake, held by one run at a time: another waits. A call is noted before it leaves, so those of a run
that was killed count too. Times are kept by two clocks: the one that counts from the start of the machine can't be set, and
the other one goes on when the machine is started anew.
"""

import fcntl
import hashlib
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HEAD = struct.Struct("<8sdd")
"""What identifies the file, and until when no call is to be made, by both clocks."""
_CALL = struct.Struct("<dd")
_LOOK_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 86_400.0
_AHEAD_SECONDS = 2.0
"""A call that had not arrived is noted as arriving so much later at the most."""


class Journal:
    """A journal that this run holds. `machine` identifies it: pages say with which one they were fetched."""

    def __init__(self, file: int) -> None:
        self._file = file
        head = os.pread(file, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            head = _HEAD.pack(secrets.token_bytes(8), 0.0, 0.0)
            os.pwrite(file, head, 0)
        self._id: bytes
        self._paused: tuple[float, float]
        self._id, *paused = _HEAD.unpack(head)
        self._paused = (paused[0], paused[1])
        self.machine = self._id.hex()
        self._next = 0

    @classmethod
    @contextmanager
    def held(cls, folder: Path, lake: str, api: str, go_on: Callable[[], None]) -> Iterator["Journal"]:
        """The journal of an API in a folder of this machine, as soon as no other run holds it. `go_on` raises when nobody is
        to wait any longer."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"calls-{api}-{hashlib.sha256(lake.encode()).hexdigest()[:12]}"
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    go_on()
                    time.sleep(_LOOK_SECONDS)
            yield cls(file)
        finally:
            os.close(file)

    def earlier(self, calls: int, seconds: float) -> list[float]:
        """How many seconds ago the newest calls were made, oldest first: so many, of that time. Others are forgotten."""
        content = os.pread(self._file, os.fstat(self._file).st_size, _HEAD.size)
        whole = content[: len(content) // _CALL.size * _CALL.size]
        found = sorted((_ago(*times), times) for times in _CALL.iter_unpack(whole))
        recent = [(ago, times) for ago, times in found if ago < seconds][:calls]
        os.pwrite(self._file, b"".join(_CALL.pack(*times) for _, times in recent), _HEAD.size)
        os.ftruncate(self._file, _HEAD.size + len(recent) * _CALL.size)
        self._next = len(recent)
        return [ago for ago, _ in reversed(recent)]

    def note(self, arrives_within_seconds: float) -> int:
        """Note a call that is about to be made; gives its place."""
        place, self._next = self._next, self._next + 1
        self.arrived(place, arrives_within_seconds)
        return place

    def arrived(self, place: int, later_seconds: float = 0.0) -> None:
        """Note that a call had arrived by now."""
        times = time.time() + later_seconds, time.monotonic() + later_seconds
        os.pwrite(self._file, _CALL.pack(*times), _HEAD.size + place * _CALL.size)

    def pause(self, seconds: float) -> None:
        """Note that no call is to be made for so long, a day at the most."""
        seconds = min(seconds, _LONGEST_PAUSE_SECONDS)
        self._paused = time.time() + seconds, time.monotonic() + seconds
        os.pwrite(self._file, _HEAD.pack(self._id, *self._paused), 0)

    @property
    def paused(self) -> float:
        """The seconds for which no call is to be made."""
        # A clock that was set back, or began anew, would have one wait for long.
        left = min(self._paused[0] - time.time(), self._paused[1] - time.monotonic())
        return min(max(left, 0.0), _LONGEST_PAUSE_SECONDS)


def _ago(wall: float, since_start: float) -> float:
    """How long ago a moment was; of what two clocks say the less, unless that lies ahead."""
    found = [ago for ago in (time.time() - wall, time.monotonic() - since_start) if ago > -_AHEAD_SECONDS]
    return min(found, default=0.0)
