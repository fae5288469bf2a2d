"""Servers that are not the usual one: what they don't say, limit, pool or move makes a run weaker or is named, never wrong."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import psycopg2
import pytest

from etl_assets import addresses
from etl_assets.raw.controls import Unproven
from etl_assets.source import snapshot
from etl_assets.source.connection import (
    SourceError,
    SourceInterrupted,
    StandbyConflict,
    connect,
    explained,
)
from etl_assets.source.position import read_position
from etl_assets.source.preflight import check_source
from etl_assets.source.snapshot import ClaimLost, LakeClaimed, take_snapshot
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, execute
from etl_assets_tests.capture.servers import replicated, role, wait_until

T = Table("t", "", {"id": "int"})
VIEW = Table("t", "", {"id": "int"}, key=("id",))
_ROWS = (
    "CREATE TABLE t (id int PRIMARY KEY, a text)",
    "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 20) n",
)
PASSWORD = "hunter2-Zaphod"


def checked(url: str, *tables: Table) -> dict[str, tuple[str, str]]:
    return {found.name: (found.state, found.told) for found in check_source(lambda: url, tables)}


# -- one instant -----------------------------------------------------------------------------------------------------


def test_a_materialized_view_is_not_refreshed_under_a_snapshot(lake: Lake) -> None:
    execute(
        lake.url,
        *_ROWS,
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
        "CREATE VIEW of_m AS SELECT * FROM m",
        "CREATE VIEW of_t AS SELECT * FROM t",
    )
    for name, change in (
        ("m", "REFRESH MATERIALIZED VIEW m"),
        ("of_m", "REFRESH MATERIALIZED VIEW m"),
        ("of_t", "TRUNCATE t"),
    ):
        table = Table(name, "", {"id": "int"}, key=("id",))
        with (
            take_snapshot(lake.url, [table], lake=None, run_id="a test", connections=2, wait_seconds=1),
            pytest.raises(psycopg2.errors.LockNotAvailable),
        ):
            execute(lake.url, f"SET lock_timeout = '50ms'; {change}")


def test_a_view_that_is_refreshed_between_snapshot_and_lock_is_looked_at_anew(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(lake.url, *_ROWS, "CREATE MATERIALIZED VIEW m AS SELECT * FROM t")
    table = Table("m", "", {"id": "int"}, key=("id",))
    locked = snapshot._lock_by_reading
    refreshed: list[bool] = []

    def refresh_once(cursor, relations):  # type: ignore[no-untyped-def]
        if not refreshed:
            refreshed.append(True)
            execute(lake.url, "INSERT INTO t VALUES (21, 'new')", "REFRESH MATERIALIZED VIEW m")
        locked(cursor, relations)

    monkeypatch.setattr(snapshot, "_lock_by_reading", refresh_once)
    manifest = lake.sync(T, table)
    assert manifest
    assert manifest.tables["t"].rows == manifest.tables["m"].rows == 21


# -- what a server does not say --------------------------------------------------------------------------------------

_FUNCTIONS = (
    "pg_current_wal_flush_lsn()", "pg_last_wal_replay_lsn()", "pg_control_system()", "pg_control_checkpoint()", "pg_export_snapshot()",
)  # fmt: skip


@pytest.mark.many
@pytest.mark.parametrize("refused", [[f] for f in _FUNCTIONS] + [list(_FUNCTIONS)])
def test_what_a_server_does_not_say_makes_no_run_impossible(lake: Lake, refused: list[str]) -> None:
    other = Table("u", "", {"id": "int"})
    execute(lake.url, *_ROWS, "CREATE TABLE u (id int PRIMARY KEY)")
    with role(lake, *(f"REVOKE EXECUTE ON FUNCTION {f} FROM PUBLIC" for f in refused)) as ours:
        try:
            assert ours.sync(T, other)
            execute(lake.url, "UPDATE t SET a = 'y' WHERE id = 3; DELETE FROM t WHERE id = 4")
            assert ours.sync(T, other)
            assert ours.is_exact(T, other)
            read_position(ours.url, [T, other])
            found = checked(ours.url, T, other)
            assert not any(state == "missing" for name, (state, _) in found.items() if name != "snapshot")
            if "pg_current_wal_flush_lsn()" in refused:
                assert found["log position"][0] == "advice"
                assert "pg_current_wal_flush_lsn()" in found["log position"][1]
            if refused == ["pg_current_wal_flush_lsn()"]:
                assert "does not say where its log stands" in ours.latest().tables["t"].why
        finally:
            for function in refused:
                execute(lake.url, f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")


@pytest.mark.parametrize(
    "refused", ["pg_locks", "pg_stat_activity", "pg_stat_database", "pg_stat_database_conflicts"]
)
def test_what_a_role_may_not_look_at_makes_no_run_impossible(lake: Lake, refused: str) -> None:
    """Such views are closed where somebody went through a list of what is to be closed."""
    execute(lake.url, *_ROWS)
    with role(lake, f"REVOKE SELECT ON {refused} FROM PUBLIC") as ours:
        try:
            read_position(ours.url, [T])
            assert ours.sync(T)
            execute(lake.url, "UPDATE t SET a = 'y' WHERE id = 3")
            assert ours.sync(T)
            assert ours.is_exact(T)
            lake_id = ours.latest().lake
            claimed = partial(
                take_snapshot, ours.url, [T], lake=lake_id, run_id="a test", connections=1, wait_seconds=0
            )
            with (
                claimed() as first,
                pytest.raises(LakeClaimed, match=r"filled by (another run|etl-assets a test)"),
                claimed(),
            ):
                pass
            with claimed() as first:
                first.still_claimed()
                execute(lake.url, f"SELECT pg_terminate_backend({first.connections[0].info.backend_pid})")
                with pytest.raises(ClaimLost):
                    first.still_claimed()
        finally:
            execute(lake.url, f"GRANT SELECT ON {refused} TO PUBLIC")


@pytest.mark.parametrize("change", ["DROP EXTENSION plpgsql", "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC"])
def test_nothing_is_asked_for_in_a_language_that_there_may_not_be(lake: Lake, change: str) -> None:
    execute(lake.url, *_ROWS, change)
    with role(lake) as ours:
        assert ours.sync(T)
        with closing(connect(ours.url, "a test")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('client_connection_check_interval', true)")
            assert cursor.fetchall() in ([("2s",)], [(None,)])


def test_a_function_that_raises_is_as_good_as_none(lake: Lake) -> None:
    """A managed server has it and says that it is not supported."""
    with closing(connect(lake.url, "a test")) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot()")
        assert snapshot.told_by(cursor, "SELECT 1 / 0") is None
        assert snapshot.told_by(cursor, "SELECT no_such_function()") is None
        assert snapshot.told_by(cursor, "SELECT 7") == 7


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F9")
def test_fewer_connections_than_wanted_do_the_work(lake: Lake) -> None:
    tables = [Table(f"t{n}", "", {"id": "int"}) for n in range(4)]
    for table in tables:
        execute(
            lake.url,
            f"CREATE TABLE {table.name} (id int PRIMARY KEY)",
            f"INSERT INTO {table.name} VALUES (1)",
        )
    for limit in (1, 2):
        with role(lake, options=f"CONNECTION LIMIT {limit}") as ours:
            ours.sync(*tables)
            assert ours.is_exact(*tables) if limit > 2 else ours.latest()
            # A server process may outlive its connection for a moment, and counts as long.
            wait_until(
                lake.url, f"NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'reader_{os.getpid()}')"
            )
            state, told = checked(ours.url, *tables)["connections"]
            assert (state, f"{limit} of 4 can be had" in told) == ("advice", True)
            assert "CONNECTION LIMIT 4" in told
        shutil.rmtree(lake.path)


@pytest.mark.fault("F9")
def test_no_connection_at_all_is_told_with_what_to_do(lake: Lake) -> None:
    execute(lake.url, *_ROWS)
    with (
        role(lake, options="CONNECTION LIMIT 0") as ours,
        pytest.raises(SourceInterrupted, match="raise its CONNECTION LIMIT"),
    ):
        ours.sync(T)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("of", ["role", "database", "both"])
def test_nobody_s_time_limits_end_a_read(lake: Lake, of: str) -> None:
    execute(lake.url, "CREATE TABLE kept AS SELECT n AS id FROM generate_series(1, 3) n")
    execute(lake.url, "CREATE VIEW t AS SELECT id, pg_sleep(0.25)::text AS slow FROM kept")
    database = lake.url.rsplit("/", 1)[1]
    with closing(connect(lake.url, "a test")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', "
            "'transaction_timeout', 'idle_session_timeout', 'lock_timeout')"  # as many as this release has
        )
        limits = [name for (name,) in cursor.fetchall()]
    set_for = [f"ALTER DATABASE {database} SET {name} = '200ms'" for name in limits if of != "role"]
    set_for += [f"ALTER ROLE {{role}} SET {name} = '200ms'" for name in limits if of != "database"]
    with role(lake, *set_for) as ours:
        ours.sync(VIEW)
        assert ours.latest().tables["t"].rows == 3
        assert checked(ours.url, VIEW)["table t"][0] == "advice"


@pytest.mark.fault("F8", "F9")
def test_a_limit_that_ends_a_read_all_the_same_is_named(lake: Lake) -> None:
    with closing(connect(lake.url, "a test")) as connection, connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '50ms'")
        with (
            pytest.raises(SourceInterrupted, match="by its statement_timeout; set it to 0 for the role"),
            explained("reading"),
        ):
            cursor.execute("SELECT pg_sleep(1)")


def test_where_there_is_no_room_for_the_locks_of_many_connections_one_does_the_work(
    postgres_folder: Path, tmp_path: Path
) -> None:
    few = {"max_locks_per_transaction": "10", "max_connections": "12", "shared_buffers": "1MB", "max_worker_processes": "0"}  # fmt: skip
    with serve(postgres_folder / "few", settings={"fsync": "off", "autovacuum": "off", **few}) as url:
        lake = Lake(url, tmp_path)
        table = Table("t", "", {"id": "int"}, key=("id",))
        others = [Table(f"t{n}", "", {"id": "int"}, key=("id",)) for n in range(3)]
        execute(url, "CREATE TABLE t (id int) PARTITION BY RANGE (id)")
        parts = count()

        def add_parts_until_too_many_for(sessions: int) -> None:
            while can_read(url, sessions):
                for n in islice(parts, 20):
                    execute(
                        url,
                        f"CREATE TABLE t{n} PARTITION OF t FOR VALUES FROM ({n}) TO ({n + 1})",
                        f"CREATE UNIQUE INDEX ON t{n} (id); INSERT INTO t{n} VALUES ({n})",
                    )

        add_parts_until_too_many_for(4)
        lake.sync(table, *others)
        assert lake.is_exact(table, *others)
        add_parts_until_too_many_for(1)
        with pytest.raises(SourceInterrupted, match="raise its max_locks_per_transaction"):
            lake.sync(table, *others)
        assert "raise its max_locks_per_transaction" in checked(url, table)["table t"][1]
        assert lake.latest().batch == 1


def can_read(url: str, sessions: int) -> bool:
    """Whether so many sessions can lock the parts of the table t, and one of them can read it."""
    with ExitStack() as stack:
        cursors = [stack.enter_context(closing(psycopg2.connect(url))).cursor() for _ in range(sessions)]
        try:
            for cursor in cursors:
                cursor.execute("LOCK TABLE t IN ACCESS SHARE MODE")
            cursors[0].execute("SELECT FROM t LIMIT 0")
        except psycopg2.errors.OutOfMemory:
            return False
    return True


# -- ways to write a connection --------------------------------------------------------------------------------------


def test_whatever_libpq_takes_leads_to_the_source(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(lake.url, *_ROWS)
    parts = urlsplit(lake.url)
    host, port, name = parts.hostname, parts.port, parts.path[1:]
    monkeypatch.setenv("PGPASSWORD", parts.password or "")
    (tmp_path / "services").write_text(f"[ours]\nhost={host}\nport={port}\nuser=postgres\ndbname={name}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for url in (
        f"postgresql://postgres@{host}:1,{host}:{port}/{name}?target_session_attrs=read-write",
        f"postgres://postgres@{host}:{port}/{name}?sslmode=prefer&connect_timeout=3&application_name=x",
        f"postgresql:///{name}?host={host}&port={port}&user=postgres",
        f"postgresql://postgres@/{name}?host={host},{host}&port={port},1&load_balance_hosts=random",
        f"host={host} port={port} dbname={name} user=postgres",
        f"host='{host}' hostaddr={host} port = {port} dbname={name} user=postgres",
        "service=ours",
        "postgresql:///?service=ours",
    ):
        with closing(connect(url, "a test")) as connection:
            assert connection.info.dbname == name


def test_a_server_that_is_not_what_was_asked_for_is_told_so(lake: Lake) -> None:
    with pytest.raises(SourceError, match="name a standby in ETL_SOURCE_URL"):
        connect(f"{lake.url}?target_session_attrs=standby", "a test")


@contextmanager
def refusing(message: bytes) -> Iterator[str]:
    """The URL of a server that lets nobody in, and says so in its own language and character set."""

    def refuse() -> None:
        with suppress(OSError):  # until nobody listens any more
            while True:
                asked, _ = listening.accept()
                with asked:
                    while asked.recv(int.from_bytes(asked.recv(4)) - 4)[:2] == b"\x04\xd2":  # for TLS, say
                        asked.sendall(b"N")
                    said = b"SFATAL\0VFATAL\0C28P01\0M" + message + b"\0\0"
                    asked.sendall(b"E" + (len(said) + 4).to_bytes(4) + said)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=refuse)
        thread.start()
        try:
            yield f"postgresql://me:{PASSWORD}@127.0.0.1:{listening.getsockname()[1]}/db"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_a_server_that_refuses_in_its_own_language_is_told_in_one_line(lake: Lake, charset: str) -> None:
    """Before it knows the client's encoding it uses its own."""
    said = "Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen"
    with refusing(said.encode(charset)) as url:
        state, told = checked(url, T)["connect"]
        with pytest.raises(
            SourceError, match=r"can't connect to .*fehlgeschlagen; check ETL_SOURCE_URL"
        ) as run:
            Lake(url, lake.folder).sync(T)
    assert state == "missing"
    assert told == str(run.value)
    assert PASSWORD not in told


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            f"postgresql://me:{PASSWORD}@h1:5432,h2:5433/db?sslmode=require",
            "postgresql://me@h1:5432,h2:5433/db",
        ),
        (f"host=h password='{PASSWORD} x' dbname=db", "postgresql://h/db"),
        (f"postgresql://h/db?password={PASSWORD}&user=me", "postgresql://me@h/db"),
        (f"postgresql://me@h/db?sslpassword={PASSWORD}", "postgresql://me@h/db"),
        (f"postgresql://me:{PASSWORD}/x@h/db", "postgresql://…"),
        (f"postgresql://me:a@{PASSWORD}@h/db", "postgresql://…"),
        (f"password = {PASSWORD} host = h", "postgresql://h"),
        (f"{PASSWORD}", "postgresql://…"),
        ("service=ours", "the service ours"),
    ],
)
def test_no_way_to_write_it_shows_a_password(url: str, shown: str) -> None:
    assert addresses.database(url) == shown


