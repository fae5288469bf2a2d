"""The source goes away while it is read: the run ends in one line, nothing of it is seen, and the next one takes a new
snapshot of all tables."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from etl_assets.lake.batches import Batches
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest
from etl_assets.source import connection
from etl_assets.source.connection import SourceInterrupted
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, execute
from etl_assets_tests.network import Network, network

ONE, TWO = (Table(name, "", {"id": "int"}) for name in ("one", "two"))
# More than what a connection's buffers hold, so that a COPY is under way while it is cut.
_ROWS = (
    "CREATE TABLE one (id int PRIMARY KEY, a text)",
    "CREATE TABLE two (id int PRIMARY KEY, a text)",
    "INSERT INTO one SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 5000) n",
    "INSERT INTO two SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 5000) n",
)
_CHANGES = ("UPDATE one SET a = a || 'x' WHERE id % 2 = 0", "DELETE FROM two WHERE id % 40 = 0")


@pytest.fixture
def remote(lake: Lake) -> Iterator[tuple[Lake, Network]]:
    """A lake whose source is reached through a network, with a batch, and changes that none has."""
    execute(lake.url, *_ROWS)
    lake.sync(ONE, TWO)
    execute(lake.url, *_CHANGES)
    with network(lake.url) as (url, between):
        yield Lake(url, lake.folder), between


@pytest.mark.fault("F5", "F40")
def test_a_connection_that_is_cut_anywhere_ends_in_one_line_and_leaves_nothing(
    lake: Lake, remote: tuple[Lake, Network]
) -> None:
    """Wherever it is cut: while it is opened, asked, or read from."""
    far, between = remote
    before = lake.everything()
    cuts, after = [], 200
    done = None
    while not done:
        between.left_bytes = after
        try:
            done = far.sync(ONE, TWO)
        except SourceInterrupted as error:
            cuts.append(str(error))
        if not done:
            assert lake.everything() == before
            assert [path.name for path in lake.folder.iterdir()] == ["lake"]
            after *= 2
    assert len(cuts) >= 8
    assert not any("\n" in line for line in cuts)
    assert done.tables["one"].horizon == done.tables["two"].horizon
    assert lake.is_exact(ONE, TWO)


@pytest.mark.fault("F5")
def test_a_slow_network_only_takes_longer(lake: Lake, remote: tuple[Lake, Network]) -> None:
    far, between = remote
    between.bytes_per_second = 3_000_000
    assert far.sync(ONE, TWO)
    assert lake.is_exact(ONE, TWO)


@pytest.mark.fault("F5")
def test_a_source_that_can_not_be_reached_for_a_while_is_read_once_it_can(
    lake: Lake, remote: tuple[Lake, Network]
) -> None:
    far, between = remote
    between.cut(lasting=True)
    with pytest.raises(SourceInterrupted):
        far.sync(ONE, TWO)
    between.mend()
    assert far.sync(ONE, TWO)
    assert lake.is_exact(ONE, TWO)


@pytest.mark.fault("F5")
def test_a_server_that_stops_at_once_while_it_is_read_is_read_anew_when_it_is_back(
    postgres_folder: Path, tmp_path: Path
) -> None:
    folder = postgres_folder / "stops"
    stopped = threading.Event()

    def stop(table: str, size: int) -> None:
        if not stopped.is_set():
            stopped.set()
            pid = int((folder / "data/postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGQUIT)  # as `pg_ctl stop -m immediate`

    with serve(folder) as url:
        execute(url, *_ROWS)
        lake = Lake(url, tmp_path)
        lake.sync(ONE, TWO)
        # The log of what was committed just before may be lost with the server: not of this.
        execute(url, "SET synchronous_commit = on; " + "; ".join(_CHANGES))
        before = lake.everything()
        request = CaptureRequest(url, [ONE, TWO], "stopped", whole=True)
        with pytest.raises(SourceInterrupted) as caught:
            take_batch(request, Batches(lake.files), tmp_path, stop)
        assert "\n" not in str(caught.value)
        assert stopped.is_set()
        assert lake.everything() == before
    with serve(folder) as url:
        lake = Lake(url, tmp_path)
        taken = lake.committed(ONE, TWO)
        assert taken.batch == 2
        assert lake.is_exact(ONE, TWO)


@pytest.mark.fault("F5")
def test_both_ends_notice_within_two_minutes_that_the_other_one_is_gone(lake: Lake) -> None:
    """Where a network drops everything without a word, as a firewall does that forgot a connection: the run ends, and the
    server gives up the claim on the lake, by which another machine would wait for it."""
    with closing(connection.connect(lake.url, "a test")) as ours:
        with socket.socket(fileno=os.dup(ours.fileno())) as kernel:
            assert kernel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            silence = kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            probes = kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
            pause = kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
            unanswered = kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert silence + probes * pause <= 120
        assert 0 < unanswered <= 120_000
        with ours.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('tcp_keepalives_idle')::int + current_setting('tcp_keepalives_count')::int "
                "* current_setting('tcp_keepalives_interval')::int"
            )
            ((seconds,),) = cursor.fetchall()
        assert 0 < seconds <= 120
    patient = f"{lake.url}?keepalives_idle=900"
    with (
        closing(connection.connect(patient, "a test")) as theirs,
        socket.socket(fileno=os.dup(theirs.fileno())) as kernel,
    ):
        assert kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 900
