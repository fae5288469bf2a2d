"""One call of an API, within limits: of time, of size, of where it may lead.

What the client is told by a server is not trusted: answers are unpacked piece by piece up to a limit, redirects are followed
to public addresses only, by the address that was looked at, and without the credential where they leave the server.
Nothing that is raised or kept repeats an address with its parameters.
"""

import ipaddress
import json
import logging
import random
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2

from etl_assets import addresses
from etl_assets.apis.connection import Deadlines, Transport
from etl_assets.apis.declaration import Api, Records
from etl_assets.apis.limiter import Call, Limiter
from etl_assets.clients.waiting import retry_after
from etl_assets.errors import EtlError

_WORTH_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_ANSWERED = {200, 206}
"""The second one is what some say of a page, which is a part of all."""
_REDIRECTS = {301, 302, 303, 307, 308}
_REDIRECTS_OF_ALL = {307, 308}
"""Those that hold for what is posted, too."""
_MOST_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_BLOCK_BYTES = 1 << 16
_JITTER = 0.2
_USER_AGENT = "etl-assets"
# They write the address of every call, and headers of answers; a credential may be in them.
for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class ApiError(EtlError):
    """An API can't be used, or does not answer as it is declared."""


class CallFailed(ApiError):
    """A call has no answer that can be used; another attempt may have one. `after_seconds`: when the server says so."""

    def __init__(self, message: str, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class Refused(ApiError):
    """A call was answered with a status that another attempt would not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotYet(ApiError):
    """No call is to be made for some `seconds`: what the API allows is used up, or it asked to be left alone."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Number(str):
    """A number of a JSON text that is no whole one, as it is written there."""

    __slots__ = ()


class Written(Decimal):
    """The same to calculate with, for functions that take the records out of an answer; as text it is as it was written."""

    __slots__ = ("_text",)

    def __new__(cls, text: str) -> "Written":
        """A number that is written like this."""
        number = super().__new__(cls, text)
        number._text = text
        return number

    _text: str

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True)
class Answer:
    """An answer. `body` as it was received, unpacked; `value` is what it says. `following`: the address in its header `Link`;
    `headers`: all that it has, however their names are written. `calls`: when each attempt was made (seconds since 1970)."""

    body: bytes
    value: Any
    following: str | None
    calls: tuple[float, ...]
    headers: Mapping[str, str]


