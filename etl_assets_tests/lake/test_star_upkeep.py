"""What becomes of a lake's star when the lake is set back, and of what killed runs left in it."""

import os
import re
import runpy
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_assets.lake import current
from etl_assets.star import resource
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.lake_layout import newest_of_star, star_files
from etl_assets_tests.shop import DAY, INPUTS, SOURCE

LAKES = Path(__file__).parents[2] / "docs/lakes.md"


@pytest.fixture
def shop(database: Callable[[], str], tmp_path: Path) -> Direct:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE)
    flow.run()
    return flow


def unequal(flow: Direct) -> list[str]:
    return [finding.difference for finding in flow.verified(source=False) if not finding.equal]


@pytest.mark.fault("F25")
@pytest.mark.parametrize("of_facts_alone", [True, False])
def test_a_lake_that_was_set_back_shows_what_it_showed_then(shop: Direct, of_facts_alone: bool) -> None:
    batches = shop.data / "lake/raw/batches"
    before, then = shop.lake_dump(), {path.name for path in batches.iterdir()}
    execute(shop.url, "UPDATE sale SET amount = amount + 1" if of_facts_alone else DAY)
    shop.run()
    assert shop.lake_dump() != before
    for path in batches.iterdir():
        if path.name not in then:
            path.unlink()
    shop.derive()
    assert shop.lake_dump() == before
    assert unequal(shop) == []
    newest = newest_of_star(shop.data / "lake")
    assert newest
    assert newest.name.startswith("000001")
    # The number comes again, with other content.
    execute(shop.url, "UPDATE sale SET amount = amount + 1; UPDATE worker SET name = 'n' WHERE id < 9")
    shop.run()
    assert [f.difference for f in (*shop.verified(thorough=True), *shop.rebuilt()) if not f.equal] == []


def test_a_load_after_very_many_changed_members_finds_them_by_itself(
    shop: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "_MOST_TOUCHED", 1)
    execute(shop.url, "UPDATE worker SET name = name || '!' WHERE id <= 5")
    shop.run()
    assert unequal(shop) == []


def test_who_has_no_etl_finds_the_files_as_the_docs_say(
    shop: Direct, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(shop.url, DAY)
    shop.run()
    (code,) = re.findall(
        r"## Reading the star without etl.*?```python\n(.*?)```", LAKES.read_text(), re.DOTALL
    )
    script = tmp_path / "reader.py"
    script.write_text(code.replace("data/lake", str(shop.data / "lake")))
    names = runpy.run_path(str(script))
    with shop.lake.open(INPUTS) as bench:
        listed = {
            name: [str(bench.star.local(path)) for path in bench.star.paths_of_any(name)]
            for name in INPUTS.star
        }
    assert names["files"] == listed
    assert len(listed["fact_sale"]) == 2
    assert "fact_sale [(" in capsys.readouterr().out


def abandoned(folder: Path, *, hours: float) -> Path:
    """What a run that was killed some time ago has half written."""
    left = folder / f".unfinished-000001-{hours}.parquet-x"
    left.write_bytes(b"half")
    long_ago = time.time() - hours * 3600
    os.utime(left, (long_ago, long_ago))
    return left


def test_what_killed_runs_left_half_written_goes_when_nobody_can_be_at_it_any_more(
    shop: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current, "_COMPACT_ROWS", 1)
    lake = shop.data / "lake"
    (lake / "current/sale").mkdir(parents=True, exist_ok=True)
    folders = [
        star_files(lake, "fact_sale")[0].parent,
        star_files(lake, "dim_worker")[0].parent,
        lake / "current/sale",
    ]
    old, young = ([abandoned(folder, hours=hours) for folder in folders] for hours in (25, 1))
    execute(shop.url, "UPDATE sale SET amount = amount + 1; UPDATE worker SET name = 'n'")
    shop.run()
    assert [path.exists() for path in old] == [False] * 3
    assert [path.exists() for path in young] == [True] * 3