# -- pools -----------------------------------------------------------------------------------------------------------


@contextmanager
def pool(lake: Lake, tmp_path: Path, mode: str, size: int = 4) -> Iterator[str]:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no PgBouncer is installed")
    parts = urlsplit(lake.url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = Path("/tmp") / f"etl-pool-{os.getpid()}-{port}"
    folder.mkdir(mode=0o755)
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pool.ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port} user=postgres password={parts.password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\nauth_file = {folder}/users\npool_mode = {mode}\n"
        f"default_pool_size = {size}\nlogfile = {folder}/log\n"
    )
    folder.chmod(0o777)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [program, "-q", *user, str(folder / "pool.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"postgresql://postgres@127.0.0.1:{port}{parts.path}"
        for _ in range(100):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)
        shutil.rmtree(folder)


def test_a_pool_of_transactions_is_refused_at_once_and_left_as_it_was(lake: Lake, tmp_path: Path) -> None:
    execute(lake.url, *_ROWS)
    with pool(lake, tmp_path, "transaction") as url:
        ours = Lake(url, lake.folder)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(
                SourceError, match=r"leads to a pooler in transaction mode .*reach the server directly"
            ) as told:
                ours.sync(T)
            assert time.monotonic() - started < 2
            assert "\n" not in str(told.value)
        assert checked(url, T)["connect"][0] == "missing"
        # Neither a claim nor a setting stays behind for whoever comes next.
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            assert cursor.fetchall() == [(0,)]
            cursor.execute("SHOW work_mem")
            assert cursor.fetchall() != [("64MB",)]


@pytest.mark.parametrize("size", [1, 8])
def test_a_pool_of_sessions_is_as_good_as_the_server(lake: Lake, tmp_path: Path, size: int) -> None:
    execute(lake.url, *_ROWS)
    with pool(lake, tmp_path, "session", size) as url:
        ours = Lake(url, lake.folder)
        ours.sync(T)
    assert lake.is_exact(T)


# -- advice ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (["REVOKE USAGE ON SCHEMA s FROM PUBLIC"], r"GRANT USAGE ON SCHEMA s TO reader_\d+"),
        (["GRANT USAGE ON SCHEMA s TO {role}"], r"GRANT SELECT ON s\.t TO reader_\d+; on single columns is not enough"),
        (
            ["GRANT USAGE ON SCHEMA s TO {role}", "GRANT SELECT ON s.t TO {role}", "ALTER TABLE s.t ENABLE ROW LEVEL SECURITY",
             "ALTER ROLE {role} SET row_security = off"],
            r"row_security is off for this role, .*ALTER ROLE reader_\d+ BYPASSRLS to read all rows",
        ),
    ],
)  # fmt: skip
def test_the_right_that_lacks_is_the_one_to_be_granted(lake: Lake, statements: list[str], told: str) -> None:
    execute(lake.url, "CREATE SCHEMA s", "CREATE TABLE s.t (id int PRIMARY KEY)")
    table = Table("t", "", {"id": "int"}, schema="s")
    with role(lake, *statements) as ours:
        with pytest.raises(SourceError, match=told):
            ours.sync(table)
        state, line = checked(ours.url, table)["table t"]
        assert state == "missing"
        assert "\n" not in line


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("CREATE VIEW t WITH (security_invoker) AS SELECT id, a FROM behind.kept", "GRANT SELECT ON kept TO"),
        ("CREATE VIEW t AS SELECT id, hidden() AS a FROM behind.kept", "GRANT EXECUTE ON FUNCTION hidden TO"),
    ],
)
def test_what_lacks_behind_a_view_is_named(lake: Lake, made: str, told: str) -> None:
    execute(
        lake.url,
        "CREATE SCHEMA behind; CREATE TABLE behind.kept (id int, a text); INSERT INTO behind.kept VALUES (1)",
        "CREATE FUNCTION hidden() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$; REVOKE EXECUTE ON FUNCTION hidden() FROM PUBLIC",
        made,
    )
    with role(lake) as ours, pytest.raises(SourceError, match=told):
        ours.sync(VIEW)


