"""Connections that end with their call: nothing on them takes longer than the call has left, however slowly bytes come, and
none is read from when nobody waits for the answer any longer."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

_LOOK_SECONDS = 0.25


class Deadlines:
    """Until when the call of each thread may take. `stopped` raises when no answer is waited for any longer."""

    def __init__(self, stopped: Callable[[], None]) -> None:
        self._stopped = stopped
        self._own = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """A block in which this thread makes one call."""
        self._own.until = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._own.until

    def left(self, timeout: float | None, error: type[Exception]) -> float:
        """How long this thread's call may still take, or a part of it that has a `timeout`. Raises `error` if it is over."""
        self._stopped()
        left = getattr(self._own, "until", float("inf")) - time.monotonic()
        if left <= 0:
            raise error("the call took too long")
        return left if timeout is None else min(timeout, left)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, deadlines: Deadlines) -> None:
        self._stream = stream
        self._deadlines = deadlines

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            left = self._deadlines.left(until - time.monotonic(), httpcore2.ReadTimeout)
            if left <= 0:
                raise httpcore2.ReadTimeout("no byte came")
            try:
                return self._stream.read(max_bytes, min(left, _LOOK_SECONDS))
            except httpcore2.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadlines.left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = self._deadlines.left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadlines)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, deadlines: Deadlines) -> None:
        self._backend = httpcore2.SyncBackend()
        self._deadlines = deadlines

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._deadlines.left(timeout, httpcore2.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, left, local_address, socket_options)
        return _Stream(stream, self._deadlines)


class Transport(httpx2.HTTPTransport):
    """`httpx2`'s own, on connections that know how long a call may take."""

    def __init__(self, connections: int, deadlines: Deadlines) -> None:
        # Its own beginning would make a pool of other connections. No proxy of the environment is used.
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=5.0,
            network_backend=_Backend(deadlines),
        )
