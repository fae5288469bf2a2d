"""APIs in the flow: a project without a database, one that `etl init` made, windows that are due, and what is proven."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from etl_assets import project
from etl_assets.apis.assets import GOES_ON_TAG
from etl_assets.apis.loading import Load, load_pages
from etl_assets.automation.breaker import Breaker
from etl_assets.automation.jobs import DERIVE, jobs
from etl_assets.automation.windows_due import WINDOW_TAG, fetch_jobs, windows_due
from etl_assets.definitions import definitions
from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.resource import RawLake
from etl_assets.raw.landing import Landing
from etl_assets.settings import Settings
from etl_assets.stand_ins.web_api import Behaviour, WebApiStandIn, rates, sales
from etl_assets_tests.commands import etl, use
from etl_assets_tests.init.samples import execute
from etl_assets_tests.init.test_init import SHOP, _anew

DOCS = Path(__file__).parents[2] / "docs/apis.md"


@pytest.fixture
def stand_in() -> Iterator[WebApiStandIn]:
    served = WebApiStandIn(Behaviour(key="sesame"))
    with served.serve():
        yield served


@pytest.fixture
def cards(stand_in: WebApiStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the project of trading cards is used."""
    use(monkeypatch, tmp_path / "data", ETL_PROJECT="etl_assets.cards")
    reach(monkeypatch, stand_in)
    return tmp_path


def reach(patch: pytest.MonkeyPatch, stand_in: WebApiStandIn) -> None:
    for name, value in (("CARDS_URL", "/sales"), ("RATES_URL", "/rates")):
        patch.setenv(name, stand_in.url + value)
    patch.setenv("CARDS_KEY", "sesame")


def test_sales_and_rates_become_a_report_in_one_currency(cards: Path, stand_in: WebApiStandIn) -> None:
    """Row E9, and the shipped sources: weekly windows one at a time, daily rates, a report in euro, all of it proven."""
    done = etl("fetch", "card_sale", "--limit", "3", "--only-pages", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [one["window"] for one in told["windows"]] == ["2024-01-01", "2024-01-08", "2024-01-15"]
    assert etl("fetch", "exchange_rate", "--limit", "2").exit_code == 0
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(21)]
    rate = {(day, one["currency"]): one["per_euro"] for day in days[:2] for one in rates(day)}
    expected: dict[tuple[date, str], float] = {}
    for day in days[:2]:
        for one in sales(day):
            key = day, one["card"]["name"]
            expected[key] = expected.get(key, 0) + one["price"] * one["quantity"] / rate[day, one["currency"]]
    with duckdb.connect(str(cards / "data/warehouse.duckdb"), read_only=True) as warehouse:
        shown = warehouse.execute(
            "SELECT sold_date, card, revenue_eur, without_rate, cards FROM reporting.sales_in_euro"
        ).fetchall()
    assert sum(cards for *_, cards in shown) == sum(one["quantity"] for day in days for one in sales(day))
    known = {(day, card): float(euro) for day, card, euro, lacking, _ in shown if not lacking}
    assert known.keys() >= expected.keys()
    assert all(abs(known[key] - euro) < 0.006 for key, euro in expected.items())
    assert any(lacking for *_, lacking, _ in shown)

    verified = etl("verify", "--json")
    assert verified.exit_code == 0, verified.output
    hops = {(one["hop"], one["table"]) for one in json.loads(verified.stdout)["comparisons"] if one["equal"]}
    assert {("source", "card_sale"), ("source", "exchange_rate"), ("raw", "card_sale")} <= hops
    sale = sales(days[0])[3]
    story = etl("explain", "card_sale", str(sale["sale_id"]))
    assert re.search(r"raw/card_sale/2024-01-01/001/\S+\.pages, page 1\n", story.stdout)
    assert "fact_card_sale" in story.stdout
    assert "sales_in_euro" in story.stdout
    plan = json.loads(etl("plan", "--json").stdout)
    assert [(ask["api"], ask["waiting"]) for ask in plan["apis"]] == [("card_sale", 0), ("exchange_rate", 0)]
    assert etl("doctor").exit_code == 0
    status = json.loads(etl("status", "--json").stdout)["apis"]
    standing = {name: (one["loaded"], one["waiting"], one["rejected"]) for name, one in status.items()}
    assert standing == {"card_sale": (3, 0, 0), "exchange_rate": (2, 0, 0)}
    assert status["card_sale"]["due"] > 50
    assert re.search(r"^card_sale +3 +0 +0 +[\d,]+ +20", etl("status").stdout, re.MULTILINE)

    # A window that is fetched again changes nothing downstream.
    calls = len(stand_in.calls)
    again = etl("fetch", "card_sale", "--window", "2024-01-08", "--json")
    assert len(stand_in.calls) > calls
    loaded = json.loads(again.stdout)["loaded"]
    assert loaded["unchanged"]
    assert loaded["batch"] is None

    next((cards / "data/lake/raw/card_sale").glob("*.csv")).unlink()
    assert etl("repair", "--dry-run").exit_code == 1
    mended = etl("repair")
    assert mended.exit_code == 0, mended.output
    assert etl("verify", "--rebuild").exit_code == 0

    # What the lake holds is compared with the pages.
    (page,) = (cards / "data/lake/raw/card_sale/2024-01-08/001").glob("*.pages")
    page.write_bytes(page.read_bytes().replace(b"Alpine Fox", b"Golden Fox"))
    found = etl("verify")
    assert found.exit_code == 1
    assert "card_sale" in found.output
    assert "is not what landed" in found.output


