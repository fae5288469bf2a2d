"""Everything that may go wrong, at random, while somebody writes: what was published was always what the source was."""

import os
import random
import tempfile
from pathlib import Path

import pytest

from etl_assets_tests.soak.__main__ import soak
from etl_assets_tests.soak.business import Business, Instant, Transaction

_SECONDS = 45


@pytest.mark.fault("F43")
@pytest.mark.soak
def test_every_version_that_was_published_is_the_source_as_of_its_snapshot() -> None:
    """`make test-soak MINUTES=10` is its long form; ETL_SOAK_SEED repeats one, as far as time lets it be repeated."""
    seed = int(os.environ.get("ETL_SOAK_SEED", random.randrange(10**6)))
    with tempfile.TemporaryDirectory(prefix="etl-assets-soak-") as name:
        Path(name).chmod(0o755)  # the server has its own user if we are root
        report = soak(Path(name), _SECONDS, seed)
    print(report)  # noqa: T201
    assert report.is_sound, str(report)
    assert {"killed", "API fails"} <= set(report.faults), str(report)


def test_the_log_tells_what_a_snapshot_saw_and_nothing_else() -> None:
    """What all versions are compared with, compared with what one counts by hand."""
    business = Business("postgresql://nobody.invalid/none", seed=1)
    business.log = [
        Transaction(10, [("account", 1, (1, "a", None)), ("account", 2, (2, "b", None))]),
        Transaction(12, [("account", 1, (1, "late", None))]),
        Transaction(11, [("account", 2, None), ("entry", 5, (5, 1, "1.00", None))]),
    ]
    assert business.state(Instant.of("11:11:"))["account"] == {1: (1, "a", None), 2: (2, "b", None)}
    assert business.state(Instant.of("11:13:11"))["account"] == {1: (1, "late", None), 2: (2, "b", None)}
    everything = business.state(Instant.of("13:13:"))
    assert everything == {"account": {1: (1, "late", None)}, "entry": {5: (5, 1, "1.00", None)}}
