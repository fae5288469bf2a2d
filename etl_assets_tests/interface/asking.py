"""Requests that a browser, a program or an attacker may send to the interface, and which of them it answers."""

import json
from dataclasses import dataclass, field

JSON = {"Content-Type": "application/json"}
LAUNCH = """
    mutation { launchRun(executionParams: {mode: "default", selector: {
        repositoryLocationName: "etl_assets", repositoryName: "__repository__", jobName: "forget_old_runs"}})
      { __typename } }
"""
QUERY = json.dumps({"query": "{ version }"})
MUTATION = json.dumps({"query": LAUNCH})
NAVIGATION = {
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Accept": "text/html",
}


@dataclass(frozen=True)
class Asked:
    """A request; `{host}` in a header stands for the name and port that the interface is asked by."""

    name: str
    answered: bool
    method: str = "GET"
    path: str = "/server_info"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None

    def headers_for(self, host: str) -> dict[str, str]:
        given = {name: value.replace("{host}", host) for name, value in self.headers.items()}
        return {"Host": host, **given}

    def __str__(self) -> str:
        return self.name


def _post(name: str, answered: bool, headers: dict[str, str], body: str = MUTATION) -> Asked:
    return Asked(name, answered, "POST", "/graphql", headers, body)


ASKED = [
    # Programs, and the interface's own pages.
    Asked("a program reads", True),
    _post("a program queries", True, JSON, QUERY),
    _post("a program queries in UTF-8", True, {"Content-Type": "application/json; charset=utf-8"}, QUERY),
    _post(
        "its own page queries", True, {**JSON, "Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, QUERY
    ),
    Asked("its own page behind TLS", True, headers={"Origin": "https://{host}"}),
    Asked("an address is typed", True, path="/runs", headers={"Sec-Fetch-Site": "none", "Accept": "text/html"}),
    Asked("a link in a mail is followed", True, path="/runs", headers=NAVIGATION),
    Asked("the playground", True, path="/graphql", headers={"Accept": "text/html"}),
    Asked("by another of its names", True, headers={"Host": "localhost"}),
    Asked("by an address", True, headers={"Host": "[::1]:8080"}),
    # Another name: a page that made the browser take its own name for this machine.
    Asked("a rebound name", False, headers={"Host": "evil.example:3000"}),
    Asked("a rebound name that begins as ours", False, headers={"Host": "localhost.evil.example"}),
    Asked("a rebound name with digits", False, headers={"Host": "127.0.0.1.evil.example"}),
    Asked("a name before an @", False, headers={"Host": "evil.example@localhost"}),
    _post("a rebound name queries", False, {**JSON, "Host": "evil.example", "Origin": "http://evil.example"}),
    # Another origin.
    Asked("a foreign page reads", False, headers={"Origin": "https://evil.example"}),
    Asked("a page of another port reads", False, headers={"Origin": "http://localhost:1"}),
    Asked("a sandboxed page reads", False, headers={"Origin": "null"}),
    Asked("an origin that begins as ours", False, headers={"Origin": "http://{host}.evil.example"}),
    Asked("an origin that ends as ours", False, headers={"Origin": "http://evil.example/http://{host}"}),
    _post("a foreign page queries", False, {**JSON, "Origin": "https://evil.example"}),
    _post("a sandboxed page queries", False, {**JSON, "Origin": "null"}),
    _post("a foreign form", False, {"Content-Type": "text/plain", "Origin": "https://evil.example"}),
    Asked(
        "a foreign page reports an asset", False, "POST", "/report_asset_materialization/raw/staff",
        {"Origin": "https://evil.example"}, "",
    ),
    # Another site, by browsers that send no origin with what they only read.
    Asked("a foreign image", False, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
    Asked("an image of another port", False, headers={"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}),
    Asked("a foreign frame", False, path="/", headers={**NAVIGATION, "Sec-Fetch-Dest": "iframe"}),
    Asked("a foreign form leads here", False, "POST", "/runs", {**NAVIGATION, **JSON}, ""),
    Asked("a foreign link to the playground", False, path="/graphql", headers=NAVIGATION),
    _post("a foreign site queries", False, {**JSON, "Sec-Fetch-Site": "cross-site"}),
    # Queries in a form that needs no permission.
    Asked("a query in the address", False, path="/graphql?query=%7Bversion%7D"),
    Asked("an escaped path", False, path="/%67raphql?query=%7Bversion%7D"),
    Asked("a query of what was asked for", False, "HEAD", "/graphql?query=%7Bversion%7D"),
    Asked("a query that any content is fine for", False, path="/graphql?query=%7Bversion%7D", headers={"Accept": "*/*"}),
    # Dagster compares as it is written: this one it carries out. A page may send it without asking.
    Asked("a query that asks loudly for a page", False, path="/graphql?query=%7Bversion%7D", headers={"Accept": "TEXT/HTML"}),
    Asked(
        "a query that names a page elsewhere", False, path="/graphql?query=%7Bversion%7D",
        headers={"Content-Type": "text/plain; a=:text/html", "Accept": "*/*"},
    ),
    _post("a form", False, {"Content-Type": "text/plain"}),
    _post("a form that says JSON as well", False, {"Content-Type": "text/plain; a=application/json"}),
    _post("a form of fields", False, {"Content-Type": "application/x-www-form-urlencoded"}),
    _post("no kind at all", False, {}),
]  # fmt: skip
