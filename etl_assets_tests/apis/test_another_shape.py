"""An API of another shape than those that ship, by `etl` commands alone: what is posted, a key and a total in headers, names with
blanks and dots in letters of the world, numbers as texts, fields that are NULL or not there."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pytest

from etl_assets import project
from etl_assets_tests.commands import etl, use
from etl_assets_tests.init.test_init import _anew

PROJECT = '''
from dataclasses import replace

from etl_assets.project import (
    Api, Column, Credential, Cursor, CsvFile, Header, PageNumber, Parameter, Rate, SqlExecute, SqlQuery, SqlWrite, Steps, Windows, fact
)

SALE = Api(
    "vente",
    "One row is a sale.",
    "http://127.0.0.1/",
    url_setting="SHOP_URL",
    columns={
        "number": "text", "price": "numeric(10,2)", "discount": "numeric(4,2)?", "buyer": "text", "city": "text?",
        "sold_at": "timestamptz", "paid": "boolean", "tags": "jsonb", "quantity": "int",
    },
    fields={
        "number": "№", "price": ("prix unitaire",), "discount": "remise", "buyer": ("acheteur", "nom.complet"),
        "city": "acheteur.ville", "sold_at": "vendu", "paid": "payé", "tags": "étiquettes", "quantity": "quantité",
    },
    key=("number",),
    records="résultats.éléments",
    total=Header("X-Total-Count"),
    body={"filter": {"vendu": {"gte": "{start:%d.%m.%Y}", "lt": "{end:%d.%m.%Y}"}}, "text": "{anything}"},
    paging=PageNumber("page.number", size="page.size", records=5, first=0),
    windows=Windows("week", since="2024-01-01"),
    credential=Credential("SHOP_KEY", header="X-Api-Key", form="{}"),
    rate=Rate(1_000),
)
FOLLOWED = replace(SALE, name="suivie", paging=Cursor(Header("X-Next"), "page.after", size="page.size", records=5))


@fact(
    key="number",
    record="sale_record_id",
    columns=[
        Column("number", "text"), Column("price", "numeric(10,2)"), Column("buyer", "text"), Column("city", "text?"),
        Column("quantity", "int"), Column("discount", "numeric(4,2)?"),
    ],
)
def fact_vente(vente):
    """One row is a sale."""
    return vente.select("number", "price", "buyer", "city", "quantity", "discount")


CITIES = Steps(
    "cities",
    "Sales by city, in SQLite.",
    [
        SqlQuery(
            "sold",
            "One row is a city.",
            sql="SELECT coalesce(city, '?') AS city, count(*) AS sales, CAST(sum(price * quantity) AS DOUBLE) AS amount "
            "FROM star.fact_vente_current WHERE price >= :least GROUP BY 1",
        ),
        SqlWrite("kept", "The same.", of="sold", table="cities", database="book", if_exists="replace"),
        SqlExecute("best", "Those with more.", sql="CREATE TEMPORARY TABLE best AS SELECT * FROM cities WHERE city <> :but",
                   database="book", after=["kept"]),
        SqlQuery("top", "One row is a city.", sql="SELECT city, sales FROM best", database="book", after=["best"]),
        CsvFile("top_csv", "The same.", of="top", path="{name}.csv"),
    ],
    parameters=[
        Parameter("least", "numeric(9,2)", "From which price on.", default="1"),
        Parameter("but", "text", "Left out.", default="'; DROP TABLE cities; --"),
        Parameter("name", "text", "Of the file.", default="top"),
    ],
)
'''


def sales(first: date, end: date) -> list[dict[str, Any]]:
    return [
        {
            "№": f"{day.isoformat()}/{n}",
            "prix unitaire": f"{7 * n + 1}.50",
            "acheteur": {
                "nom.complet": "李雷" if n else "Zoë Ångström",
                "ville": None if n == 1 else "Malmö",
            },
            "vendu": f"{day}T0{n}:00:00+02:00",
            "payé": n != 2,
            "étiquettes": ["a", {"ü": 1}],
            "quantité": str(n + 1),
            **({"remise": "0.10"} if n == 0 else {}),
        }
        for day in (first + timedelta(days=d) for d in range((end - first).days))
        for n in range(3)
    ]


@contextmanager
def shop() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A service that is asked by POST; and what was posted."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *_: object) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            """Answer a page of a search."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            posted.append(body)
            first, end = (date(*map(int, body["filter"]["vendu"][n].split(".")[::-1])) for n in ("gte", "lt"))
            found, page = sales(first, end), body["page"]
            begin = int(page.get("after", page.get("number", 0) * page["size"]))
            behind = begin + page["size"]
            more = {"X-Next": str(behind)} if behind < len(found) else {}
            told = {"résultats": {"éléments": found[begin:behind]}}
            right = (
                self.headers["X-Api-Key"] == "sesame" and self.headers["Content-Type"] == "application/json"
            )
            self.answer(
                200 if right else 401, told, {"X-Total-Count": f"items {begin}-{behind}/{len(found)}", **more}
            )

        def answer(self, status: int, told: Any, headers: dict[str, str]) -> None:
            content = json.dumps(told, ensure_ascii=False).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v2/recherche", posted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_project_over_an_api_that_is_asked_by_post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows E1 and E6, as a user has them who has nothing but the docs; and steps in SQLite, rows B1 to B8, in the same project."""
    with shop() as (url, posted):
        use(monkeypatch, tmp_path / "data", ETL_PROJECT="", ETL_SOURCE_URL="")
        monkeypatch.setattr(project, "load", _anew)
        for name, value in {
            "SHOP_URL": url,
            "SHOP_KEY": "sesame",
            "ETL_DATABASE_BOOK": f"sqlite:///{tmp_path}/book.sqlite",
        }.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "etl_project").mkdir()
        (tmp_path / "etl_project/__init__.py").touch()
        (tmp_path / "etl_project/shop.py").write_text(PROJECT, encoding="utf-8")
        checked = etl("check")
        assert "2 APIs called" in checked.output
        done = etl("fetch", "--limit", "1")
        assert done.exit_code == 0, done.output
        assert {body["text"] for body in posted} == {"{anything}"}
        assert len(posted) == 2 * 5
        assert {(len(body["page"]), "after" in body["page"]) for body in posted} == {
            (2, False),
            (1, False),
            (2, True),
        }
        verified = etl("verify")
        assert verified.exit_code == 0, verified.output
        with duckdb.connect(str(tmp_path / "data/warehouse.duckdb"), read_only=True) as warehouse:
            found = warehouse.execute(
                "FROM (SELECT * EXCLUDE (sale_record_id, batch, deleted) FROM star.fact_vente) ORDER BY 1"
            ).fetchall()
        expected = [
            (
                one["№"],
                one["prix unitaire"],
                one["acheteur"]["nom.complet"],
                one["acheteur"]["ville"],
                int(one["quantité"]),
                one.get("remise"),
            )
            for one in sales(date(2024, 1, 1), date(2024, 1, 8))
        ]
        assert [(n, str(p), b, c, q, d and str(d)) for n, p, b, c, q, d in found] == expected
        asked = len(posted)
        ran = etl("steps", "cities")
        assert ran.exit_code == 0, ran.output
        lines = (tmp_path / "data/files/top.csv").read_text(encoding="utf-8").splitlines()
        assert sorted(lines) == ['"?",7', '"Malmö",14', '"city","sales"']
        refused = etl("steps", "cities", "--set", "name=../top")
        assert refused.exit_code == 1
        assert len(posted) == asked