class Client:
    """Calls an API. Used in a `with` block, by any number of threads. `secret` gives what a setting holds, and is asked once,
    and again if the API does not take it; `url` is where the API is. `stopped` raises when no answer is waited for any longer."""

    def __init__(
        self,
        api: Api,
        url: str,
        secret: Callable[[str], str],
        limiter: Limiter,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self.api = api
        self.url = httpx2.URL(url)
        self.limiter = limiter
        self.failed = 0
        self._ask = secret
        self._secret: str | None = None
        self._asking = threading.Lock()
        self._deadlines = Deadlines(stopped)
        timeout = httpx2.Timeout(min(api.limits.call_seconds, 30.0), connect=_CONNECT_SECONDS, pool=None)
        # Nothing from the environment: .netrc would send credentials that nobody declared.
        self._http = httpx2.Client(
            transport=Transport(api.concurrency + 1, self._deadlines),
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, parameters: Mapping[str, str | int], path: str = "", body: Any = None) -> Answer:
        """The answer to a call with parameters, or of a `path` (with its parameters) of the same server; with a JSON `body` it
        is posted. Raises `ApiError`."""
        content = None if body is None else json.dumps(body).encode()
        made: list[float] = []
        url = self.url.join(path) if path else self.url.copy_merge_params(dict(parameters))
        for attempt in range(1, self.api.retry.attempts + 1):
            try:
                return self._allowed(url, content, made)
            except CallFailed as error:
                self.failed += 1
                self._keep_off(error)
                if attempt == self.api.retry.attempts:
                    times = f"{attempt} attempts" if attempt > 1 else "1 attempt"
                    raise CallFailed(f"{error} ({times})") from None
                self._wait(attempt, error)
        raise AssertionError("there is one attempt at least")

    def path_of(self, following: str) -> str:
        """The path and parameters of an address that the server named as its next page, without the credential. Raises
        `ApiError` if it is on another server."""
        url = self.url.join(following)
        if _origin(url) != _origin(self.url):
            raise ApiError(
                f"{self.api.name}: the next page is said to be on {addresses.place(str(url))}, another server than "
                f"{addresses.place(str(self.url))}: it is not asked"
            )
        credential = self.api.credential
        if credential and credential.parameter:
            url = url.copy_remove_param(credential.parameter)
        return url.raw_path.decode("ascii")

    def _keep_off(self, error: CallFailed) -> None:
        """Have all threads wait for what the server asks for, and later runs too, whether this call is tried again or not."""
        longest = self.api.retry.longest_pause_seconds
        if error.after_seconds is None:
            return
        self.limiter.pause(error.after_seconds)
        if error.after_seconds > longest:
            raise NotYet(
                f"{error}; it asks to wait {error.after_seconds:,.0f} s, longer than the longest pause "
                f"({longest:,.0f} s): run again later, what has landed stays",
                error.after_seconds,
            ) from None

    def _wait(self, attempt: int, error: CallFailed) -> None:
        retry = self.api.retry
        if error.after_seconds is not None:
            return  # all threads wait before their next call
        pause = min(retry.pause_seconds * 2 ** (attempt - 1), retry.longest_pause_seconds)
        self.limiter.rest(pause * (1 + random.uniform(-_JITTER, _JITTER)))  # noqa: S311  no secret

    def _allowed(self, url: httpx2.URL, content: bytes | None, made: list[float]) -> Answer:
        """One attempt; another one at once if the credential is not taken that was asked for before, and is another now."""
        used = self._secret
        try:
            return self._once(url, content, made)
        except Refused as error:
            if error.status not in (401, 403) or used is None or not self._renewed(used):
                raise
            self.failed += 1
        return self._once(url, content, made)

    def _once(self, url: httpx2.URL, content: bytes | None, made: list[float]) -> Answer:
        """One attempt, with its redirects. Each of them is a call."""
        for _ in range(_MOST_REDIRECTS + 1):
            call = self.limiter.go()
            made.append(round(time.time(), 3))
            try:
                with (
                    self._deadlines.within(self.api.limits.call_seconds),
                    self._sent(url, content, call) as response,
                ):
                    call.answers()
                    if response.status_code in self._followed(content) and "location" in response.headers:
                        url = self._redirected(url, response.headers["location"])
                        continue
                    self._check(response)
                    body = b"".join(self._unpacked(response))
                    following = response.links.get("next", {}).get("url")
                    return Answer(body, self._parsed(body), following, tuple(made), response.headers)
            except httpx2.TimeoutException:
                raise CallFailed(f"{self.api.name}: no answer in time") from None
            except (httpx2.TransportError, httpx2.StreamError, OSError) as error:
                raise CallFailed(f"{self.api.name}: the connection failed ({_kind(error)})") from None
            except (httpx2.InvalidURL, ValueError, zlib.error) as error:
                raise CallFailed(
                    f"{self.api.name}: the answer can't be read ({type(error).__name__})"
                ) from None
            finally:
                call.answers()
        raise ApiError(f"{self.api.name}: more than {_MOST_REDIRECTS} redirects")

    @staticmethod
    def _followed(content: bytes | None) -> set[int]:
        """The redirects that are followed: of what is posted, those that have it posted there."""
        return _REDIRECTS if content is None else _REDIRECTS_OF_ALL

    def _sent(self, url: httpx2.URL, content: bytes | None, call: Call) -> "_Streamed":
        headers = {
            "User-Agent": _USER_AGENT,
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            **({} if content is None else {"Content-Type": "application/json"}),
            **self.api.headers,
        }
        extensions: dict[str, Any] = {"trace": lambda name, _: _noted(name, call)}
        if _origin(url) == _origin(self.url):
            url = self._authorized(url, headers)
        elif not self.api.limits.private_redirects:
            url = _pinned(url, headers, extensions, self.api.name)
        method = "GET" if content is None else "POST"
        return _Streamed(
            self._http,
            self._http.build_request(method, url, content=content, headers=headers, extensions=extensions),
        )

    def _authorized(self, url: httpx2.URL, headers: dict[str, str]) -> httpx2.URL:
        credential = self.api.credential
        if credential is None:
            return url
        secret = self._credential(credential.setting)
        if credential.parameter:
            return url.copy_set_param(credential.parameter, secret)
        if not secret.isascii() or not secret.isprintable():
            raise ApiError(f"{credential.setting} can't stand in a header: it has more than printable ASCII")
        headers[credential.header] = credential.form.format(secret)
        return url

    def _credential(self, setting: str) -> str:
        with self._asking:
            if self._secret is None:
                self._secret = self._ask(setting)
            return self._secret

    def _renewed(self, used: str) -> bool:
        """Whether the secret is another than one that was used."""
        credential = self.api.credential
        with self._asking:
            if self._secret == used and credential:
                self._secret = self._ask(credential.setting)
            return self._secret != used

    def _redirected(self, url: httpx2.URL, location: str) -> httpx2.URL:
        target = url.join(location)
        if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme == "http"):
            raise ApiError(
                f"{self.api.name}: it redirects to {addresses.word(target.scheme)}, which is not followed"
            )
        return target

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status in _ANSWERED:
            return
        if status in _WORTH_AGAIN:
            after = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
            raise CallFailed(f"{self.api.name}: answered {status}", after)
        credential = self.api.credential
        hint = {
            401: f"see the credential in {credential.setting}"
            if credential
            else "it wants a credential (Credential)",
            403: "it does not allow this call",
            404: "there is nothing at its url",
        }.get(status, "see its url and parameters")
        raise Refused(f"{self.api.name}: answered {status}: {hint} ({self.api.where})", status)

    def _unpacked(self, response: httpx2.Response) -> Iterator[bytes]:
        """The body, unpacked, in pieces. Raises `ApiError` for more than the limit."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip"):
            raise ApiError(f"{self.api.name}: the answer is packed in a way that was not asked for")
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if "gzip" in encoding else None
        left, limits = self.api.limits.answer_bytes, self.api.limits
        for block in response.iter_raw():  # as it comes: each read looks at the time
            while block:
                piece = unpack.decompress(block, _BLOCK_BYTES) if unpack else block
                block = unpack.unconsumed_tail if unpack else b""
                left -= len(piece)
                if left < 0:
                    raise ApiError(
                        f"{self.api.name}: an answer has more than {limits.answer_bytes:,} bytes: ask for smaller pages, or "
                        f"raise answer_bytes (Limits; {self.api.where})"
                    )
                yield piece
        if unpack and not unpack.eof:
            raise CallFailed(f"{self.api.name}: the answer is cut off")

    def _parsed(self, body: bytes) -> Any:
        try:
            return parsed(body, self.api.records)
        except (ValueError, RecursionError):
            raise CallFailed(f"{self.api.name}: the answer is no JSON") from None


class _Streamed:
    """A response whose body is read in the block."""

    def __init__(self, client: httpx2.Client, request: httpx2.Request) -> None:
        self._client = client
        self._request = request

    def __enter__(self) -> httpx2.Response:
        self._response = self._client.send(self._request, stream=True)
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def parsed(body: bytes, records: Records = "") -> Any:
    """What the JSON text of an answer says; numbers that are no whole ones as they are written, and to calculate with if a
    function takes the records out of it. Raises `ValueError`, or `RecursionError` for one that is nested too deeply."""
    number = Written if callable(records) else Number
    return json.loads(body, parse_float=number, parse_constant=_refused)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _noted(name: str, call: Call) -> None:
    if name.endswith("send_request_headers.complete"):
        call.leaves()


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _pinned(url: httpx2.URL, headers: dict[str, str], extensions: dict[str, Any], name: str) -> httpx2.URL:
    """The same with the address that its host stands for, which is public: what a name stands for may change from one
    question to the next. Raises `ApiError` for any other."""
    host, port = url.host, url.port or {"http": 80, "https": 443}[url.scheme]
    found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    if not found or not all(is_public(address) for address in found):
        raise ApiError(
            f"{name}: it redirects to {addresses.place(str(url))}, which is no public address: not followed, unless its "
            "declaration says private_redirects=True (Limits)"
        )
    headers["Host"] = url.netloc.decode("ascii")
    extensions["sni_hostname"] = host
    return url.copy_with(host=sorted(found)[0])


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: not of this machine, of a network of somebody's, or of a cloud's own."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    carried = list(_carried(ip)) if isinstance(ip, ipaddress.IPv6Address) else []
    return ip not in _OF_A_NETWORK and all(one.is_global and not one.is_multicast for one in (ip, *carried))


def _carried(ip: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The addresses of the older kind that what goes to one of the newer is handed on to."""
    if ip.ipv4_mapped:
        yield ip.ipv4_mapped
    if ip.sixtofour:
        yield ip.sixtofour
    yield from ip.teredo or ()
    if any(ip in network for network in _IN_LAST_BITS):
        yield ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)


_IN_LAST_BITS = [ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96")]
"""Where a translator (NAT64), or a system of old, takes the last bits for an address of the older kind."""
_OF_A_NETWORK = ipaddress.ip_network("64:ff9b:1::/48")
"""Of translators that are a network's own."""


def _kind(error: Exception) -> str:
    """What kind of error it was; its own text may repeat an address."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
