"""A clock that was set ahead once decides nothing afterwards: what came after what is told by the order of the runs."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.automation import source_changed as sensor
from etl_assets.automation.jobs import every_night
from etl_assets.automation.runs import last_successes
from etl_assets_tests.automation.watching import Watching, ran_once, scheduled
from etl_assets_tests.flow import execute


@pytest.fixture
def watch(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watching]:
    """A flow that ran well once, by a clock that was a year ahead."""
    monkeypatch.setattr(sensor, "FIRST_PAUSE_SECONDS", 0)
    with ran_once(database(), tmp_path) as made:
        set_ahead(made)
        yield made


def set_ahead(watch: Watching) -> None:
    """Let all runs so far be of a year later."""
    with closing(sqlite3.connect(watch.folder / "dagster/history/runs.db")) as history, history:
        later = history.execute(
            "UPDATE runs SET create_timestamp = datetime(create_timestamp, '+1 year'), "
            "start_time = start_time + 31536000, end_time = end_time + 31536000"
        )
        assert later.rowcount


def fails(watch: Watching, n: int) -> bool:
    execute(watch.url, f"INSERT INTO sale VALUES ({1000 + n}, 1, 1, '')")
    watch.mended = False
    return not watch.run(watch.requested()).success


@pytest.mark.fault("F26")
def test_failures_after_a_success_of_the_future_open_the_breaker(watch: Watching) -> None:
    watch.failures = 2
    assert fails(watch, 0)
    assert fails(watch, 1)
    execute(watch.url, "INSERT INTO sale VALUES (2000, 1, 1, '')")
    assert "the last 2 runs failed" in str(watch.tick())


def test_a_failure_of_the_future_holds_nobody_up(watch: Watching) -> None:
    assert fails(watch, 0)
    set_ahead(watch)
    watch.mended = True
    execute(watch.url, "INSERT INTO sale VALUES (2000, 1, 1, '')")
    assert watch.run(watch.requested()).success


@pytest.mark.fault("F26")
def test_a_success_of_the_future_spares_no_night(watch: Watching) -> None:
    assert isinstance(scheduled(watch, every_night, datetime.now(UTC)), dg.RunRequest)


@pytest.mark.fault("F26")
def test_the_last_success_is_the_one_that_came_last(watch: Watching) -> None:
    second = watch.run()
    assert second.success
    (run,) = last_successes(watch.instance, 1)
    assert run.id == second.run_id
