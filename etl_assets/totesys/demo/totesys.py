"""The demo's source: the embedded PostgreSQL with a generated ToteSys in it."""

import atexit
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

from etl_assets.stand_ins.postgres import serve
from etl_assets.totesys.demo.generator import generate

_GENERATING = 0x0E71_0001  # an advisory lock, so that of two first users one generates and the other waits


@contextmanager
def serve_totesys(folder: Path) -> Iterator[str]:
    """The URL of a ToteSys that is kept in `folder`, generated on first use; served while the block runs."""
    let_the_server_in(folder.absolute().parent)
    with serve(folder) as url:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (_GENERATING,))
            cursor.execute("SELECT to_regclass('public.sales_order') IS NULL")
            (empty,) = cursor.fetchone() or (True,)
            connection.rollback()  # generation sees what others committed, and holds no snapshot of ours
            if empty:
                generate(url)
        yield url


def let_the_server_in(data: Path) -> None:
    """If we are root, the server is `nobody`, who must be able to go through the folder of all data, and no more: it is
    private otherwise."""
    if os.geteuid() == 0 and data.is_dir() and data.stat().st_uid == 0:
        data.chmod(data.stat().st_mode | 0o011)


@dataclass(frozen=True)
class _Kept:
    url: str
    serving: ExitStack

    def is_up(self) -> bool:
        where = urlsplit(self.url)
        with closing(socket.socket()) as probe:
            return probe.connect_ex((where.hostname, where.port)) == 0


_kept: dict[Path, _Kept] = {}
_keeping = threading.Lock()


def keep_serving(folder: Path) -> str:
    """The URL of the ToteSys in `folder`, which is kept up from the first call until this process ends.

    For a process that asks it something every few seconds. After a kill -9 the next user joins the server that was
    left, and stops it if it was the last (see `postgres`).
    """
    with _keeping:
        kept = _kept.get(folder)
        if kept is None or not kept.is_up():
            if kept is not None:
                kept.serving.close()
            serving = ExitStack()
            url = serving.enter_context(serve_totesys(folder))
            atexit.register(serving.close)
            kept = _kept[folder] = _Kept(url, serving)
        return kept.url
