"""Whatever transactions do, and however they overlap: after every sync the lake holds what its snapshot saw.

ETL_HISTORIES=5000 runs that many histories; ETL_HISTORY=<seed> one of them.
"""

import os
import shutil
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from etl_assets.engine import duck
from etl_assets.lake import current
from etl_assets_tests.capture.comparing import Lake
from etl_assets_tests.capture.histories import History, Tally, close_sessions, open_sessions

_HISTORIES = int(os.environ.get("ETL_HISTORIES", "45"))
_SEEDS = [int(os.environ["ETL_HISTORY"])] if "ETL_HISTORY" in os.environ else list(range(1, _HISTORIES + 1))
_WORKERS = 2


def relive(seeds: list[int], url: str, folder: Path, after: Callable[[History], None]) -> Tally:
    """Run histories one after the other in one database, each with a lake of its own."""
    total = Tally()
    sessions, observer = open_sessions(url)
    opened = ExitStack()
    reading = opened.enter_context(duck.connect(folder))
    try:
        for seed in seeds:
            place = folder / str(seed)
            place.mkdir(parents=True)
            history = History(seed, Lake(url, place, reading), sessions, observer)
            try:
                tally = history.run()
                after(history)
            except Exception as error:
                story = "\n".join(history.log)
                raise AssertionError(f"{story}\n{''.join(traceback.format_exception(error))}") from error
            shutil.rmtree(place)
            total.histories += 1
            total.syncs += tally.syncs
            total.reads += tally.reads
            total.whole += tally.whole
            total.cursor_lost += tally.cursor_lost
            total.events += tally.events
    finally:
        opened.close()
        close_sessions([*sessions, observer])
    return total


def run(
    seeds: list[int], database: Callable[..., str], folder: Path, after: Callable[[History], None]
) -> Tally:
    """Share histories between workers that have a database each; transaction ids are common to them."""
    shares = [share for n in range(_WORKERS) if (share := seeds[n::_WORKERS])]
    with ThreadPoolExecutor(_WORKERS) as pool:
        urls = [database() for _ in shares]
        working = [pool.submit(relive, s, u, folder, after) for s, u in zip(shares, urls, strict=True)]
        total, *others = [future.result() for future in working]
    for other in others:
        total.histories += other.histories
        total.syncs += other.syncs
        total.reads += other.reads
        total.whole += other.whole
        total.cursor_lost += other.cursor_lost
        total.events += other.events
    return total


def every_batch_still_folds_to_its_state(history: History) -> None:
    for manifest, source in history.states:
        for table, content in source.items():
            assert history.lake.held(table, manifest).rows == content.rows, f"{table} after {manifest.batch}"


def some_of_its_batches_still_fold_to_their_state(history: History) -> None:
    if history.seed % 6 == 1:  # for the time it takes; with bases it is looked at in every history
        every_batch_still_folds_to_its_state(history)


def the_bases_change_nothing(history: History) -> None:
    every_batch_still_folds_to_its_state(history)
    tables = [shape.table.name for shape in history.shapes]
    versions = sum(state.versions for state in history.lake.latest().tables.values())
    assert any((history.lake.path / "current").glob("*/*.parquet")) or not versions
    before = {table: history.lake.ever_held(table) for table in tables}
    shutil.rmtree(history.lake.path / "current", ignore_errors=not versions)
    assert {table: history.lake.ever_held(table) for table in tables} == before


def check_that_it_proves_something(tally: Tally) -> None:
    """The reads must be the cheap ones, and the histories such as lose rows of who follows a cursor."""
    if tally.histories < 50:
        return
    assert tally.reads["horizon"] > 20 * tally.reads["whole"], tally.whole
    assert tally.cursor_lost > tally.syncs / 20
    needed = {
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "SAVEPOINT",
        "ROLLBACK",
        "RELEASE",
        "COMMIT",
        "VACUUM",
    }
    assert needed <= tally.events.keys()
    assert tally.events["LockNotAvailable"] < tally.histories * 3


@pytest.mark.fault("F7", "F27", "F28")
def test_after_every_sync_the_lake_holds_what_the_snapshot_saw(
    database: Callable[..., str], tmp_path: Path
) -> None:
    tally = run(_SEEDS[::2], database, tmp_path, some_of_its_batches_still_fold_to_their_state)
    check_that_it_proves_something(tally)


@pytest.mark.fault("F7")
def test_compacting_after_every_batch_changes_nothing(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current, "_COMPACT_ROWS", 1)
    monkeypatch.setattr(current, "_COMPACT_SHARE", 0.0)
    tally = run(_SEEDS[1::2] or _SEEDS, database, tmp_path, the_bases_change_nothing)
    check_that_it_proves_something(tally)
