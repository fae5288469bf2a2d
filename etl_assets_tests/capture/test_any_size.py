"""Nothing that is kept in memory grows with the number of changed rows, neither in the source nor here."""

import threading
from contextlib import closing
from pathlib import Path

import pytest

from etl_assets.raw.recent import Segments, since
from etl_assets.source.catalog import describe
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import Lake, connect, execute

T = Table("t", "", {"id": "int"})
_MIB = 1 << 20


def own_bytes(pid: int) -> int:
    """Memory that a process made for itself: the server's buffers are not among it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


class Watch(threading.Thread):
    """The most memory that a process of the server took for a run, looked at again and again."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.most, self.over = url, 0, threading.Event()

    def run(self) -> None:
        with closing(connect(self.url)) as connection, connection.cursor() as cursor:
            while not self.over.wait(0.01):
                cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'etl-assets %'")
                for (pid,) in cursor.fetchall():
                    try:
                        self.most = max(self.most, own_bytes(pid))
                    except OSError:  # it has just ended, or is not ours to look at
                        continue


@pytest.mark.fault("F38")
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_the_server_keeps_no_more_for_very_many_changed_rows_than_for_a_few(lake: Lake) -> None:
    most = {}
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a int)",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 500000) n",
    )
    lake.sync(T)
    for what, condition in (("few", "id < 10"), ("many", "true")):
        execute(lake.url, f"UPDATE t SET a = a + 1 WHERE {condition}")
        watch = Watch(lake.url)
        watch.start()
        manifest = lake.committed(T)
        watch.over.set()
        watch.join()
        assert manifest.tables["t"].read == "horizon"
        most[what] = watch.most
    assert manifest.changed["t"].changed == 500_000
    assert most["many"] < most["few"] + 4 * _MIB, most
    assert lake.is_exact(T)


def test_rows_with_a_recent_version_are_found_wherever_they_stand_and_each_once(lake: Lake) -> None:
    """Also the first and the last of a table, and those that stand at the edges of what is read together."""
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text) WITH (fillfactor = 50)",
        "INSERT INTO t SELECT n, repeat('x', 1200) FROM generate_series(1, 9000) n",
    )
    lake.sync(T)
    for condition in (
        "id IN (1, 9000)",
        "id % 4000 = 7",
        "id BETWEEN 17 AND 60 OR id BETWEEN 5000 AND 5003",
        "id % 20 = 0",
    ):
        execute(
            lake.url,
            f"UPDATE t SET a = a || 'y' WHERE {condition}",
            "INSERT INTO t SELECT max(id) + 1, 'new' FROM t",
        )
        with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM t WHERE {condition}")
            ((changed,),) = cursor.fetchall()
        manifest = lake.sync(T)
        assert manifest
        assert manifest.tables["t"].read == "horizon"
        assert (manifest.changed["t"].changed, manifest.changed["t"].new) == (changed, 1)
        assert lake.is_exact(T)


def test_what_is_asked_for_recent_rows_is_as_short_for_many_as_for_few(lake: Lake) -> None:
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT n, repeat('x', 1900) FROM generate_series(1, 5000) n",
    )
    lake.sync(T)
    with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
        segments = Segments.of(connection, describe(connection, [T])["t"])
        assert segments
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        ((horizon,),) = cursor.fetchall()
        for condition in ("id = 1", "id % 2 = 0", "true"):
            cursor.execute(f"UPDATE t SET a = a || 'y' WHERE {condition}")
            bitmap = segments.bitmap(since(horizon)).as_string(connection)
            cursor.execute(f"SELECT {bitmap} FROM t")
            ((found,),) = cursor.fetchall()
            asked = segments.conditions(found, since(horizon))
            assert len(asked) <= 64
            total = " + ".join(f"(SELECT count(*) FROM t WHERE {c.as_string(connection)})" for c in asked)
            cursor.execute(
                f"SELECT {total}, (SELECT count(*) FROM t WHERE {since(horizon).as_string(connection)})"
            )
            ((apart, together),) = cursor.fetchall()
            assert apart == together
