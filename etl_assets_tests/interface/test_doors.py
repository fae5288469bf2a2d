"""The interface has no login: it answers its own pages and programs of this machine, and no page of anybody else."""

import asyncio
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from etl_assets.interface.doors import Doors, Guarded
from etl_assets_tests.interface.asking import ASKED, Asked

DOORS = Doors("https://etl.example.com")
HOST = "127.0.0.1:3000"


async def _application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here you are"})


def answer(scope: dict[str, Any], headers: list[tuple[str, str]]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    guarded = Guarded(_application, DOORS)
    asyncio.run(guarded({**scope, "headers": encoded}, None, send))  # type: ignore[arg-type]
    return sent


def status(asked: Asked, host: str = HOST, **more: str) -> int:
    headers = {**asked.headers_for(host), **more}
    scope = {"type": "http", "method": asked.method, "path": unquote(urlsplit(asked.path).path)}
    return int(answer(scope, list(headers.items()))[0]["status"])


@pytest.mark.fault("F36")
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_who_asks_decides(asked: Asked) -> None:
    assert (status(asked) == 200) is asked.answered


def test_a_refusal_is_one_line_that_repeats_nothing_of_the_request() -> None:
    scope = {"type": "http", "method": "GET", "path": "/"}
    _, body = answer(scope, [("host", "<b>evil")])
    assert body["body"].startswith(b"refused: this interface is not known by that name: set ETL_UI_URL")
    assert b"evil" not in body["body"]


def test_the_address_that_people_use_is_known_with_its_pages() -> None:
    read = Asked("read", True)
    assert status(read, "etl.example.com") == 200
    assert status(read, "etl.example.com", Origin="https://etl.example.com") == 200
    # What is in between may give another name than people do.
    assert status(read, HOST, Origin="https://etl.example.com") == 200
    assert status(read, HOST, Origin="http://etl.example.com") == 403
    assert status(read, "other.example.com") == 403


@pytest.mark.parametrize("hosts", [[], [HOST, HOST], [HOST, "evil.example"], [""]])
def test_it_is_asked_by_one_name(hosts: list[str]) -> None:
    scope = {"type": "http", "method": "GET", "path": "/"}
    assert answer(scope, [("host", host) for host in hosts])[0]["status"] == 403


def test_a_query_that_asks_twice_what_it_wants_is_not_carried_out() -> None:
    scope = {"type": "http", "method": "GET", "path": "/graphql"}
    accepted = [("accept", "application/json"), ("accept", "text/html")]
    assert answer(scope, [("host", HOST), *accepted])[0]["status"] == 403
    assert answer(scope, [("host", HOST), accepted[1]])[0]["status"] == 200


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({}, True),
        ({"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, False),
    ],
)
def test_a_page_listens_to_runs_only_if_it_is_the_interface_s(
    headers: dict[str, str], accepted: bool
) -> None:
    sent = answer({"type": "websocket", "path": "/graphql"}, list({"Host": HOST, **headers}.items()))
    assert sent == (
        [{"type": "websocket.accept"}] if accepted else [{"type": "websocket.close", "code": 1008}]
    )


@pytest.mark.fault("F36")
def test_no_page_can_be_framed_or_read_by_another() -> None:
    start, _ = answer({"type": "http", "method": "GET", "path": "/"}, [("host", HOST)])
    assert (b"x-frame-options", b"DENY") in start["headers"]
    assert (b"cross-origin-resource-policy", b"same-origin") in start["headers"]