def test_a_failed_window_is_told_and_what_landed_before_is_loaded(
    cards: Path, stand_in: WebApiStandIn
) -> None:
    stand_in.behaviour.lasting = 403
    done = etl("fetch", "card_sale", "--limit", "2")
    assert done.exit_code == 1
    assert "etl: card_sale: answered 403: it does not allow this call" in done.output
    assert len(stand_in.calls) == 1
    assert etl("fetch", "card_sale", "--window", "2024-01-02").exit_code == 2
    assert etl("fetch", "nothing").exit_code == 2


@pytest.mark.places
def test_a_project_that_init_made_gets_an_api_by_one_file(
    database: Callable[..., str], stand_in: WebApiStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/apis.md says; a database and an API in one lake."""
    url = database()
    execute(url, SHOP)
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL="", ETL_PROJECT="")
    monkeypatch.setattr(project, "load", _anew)
    reach(monkeypatch, stand_in)
    assert etl("init", url).exit_code == 0
    monkeypatch.setenv("ETL_SOURCE_URL", url)
    file, *_ = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "etl_project/apis.py").write_text(file, encoding="utf-8")
    assert "1 API called" in etl("check").output
    first = etl("run")
    assert first.exit_code == 1
    assert "of which no window was fetched yet (etl fetch card_sale)" in first.output
    done = etl("fetch", "--limit", "1")
    assert done.exit_code == 0, done.output
    again = etl("run", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["tables"]["card_sale"]["rows"] == 280
    verified = etl("verify", "--rebuild")
    assert verified.exit_code == 0, verified.output
    certificates = sorted((tmp_path / "data/lake/raw/batches").glob("*.certificate.json"))
    certificate = json.loads(certificates[-1].read_text())
    assert certificate["equal"]
    assert certificate["apis"]["card_sale"]["takes"][0]["records"] == 280

    # Pages that are loaded while tables are read take the number of their batch: the tables are read once more.
    assert etl("fetch", "--limit", "1", "--only-pages").exit_code == 0
    execute(url, "UPDATE orders SET amount = 3 WHERE id = 1")
    land, loaded = Landing.land, list[Manifest | None]()

    def beside(self: Landing) -> Any:
        if not loaded:
            api = project.load(str(tmp_path / "etl_project")).apis["card_sale"]
            loaded.append(load_pages(Load([api], "beside"), Batches(self.files), tmp_path).manifest)
        return land(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Landing, "land", beside)
        ran = etl("run", "--json")
    assert ran.exit_code == 0, ran.output
    assert loaded[0]
    told = json.loads(ran.stdout)
    assert told["batch"] == f"{loaded[0].batch + 1:06d}"
    assert told["tables"]["orders"]["changed"] == 1
    assert etl("verify", "--rebuild").exit_code == 0

    # Damaged files of the API's table and of a database's are mended by one command, and no API is asked.
    calls = len(stand_in.calls)
    for table in ("card_sale", "orders"):
        next((tmp_path / "data/lake/raw" / table).rglob("*.csv")).write_bytes(b"nonsense")
    assert etl("verify").exit_code == 1
    mended = etl("repair")
    assert mended.exit_code == 0, mended.output
    assert "280 of 280 rows are known" in mended.stdout
    verified = etl("verify", "--rebuild")
    assert verified.exit_code == 0, verified.output
    assert len(stand_in.calls) == calls


def test_windows_that_are_due_are_fetched_oldest_first_and_their_pages_loaded(cards: Path) -> None:
    """Row E9: catch-up, one run at a time; what fails has its turn again later, and the next one before."""
    loaded = project.load("etl_assets.cards")
    apis = list(loaded.apis.values())
    sensor = windows_due(apis, jobs()[DERIVE], fetch_jobs(apis), Breaker(None))
    defs = definitions(Settings.read({"ETL_PROJECT": "etl_assets.cards", "ETL_DATA": str(cards / "data")}))
    lake = RawLake(
        url=str(cards / "data/lake"), scratch=str(cards / "data/scratch"), cache=str(cards / "data/cache")
    )
    with dg.instance_for_test() as instance:

        def tick() -> dg.RunRequest:
            with dg.build_sensor_context(
                instance, repository_def=defs.get_repository_def(), resources={"lake": lake}
            ) as context:
                asked = sensor(context)
            assert isinstance(asked, dg.RunRequest)
            return asked

        def made(request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
            instance.add_run(
                dg.DagsterRun(job_name=str(request.job_name), status=status, tags=dict(request.tags))
            )

        first = tick()
        assert (first.job_name, first.partition_key) == ("fetch_card_sale", "2024-01-01")
        made(first, dg.DagsterRunStatus.FAILURE)
        second = tick()
        assert (second.job_name, second.partition_key) == ("fetch_exchange_rate", "2024-01-01")
        assert etl("fetch", "card_sale", "--limit", "1", "--only-pages").exit_code == 0
        assert tick().job_name == "derive"
        made(tick(), dg.DagsterRunStatus.STARTED)
        with dg.build_sensor_context(
            instance, repository_def=defs.get_repository_def(), resources={"lake": lake}
        ) as context:
            waits = sensor(context)
        assert isinstance(waits, dg.SkipReason)
        assert "waits for" in str(waits.skip_message)


def test_an_api_without_windows_is_fetched_day_after_day(
    cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row E9: failures before a success count no more, nor those of yesterday; what waits for its quota did not fail; a run key
    never comes again, whatever was forgotten."""
    api = replace(project.load("etl_assets.cards").apis["exchange_rate"], windows=None)
    sensor = windows_due([api], jobs()[DERIVE], fetch_jobs([api]), Breaker(None))
    defs = definitions(Settings.read({"ETL_PROJECT": "etl_assets.cards", "ETL_DATA": str(cards / "data")}))
    lake = RawLake(url=str(cards / "lake"), scratch=str(cards / "scratch"), cache=str(cards / "cache"))
    failure, success = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS
    keys: list[str] = []
    monkeypatch.setattr("etl_assets.automation.windows_due.PAUSE_SECONDS", 0)
    with dg.instance_for_test() as instance:

        def asked() -> bool:
            with dg.build_sensor_context(
                instance, repository_def=defs.get_repository_def(), resources={"lake": lake}
            ) as context:
                request = sensor(context)
            if isinstance(request, dg.RunRequest):
                assert (request.job_name, request.partition_key) == ("fetch_exchange_rate", None)
                keys.append(str(request.run_key))
            return isinstance(request, dg.RunRequest)

        def ended(status: dg.DagsterRunStatus, *, goes_on_in: float | None = None) -> dg.DagsterRun:
            tags = {WINDOW_TAG: "exchange_rate whole"}
            if goes_on_in is not None:
                tags[GOES_ON_TAG] = (datetime.now(UTC) + timedelta(seconds=goes_on_in)).isoformat()
            return instance.add_run(dg.DagsterRun(job_name="fetch_exchange_rate", status=status, tags=tags))

        oldest = [ended(failure) for _ in range(3)]
        assert not asked()
        ended(success)
        assert asked()
        for run in oldest:
            instance.delete_run(run.run_id)
        for _ in range(4):
            ended(failure, goes_on_in=-1)
            assert asked()
        ended(failure, goes_on_in=60)
        assert not asked()
        for _ in range(2):
            ended(failure)
            assert asked()
        ended(failure)
        assert not asked()
        monkeypatch.setattr("etl_assets.automation.windows_due._DAY_SECONDS", 0)
        assert asked()
    assert len(keys) == len(set(keys))


def test_definitions_need_neither_secret_nor_service(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row E1: what is declared is loaded without a credential."""
    for name in ("CARDS_KEY", "CARDS_URL"):
        monkeypatch.delenv(name)
    defs = definitions(Settings.read({"ETL_PROJECT": "etl_assets.cards", "ETL_DATA": str(cards / "data")}))
    graph = defs.resolve_asset_graph()
    pages = graph.get(dg.AssetKey(["source", "card_sale"]))
    assert isinstance(pages.partitions_def, dg.TimeWindowPartitionsDefinition)
    assert pages.partitions_def.get_first_partition_key() == "2024-01-01"
    done = etl("fetch", "card_sale", "--limit", "1")
    assert done.exit_code == 1
    assert "CARDS_KEY is not set" in done.output
