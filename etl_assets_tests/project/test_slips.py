"""What is misspelt in a project is refused when it loads, in one line with its place and what to write."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from etl_assets.project import Project, ProjectError, load, read
from etl_assets_tests.commands import etl, use

TABLES = """
from etl_assets.project import Table

ITEM = Table("item", "One row is an item.", {"id": "int", "name": "text?", "cat_id": "int?", "made": "date?"})
CAT = Table("cat", "One row is a category.", {"id": "int", "label": "text"})
"""
STAR = """
import narwhals as nw

from etl_assets.project import Column, calendar, dimension, fact


@dimension(key="id", columns=[Column("id", "int"), Column("label", "text")])
def dim_cat(cat: nw.LazyFrame) -> nw.LazyFrame:
    \"\"\"One row is a category.\"\"\"
    return cat.select("id", "label")


@fact(
    key="id",
    record="item_record_id",
    columns=[
        Column("id", "int"),
        Column("name", "text?"),
        Column("cat_id", "int?", references="dim_cat"),
        Column("made", "date?", references="dim_date"),
    ],
)
def fact_item(item: nw.LazyFrame) -> nw.LazyFrame:
    \"\"\"One row is a version of an item.\"\"\"
    return item.select("id", "name", "cat_id", "made")


dim_date = calendar()
"""
REPORTS = """
import pandas as pd

from etl_assets.project import ReportColumn, report


