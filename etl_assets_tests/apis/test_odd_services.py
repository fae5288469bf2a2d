"""What real APIs do beside what is usual: what they say comes whole and unaltered, or a run fails and says why."""

import contextlib
import gzip
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import httpx2
import pytest

from etl_assets.apis.client import Client as HttpClient
from etl_assets.apis.declaration import Credential, Limits, Retry
from etl_assets.apis.errors import ApiError
from etl_assets.apis.limiter import Limiter
from etl_assets.apis.paging import Cursor, Header, Link, Offset, PageNumber
from etl_assets.apis.windows import Windows
from etl_assets_tests.apis.answering import Asked, Reply, answering, lake, loaded, thing, things

ALL = things(0, 60)
ROWS = sorted((one["id"], one["value"]) for one in ALL)
Answers = Callable[[Asked], Reply]


def part(begin: int, size: int, **more: Any) -> Reply:
    return Reply({"data": ALL[max(begin, 0) : max(begin, 0) + size], **more})


def at(asked: Asked) -> int:
    return int(asked.query.get("cursor", 0))


# -- pages ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        (
            {"paging": PageNumber(first=0), "concurrency": 3},
            lambda asked: part(int(asked.query["page"]) * 20, 20),
        ),
        ({"paging": PageNumber()}, lambda asked: part((int(asked.query["page"]) - 1) * 20, 20)),
        # The server has other pages than it was asked for.
        ({"paging": Offset(records=50)}, lambda asked: part(int(asked.query["offset"]), 7)),
        (
            {"paging": Offset(records=50), "total": "total", "concurrency": 2},
            lambda asked: part(int(asked.query["offset"]), 7, total="60"),
        ),
        # Pages of other lengths: what one may not see is taken out afterwards, or a page has so many bytes.
        (
            {"paging": Offset(records=20)},
            lambda asked: Reply(
                {"data": ALL[(o := int(asked.query["offset"])) : o + (20 if o % 3 else 11 if o else 13)]}
            ),
        ),
        (
            {"paging": Offset(records=20), "total": "total"},
            lambda asked: part(o := int(asked.query["offset"]), 17 if o < 20 else 5, total=60),
        ),
        # All records on the first page, and a total that says so.
        (
            {"paging": PageNumber(), "total": "total"},
            lambda asked: part((int(asked.query["page"]) - 1) * 60, 60, total=60),
        ),
        (
            {"paging": PageNumber(), "total": "total"},
            lambda asked: part(0, 60, total=60) if asked.query["page"] == "1" else Reply(status=422),
        ),
        # Behind the last page the next one is null, or not there, or an empty text.
        ({"paging": Cursor("next")}, lambda asked: part(at(asked), 30, next=None if at(asked) else 30)),
        (
            {"paging": Cursor("next")},
            lambda asked: part(at(asked), 30, **({} if at(asked) else {"next": "30"})),
        ),
        (
            {"paging": Cursor(Header("x-next")), "total": Header("X-TOTAL")},
            lambda asked: replace(
                part(at(asked), 30), headers={"X-Total": "60", "X-Next": "" if at(asked) else "30"}
            ),
        ),
        (
            {"records": lambda answer: [{**one, "id": key} for key, one in answer["data"].items()]},
            lambda asked: Reply({"data": {str(one["id"]): {"value": one["value"]} for one in ALL}}),
        ),
    ],
)
def test_all_comes_however_an_api_divides_its_answer(
    tmp_path: Path, changed: dict[str, Any], answer: Answers
) -> None:
    """Row E1."""
    with answering(answer) as service:
        assert sorted(loaded(lake(tmp_path, service, **changed))) == ROWS


@pytest.mark.fault("F37")
@pytest.mark.parametrize(
    "link",
    [
        '</items?page=2>; rel="next"',
        '<?page=2>; rel="next"',
        "<items?page=2>; rel=next",
        '</items?page=9>; rel="last", </items?page=2>; rel="next"',
        '</items?page=2>; rel="next last"',
        '</items?page=2>; REL="NEXT"',
        '</items?page=2>; title="of 3; =, <more>"; rel="next"',
        '</items;v=1,2?page=2>; rel="next"; type="application/json"',
        "</items?page=2&q=a,b>;rel=next,</items?page=1>;rel=prev",
        '</items?page=2>; rel="next"; rel="prev"',
        "/items?page=2; rel=next",
    ],
)
def test_a_header_leads_to_the_next_page_however_it_is_written(tmp_path: Path, link: str) -> None:
    """Row E1: an address that is relative or has signs that mean something elsewhere, several relations in one, capitals."""

    def answer(asked: Asked) -> Reply:
        return (
            part(30, 30) if asked.query.get("page") == "2" else replace(part(0, 30), headers={"Link": link})
        )

    with answering(answer) as service:
        assert sorted(loaded(lake(tmp_path, service, paging=Link()))) == ROWS


