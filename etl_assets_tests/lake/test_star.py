"""The star as its manifest lists it: all tables switched at once, and nothing believed that is not as listed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_assets.lake import current
from etl_assets.lake.files import LakeError
from etl_assets.raw.request import Notes
from etl_assets.star.outcome import publish
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.lake_layout import newest_of_star, star_files
from etl_assets_tests.shop import DAY, INPUTS, SOURCE


@pytest.fixture
def shop(database: Callable[[], str], tmp_path: Path) -> Direct:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE)
    flow.run()
    execute(flow.url, DAY)
    flow.run()
    return flow


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def swap(path: Path) -> None:
    other = next(p for p in sorted(path.parents[1].rglob("*.parquet")) if p != path)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGES = [flip, cut, swap, Path.unlink]


@pytest.mark.fault("F16")
@pytest.mark.many
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("table", INPUTS.star)
def test_a_damaged_file_is_found_by_the_next_run_which_makes_it_again(
    shop: Direct, table: str, damage: Callable[[Path], None]
) -> None:
    before, loaded = shop.lake_dump(), shop.dump()
    damage(star_files(shop.data / "lake", table)[0])
    assert any(not finding.equal for finding in shop.verified())
    with shop.lake.open(INPUTS) as bench:
        builds = list(bench.builder.derive(bench.manifest))
        assert [b.definition.name for b in builds if b.notice and "made again, because" in b.notice]
        bench.publish(builds)
    assert shop.lake_dump() == before
    shop.derive()
    assert shop.dump() == loaded
    assert [finding for finding in shop.verified() if not finding.equal] == []


@pytest.mark.fault("F16")
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_manifest_of_the_star_is_made_again(shop: Direct, damage: Callable[[Path], None]) -> None:
    before = shop.lake_dump()
    newest = newest_of_star(shop.data / "lake")
    assert newest
    damage(newest)
    shop.derive()
    assert shop.lake_dump() == before
    assert [finding for finding in shop.verified() if not finding.equal] == []


@pytest.mark.fault("F16")
@pytest.mark.many
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_base_is_not_believed(
    damage: Callable[[Path], None],
    database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(current, "_COMPACT_ROWS", 1)
    shop = Direct(database(), tmp_path, INPUTS)
    execute(shop.url, SOURCE)
    shop.run()
    bases = sorted((shop.data / "lake/current").rglob("*.parquet"))
    assert len(bases) > 1
    damage(bases[0])
    damaged = [bases[0]] if bases[0].exists() else []  # one that is lost is missed by nobody
    execute(
        shop.url,
        "UPDATE sale SET amount = amount + 1 WHERE id < 30; UPDATE worker SET name = 'n' WHERE id < 5",
    )
    notes = Notes()
    shop.run(notes=notes)
    assert notes.damaged == {p.parent.name: p.relative_to(shop.data / "lake").as_posix() for p in damaged}
    assert not any(path.exists() for path in damaged)
    found = shop.verified(thorough=True)  # what no run needed is found by it
    assert {f.hop for f in found if not f.equal} <= {"files"}
    assert [finding for finding in shop.verified(thorough=True) if not finding.equal] == []
    (base,) = (shop.data / "lake/current/sale").glob("000002-*.parquet")
    damage(base)
    told = (
        f"{base.relative_to(shop.data / 'lake')} was damaged; it is removed, and made again when it is needed"
    )
    found = shop.verified(source=False)
    assert {f.hop: f.difference for f in found if not f.equal} == ({"files": told} if damaged else {})
    assert not base.exists()


@pytest.mark.fault("F41")
def test_a_newer_format_is_refused_as_such(shop: Direct) -> None:
    newest = newest_of_star(shop.data / "lake")
    assert newest
    newest.write_text(json.dumps({"format": 4}))
    with pytest.raises(LakeError, match="made by a newer version"):
        shop.derive()


def test_readers_see_all_tables_switched_at_once(shop: Direct) -> None:
    """Until the manifest is there a reader has the star of before, whatever files are there already."""
    before = shop.lake_dump()
    execute(shop.url, "UPDATE sale SET amount = amount + 1; UPDATE worker SET name = 'n'")
    shop.capture()
    with shop.lake.open(INPUTS) as bench:
        builds = list(bench.builder.derive(bench.manifest))
        for staged in (staged for build in builds for staged in build.staged):
            (bench.star.files.local(staged.file.path)).write_bytes(staged.local.read_bytes())
        assert shop.lake_dump() == before
        publish(bench.star, builds, bench.connection)
    assert shop.lake_dump() != before
    shop.derive()


@pytest.mark.fault("F25")
def test_who_was_overtaken_does_not_take_the_star_back(shop: Direct) -> None:
    execute(shop.url, "UPDATE sale SET amount = amount + 1")
    shop.capture()
    with shop.lake.open(INPUTS) as slow:
        builds = list(slow.builder.derive(slow.manifest))
        execute(shop.url, "UPDATE sale SET amount = amount + 1")
        shop.run()
        newest = shop.lake_dump()
        slow.publish(builds)
    assert shop.lake_dump() == newest
    shop.derive()
    assert shop.lake_dump() == newest
