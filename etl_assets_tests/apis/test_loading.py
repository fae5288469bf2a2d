"""What landed is loaded once, costs no call however often that fails, and is what the lake holds then."""

import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import time_machine

from etl_assets.apis import reading
from etl_assets.apis.declaration import Limits
from etl_assets.apis.due import due
from etl_assets.apis.errors import ApiError
from etl_assets.apis.pages import Page
from etl_assets.apis.takes import LOADED, Take, takes
from etl_assets.apis.windows import WHOLE
from etl_assets.engine import duck
from etl_assets.engine.scratch import sweep
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import MAIN, ApiState
from etl_assets.proof.pages import newest_records
from etl_assets.raw.brakes import TooManyMisfits
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest
from etl_assets.stand_ins.web_api import sales
from etl_assets_tests.apis.service import FIRST, SALE, Client, as_row, correcting, service
from etl_assets_tests.flow import execute
from etl_assets_tests.shop import INPUTS, SOURCE

SECOND = "2024-01-08"


@pytest.mark.fault("F24")
def test_loading_twice_changes_nothing_and_a_failed_load_costs_no_call(tmp_path: Path) -> None:
    """Row E8."""
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        calls = len(stand_in.calls)
        wrong = Client(tmp_path, stand_in, columns={**SALE.columns, "price": "int"})
        failure = wrong.load().failures["card_sale"]
        assert isinstance(failure, TooManyMisfits)
        assert "the first: price of 738886000" in str(failure)
        assert client.batches() == []
        assert client.fetch() is None  # its pages wait
        client.load()
        before = client.files_below()
        assert not client.load().manifest
        assert client.files_below() == before
        assert len(stand_in.calls) == calls


@pytest.mark.fault("F10")
def test_where_there_is_no_room_to_work_in_it_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(
                LakeError, match=r"pages can't be loaded: .*see that the disk of ETL_DATA has room"
            ):
                client.load()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert client.batches() == []
        client.load()
        assert client.rows() == sorted(map(as_row, stand_in.records(FIRST, SECOND)))


@pytest.mark.fault("F24")
def test_a_window_that_is_fetched_again_brings_what_changed_and_else_nothing(tmp_path: Path) -> None:
    """The newest landed version of each key counts; a batch that would bring nothing is none."""
    with service(bad=0.01) as stand_in:
        corrected = correcting(stand_in)
        client = Client(tmp_path, stand_in)
        client.fetch()
        client.load()
        first = client.rows()
        client.fetch(again=True)
        assert not client.load().manifest
        assert client.batches() == [1]
        corrected[first[7][0]] = 12345.67
        stand_in.forget()
        client.fetch(again=True)
        manifest = client.load().manifest
        assert manifest
        changes = manifest.changed["card_sale"]
        assert (changes.new, changes.changed) == (0, 1)
        now = client.rows()
        assert [row for row in now if row not in first] == [(*first[7][:3], "12345.67", *first[7][4:])]
        sums = manifest.tables["card_sale"].controls["price"]
        assert Decimal(str(sums.sum)) == sum(Decimal(row[3]) for row in now)


@pytest.mark.fault("F25", "F26")
@pytest.mark.parametrize("days", [0, -1])
def test_of_two_takes_that_wait_the_later_one_counts(tmp_path: Path, days: int) -> None:
    """The newest landed version of each key, whichever batch brings it, and wherever the clock of who fetched it stands."""
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        stand_in.day_of = lambda day: [{**one, "quantity": 99} for one in sales(day)]
        stand_in.forget()
        with time_machine.travel(datetime.now(UTC) + timedelta(days=days), tick=True):
            client.fetch(again=True)
        outcome = client.load()
        assert [take.take for take in outcome.takes["card_sale"]] == [1, 2]
        assert {row[5] for row in client.rows()} == {99}
        # The earlier one waits again, since what says that it is loaded was lost.
        (client.files.root / Take(client.files, SALE.name, FIRST, 1).mark(LOADED)).unlink()
        assert not client.load().manifest
        assert {row[5] for row in client.rows()} == {99}


