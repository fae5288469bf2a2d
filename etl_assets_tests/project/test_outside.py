"""A project that somebody keeps elsewhere, over a schema of theirs and with a reference file: every command works on it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from etl_assets.definitions import definitions
from etl_assets.project import read
from etl_assets.settings import Settings
from etl_assets_tests.capture.comparing import execute
from etl_assets_tests.commands import etl, use

SOURCE = (
    "CREATE SCHEMA parts",
    'CREATE TABLE parts."Part" (id int PRIMARY KEY, name text NOT NULL, colour text NOT NULL, price numeric(8,2) NOT NULL)',
    "CREATE TABLE parts.sale (no int PRIMARY KEY, part int NOT NULL, sold_on date NOT NULL, pieces int NOT NULL)",
    "INSERT INTO parts.\"Part\" VALUES (1, 'bolt', 'R', 0.10), (2, 'nut', 'G', 0.05), (3, 'washer', 'X', 0.02)",
    "INSERT INTO parts.sale SELECT n, 1 + n % 3, DATE '2026-01-01' + n, n FROM generate_series(1, 40) n",
)
MODULES = {
    "__init__.py": 'from etl_assets.project import Options\n\nOPTIONS = Options(workbook="Parts", owners=["team:parts", "shop@example.com"])\n',
    "tables.py": """
from etl_assets.project import Table

PART = Table(
    "Part",
    "One row is a part.",
    {"id": "int", "name": "text", "colour": "text", "price": "numeric(8,2)"},
    schema="parts",
    as_="part",
)
SALE = Table(
    "sale",
    "One row is a sale.",
    {"no": "int", "part": "int", "sold_on": "date", "pieces": "int"},
    schema="parts",
)
""",
    "star.py": """
import narwhals as nw

from etl_assets.project import Column, calendar, dimension, fact
from my_parts.words import shouted


@dimension(
    key="part_id",
    columns=[Column("part_id", "int"), Column("name", "text"), Column("colour", "text?"), Column("price", "numeric(8,2)")],
)
def dim_part(part: nw.LazyFrame, colours: nw.LazyFrame) -> nw.LazyFrame:
    \"\"\"One row is a part with the name of its colour.\"\"\"
    named = part.join(colours, left_on="colour", right_on="code", how="left")
    return named.select(nw.col("id").alias("part_id"), shouted("name"), nw.col("colour_name").alias("colour"), "price")


@fact(
    key="no",
    record="sale_record_id",
    columns=[
        Column("no", "int"),
        Column("part_id", "int", references="dim_part"),
        Column("sold_on", "date", references="dim_date"),
        Column("pieces", "int"),
    ],
)
def fact_sale(sale: nw.LazyFrame) -> nw.LazyFrame:
    \"\"\"One row is a version of a sale.\"\"\"
    return sale.select("no", nw.col("part").alias("part_id"), "sold_on", "pieces")


dim_date = calendar()
""",
    "words.py": """
import narwhals as nw


def shouted(name: str) -> nw.Expr:
    return nw.col(name).str.to_uppercase()
""",
    "reports.py": """
import pandas as pd

from etl_assets.project import ReportColumn, report


@report(
    title="Pieces",
    key=["name"],
    columns=[ReportColumn("name", "text"), ReportColumn("pieces", "bigint")],
    query="SELECT p.name, CAST(SUM(s.pieces) AS BIGINT) AS pieces FROM star.fact_sale_current AS s "
    "JOIN star.dim_part AS p ON p.part_id = s.part_id GROUP BY p.name",
    control="SELECT CAST(SUM(s.pieces) AS BIGINT) AS pieces FROM star.fact_sale_current AS s",
)
def pieces_by_part(pieces: pd.DataFrame) -> pd.DataFrame:
    \"\"\"One row is a part and how many of it were sold.\"\"\"
    return pieces
""",
    "colours.csv": "code,colour_name\nR,red\nG,green\n",
}


@pytest.fixture(scope="module")
def begun(module_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The source's URL, and a folder with the project and what a run of it keeps."""
    folder = tmp_path_factory.mktemp("outside")
    url = module_database()
    execute(url, *SOURCE)
    (folder / "my_parts").mkdir()
    for name, text in MODULES.items():
        (folder / "my_parts" / name).write_text(text.lstrip())
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder / "data", ETL_SOURCE_URL=url, ETL_PROJECT=str(folder / "my_parts"))
        assert etl("run").exit_code == 0
    return url, folder


