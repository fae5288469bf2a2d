"""The page on reliability says what the tests hold, and what was broken can be broken again."""

import os

from etl_assets_tests.mutations import MUTATIONS, stale
from etl_assets_tests.reliability import FAULTS, PAGE, marked, page, unheld


def test_every_row_has_a_test_and_every_marker_a_row() -> None:
    assert len(FAULTS) == 43
    assert unheld() == []


def test_the_page_says_what_the_tests_say() -> None:
    text = page()
    if os.environ.get("ETL_WRITE_DOCS"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "run ETL_WRITE_DOCS=1 pytest etl_assets_tests/test_reliability.py"


def test_what_was_broken_is_still_there_to_be_broken_and_so_is_its_test() -> None:
    assert [problem for mutation in MUTATIONS if (problem := stale(mutation))] == []
    held = {one.test: one.faults for one in marked()}
    for mutation in MUTATIONS:
        assert mutation.fault in held[mutation.test.partition("[")[0]], mutation
