"""A network between a client and a server on this machine that can be cut, stalled and slowed down."""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

_BLOCK = 1 << 14
# Closing a socket that lingers for no time at all sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Network:
    """Carries bytes between clients, who connect to `port`, and a server.

    `state`: "up"; "stalled", nothing arrives and nobody is told; "down", whatever is open is reset and nothing new is let
    in. `left_bytes`: after so many bytes more from the server everything is reset, once. `bytes_per_second`: from the server.
    """

    host: str
    server_port: int
    state: Literal["up", "stalled", "down"] = "up"
    left_bytes: int | None = None
    bytes_per_second: float | None = None
    carried_bytes: int = 0
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _open: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self, *, lasting: bool = False) -> None:
        """Reset all that is open; `lasting`: and let nothing in until `mend`."""
        if lasting:
            self.state = "down"
        with self._lock:
            cut, self._open = self._open, set()
        for one in cut:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            one.close()

    def mend(self) -> None:
        """From now on everything is carried at once."""
        self.state, self.left_bytes, self.bytes_per_second = "up", None, None

    def serve(self) -> None:
        """Carry until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.state == "down":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    client.close()
                    continue
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((self.host, self.server_port))
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
        with client, server, selectors.DefaultSelector() as ready, contextlib.suppress(OSError, ValueError):
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select(0.05):
                    if self.state == "stalled":
                        time.sleep(0.02)
                        continue
                    source = client if key.fileobj is client else server
                    if not (block := source.recv(_BLOCK)):
                        return
                    self._hand_on(block, key.data, from_server=source is server)
                if client.fileno() < 0 or server.fileno() < 0:
                    return

    def _hand_on(self, block: bytes, target: socket.socket, *, from_server: bool) -> None:
        if from_server:
            self.carried_bytes += len(block)
            if self.bytes_per_second:
                time.sleep(len(block) / self.bytes_per_second)
            if self.left_bytes is not None:
                self.left_bytes -= len(block)
                if self.left_bytes < 0:
                    self.left_bytes = None
                    self.cut()
                    return
        target.sendall(block)


@contextmanager
def network(url: str) -> Iterator[tuple[str, Network]]:
    """The URL by which a server of this machine is reached through a network, and the network."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    made = Network(parts.hostname, parts.port)
    serving = threading.Thread(target=made.serve, daemon=True)
    serving.start()
    who = parts.netloc.rpartition("@")[0]
    try:
        yield urlunsplit(parts._replace(netloc=f"{who}@127.0.0.1:{made.port}")), made
    finally:
        made._listener.shutdown(socket.SHUT_RDWR)
        made._listener.close()
        made.cut(lasting=True)
        serving.join()
