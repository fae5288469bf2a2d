"""Landed files of an API's table that are damaged or lost: the pages have what they held, and no API is asked."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from etl_assets.apis.repair import repair_pages
from etl_assets.engine import duck
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import Current
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import Superseded
from etl_assets.raw.repair import find_damage
from etl_assets_tests.apis.service import SALE, Client, correcting, service

SECOND = "2024-01-08"


@pytest.fixture
def filled(tmp_path: Path) -> Client:
    """Three batches: a week with records that can't be used, another week, and the first again with some prices changed."""
    with service(bad=0.01) as stand_in:
        corrected = correcting(stand_in)
        client = Client(tmp_path, stand_in)
        client.fetch()
        client.load()
        keys = [row[0] for row in client.rows()][:5]
        stand_in.forget()
        client.fetch(SECOND)
        client.load()
        corrected |= dict.fromkeys(keys, 9.99)
        stand_in.forget()
        client.fetch(again=True)
        client.load()
    assert client.batches() == [1, 2, 3]
    return client


def told(client: Client) -> list[object]:
    """All that the landed files say as of each batch: rows, and what is kept aside."""
    batches, found = Batches(client.files), list[object]()
    with duck.connect(client.scratch) as connection:
        current = Current(batches, connection, from_batches_alone=True)
        for batch in (1, 2, 3):
            manifest = batches.get(batch)
            found.append(sorted(map(str, current.fold(SALE.name, manifest).relation.fetchall())))
            quarantined = manifest.changed[SALE.name].quarantined
            found.append(quarantined and client.files.read(quarantined.path))
    return found


def mend(client: Client) -> Mapping[str, Superseded]:
    apis = {SALE.name: client.api}
    return {one.path: one for one in repair_pages(apis, "repair", Batches(client.files), client.scratch)}


@pytest.mark.many
@pytest.mark.parametrize("kinds", [("rows",), ("quarantined",), ("rows", "quarantined")])
@pytest.mark.parametrize("damaged", [(1,), (2,), (3,), (1, 3), (1, 2, 3)])
def test_what_the_files_held_comes_back_in_its_batch(
    filled: Client, damaged: tuple[int, ...], kinds: tuple[str, ...]
) -> None:
    before, calls = told(filled), len(filled.stand_in.calls)
    files = {
        file.path: file
        for batch in damaged
        for kind in kinds
        if (file := getattr(Batches(filled.files).get(batch).changed[SALE.name], kind))
    }
    for number, path in enumerate(files):
        place = filled.files.root / path
        place.write_bytes(place.read_bytes()[:-9]) if number % 2 else place.unlink()
    if "rows" in kinds:
        with pytest.raises(LakeError, match="etl repair"):
            told(filled)
    mended = mend(filled)
    assert {path: one.by and one.by.rows for path, one in mended.items()} == {
        path: file.rows for path, file in files.items()
    }
    assert not any(one.lost for one in mended.values())
    assert told(filled) == before
    assert filled.batches() == [1, 2, 3, 4] if files else [1, 2, 3]
    assert len(filled.stand_in.calls) == calls
    latest = Batches(filled.files).latest()
    assert latest
    assert find_damage(Batches(filled.files), latest) == []
    # It goes on from there, and there is nothing to load.
    assert not filled.load().manifest
    assert mend(filled) == {}


def test_of_an_api_that_is_not_declared_any_more_a_base_tells_what_it_can(filled: Client) -> None:
    manifest = Batches(filled.files).get(2)
    rows = manifest.changed[SALE.name].rows
    assert rows
    (filled.files.root / rows.path).unlink()
    (one,) = repair_pages({}, "repair", Batches(filled.files), filled.scratch)
    known = one.by.rows if one.by else 0
    assert f"{known} of {rows.rows} rows are known" in one.reason