def test_an_address_that_is_relative_is_that_of_the_page_that_has_it(tmp_path: Path) -> None:
    """Row E1: also where the first call was redirected."""

    def answer(asked: Asked) -> Reply:
        if asked.path == "/items":
            return Reply(status=302, headers={"Location": "/v2/items/first"})
        following = {"/v2/items/first": "second", "/v2/items/second": "third"}.get(asked.path)
        place = ["/v2/items/first", "/v2/items/second", "/v2/items/third"].index(asked.path)
        return part(place * 20, 20, links={"next": following})

    with answering(answer) as service:
        assert sorted(loaded(lake(tmp_path, service, paging=Link("links.next")))) == ROWS


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("http://things.example/items?page=2", "/items?page=2"),
        ("https://things.example:443/items?page=2", "/items?page=2"),
        ("//things.example//elsewhere.example/items", "//elsewhere.example/items"),
        ("https://things.example:8443/items", None),
        ("https://elsewhere.example/items", None),
        ("http://[", None),
    ],
)
def test_the_next_page_is_on_the_same_server(said: str, path: str | None) -> None:
    """Behind a proxy many servers call themselves `http`; what is asked for is the path, at the server that was declared."""
    api = thing()
    client = HttpClient(api, api.url, lambda _: "", Limiter(api.rate, lambda _: None))
    page = httpx2.URL(api.url)
    if path is None:
        with pytest.raises(ApiError, match=r"another server|is no address"):
            client.path_of(said, page)
    else:
        assert client.path_of(said, page) == path
        assert client.url.copy_with(raw_path=path.encode()).host == "things.example"


@pytest.mark.fault("F37")
@pytest.mark.parametrize(
    ("changed", "answer", "told"),
    [
        # It does not know what asks for a page.
        ({"paging": PageNumber("pgae"), "concurrency": 2}, lambda _: part(0, 20), "the parameter pgae"),
        ({"paging": Offset("skip")}, lambda asked: part(0, 20, at=asked.place), "the parameter skip"),
        # What it calls its total is that of a page.
        (
            {"paging": PageNumber(), "total": "count"},
            lambda asked: part((int(asked.query["page"]) - 1) * 20, 20, count=20),
            "it says that there are 20 records, and gave 40 different ones.* If its total counts something else",
        ),
        (
            {"paging": Offset(records=20), "total": "count"},
            lambda asked: part(int(asked.query["offset"]), 20, count=20),
            "it says that there are 20 records, and gave 40",
        ),
        (
            {"paging": Link("next")},
            lambda _: part(0, 20, next={"href": "/x"}),
            "has dict at next, where an address",
        ),
        (
            {"paging": Cursor("next")},
            lambda _: part(0, 20, next=[1]),
            "has list at next, where a text or a number",
        ),
        (
            {"paging": Cursor("more")},
            lambda _: part(0, 20, more=True),
            "has bool at more, where a text or a number",
        ),
        (
            {"paging": Cursor("next")},
            lambda _: part(0, 20, next="x"),
            "leads back to one that was there before",
        ),
        (
            {},
            lambda _: Reply({"error": "quota"}),
            "nothing, or null, at data, where a list.*a function takes them out",
        ),
        ({}, lambda _: Reply({"data": None}), "nothing, or null, at data"),
        ({}, lambda _: Reply({"data": {"1": {}}}), "has dict at data"),
        (
            {},
            lambda _: Reply(b"<html>", headers={"Content-Type": "text/html; charset=x"}),
            "says that it is text/html",
        ),
        (
            {},
            lambda _: Reply(b'{"data": [', headers={"Content-Length": "99", "Connection": "close"}),
            "the connection failed",
        ),
        ({}, lambda _: Reply(b'{"data": [{"id": 1, "va'), "the answer is no JSON"),
        (
            {},
            lambda _: Reply('{"data": ["é"]}'.encode("latin-1")),
            "is no text in UTF-8, nor in what its header",
        ),
        (
            {},
            lambda _: Reply(b"x", headers={"Content-Encoding": "deflate"}),
            "packed in a way that was not asked for",
        ),
        ({}, lambda _: Reply(status=302, headers={"Location": "/items"}), "more than 5 redirects"),
        (
            {},
            lambda _: Reply(status=302, headers={"Location": "ftp://x/"}),
            "redirects to ftp, which is not followed",
        ),
        ({}, lambda _: Reply(b"<h1>busy", 503), r"answered 503 \(3 attempts\)"),
        ({}, lambda _: Reply(status=418), "answered 418"),
    ],
)
def test_what_can_not_be_right_fails_and_says_why(
    tmp_path: Path, changed: dict[str, Any], answer: Answers, told: str
) -> None:
    """Rows E1 and E6: nothing of it is loaded."""
    with answering(answer) as service, pytest.raises(ApiError, match=told):
        loaded(lake(tmp_path, service, **changed))
    assert len(service.calls) <= 6


