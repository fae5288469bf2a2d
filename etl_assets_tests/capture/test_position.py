"""Where the source stands: what was committed is noticed, what was not is not, and both in milliseconds."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_assets.source.connection import SourceError, SourceInterrupted
from etl_assets.source.position import CERTAINTY_SECONDS, Position, judge, read_position
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve, wheel_binaries
from etl_assets_tests.flow import as_role, execute
from etl_assets_tests.shop import SOURCE

TEAM = Table("team", "", {"id": "int", "name": "text"})
SALE = Table("sale", "", {"id": "int"}, key=("id",))
TABLES = (TEAM, SALE)
LATER = 3600.0
"""For time that is not to pass: nothing is due yet."""


@pytest.fixture
def url(database: Callable[..., str]) -> str:
    made = database()
    execute(made, SOURCE)
    return made


@pytest.fixture
def session(url: str) -> Iterator[Connection]:
    with closing(psycopg2.connect(url)) as connection:
        yield connection


def settled(url: str, *tables: Table) -> Position:
    """The position once all sessions have told what they did: those of ended ones arrive a moment after."""
    position = read_position(url, tables or TABLES)
    for _ in range(20):
        time.sleep(0.1)
        before, position = position, read_position(url, tables or TABLES)
        if position.tables == before.tables:
            break
    return position


def why(url: str, last: Position, *tables: Table) -> str | None:
    """What `judge` says has changed, as soon as it does; None if it says so for two seconds that nothing has."""
    for _ in range(20):
        verdict = judge(read_position(url, tables or TABLES), last, certainty_seconds=LATER)
        if verdict.changed:
            return verdict.why
        time.sleep(0.1)
    return None


def test_the_question_takes_milliseconds(url: str) -> None:
    read_position(url, TABLES)
    begun = time.monotonic()
    for _ in range(10):
        read_position(url, TABLES)
    assert (time.monotonic() - begun) / 10 < 0.1


def test_reading_is_no_change(url: str) -> None:
    last = settled(url)
    execute(url, "SELECT * FROM sale; CREATE TEMPORARY TABLE mine AS SELECT 1")
    now = read_position(url, TABLES)
    assert now.tables == last.tables
    assert judge(last, last).why == "nothing was committed"


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("INSERT INTO sale VALUES (1000, 1, 1, '')", "sale"),
        ("UPDATE team SET name = 'x' WHERE id = 1", "team"),
        ("DELETE FROM sale WHERE id = 1", "sale"),
        ("DELETE FROM sale; INSERT INTO team VALUES (77, '')", "sale, team"),
        ("TRUNCATE sale", "sale"),
        ("ALTER TABLE team ADD COLUMN colour text", "team"),
        ("ALTER TABLE team ADD COLUMN colour text DEFAULT 'red'", "team"),
        ("ALTER TABLE team RENAME COLUMN name TO title", "team"),
        ("ALTER TABLE team ALTER COLUMN name SET NOT NULL", "team"),
        ("ALTER TABLE sale DROP COLUMN amount", "sale"),
        ("ALTER TABLE sale ALTER COLUMN amount TYPE text", "sale"),
        ("CREATE TABLE new (LIKE sale); DROP TABLE sale; ALTER TABLE new RENAME TO sale", "sale"),
    ],
)
def test_what_was_committed_is_noticed_and_named(url: str, statement: str, table: str) -> None:
    last = settled(url)
    execute(url, statement)
    assert why(url, last) == f"changed: {table}"


def test_a_table_that_went_or_came_is_noticed(url: str) -> None:
    last = settled(url)
    execute(url, "ALTER TABLE sale RENAME TO sold")
    assert why(url, last) == "tables came or went: sale"
    assert judge(settled(url, TEAM), last).changed


def test_another_table_or_database_is_no_change(url: str, database: Callable[..., str]) -> None:
    last = settled(url)
    execute(url, "INSERT INTO worker VALUES (99, '', 1)")
    execute(database(), "CREATE TABLE sale (id int)")
    now = settled(url)
    assert now.mark != last.mark
    verdict = judge(now, last, certainty_seconds=LATER)
    assert not verdict.changed
    assert "elsewhere" in verdict.why


def test_counters_that_stand_still_are_not_believed_for_ever(url: str) -> None:
    last = settled(url)
    execute(url, "INSERT INTO worker VALUES (99, '', 1)")
    now = settled(url)
    assert not judge(now, last, certainty_seconds=LATER).changed
    assert judge(now, last, certainty_seconds=now.taken - last.taken).changed
    # But where nothing was committed there is nothing to doubt.
    assert not judge(now.model_copy(update={"mark": last.mark}), last, certainty_seconds=0).changed


def test_a_session_that_reports_late_is_noticed_when_it_does_and_by_the_mark_at_once(
    url: str, session: Connection
) -> None:
    with session.cursor() as cursor:
        cursor.execute("UPDATE team SET name = 'first' WHERE id = 1")
        session.commit()  # reported at once, so the next commit within a second is not
        last = settled(url)
        cursor.execute("UPDATE team SET name = 'second' WHERE id = 1")
        session.commit()
        now = read_position(url, TABLES)
        assert now.mark != last.mark
        assert judge(now, last, certainty_seconds=0).changed
        # An idle session reports after ten seconds, one that does something with what it does after the first.
        deadline = time.monotonic() + 5
        while judge(read_position(url, TABLES), last, certainty_seconds=LATER).why != "changed: team":
            assert time.monotonic() < deadline
            time.sleep(0.2)
            cursor.execute("SELECT 1")
            session.commit()


def test_a_transaction_that_commits_late_is_noticed_when_it_commits(url: str, session: Connection) -> None:
    with session.cursor() as cursor:
        cursor.execute("UPDATE team SET name = 'late' WHERE id = 1")
    execute(url, "INSERT INTO sale VALUES (1000, 1, 1, '')")
    last = settled(url)
    assert judge(read_position(url, TABLES), last).why == "nothing was committed"
    session.commit()
    session.close()
    assert why(url, last) == "changed: team"


def test_statistics_that_were_reset_are_no_reason_to_miss_anything(url: str) -> None:
    last = settled(url)
    execute(url, "INSERT INTO sale VALUES (1000, 1, 1, '')")
    execute(url, "SELECT pg_stat_reset()")
    assert why(url, last) == "its counters began again at zero"


def test_counters_that_went_back_are_no_reason_to_miss_anything(url: str) -> None:
    last = settled(url)
    sale = last.tables["sale"]
    assert sale.writes
    now = last.model_copy(update={"tables": {**last.tables, "sale": sale.model_copy(update={"writes": 0})}})
    assert judge(now, last).changed


def test_another_server_or_database_is_noticed(url: str, database: Callable[..., str]) -> None:
    other = database()
    execute(other, SOURCE)
    assert "another server or database" in judge(settled(other), settled(url)).why


def test_what_cannot_be_counted_may_have_changed_once_a_minute_when_something_was_committed(url: str) -> None:
    execute(url, "CREATE VIEW seen AS SELECT * FROM team")
    view = Table("seen", "", {"id": "int"}, key=("id",))
    last = settled(url, view)
    execute(url, "UPDATE team SET name = 'x' WHERE id = 1")
    now = settled(url, view)
    assert not judge(now, last, certainty_seconds=LATER).changed
    minute_ago = last.model_copy(update={"taken": last.taken - 60})
    assert "can't be counted: seen" in judge(now, minute_ago, certainty_seconds=LATER).why
    assert not judge(last, minute_ago, certainty_seconds=LATER).changed
    assert "without a commit here: seen" in judge(last, minute_ago, certainty_seconds=60).why


def test_a_clock_that_was_set_back_keeps_nobody_waiting_until_it_has_caught_up(url: str) -> None:
    execute(url, "CREATE VIEW seen AS SELECT * FROM team")
    view = Table("seen", "", {"id": "int"}, key=("id",))
    then = settled(url, view)
    last = then.model_copy(update={"taken": then.taken + 86_400})
    assert "without a commit here: seen" in judge(then, last).why
    execute(url, "UPDATE team SET name = 'x' WHERE id = 1")
    assert "its clock was set back" in judge(settled(url, view), last).why


def test_rows_that_a_policy_shows_by_the_hour_need_no_commit(url: str) -> None:
    """As those of which a time says when they are to be seen."""
    execute(
        url,
        "CREATE ROLE hourly LOGIN PASSWORD 'hourly'; GRANT SELECT ON team TO hourly; ALTER TABLE team ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY due ON team USING (now() > '2020-01-01')",
    )
    try:
        as_hourly = settled(as_role(url, "hourly", "hourly"), TEAM)
        assert as_hourly.tables["team"].elsewhere
        quarter_ago = as_hourly.model_copy(update={"taken": as_hourly.taken - CERTAINTY_SECONDS})
        assert "without a commit here: team" in judge(as_hourly, quarter_ago).why
        assert not settled(url, TEAM).tables["team"].elsewhere  # whoever is above policies
    finally:
        execute(url, "DROP OWNED BY hourly; DROP ROLE hourly")


def test_counters_that_are_switched_off_are_not_taken_for_rest(url: str) -> None:
    name = url.rpartition("/")[2]
    execute(url, f"ALTER DATABASE {name} SET track_counts = off")
    assert {table.writes for table in settled(url).tables.values()} == {None}


def test_a_partitioned_table_is_counted_by_its_partitions(url: str) -> None:
    execute(
        url,
        "CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10)",
    )
    part = Table("part", "", {"id": "int"})
    last = settled(url, part)
    execute(url, "INSERT INTO part VALUES (1)")
    assert why(url, last, part) == "changed: part"
    last = settled(url, part)
    execute(url, "CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20)")
    assert why(url, last, part) == "changed: part"


def test_a_role_that_may_only_select_is_answered(url: str) -> None:
    execute(url, "CREATE ROLE only_reads LOGIN PASSWORD 'x'; GRANT SELECT ON team, sale TO only_reads")
    try:
        reader = as_role(url, "only_reads", "x")
        assert read_position(reader, TABLES).tables == settled(url).tables
    finally:
        execute(url, "DROP OWNED BY only_reads; DROP ROLE only_reads")


def test_the_change_is_named_alike_until_a_table_changes(url: str) -> None:
    last = settled(url)
    execute(url, "INSERT INTO worker VALUES (99, '', 1)")
    now = settled(url)
    assert now.digest == last.digest
    execute(url, "INSERT INTO sale VALUES (1000, 1, 1, '')")
    assert settled(url).digest != last.digest
    assert Position.model_validate_json(now.model_dump_json()) == now


@pytest.mark.fault("F5")
def test_after_a_crash_the_source_is_looked_at(postgres_folder: Path) -> None:
    folder = postgres_folder / "crashes"
    with serve(folder) as url:
        execute(url, SOURCE)
        last = settled(url)
        pid = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)  # immediate shutdown
        while (folder / "data" / "postmaster.pid").exists():
            time.sleep(0.05)
    with serve(folder) as url:
        assert judge(read_position(url, TABLES), last).changed


def test_after_an_orderly_restart_it_stands_where_it_stood(postgres_folder: Path) -> None:
    folder = postgres_folder / "restarts"
    with serve(folder) as url:
        execute(url, SOURCE)
        last = settled(url)
    with serve(folder) as url:
        assert not judge(read_position(url, TABLES), last, certainty_seconds=LATER).changed


def test_version_16_answers_too(postgres_folder: Path) -> None:
    with serve(postgres_folder / "position16", binaries=wheel_binaries(16)) as url:
        execute(url, SOURCE)
        last = settled(url)
        execute(url, "UPDATE team SET name = 'x' WHERE id = 1")
        assert why(url, last) == "changed: team"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://a:secret@127.0.0.1:1/x", SourceInterrupted),
        ("postgresql://a:secret@no-such-host.invalid/x", SourceError),
    ],
)
def test_a_source_that_is_down_is_told_in_one_line_without_the_password(
    url: str, kind: type[SourceError]
) -> None:
    with pytest.raises(kind) as caught:
        read_position(url, TABLES)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
