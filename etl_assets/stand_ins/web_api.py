"""A stand-in for two REST APIs, served on this machine: sales of trading cards, and exchange rates.

    GET /sales?from=2024-01-01&to=2024-01-08    paged by number, by offset, by cursor or by a header, as the call says
    GET /rates?day=2024-01-01                   rates of one day against the euro, on one page

What goes wrong is said in `Behaviour`. It keeps when each call arrived, and how many were answered at the same time: whether
a client keeps to a rate is measured here. It refuses calls above `rate` as such services do.
"""

import argparse
import gzip
import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Record = dict[str, Any]
CARDS = ("Alpine Fox", "Blue Comet", "Copper Golem", "Dune Runner", "Ember Owl", "Frost Whale")
CURRENCIES = {"EUR": "1", "USD": "1.0912", "GBP": "0.8571", "JPY": "158.25", "CHF": "0.9406"}
_BOMB_BYTES = 1 << 26


def sales(day: date, number: int = 40) -> list[Record]:
    """The sales of a day: the same whenever they are asked for."""
    chance = random.Random(day.toordinal())  # noqa: S311
    return [
        {
            "sale_id": day.toordinal() * 1_000 + n,
            "card": {"name": chance.choice(CARDS), "grade": chance.randint(1, 10)},
            "price": float(f"{chance.randint(50, 99_999)}e-2"),
            "currency": chance.choice(sorted(CURRENCIES)),
            "quantity": chance.randint(1, 4),
            "sold_at": f"{day.isoformat()}T{n % 24:02d}:{chance.randint(0, 59):02d}:00Z",
        }
        for n in range(number)
    ]


def rates(day: date) -> list[Record]:
    """The rates of a day: units of a currency for one euro. The same whenever they are asked for."""
    chance = random.Random(day.toordinal())  # noqa: S311
    return [
        {
            "day": day.isoformat(),
            "currency": code,
            "per_euro": 1 if code == "EUR" else float(f"{float(rate) * chance.uniform(0.97, 1.03):.4f}"),
        }
        for code, rate in CURRENCIES.items()
    ]


@dataclass
class Behaviour:
    """What the service does beside answering. Shares are of calls, in the order in which they come, by chance.

    `rate`: calls allowed in any `per_seconds`; more are refused (429), and counted. `refused`, `broken`, `cut`, `reset`,
    `garbled`: shares of calls that are answered 429, 500, end in a connection that is closed or reset (TCP RST) amid the body, or
    are no JSON. `as_date`: `Retry-After` is a
    date. `seconds`: how long an answer takes. `duplicates`: so many records of the page before begin each page. `bad`: share
    of records whose price is no number. `key`: what a call for sales must carry. `changed`: records have other fields. `lasting`:
    the status of every call.
    """

    rate: int | None = None
    per_seconds: float = 1.0
    refused: float = 0.0
    broken: float = 0.0
    cut: float = 0.0
    reset: float = 0.0
    garbled: float = 0.0
    retry_after_seconds: int | None = 0
    as_date: bool = False
    seconds: float = 0.0
    duplicates: int = 0
    bad: float = 0.0
    total: int | None = None
    key: str = ""
    changed: bool = False
    lasting: int | None = None
    bomb: bool = False
    endless: bool = False
    elsewhere: str = ""
    packed: bool = False