def test_pages_of_other_lengths_are_not_asked_for_all_at_once(tmp_path: Path) -> None:
    """Row E4: where pages are asked for by the place of their first record, several at a time, and no total tells what is left out."""

    def answer(asked: Asked) -> Reply:
        offset = int(asked.query["offset"])
        return part(offset, 20 if offset != 20 else 15)

    with answering(answer) as service:
        client = lake(tmp_path, service, paging=Offset(records=20), concurrency=2)
        for _ in range(2):
            with pytest.raises(ApiError, match=r"page 2 has fewer records than the first.*Say concurrency=1"):
                client.fetch("whole", path="/items")
        client.api = replace(client.api, concurrency=1)
        assert sorted(loaded(client)) == ROWS


@pytest.mark.parametrize("concurrency", [2, 5])
def test_a_page_without_records_amid_others_is_not_the_end_if_one_behind_it_is_known(
    tmp_path: Path, concurrency: int
) -> None:
    """Some services take out what one may not see after they have divided the answer."""

    def answer(asked: Asked) -> Reply:
        page = int(asked.query["page"])
        if page == 3:
            time.sleep(0.2)
        return Reply({"data": []}) if page == 3 else part((page - 1 - (page > 3)) * 10, 10)

    with answering(answer) as service:
        client = lake(tmp_path, service, paging=PageNumber(), concurrency=concurrency)
        for _ in range(3):  # it may have to be asked once more for what is behind
            with contextlib.suppress(ApiError):
                client.fetch(path="/items", window="whole")
        assert sorted(loaded(client)) == ROWS


# -- answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lambda told: Reply(b"\xef\xbb\xbf" + told.encode()),
        lambda told: Reply(told.encode("utf-16")),
        lambda told: Reply(
            told.encode("latin-1"), headers={"Content-Type": "application/json; charset=ISO-8859-1"}
        ),
        lambda told: Reply(
            told.encode("cp1252"), headers={"Content-Type": 'text/json;charset="windows-1252"'}
        ),
        # Some say so of what is UTF-8.
        lambda told: Reply(told.encode(), headers={"Content-Type": "application/json; charset=iso-8859-1"}),
        lambda told: Reply(gzip.compress(told.encode()), headers={"Content-Encoding": "gzip"}),
        lambda told: Reply(
            gzip.compress(told.encode()[:30]) + gzip.compress(told.encode()[30:]),
            headers={"Content-Encoding": "GZIP"},
        ),
    ],
)
def test_an_answer_is_read_however_it_is_written_and_packed(
    tmp_path: Path, answer: Callable[[str], Reply]
) -> None:
    told = json.dumps({"data": [{"id": 1, "value": "é Ångström £"}]}, ensure_ascii=False)
    with answering(lambda _: answer(told)) as service:
        assert loaded(lake(tmp_path, service)) == [(1, "é Ångström £")]


