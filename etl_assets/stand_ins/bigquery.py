"""A small BigQuery: enough of its REST API for the real client, on DuckDB, for the demo and the tests.

Jobs with the client's ids, their states, Parquet loads (uploaded, or from gs:// URIs), queries and scripts with
transactions, paging, streamed rows; and faults on demand: a test says which request or job goes wrong, and how. What it
does not know it refuses. Where it is weaker than the service is said in docs/bigquery.md.
"""

import json
import re
import threading
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from etl_assets.stand_ins.bigquery_jobs import Jobs
from etl_assets.stand_ins.bigquery_sql import Script
from etl_assets.stand_ins.bigquery_tables import ErrorResponse, Json, Tables


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that arrived: the how-manyth it is, and what it asks."""

    number: int
    method: str
    path: str


@dataclass(frozen=True)
class InjectedFault:
    """How a request goes wrong. `status` None: the connection is cut. `after`: only once the request was carried out,
    so that the client can't know whether it was."""

    status: int | None = 503
    reason: str = "backendError"
    message: str = "Error encountered during execution. Retrying may solve the problem."
    after: bool = False


class BigQueryStandIn:
    """A project in memory. `serve` makes it answer.

    `fault` decides about each request; `jobs` has what is decided about jobs. `objects` opens a gs:// URI.
    """

    def __init__(self, project: str, objects: Callable[[str], bytes] | None = None) -> None:
        self.project = project
        self.tables = Tables(project)
        self.jobs = Jobs(self.tables, objects)
        self.requests: list[ReceivedRequest] = []
        self.fault: Callable[[ReceivedRequest], InjectedFault | None] = lambda request: None
        self.url = ""
        self._uploads: dict[str, tuple[Json, bytearray]] = {}

    @contextmanager
    def serve(self, port: int = 0) -> Iterator["BigQueryStandIn"]:
        """Answer on 127.0.0.1 while the context is open; what was held is gone then."""
        handler = type("Handler", (_Handler,), {"stand_in": self})
        with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
                self.tables.database.close()

    def environment(self, folder: Path) -> Mapping[str, str]:
        """The settings that send Google's client here, with a file of credentials made up for it in `folder`."""
        # Those of a federated account: for a service account the client would also ask Google where it may be used.
        subject = folder / "subject_token"
        subject.write_text("stand-in", encoding="utf-8")
        path = folder / "credentials.json"
        account = {
            "type": "external_account",
            "audience": "//stand-in",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.url}/token",
            "credential_source": {"file": str(subject)},
        }
        path.write_text(json.dumps(account), encoding="utf-8")
        return {"BIGQUERY_EMULATOR_HOST": self.url, "GOOGLE_APPLICATION_CREDENTIALS": str(path)}

    # -- requests ------------------------------------------------------------------------------------------------

    def answer(
        self, request: ReceivedRequest, query: Mapping[str, str], body: bytes, headers: Mapping[str, str]
    ) -> Any:
        """What is answered to a request: JSON, or a status, JSON and headers."""
        if request.path == "/token":
            return {
                "access_token": "local",
                "expires_in": 3600,
                "token_type": "Bearer",
                "issued_token_type": "token",
            }
        if headers.get("authorization") != "Bearer local":
            raise ErrorResponse(401, "authError", "Request had invalid authentication credentials.")
        found = re.fullmatch(r"(?:/resumable)?(/upload)?/bigquery/v2/projects/([^/]+)/(.*)", request.path)
        if not found:
            raise ErrorResponse(404, "notFound", f"Not found: {request.path}")
        if found[2] != self.project:
            raise ErrorResponse(404, "notFound", f"Not found: Project {found[2]}")
        if found[1]:
            return self._upload(request, query, body, headers)
        path = [urllib.parse.unquote(part) for part in found[3].split("/")]
        with self.jobs.lock:  # jobs hold it too, unless they are asleep
            return self._route(request.method, path, query, json.loads(body) if body else {}, headers)

    def _route(
        self, method: str, path: list[str], query: Mapping[str, str], body: Json, headers: Mapping[str, str]
    ) -> Any:
        tables = self.tables
        match (method, *path):
            case ("POST", "jobs"):
                return self.jobs.insert(body)
            case ("GET", "jobs"):
                return self.jobs.listed(query)
            case ("GET", "jobs", name):
                return self.jobs.look(name, query).resource
            case ("GET", "queries", name):
                return self.jobs.results(self.jobs.look(name, query), query)
            case ("POST", "datasets"):
                return tables.create_dataset(body)
            case ("GET", "datasets"):
                return {"datasets": list(tables.datasets.values())}
            case ("GET", "datasets", dataset):
                return tables.dataset(dataset)
            case ("DELETE", "datasets", dataset):
                tables.delete_dataset(dataset, contents=query.get("deleteContents", "").lower() == "true")
                return 204, None, {}
            case ("POST", "datasets", dataset, "tables"):
                return tables.create(dataset, body, self._view(body))
            case ("GET", "datasets", dataset, "tables"):
                tables.dataset(dataset)
                held = [tables.resource(*key) for key in sorted(tables.tables) if key[0] == dataset]
                return {"totalItems": len(held), "tables": held}
            case ("GET", "datasets", dataset, "tables", table):
                return tables.resource(dataset, table)
            case ("PATCH", "datasets", dataset, "tables", table):
                return tables.patch(dataset, table, body, headers.get("if-match"), self._view(body))
            case ("DELETE", "datasets", dataset, "tables", table):
                tables.delete(dataset, table)
                return 204, None, {}
            case ("GET", "datasets", dataset, "tables", table, "data"):
                start = int(query.get("pageToken") or query.get("startIndex") or 0)
                size = min(int(query.get("maxResults") or self.jobs.page_rows), self.jobs.page_rows)
                int64 = query.get("formatOptions.useInt64Timestamp", "").lower() == "true"
                return tables.page(dataset, table, start, size, int64_timestamps=int64)
            case ("POST", "datasets", dataset, "tables", table, "insertAll"):
                return tables.insert_all(dataset, table, body)
        raise ErrorResponse(501, "notImplemented", f"the stand-in does not know {method} {'/'.join(path)}")

    def _view(self, body: Json) -> str | None:
        return Script(self.tables, body["view"], list).view() if "view" in body else None

    def _upload(
        self, request: ReceivedRequest, query: Mapping[str, str], body: bytes, headers: Mapping[str, str]
    ) -> Any:
        if query["uploadType"] == "multipart":
            found = re.search(r'boundary="?([^";]+)', headers["content-type"])
            parts = body.split(b"--" + (found[1] if found else "").encode())[1:3]
            described, data = [part.split(b"\r\n\r\n", 1)[1] for part in parts]
            return self.jobs.insert(json.loads(described), data[:-2])
        if request.method == "POST":
            name = uuid.uuid4().hex
            self._uploads[name] = (json.loads(body), bytearray())
            place = f"{self.url}{request.path}?uploadType=resumable&upload_id={name}"
            return 200, None, {"Location": place}
        job, held = self._uploads[query["upload_id"]]
        held += body
        said = re.match(r"bytes (?:\d+-(\d+)|\*)/(\d+|\*)", headers.get("content-range", ""))
        if said and (said[2] == "*" or (said[1] and int(said[1]) + 1 < int(said[2]))):
            return 308, None, {"Range": f"bytes=0-{len(held) - 1}"}
        del self._uploads[query["upload_id"]]
        return self.jobs.insert(job, bytes(held))


