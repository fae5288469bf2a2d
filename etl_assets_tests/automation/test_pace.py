"""A source that always changes is read as often as is wanted: the sensor's ticks say what waits, and until when."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon import sensor

from etl_assets.errors import SettingsError
from etl_assets.interface.daemon import look_as_often_as_the_pace_wants
from etl_assets.pace import NO_PACE, Pace
from etl_assets.settings import Settings
from etl_assets_tests.automation.watching import Watching, ran_once
from etl_assets_tests.flow import execute

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def loaded(database: Callable[..., str], tmp_path: Path) -> Iterator[Watching]:
    """A flow that has run a moment ago, and a change since."""
    with ran_once(database(), tmp_path) as made:
        execute(made.url, "INSERT INTO sale VALUES (1000, 1, 1, '')")
        made.requested()  # the source's counters have arrived
        yield made


def test_what_changes_again_waits_for_the_pace_and_the_tick_says_until_when(loaded: Watching) -> None:
    loaded.pace = Pace.read("10m")
    told = str(loaded.tick())
    assert told.startswith("changed: sale; next run in ")
    assert told.endswith(" s (ETL_EVERY=10m)")
    assert 500 < int(told.split("next run in ")[1].split()[0]) <= 600
    assert loaded.run().success  # by hand nobody waits
    assert " since run " in str(loaded.tick())


def test_without_a_pace_a_run_follows_the_other(loaded: Watching) -> None:
    assert loaded.pace == NO_PACE == Pace.read("0")
    assert isinstance(loaded.tick(), dg.RunRequest)
    sensor = loaded.definitions().resolve_sensor_def("source_changed")
    assert sensor.minimum_interval_seconds == 1


def test_when_the_time_has_come_it_is_read(loaded: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded.pace = Pace.read("1m")
    assert isinstance(loaded.tick(), str)
    began = loaded.instance.get_run_records(limit=1)[0].create_timestamp

    class Later:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return began.astimezone(zone) + timedelta(seconds=61)

    monkeypatch.setattr("etl_assets.automation.source_changed.datetime", Later)
    assert isinstance(loaded.tick(), dg.RunRequest)


def test_in_quiet_hours_nothing_begins_and_the_tick_names_their_end(loaded: Watching) -> None:
    now = datetime.now(UTC)
    begin, end = (f"{now + timedelta(minutes=minutes):%H:%M}" for minutes in (-5, 5))
    loaded.pace = Pace.read(f"0, {begin}-{end} off")
    assert (
        str(loaded.tick()) == f"changed: sale; quiet hours until {end} UTC (ETL_EVERY=0, {begin}-{end} off)"
    )


@pytest.mark.parametrize(
    ("written", "hour", "seconds_ago", "waits"),
    [
        ("1m", 12, 59, "next run in 1 s"),
        ("1m", 12, 60, None),
        ("90s", 12, 60, "next run in 30 s"),
        ("0", 12, 0, None),
        ("1m, 22:00-06:00 1h", 21, 120, None),
        ("1m, 22:00-06:00 1h", 22, 120, "next run in 3480 s"),
        ("1m, 22:00-06:00 1h", 5, 120, "next run in 3480 s"),
        ("1m, 22:00-06:00 1h", 6, 120, None),
        ("1m, 01:00-02:30 off, 22:00-06:00 1h", 1, 9999, "quiet hours until 02:30 UTC"),
        ("1m, 01:00-02:30 off, 22:00-06:00 1h", 3, 9999, None),
        ("1m", 12, -5, None),  # a run from the future was told of by a clock that was wrong
    ],
)
def test_who_waits_and_for_how_long(written: str, hour: int, seconds_ago: int, waits: str | None) -> None:
    now = NOON.replace(hour=hour)
    told = Pace.read(written).reason_to_wait(now - timedelta(seconds=seconds_ago), now)
    assert told == (waits and f"{waits} (ETL_EVERY={written})")


def test_a_source_that_was_never_read_is_read_at_once_but_not_in_quiet_hours() -> None:
    assert Pace.read("1h").reason_to_wait(None, NOON) is None
    assert Pace.read("1h, 11:00-13:00 off").reason_to_wait(None, NOON) is not None


@pytest.mark.parametrize(("written", "seconds"), [("0", 1), ("2s", 2), ("1m", 5)])
def test_the_daemon_looks_as_often_as_the_pace_wants(
    written: str, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a source that is read as often as possible waits for Dagster's own round of five seconds."""
    monkeypatch.setattr(sensor, "MIN_INTERVAL_LOOP_TIME", sensor.MIN_INTERVAL_LOOP_TIME)
    look_as_often_as_the_pace_wants(Pace.read(written))
    waits: list[float] = []

    class Ended(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            self.set()
            return True

    with (
        dg.instance_for_test() as instance,
        create_test_daemon_workspace_context(EmptyWorkspaceTarget(), instance) as context,
    ):
        rounds = sensor.execute_sensor_iteration_loop(context, logging.getLogger("daemon"), Ended())
        while not waits:
            next(rounds)
    assert waits[0] == pytest.approx(seconds, abs=0.9)


def test_it_is_a_setting_of_a_minute_unless_it_is_set() -> None:
    assert Settings.read({}).every.seconds == 60
    assert Settings.read({"ETL_EVERY": "15m, 22:00-06:00 off"}).every.told() == (
        "a source that changes is read at most every 900 s; 22:00-06:00 UTC not at all"
    )


@pytest.mark.parametrize(
    "written",
    ["often", "1", "-1m", "1m30s", "1m;", "1d", "1m, 22-06 1h", "1m, 24:00-06:00 1h", "1m, 06:00-06:00 off",
     "off", "1m, 22:00-06:00", "1m, 22:00-06:00 soon", ",", "99999999h"],
)  # fmt: skip
def test_what_is_no_pace_is_refused(written: str) -> None:
    with pytest.raises(SettingsError, match=r"^ETL_EVERY=.* is no pace: write 30s, 5m or 2h"):
        Settings.read({"ETL_EVERY": written})