@pytest.fixture(scope="module")
def replicas(postgres_folder: Path) -> Iterator[tuple[str, str]]:
    """A primary, and a standby that gives way to it at once."""
    with replicated(postgres_folder, max_standby_streaming_delay="0") as urls:
        yield urls


def test_a_standby_is_read_though_its_transactions_are_to_be_serializable(
    replicas: tuple[str, str], tmp_path: Path
) -> None:
    """Which it can't have them; the setting comes from the primary."""
    primary, replica = replicas
    execute(primary, "CREATE TABLE v (id int PRIMARY KEY)", "INSERT INTO v VALUES (1)")
    lake, table = Lake(replica, tmp_path), Table("v", "", {"id": "int"})
    try:
        execute(primary, "ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'")
        catch_up(primary)
        lake.sync(table)
        assert lake.latest().tables["v"].rows == 1
        read_position(replica, [table])
        assert checked(replica, table)["table v"][0] == "ok"
    finally:
        execute(primary, "ALTER DATABASE postgres RESET default_transaction_isolation")
        catch_up(primary)


def at_all(*urls: str) -> str:
    """The URL at which any of some servers may answer, each time another one."""
    first, *others = map(urlsplit, urls)
    places = ",".join(f"{parts.hostname}:{parts.port}" for parts in (first, *others))
    return f"postgresql://{first.username}:{first.password}@{places}{first.path}?load_balance_hosts=random"