def test_what_the_api_says_of_its_total_is_compared(tmp_path: Path) -> None:
    with service(total=281) as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        failure = client.load().failures["card_sale"]
        assert "it says that there are 281 records, and gave 280 different ones" in str(failure)
        assert client.batches() == []
        stand_in.behaviour.total = None
        client.fetch()  # a new take: the pages of the first can't be used
        client.load()
        assert len(client.rows()) == 280
        assert [take.state for take in takes(client.files, SALE.name, FIRST)] == ["rejected", "loaded"]


def test_a_bad_record_that_pages_show_twice_is_one_record(tmp_path: Path) -> None:
    """It has no key, and another like it stands on the same page: the total is compared all the same."""
    with service(duplicates=3) as stand_in:
        for record in stand_in.records(FIRST, SECOND)[18:20]:  # on the second page again
            record.clear()
            record["price"] = 1
        client = Client(tmp_path, stand_in)
        client.fetch()
        outcome = client.load()
        assert not outcome.failures
        (take,) = outcome.takes["card_sale"]
        assert (take.total, len(client.rows())) == (280, 278)


def test_a_window_that_was_rejected_is_due_once_more_and_then_left_to_people(tmp_path: Path) -> None:
    """A load that fails does not spend the quota for ever."""
    now = datetime(2024, 1, 9, tzinfo=UTC)
    with service(total=281) as stand_in:
        for windows in (SALE.windows, None):
            client = Client(tmp_path / str(windows is None), stand_in, windows=windows)
            if windows is None:
                client.api = replace(client.api, parameters={"from": FIRST, "to": SECOND})
            takes_made = 0
            while due_now := list(due(client.api, client.files, now if windows else datetime.now(UTC))):
                client.fetch(due_now[0])
                assert "gave 280 different ones" in str(client.load().failures["card_sale"])
                takes_made += 1
            assert takes_made == 2
            assert windows or list(due(client.api, client.files, datetime.now(UTC) + timedelta(days=1)))
            client.stand_in.behaviour.total = None
            client.fetch(FIRST if windows else WHOLE)
            client.load()
            assert len(client.rows()) == 280
            client.stand_in.behaviour.total = 281


def typed(answer: Any) -> Any:
    """Records with what Python calculates with."""
    for one in answer["data"]:
        day = datetime.fromisoformat(one["sold_at"])
        yield {
            "sale_id": Decimal(one["sale_id"]),
            "card": f"{one['card']['name']} {one['price']}",
            "grade": float(one["card"]["grade"]),
            "price": one["price"] * 2,
            "currency": UUID(int=one["sale_id"]),
            "quantity": one["quantity"],
            "sold_at": day,
            "sold_on": day.date(),
        }


def fewer(answer: Any) -> Any:
    return [{**one, "quantity": 0} for one in typed(answer) if one["quantity"] != 4]


