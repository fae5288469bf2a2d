"""Records that come and go while pages are read: none is doubled, and none is lost that the API's total tells of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etl_assets.apis.takes import takes
from etl_assets.stand_ins.web_api import ReceivedCall, Record, WebApiStandIn
from etl_assets_tests.apis.service import FIRST, SALE, Client, as_row, service
from etl_assets_tests.apis.test_fetching import PAGINGS

SECOND = "2024-01-08"
OTHER = {"currency": "EUR", "quantity": 1, "sold_at": "2024-01-01T00:00:00Z"}


def another(sale_id: int) -> Record:
    return {"sale_id": sale_id, "card": {"name": "Grey Heron", "grade": 3}, "price": 1.5, **OTHER}


def changing(
    stand_in: WebApiStandIn, patch: pytest.MonkeyPatch, after: dict[int, Callable[[list[Record]], Any]]
) -> None:
    """Have the records change after so many pages were answered."""
    page, answered = stand_in.page, [0]

    def answer(call: ReceivedCall) -> tuple[dict[str, Any], str | None]:
        told = page(call)
        answered[0] += 1
        if change := after.get(answered[0]):
            change(stand_in.records(FIRST, SECOND))
        return told

    patch.setattr(stand_in, "page", answer)


@pytest.mark.fault("F37")
@pytest.mark.many
@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("what", ["added in front", "added at the end", "removed", "exchanged"])
def test_a_window_that_changes_between_its_pages_is_whole_or_is_fetched_anew(
    tmp_path: Path, what: str, paging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F37. A record in front moves others to the next page, one that goes moves them to a page that was read: the total says
    so, before the window is loaded."""
    changes: dict[str, dict[int, Callable[[list[Record]], Any]]] = {
        "added in front": {3: lambda records: records.insert(0, another(1))},
        "added at the end": {3: lambda records: records.append(another(1))},
        "removed": {3: lambda records: records.pop(0)},
        "exchanged": {3: lambda records: records.pop(0), 12: lambda records: records.append(another(1))},
    }
    with service() as stand_in, monkeypatch.context() as patch:
        changing(stand_in, patch, changes[what])
        client = Client(tmp_path, stand_in, **PAGINGS[paging])
        client.fetch()
        failures = client.load().failures
        if what == "added at the end":
            assert not failures
        else:
            why = (
                "says that there are 281 records, and gave 2"
                if what == "added in front"
                else "are 280 records, and on a later page 279"
            )
            assert why in str(failures["card_sale"])
            assert [take.state for take in takes(client.files, SALE.name)] == ["rejected"]
            client.fetch()  # nothing changes any more
            assert not client.load().failures
        assert client.rows() == sorted(map(as_row, stand_in.records(FIRST, SECOND)))


@pytest.mark.fault("F37")
@pytest.mark.parametrize("paging", ["offset", "cursor"])
def test_without_a_total_what_was_there_all_the_time_comes_once(
    tmp_path: Path, paging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F37. That a record came twice is counted, and told."""
    with service() as stand_in, monkeypatch.context() as patch:
        there = sorted(map(as_row, stand_in.records(FIRST, SECOND)))
        changing(
            stand_in, patch, {n: lambda records: records.insert(0, another(len(records))) for n in (3, 7)}
        )
        client = Client(tmp_path, stand_in, total="", **PAGINGS[paging] | {"concurrency": 1})
        client.fetch()
        (take,) = client.load().takes["card_sale"]
        assert take.duplicates == 2
        assert [row for row in client.rows() if row[0] > 1_000] == there