def test_values_that_json_does_not_have_or_numbers_do_not_hold_are_kept_aside_alone(tmp_path: Path) -> None:
    """Row E6: and the verification says the same of them."""
    records = (
        '{"id": 1, "n": NaN, "j": 1}, {"id": 2, "n": -Infinity, "j": 1}, {"id": 3, "n": 1e400, "j": 1}, '
        '{"id": 4, "n": 1, "j": {"a": [NaN]}}, {"id": 5, "n": 1, "j": "a\\u0000"}, {"id": 6, "n": 1, "j": "\\ud800"}, '
        '{"id": 7, "n": 1, "j": {"\\ud800": 1}}, {"id": 8, "n": 1, "j": "\\\\u0000"}, '
        '{"id": 9, "n": 9007199254740993, "j": 12345678901234567890.12345678901234567890, "t": 1e400}, '
        '{"id": 10, "n": "1", "j": 1, "t": NaN}, {"id": 11, "n": 1, "n": 2, "j": 1, "t": true}'
    )
    with answering(lambda _: Reply(f'{{"data": [{records}]}}'.encode())) as service:
        client = lake(
            tmp_path,
            service,
            columns={"id": "int", "n": "double", "j": "jsonb", "t": "text?"},
            limits=Limits(bad_share=1),
        )
        rows = loaded(client)
    assert sorted(rows) == [
        (8, "1.0", '"\\\\u0000"', None),
        (9, "9007199254740992.0", "12345678901234567890.12345678901234567890", "1e400"),
        (11, "2.0", "1", "true"),
    ]


def test_where_there_is_no_content_there_is_no_record(tmp_path: Path) -> None:
    """Status 204: of a window in which nothing was, and behind the last page."""

    def answer(asked: Asked) -> Reply:
        page = int(asked.query["page"])
        return part((page - 1) * 20, 20, total=60) if page < 4 else Reply(b"", 204)

    with answering(answer) as service:
        assert sorted(loaded(lake(tmp_path / "a", service, paging=PageNumber()))) == ROWS
    with answering(lambda _: Reply(b"", 204)) as service:
        for total in ("", "total", Header("X-Total")):
            client = lake(tmp_path / f"{total}", service, paging=PageNumber(), total=total)
            assert loaded(client) == []


# -- statuses ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F37")
@pytest.mark.parametrize(
    ("status", "after", "seconds"),
    [
        (520, None, 0.01),
        (529, None, 0.01),
        (403, "0", 0.01),
        (403, "1", 1.0),
        (503, "Mon, 01 Jan 2024 11:00:00 GMT", 0.3),
        (429, "0", 0.3),
        (429, "-5", 0.3),
        (429, "soon", 0.3),
        (429, "Thu, 99 Foo 99999 99:99:99 +9999", 0.3),
        (429, "", 0.3),
    ],
)
def test_what_fails_for_a_moment_is_tried_again_after_a_pause(
    tmp_path: Path, status: int, after: str | None, seconds: float
) -> None:
    """Rows E2 and E5: whatever stands in `Retry-After`; one that lies in the past has nobody call at once."""
    headers = {} if after is None else {"Retry-After": after}
    with answering(
        lambda asked: part(0, 60) if asked.place else Reply(b"<html>", status, headers)
    ) as service:
        rows = loaded(lake(tmp_path, service, retry=Retry(attempts=2, pause_seconds=seconds / 0.8)))
        assert sorted(rows) == ROWS
        first, second = service.calls
        assert second.at - first.at > seconds * 0.98


# -- where calls go ------------------------------------------------------------------------------------------------------


def test_what_a_declaration_says_goes_to_its_server_alone(tmp_path: Path) -> None:
    """A redirect elsewhere carries neither the credential nor the headers that are declared, and a 401 there says so."""
    limits = Limits(private_redirects=True)
    with (
        answering(lambda asked: part(0, 60)) as elsewhere,
        answering(lambda _: Reply(status=307, headers={"Location": f"{elsewhere.url}/items"})) as service,
    ):
        client = lake(
            tmp_path,
            service,
            limits=limits,
            headers={"X-Tenant": "acme"},
            credential=Credential("K", "X-Key", "{}"),
        )
        client.fetch("whole", secret="sesame", path="/items")
        assert service.calls[0].headers["X-Tenant"] == "acme"
        assert service.calls[0].headers["X-Key"] == "sesame"
        assert not {"X-Tenant", "X-Key"} & set(elsewhere.calls[0].headers)
    with (
        answering(lambda asked: Reply(status=401)) as elsewhere,
        answering(lambda _: Reply(status=302, headers={"Location": f"{elsewhere.url}/items"})) as service,
    ):
        client = lake(tmp_path / "b", service, limits=limits, credential=Credential("K"))
        with pytest.raises(
            ApiError, match=r"it redirected to 127\.0\.0\.1:.*, where K is not sent"
        ) as failed:
            client.fetch("whole", secret="sesame", path="/items")
        assert "sesame" not in str(failed.value)


