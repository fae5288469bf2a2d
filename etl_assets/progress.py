"""How far a run is, for whoever started it in the same process: what Dagster's events tell only when it is over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Observer = Callable[[str, int], None]


def _nobody(table: str, size: int) -> None:
    """Nobody watches: the run was started by the daemon, the UI or a test."""


_observer: ContextVar[Observer] = ContextVar("observer", default=_nobody)


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """While the block runs, `observer` gets a table's name and the bytes read since it was last told.

    It is called from several threads, for one table from one at a time.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def observer() -> Observer:
    """Who watches. Ask in the thread that runs the step: threads it starts do not know."""
    return _observer.get()
