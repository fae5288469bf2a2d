"""The rule of the house, broken on purpose: it says so."""

from pathlib import Path

import pytest

import etl_assets
from etl_assets_tests.arrows import circles, rooms, wrong

HOUSE = Path(etl_assets.__file__).parent
LARGEST = 0.14
"""No room is a larger share of the package, in lines."""


def test_the_house_keeps_its_own_rule() -> None:
    assert [*wrong(HOUSE), *circles(HOUSE)] == []


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("lake/x.py", "from etl_assets.star.build import Builder", "lake may not use star"),
        ("engine/x.py", "import dagster as dg", "dagster is used by assets, resources and automation only"),
        ("raw/x.py", "    from etl_assets.warehouse import load", "raw may not use warehouse"),
        ("cli/x.py", "from etl_assets.totesys.tables import STAFF", "is for demos and tests"),
        (
            "totesys/x.py",
            "from etl_assets.star.schema import Column",
            "a project uses etl_assets.project only",
        ),
        ("attic/x.py", "from etl_assets.errors import EtlError", "attic is on no floor"),
    ],
)
def test_an_arrow_against_the_rule_is_told(tmp_path: Path, file: str, line: str, told: str) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(f"def f() -> None:\n{line}\n" if line.startswith(" ") else f"{line}\n")
    (found,) = wrong(tmp_path)
    assert told in found
    assert found.startswith(f"{file}:")


@pytest.mark.parametrize(
    "later", ["", "def f() -> None:\n    ", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "]
)
def test_files_that_need_each_other_are_told(tmp_path: Path, later: str) -> None:
    (tmp_path / "a.py").write_text("from etl_assets.b import x\n")
    (tmp_path / "b.py").write_text(f"{later}from etl_assets import a\n")
    (found,) = circles(tmp_path)
    assert "needs" in found


def test_no_room_is_too_large() -> None:
    lines = {
        room: sum(len(path.read_text().splitlines()) for path in files)
        for room, files in rooms(HOUSE).items()
    }
    assert max(lines.values()) <= LARGEST * sum(lines.values())
