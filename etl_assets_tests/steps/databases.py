"""Databases that steps are tried on: an embedded PostgreSQL, SQLite, and a MariaDB that is started here if it is installed."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql

INSTALLED = "/usr/sbin/mariadbd"
NOT_THERE = f"there is no {INSTALLED}: apt-get install mariadb-server"
_STARTED_WITHIN_SECONDS = 60


@contextmanager
def mariadb(folder: Path) -> Iterator[str]:
    """A MariaDB of its own in a folder, on 127.0.0.1 while the block runs: the URL of an empty database."""
    data = folder / "data"
    # As another user it could not enter the folders of tests.
    user = ["--user=root"] if os.geteuid() == 0 else []
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
         "--skip-test-db", *user],
        check=True, capture_output=True,
    )  # fmt: skip
    port = _free_port()
    log = folder / "log"
    with log.open("wb") as written:
        server = subprocess.Popen(
            [INSTALLED, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
             f"--socket={_short(folder) / 's'}", f"--pid-file={folder / 'pid'}", "--skip-log-bin",
             "--innodb-flush-log-at-trx-commit=0", *user],
            stdout=written, stderr=written,
        )  # fmt: skip
    try:
        _wait(server, port, log)
        with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
            connection.cursor().execute("CREATE DATABASE steps")
        yield f"mysql+pymysql://root@127.0.0.1:{port}/steps"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(_short(folder), ignore_errors=True)


def _short(folder: Path) -> Path:
    """A folder for a socket, whose path may have about a hundred characters."""
    made = Path("/tmp") / f"etl-steps-{abs(hash(str(folder))) % 10**8}"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            pymysql.connect(host="127.0.0.1", port=port, user="root").close()
            return
        except pymysql.Error:
            time.sleep(0.1)
    raise AssertionError(f"MariaDB does not start: {log.read_text()[-2000:]}")


def emptied(url: str) -> str:
    """A MariaDB with nothing in its database."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
        cursor = connection.cursor()
        cursor.execute("DROP DATABASE steps")
        cursor.execute("CREATE DATABASE steps")
    return url
