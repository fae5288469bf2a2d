"""The sensor starts one run per change, none without, and says in each tick why."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg2
import pytest

from etl_assets.automation import source_changed as sensor
from etl_assets.automation.history import FLOW
from etl_assets.automation.jobs import every_night
from etl_assets.automation.orphans import end_orphans, process_tag
from etl_assets.raw import assets as raw
from etl_assets_tests.automation.watching import Watching, scheduled, watching
from etl_assets_tests.flow import execute
from etl_assets_tests.shop import SOURCE

SALE = "INSERT INTO sale VALUES (1000, 1, 1, '2024-01-01')"
# "nothing was committed since", or if the server itself did something: "no table was changed (…) since".
RESTS = " since run "
Status = dg.DagsterRunStatus


@pytest.fixture
def watch(database: Callable[..., str], tmp_path: Path) -> Iterator[Watching]:
    url = database()
    execute(url, SOURCE)
    with watching(url, tmp_path) as made:
        yield made


@pytest.fixture
def loaded(watch: Watching) -> Watching:
    """A flow that has run once, at the sensor's request."""
    assert watch.run(watch.requested()).success
    return watch


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause after a failure."""
    monkeypatch.setattr(sensor, "FIRST_PAUSE_SECONDS", 0)


def test_the_first_load_is_asked_for_without_anybody_s_doing(watch: Watching) -> None:
    request = watch.requested()
    assert request.tags["source/why"] == "no run of the whole flow has succeeded yet"
    assert watch.run(request).success


def test_nothing_is_asked_for_when_nothing_was_committed_and_the_tick_names_the_run_that_saw_it(
    loaded: Watching,
) -> None:
    run_id = loaded.instance.get_runs()[0].run_id
    for _ in range(3):
        assert re.fullmatch(
            rf"(nothing was committed|no table was changed .*) since run {run_id[:8]} \(etl, source_changed\) of ..:..:.. UTC",
            str(loaded.tick()),
        )


def test_a_change_is_asked_for_once(loaded: Watching) -> None:
    execute(loaded.url, SALE)
    request = loaded.requested()
    assert request.tags["source/why"] == "changed: sale"
    # Until the run is there the same is asked for under the same key, which Dagster starts once.
    again = loaded.tick()
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == request.run_key
    assert loaded.run(request).success
    assert RESTS in str(loaded.tick())


def test_keys_of_different_changes_differ(loaded: Watching) -> None:
    keys = set()
    for n in range(2):
        execute(loaded.url, f"INSERT INTO sale VALUES ({1000 + n}, 1, 1, '')")
        keys.add(loaded.requested().run_key)
        assert loaded.run().success
    assert len(keys) == 2


def test_a_commit_in_another_table_is_told_and_asks_for_nothing(loaded: Watching) -> None:
    execute(loaded.url, "CREATE TABLE other (id int)")
    assert "no table was changed" in str(loaded.tick())


def test_it_asks_all_the_same_when_counters_have_stood_still_for_long(loaded: Watching) -> None:
    execute(loaded.url, "CREATE TABLE other (id int)")
    assert isinstance(loaded.tick(), str)
    run = loaded.instance.get_runs()[0]
    position = sensor._position(run.tags[raw.POSITION_TAG])
    assert position
    aged = position.model_copy(update={"taken": position.taken - 900})
    loaded.instance.add_run_tags(run.run_id, {raw.POSITION_TAG: aged.model_dump_json()})
    request = loaded.tick()
    assert isinstance(request, dg.RunRequest)
    assert "not believed after 15 minutes" in request.tags["source/why"]
    # And then there is peace for another quarter of an hour.
    assert loaded.run(request).success
    assert RESTS in str(loaded.tick())


def test_counters_that_arrive_after_the_run_that_took_the_change_ask_for_no_second_run(
    loaded: Watching,
) -> None:
    with closing(psycopg2.connect(loaded.url)) as session, session.cursor() as cursor:
        cursor.execute("UPDATE team SET name = 'x' WHERE id = 1")
        session.commit()  # and stays: its counters come ten seconds later, or when it ends
        assert loaded.run().success
        known = loaded.position
        assert RESTS in str(loaded.tick())
    deadline = time.monotonic() + 10
    while loaded.position.tables == known.tables:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert RESTS in str(loaded.tick())
    execute(loaded.url, "CREATE TABLE other (id int)")  # from now on the counters decide
    assert "no table was changed" in str(loaded.tick())


def test_a_transaction_that_commits_late_is_asked_for_then(loaded: Watching) -> None:
    with closing(psycopg2.connect(loaded.url)) as late, late.cursor() as cursor:
        cursor.execute(SALE)
        execute(loaded.url, "UPDATE team SET name = 'x' WHERE id = 1")
        assert loaded.run(loaded.requested()).success
        assert RESTS in str(loaded.tick())
        late.commit()
    request = loaded.requested()
    assert request.tags["source/why"] == "changed: sale"


@pytest.mark.fault("F4")
def test_what_comes_while_a_run_goes_on_is_asked_for_after_it(loaded: Watching) -> None:
    execute(loaded.url, SALE)
    loaded.requested()
    running = dg.DagsterRun(
        FLOW, run_id="b" * 36, status=Status.STARTED, tags={"etl/started_by": "command line"}
    )
    loaded.instance.add_run(running)
    assert loaded.tick() == "changed: sale; waits for run bbbbbbbb (etl, command line), which is started"
    loaded.instance.report_run_canceled(running)
    assert isinstance(
        replace(loaded).tick(), str
    )  # a canceled run is no success, and there is a pause after it
    assert "was canceled" in str(loaded.tick())


def test_a_run_of_a_part_does_not_count(loaded: Watching) -> None:
    execute(loaded.url, SALE)
    loaded.requested()
    assert loaded.run(job="raw").success
    assert isinstance(loaded.tick(), dg.RunRequest)


def test_a_run_by_hand_counts_like_one_of_the_sensor(loaded: Watching) -> None:
    execute(loaded.url, SALE)
    assert loaded.run().success
    assert "(etl, by hand)" in str(loaded.tick())


def test_a_run_that_failed_after_its_capture_is_followed_by_another(
    loaded: Watching, impatient: None
) -> None:
    execute(loaded.url, SALE)
    loaded.mended = False
    first = loaded.requested()
    assert not loaded.run(first).success
    loaded.mended = True
    second = loaded.tick()
    assert isinstance(second, dg.RunRequest)
    assert second.run_key != first.run_key
    assert second.tags["source/change"] == first.tags["source/change"]
    assert loaded.run(second).success
    assert isinstance(loaded.tick(), str)


def test_after_a_failure_there_is_a_pause_and_it_grows(
    loaded: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded.mended = False
    pauses = []
    for n in range(3):
        execute(loaded.url, f"INSERT INTO sale VALUES ({1000 + n}, 1, 1, '')")
        with monkeypatch.context() as patch:
            patch.setattr(sensor, "FIRST_PAUSE_SECONDS", 0)
            assert not loaded.run(loaded.requested()).success
        told = str(loaded.tick())
        assert "failed: star__total: ZeroDivisionError: the star is broken" in told
        pauses.append(int(re.search(r"next attempt in (\d+) s", told)[1]))  # type: ignore[index]
    assert pauses[0] in range(15, 21)
    assert pauses[1] in range(35, 41)
    assert pauses[2] in range(75, 81)


def test_it_gives_up_a_change_after_three_attempts_and_begins_anew_with_the_next(
    loaded: Watching, impatient: None
) -> None:
    execute(loaded.url, SALE)
    loaded.mended = False
    for _ in range(3):
        assert not loaded.run(loaded.requested()).success
    told = str(loaded.tick())
    assert "gave up after 3 attempts, run" in told
    assert "by hand" in told
    execute(loaded.url, "UPDATE team SET name = 'x' WHERE id = 1")
    loaded.mended = True
    assert loaded.run(loaded.requested()).success
    assert RESTS in str(loaded.tick())


def test_a_source_that_is_down_is_told_and_asked_again(loaded: Watching) -> None:
    url, loaded.url = loaded.url, "postgresql://reader:hunter2@127.0.0.1:1/shop"
    for _ in range(2):
        told = str(loaded.tick())
        assert told.startswith("the source can't be asked, next try in 1 s: can't connect to")
        assert "hunter2" not in told
        assert "\n" not in told
    loaded.url = url
    assert RESTS in str(loaded.tick())


def test_a_cursor_or_a_tag_that_cannot_be_read_is_no_obstacle(loaded: Watching) -> None:
    loaded.cursor = "of another version"
    assert RESTS in str(loaded.tick())
    run = loaded.instance.get_runs()[0]
    loaded.instance.add_run_tags(run.run_id, {raw.POSITION_TAG: "{}"})
    assert isinstance(loaded.tick(), dg.RunRequest)


def test_at_night_a_source_that_rested_is_proven_equal_again(loaded: Watching) -> None:
    now = datetime.now(UTC)
    assert "succeeded in the last 12 hours" in str(scheduled(loaded, every_night, now + timedelta(hours=11)))
    later = now + timedelta(hours=13)
    assert isinstance(scheduled(loaded, every_night, later), dg.RunRequest)
    loaded.failures, loaded.mended = 1, False
    assert not loaded.run().success
    assert "etl breaker reset" in str(scheduled(loaded, every_night, later))


@pytest.mark.fault("F4")
def test_the_schedule_asks_unless_a_run_waits_already(loaded: Watching) -> None:
    assert isinstance(scheduled(loaded), dg.RunRequest)
    loaded.instance.add_run(dg.DagsterRun(FLOW, run_id="b" * 36, status=Status.STARTING))
    assert scheduled(loaded) == "run bbbbbbbb (etl, by hand) is waiting already"


# -- runs whose process is gone --------------------------------------------------------------------------------------


@pytest.mark.fault("F2")
def test_a_run_of_a_process_that_was_killed_is_ended_and_holds_nobody_up(watch: Watching) -> None:
    told = "from etl_assets.automation.orphans import process_tag; print(process_tag()['etl/process'])"
    gone = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True
    ).stdout.strip()
    here = process_tag()
    for letter, tags in {"b": {"etl/process": gone}, "c": here, "d": {}}.items():
        watch.instance.add_run(dg.DagsterRun(FLOW, run_id=letter * 36, status=Status.STARTED, tags=tags))
    watch.instance.add_run(
        dg.DagsterRun(
            FLOW, run_id="e" * 36, status=Status.STARTED, tags={"etl/process": "1 since 0 on elsewhere"}
        )
    )
    assert [run.run_id[0] for run in end_orphans(watch.instance)] == ["b"]
    assert end_orphans(watch.instance) == []
    status = {run.run_id[0]: run.status for run in watch.instance.get_runs()}
    assert status["b"] == Status.FAILURE
    assert {status[letter] for letter in "cde"} == {Status.STARTED}


@pytest.mark.fault("F2")
def test_a_worker_that_was_killed_together_with_its_code_server_holds_nobody_up(watch: Watching) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    launched = {".dagster/grpc_info": "{}"}
    for letter, pid in {"b": gone.pid, "c": os.getpid(), "d": None}.items():
        run = dg.DagsterRun(FLOW, run_id=letter * 36, status=Status.STARTED, tags=launched)
        watch.instance.add_run(run)
        if pid:
            began = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, FLOW, pid=pid)
            watch.instance.report_dagster_event(began, run.run_id)
    assert [run.run_id[0] for run in end_orphans(watch.instance)] == ["b"]
    assert end_orphans(watch.instance) == []


# -- what is tried again ---------------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_AGAIN", dg.RetryPolicy(max_retries=2, delay=0.1))


def retries(result: dg.ExecuteInProcessResult) -> int:
    return len([event for event in result.all_events if event.is_step_up_for_retry])


@pytest.mark.fault("F5", "F9")
def test_a_source_that_is_gone_for_a_moment_is_asked_again_from_a_new_snapshot(
    watch: Watching, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, watch.url = watch.url, "postgresql://postgres@127.0.0.1:1/shop"
    asked = iter([watch.url, watch.url])
    monkeypatch.setattr("etl_assets.source.resource.PostgresSource.address", lambda self: next(asked, url))
    result = watch.run()
    assert result.success
    assert retries(result) == 2


@pytest.mark.fault("F8", "F9")
@pytest.mark.parametrize(
    ("url", "times", "said"),
    [
        ("postgresql://postgres@127.0.0.1:1/shop", 2, "Connection refused"),
        ("postgresql://postgres@no-such-host.invalid/shop", 0, "could not translate host name"),
    ],
)
def test_what_may_pass_is_tried_three_times_and_what_stays_once(
    watch: Watching, at_once: None, url: str, times: int, said: str
) -> None:
    watch.url = url
    result = watch.run()
    assert not result.success
    assert retries(result) == times
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert said in str(failure.step_failure_data.error)


@pytest.mark.fault("F9")
def test_a_missing_column_is_not_tried_again(watch: Watching, at_once: None) -> None:
    execute(watch.url, "ALTER TABLE team DROP COLUMN name")
    result = watch.run()
    assert not result.success
    assert retries(result) == 0


@pytest.mark.fault("F5")
def test_a_backend_that_is_terminated_in_the_middle_is_tried_again(
    watch: Watching, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []

    def reached(place: str) -> None:
        if place == "snapshot taken" and not killed:
            killed.append(place)
            execute(
                watch.url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'etl-assets %%'",
            )

    monkeypatch.setattr("etl_assets.raw.landing.reached", reached)
    result = watch.run()
    assert killed
    assert result.success
    assert retries(result) == 1
