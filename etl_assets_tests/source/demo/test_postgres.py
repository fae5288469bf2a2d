"""The embedded server is shared while it is used, gone when it is not, and survives every way of being left."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from etl_assets.stand_ins import postgres
from etl_assets.stand_ins.postgres import EmbeddedPostgresError, find_binaries, serve, wheel_binaries

_USER = """
import sys
from pathlib import Path
from etl_assets.stand_ins.postgres import serve
with serve(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another user")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


@pytest.fixture(scope="module")
def cluster(postgres_folder: Path) -> Path:
    """A cluster that no test destroys; no server runs on it between tests."""
    folder = postgres_folder / "with 'odd' blanks ä" / ("long" * 25)
    with serve(folder):
        pass
    return folder


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def query(url: str, statement: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        if cursor.description is None:
            return None
        row = cursor.fetchone()
        return row[0] if row else None


def is_answered(url: str) -> bool:
    port = int(url.split(":")[-1].split("/")[0])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def user_process(folder: Path, processes: ExitStack) -> subprocess.Popen[str]:
    """Another process that uses the server until its input ends, in a session of its own."""
    command = [sys.executable, "-c", _USER, str(folder)]
    user = processes.enter_context(
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    )
    processes.callback(user.kill)
    return user


def url_of(user: subprocess.Popen[str]) -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def kill_server(folder: Path) -> None:
    pid = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while str(folder / "data") in postgres._command_line(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_data_stays_from_one_start_to_the_next(cluster: Path) -> None:
    with serve(cluster) as url:
        query(url, "create table kept as select 'é' as value")
    assert not is_answered(url)
    with serve(cluster) as url:
        assert query(url, "select value from kept") == "é"
        query(url, "drop table kept")


def test_the_server_is_reached_by_tcp_on_this_machine_only(cluster: Path) -> None:
    with serve(cluster, settings={"listen_addresses": "*", "work_mem": "7MB"}) as url:
        assert query(url, "show listen_addresses") == "127.0.0.1"
        assert query(url, "show unix_socket_directories") == ""
        assert query(url, "show work_mem") == "7MB"
        assert query(url, "show fsync") == "on"
        assert query(url, "show server_encoding") == "UTF8"


def test_two_users_share_one_server_and_the_last_stops_it(cluster: Path, processes: ExitStack) -> None:
    with serve(cluster) as url:
        other = user_process(cluster, processes)
        assert url_of(other) == url
    assert query(url, "select 1") == 1
    other.communicate()
    assert other.returncode == 0
    assert not is_answered(url)


def test_users_who_come_together_start_one_server(cluster: Path, processes: ExitStack) -> None:
    users = [user_process(cluster, processes) for _ in range(3)]
    urls = {url_of(user) for user in users}
    assert len(urls) == 1
    for user in users:
        user.communicate()
    assert {user.returncode for user in users} == {0}
    assert not is_answered(urls.pop())


def test_a_killed_user_leaves_nothing_to_unlock(cluster: Path, processes: ExitStack) -> None:
    user = user_process(cluster, processes)
    url = url_of(user)
    user.kill()
    user.wait()
    assert query(url, "select 1") == 1
    with serve(cluster) as joined:
        assert joined == url
    assert not is_answered(url)


def test_a_server_that_its_killed_starter_left_starting_is_waited_for(cluster: Path) -> None:
    pid_file = cluster / "data" / "postmaster.pid"
    with serve(cluster) as url:
        complete = pid_file.read_text()
        # As a starting server leaves it until it knows its port.
        pid_file.write_text("".join(complete.splitlines(keepends=True)[:3]))
        ready = threading.Timer(0.2, pid_file.write_text, [complete])
        ready.start()
        with serve(cluster) as joined:
            assert joined == url
        ready.join()


def test_an_interrupt_of_the_starters_group_does_not_reach_the_server(
    cluster: Path, processes: ExitStack
) -> None:
    starter = user_process(cluster, processes)
    url = url_of(starter)
    with serve(cluster):
        os.killpg(starter.pid, signal.SIGINT)
        starter.wait()
        assert query(url, "select 1") == 1
    assert not is_answered(url)


def test_an_error_of_the_user_passes_and_the_server_stops(cluster: Path) -> None:
    with pytest.raises(ZeroDivisionError), serve(cluster) as url:
        raise ZeroDivisionError
    assert not is_answered(url)


def test_a_crashed_server_is_started_again_with_what_was_committed(cluster: Path) -> None:
    with serve(cluster, settings={"synchronous_commit": "on"}) as url:
        query(url, "create table survivor as select 1 as value")
        kill_server(cluster)
    with serve(cluster) as url:
        assert query(url, "select value from survivor") == 1
        query(url, "drop table survivor")


def test_a_pid_file_that_names_another_process_after_a_crash_does_not_block_and_harms_nobody(
    cluster: Path,
) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        with serve(cluster):
            kill_server(cluster)
            pid_file = cluster / "data" / "postmaster.pid"
            lines = pid_file.read_text().splitlines()
            pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        assert bystander.poll() is None
        with serve(cluster) as url:
            assert query(url, "select 1") == 1
        assert bystander.poll() is None
        bystander.kill()


def test_a_port_of_another_server_is_not_taken_for_ours(cluster: Path, postgres_url: str) -> None:
    pid_file = cluster / "data" / "postmaster.pid"
    with serve(cluster):
        lines = pid_file.read_text().splitlines()
        kill_server(cluster)
    lines[3] = postgres_url.split(":")[-1].split("/")[0]
    pid_file.write_text("\n".join(lines) + "\n")
    with serve(cluster) as url:
        assert url != postgres_url
        assert query(url, "show data_directory") == str(cluster / "data")


def test_an_unfinished_creation_is_begun_anew(postgres_folder: Path) -> None:
    folder = postgres_folder / "unfinished"
    (folder / "data.unfinished" / "base").mkdir(parents=True)
    with serve(folder) as url:
        assert query(url, "select 1") == 1


def test_a_start_that_fails_tells_what_the_log_says(cluster: Path) -> None:
    with (
        pytest.raises(EmbeddedPostgresError, match="no_such_setting"),
        serve(cluster, settings={"no_such_setting": "1"}),
    ):
        pass
    with serve(cluster) as url:
        assert query(url, "select 1") == 1


def test_version_16_of_the_wheel_serves_too(postgres_folder: Path) -> None:
    with serve(postgres_folder / "sixteen", binaries=wheel_binaries(16)) as url:
        assert str(query(url, "show server_version")).startswith("16.")


def test_version_15_has_no_wheel() -> None:
    assert wheel_binaries(15) is None


def test_the_binaries_named_by_the_environment_come_before_the_wheels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sixteen = wheel_binaries(16)
    assert sixteen is not None
    assert find_binaries() == wheel_binaries(18)
    monkeypatch.setenv("ETL_POSTGRES_BIN", str(sixteen))
    assert find_binaries() == sixteen


@pytest.mark.fault("F42")
def test_a_folder_without_binaries_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=str(tmp_path)):
        find_binaries(tmp_path)


@as_root
def test_a_folder_that_the_servers_user_cannot_enter_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match="chmod o"), serve(tmp_path / "cluster"):
        pass


@as_root
def test_binaries_that_the_servers_user_cannot_enter_are_copied_once(
    cluster: Path, postgres_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = wheel_binaries(18)
    assert original is not None
    hidden = postgres_folder / "hidden"
    hidden.mkdir(mode=0o700)
    package = original.parent.parent
    shutil.copytree(original.parent, hidden / package.name / "pg")
    shutil.copytree(package.with_suffix(".libs"), hidden / f"{package.name}.libs")
    reachable = postgres_folder / "reachable"
    reachable.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(reachable))
    for _ in range(2):
        with serve(cluster, binaries=hidden / package.name / "pg" / "bin") as url:
            assert query(url, "select 1") == 1
    assert len(list(reachable.iterdir())) == 1


@as_user
def test_a_folder_of_another_user_is_refused() -> None:
    with pytest.raises(EmbeddedPostgresError, match="/proc/cluster"), serve(Path("/proc/cluster")):
        pass


# -- who may use it --------------------------------------------------------------------------------------------------


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}"))


