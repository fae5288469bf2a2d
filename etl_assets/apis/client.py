"""One call of an API, within limits: of time, of size, of where it may lead.

What the client is told by a server is not trusted: answers are unpacked piece by piece up to a limit, redirects are followed
to public addresses only, by the address that was looked at, and without the credential where they leave the server.
Nothing that is raised or kept repeats an address with its parameters.
"""

import json
import logging
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2

from etl_assets import addresses
from etl_assets.apis.answers import Answer
from etl_assets.apis.bodies import NO_CONTENT, read_body
from etl_assets.apis.connection import Deadlines, Transport
from etl_assets.apis.declaration import Api
from etl_assets.apis.errors import ApiError, CallFailed, NotYet, Refused
from etl_assets.apis.limiter import Call, Limiter
from etl_assets.apis.redirects import is_same_server, pinned
from etl_assets.clients.waiting import retry_after

_WORTH_AGAIN = {408, 425, 429}
_NEVER_WORTH_AGAIN = {501, 505}
"""Of those that are the server's own fault (5xx): it can't do such a thing at all."""
_ANSWERED = {200, NO_CONTENT, 206}
"""The last one is what some say of a page, which is a part of all."""
_REDIRECTS = {301, 302, 303, 307, 308}
_REDIRECTS_OF_ALL = {307, 308}
"""Those that hold for what is posted, too."""
_MOST_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_JITTER = 0.2
_USER_AGENT = "etl-assets"
# They write the address of every call, and headers of answers; a credential may be in them.
for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


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
        url = (
            self.url.copy_with(raw_path=path.encode("ascii"))
            if path
            else self.url.copy_merge_params(dict(parameters))
        )
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

    def path_of(self, following: str, page: httpx2.URL) -> str:
        """The path and parameters of an address that a page named as the next one, without the credential. Raises `ApiError` if it
        is on another server."""
        try:
            url = page.join(following)
        except (httpx2.InvalidURL, ValueError):
            raise ApiError(f"{self.api.name}: what it says of the next page is no address") from None
        if not is_same_server(url, self.url):
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
        if error.after_seconds:
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
        own = url
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
                        own = url if is_same_server(url, self.url) else own
                        continue
                    self._check(response, url)
                    body, value = read_body(response, self.api, self._secret)
                    return Answer(body, value, own, response.headers, tuple(made))
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
        }
        extensions: dict[str, Any] = {"trace": lambda name, _: _noted(name, call)}
        if is_same_server(url, self.url):
            headers |= self.api.headers  # nobody else's business
            url = self._authorized(url, headers)
        elif not self.api.limits.private_redirects:
            url = pinned(url, headers, extensions, self.api.name)
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

    def _check(self, response: httpx2.Response, url: httpx2.URL) -> None:
        """Raises `ApiError` for a status that says that there is no answer."""
        status = response.status_code
        if status in _ANSWERED:
            return
        after = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        own_fault = 500 <= status < 600 and status not in _NEVER_WORTH_AGAIN
        # Whoever says when to come again has refused for a moment, as some do by 403 of what is too much.
        if status in _WORTH_AGAIN or own_fault or (status >= 400 and after is not None):
            raise CallFailed(f"{self.api.name}: answered {status}", after)
        raise Refused(
            f"{self.api.name}: answered {status}: {self._hint(status, url)} ({self.api.where})", status
        )

    def _hint(self, status: int, url: httpx2.URL) -> str:
        credential = self.api.credential
        if credential and status in (401, 403) and not is_same_server(url, self.url):
            return f"it redirected to {addresses.place(str(url))}, where {credential.setting} is not sent: declare that as its url"
        return {
            401: f"see the credential in {credential.setting}"
            if credential
            else "it wants a credential (Credential)",
            403: "it does not allow this call",
            404: "there is nothing at its url",
        }.get(status, "see its url and parameters")


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


def _noted(name: str, call: Call) -> None:
    if name.endswith("send_request_headers.complete"):
        call.leaves()


def _kind(error: Exception) -> str:
    """What kind of error it was; its own text may repeat an address."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
