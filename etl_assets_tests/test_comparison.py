"""Each row of the comparison with the older systems (B: lists of tasks, E: scripts that read APIs) has a test and a line in the docs."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
ROWS = {*(f"B{n}" for n in range(1, 12)), *(f"E{n}" for n in range(1, 11))}


def test_every_row_has_a_test_that_names_it_and_a_line_in_the_docs() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("test_*.py")))
    named = {f"B{n}" for n in re.findall(r"def test_b([0-9]+)_", tests)}
    for rows in re.findall(r"\b[Rr]ows? (E[0-9]+(?:(?:, | and )E[0-9]+)*)", tests):
        named |= set(re.findall("E[0-9]+", rows))
    pages = (DOCS / "coming-from/bigrays.md", DOCS / "coming-from/streamable-scripts.md")
    told = {
        row
        for page in pages
        for row in re.findall(r"^\|.*\(([BE][0-9]+)\)", page.read_text(encoding="utf-8"), re.M)
    }
    assert named == ROWS
    assert told == ROWS