def as_before(folder: Path) -> None:
    """What a folder was like before the server asked for a password."""
    with serve(folder) as url:
        query(url, "alter role postgres password null")
    (folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
    (folder / "password").unlink()


def test_it_asks_for_a_password_that_only_its_owner_can_read(cluster: Path) -> None:
    with serve(cluster) as url:
        assert query(url, "show password_encryption") == "scram-sha-256"
        for other in (without_password(url), url.replace(f":{urlsplit(url).password}@", ":postgres@")):
            with pytest.raises(psycopg2.OperationalError, match="password"):
                query(other, "select 1")
    assert stat.S_IMODE((cluster / "password").stat().st_mode) == 0o600
    assert (cluster / "password").stat().st_uid == os.geteuid()
    assert "trust" not in (cluster / "data" / "pg_hba.conf").read_text().split("# TYPE")[-1]


def test_every_folder_has_a_password_of_its_own(cluster: Path, postgres_folder: Path) -> None:
    with serve(postgres_folder / "another"):
        pass
    one, other = ((folder / "password").read_text() for folder in (cluster, postgres_folder / "another"))
    assert one != other
    assert min(len(one), len(other)) >= 32


@as_root
def test_another_user_of_the_machine_can_not_use_it(cluster: Path) -> None:
    """By the port, which everybody reaches, and by the file."""
    with serve(cluster) as url:
        asks = f"""
import os, sys, psycopg2
os.setgid(12345); os.setuid(12345)
try:
    psycopg2.connect({without_password(url)!r})
except psycopg2.OperationalError as error:
    assert "password" in str(error), error
else:
    sys.exit("connected")
try:
    open({str(cluster / "password")!r})
except PermissionError:
    sys.exit(0)
sys.exit("read")
"""
        done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_from_before_asks_from_the_next_start_on_and_keeps_its_data(postgres_folder: Path) -> None:
    folder = postgres_folder / "before"
    with serve(folder) as url:
        query(url, "create table kept as select 1 as value")
    as_before(folder)
    with serve(folder) as url:
        assert query(url, "select value from kept") == 1
        with pytest.raises(psycopg2.OperationalError, match="password"):
            query(without_password(url), "select 1")


def test_a_server_from_before_that_still_runs_is_joined(postgres_folder: Path) -> None:
    folder = postgres_folder / "running before"
    with serve(folder) as url:
        (folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
        query(url, "select pg_reload_conf()")
        (folder / "password").unlink()
        with serve(folder) as joined:
            assert joined == without_password(url)
            assert query(joined, "select 1") == 1


def test_a_creation_that_was_killed_after_the_password_was_chosen_is_begun_anew(
    postgres_folder: Path,
) -> None:
    folder = postgres_folder / "half"
    folder.mkdir()
    (folder / "password").write_text("of a cluster that was never finished")
    with serve(folder) as url:
        assert query(url, "select 1") == 1


def test_no_message_shows_the_password(cluster: Path) -> None:
    with serve(cluster):
        secret = (cluster / "password").read_text()
    with (
        pytest.raises(EmbeddedPostgresError) as failed,
        serve(cluster, settings={"no_such_setting": "1"}),
    ):
        pass
    assert secret not in str(failed.value)
    assert secret not in (cluster / "log").read_text()
