"""A page of somebody else, open in the same browser: it can start, stop and read nothing through the interface."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from etl_assets_tests.browser.chromium import chromium
from etl_assets_tests.browser.interface import Interface, interface

pytestmark = pytest.mark.browser

_NOWHERE = {"ETL_SOURCE_URL": "postgresql://reader@127.0.0.1:1/nowhere"}
_LAUNCH = """mutation { launchRun(executionParams: {mode: "default", selector: {
    repositoryLocationName: "etl_assets", repositoryName: "__repository__", jobName: "forget_old_runs"}})
    { __typename } }"""
_STOP = 'mutation { stopSensor(id: "ID") { __typename } }'
_STATE = """{ runsOrError { ... on Runs { results { runId } } }
    sensorOrError(sensorSelector: {repositoryLocationName: "etl_assets", repositoryName: "__repository__",
        sensorName: "code_changed"}) { ... on Sensor { sensorState { id status } } } }"""
# Every way in which a page can have a browser ask: `attack(at, queries)` gives what it could read of the answers.
_ATTACK = """
async ([at, queries]) => {
    const read = [];
    const tell = async (how, answer) => {
        try { const got = await answer; const text = await got.text(); if (text) read.push([how, got.status, text]); }
        catch (error) { /* the browser does not hand it over */ }
    };
    for (const query of queries) {
        const asked = at + "/graphql?query=" + encodeURIComponent(query);
        const body = JSON.stringify({query});
        await tell("get", fetch(asked));
        await tell("get no-cors", fetch(asked, {mode: "no-cors"}));
        await tell("post", fetch(asked, {method: "POST"}));
        await tell("text", fetch(asked, {method: "POST", body, mode: "no-cors"}));
        await tell("text as json", fetch(at + "/graphql", {method: "POST", body, mode: "no-cors",
            headers: {"Content-Type": "text/plain; charset=application/json"}}));
        await tell("json", fetch(at + "/graphql", {method: "POST", body, headers: {"Content-Type": "application/json"}}));
        await new Promise(done => { const one = new Image(); one.onload = one.onerror = done; one.src = asked; });
        await new Promise(done => {
            const one = document.createElement("script"); one.onload = one.onerror = done; one.src = asked;
            document.body.append(one);
        });
        for (const method of ["get", "post"]) {
            const frame = document.createElement("iframe"); frame.name = "f" + Math.random();
            document.body.append(frame);
            const form = document.createElement("form");
            form.action = method == "get" ? at + "/graphql" : asked; form.method = method; form.target = frame.name;
            form.enctype = "text/plain";
            const field = document.createElement("input"); field.name = "query"; field.value = query;
            form.append(field); document.body.append(form); form.submit();
            await new Promise(done => setTimeout(done, 300));
        }
        navigator.sendBeacon(asked, body);
    }
    await new Promise(done => {
        const socket = new WebSocket(at.replace("http", "ws") + "/graphql", "graphql-ws");
        socket.onopen = () => { read.push(["socket", 101, "open"]); done(); };
        socket.onerror = socket.onclose = done;
    });
    const frame = document.createElement("iframe"); frame.src = at + "/runs";
    await new Promise(done => { frame.onload = frame.onerror = done; document.body.append(frame); });
    return read;
}
"""


class _Evil(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>cats</title><body>cats</body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interface]:
    with interface(tmp_path_factory.mktemp("doors"), _NOWHERE) as served:
        yield served


@pytest.fixture(scope="module")
def evil() -> Iterator[int]:
    """The port of another site on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Evil) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for which every name of the evil site leads to this machine."""
    with chromium("--host-resolver-rules=MAP evil.example 127.0.0.1") as started:
        yield started


def state(ui: Interface) -> tuple[int, str, str]:
    """How many runs there are, and the sensor's id and whether it is on."""
    found = ui.ask(_STATE)
    sensor = found["sensorOrError"]["sensorState"]
    return len(found["runsOrError"]["results"]), sensor["id"], sensor["status"]


@pytest.mark.fault("F36")
@pytest.mark.parametrize("at", ["http://evil.example", "http://127.0.0.1", "http://localhost"])
def test_a_page_of_another_origin_starts_stops_and_reads_nothing(
    ui: Interface, evil: int, browser: Any, at: str
) -> None:
    _, sensor, _ = state(ui)
    page = browser.new_page()
    page.goto(f"{at}:{evil}/")
    for name in ("127.0.0.1", "localhost"):
        target = f"http://{name}:{urlsplit(ui.url).port}"
        queries = [_LAUNCH, _STOP.replace("ID", sensor), "{ version }"]
        assert page.evaluate(_ATTACK, [target, queries]) == [], target
    page.close()
    time.sleep(1)
    assert state(ui) == (0, sensor, "RUNNING")


def test_a_page_that_makes_the_browser_take_its_name_for_this_machine_reads_nothing(
    ui: Interface, evil: int, browser: Any
) -> None:
    """Its origin is the interface's then: what is left to tell it by is its name."""
    _, sensor, _ = state(ui)
    page = browser.new_page()
    target = f"http://evil.example:{urlsplit(ui.url).port}"
    answer = page.goto(target)
    assert (answer.status, "evil" in answer.text()) == (403, False)
    read = page.evaluate(_ATTACK, [target, [_LAUNCH, _STOP.replace("ID", sensor), "{ version }"]])
    assert {(status, text.splitlines()[0].partition(":")[0]) for _, status, text in read} == {
        (403, "refused")
    }
    page.close()
    assert state(ui) == (0, sensor, "RUNNING")


def test_the_interface_s_own_page_works_and_listens(ui: Interface, browser: Any) -> None:
    page = browser.new_page()
    heard: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: heard.append(str(frame))))
    page.goto(f"{ui.url}/locations")
    page.get_by_text("etl_assets", exact=True).first.wait_for()
    deadline = time.monotonic() + 20
    while not heard and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert json.loads(heard[0])["type"] == "connection_ack"
    page.close()


def test_a_link_in_a_mail_opens_the_interface(ui: Interface, evil: int, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"http://evil.example:{evil}/")
    page.evaluate(
        "at => { const a = document.createElement('a'); a.href = at; document.body.append(a); a.click(); }",
        f"{ui.url}/runs",
    )
    page.wait_for_url(f"{ui.url}/runs**")
    page.get_by_text("Runs", exact=True).first.wait_for()
    page.close()
