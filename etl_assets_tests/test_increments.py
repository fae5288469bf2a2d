"""What makes other tools lose rows: subsets, writers at work, late commits, mass deletion. Nothing is lost here."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from shutil import copytree, rmtree
from threading import Event, Thread

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_assets_tests.flow import Flow, Run, execute, same
from etl_assets_tests.hiring import play_day, record_hire

BATCHES_BESIDE_A_WRITER = 5


@pytest.fixture
def flow(bicycles: str, tmp_path: Path) -> Flow:
    return Flow(bicycles, tmp_path)


def succeed(run: Run) -> Run:
    assert run.success, run.error_lines
    return run


@contextmanager
def session(url: str) -> Iterator[Connection]:
    with closing(psycopg2.connect(url)) as connection:
        yield connection


def test_reading_some_tables_hides_no_change_in_the_others(flow: Flow) -> None:
    succeed(flow.run("raw"))
    play_day(flow.url, seed=1, hires=6)
    before = flow.fold()
    succeed(flow.run("raw/bike"))
    assert set(flow.changes(flow.manifests()[-1])) == {"bike"}
    play_day(flow.url, seed=2, hires=6)
    succeed(flow.run("raw/payment", "raw/station"))
    held, source = flow.fold(), flow.moment.content
    assert held == {
        **before,
        "bike": held["bike"],
        "payment": source["payment"],
        "station": source["station"],
    }
    assert held["bike"] not in (before["bike"], source["bike"])
    succeed(flow.run("raw"))
    assert flow.fold() == source


def test_a_lake_that_began_with_some_tables_ends_up_equal_to_the_source(flow: Flow) -> None:
    succeed(flow.run("raw/bike"))
    assert set(flow.fold()) == {"bike"}
    play_day(flow.url, seed=3, hires=6)
    run = succeed(flow.run())
    source = flow.moment
    assert flow.fold() == source.content
    assert all(same(rows, flow.warehouse_rows(name, rows.columns)) for name, rows in source.star.items())
    assert set(run.materializations) > {f"raw/{table}" for table in flow.model.tables}


def test_an_asset_that_was_not_selected_is_not_materialized(flow: Flow) -> None:
    assert set(succeed(flow.run("raw/bike", "raw/hire")).materializations) == {"raw/bike", "raw/hire"}


def test_no_batch_holds_a_payment_without_its_hire_and_bicycle(flow: Flow) -> None:
    stop = Event()
    hired: list[int] = []

    def write() -> None:
        with session(flow.url) as connection:
            while not stop.is_set():
                hired.append(record_hire(connection, len(hired)))

    writer = Thread(target=write)
    writer.start()
    try:
        for _ in range(BATCHES_BESIDE_A_WRITER):
            succeed(flow.run("raw"))
    finally:
        stop.set()
        writer.join()
    succeed(flow.run("raw"))
    states = list(flow.folds())
    for state in states:
        assert {int(str(row["hire_id"])) for row in state["payment"].values()} == state["hire"].keys()
        assert {int(str(row["bike_id"])) for row in state["hire"].values()} == state["bike"].keys()
    growth = [len(later["payment"]) - len(state["payment"]) for state, later in pairwise(states)]
    assert sum(rows > 0 for rows in growth) >= BATCHES_BESIDE_A_WRITER - 1, (
        "the writer did not write meanwhile"
    )
    assert states[-1] == flow.moment.content
    assert hired[-1] in states[-1]["hire"]


@pytest.mark.fault("F27")
def test_late_commits_silent_updates_and_deletions_arrive_with_the_next_batch(flow: Flow) -> None:
    add = "insert into station values ({}, 'New', null, '{}', '2024-01-01')"
    execute(flow.url, "insert into station select n, 'A', 'B', '', now() from generate_series(101, 200) n")
    succeed(flow.run("raw"))
    with session(flow.url) as late:
        late.cursor().execute(add.format(1001, "late"))
        late.cursor().execute("savepoint here; update station set phone = 'changed' where station_id = 101")
        execute(flow.url, add.format(1002, "early"))
        succeed(flow.run("raw"))
        held = flow.fold()["station"]
        assert (1001 in held, 1002 in held, held[101]["phone"]) == (False, True, "")
        late.commit()
    execute(flow.url, "delete from station where station_id = 150")
    succeed(flow.run("raw", "star/dim_station"))
    held = flow.fold()["station"]
    assert (1001 in held, 150 in held, held[101]["phone"]) == (True, False, "changed")
    source = flow.moment
    assert flow.fold() == source.content
    rows = source.star["dim_station"]
    assert same(rows, flow.lake_rows("dim_station", rows.columns))


@pytest.mark.fault("F28")
def test_a_row_that_is_deleted_and_comes_back_is_there_again(flow: Flow) -> None:
    succeed(flow.run("raw/bike"))
    execute(
        flow.url,
        "create table aside as select * from bike where bike_id = 5; delete from bike where bike_id = 5",
    )
    succeed(flow.run("raw/bike"))
    assert 5 not in flow.fold()["bike"]
    execute(flow.url, "insert into bike select * from aside; update bike set bike_id = 999 where bike_id = 6")
    succeed(flow.run("raw/bike"))
    assert flow.fold()["bike"] == flow.moment.content["bike"]


def test_a_lake_that_was_restored_to_an_earlier_batch_shows_that_batch(flow: Flow, tmp_path: Path) -> None:
    fact = ("raw/payment", "star/fact_payment")
    succeed(flow.run(*fact))
    rows = flow.moment.star["fact_payment"]
    copytree(flow.lake / "raw", tmp_path / "backup")
    execute(flow.url, "update payment set paid = not paid where payment_id = 1")
    succeed(flow.run(*fact))
    execute(flow.url, "update payment set paid = not paid where payment_id = 1")
    rmtree(flow.lake / "raw")
    copytree(tmp_path / "backup", flow.lake / "raw")
    succeed(flow.run(*fact))
    assert same(rows, flow.lake_rows("fact_payment", rows.columns))
    assert [Path(name).name[:7] for name in flow.star_files("fact_payment")] == ["000001-"]


@pytest.mark.fault("F21")
def test_a_mass_deletion_stops_with_a_question_and_goes_on_when_it_is_answered(
    flow: Flow, large_deletion: Callable[[str], None]
) -> None:
    succeed(flow.run("raw"))
    before = flow.files()
    large_deletion(flow.url)
    stopped = flow.run("raw")
    assert not stopped.success
    assert "rows of payment are gone from the source" in stopped.error
    assert "Is that meant?" in stopped.error
    assert {path: file for path, file in flow.files().items() if path in before} == before
    assert len(flow.manifests()) == 1
    allowed = succeed(
        flow.run("raw", config={"ops": {"capture": {"config": {"allow_deletions": ["payment"]}}}})
    )
    assert allowed.materializations["raw/payment"].metadata["rows deleted"].value == 100
    assert flow.fold() == flow.moment.content


def test_a_question_that_was_answered_for_another_table_stays_open(
    flow: Flow, large_deletion: Callable[[str], None]
) -> None:
    succeed(flow.run("raw"))
    large_deletion(flow.url)
    run = flow.run("raw", config={"ops": {"capture": {"config": {"allow_deletions": ["station"]}}}})
    assert not run.success
    assert len(flow.manifests()) == 1


@pytest.fixture
def large_deletion() -> Callable[[str], None]:
    return lambda url: execute(
        url, "delete from payment where payment_id in (select payment_id from payment order by 1 limit 100)"
    )
