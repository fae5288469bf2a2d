"""S3 and Google Cloud Storage as tests have them: local services, and before each a proxy at which requests fail."""

import http.client
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import boto3
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from etl_assets.lake.files import Files
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.gcs import open_gcs
from etl_assets.lake.object_store import Patience
from etl_assets.lake.s3 import open_s3
from etl_assets.stand_ins import gcs

BUCKET = "lake"
HASTY = Patience(
    attempts=5,
    seconds=30,
    first_wait_seconds=0.01,
    longest_wait_seconds=0.05,
    connect_seconds=2,
    answer_seconds=20,
)

Fault = Literal["500", "503", "timeout", "reset", "cut", "lost", "lost 503", "half"]
"""What becomes of a request. `cut`: half of it arrives; `lost`: it is carried out, and then the connection breaks;
`lost 503`: and then a 503 is answered; `half`: half of the answer arrives."""
FAULTS: tuple[Fault, ...] = ("500", "503", "timeout", "reset", "lost", "lost 503", "half")


@dataclass(frozen=True)
class Request:
    number: int
    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Decide = Callable[[Request], Fault | Answer | None]


class Proxy:
    """Passes requests on to a service, except for those that are decided about otherwise."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.url = ""
        self.decide: Decide = lambda request: None
        self.seen: list[Request] = []
        self.over = threading.Event()
        # moto looks whether there is an object, and stores it, in two steps; S3 does it in one. And all who read an
        # object share one position in it, so that two at once get parts of each other's content.
        self.one_at_a_time = threading.Lock()
        self._numbers = count(1)

    @contextmanager
    def failing(self, fault: Fault | Answer, every: int = 1) -> Iterator[None]:
        """Let every n-th of the requests that arrive from now on fail."""
        numbers = count(1)
        with self.deciding(lambda request: fault if next(numbers) % every == 0 else None):
            yield

    @contextmanager
    def deciding(self, decide: Decide) -> Iterator[None]:
        self.decide = decide
        self.seen.clear()
        try:
            yield
        finally:
            self.decide = lambda request: None

    @contextmanager
    def serve(self) -> Iterator["Proxy"]:
        handler = type("Handler", (_Handler,), {"proxy": self})
        with _Server(("127.0.0.1", 0), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                self.over.set()
                server.shutdown()
                thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients give up; that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self.proxy
        request = Request(next(proxy._numbers), self.command, self.path, body, dict(self.headers))
        proxy.seen.append(request)
        fault = proxy.decide(request)
        if isinstance(fault, Answer):
            self._reply(fault.status, fault.headers, fault.body)
        elif fault is None:
            self._reply(*self._passed_on(request))
        elif fault in {"500", "503"}:
            self._reply(int(fault), {}, b"")
        elif fault == "timeout":
            proxy.over.wait(timeout=20)
            self.close_connection = True
        elif fault == "reset":
            self._cut()
        elif fault == "cut":
            self._passed_on_in_part(request)
            self._cut()
        elif fault == "lost":
            self._passed_on(request)
            self._cut()
        elif fault == "lost 503":
            self._passed_on(request)
            self._reply(503, {}, b"")
        else:
            status, headers, content = self._passed_on(request)
            self._reply(status, headers, content, send=len(content) // 2)
            self._cut()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _passed_on(self, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        headers = {n: v for n, v in request.headers.items() if n.lower() not in {"expect", "connection"}}
        try:
            if "If-None-Match" in request.headers or request.method in ("GET", "HEAD"):
                with self.proxy.one_at_a_time:
                    return self._asked(connection, request, headers)
            return self._asked(connection, request, headers)
        finally:
            connection.close()

    def _asked(
        self, connection: http.client.HTTPConnection, request: Request, headers: dict[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection.request(request.method, request.path, request.body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if b"<Initiated>2010" in content:  # of every upload moto says that it was begun in that year
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            content = re.sub(rb"<Initiated>[^<]*", f"<Initiated>{now}".encode(), content)
        return answer.status, dict(answer.getheaders()), content

    def _passed_on_in_part(self, request: Request) -> None:
        with socket.create_connection(self.proxy.target.split(":"), timeout=60) as service:  # type: ignore[arg-type]
            headers = {n: v for n, v in request.headers.items() if n.lower() != "expect"}
            lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
            service.sendall("\r\n".join([*lines, "", ""]).encode())
            service.sendall(request.body[: len(request.body) // 2])
            service.shutdown(socket.SHUT_WR)
            service.recv(1)  # until the service has given up too

    def _reply(
        self, status: int, headers: Mapping[str, str], content: bytes, send: int | None = None
    ) -> None:
        self.send_response_only(status)
        own = {"content-length", "connection", "transfer-encoding"}
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in own:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if send is None else content[:send])
        self.wfile.flush()

    def _cut(self) -> None:
        """Break the connection so that the other side hears of it at once."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


