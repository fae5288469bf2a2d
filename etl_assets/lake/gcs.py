"""Google Cloud Storage. Who we are is found as every Google tool finds it: `GOOGLE_APPLICATION_CREDENTIALS`, the login
of gcloud, the machine's service account; `STORAGE_EMULATOR_HOST` names another service than Google's.
"""

import base64
import http.client
import os
import re
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import google_crc32c
import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed
from google.auth import exceptions as login
from google.cloud import storage
from google.cloud.exceptions import GoogleCloudError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from etl_assets.lake.object_store import (
    PATIENCE,
    Bucket,
    ListingPage,
    ObjectChanged,
    ObjectExists,
    ObjectFiles,
    ObjectUpload,
    Patience,
    StoredObject,
    Unfinished,
    bucket_and_prefix,
)

_PAGE = 1_000
_TYPE = "application/octet-stream"
_ENDED = {404, 409, 410, 499}
_PASSES = {408, 429, 500, 502, 503, 504}
_INTERRUPTED = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    DataCorruption,
)


class _Refused(Exception):
    """An upload was answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.code = status
        self.message = message


def open_gcs(url: str, cache: Path, patience: Patience = PATIENCE) -> ObjectFiles:
    """The files under `gs://bucket/prefix`."""
    bucket, prefix = bucket_and_prefix(url)
    return ObjectFiles(GCSBucket(bucket, patience), prefix, cache, patience)


@cache
def _client(environment: tuple[tuple[str, str], ...]) -> storage.Client:
    """A login per client, so there is one per configuration."""
    # Else the client asks, in a thread of its own, for what describes the bucket: for traces that nobody collects.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    return storage.Client(project=None)  # objects belong to their bucket, whatever the project


class GCSBucket(Bucket):
    """A bucket of Google Cloud Storage. It encrypts all objects, by the bucket's own key if it has one."""

    errors = (GoogleCloudError, login.GoogleAuthError, InvalidResponse, _Refused, *_INTERRUPTED)

    def __init__(self, name: str, patience: Patience) -> None:
        self.name = name
        self.url = f"gs://{name}"
        self.timeout = (patience.connect_seconds, patience.answer_seconds)
        self.once: dict[str, Any] = {"timeout": self.timeout, "retry": None}

    @property
    def bucket(self) -> storage.Bucket:
        prefixes = ("GOOGLE_", "STORAGE_EMULATOR_HOST", "CLOUDSDK_")
        named = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(prefixes)))
        return _client(named).bucket(self.name)

    def page(self, prefix: str, token: str | None, delimiter: str = "/") -> ListingPage:
        listing = self.bucket.client.list_blobs(
            self.name,
            prefix=prefix,
            delimiter=delimiter or None,
            page_token=token,
            page_size=_PAGE,
            fields="items(name,generation,size),prefixes,nextPageToken",
            **self.once,
        )
        found = {b.name: StoredObject(str(b.generation), b.size) for b in next(listing.pages, ())}
        return ListingPage(found, sorted(listing.prefixes), listing.next_page_token)

    def find(self, key: str) -> StoredObject | None:
        blob = self.bucket.get_blob(key, **self.once)
        return StoredObject(str(blob.generation), blob.size) if blob else None

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(self.bucket.blob(key).download_as_bytes(raw_download=True, **self.once))
        except NotFound:
            return None

    def get_range(self, key: str, version: str, start: int, length: int) -> bytes:
        blob = self.bucket.blob(key)
        try:
            content = blob.download_as_bytes(
                start=start,
                end=start + length - 1,
                if_generation_match=int(version),
                raw_download=True,
                checksum=None,  # of parts there is none; the length is looked at
                **self.once,
            )
        except (NotFound, PreconditionFailed) as error:
            raise ObjectChanged from error
        if len(content) != length:
            raise requests.ConnectionError("the answer was cut short")
        return bytes(content)

    def create(self, key: str, content: bytes) -> None:
        try:
            self._put(key, content, if_generation_match=0)
        except PreconditionFailed as error:
            raise ObjectExists from error

    def put(self, key: str, content: bytes) -> StoredObject:
        return StoredObject(str(self._put(key, content).generation), len(content))

    def _put(self, key: str, content: bytes, **conditions: int) -> storage.Blob:
        blob = self.bucket.blob(key)
        blob.upload_from_string(content, content_type=_TYPE, checksum="crc32c", **conditions, **self.once)
        return blob

    def upload(self, key: str) -> ObjectUpload:
        # The URL is all that is needed from here on: it is a secret too.
        url = self.bucket.blob(key).create_resumable_upload_session(content_type=_TYPE, **self.once)
        return _GCSUpload(url, self.timeout)

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """None: nobody sees an upload session but who began it, and Google forgets it after a week."""
        return []

    def delete(self, key: str) -> None:
        try:
            self.bucket.delete_blob(key, **self.once)
        except NotFound:
            return

    def passes(self, error: BaseException) -> bool:
        if isinstance(error, GoogleAPICallError | _Refused):
            return error.code in _PASSES
        if isinstance(error, InvalidResponse):
            return error.response.status_code in _PASSES
        if isinstance(error, login.GoogleAuthError):
            return isinstance(error, login.TransportError) or error.retryable
        return isinstance(error, _INTERRUPTED) and not isinstance(error, requests.exceptions.SSLError)

    def reason(self, error: Exception) -> str:
        if isinstance(error, login.DefaultCredentialsError):
            return (
                "there are no Google credentials; set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth "
                "application-default login"
            )
        if isinstance(error, login.RefreshError):
            _client.cache_clear()  # a new login is to be seen
            return "the Google credentials have expired or were revoked; log in again"
        if isinstance(error, requests.ConnectionError | login.TransportError):
            return "Google Cloud Storage can't be reached, or the connection failed; see the network"
        if isinstance(error, _INTERRUPTED):
            return f"the connection failed ({type(error).__name__})"
        if isinstance(error, InvalidResponse):
            return self._refusal(error.response.status_code, "")
        if isinstance(error, _Refused) and error.code in _ENDED:
            return f"its upload came to an end too early ({error.code}); run it again"
        if isinstance(error, GoogleAPICallError | _Refused):
            return self._refusal(int(error.code or 0), str(error.message))
        return f"the Google client failed ({type(error).__name__})"

    def _refusal(self, status: int, message: str) -> str:
        if status == HTTPStatus.UNAUTHORIZED:
            _client.cache_clear()
            return "the Google credentials are not accepted, or have expired; log in again"
        if status == HTTPStatus.FORBIDDEN:
            named = re.search(r"storage\.[a-z]+\.[a-zA-Z]+", message)
            return f"no permission ({named[0] if named else 'the role lacks one'} on {self.url})"
        if status == HTTPStatus.NOT_FOUND:
            return f"there is no bucket {self.name}; create it, or correct ETL_LAKE_URL"
        return f"the service answers {status} {_phrase(status)}"


