"""The law, for random schemas, functions and histories: what a star shows is what its functions give."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import pytest

from etl_assets.lake import current
from etl_assets.star import build, trial
from etl_assets_tests.law.play import play

SAMPLES = int(os.environ.get("ETL_LAW", "20"))
WITH_A_SERVER = max(1, SAMPLES // 10)
FIRST = int(os.environ.get("ETL_LAW_FIRST", "0"))
_tally: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    """Tell what the samples came to (pytest -s)."""
    yield
    click.echo(f"\n{dict(_tally)}")


@contextmanager
def as_if_large() -> Iterator[None]:
    """What is done where there are many rows: folds are kept, results are put into files, nothing is sorted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(current, "_COMPACT_ROWS", 1)
        patch.setattr(build, "_IN_MEMORY_ROWS", 0)
        patch.setattr(build, "_SORTED_ROWS", 0)
        yield


@contextmanager
def unguarded() -> Iterator[None]:
    """Without trying functions on some rows beforehand, which would keep a mistake in telling what changes reach from
    being seen: such a function is computed whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "tried", lambda *args: trial.Verdict())
        yield


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SAMPLES - WITH_A_SERVER))
def test_a_star_shows_what_its_functions_give_after_every_batch(seed: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if seed % 3 == 0:
            stack.enter_context(as_if_large())
        if seed % 2 == 0:
            stack.enter_context(unguarded())
        _tally.update(play(seed, tmp_path))
    _tally["samples"] += 1


@pytest.mark.fault("F7")
@pytest.mark.parametrize("seed", range(FIRST + SAMPLES - WITH_A_SERVER, FIRST + SAMPLES))
def test_a_star_shows_what_its_functions_give_of_a_source_that_commits_late(
    seed: int, database: Callable[[], str], tmp_path: Path
) -> None:
    _tally.update(play(seed, tmp_path, database()))
    _tally["samples with a server"] += 1
