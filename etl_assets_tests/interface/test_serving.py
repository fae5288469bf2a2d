"""`etl ui` as a process: what it answers over a real socket, and what keeps it from starting."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from etl_assets.interface.serving import ServingError, taken
from etl_assets_tests.browser.interface import Interface, interface
from etl_assets_tests.interface.asking import ASKED, LAUNCH, Asked

ROOT = Path(__file__).parents[2]
# A source that refuses at once: nothing is generated, and no run is started by the sensor.
NOWHERE = {"ETL_SOURCE_URL": "postgresql://reader@127.0.0.1:1/nowhere"}
_RUNS = "{ runsOrError { ... on Runs { results { runId jobName } } } }"
_RELOAD = """
    mutation { reloadRepositoryLocation(repositoryLocationName: "etl_assets") { __typename } }
"""
_LISTEN = "subscription { locationStateChangeEvents { event { locationName eventType } } }"


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interface]:
    with interface(tmp_path_factory.mktemp("ui"), NOWHERE) as served:
        yield served


def environment(data: Path) -> dict[str, str]:
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("ETL_", "DAGSTER_", "PYTEST_"))}
    return inherited | NOWHERE | {"ETL_DATA": str(data), "PYTHONPATH": str(ROOT)}


def refused(data: Path, *arguments: str, **settings: str) -> str:
    """What `etl ui` says instead of starting, in one line; nothing that it started is left."""
    done = subprocess.run(
        [sys.executable, "-m", "etl_assets.cli", "ui", *arguments],
        cwd=data.parent,
        env=environment(data) | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    return done.stderr


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- what it answers -------------------------------------------------------------------------------------------------


@pytest.mark.many
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_real_socket_answers_the_same(ui: Interface, asked: Asked) -> None:
    at = str(urlsplit(ui.url).netloc)
    with closing(http.client.HTTPConnection(at, timeout=30)) as connection:
        connection.putrequest(asked.method, asked.path, skip_host=True)
        body = None if asked.body is None else asked.body.encode()
        for name, value in asked.headers_for(at).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        told = answer.read()
    assert (answer.status != 403) is asked.answered, told
    assert asked.answered or answer.status == 403


@pytest.mark.fault("F36")
def test_nothing_that_was_refused_was_done(ui: Interface) -> None:
    """After the requests above, each of which Dagster alone would have carried out."""
    assert ui.ask(_RUNS)["runsOrError"]["results"] == []
    # The same mutation, asked as it should be.
    assert ui.ask(LAUNCH)["launchRun"]["__typename"] == "LaunchRunSuccess"


def test_a_page_of_its_own_hears_of_changes_and_one_of_others_does_not(ui: Interface) -> None:
    at = f"ws://{urlsplit(ui.url).netloc}/graphql"
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        with (
            pytest.raises(InvalidStatus, match="403"),
            connect(at, origin=Origin(origin), subprotocols=[Subprotocol("graphql-ws")], proxy=None),
        ):
            pass
    with connect(at, origin=Origin(ui.url), subprotocols=[Subprotocol("graphql-ws")], proxy=None) as page:
        page.send(json.dumps({"type": "connection_init", "payload": {}}))
        assert json.loads(page.recv(10))["type"] == "connection_ack"
        page.send(json.dumps({"type": "start", "id": "1", "payload": {"query": _LISTEN}}))
        time.sleep(0.5)
        ui.ask(_RELOAD)
        told = json.loads(page.recv(60))
    assert told["payload"]["data"]["locationStateChangeEvents"]["event"]["locationName"] == "etl_assets"


# -- what keeps it from starting -------------------------------------------------------------------------------------


def test_a_second_one_on_the_same_history_is_not_started(ui: Interface) -> None:
    told = refused(ui.log.parent / "data", "--port", str(free_port()))
    assert told.startswith("etl: this history is served already, by process ")
    assert ui.url in told
    assert ui.ask("{ version }")


def test_a_port_that_is_taken_is_told_before_anything_is_started(ui: Interface, tmp_path: Path) -> None:
    port = str(urlsplit(ui.url).port)
    told = refused(tmp_path / "data", "--port", port)
    assert told == (
        f"etl: port {port} of 127.0.0.1 can't be had: address already in use; end what has it, or choose another with "
        "--port\n"
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.fault("F36")
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
def test_other_machines_are_let_in_only_by_who_says_so(host: str, tmp_path: Path) -> None:
    told = refused(tmp_path / "data", "--host", host, "--port", str(free_port()))
    assert told.startswith(f"etl: --host {host} ")
    assert "--let-anybody-on-the-network-control-this" in told
    assert not (tmp_path / "data").exists()


def test_the_flag_that_names_the_danger_lets_them_in() -> None:
    with closing(taken("0.0.0.0", free_port(), anybody=True)) as listener:  # noqa: S104
        assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104
    with pytest.raises(ServingError, match="has no login"):
        taken("0.0.0.0", free_port(), anybody=False)  # noqa: S104


def test_without_a_word_it_listens_on_this_machine_only(ui: Interface) -> None:
    port = urlsplit(ui.url).port
    listening = {
        c.laddr.ip
        for c in psutil.net_connections("tcp")
        if c.status == "LISTEN" and c.laddr and c.laddr.port == port
    }
    assert listening == {"127.0.0.1"}


# -- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F2")
@pytest.mark.slow
def test_after_a_kill_the_daemon_ends_too_and_the_next_one_starts_by_itself(tmp_path: Path) -> None:
    with interface(tmp_path, NOWHERE) as ui:
        (main,) = found("etl_assets.cli ui", tmp_path)
        (daemon,) = found("etl_assets.interface.daemon", tmp_path)
        main.kill()
        with interface(tmp_path, NOWHERE) as again:
            assert not daemon.is_running()
            assert again.ask("{ version }")
        assert again.started - ui.started < 60


@pytest.mark.fault("F2")
@pytest.mark.slow
def test_a_daemon_that_dies_ends_the_interface_with_a_word(tmp_path: Path) -> None:
    with interface(tmp_path, NOWHERE) as ui:
        (daemon,) = found("etl_assets.interface.daemon", tmp_path)
        (main,) = found("etl_assets.cli ui", tmp_path)
        daemon.kill()
        psutil.wait_procs([main], timeout=40)
        assert "etl: Dagster's daemon has ended" in ui.log.read_text()


@pytest.mark.slow
def test_a_daemon_that_was_started_otherwise_is_found(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").touch()
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    command = [
        f"{Path(sys.executable).with_name('dagster-daemon')}",
        "run",
        "-w",
        f"{tmp_path}/workspace.yaml",
    ]
    known = environment(tmp_path / "data") | {"DAGSTER_HOME": str(home)}
    with subprocess.Popen(
        command, env=known, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            time.sleep(1)
            told = refused(tmp_path / "data", "--port", str(free_port()), DAGSTER_HOME=str(home))
        finally:
            daemon.send_signal(signal.SIGINT)
            daemon.wait(60)
    assert told.startswith(f"etl: a daemon goes on with this history already, process {daemon.pid}: ")


def found(sign: str, folder: Path) -> list[psutil.Process]:
    """The processes of an interface whose data is below a folder."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            known: Mapping[str, str] = process.environ()
            if sign in " ".join(process.cmdline()) and str(folder) in known.get("ETL_DATA", ""):
                processes.append(process)
    return processes
