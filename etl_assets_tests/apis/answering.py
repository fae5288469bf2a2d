"""A small service on this machine that answers as a test says: what real APIs do and the stand-in does not."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from etl_assets.apis.declaration import Api, Rate, Retry
from etl_assets.engine import duck
from etl_assets.lake.batches import Batches
from etl_assets.proof.pages import compared, newest_records
from etl_assets_tests.apis.service import Client


@dataclass(frozen=True)
class Asked:
    """A call that came: its place among all, from 0 on, when that was, by the monotonic clock, and what it said."""

    place: int
    at: float
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """An answer. What is no bytes is told as JSON."""

    told: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return self.told if isinstance(self.told, bytes) else json.dumps(self.told).encode()


@dataclass
class Service:
    """Where it is, and the calls that came."""

    url: str = ""
    calls: list[Asked] = field(default_factory=list)


@contextmanager
def answering(answer: Callable[[Asked], Reply]) -> Iterator[Service]:
    """A service whose answers a function gives."""
    service, lock = Service(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            """Answer."""
            parts = urlsplit(self.path)
            with lock:
                asked = Asked(
                    len(service.calls),
                    time.monotonic(),
                    parts.path,
                    dict(parse_qsl(parts.query)),
                    dict(self.headers.items()),
                )
                service.calls.append(asked)
            reply = answer(asked)
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body))}
            for name, value in {**headers, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def thing(**changed: Any) -> Api:
    """An API of things."""
    declared = {
        "url": "https://things.example/items",
        "columns": {"id": "int", "value": "text?"},
        "key": ("id",),
        "records": "data",
        "rate": Rate(1_000),
        "retry": Retry(attempts=3, pause_seconds=0.01),
    }
    return Api(**{"name": "thing", "description": "One row is a thing.", **declared, **changed})


def things(first: int, behind: int) -> list[dict[str, Any]]:
    """The things from one number up to another."""
    return [{"id": n, "value": f"v{n}"} for n in range(first, behind)]


def lake(folder: Path, service: Service, **changed: Any) -> Client:
    """A lake that an API of things at a service is fetched into."""
    return Client(folder, service, thing(**changed))  # type: ignore[arg-type]


def loaded(client: Client, window: str = "whole", path: str = "/items") -> list[tuple[Any, ...]]:
    """The rows that the lake holds when a window is fetched and loaded; the verification reads the same from the pages."""
    client.fetch(window, path=path)
    outcome = client.load()
    for failure in outcome.failures.values():
        raise failure
    agree(client)
    return client.rows()


def agree(client: Client) -> None:
    """Compare what the lake holds with what the verification reads from the pages."""
    batches = Batches(client.files)
    manifest = batches.latest()
    assert manifest
    texts = ", ".join(f"CAST({name} AS VARCHAR)" for name in compared(client.api))
    with duck.connect(client.scratch) as connection:
        newest = newest_records(client.api, manifest, batches, connection, client.scratch)
        found = connection.sql(f"SELECT {texts} FROM {newest}").fetchall()
    places = [list(client.api.columns).index(name) for name in compared(client.api)]
    held = [tuple(None if row[p] is None else str(row[p]) for p in places) for row in client.rows()]
    assert sorted(found, key=str) == sorted(held, key=str)