@report(
    title="Items",
    key=["label"],
    columns=[ReportColumn("label", "text"), ReportColumn("items", "bigint")],
    query="SELECT c.label, COUNT(*) AS items FROM star.fact_item_current AS i "
    "JOIN star.dim_cat AS c ON c.id = i.cat_id GROUP BY c.label",
)
def items(made: pd.DataFrame) -> pd.DataFrame:
    \"\"\"One row is a category with its items.\"\"\"
    return made
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a project with some replacements in it: (module, old, new)."""
    monkeypatch.chdir(tmp_path)

    def made(*edits: tuple[str, str, str], **more: str) -> Path:
        folder = tmp_path / "etl_project"
        folder.mkdir()
        files: Mapping[str, str] = {"__init__": "", "tables": TABLES, "star": STAR, "reports": REPORTS} | more
        for name, text in files.items():
            for module, old, new in edits:
                if module == name:
                    assert text.count(old) >= 1, old
                    text = text.replace(old, new, 1)
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        return folder

    return made


def line_of(path: Path, text: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_everything_that_modules_declare_is_collected(write: Write) -> None:
    folder = write()
    (folder / "colours.csv").write_text("code,name\n1,red\n")
    project = read(folder)
    assert isinstance(project, Project)
    assert (project.name, project.root) == ("etl_project", folder)
    assert list(project.tables) == ["ITEM".lower(), "cat"]
    assert set(project.star) == {"dim_cat", "fact_item", "dim_date"}
    assert list(project.reports) == ["items"]
    assert project.references == {"colours": folder / "colours.csv"}
    assert project.star["dim_date"].inputs == ["fact_item"]
    assert project.star["fact_item"].schema.description == "One row is a version of an item."
    assert load() is load()
    assert load().root == folder


SLIPS = {
    "a type": (("tables", '"cat_id": "int?"', '"cat_id": "integre?"'), "tables", "ITEM =", r"unknown type 'integre\?': write 'int"),
    "a type of another database": (("star", '"text?"', '"datetime"'), "star", "text", r"'datetime': write 'timestamp'"),
    "a scale": (("tables", '"int"', '"numeric(5,-2)"'), "tables", "ITEM =", r"numeric\(5,-2\)"),
    "a dimension": (("star", '"dim_cat")', '"dim_kat")'), "star", "@fact", "refers to dim_kat, which is no dimension: write dim_cat"),
    "a parameter": (("star", "(item: nw", "(itme: nw"), "star", "@fact", "its parameter 'itme' must name .* did you mean item"),
    "a column": (("star", '"name", "cat_id", "made")', '"nmae", "cat_id", "made")'), "star", "@fact", "nmae|Did you mean"),
    "no record": (("star", '    record="item_record_id",\n', ""), "star", "@fact", 'write record="…_record_id"'),
    "a key": (("star", 'key="id",\n    record', 'key="ident",\n    record'), "star", "@fact", "the key 'ident' is not among its columns"),
    "a name of ours": (("star", 'Column("name", "text?")', 'Column("deleted", "text?")'), "star", "@fact", "'deleted' is declared twice; the platform adds"),
    "another name of ours": (("star", 'Column("name", "text?")', 'Column("batch", "text?")'), "star", "@fact", "'batch' is declared twice; the platform adds"),
    "a column of three tables": (
        ("star", 'item.select(', 'item.join(item, on="id").join(item, on="id").select('), "star", "@fact", r"'name_right' 2 times.*; select .* or write join\(…, suffix=",
    ),
    "a record that is a column": (("star", "item_record_id", "name"), "star", "@fact", "'name' is declared twice"),
    "a key that may be NULL": (("star", 'Column("id", "int"),\n        Column("name"', 'Column("id", "int?"),\n        Column("name"'), "star", "@fact", "no part of a key is NULL: take the . away"),
    "a column of a report": (("reports", "c.label, COUNT", "c.lable, COUNT"), "reports", "@report", "its query is wrong: .*lable"),
    "a table of a report": (("reports", "star.dim_cat", "star.dim_kat"), "reports", "@report", r"can read only star\."),
    "a syntax": (("star", "return item.select(", "return item.select(("), "star", "", "never closed|invalid syntax"),
    "an import": (("star", "import narwhals as nw", "import narwals as nw"), "star", "import narwals", "No module named 'narwals'"),
    "a calendar of nothing": (("star", ', references="dim_date"', ""), "star", "calendar()", "no fact refers to this calendar"),
    "a key of a table": (("tables", '"text"})', '"text"}, key=("ident",))'), "tables", "CAT", r"key columns \['ident'\] are not"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_one_line_with_its_place_and_what_to_write(write: Write, slip: str) -> None:
    edit, module, near, told = SLIPS[slip]
    folder = write(edit)
    with pytest.raises(ProjectError, match=told) as refused:
        read(folder)
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith(f"etl_project/{module}.py:")
    line = int(said.split(":")[1])
    if near:
        assert abs(line - line_of(folder / f"{module}.py", near)) <= 12, said


def test_two_functions_of_one_name_are_refused(write: Write) -> None:
    again = STAR + STAR.partition("from etl_assets.project import Column, calendar, dimension, fact\n")[2]
    folder = write(star=again.replace("dim_date = calendar()", "", 1))
    with pytest.raises(ProjectError, match=r"dim_cat is defined here and in line \d+: give one another name"):
        read(folder)


def test_tables_of_one_name_in_two_modules_are_refused(write: Write) -> None:
    folder = write(more='from etl_assets.project import Table\nAGAIN = Table("cat", "", {"id": "int"})\n')
    with pytest.raises(
        ProjectError, match=r"cat is declared here and at etl_project/\w+\.py:\d+: take one away"
    ):
        read(folder)


def test_a_contract_that_no_function_makes_is_refused(write: Write) -> None:
    alone = 'from etl_assets.project import Column, Dimension\nD = Dimension("dim_x", "", "id", [Column("id", "int")])\n'
    folder = write(alone=alone)
    with pytest.raises(ProjectError, match="dim_x is declared, and no function makes it: write @dimension"):
        read(folder)


def test_every_slip_is_told_by_etl_check(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(
        ("star", '"dim_cat")', '"dim_kat")'),
        ("star", 'Column("label", "text")', 'Column("lable", "text")'),
        ("reports", "COUNT(*)", "COUNT(*"),
    )
    use(monkeypatch, tmp_path / "data")
    done = etl("check")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["etl_project/star.py", "etl_project/star.py"]
    run = etl("run")
    assert run.exit_code == 1
    assert run.stderr.splitlines()[-1].endswith("(and 1 more: etl check)")
    assert not (tmp_path / "data" / "lake").exists()


def test_a_project_that_is_right_is_told_so(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write()
    use(monkeypatch, tmp_path / "data")
    done = etl("check")
    assert (done.exit_code, done.stdout.splitlines()[0][:63]) == (
        0,
        "etl_project is right: 2 tables read, 3 star tables, 1 report (/",
    )


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("no_such_package", "there is no package no_such_package, and no folder of that name here"),
        ("./nothing", "is no project: it needs an __init__.py"),
        ("json.decoder", "there is no package"),
    ],
)
def test_a_project_that_is_not_there_is_one_line(
    named: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, tmp_path / "data", ETL_PROJECT=named)
    for command in ("check", "run", "status"):
        done = etl(command)
        assert done.exit_code == 1
        assert told in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
