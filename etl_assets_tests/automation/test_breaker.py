"""After so many failures in a row nothing is started automatically, and everybody is told why and how to go on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from etl_assets.automation import source_changed as sensor
from etl_assets.automation.breaker import reset
from etl_assets.cli import etl
from etl_assets.errors import SettingsError
from etl_assets.settings import Settings
from etl_assets_tests.automation.watching import Watching, ran_once, scheduled
from etl_assets_tests.flow import execute
from etl_assets_tests.hiring import BICYCLES


@pytest.fixture
def failing(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watching]:
    """A flow that ran well once, and fails from now on; two failures open the breaker."""
    monkeypatch.setattr(sensor, "FIRST_PAUSE_SECONDS", 0)
    with ran_once(database(), tmp_path) as made:
        made.failures, made.mended = 2, False
        yield made


def change(watch: Watching, n: int) -> None:
    execute(watch.url, f"INSERT INTO sale VALUES ({1000 + n}, 1, 1, '')")


def open_it(watch: Watching) -> None:
    for n in range(2):
        change(watch, n)
        assert not watch.run(watch.requested()).success


def test_it_holds_back_sensor_and_schedule_and_tells_the_reason(failing: Watching) -> None:
    change(failing, 0)
    assert not failing.run(failing.requested()).success
    assert isinstance(scheduled(failing), dg.RunRequest)
    change(failing, 1)
    assert not failing.run(failing.requested()).success
    for told in (failing.tick(), scheduled(failing)):
        assert isinstance(told, str)
        assert "the last 2 runs failed (ETL_BREAKER_FAILURES=2)" in told
        assert "ZeroDivisionError: the star is broken" in told
        assert "etl breaker reset" in told


def test_another_change_does_not_close_it(failing: Watching) -> None:
    open_it(failing)
    change(failing, 7)
    assert "circuit breaker" in str(failing.tick())


def test_a_run_by_hand_that_succeeds_closes_it(failing: Watching) -> None:
    open_it(failing)
    failing.mended = True
    assert failing.run().success
    assert isinstance(scheduled(failing), dg.RunRequest)
    change(failing, 7)
    failing.requested()


def test_a_reset_closes_it_until_there_are_as_many_failures_again(failing: Watching) -> None:
    open_it(failing)
    reset(failing.instance)
    assert isinstance(scheduled(failing), dg.RunRequest)
    for n in range(2):
        change(failing, 10 + n)
        assert not failing.run(failing.requested()).success
    assert "circuit breaker" in str(failing.tick())


def test_it_is_off_unless_it_is_asked_for(failing: Watching) -> None:
    failing.failures = None
    open_it(failing)
    assert isinstance(scheduled(failing), dg.RunRequest)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_setting_that_is_no_number_of_runs_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^ETL_BREAKER_FAILURES is no number of runs"):
        Settings.read({"ETL_BREAKER_FAILURES": value})


def test_the_command_tells_and_resets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_PROJECT", BICYCLES.project)
    monkeypatch.setenv("ETL_DATA", str(tmp_path))
    monkeypatch.setenv("ETL_BREAKER_FAILURES", "1")
    monkeypatch.setenv("ETL_SOURCE_URL", "postgresql://nobody@no-such-host.invalid/none")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    ask = CliRunner().invoke

    def told(*words: str) -> tuple[int, str]:
        result = ask(etl, ["breaker", *words])
        return result.exit_code, result.stdout

    assert told() == (0, "closed: 0 failed in a row, of 1\n")
    assert ask(etl, ["run", "--select", "raw/bike"]).exit_code == 1
    assert told() == (0, "closed: 0 failed in a row, of 1\n"), "a run of a part does not count"
    assert ask(etl, ["run"]).exit_code == 1
    code, line = told()
    assert code == 1
    assert "could not translate host name" in line
    assert told("reset")[0] == 0
    assert told()[0] == 0
