"""Pages that were damaged after they were loaded: what is legible stands, and a window that lacks some is fetched anew."""

import json
import re
from pathlib import Path

import pytest

from etl_assets.apis.declaration import Batch
from etl_assets.apis.page_repair import (
    MendedPages,
    find_damaged_pages,
    repair_damaged_pages,
    rows_without_page,
)
from etl_assets.apis.takes import COMPLETE, Take
from etl_assets.lake.batches import Batches
from etl_assets.stand_ins.web_api import WebApiStandIn
from etl_assets_tests.apis.service import FIRST, SALE, Client, correcting, service
from etl_assets_tests.apis.test_flow import cards, stand_in  # noqa: F401  fixtures
from etl_assets_tests.apis.test_loading import SECOND, agrees
from etl_assets_tests.commands import etl


def damage(path: Path, how: str) -> None:
    """Damage a file of three pages: the second of them, what stands above it, its end, or all of it."""
    content = path.read_bytes()
    second = content.index(b'{"page": ', 1)
    changed = {
        "a value": content[:second] + content[second:].replace(b"EUR", b"USD", 1),
        "about a page": content[:second] + content[second:].replace(b'"bytes"', b'"bytez"', 1),
        "the end": content[:-900],
        "gone": b"",
    }[how]
    if changed:
        path.write_bytes(changed)
    else:
        path.unlink()


@pytest.mark.fault("F15")
@pytest.mark.many
@pytest.mark.parametrize(
    ("how", "legible"),
    [
        ("a value", 2),
        ("about a page", 2),
        ("the end", 2),
        ("gone", 0),
    ],
)
def test_what_is_legible_stands_and_rows_without_page_are_named(
    tmp_path: Path, how: str, legible: int
) -> None:
    with service() as served:
        client = Client(tmp_path, served, batch=Batch(pages=3, seconds=60))
        for window in (FIRST, SECOND):
            client.fetch(window)
            client.load()
        before, calls = client.rows(), len(served.calls)
        (file, *_) = Take(client.files, SALE.name, FIRST, 1).landed()
        damage(client.files.root / file.path, how)
        apis = {SALE.name: client.api}
        (found,) = find_damaged_pages(apis, Batches(client.files))
        assert found.file.path == file.path
        mended = repair_damaged_pages(apis, "repair", Batches(client.files), client.scratch)
        assert mended.lacking == ((SALE.name, FIRST),)
        (one,) = mended.superseded
        assert one.reason.endswith(f"{legible} of its 3 pages are known")
        lacking = [key for (key,) in rows_without_page(client.api, Batches(client.files), client.scratch)]
        assert list(one.lost) == lacking
        assert len(lacking) == 20 * (3 - legible)
        assert len(served.calls) == calls
        assert find_damaged_pages(apis, Batches(client.files)) == []
        assert client.rows() == before
        # All pages are read again for another declaration: no row of lost pages is taken for deleted.
        changed = Client(tmp_path, served, records=lambda answer: answer["data"])
        assert not changed.load().failures
        assert client.rows() == before
        # The window alone is fetched anew: a batch names its pages, though they bring nothing.
        client.fetch(again=True)
        assert {call.query["from"] for call in served.calls[calls:]} == {FIRST}
        assert changed.load().manifest
        assert rows_without_page(client.api, Batches(client.files), client.scratch) == []
        agrees(client)
        client.fetch(again=True)
        assert not changed.load().manifest
        # What lists the files of a take is told by its pages, if they are those that a batch names.
        mark = client.files.root / Take(client.files, SALE.name, SECOND, 1).mark(COMPLETE)
        mark.unlink()
        assert [one.file.path for one in find_damaged_pages(apis, Batches(client.files))] == [
            str(mark.relative_to(client.files.root))
        ]
        assert repair_damaged_pages(apis, "repair", Batches(client.files), client.scratch) == MendedPages()
        agrees(client)


@pytest.mark.fault("F15")
@pytest.mark.places
def test_of_rows_and_pages_that_are_both_damaged_all_comes_back_that_the_api_still_gives(
    cards: Path,  # noqa: F811
    stand_in: WebApiStandIn,  # noqa: F811
) -> None:
    """`etl verify` finds it, `etl repair` asks for this window and no other, and names what can't be brought back."""
    corrected = correcting(stand_in)
    assert etl("fetch", "card_sale", "--limit", "2", "--only-pages").exit_code == 0
    begun = etl("fetch", "exchange_rate", "--limit", "1")
    assert begun.exit_code == 0, begun.output
    calls = len(stand_in.calls)
    folder = cards / "data/lake/raw/card_sale"
    (page,) = (folder / "2024-01-08/001").glob("*.pages")
    damage(page, "a value")
    found = etl("verify")
    assert found.exit_code == 1
    assert re.search(r"2024-01-08/001/\S+ is not what landed: etl repair mends it", found.output)
    told = json.loads(etl("repair", "--dry-run", "--json").stdout)["damaged"]
    assert [one["file"].rpartition("/")[2] for one in told] == [page.name]

    first, second, *_ = [one["sale_id"] for one in stand_in.records("2024-01-08", "2024-01-15")[100:]]
    stand_in.forget()
    day_of = stand_in.day_of
    stand_in.day_of = lambda day: [one for one in day_of(day) if one["sale_id"] != first]
    corrected[second] = 12.5
    mended = etl("repair")
    assert mended.exit_code == 0, mended.output
    assert "2 of its 3 pages are known" in mended.stdout
    assert (
        f"rows of card_sale that stay as they were loaded, and of which no page tells any more: 1, key {first}"
        in mended.stdout
    )
    assert {call.query["from"] for call in stand_in.calls[calls:]} == {"2024-01-08"}
    verified = etl("verify", "--rebuild")
    assert verified.exit_code == 0, verified.output
    assert "1 rows of lost pages not compared" in verified.output

    # Both kinds of files at once, and the API is out of order: what it does not give is told, and the rest is mended.
    calls = len(stand_in.calls)
    for path in (*folder.glob("*.csv"), *(folder / "2024-01-01/001").glob("*.pages")):
        path.unlink()
    stand_in.behaviour.lasting = 403
    assert etl("repair").exit_code == 1
    stand_in.behaviour.lasting = None
    assert etl("fetch", "card_sale", "--window", "2024-01-01").exit_code == 0
    assert {call.query["from"] for call in stand_in.calls[calls:]} == {"2024-01-01"}
    verified = etl("verify", "--rebuild")
    assert verified.exit_code == 0, verified.output