def test_of_servers_at_one_address_a_run_reads_one(replicas: tuple[str, str], tmp_path: Path) -> None:
    primary, replica = replicas
    tables = [Table(f"many_{n}", "", {"id": "int"}) for n in range(4)]
    for table in tables:
        execute(primary, f"CREATE TABLE {table.name} (id int PRIMARY KEY)", f"INSERT INTO {table.name} VALUES (1)")  # fmt: skip
    catch_up(primary)
    url = at_all(primary, replica)
    for _ in range(4):
        with take_snapshot(url, tables, lake=None, run_id="a test", connections=4, wait_seconds=1) as seen:
            ports = {connection.info.port for connection in seen.connections}
            assert (len(seen.connections), len(ports)) == (4, 1)
    assert checked(url, *tables)["snapshot"][0] == "ok"


def test_where_each_connection_leads_to_another_server_one_does_the_work(
    replicas: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a balancer of connections, of which nobody sees what is behind."""
    primary, replica = replicas
    tables = [Table(f"apart_{n}", "", {"id": "int"}) for n in range(2)]
    for table in tables:
        execute(primary, f"CREATE TABLE {table.name} (id int PRIMARY KEY)", f"INSERT INTO {table.name} VALUES (1)")  # fmt: skip
    catch_up(primary)
    turns = iter([primary, replica] * 3)
    monkeypatch.setattr(snapshot, "connect", lambda url, name, **given: connect(next(turns), name))
    lake = Lake(primary, tmp_path)
    lake.sync(*tables)
    assert lake.is_exact(*tables)
    assert next(turns) == primary  # two were asked for


def catch_up(primary: str) -> None:
    """Wait until the standby shows all that was committed."""
    with closing(psycopg2.connect(primary)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn()")
        ((written,),) = cursor.fetchall()
    wait_until(primary, f"(SELECT replay_lsn >= '{written}' FROM pg_stat_replication)")


@pytest.mark.fault("F8")
def test_a_standby_that_had_to_go_on_is_told_as_such(replicas: tuple[str, str], tmp_path: Path) -> None:
    primary, replica = replicas
    execute(primary, *_ROWS)
    lake = Lake(replica, tmp_path)
    wait_until(replica, "to_regclass('t') IS NOT NULL")
    lake.sync(T)
    with pytest.raises(StandbyConflict, match=r"conflict with recovery, .* set hot_standby_feedback = on"):
        read_while_the_primary_cleans_up(primary, replica)


def read_while_the_primary_cleans_up(primary: str, replica: str) -> None:
    with (
        take_snapshot(replica, [T], lake=None, run_id="a test", connections=1, wait_seconds=1) as seen,
        explained("reading table t"),
        seen.connections[0].cursor() as cursor,
    ):
        execute(primary, "UPDATE t SET a = 'y'", "VACUUM t", "UPDATE t SET a = 'z'", "VACUUM t")
        for _ in range(100):
            cursor.execute("SELECT count(*) FROM public.t")
            time.sleep(0.05)


# -- a source that moves ---------------------------------------------------------------------------------------------


def test_a_view_that_shows_something_else_each_time_is_named_with_the_reason(lake: Lake) -> None:
    table = Table("t", "", {"id": "int", "amount": "bigint"}, key=("id",))
    execute(
        lake.url,
        "CREATE VIEW t AS SELECT 1 AS id, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint AS amount",
    )
    with pytest.raises(
        Unproven,
        match=r"the amount of t add up to .* it is a view, and shows something else each time it is read",
    ):
        lake.sync(table)
    execute(lake.url, "DROP VIEW t; CREATE SEQUENCE s; CREATE FUNCTION many() RETURNS SETOF bigint LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN QUERY SELECT generate_series(1::bigint, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint % 1000); END $$",
            "CREATE VIEW t AS SELECT many AS id, 0::bigint AS amount FROM many()")  # fmt: skip
    with pytest.raises(
        Unproven, match=r"rows in the source, and .* were read, in the same snapshot; it is a view"
    ):
        lake.sync(table, deletion_brake=1.0)


def test_the_doctor_tells_of_what_is_declared_and_no_longer_so(lake: Lake) -> None:
    execute(
        lake.url, "CREATE TABLE k (code char(5) PRIMARY KEY, n int NOT NULL, a numeric(9,2), d date, t text)",
        "CREATE TABLE c (id int PRIMARY KEY, k varchar(8) REFERENCES k)",
    )  # fmt: skip
    tables = [
        Table("k", "", {"code": "text", "n": "int", "a": "numeric(9,2)?", "d": "date?", "t": "date?"}),
        Table("c", "", {"id": "int", "k": "text?"}),
    ]
    found = checked(lake.url, *tables)
    assert found["table k"] == ("ok", "5 columns, key (code)")
    assert found["foreign keys"][0] == "advice"
    assert "c.k refers to k.code: char(n) is compared without trailing blanks" in found["foreign keys"][1]
    execute(
        lake.url, "ALTER TABLE k ALTER n TYPE bigint, ALTER n DROP NOT NULL, ALTER a TYPE numeric(20,4), ALTER d TYPE timestamptz",
    )  # fmt: skip
    state, told = checked(lake.url, *tables)["table k"]
    assert state == "advice"
    assert (
        "n is bigint with NULL, declared int, a is numeric(20,4) with NULL, declared numeric(9,2)?, d is timestamp"
        in told
    )
    assert "t is text" not in told


def test_names_that_are_no_text_are_in_nobody_s_way_but_their_own(postgres_url: str, tmp_path: Path) -> None:
    name = f"bytes_{os.getpid()}"
    execute(
        postgres_url,
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
    )
    lake = Lake(f"{postgres_url.rsplit('/', 1)[0]}/{name}", tmp_path)
    try:
        execute(lake.url, *_ROWS)
        with closing(psycopg2.connect(lake.url, client_encoding="SQL_ASCII")) as connection, connection:
            connection.cursor().execute(b'CREATE TABLE "gr\xfcn" (id int PRIMARY KEY)')
            connection.cursor().execute(b'CREATE TABLE u (id int PRIMARY KEY, "gr\xfcn" int)')
        assert lake.sync(T)
        found = checked(lake.url, T)
        assert "missing" not in {state for state, _ in found.values()}
        assert "no UTF-8" in found["not declared"][1]
        with pytest.raises(
            SourceError, match=r"reading the source: .* no UTF-8 \(its server_encoding is SQL_ASCII"
        ):
            lake.sync(T, Table("u", "", {"id": "int"}))
    finally:
        execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def test_the_doctor_tells_of_tables_that_nothing_reads(lake: Lake) -> None:
    execute(
        lake.url, *_ROWS, "CREATE TABLE u (id int)", "CREATE SCHEMA other", "CREATE TABLE other.v (id int)"
    )
    assert checked(lake.url, T)["not declared"] == (
        "ok",
        "the source has public.u, which nothing reads (etl init --update shows them)",
    )
    execute(lake.url, "DROP TABLE u")
    assert "not declared" not in checked(lake.url, T)