@pytest.fixture
def project(begun: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    url, folder = begun
    use(monkeypatch, folder / "data", ETL_SOURCE_URL=url, ETL_PROJECT="my_parts")
    return folder


def told(*arguments: str) -> dict[str, object]:
    done = etl(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_its_warehouse_is_what_its_functions_give(project: Path) -> None:
    with duckdb.connect(project / "data/warehouse.duckdb", read_only=True) as warehouse:
        ask = warehouse.sql
        assert ask("SELECT name, colour FROM star.dim_part ORDER BY part_id").fetchall() == [
            ("BOLT", "red"), ("NUT", "green"), ("WASHER", None),
        ]  # fmt: skip
        assert ask("SELECT count(*), sum(pieces) FROM star.fact_sale_current").fetchall() == [(40, 820)]
        assert ask("SELECT count(*) FROM star.dim_date").fetchall() == [(40,)]
        assert ask("SELECT sum(pieces) FROM reporting.pieces_by_part").fetchall() == [(820,)]
    assert (project / "data/reports.xlsx").exists()


def test_every_command_works_on_it(project: Path) -> None:
    execute(_url(), "UPDATE parts.sale SET pieces = 100 WHERE no = 7", "DELETE FROM parts.sale WHERE no = 8")
    assert told("run")["batch"] == "000002"
    assert "sale" in json.dumps(told("changes"))
    assert told("verify", "--thorough")["equal"] is True
    status = told("status")
    assert set(status["star"]["tables"]) == {"dim_part", "fact_sale", "dim_date"}  # type: ignore[index]
    assert "pieces_by_part" in json.dumps(told("explain", "sale", "7"))
    assert etl("history", "fact_sale", "--batch", "1").exit_code == 0
    assert told("quarantine")["quarantined"] == []
    doctor = etl("doctor")
    assert "table part" in doctor.stdout
    assert doctor.exit_code == 0, doctor.stdout
    assert etl("files", "fact_sale").exit_code == 0
    assert "totesys" not in (etl("status").stdout + doctor.stdout).lower()


def test_a_database_of_another_project_is_told_in_one_short_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the folder of a project nobody names it."""
    url = _url()
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL=url)
    monkeypatch.chdir(project / "my_parts")
    (line,) = [line for line in etl("run").stderr.splitlines() if line.startswith("etl: ")]
    assert "none of the 11 tables of the project totesys (" in line
    assert "ETL_PROJECT=. where it is this folder" in line
    assert len(line) < 400


def test_messages_and_help_name_its_tables(project: Path) -> None:
    told = etl("run", "--select", "nonsense").stderr
    assert re.search(r"write star/(dim_part|fact_sale), star/\*, \+star/(dim_part|fact_sale) \(", told)
    for command in ("run", "history", "files", "init"):
        assert not re.search("staff|sales_order|payment", etl(command, "--help").output), command


def _url() -> str:
    import os

    return os.environ["ETL_SOURCE_URL"]


def test_the_definitions_name_nobody_elses_tables(project: Path) -> None:
    import os

    defs = definitions(Settings.read(os.environ))
    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert {
        "source/part",
        "raw/part",
        "star/dim_part",
        "warehouse/fact_sale",
        "exports/pieces_by_part",
    } <= keys
    assert {"exports/parts_workbook", "source/colours"} <= keys
    assert not [key for key in keys if "staff" in key or "sales_order" in key]
    owners = {tuple(spec.owners) for spec in defs.resolve_all_asset_specs()}
    assert owners == {("team:parts", "shop@example.com"), ("team:operations",)}
    assert isinstance(defs, dg.Definitions)


def test_an_edit_of_its_function_or_of_what_it_uses_makes_just_its_assets_stale(
    project: Path, tmp_path: Path
) -> None:
    was = read(project / "my_parts")
    edited = tmp_path / "my_parts"
    shutil.copytree(project / "my_parts", edited, ignore=shutil.ignore_patterns("__pycache__"))
    same = read(edited)
    versions = {name: made.code_version for name, made in was.star.items()}
    assert {name: made.code_version for name, made in same.star.items()} == versions
    words = edited / "words.py"
    words.write_text(words.read_text().replace("to_uppercase", "to_lowercase"))
    now = read(edited)
    assert [name for name, made in now.star.items() if made.code_version != versions[name]] == ["dim_part"]


def test_what_a_run_would_do_is_told_and_not_done(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, then rows that were written, then a function that was edited, then a column that it gives no longer."""
    etl("run")
    kept = {path: path.stat().st_mtime_ns for path in (project / "data/lake").rglob("*")}

    def planned() -> tuple[dict[str, str], dict[str, str]]:
        found = told("plan")
        reads = {r["table"]: f"{r['read']} {r['written']}" for r in found["reads"]}  # type: ignore[attr-defined]
        return reads, {m["table"]: m["what"] for m in found["star"]}  # type: ignore[attr-defined]

    nothing = {"dim_part": "nothing", "fact_sale": "nothing", "dim_date": "nothing"}
    assert planned() == ({"part": "horizon 0", "sale": "horizon 0"}, nothing)
    execute(_url(), "UPDATE parts.sale SET pieces = 5 WHERE no = 9")
    reads, star = planned()
    assert reads == {"part": "horizon 0", "sale": "horizon 1"}
    assert star == {"dim_part": "nothing", "fact_sale": "update", "dim_date": "update"}
    edited = tmp_path / "my_parts"
    shutil.copytree(project / "my_parts", edited, ignore=shutil.ignore_patterns("__pycache__"))
    (edited / "words.py").write_text((edited / "words.py").read_text().replace("upper", "lower"))
    star_py = edited / "star.py"
    star_py.write_text(
        star_py.read_text().replace(', Column("price", "numeric(8,2)")', "").replace(', "price")', ")")
    )
    monkeypatch.setenv("ETL_PROJECT", str(edited))
    shown = etl("plan")
    assert shown.exit_code == 0
    line = next(line for line in shown.stdout.splitlines() if line.startswith("dim_part"))
    assert "made anew" in line
    assert "its contract changed: price is declared no longer: 1 batches are gone through again" in line
    assert "it reads dim_part" in next(x for x in shown.stdout.splitlines() if x.startswith("pieces_by"))
    assert "loses price, which it is no longer declared with" in shown.stdout
    for file, old, new, why in (
        ("words.py", "upper", "lower", "its code, its contract or the reference file colours changed: 1 batches"),
        ("colours.csv", "R,red", "R,rot", "the reference file colours changed: 1 batches"),
        ("tables.py", '"price": "numeric(8,2)"', '"price": "numeric(8,2)?"', "the declared types of part changed: 1 batches"),
    ):  # fmt: skip
        other = tmp_path / file.partition(".")[0] / "my_parts"  # a process reads a project once
        shutil.copytree(project / "my_parts", other, ignore=shutil.ignore_patterns("__pycache__"))
        text = (other / file).read_text()
        assert old in text
        (other / file).write_text(text.replace(old, new))
        monkeypatch.setenv("ETL_PROJECT", str(other))
        rows: list[dict[str, str]] = told("plan", "--offline")["star"]  # type: ignore[assignment]
        assert next(row["why"] for row in rows if row["table"] == "dim_part").startswith(why)
    monkeypatch.setenv("ETL_PROJECT", str(project / "my_parts"))
    execute(_url(), "CREATE TABLE kept AS SELECT * FROM parts.sale", "DELETE FROM parts.sale WHERE no > 20")
    stopped = etl("plan")
    execute(_url(), "INSERT INTO parts.sale SELECT * FROM kept WHERE no > 20", "DROP TABLE kept")
    assert stopped.exit_code == 1
    assert (
        "the run would stop: 20 of 39 rows of sale are gone from the source, more than 20%" in stopped.stderr
    )
    assert {path: path.stat().st_mtime_ns for path in (project / "data/lake").rglob("*")} == kept


def test_a_table_that_no_run_has_read_yet_is_why_another_would_be_made_anew(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = tmp_path / "my_parts"
    shutil.copytree(project / "my_parts", edited, ignore=shutil.ignore_patterns("__pycache__"))
    with (edited / "tables.py").open("a") as tables:
        tables.write('MAKER = Table("maker", "One row is a maker.", {"id": "int"}, schema="parts")\n')
    star = (edited / "star.py").read_text()
    (edited / "star.py").write_text(star.replace("colours: nw", "maker: nw.LazyFrame, colours: nw"))
    monkeypatch.setenv("ETL_PROJECT", str(edited))
    rows: list[dict[str, str]] = told("plan", "--offline")["star"]  # type: ignore[assignment]
    why = next(row["why"] for row in rows if row["table"] == "dim_part")
    assert why == "it is made from maker now, of which the lake holds nothing yet"


def test_what_a_run_would_ask_before_it_replays_is_asked_by_the_plan(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etl("run")
    for number in (1, 2):
        execute(_url(), f"UPDATE parts.sale SET pieces = pieces + {number} WHERE no = 3")
        assert etl("run").exit_code == 0
    edited = tmp_path / "my_parts"
    shutil.copytree(project / "my_parts", edited, ignore=shutil.ignore_patterns("__pycache__"))
    star = (edited / "star.py").read_text()
    (edited / "star.py").write_text(star.replace('"sold_on", "pieces")', '"sold_on", nw.col("pieces"))'))
    monkeypatch.setenv("ETL_PROJECT", str(edited))
    monkeypatch.setenv("ETL_REPLAY_BATCHES", "2")
    planned = etl("plan", "--offline")
    asked = next(line for line in planned.stderr.splitlines() if "fact_sale was made by other code" in line)
    assert planned.exit_code == 1
    assert "--replay star/fact_sale" in asked
    assert "fact_sale  left as it is  fact_sale was made by other code" in planned.stdout
    run = etl("run")
    assert run.exit_code == 1
    assert asked.removeprefix("etl: ") in run.stderr
