"""A small Google Cloud Storage: enough of its JSON API for the real client, in memory, for the demo and the tests.

Buckets; objects with generations, conditions on them and checksums; listings by page; uploads in one request and
resumable ones, of which only whole multiples of 256 KiB are kept when a connection breaks; reads of ranges. What it
does not know it refuses. Nobody's rights are checked, and nothing outlives the process.
"""

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c

Json = dict[str, Any]

_QUANTUM = 256 << 10
_PAGE = 1_000
_READ_BYTES = 1 << 20
_API = re.compile(
    r"/(?P<kind>upload/|download/)?storage/v1/b(?:/(?P<bucket>[^/]+)(?:/o(?:/(?P<object>.+))?)?)?"
)


class ErrorResponse(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {
                "code": status,
                "message": message,
                "errors": [{"message": message, "domain": "global", "reason": reason}],
            }
        }


@dataclass(frozen=True)
class Response:
    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """An object."""

    bucket: str
    name: str
    content: bytes
    generation: int
    content_type: str

    @cached_property
    def checksums(self) -> Json:
        crc = google_crc32c.value(self.content).to_bytes(4, "big")
        md5 = hashlib.md5(self.content, usedforsecurity=False).digest()
        return {"crc32c": base64.b64encode(crc).decode(), "md5Hash": base64.b64encode(md5).decode()}

    @property
    def resource(self) -> Json:
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "bucket": self.bucket,
            "name": self.name,
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": self.content_type,
            "size": str(len(self.content)),
            **self.checksums,
        }


@dataclass
class ResumableUpload:
    """A resumable upload that is not complete."""

    bucket: str
    resource: Json
    query: Mapping[str, str]
    content: bytearray = field(default_factory=bytearray)
    made: Stored | None = None


