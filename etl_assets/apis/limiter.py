"""The limiter of calls: never more than agreed in any stretch of time, as the server sees it, and nearly as many.

A call arrives between the moment when its request has left and the one when its answer begins. The call that comes so many
later than another one waits until the other arrived a period ago at the latest: by its answer, or, if that takes its time,
by when it left and a little more. In short periods calls are spread evenly besides, so that they don't meet on the way.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from etl_assets.apis.declaration import Rate

_MARGIN = 0.01
_WAY = 0.08  # of a period, for the way to the server: together they leave more than 90 % of the rate
_MOST_SECONDS = 0.25
# Up to here a period is spread over its calls; in a longer one the first ones would wait for nothing.
_SPREAD_SECONDS = 2.0
_LOOK_SECONDS = 0.005


class Call:
    """A call that may be made. `left` is when its request had left, `answered` when its answer began; None before."""

    def __init__(self, left: float | None = None) -> None:
        self.left = left
        self.answered = left

    def leaves(self) -> None:
        """Note that the request has left: now, however often this is said."""
        if self.left is None:
            self.left = time.monotonic()

    def answers(self) -> None:
        """Note that the answer begins, or that there will be none: now, however often this is said."""
        self.leaves()
        if self.answered is None:
            self.answered = time.monotonic()

    def arrived(self, way_seconds: float) -> float | None:
        """When it had arrived at the latest; None as long as it has not left."""
        if self.left is None:
            return None
        return (
            self.left + way_seconds if self.answered is None else min(self.answered, self.left + way_seconds)
        )


class Limiter:
    """Lets calls go, for all threads of a run. `waited_seconds`: how long they waited in all. `stopped` raises
    when nobody is to wait any longer."""

    def __init__(self, rate: Rate, stopped: Callable[[], None] = lambda: None) -> None:
        self.rate = rate
        self.waited_seconds = 0.0
        self.calls = 0
        self._stopped = stopped
        self._period = rate.per_seconds + min(_MARGIN * rate.per_seconds, _MOST_SECONDS)
        self._way = min(_WAY * rate.per_seconds, _MOST_SECONDS)
        self._gap = self._period / rate.calls if rate.per_seconds <= _SPREAD_SECONDS else 0.0
        self._recent: deque[Call] = deque(maxlen=rate.calls)
        self._slot = 0.0
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def assume(self, seconds_ago: float) -> None:
        """Count a call that was made before, by whomever."""
        call = Call(time.monotonic() - seconds_ago)
        with self._lock:
            self._recent.append(call)

    def pause(self, seconds: float) -> None:
        """Let no call go for so long: the server asked for it."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def rest(self, seconds: float) -> None:
        """Let this thread wait for so long, and go on with its work later than that."""
        until = time.monotonic() + seconds
        with self._lock:
            self.waited_seconds += seconds
        while (left := until - time.monotonic()) > 0:
            self._stopped()
            time.sleep(min(left, 0.5))

    def go(self) -> Call:
        """Wait until a call may be made. Whoever got it makes it at once, and says when it has left."""
        began = time.monotonic()
        while True:
            self._stopped()
            with self._lock:
                wait = self._wait(time.monotonic())
                if wait <= 0:
                    now, call = time.monotonic(), Call()
                    # A slot that was missed by a little is made up for: what counts is how many calls there were.
                    self._slot = max(self._slot, now - self._gap) + self._gap
                    self._recent.append(call)
                    self.calls += 1
                    self.waited_seconds += now - began
                    return call
            time.sleep(min(wait, 0.5))

    def _wait(self, now: float) -> float:
        """How long nobody may go yet."""
        until = max(self._slot, self._paused_until)
        if len(self._recent) == self.rate.calls:
            oldest = self._recent[0].arrived(self._way)
            if oldest is None:  # it is on its way out
                return _LOOK_SECONDS
            until = max(until, oldest + self._period)
        return until - now
