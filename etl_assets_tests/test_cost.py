"""What a piece of work costs is counted as it is, and told under names that plot."""

import time
from threading import Thread

from etl_assets.cost import Cost, named, peak_bytes


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_waiting_is_no_processor_time_and_blocks_add_up() -> None:
    cost = Cost()
    with cost.counting():
        time.sleep(0.05)
    assert cost.seconds >= 0.05 > cost.processor_seconds
    with cost.counting():
        spin(0.05)
    assert cost.seconds >= 0.1
    assert 0.1 > cost.processor_seconds >= 0.05


def test_of_threads_that_work_side_by_side_each_is_told_its_own() -> None:
    cost, other = Cost(), Thread(target=spin, args=(0.05,))
    with cost.counting(time.thread_time):
        other.start()
        other.join()
    assert cost.seconds >= 0.05 > cost.processor_seconds


def test_memory_that_was_given_back_shows_in_the_peak() -> None:
    before = peak_bytes()
    size = before + (64 << 20)
    taken = bytearray(size)
    taken[::4096] = b"x" * len(taken[::4096])
    del taken
    cost = Cost()
    with cost.counting():
        pass
    assert cost.peak_bytes == peak_bytes() >= size


def test_a_first_load_does_not_flatten_the_plots_of_what_follows() -> None:
    figures = Cost(seconds=2.0).rate(100)
    assert named(figures, is_first=False) == {"rows per second": 50}
    assert named(figures, is_first=True) == {"rows per second of the first load": 50}
    assert Cost().rate(100) == {"rows per second": 0}
