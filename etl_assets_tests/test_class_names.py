"""The rule that no two rooms have a class of one name, broken on purpose: it says so."""

from pathlib import Path

import etl_assets
from etl_assets_tests.class_names import twice

HOUSE = Path(etl_assets.__file__).parent


def test_the_house_keeps_its_own_rule() -> None:
    assert list(twice(HOUSE)) == []


def test_a_name_that_two_rooms_have_is_told_with_both_places(tmp_path: Path) -> None:
    for file, text in (
        ("lake/pages.py", "class Page: ...\nclass _Value: ...\n"),
        ("star/files.py", "\nclass Page: ...\nclass _Value: ...\n"),
        ("star/more.py", "class Line: ...\n"),
        ("star/again.py", "class Line: ...\n"),
    ):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (line,) = twice(tmp_path, {})
    assert line.startswith("lake/pages.py:1 and star/files.py:2: two rooms have a class Page")
    assert list(twice(tmp_path, {"Page": "here and there"})) == []
    (line,) = twice(tmp_path, {"Page": "here and there", "Line": "one room"})
    assert "no two rooms have a class Line" in line