class Buckets:
    """What the service holds. Every method is one step: nobody sees half of it."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Stored]] = {}
        self.sessions: dict[str, ResumableUpload] = {}
        self._generations = count(1_700_000_000_000_000)
        self._lock = threading.RLock()

    def create_bucket(self, name: str) -> Json:
        """Make an empty bucket."""
        with self._lock:
            if name in self.held:
                raise ErrorResponse(
                    409, "Your previous request to create the named bucket succeeded.", "conflict"
                )
            self.held[name] = {}
        return {"kind": "storage#bucket", "id": name, "name": name}

    def bucket(self, name: str) -> dict[str, Stored]:
        """The objects of a bucket."""
        if name not in self.held:
            raise ErrorResponse(404, "The specified bucket does not exist.", "notFound")
        return self.held[name]

    def find(self, bucket: str, name: str, query: Mapping[str, str]) -> Stored:
        """An object, or the answer that there is none."""
        with self._lock:
            found = self.bucket(bucket).get(name)
            wanted = query.get("generation")
            if found is None or (wanted and int(wanted) != found.generation):
                raise ErrorResponse(404, f"No such object: {bucket}/{name}", "notFound")
            self._check(found, query)
            return found

    def store(self, bucket: str, resource: Json, content: bytes, query: Mapping[str, str]) -> Stored:
        """Keep an object, if its preconditions hold."""
        with self._lock:
            self._check(self.bucket(bucket).get(resource["name"]), query)
            kind = resource.get("contentType", "application/octet-stream")
            made = Stored(bucket, resource["name"], content, next(self._generations), kind)
            for name, have in made.checksums.items():
                if resource.get(name, have) != have:
                    raise ErrorResponse(
                        400,
                        f"Provided {name} doesn't match calculated one ({resource[name]}, {have}).",
                        "invalid",
                    )
            self.held[bucket][made.name] = made
            return made

    def delete(self, bucket: str, name: str, query: Mapping[str, str]) -> None:
        """Remove an object."""
        with self._lock:
            self.find(bucket, name, query)
            del self.held[bucket][name]

    def listing(self, bucket: str, query: Mapping[str, str]) -> Json:
        """A page of a bucket's objects."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        after = base64.b64decode(query.get("pageToken", "")).decode()
        size = min(int(query.get("maxResults", _PAGE)), _PAGE)
        with self._lock:
            objects = dict(self.bucket(bucket))
        entries: dict[str, Json | None] = {}  # by name; None for what a delimiter cuts short
        for name in sorted(objects):
            if name.startswith(prefix):
                head, cut, _ = name.removeprefix(prefix).partition(delimiter or "\0")
                shown = prefix + head + cut
                if shown > after:
                    entries[shown] = None if cut else objects[name].resource
        chosen = list(entries)[:size]
        answer: Json = {"kind": "storage#objects", "items": [e for n in chosen if (e := entries[n])]}
        if cut_short := [name for name in chosen if entries[name] is None]:
            answer["prefixes"] = cut_short
        if len(entries) > size:
            answer["nextPageToken"] = base64.b64encode(chosen[-1].encode()).decode()
        if "fields" in query:
            wanted = re.sub(r"\([^)]*\)", "", query["fields"]).split(",")
            return {name: value for name, value in answer.items() if name in wanted}
        return answer

    def begin(self, bucket: str, resource: Json, query: Mapping[str, str]) -> str:
        """Begin a resumable upload."""
        with self._lock:
            self._check(self.bucket(bucket).get(resource["name"]), query)
            upload = uuid.uuid4().hex
            self.sessions[upload] = ResumableUpload(bucket, resource, query)
            return upload

    def session(self, upload: str) -> ResumableUpload:
        """The upload of an id."""
        if upload not in self.sessions:
            raise ErrorResponse(404, "The upload does not exist.", "notFound")
        return self.sessions[upload]

    def extend(self, upload: str, span: str, content: bytes, whole: bool, checksum: str) -> ResumableUpload:
        """Take a block of a resumable upload; one that is not `whole` was cut off on its way."""
        first, _, total = span.removeprefix("bytes ").partition("/")
        with self._lock:
            session = self.session(upload)
            if session.made or (first == "*" and total == "*"):
                return session
            if first != "*":
                start, end = (int(number) for number in first.split("-"))
                if start > len(session.content) or (whole and end - start + 1 != len(content)):
                    raise ErrorResponse(400, f"Invalid range {span}", "invalid")
                if whole and total == "*" and (end + 1) % _QUANTUM:
                    raise ErrorResponse(400, "Only the last block may be no multiple of 256 KiB.", "invalid")
                kept = len(session.content)
                session.content += content[kept - start :]
                if not whole:
                    del session.content[max(kept, len(session.content) // _QUANTUM * _QUANTUM) :]
            if whole and total.isdecimal() and len(session.content) == int(total):
                told = dict(part.split("=", 1) for part in checksum.split(",") if part)
                sums = {"crc32c": told.get("crc32c"), "md5Hash": told.get("md5")}
                resource = session.resource | {name: value for name, value in sums.items() if value}
                session.made = self.store(session.bucket, resource, bytes(session.content), session.query)
                session.content.clear()
            return session

    def cancel(self, upload: str) -> None:
        """Give up an upload."""
        with self._lock:
            self.session(upload)
            del self.sessions[upload]

    @staticmethod
    def _check(found: Stored | None, query: Mapping[str, str]) -> None:
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (found.generation if found else 0):
            raise ErrorResponse(
                412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet"
            )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits for the acknowledgement of its headers
    buckets: Buckets

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written to the terminal."""

    def _serve(self) -> None:
        content = self._content()
        try:
            answer = self._answer(content)
        except ErrorResponse as refused:
            answer = _json(refused.body, refused.status)
        if len(content) < int(self.headers.get("Content-Length") or 0):
            self.close_connection = True  # who sent this is gone
            return
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)

    def _content(self) -> bytes:
        """The body, or what arrives of it."""
        missing, content = int(self.headers.get("Content-Length") or 0), bytearray()
        try:
            while missing and (block := self.rfile.read1(min(missing, _READ_BYTES))):
                content += block
                missing -= len(block)
        except ConnectionError:
            self.close_connection = True
        return bytes(content)

    def _answer(self, content: bytes) -> Response:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        asked = _API.fullmatch(url.path)
        if asked is None:
            raise ErrorResponse(404, f"Not Found: {url.path}", "notFound")
        kind, bucket, name = (unquote(asked[part] or "") for part in ("kind", "bucket", "object"))
        whole = len(content) == int(self.headers.get("Content-Length") or 0)
        if kind == "upload/" and self.command != "POST":
            return self._resume(query["upload_id"], content, whole)
        if not whole:
            raise ErrorResponse(400, "The request was cut off.", "invalid")
        match self.command, kind, bool(bucket), bool(name):
            case "POST", "", False, False:
                return _json(self.buckets.create_bucket(json.loads(content)["name"]))
            case "GET", "", True, False:
                if not url.path.endswith("/o"):
                    self.buckets.bucket(bucket)
                    return _json({"kind": "storage#bucket", "id": bucket, "name": bucket})
                return _json(self.buckets.listing(bucket, query))
            case "GET", _, True, True:
                found = self.buckets.find(bucket, name, query)
                return self._media(found) if query.get("alt") == "media" else _json(found.resource)
            case "DELETE", "", True, True:
                self.buckets.delete(bucket, name, query)
                return Response(204)
            case "POST", "upload/", True, False:
                return self._upload(bucket, query, content)
        raise ErrorResponse(400, f"{self.command} {url.path} is not known here", "invalid")

    def _media(self, found: Stored) -> Response:
        size = len(found.content)
        sums = found.checksums
        headers = {
            "Content-Type": found.content_type,
            "x-goog-generation": str(found.generation),
            "x-goog-hash": f"crc32c={sums['crc32c']},md5={sums['md5Hash']}",
        }
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return Response(200, found.content, headers)
        start, end = int(span[1]), min(int(span[2] or size), size - 1)
        if start >= size:
            raise ErrorResponse(416, "Request range not satisfiable", "requestedRangeNotSatisfiable")
        part = {"Content-Range": f"bytes {start}-{end}/{size}"}
        return Response(206, found.content[start : end + 1], headers | part)

    def _upload(self, bucket: str, query: Mapping[str, str], content: bytes) -> Response:
        if query["uploadType"] == "resumable":
            resource = json.loads(content or b"{}")
            resource.setdefault("name", query.get("name"))
            resource.setdefault("contentType", self.headers.get("X-Upload-Content-Type"))
            upload = self.buckets.begin(bucket, resource, query)
            # To the host that was asked, which may be another's address for this one.
            place = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            return Response(headers={"Location": f"{place}?uploadType=resumable&upload_id={upload}"})
        resource, body = _parts(self.headers["Content-Type"], content)
        return _json(self.buckets.store(bucket, resource, body, query).resource)

    def _resume(self, upload: str, content: bytes, whole: bool) -> Response:
        if self.command == "DELETE":
            self.buckets.cancel(upload)
            return Response(499)
        checksum = self.headers.get("X-Goog-Hash", "")
        session = self.buckets.extend(upload, self.headers["Content-Range"], content, whole, checksum)
        if session.made:
            return _json(session.made.resource)
        kept = {"Range": f"bytes=0-{len(session.content) - 1}"} if session.content else {}
        return Response(308, headers=kept)


def _json(content: Json, status: int = 200) -> Response:
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=UTF-8"})


def _parts(content_type: str, content: bytes) -> tuple[Json, bytes]:
    """The resource and the content of an upload in one request (`multipart/related`)."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        raise ErrorResponse(400, "The upload has no boundary.", "badRequest")
    mark = b"\r\n--" + boundary[1].encode()
    _, first, rest = (b"\r\n" + content).split(mark, 2)
    resource = json.loads(first.partition(b"\r\n\r\n")[2])
    head, _, body = rest[: rest.rindex(mark)].partition(b"\r\n\r\n")
    kind = BytesHeaderParser().parsebytes(head.lstrip())["content-type"]
    return {"contentType": kind} | resource, body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no news."""


@dataclass(frozen=True)
class Service:
    """A service that runs. `STORAGE_EMULATOR_HOST` takes its URL."""

    url: str
    buckets: Buckets


@contextmanager
def serve(*names: str, port: int = 0) -> Iterator[Service]:
    """A service on 127.0.0.1 that holds empty buckets of these names, while the context is open."""
    buckets = Buckets()
    for name in names:
        buckets.create_bucket(name)
    handler = type("Handler", (_Handler,), {"buckets": buckets})
    with _Server(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Service(f"http://127.0.0.1:{server.server_port}", buckets)
        finally:
            server.shutdown()
            thread.join()
