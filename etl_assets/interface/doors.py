"""Which requests the web interface answers. It has no login, so a request must come from its own pages, or from a
program of this machine that is no browser.

Dagster carries out whatever it is asked: by POST with any content type and from any origin, by GET too, and under any
name that leads to it. So each page that a browser shows could start runs. What browsers tell of a page (`Origin`,
`Sec-Fetch-Site`) and of the name by which it asks (`Host`) is compared here. deploy/proxy.conf has the same rules.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[0-9a-zA-Z._-]+))(?::\d{1,5})?")
_OWN_PAGES = {"same-origin", "none"}  # none: typed, or a bookmark
# A page that asks for one of these as a simple request is a form: browsers ask the interface first for others.
_QUERIES = {"application/json", "application/graphql"}
# In no frame of another page, where people could be made to press a button; read by no other page.
_SAID_WITH_EVERY_ANSWER = [
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Request:
    """What a request says of itself. Names of `headers` are in lower case; one that is sent twice has two values."""

    method: str
    path: str
    headers: Mapping[str, list[str]]

    def told(self, name: str) -> list[str]:
        return self.headers.get(name, [])

    @property
    def asks_graphql(self) -> bool:
        return self.path.rstrip("/").endswith("/graphql")

    @property
    def opens_a_page(self) -> bool:
        """Somebody follows a link, as those in alerts."""
        return (
            self.method == "GET"
            and self.told("sec-fetch-mode") == ["navigate"]
            and self.told("sec-fetch-dest") == ["document"]
        )


@dataclass(frozen=True)
class Doors:
    """The rules. `address` is the one that people use (ETL_UI_URL); `names` are others by which this machine is known.
    An IP address is always fine as a name: a page can make a browser take its own name for this machine, no number."""

    address: str
    names: frozenset[str] = frozenset({"localhost"})

    def refusal(self, request: Request) -> str | None:
        """Why a request is not answered; None if it is."""
        hosts = request.told("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return "this interface is not known by that name: set ETL_UI_URL to the address by which it is reached"
        if not all(self._is_own_page(origin, hosts[0]) for origin in request.told("origin")):
            return "a page of another origin asks"
        if not _OWN_PAGES.issuperset(request.told("sec-fetch-site")) and (
            request.asks_graphql or not request.opens_a_page
        ):
            return "a page of another site asks"
        if request.asks_graphql and request.method != "WEBSOCKET":
            return _misread(request)
        return None

    def _is_ours(self, host: str) -> bool:
        read = _HOST.fullmatch(host)
        if read is None:
            return False
        name = (read["six"] or read["name"]).lower()
        return _is_address(name) or name in self.names or name == urlsplit(self.address).hostname

    def _is_own_page(self, origin: str, host: str) -> bool:
        at = urlsplit(self.address)
        return origin.lower() in {
            f"http://{host.lower()}",
            f"https://{host.lower()}",  # behind what ends TLS
            f"{at.scheme}://{at.netloc}".lower(),
        }


def _misread(request: Request) -> str | None:
    """Why a query is not carried out that Dagster would: no page needs permission to send it in such a form."""
    if request.method == "GET":
        # Dagster looks at the first of several only, and carries out the query if that one does not ask for a page.
        asked = request.told("accept")
        return None if len(asked) == 1 and "text/html" in asked[0] else "queries are asked by POST"
    kinds = [kind.partition(";")[0].strip().lower() for kind in request.told("content-type")]
    if request.method != "POST" or len(kinds) != 1 or kinds[0] not in _QUERIES:
        return "queries are asked by POST, as application/json"
    return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Guarded:
    """An ASGI application behind doors."""

    def __init__(self, application: Application, doors: Doors) -> None:
        self._application = application
        self._doors = doors

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:  # the life of the server
            await self._application(scope, receive, send)
            return
        reason = self._doors.refusal(_request(scope))
        if reason is None:
            await self._application(scope, receive, _saying(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: an answer 403
        else:
            await _refuse(send, reason)


def _request(scope: Message) -> Request:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())
    return Request(scope.get("method", "WEBSOCKET"), scope["path"], headers)


def _saying(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_SAID_WITH_EVERY_ANSWER]
        await send(message)

    return sent


async def _refuse(send: Send, reason: str) -> None:
    body = f"refused: {reason}\n".encode()
    kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": [*kind, *_SAID_WITH_EVERY_ANSWER]})
    await send({"type": "http.response.body", "body": body})
