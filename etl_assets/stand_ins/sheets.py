"""A stand-in for the Google Sheets API, served on this machine.

It knows the calls that `etl_assets.clients.sheets` makes and refuses any other. It is stricter than kind: what
it does not know is an error. Nobody's rights are checked beyond whether a spreadsheet is shared.
"""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from etl_assets.stand_ins.sheets_books import Book, ErrorResponse

Json = dict[str, Any]
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


@dataclass(frozen=True)
class InjectedFault:
    """What goes wrong with the n-th request, counted from 1: `status` is answered (None: the connection is cut), before
    the request takes effect or after it did. `lasting`: with every later one too."""

    nth: int
    status: int | None
    after: bool = False
    lasting: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    def strikes(self, number: int) -> bool:
        """Whether the next answer is to be a failure."""
        return number == self.nth or (self.lasting and number > self.nth)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that was received. `writes`: it could change something."""

    method: str
    path: str
    body: Json
    headers: dict[str, str]

    @property
    def writes(self) -> bool:
        return self.method != "GET"


class SheetsStandIn:
    """Spreadsheets by id; the requests received; faults to come."""

    def __init__(self) -> None:
        self.url = ""
        self.books: dict[str, Book] = {}
        self.requests: list[ReceivedRequest] = []
        self.faults: list[InjectedFault] = []
        self.lock = threading.Lock()

    def answer(self, request: ReceivedRequest, query: dict[str, list[str]]) -> Json:
        """Answer a request as the API does."""
        found = re.fullmatch(r"/v4/spreadsheets/([^/:]+)(.*)", request.path)
        book = self.books.get(unquote(found[1])) if found else None
        if book is None or found is None:
            raise ErrorResponse(404)
        if book.shared_for == "nothing" or (request.writes and book.shared_for == "reading"):
            raise ErrorResponse(403)
        match request.method, found[2]:
            case "GET", "":
                return {"sheets": [{"properties": grid.properties} for grid in book.grids]}
            case "GET", "/values:batchGet" if query["valueRenderOption"] == ["UNFORMATTED_VALUE"]:
                return {"valueRanges": [book.read(range_) for range_ in query["ranges"]]}
            case "POST", ":batchUpdate":
                book.change(request.body["requests"])
                return {"replies": [{} for _ in request.body["requests"]]}
            case "POST", "/values:batchUpdate":
                book.put(request.body)
                return {"responses": [{} for _ in request.body["data"]]}
        raise ErrorResponse(404, f"The stand-in does not know {request.method} {request.path}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stand_in: SheetsStandIn, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stand_in = stand_in


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece: two would wait for each other
    server: _Server

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = ReceivedRequest(
            self.command, parts.path, json.loads(content) if content else {}, dict(self.headers.items())
        )
        stand_in = self.server.stand_in
        with stand_in.lock:
            stand_in.requests.append(request)
            number = len(stand_in.requests)
            fault = next((fault for fault in stand_in.faults if fault.strikes(number)), None)
            status, answer = 200, {}
            if fault is None or fault.after:
                try:
                    answer = stand_in.answer(request, parse_qs(parts.query))
                except ErrorResponse as refused:
                    status, answer = refused.status, _error(refused)
        if fault is not None and fault.status is None:
            self.close_connection = True
            return
        if fault is not None and fault.status is not None:
            status, answer = fault.status, _error(ErrorResponse(fault.status))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in fault.headers if fault else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _error(refused: ErrorResponse) -> Json:
    status = _STATUS.get(refused.status, "INTERNAL")
    return {"error": {"code": refused.status, "message": str(refused), "status": status}}


@contextmanager
def serve_sheets(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[SheetsStandIn]:
    """Serve spreadsheets on 127.0.0.1 while the block runs; `url` is what ETL_SHEETS_ENDPOINT takes."""
    stand_in = SheetsStandIn()
    server = _Server(stand_in, port)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    stand_in.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