@dataclass(frozen=True)
class ReceivedCall:
    """A call that arrived. `at` by the monotonic clock, in seconds."""

    at: float
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class WebApiStandIn:
    """The service. `day_of` gives the sales of a day; `calls` are those that arrived, `answered` counts statuses."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    day_of: Callable[[date], Sequence[Record]] = sales
    calls: list[ReceivedCall] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    most_at_once: int = 0
    url: str = ""
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311
    _known: dict[tuple[str, str], list[Record]] = field(default_factory=dict)

    def most_in(self, seconds: float) -> int:
        """The most calls that arrived in any stretch of time of this length."""
        times = sorted(call.at for call in self.calls)
        most = first = 0
        for last, at in enumerate(times):
            while at - times[first] >= seconds:
                first += 1
            most = max(most, last - first + 1)
        return most

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Serve on 127.0.0.1; gives the URL."""
        server = _Server(self, port)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    # -- what is answered ------------------------------------------------------------------------------------------------

    def arrived(self, call: ReceivedCall) -> None:
        """Take note of a call."""
        with self._lock:
            self.calls.append(call)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def left(self, status: int) -> None:
        """Take note of an answer."""
        with self._lock:
            self._at_once -= 1
            self.answered[status] += 1

    def fault(self, call: ReceivedCall) -> int | None:
        """The status with which a call fails; 0: the connection is closed, 2: it is reset, 1: what is answered is no JSON;
        None: it does not."""
        with self._lock:
            draw = self._chance.random()
            earlier = (call.at - one.at for one in self.calls[-1_000:])
            recent = sum(1 for seconds in earlier if 0 <= seconds < self.behaviour.per_seconds)
        wants, how = self.behaviour.key, self.behaviour
        if (
            wants
            and call.path == "/sales"
            and wants
            not in (
                call.query.get("key"),
                call.headers.get("authorization", "").removeprefix("Bearer "),
            )
        ):
            return 401
        if how.lasting:
            return how.lasting
        if how.rate and recent > how.rate:
            return 429
        shares = (how.refused, 429), (how.broken, 500), (how.cut, 0), (how.reset, 2), (how.garbled, 1)
        for share, status in shares:
            if draw < share:
                return status
            draw -= share
        return None

    def page(self, call: ReceivedCall) -> tuple[dict[str, Any], str | None]:
        """A page, and the address of the next for the header `Link`."""
        query = call.query
        if call.path == "/rates":
            return {"data": rates(date.fromisoformat(query["day"]))}, None
        records = self.records(query["from"], query["to"])
        size = int(query.get("per_page") or query.get("limit") or 100)
        if "cursor" in query or "by" in query:
            begin = int(query.get("cursor") or 0)
        else:
            begin = int(query.get("offset") or (int(query.get("page") or 1) - 1) * size)
        # A drift: what came in between moves records to the next page, where they are seen again.
        chosen = records[max(0, begin - self.behaviour.duplicates) : begin + size]
        end = begin + size
        more = end < len(records) or self.behaviour.endless
        following = 0 if self.behaviour.endless else end
        answer: dict[str, Any] = {
            "data": chosen if begin < len(records) or self.behaviour.endless else [],
            "meta": {
                "total": self.behaviour.total if self.behaviour.total is not None else len(records),
                "next": str(following) if more else None,
            },
        }
        link = f"/sales?{urlencode({**query, 'cursor': following})}" if more else None
        return answer, link

    def forget(self) -> None:
        """Answer anew what was answered before: `day_of` says something else now."""
        self._known.clear()

    def records(self, begin: str, end: str) -> list[Record]:
        """All sales from one day up to another, as they are answered."""
        if (begin, end) not in self._known:
            first, days = (
                date.fromisoformat(begin),
                (date.fromisoformat(end) - date.fromisoformat(begin)).days,
            )
            found = [dict(one) for n in range(days) for one in self.day_of(first + timedelta(days=n))]
            chance = random.Random(begin)  # noqa: S311
            for record in found:
                if chance.random() < self.behaviour.bad:
                    record["price"] = "on request"
                if self.behaviour.changed:
                    record["amount"] = record.pop("price")
            self._known[begin, end] = found
        return self._known[begin, end]


@cache
def _bomb() -> bytes:
    """An answer that is a thousand times as large as it looks."""
    return gzip.compress(b"[" + b" " * _BOMB_BYTES + b"]", 9)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, stand_in: WebApiStandIn, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stand_in = stand_in

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        """Answer a call as the behaviour says."""
        stand_in, parts = self.server.stand_in, urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = ReceivedCall(time.monotonic(), parts.path, query, headers)
        stand_in.arrived(call)
        status = 0
        try:
            status = self._answer(stand_in, call)
        finally:
            stand_in.left(status)

    def _answer(self, stand_in: WebApiStandIn, call: ReceivedCall) -> int:
        how = stand_in.behaviour
        time.sleep(how.seconds)
        if how.elsewhere:
            return self._send(302, b"", {"Location": how.elsewhere})
        fault = stand_in.fault(call)
        if fault in (0, 2):
            self._end_amid_the_body(reset=fault == 2)
            return 0
        if fault == 1:
            return self._send(200, b'{"data": [{"sale_id": 1, "car', {})
        if fault is not None:
            return self._send(fault, b"{}", self._again(how) if fault in (429, 503) else {})
        if how.bomb:
            return self._send(200, _bomb(), {"Content-Encoding": "gzip"})
        try:
            answer, link = stand_in.page(call)
        except (KeyError, ValueError):
            return self._send(400, b"{}", {})
        headers = {"Link": f'<{link}>; rel="next"'} if link and call.query.get("by") == "link" else {}
        body = json.dumps(answer).encode()
        if how.packed:
            body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
        return self._send(200, body, headers)

    def _end_amid_the_body(self, *, reset: bool) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"data": [')
            self.wfile.flush()
            if reset:  # to close what lingers for no time sends RST in the place of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _again(how: Behaviour) -> dict[str, str]:
        if how.retry_after_seconds is None:
            return {}
        if how.as_date:
            return {
                "Retry-After": format_datetime(
                    datetime.now(UTC) + timedelta(seconds=how.retry_after_seconds), usegmt=True
                )
            }
        return {"Retry-After": str(how.retry_after_seconds)}

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> int:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        return status


FAULTS = Behaviour(
    key="sesame",
    rate=20,
    refused=0.05,
    broken=0.05,
    cut=0.05,
    reset=0.05,
    garbled=0.05,
    seconds=0.05,
    duplicates=3,
    bad=0.005,
)
"""A service that has a bad day, and all the records all the same."""


def main() -> None:
    """Serve on a port until it is ended."""
    options = argparse.ArgumentParser(prog="python -m etl_assets.stand_ins.web_api", description=__doc__)
    options.add_argument("port", type=int)
    options.add_argument(
        "--faults", action="store_true", help="refuse, break, cut off and repeat, a little of each"
    )
    chosen = options.parse_args()
    behaviour = FAULTS if chosen.faults else Behaviour(key="sesame", rate=20)
    with WebApiStandIn(behaviour).serve(chosen.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