@pytest.mark.fault("F37")
@pytest.mark.parametrize(
    "secret", ["sesame-open-7781", "se/same+open?=&7781", "1234", "123456789012", 'a"b\\c']
)
@pytest.mark.parametrize("how", ["parameter", "header"])
def test_a_secret_that_a_service_repeats_is_not_kept(tmp_path: Path, secret: str, how: str) -> None:
    """Many name each page by the address at which it was asked for, or tell what came; a number that is the same stays."""
    numbers = [{"id": n, "value": value} for n, value in enumerate(["1234", "key of 1234", "123456789012"])]

    def answer(asked: Asked) -> Reply:
        query = {**asked.query, "page": int(asked.query.get("page", 1))}
        told = {
            "links": {
                "self": f"/items?{urlencode(query)}",
                "first": f"/items?page=1&{urlencode(query, quote_via=quote)}",
            },
            "asked": {"key": asked.query.get("key"), "X-Key": asked.headers.get("X-Key")},
            "next": f"/items?{urlencode({**query, 'page': 2})}&z=1" if query["page"] == 1 else None,
        }
        sent = asked.query.get("key") if how == "parameter" else asked.headers["X-Key"]
        return Reply(
            {"data": numbers if query["page"] == 1 else ALL[3:], **told}, 200 if sent == secret else 401
        )

    credential = Credential("K", parameter="key") if how == "parameter" else Credential("K", "X-Key", "{}")
    with answering(answer) as service:
        client = lake(tmp_path, service, credential=credential, paging=Link("next"))
        client.fetch("whole", secret=secret, path="/items")
        client.load()
        texts_of_numbers = [row[1] for row in sorted(client.rows())[:3]]
    kept = b"".join(client.files_below().values())
    for form in (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]):
        assert f"key={form}&".encode() not in kept
        assert f'"{form}"'.encode() not in kept or secret.isdecimal()
        assert f'ey": "{form}"'.encode() not in kept
    assert texts_of_numbers == ["1234", "key of 1234", "123456789012"]
    assert len(client.rows()) == 60


def test_a_window_may_stand_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row E1."""
    from etl_assets.apis.resource import Apis

    windows = Windows("week", since="2024-01-01")
    with answering(
        lambda asked: part(0, 60) if asked.path == "/v1/2024-01-08..14.01.2024" else Reply(status=404)
    ) as service:
        path = "/v1/{start}..{last:%d.%m.%Y}"
        client = lake(tmp_path, service, windows=windows, url=f"https://things.example{path}")
        assert sorted(loaded(client, "2024-01-08", path=path)) == ROWS
    monkeypatch.setenv("THINGS_URL", "https://elsewhere.example/v1")
    other = replace(client.api, url_setting="THINGS_URL")
    with pytest.raises(ApiError, match="THINGS_URL must name the days of the window"):
        Apis(scratch="").url(other)
    monkeypatch.setenv("THINGS_URL", "https://elsewhere.example/v2/{start}")
    assert Apis(scratch="").url(other) == "https://elsewhere.example/v2/{start}"


# -- the newest version counts -------------------------------------------------------------------------------------------


def test_of_a_key_that_comes_again_the_newest_version_counts(tmp_path: Path) -> None:
    """On two pages, in two windows, of types that change; a window that has fewer records later takes none away."""
    said: dict[str, list[Any]] = {
        "2024-01-01": [[("1", "old"), (2, 5)], [(1, "new"), ("2", "5.0")]],
        "2024-01-02": [[(2, "other"), (3, None)], []],
    }

    def answer(asked: Asked) -> Reply:
        pages = said[asked.query["day"]]
        page = int(asked.query["page"]) - 1
        return Reply({"data": [{"id": n, "value": v} for n, v in (pages[page] if page < len(pages) else [])]})

    with answering(answer) as service:
        windows = Windows("day", since="2024-01-01", parameters={"day": "{start}"})
        client = lake(tmp_path, service, windows=windows, paging=PageNumber(), key=("id",))
        assert sorted(loaded(client, "2024-01-01")) == [(1, "new"), (2, "5.0")]
        assert sorted(loaded(client, "2024-01-02")) == [(1, "new"), (2, "other"), (3, None)]
        said["2024-01-01"] = [[(1, "newer")]]
        assert sorted(loaded(client, "2024-01-01")) == [(1, "newer"), (2, "other"), (3, None)]
