"""The limiter of calls: never more than agreed in any stretch of time, as the server sees it, and nearly as many.

A call arrives after its request has left, and before its answer begins; of the time between them the server takes as much
as it took for the quickest answer so far. The call that comes so many later than another one waits until the other arrived
a period ago at the latest. In short periods calls are spread evenly besides, so that they don't meet on the way. Calls of
other runs count as well: a journal tells of those of this machine.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from etl_assets.apis.declaration import Rate
from etl_assets.apis.journal import Journal

_MARGIN = 0.01  # of a period
_MOST_SECONDS = 0.25
# Of the time of the quickest answer, what the server certainly takes for any.
_CERTAIN = 0.8
# A call without an answer arrived after so many times what answers usually take, and this share of a period.
_TIMES, _WAY = 3, 0.08
_SMOOTHED = 0.2
# Up to here a period is spread over its calls; in a longer one the first ones would wait for nothing.
_SPREAD_SECONDS = 2.0
_LOOK_SECONDS = 0.005
# What is on its way when a run is killed arrives within so long.
_LATEST_SECONDS = 1.0


class Call:
    """A call that may be made. `left` is when its request had left, `answered` when its answer began; None before. `learn` is
    told how long that took."""

    def __init__(self, learn: Callable[[float], None]) -> None:
        self.left: float | None = None
        self.answered: float | None = None
        self._learn = learn

    def leaves(self) -> None:
        """Note that the request has left: now, however often this is said."""
        if self.left is None:
            self.left = time.monotonic()

    def answers(self) -> None:
        """Note that the answer begins, or that there will be none: now, however often this is said."""
        self.leaves()
        if self.answered is None and self.left is not None:
            self.answered = time.monotonic()
            self._learn(self.answered - self.left)


class Limiter:
    """Lets calls go, for all threads of a run. `waited_seconds`: how long they waited in all. `stopped` gets how many seconds
    are to be waited for what other calls leave of the rate, and raises when that is too long, or nobody is to wait any longer."""

    def __init__(self, rate: Rate, stopped: Callable[[float], None] = lambda _: None) -> None:
        self.rate = rate
        self.journal: Journal | None = None
        self.waited_seconds = 0.0
        self.calls = 0
        self._stopped = stopped
        self._period = rate.per_seconds + min(_MARGIN * rate.per_seconds, _MOST_SECONDS)
        self._gap = self._period / rate.calls if rate.per_seconds <= _SPREAD_SECONDS else 0.0
        self._recent: deque[Call] = deque(maxlen=rate.calls)
        self._quickest: float | None = None
        self._usual = 0.0
        self._slot = 0.0
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def go_on(self, journal: Journal, elsewhere: Sequence[float]) -> None:
        """Count the calls that a journal tells of, and those that were made so many seconds ago on other machines; from now
        on note calls in the journal."""
        known = [*journal.earlier(self.rate.calls, self._period), *elsewhere]
        for seconds_ago in sorted(known, reverse=True):
            self.assume(seconds_ago)
        self.pause(journal.paused)
        self.journal = journal

    def assume(self, seconds_ago: float) -> None:
        """Count a call that was made before, by whomever."""
        call = Call(self._learn)
        call.left = call.answered = time.monotonic() - seconds_ago
        with self._lock:
            self._recent.append(call)

    def pause(self, seconds: float) -> None:
        """Let no call go for so long: the server asked for it."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            if self.journal and seconds > self.journal.paused:
                self.journal.pause(seconds)

    def rest(self, seconds: float) -> None:
        """Let this thread wait for so long, and go on with its work later than that."""
        until = time.monotonic() + seconds
        with self._lock:
            self.waited_seconds += seconds
        while (left := until - time.monotonic()) > 0:
            self._stopped(0.0)
            time.sleep(min(left, 0.5))

    def go(self) -> Call:
        """Wait until a call may be made. Whoever got it makes it at once, and says when it has left."""
        began, wait = time.monotonic(), 0.0
        while True:
            self._stopped(wait)
            with self._lock:
                wait = self._wait(time.monotonic())
                if wait <= 0:
                    now, call = time.monotonic(), Call(self._noted())
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
            arrived = self._arrived(self._recent[0])
            if arrived is None:  # it is on its way out
                return _LOOK_SECONDS
            until = max(until, arrived + self._period)
        return until - now

    def _arrived(self, call: Call) -> float | None:
        """When a call had arrived at the latest; None as long as it has not left."""
        if call.left is None:
            return None
        if call.answered is None:
            return call.left + max(_TIMES * self._usual, _WAY * self.rate.per_seconds)
        return max(call.left, call.answered - _CERTAIN * (self._quickest or 0.0))

    def _noted(self) -> Callable[[float], None]:
        """Note a call in the journal; gives what is told when its answer begins."""
        journal = self.journal
        if journal is None:
            return self._learn
        place = journal.note(min(_WAY * self.rate.per_seconds, _LATEST_SECONDS))

        def answered(seconds: float) -> None:
            journal.arrived(place)
            self._learn(seconds)

        return answered

    def _learn(self, seconds: float) -> None:
        """Take note of how long an answer took."""
        with self._lock:
            self._quickest = seconds if self._quickest is None else min(seconds, self._quickest)
            self._usual += _SMOOTHED * (seconds - self._usual)