class _Handler(BaseHTTPRequestHandler):
    """One connection. The class is made anew for each stand-in, which it holds."""

    stand_in: BigQueryStandIn
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: in two, the second would wait for the first to be acknowledged

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the stand-in keeps its requests."""

    def do_GET(self) -> None:
        stand_in = self.stand_in
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        request = ReceivedRequest(len(stand_in.requests) + 1, self.command, url.path)
        stand_in.requests.append(request)
        fault = stand_in.fault(request)
        if fault is None or fault.after:
            answer = self._answer(request, query, body)
        if fault is None:
            self._reply(*answer)
        elif fault.status is None:
            self.close_connection = True
        else:
            self._reply(*_error(ErrorResponse(fault.status, fault.reason, fault.message), url.path))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _answer(
        self, request: ReceivedRequest, query: Mapping[str, str], body: bytes
    ) -> tuple[int, Any, Any]:
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answer = self.stand_in.answer(request, query, body, headers)
        except ErrorResponse as refused:
            return _error(refused, request.path)
        return answer if isinstance(answer, tuple) else (200, answer, {})

    def _reply(self, status: int, answer: Any, headers: Mapping[str, str]) -> None:
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _error(refused: ErrorResponse, path: str) -> tuple[int, Json, Json]:
    """An error as the service sends it; the one that hands out tokens has its own form."""
    if path == "/token":
        return refused.status, {"error": refused.reason, "error_description": refused.message}, {}
    said = {"message": refused.message, "domain": "global", "reason": refused.reason}
    return (
        refused.status,
        {"error": {"code": refused.status, "message": refused.message, "errors": [said]}},
        {},
    )


def objects_in(folder: Path) -> Callable[[str], bytes]:
    """Opens gs://bucket/name as a file of that name in a folder of the bucket's name."""
    return lambda uri: (folder / uri.removeprefix("gs://")).read_bytes()


def objects_at(endpoint: str) -> Callable[[str], bytes]:
    """Opens gs://bucket/name by asking a Cloud Storage stand-in."""

    def read(uri: str) -> bytes:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        quoted = urllib.parse.quote(name, safe="")
        url = f"{endpoint}/download/storage/v1/b/{bucket}/o/{quoted}?alt=media"
        try:
            with urllib.request.urlopen(url) as answer:  # noqa: S310  # the endpoint is our own
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise FileNotFoundError(uri) from None
            raise

    return read
