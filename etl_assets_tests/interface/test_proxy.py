"""The proxy of the composition has the rules of `etl ui`: a browser sends the password along whoever's page asks.

They are tried with a real nginx, on the PATH or named by ETL_TESTS_NGINX.
"""

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from etl_assets_tests.interface.asking import ASKED, Asked

RULES = Path(__file__).parents[2] / "deploy" / "proxy.conf"
NGINX = os.environ.get("ETL_TESTS_NGINX") or shutil.which("nginx")
ADA = {"Authorization": "Basic YWRhOmxvdmVsYWNl"}  # ada:lovelace

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx")


class _Webserver(BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.send_response(101 if self.headers.get("Upgrade") else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("proxy")
    folder.chmod(0o755)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "users").write_text("ada:{PLAIN}lovelace\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Webserver) as webserver:
        thread = threading.Thread(target=webserver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        rules = RULES.read_text()
        for there, here in {
            "listen 8080": f"listen 127.0.0.1:{port}",
            "webserver:3000": f"127.0.0.1:{webserver.server_port}",
            "/run/secrets/ui-users": str(folder / "users"),
        }.items():
            assert there in rules
            rules = rules.replace(there, here)
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; user root; pid {folder}/pid; error_log {folder}/errors;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}{rules}\n}}\n"
        )
        assert NGINX is not None
        with subprocess.Popen([NGINX, "-e", folder / "errors", "-c", folder / "nginx.conf"]) as server:
            try:
                for _ in range(100):
                    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 1)):
                        break
                    assert server.poll() is None, (folder / "errors").read_text()
                    time.sleep(0.05)
                yield f"127.0.0.1:{port}"
            finally:
                server.terminate()
                server.wait(10)
                webserver.shutdown()
                thread.join()


def status(proxy: str, method: str, path: str, headers: dict[str, str], body: str | None = None) -> int:
    with closing(http.client.HTTPConnection(proxy, timeout=10)) as connection:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode() if body else None)
        return connection.getresponse().status


@pytest.mark.fault("F36")
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_proxy_answers_the_same(proxy: str, asked: Asked) -> None:
    headers = asked.headers_for(proxy)
    found = status(proxy, asked.method, asked.path, headers | ADA, asked.body)
    assert (found == 200) is asked.answered, found
    # Without the password nobody is answered, and nobody is told more.
    assert status(proxy, asked.method, asked.path, headers, asked.body) in {400, 401, 403, 405}


@pytest.mark.parametrize(("origin", "listens"), [("http://{}", True), ("https://evil.example", False)])
def test_its_own_page_listens_to_runs(proxy: str, origin: str, listens: bool) -> None:
    headers = {"Host": proxy, "Origin": origin.format(proxy), "Upgrade": "websocket", "Connection": "Upgrade"}
    assert status(proxy, "GET", "/graphql", headers | ADA) == (101 if listens else 403)


def test_its_health_is_told_to_everybody(proxy: str) -> None:
    assert status(proxy, "GET", "/healthy", {"Host": "localhost"}) == 204
