"""A fetch as a run of Dagster: what is tried again, what it tells while it goes on, and when it may take no longer."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.apis import assets, loading
from etl_assets.apis.assets import GOES_ON_TAG, api_assets, api_tables
from etl_assets.apis.declaration import Api, Limits, Rate, Retry
from etl_assets.apis.paging import Cursor
from etl_assets.apis.resource import Apis
from etl_assets.automation.windows_due import fetch_jobs
from etl_assets.lake.resource import RawLake
from etl_assets.notices import NOTICE
from etl_assets_tests.apis.answering import Reply, answering, lake, things
from etl_assets_tests.apis.service import FIRST, SALE, Client, service
from etl_assets_tests.browser.interface import interface


def surroundings(folder: Path) -> dict[str, Any]:
    apis = Apis(scratch=str(folder / "scratch"))
    raw = RawLake(url=str(folder / "lake"), scratch=str(folder / "scratch"), cache=str(folder / "cache"))
    return {"lake": raw, "apis": apis}


def materialized(client: Client, folder: Path, instance: dg.DagsterInstance, window: str) -> Any:
    return dg.materialize(
        api_assets([client.api]),
        resources=surroundings(folder),
        instance=instance,
        partition_key=window,
        raise_on_error=False,
    )


def lines(instance: dg.DagsterInstance, run_id: str) -> Sequence[str]:
    return [entry.user_message for entry in instance.all_logs(run_id)]


def served(api: Api, url: str, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("SERVED_URL", f"{url}/sales")
    object.__setattr__(api, "url_setting", "SERVED_URL")
    return api


def test_a_fetch_is_tried_again_tells_how_far_it_is_and_goes_on_when_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows E5, E7 and E9: two more attempts of a run that found the API out of order; progress at 1, 2, 4, 8 … pages."""
    monkeypatch.setattr(
        assets, "_AGAIN", dg.RetryPolicy(max_retries=2, delay=0.01, backoff=None, jitter=None)
    )
    with service(lasting=503, retry_after_seconds=None) as stand_in, dg.instance_for_test() as instance:
        client = Client(tmp_path, stand_in, retry=Retry(attempts=1))
        served(client.api, stand_in.url, monkeypatch)
        failed = materialized(client, tmp_path, instance, FIRST)
        assert not failed.success
        assert len(stand_in.calls) == 3
        assert "attempt 2 of 3: card_sale: answered 503" in "\n".join(lines(instance, failed.run_id))
        assert GOES_ON_TAG not in instance.get_run_by_id(failed.run_id).tags  # type: ignore[union-attr]

        fault = stand_in.fault
        monkeypatch.setattr(stand_in, "fault", lambda call: 503 if len(stand_in.calls) == 4 else None)
        done = materialized(client, tmp_path, instance, FIRST)
        assert done.success
        assert len(stand_in.calls) == 3 + 1 + 14
        told = "\n".join(lines(instance, done.run_id))
        assert list(dict.fromkeys(re.findall(rf"{FIRST}: (\d+) pages", told)))[-5:] == [
            "1",
            "2",
            "4",
            "8",
            "14",
        ]
        assert "280 records, 0 failed calls" in told
        (made,) = done.asset_materializations_for_node("source__card_sale")
        assert made.metadata["pages"].value == 14
        monkeypatch.setattr(stand_in, "fault", fault)
        stand_in.behaviour.lasting = None

        few = Client(tmp_path, stand_in, rate=Rate(20, per_seconds=3_600), limits=Limits(seconds=30))
        served(few.api, stand_in.url, monkeypatch)
        waits = materialized(few, tmp_path, instance, "2024-01-08")
        assert not waits.success
        tags = instance.get_run_by_id(waits.run_id).tags  # type: ignore[union-attr]
        assert datetime.now(UTC) + timedelta(minutes=50) < datetime.fromisoformat(tags[GOES_ON_TAG])
        assert len(stand_in.calls) > 18


def test_each_table_tells_its_own_seconds_and_what_is_odd_about_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row E7: of what one run loads; and a page that is full and names no other may be the first of many."""
    full = Reply({"data": things(0, 20), "meta": {"next_cursor": "20"}})
    with answering(lambda _: full) as served_things:
        mistaken = lake(tmp_path, served_things, paging=Cursor("meta.next", size="limit", records=20))
        slow = lake(tmp_path, served_things, name="slow")
        for client in (mistaken, slow):
            client.fetch("whole", path="/items")
    landed = loading._Loading._landed

    def landed_slowly(self: Any, read: Any) -> Any:
        time.sleep(1.0 if read.api.name == "slow" else 0.0)
        return landed(self, read)

    monkeypatch.setattr(loading._Loading, "_landed", landed_slowly)
    made = dg.materialize(
        [*api_assets([mistaken.api, slow.api]), api_tables([mistaken.api, slow.api], "")],
        resources=surroundings(tmp_path),
        selection=dg.AssetSelection.groups("raw"),
    )
    told = {
        one.asset_key.path[-1]: one.metadata for one in made.asset_materializations_for_node("load_pages")
    }
    slow_seconds, seconds = (told[name]["seconds"].value for name in ("slow", "thing"))
    assert isinstance(slow_seconds, float)
    assert isinstance(seconds, float)
    assert slow_seconds >= 1 > seconds > 0
    assert NOTICE not in told["slow"]
    assert "as many as are asked for, and names no other: see that meta.next" in str(
        told["thing"][NOTICE].value
    )


def test_a_run_that_hangs_is_ended_a_minute_after_its_limit() -> None:
    """Row E9: five minutes, as declared, which a fetch keeps to by itself."""
    assert (fetch_jobs([SALE])["card_sale"].tags or {})["dagster/max_runtime"] == "360"


@pytest.mark.fault("F4")
@pytest.mark.slow
def test_a_backfill_of_ten_weeks_is_ten_runs_one_at_a_time(tmp_path: Path) -> None:
    """Row E9, as the interface asks for it; none is fetched twice."""
    weeks = [(date(2024, 1, 1) + timedelta(weeks=n)).isoformat() for n in range(10)]
    with service(key="sesame") as stand_in:
        settings = {
            "ETL_PROJECT": "etl_assets.cards",
            "CARDS_KEY": "sesame",
            "CARDS_URL": f"{stand_in.url}/sales",
        }
        with interface(tmp_path, {**settings, "RATES_URL": f"{stand_in.url}/rates"}) as ui:
            launched = ui.ask(
                _BACKFILL,
                parameters={"assetSelection": [{"path": ["source", "card_sale"]}], "partitionNames": weeks},
            )["launchPartitionBackfill"]
            until, most = time.monotonic() + 500, 0
            while True:
                told = ui.ask(_RUNS, id=launched["backfillId"])["partitionBackfillOrError"]
                states = [run["status"] for run in told["runs"]]
                most = max(most, sum(state in ("STARTING", "STARTED") for state in states))
                if len(states) == 10 and set(states) == {"SUCCESS"}:
                    break
                assert time.monotonic() < until, told
                assert not {"FAILURE", "CANCELED"} & {*states}, told
                time.sleep(0.2)
    assert most == 1
    asked = [call.query["from"] for call in stand_in.calls if call.query.get("page") == "1"]
    assert set(asked) >= set(weeks)
    assert len(asked) == len(set(asked))


_BACKFILL = """mutation ($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_RUNS = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status runs(limit: 20) { status } } } }"""
