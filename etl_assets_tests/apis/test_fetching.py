"""Pages come whole, once, at the agreed rate, and go on where they ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl_assets.apis.declaration import Batch, Limits, Rate, Retry
from etl_assets.apis.errors import ApiError
from etl_assets.apis.paging import Cursor, Link, Offset, PageNumber
from etl_assets.apis.takes import Take, takes
from etl_assets.stand_ins.web_api import ReceivedCall, Record, WebApiStandIn, sales
from etl_assets_tests.apis.service import FIRST, SALE, Client, as_row, service

WEEK = [record for n in range(7) for record in sales(date(2024, 1, 1) + timedelta(days=n))]
ROWS = sorted(map(as_row, WEEK))


def pagings(records: int) -> dict[str, dict[str, Any]]:
    """The ways in which an API may page, with so many records on a page."""
    return {
        "page number": {"paging": PageNumber("page", size="per_page", records=records), "concurrency": 4},
        "offset": {"paging": Offset(records=records), "concurrency": 4},
        "cursor": {"paging": Cursor("meta.next", size="per_page", records=records)},
        "header": {"paging": Link(size="per_page", records=records), "parameters": {"by": "link"}},
    }


PAGINGS = pagings(20)
EVERYTHING = {
    "refused": 0.05,
    "broken": 0.05,
    "cut": 0.05,
    "reset": 0.05,
    "garbled": 0.05,
    "duplicates": 5,
    "bad": 0.015,
}


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("total", ["meta.total", ""])
def test_every_record_of_a_window_comes_whichever_way_the_api_pages(
    tmp_path: Path, paging: str, total: str
) -> None:
    """Row E1: an iterator over the pages of an API for a window, declared in a few lines."""
    with service() as stand_in:
        client = Client(tmp_path, stand_in, total=total, **PAGINGS[paging])
        client.fetch()
        client.load()
        assert client.rows() == ROWS
        pages = [
            (call.query.get("page"), call.query.get("offset"), call.query.get("cursor"))
            for call in stand_in.calls
        ]
        assert len(pages) == len(set(pages))
        if total:
            assert len(pages) == 14  # 280 records: none is asked for to learn that there is none


@pytest.mark.parametrize("answers_after_seconds", [0, 0.3])
def test_the_rate_is_kept_as_the_server_measures_it_and_is_used(
    tmp_path: Path, answers_after_seconds: float
) -> None:
    """Row E2: ten calls a second at the most, in any sliding second, and nine of them are made. Failed calls count too."""
    used: list[float] = []
    while len(used) < 3 and max(used, default=0) < 9:  # a busy machine may be late, and never early
        with service(broken=0.1, rate=10, seconds=answers_after_seconds) as stand_in:
            client = Client(
                tmp_path / str(len(used)),
                stand_in,
                rate=Rate(10),
                concurrency=8,
                paging=PageNumber(size="per_page", records=7),
            )
            summary = client.fetch()
        assert summary
        assert stand_in.answered[500] > 0
        assert summary.calls == len(stand_in.calls)
        assert stand_in.most_in(1.0) <= 10
        assert stand_in.answered[429] == 0
        assert summary.failed_calls == stand_in.answered[500]
        _, *others = stand_in.calls  # the first page is waited for: it says how many there are
        used.append((len(others) - 1) / (others[-1].at - others[0].at))
    assert max(used) >= 9, used


def test_a_quota_of_an_hour_counts_the_calls_of_earlier_runs(tmp_path: Path) -> None:
    """Row E2: runs of the same API share what it allows, as far as the lake knows their calls."""
    with service() as stand_in:
        client = Client(tmp_path, stand_in, rate=Rate(30, per_seconds=3_600), limits=Limits(seconds=2))
        client.fetch()
        client.fetch("2024-01-08")
        with pytest.raises(ApiError, match="not done within 2 s"):
            client.fetch("2024-01-15")
        assert len(stand_in.calls) == 30


def test_the_rate_is_that_of_all_windows_runs_and_processes_of_a_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row E2: whoever makes the calls, one after the other or at the same time; of a run that landed nothing too."""
    with service() as stand_in:
        client = Client(tmp_path, stand_in, rate=Rate(3, per_seconds=2.1), paging=PageNumber(size="per_page"))
        with monkeypatch.context() as patch:
            patch.setattr(Take, "land", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.fetch()
        assert len(stand_in.calls) == 3
        with ThreadPoolExecutor(2) as runs:
            assert all(runs.map(client.fetch, [FIRST, "2024-01-08"]))
        assert len(stand_in.calls) == 9
        assert stand_in.most_in(2.1) == 3


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_calls_of_other_machines_count_as_far_as_their_pages_tell(tmp_path: Path) -> None:
    """Row E2: pages of takes that are complete, and of those that are not."""
    with service() as stand_in:
        one = Client(tmp_path, stand_in, rate=Rate(20, per_seconds=3_600))
        other = Client(tmp_path, stand_in, rate=Rate(20, per_seconds=3_600))
        other.scratch = tmp_path / "other"
        one.fetch()
        for client in (one, other):
            with pytest.raises(ApiError, match="the next call may be made in 3,"):
                client.fetch("2024-01-08")
        assert len(stand_in.calls) == 20
        other.scratch = tmp_path / "third"
        with pytest.raises(ApiError):
            other.fetch("2024-01-15")
        assert len(stand_in.calls) == 20


def test_what_the_server_asks_to_wait_is_kept_by_the_next_run_too(tmp_path: Path) -> None:
    """Row E2: after the last attempt as after any other."""
    with service(lasting=429, retry_after_seconds=1) as stand_in:
        client = Client(tmp_path, stand_in, retry=Retry(attempts=1))
        for _ in range(2):
            with pytest.raises(ApiError, match="answered 429"):
                client.fetch()
        first, second = stand_in.calls
        assert second.at - first.at >= 1
        stand_in.behaviour.retry_after_seconds = 3_600
        for told in ("it asks to wait 3,600 s", "the next call may be made in 3,"):
            with pytest.raises(ApiError, match=told):
                client.fetch()
        assert len(stand_in.calls) == 3


@pytest.mark.parametrize("how", ["waits", "is not answered"])
def test_an_interrupt_ends_a_fetch_at_once(tmp_path: Path, how: str) -> None:
    """What has come lands; no thread goes on waiting, and none of the calls that were to come is made."""
    with service(seconds=30 if how == "is not answered" else 0) as stand_in:
        client = Client(tmp_path, stand_in, rate=Rate(6, per_seconds=60), concurrency=4)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.fetch()
        assert time.monotonic() - began < 3
        made = 1 if how == "is not answered" else 6
        assert len(stand_in.calls) == made
        take = Take(client.files, SALE.name, FIRST, 1)
        assert sum(1 for file in take.landed() for _ in take.read(file)) == (made if made > 1 else 0)


def test_an_answer_that_trickles_is_cut_off_in_time(tmp_path: Path) -> None:
    """Its head as well as its body."""
    stand_in = WebApiStandIn()
    for at_once in (0, 50):
        with trickling(at_once) as stand_in.url:
            client = Client(tmp_path, stand_in, limits=Limits(call_seconds=0.4), retry=Retry(1))
            began = time.monotonic()
            with pytest.raises(ApiError, match="no answer in time"):
                client.fetch()
            assert 0.4 <= time.monotonic() - began < 3  # of the five that it would take


@contextmanager
def trickling(at_once: int) -> Iterator[str]:
    """A server that answers some bytes at once, and the others one by one."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b" " * 99
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as client, contextlib.suppress(OSError):
                client.recv(10_000)
                client.sendall(answer[:at_once])
                for n in range(at_once, len(answer)):
                    client.sendall(answer[n : n + 1])
                    time.sleep(0.05)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_pages_may_be_as_many_as_the_limit_says(tmp_path: Path) -> None:
    with service() as stand_in:
        most = Client(tmp_path / "most", stand_in, total="", limits=Limits(pages=14))
        assert most.fetch()
        with pytest.raises(ApiError, match="more than 13 pages"):
            Client(tmp_path / "fewer", stand_in, total="", limits=Limits(pages=13)).fetch()


@pytest.mark.parametrize(("total", "concurrency"), [("meta.total", 3), ("", 3), ("", 1)])
def test_what_apis_say_of_their_end_in_other_words(
    tmp_path: Path, total: str, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """404 behind the last page, where no total is declared; and a total that stands on the first page only."""
    with service() as stand_in:
        page = stand_in.page

        def first_alone(call: ReceivedCall) -> tuple[dict[str, Any], str | None]:
            answer, link = page(call)
            if call.query["page"] != "1":
                del answer["meta"]["total"]
            return answer, link

        gone = {"15"}
        monkeypatch.setattr(stand_in, "page", first_alone)
        monkeypatch.setattr(stand_in, "fault", lambda call: 404 if call.query["page"] in gone else None)
        client = Client(tmp_path, stand_in, total=total, concurrency=concurrency)
        client.fetch()
        client.load()
        assert client.rows() == ROWS
        gone.add("9")  # and page 10 is there
        with pytest.raises(
            ApiError, match="nothing at its url" if total else r"no page 9 \(404\), and there is"
        ):
            client.fetch("2024-01-08")
        gone.remove("9")
        assert client.fetch("2024-01-08")


@pytest.mark.fault("F37")
@pytest.mark.parametrize("trouble", ["expired", "damaged"])
def test_what_can_not_be_gone_on_with_is_begun_anew(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cursor that does not last until the next run; a landed page that is damaged. Once, and the same run gets all."""
    with service() as stand_in:
        retry, batch = Retry(attempts=1), Batch(pages=4)
        client = Client(tmp_path, stand_in, retry=retry, batch=batch, **PAGINGS["cursor"])
        status = {"160": 503}
        monkeypatch.setattr(stand_in, "fault", lambda call: status.get(call.query.get("cursor", "")))
        with pytest.raises(ApiError, match="answered 503"):
            client.fetch()
        take = Take(client.files, SALE.name, FIRST, 1)
        if trouble == "damaged":
            path = client.files.root / take.landed()[0].path
            path.write_bytes(path.read_bytes()[:-9])
        monkeypatch.setattr(
            stand_in,
            "fault",
            lambda call: 410 if call.query.get("cursor") == "160" and begins(stand_in) else None,
        )
        summary = client.fetch()
        assert summary
        assert summary.pages == 14
        client.load()
        assert client.rows() == ROWS
        assert [one.state for one in takes(client.files, SALE.name)] == ["rejected", "loaded"]


def begins(stand_in: WebApiStandIn) -> bool:
    """Whether a cursor comes that no page of the same way led to."""
    return stand_in.calls[-2].query.get("cursor") != "140"


def test_pages_land_in_groups_and_are_asked_for_at_the_same_time(tmp_path: Path) -> None:
    """Rows E3 and E4: files of so many pages; calls that overlap, and records in the order of the pages all the same."""
    with service(seconds=0.05) as stand_in:
        client = Client(tmp_path, stand_in, concurrency=4, batch=Batch(pages=5, seconds=60))
        summary = client.fetch()
        assert summary
        assert [file.pages for file in summary.files] == [5, 5, 4]
        assert 2 <= stand_in.most_at_once <= 4
        slow = Client(tmp_path / "slow", stand_in, batch=Batch(pages=100, seconds=0.12))
        summary = slow.fetch()
        assert summary
        assert len(summary.files) > 3


@pytest.mark.fault("F37")
def test_what_fails_for_a_moment_is_tried_again_and_no_more_than_that(tmp_path: Path) -> None:
    """Row E5: two more attempts, a pause apart; and rows E6, E7: the other pages come, what failed is told at the end."""
    retry = Retry(attempts=3, pause_seconds=0.01)
    with service(lasting=503, retry_after_seconds=None) as stand_in:
        client = Client(tmp_path, stand_in, retry=retry)
        with pytest.raises(ApiError, match=r"answered 503 \(3 attempts\); 0 pages have landed"):
            client.fetch()
        assert len(stand_in.calls) == 3
        stand_in.behaviour.lasting = 404
        with pytest.raises(ApiError, match="there is nothing at its url") as told:
            client.fetch()
        assert "127.0.0.1" not in str(told.value)
        assert len(stand_in.calls) == 4


@pytest.mark.fault("F24", "F37")
@pytest.mark.many
@pytest.mark.parametrize(
    ("paging", "trouble"),
    [
        ("page number", {"refused": 0.2}),
        ("cursor", {"refused": 0.2, "retry_after_seconds": 1, "as_date": True}),
        ("offset", {"broken": 0.2}),
        ("header", {"cut": 0.2}),
        ("page number", {"reset": 0.2}),
        ("cursor", {"reset": 0.2}),
        ("offset", {"garbled": 0.2}),
        ("page number", {"duplicates": 3}),
        ("header", {"packed": True}),
        *((paging, EVERYTHING) for paging in PAGINGS),
    ],
    ids=str,
)
def test_every_good_record_comes_once_whatever_the_service_does(
    tmp_path: Path, paging: str, trouble: dict[str, Any]
) -> None:
    """Fault F37: 429 with either form of `Retry-After`, 5xx, a connection that is closed or reset amid the body, malformed
    JSON, drifting pages."""
    with service(**trouble) as stand_in:
        client = Client(tmp_path, stand_in, retry=Retry(attempts=12, pause_seconds=0.01), **PAGINGS[paging])
        client.fetch()
        outcome = client.load(allow_misfits=frozenset({"all"}))
        assert not outcome.failures
        good = {as_row(one) for one in stand_in.records(FIRST, "2024-01-08") if one["price"] != "on request"}
        assert set(client.rows()) == good
        assert len(client.rows()) == len(good)
        (take,) = outcome.takes["card_sale"]
        assert take.records - take.duplicates - take.quarantined == len(good)


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize(("pages", "share"), [(30, 0.05), pytest.param(1_000, 0.01, marks=pytest.mark.slow)])
def test_many_pages_with_a_little_of_every_trouble(
    tmp_path: Path, pages: int, share: float, paging: str
) -> None:
    """Pages of 100 records with 1 % 429, 1 % 500, cut and reset connections, duplicates and 0.1 % bad records (the short form:
    5 % of fewer pages): every good record exactly once, every bad one in quarantine with its reason."""
    trouble = {
        "refused": share,
        "broken": share,
        "cut": share,
        "reset": share,
        "duplicates": 2,
        "bad": 0.001,
        "per_seconds": 0.001,
    }
    with service(**trouble) as stand_in:

        def day_of(day: date) -> list[Record]:
            shape, (first, *_) = day.toordinal() * 1_000_000, sales(day, 1)
            return [{**first, "sale_id": shape + n, "price": n / 4} for n in range(pages * 100 // 7)]

        stand_in.day_of = day_of
        client = Client(
            tmp_path,
            stand_in,
            rate=Rate(100_000),
            retry=Retry(attempts=10, pause_seconds=0.01),
            limits=Limits(seconds=3_000),
            **pagings(100)[paging],
        )
        client.fetch()
        outcome = client.load()
        assert outcome.manifest
        records = stand_in.records(FIRST, "2024-01-08")
    good = {as_row(one) for one in records if one["price"] != "on request"}
    rows = client.rows()
    assert len(rows) == len(good)
    assert set(rows) == good
    quarantined = outcome.manifest.changed["card_sale"].quarantined
    aside = client.files.read(quarantined.path).decode().splitlines()[1:] if quarantined else []
    bad = {str(one["sale_id"]) for one in records if one["price"] == "on request"}
    assert {line.split(",")[1] for line in aside} == bad
    assert len(aside) == len(bad)


@pytest.mark.fault("F37")
def test_what_never_ends_or_is_too_much_is_given_up(tmp_path: Path) -> None:
    """Fault F37: infinite pages, a huge answer, a bomb, an answer that never comes."""
    limits = Limits(pages=5, answer_bytes=50_000, call_seconds=0.5)
    with service(endless=True) as stand_in:
        cursor = Client(tmp_path, stand_in, paging=Cursor("meta.next"), total="")
        with pytest.raises(ApiError, match="page 2 leads back to one that was there before"):
            cursor.fetch()
        numbers = Client(tmp_path / "numbers", stand_in, total="", limits=limits)
        with pytest.raises(ApiError, match="more than 5 pages"):
            numbers.fetch()
        assert len(stand_in.calls) <= 8
    with service(bomb=True) as stand_in, pytest.raises(ApiError, match="more than 50,000 bytes"):
        Client(tmp_path / "bomb", stand_in, limits=Limits(answer_bytes=50_000)).fetch()
    with service(seconds=2) as stand_in, pytest.raises(ApiError, match="no answer in time"):
        Client(tmp_path / "slow", stand_in, limits=limits, retry=Retry(1)).fetch()
    with service(seconds=0.2) as stand_in, pytest.raises(ApiError, match="not done within 1 s"):
        Client(tmp_path / "long", stand_in, limits=Limits(seconds=1)).fetch()


@pytest.mark.fault("F37")
def test_no_redirect_leads_to_a_private_address_unless_it_is_allowed(tmp_path: Path) -> None:
    """Fault F37: a server that sends its clients into somebody's network."""
    with service(key="sesame") as inner:
        for place in (
            "169.254.169.254/latest/meta-data",
            "[::1]:9",
            "10.0.0.1",
            inner.url.removeprefix("http://"),
        ):
            refused = pytest.raises(ApiError, match="which is no public address: not followed")
            with service(elsewhere=f"http://{place}/") as stand_in, refused:
                Client(tmp_path, stand_in).fetch()
        assert not inner.calls
        with service(elsewhere=f"{inner.url}/sales?from=2024-01-01&to=2024-01-02") as stand_in:
            client = Client(tmp_path, stand_in, limits=Limits(private_redirects=True))
            with pytest.raises(ApiError, match="answered 401"):  # it got no credential
                client.fetch(secret="sesame")
        assert "authorization" not in inner.calls[0].headers


def kill_at(folder: Path, url: str, place: str, paging: str) -> int:
    """Fetch and load in a process that ends itself at a place; its exit code."""
    code = (
        "import sys; from pathlib import Path; from etl_assets_tests.apis.service import *\n"
        "from etl_assets.apis.declaration import Batch; from etl_assets_tests.apis.test_fetching import PAGINGS\n"
        "stand_in = WebApiStandIn(); stand_in.url = sys.argv[2]\n"
        "client = Client(Path(sys.argv[1]), stand_in, batch=Batch(pages=3), **PAGINGS[sys.argv[3]])\n"
        "client.fetch(); outcome = client.load(); assert not outcome.failures, outcome.failures"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder), url, paging],
        env={**os.environ, "ETL_FAIL_AT": place},
        check=False,
    )
    return run.returncode


def index_of(call: ReceivedCall) -> int:
    """The page of 20 records that a call asks for, from 0 on."""
    query = call.query
    return (
        int(query["page"]) - 1
        if "page" in query
        else int(query.get("offset") or query.get("cursor") or 0) // 20
    )


@pytest.mark.fault("F1", "F37")
@pytest.mark.many
@pytest.mark.parametrize(("place", "paging"), [(f"*:{n}", list(PAGINGS)[n % 4]) for n in range(1, 21)])
def test_killed_anywhere_and_run_again_no_page_that_landed_is_asked_for_again(
    tmp_path: Path, place: str, paging: str
) -> None:
    """Row E8: pages land first; whatever ends a run, the next one goes on, and the result is the same. The service has a bad day
    besides."""
    with service(**EVERYTHING) as stand_in:
        assert kill_at(tmp_path, stand_in.url, place, paging) == -9
        client = Client(tmp_path, stand_in, batch=Batch(pages=3), **PAGINGS[paging])
        take = Take(client.files, SALE.name, FIRST, 1)
        landed = {page.index for file in take.landed() for page in take.read(file)}
        asked = len(stand_in.calls)
        if not take.summary():
            client.fetch()
        again = {index_of(call) for call in stand_in.calls[asked:]}
        assert not again & landed
        assert landed | again == set(range(14))
        client.load()
        good = [one for one in stand_in.records(FIRST, "2024-01-08") if one["price"] != "on request"]
        assert len(good) < 280
        assert client.rows() == sorted(map(as_row, good))
        assert len(client.batches()) == 1
        assert not client.load().manifest