@dataclass(frozen=True)
class Store:
    """A service with an empty bucket, or a folder. `url` names a lake in it that nothing else uses."""

    kind: Literal["folder", "s3", "gs"]
    url: str
    copies: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    proxy: Proxy | None = None
    service: gcs.Service | None = None

    def open(self, patience: Patience = HASTY) -> Files:
        if self.kind == "folder":
            return LocalFiles(Path(self.url))
        opened = open_s3 if self.kind == "s3" else open_gcs
        return opened(self.url, self.copies, patience)

    @property
    def bucket(self) -> str:
        return urlsplit(self.url).netloc

    def everything(self) -> dict[str, bytes]:
        """Path -> content of all that is visible, asked of the service itself."""
        if self.kind == "folder":
            root = Path(self.url)
            return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        prefix = urlsplit(self.url).path.strip("/") + "/"
        return {
            key.removeprefix(prefix): content
            for key, content in self._objects().items()
            if key.startswith(prefix)
        }

    def _objects(self) -> dict[str, bytes]:
        if self.service:
            return {name: stored.content for name, stored in self.service.buckets.bucket(self.bucket).items()}
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}

    def fill(self, paths: Iterable[str]) -> None:
        """Put files there, past the product and the proxy, that hold their own path."""
        for path in paths:
            self.overwrite(path, path.encode())

    def overwrite(self, path: str, content: bytes) -> None:
        if self.kind == "folder":
            target = Path(self.url, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            return
        key = f"{urlsplit(self.url).path.strip('/')}/{path}"
        if self.service:
            self.service.buckets.store(self.bucket, {"name": key}, content, {})
        else:
            s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(self.bucket, key, content)

    def unfinished(self) -> int:
        """How many uploads were begun, and neither finished nor aborted."""
        if self.kind == "folder":
            return sum(".unfinished-" in path.name for path in Path(self.url).rglob("*"))
        if self.service:
            sessions = self.service.buckets.sessions.values()
            return sum(session.bucket == self.bucket and session.made is None for session in sessions)
        return len(self.client().list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))

    def client(self) -> Any:
        """S3, past the proxy."""
        assert self.proxy
        return _direct(self.proxy.target)


@cache
def _direct(host: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://{host}",
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )


_numbers = count(1)


@contextmanager
def moto() -> Iterator[Proxy]:
    """moto's S3, behind a proxy."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with Proxy(f"http://{host}:{port}").serve() as proxy:
            yield proxy
    finally:
        server.stop()


@contextmanager
def google() -> Iterator[tuple[Proxy, gcs.Service]]:
    """The stand-in for Google Cloud Storage, behind a proxy."""
    with gcs.serve() as service, Proxy(service.url).serve() as proxy:
        yield proxy, service


def on_s3(proxy: Proxy, copies: Path) -> Store:
    """A new bucket at moto. Its `environment` is to be set."""
    name = f"{BUCKET}-{next(_numbers)}"
    environment = {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "unspoken-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    store = Store("s3", f"s3://{name}/some/lake", copies, environment, proxy)
    store.client().create_bucket(Bucket=name)
    return store


def on_google(proxy: Proxy, service: gcs.Service, copies: Path) -> Store:
    """A new bucket at the stand-in. Its `environment` is to be set."""
    name = f"{BUCKET}-{next(_numbers)}"
    service.buckets.create_bucket(name)
    environment = {"STORAGE_EMULATOR_HOST": proxy.url}
    return Store("gs", f"gs://{name}/some/lake", copies, environment, proxy, service)