class _GCSUpload(ObjectUpload):
    """A resumable upload. Google may have kept part of a block, or all of it although its answer got lost; it passes
    over what it is sent once more, and answers how much it has."""

    def __init__(self, url: str, timeout: tuple[float, float]) -> None:
        self.url = url
        self.timeout = timeout
        self.session = requests.Session()
        self.start = 0  # of the next block
        self.have = 0  # what Google has, as far as we know
        self.checksum = 0

    def send(self, block: bytes) -> None:
        if self._deliver(block, "*", {}) is not None:
            raise _Refused(HTTPStatus.CONFLICT, "the upload ended before its last block")
        self.start += len(block)
        self.checksum = google_crc32c.extend(self.checksum, block)

    def finish(self, block: bytes) -> StoredObject:
        total = self.start + len(block)
        checksum = google_crc32c.extend(self.checksum, block)
        encoded = base64.b64encode(checksum.to_bytes(4, "big")).decode()
        # By the checksum Google refuses what arrived damaged, before anybody sees it.
        made = self._deliver(block, str(total), {"x-goog-hash": f"crc32c={encoded}"})
        if made is None:
            raise _Refused(HTTPStatus.CONFLICT, "the upload did not end with its last block")
        self.session.close()
        return StoredObject(str(made["generation"]), total)

    def abort(self) -> None:
        self._request("DELETE", b"", {})
        self.session.close()

    def _deliver(self, block: bytes, total: str, headers: dict[str, str]) -> dict[str, Any] | None:
        """Send what Google lacks of a block; the object, if that is complete now."""
        end = self.start + len(block)
        while self.start <= self.have < end:
            span = {"Content-Range": f"bytes {self.have}-{end - 1}/{total}"}
            answer = self._request("PUT", block[self.have - self.start :], {**span, **headers})
            if answer.status_code in {HTTPStatus.OK, HTTPStatus.CREATED}:
                return dict(answer.json())
            if answer.status_code != HTTPStatus.PERMANENT_REDIRECT:  # which here means: go on
                raise _Refused(answer.status_code, answer.text)
            kept = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
            self.have = int(kept[1]) + 1 if kept else 0
        if self.have != end:
            raise _Refused(HTTPStatus.GONE, "what had arrived is there no longer")
        return None

    def _request(self, method: str, content: bytes, headers: dict[str, str]) -> requests.Response:
        return self.session.request(
            method, self.url, data=content, headers=headers, timeout=self.timeout, allow_redirects=False
        )


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else ""