def test_a_function_for_records_calculates_with_numbers_and_is_made_anew_when_its_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of ordinary types; and the verification, which calls it too, gets the same. No call is made for other code."""
    columns = {**SALE.columns, "sold_on": "date", "currency": "uuid"}
    with service() as stand_in:
        client = Client(tmp_path, stand_in, records=typed, columns=columns, fields={}, total="")
        client.fetch()
        assert not client.load().failures
        calls = len(stand_in.calls)
        week = stand_in.records(FIRST, SECOND)
        assert sorted(row[3] for row in client.rows()) == sorted(f"{one['price'] * 2:.2f}" for one in week)
        assert client.rows()[0][1] == f"{week[0]['card']['name']} {week[0]['price']}"
        agrees(client)
        assert not client.load().manifest
        # Other code under the same name.
        monkeypatch.setattr(fewer, "__qualname__", "typed")
        client.api = replace(client.api, records=fewer)
        outcome = client.load()
        assert not outcome.failures
        manifest = outcome.manifest
        assert manifest
        gone = sum(1 for one in week if one["quantity"] == 4)
        changes = manifest.changed["card_sale"]
        assert (changes.changed, changes.deleted) == (280 - gone, gone)
        assert manifest.tables["card_sale"].rows == len(client.rows()) == 280 - gone
        held = sum(Decimal(row[3]) for row in client.rows())
        assert Decimal(str(manifest.tables["card_sale"].controls["price"].held)) == held
        agrees(client)
        assert not client.load().manifest
        assert len(stand_in.calls) == calls


def agrees(client: Client) -> None:
    """What the lake holds is what the verification reads from the pages."""
    batches, manifest = Batches(client.files), Batches(client.files).latest()
    assert manifest
    with duck.connect(client.scratch) as connection:
        newest = newest_records(client.api, manifest, batches, connection, client.scratch)
        listed = ", ".join(f"CAST({name} AS VARCHAR)" for name in client.api.columns if name != "sold_at")
        found = sorted(connection.sql(f"SELECT {listed} FROM {newest}").fetchall())
    place = list(client.api.columns).index("sold_at")
    assert found == sorted((*map(str, row[:place]), *map(str, row[place + 1 :])) for row in client.rows())


def test_a_field_that_stands_elsewhere_is_read_once_more_and_no_more_than_that(tmp_path: Path) -> None:
    """Though all its values are equal."""
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        client.load()
        other = Client(tmp_path, stand_in, records=lambda answer: answer["data"])
        assert other.load().takes["card_sale"]
        assert other.load().takes == {}


def test_bad_records_are_kept_aside_and_above_the_limit_nothing_is_loaded(tmp_path: Path) -> None:
    """Row E6: quarantined with the reason; above a threshold the run fails at its end and names the first."""
    with service(bad=0.02) as stand_in:
        client = Client(tmp_path, stand_in, limits=Limits(bad_share=0))
        client.fetch()
        bad = [one for one in stand_in.records(FIRST, SECOND) if one["price"] == "on request"]
        assert len(bad) > 5
        failure = str(client.load().failures["card_sale"])
        assert (
            f"{len(bad)} of 280 records of card_sale can't be used (the first: price of {bad[0]['sale_id']}"
            in failure
        )
        manifest = client.load(allow_misfits=frozenset({"card_sale"})).manifest
        assert manifest
        report = client.files.read(manifest.changed["card_sale"].quarantined.path).decode()  # type: ignore[union-attr]
        assert report.count("\n") == len(bad) + 1
        for record in bad:
            assert f'card_sale,{record["sale_id"]},price,on request,"is no numeric(10,2)",000001' in report
        assert client.rows() == sorted(
            as_row(one) for one in stand_in.records(FIRST, SECOND) if one not in bad
        )


@pytest.mark.fault("F37")
def test_a_schema_that_changes_stops_the_load_and_a_mended_declaration_needs_no_call(tmp_path: Path) -> None:
    """Fault F37: schema change. The pages stay, and are loaded as soon as the declaration knows them."""
    with service(changed=True) as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        calls = len(stand_in.calls)
        assert "price of 738886000 is missing" in str(client.load().failures["card_sale"])
        mended = Client(tmp_path, stand_in, fields={**SALE.fields, "price": "amount"})
        mended.load()
        assert len(mended.rows()) == 280
        assert len(stand_in.calls) == calls


def test_columns_that_are_declared_later_are_read_from_the_pages_that_are_kept(tmp_path: Path) -> None:
    fewer = {name: type_ for name, type_ in SALE.columns.items() if name not in ("grade", "quantity")}
    with service() as stand_in:
        old = Client(tmp_path, stand_in, columns=fewer, fields={"card": "card.name"})
        for window in (FIRST, SECOND):
            old.fetch(window)
            outcome = old.load()
            assert outcome.unknown["card_sale"] == ("quantity",)
        calls = len(stand_in.calls)
        client = Client(tmp_path, stand_in)
        manifest = client.load().manifest
        assert manifest
        assert manifest.changed["card_sale"].changed == 560
        whole = [*stand_in.records(FIRST, SECOND), *stand_in.records(SECOND, "2024-01-15")]
        assert client.rows() == sorted(map(as_row, whole))
        assert len(stand_in.calls) == calls


def test_a_window_without_records_begins_the_table(tmp_path: Path) -> None:
    with service() as stand_in:
        stand_in.day_of = lambda day: []
        client = Client(tmp_path, stand_in)
        client.fetch()
        assert client.load().manifest
        assert client.rows() == []


def test_a_damaged_page_is_not_loaded(tmp_path: Path) -> None:
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        summary = client.fetch()
        assert summary
        path = client.files.root / summary.files[0].path
        path.write_bytes(path.read_bytes().replace(b"EUR", b"USD", 1))
        assert "fetch card_sale --window 2024-01-01 --again" in str(client.load().failures["card_sale"])
        assert client.fetch() is None
        client.fetch(again=True)
        client.load()
        assert len(client.rows()) == 280
        assert [take.state for take in takes(client.files, SALE.name, FIRST)] == ["rejected", "loaded"]
        # One that was loaded before it was damaged is in nobody's way either, once it was fetched anew.
        (file,) = takes(client.files, SALE.name, FIRST)[-1].landed()[:1]
        (client.files.root / file.path).unlink()
        other = Client(tmp_path, stand_in, records=lambda answer: answer["data"])
        assert "is not what landed" in str(other.load().failures["card_sale"])
        client.fetch(again=True)
        assert not other.load().failures
        assert len(client.rows()) == 280


def test_a_lake_of_a_database_takes_an_api_and_goes_on(tmp_path: Path, database: Callable[[], str]) -> None:
    """One numbering: batches of a database and of APIs follow each other, and either may be the first."""
    url = database()
    execute(url, SOURCE)
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        client.load()
        request = CaptureRequest(url=url, tables=list(INPUTS.tables.values()), run_id="run")
        assert take_batch(request, Batches(client.files), tmp_path, lambda *_: None)
        client.fetch(SECOND)
        client.load()
        assert take_batch(request, Batches(client.files), tmp_path, lambda *_: None) is None
        batches = Batches(client.files)
        latest = batches.latest()
        assert latest
        assert client.batches() == [1, 2, 3]
        assert set(latest.sources) == {MAIN, "card_sale"}
        assert latest.server_time == latest.sources["card_sale"].server_time
        assert batches.get(2).server_time == batches.get(2).main.server_time
        assert list(batches.chain(latest)) == []
        assert len(client.rows()) == 560
        state = latest.api("card_sale")
        assert isinstance(state, ApiState)
        (take,) = state.takes
        assert (take.window, take.pages, take.calls, take.records, take.total) == (SECOND, 14, 14, 280, 280)


def test_another_api_of_that_name_or_another_key_is_refused(tmp_path: Path) -> None:
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        client.load()
        client.fetch(SECOND)
        other = replace(SALE, key=("sale_id", "card"))
        failure = Client(tmp_path, stand_in, other).load().failures["card_sale"]
        assert isinstance(failure, ApiError)
        assert "its key was sale_id and is now sale_id, card" in str(failure)


def test_what_a_manifest_says_of_an_api_can_be_read_by_anybody(tmp_path: Path) -> None:
    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        client.load()
        told: dict[str, Any] = json.loads(client.files.read("raw/batches/000001.json"))
        assert told["format"] == 2
        assert told["sources"]["card_sale"]["kind"] == "api"
        assert told["tables"]["card_sale"]["read"] == "pages"


def test_a_run_that_sweeps_meanwhile_takes_nothing_from_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = reading.pages_of

    def swept(*arguments: Any) -> Iterator[Page]:
        sweep(client.scratch)
        return pages(*arguments)

    with service() as stand_in:
        client = Client(tmp_path, stand_in)
        client.fetch()
        client.scratch = tmp_path / "scratch"
        monkeypatch.setattr(reading, "pages_of", swept)
        assert client.load().failures == {}
        assert len(client.rows()) == 280
