"""What is misspelt in a project is refused when it loads, in one line with its place and what to write."""

import re
import sys
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
    "a type": (("tables", '"cat_id": "int?"', '"cat_id": "integre?"'), "tables", "ITEM =", r"unknown type 'integre\?': write 'integer'"),
    "a type of another database": (("star", '"text?"', '"datetime"'), "star", "text", r"'datetime': write 'timestamp'"),
    "a scale": (("tables", '"int"', '"numeric(5,-2)"'), "tables", "ITEM =", r"numeric\(5,-2\)"),
    "a dimension": (("star", '"dim_cat")', '"dim_kat")'), "star", "@fact", "refers to dim_kat, which is no dimension: write dim_cat"),
    "a parameter": (("star", "(item: nw", "(itme: nw"), "star", "@fact", r"its parameter 'itme' must name [^,]*, star table or reference file; did you mean item\?$"),
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
    "a table of a report": (("reports", "star.dim_cat", "star.dim_kat"), "reports", "@report", r"'star.dim_kat AS c', and can read star tables only; did you mean star.dim_cat\?$"),
    "a syntax": (("star", "return item.select(", "return item.select(("), "star", "", "never closed|invalid syntax"),
    "an import": (("star", "import narwhals as nw", "import narwals as nw"), "star", "import narwals", "No module named 'narwals'"),
    "a calendar of nothing": (("star", ', references="dim_date"', ""), "star", "calendar()", "nothing refers to this calendar"),
    "a control table of the warehouse": (("star", "def dim_cat", "def loads"), "star", "@dimension", "loads is a table of the warehouse's own"),
    "another, in capitals": (("star", "def dim_cat", "def Inferred_Members"), "star", "@dimension", "Inferred_Members is a table of the warehouse's own"),
    "a view of the warehouse": (("star", "def dim_cat", "def Fact_item_current"), "star", "@dimension", r"Fact_item_current is the view of the current rows of fact_item \(etl_project/star"),
    "a name of ours in capitals": (("star", 'Column("name", "text?")', 'Column("Deleted", "text?")'), "star", "@fact", "'Deleted' is declared twice .as deleted.*; the platform adds"),
    "a record in capitals": (("star", 'record="item_record_id"', 'record="Batch"'), "star", "@fact", "'Batch' is declared twice .as batch"),
    "columns that differ in capitals": (("star", 'Column("label", "text")', 'Column("label", "text"), Column("ID", "int")'), "star", "@dimension", "'id' is declared twice .as ID: capitals make no other name.*$"),
    "columns of a table that do": (("tables", '"label": "text"', '"label": "text", "ID": "int"'), "tables", "CAT", "ID, id are one name where capitals make no other"),
    "columns of a report that do": (("reports", 'ReportColumn("items"', 'ReportColumn("Label"'), "reports", "@report", "declared twice, in whatever case"),
    "star tables that do": (("star", "dim_date = calendar()", 'dim_date = calendar()\nother = calendar("DIM_CAT")'), "star", "other =", "DIM_CAT.* nothing refers|DIM_CAT and dim_cat are one name"),
    "a table that is called like a star table": (("tables", '"label": "text"})', '"label": "text"}, as_="Dim_Cat")'), "tables", "CAT", r"Dim_Cat and dim_cat are one name: that is a star table at etl_project/star.py:\d+, and here a table: .*as_="),
    "a name that is no folder": (("star", '@dimension(key="id"', '@dimension(name="dim/cat", key="id"'), "star", "@dimension", "'dim/cat' can't name a star table: write letters"),
    "a name that no warehouse takes": (("star", '@dimension(key="id"', f'@dimension(name="{"d" * 64}", key="id"'), "star", "@dimension", "has 64 characters, and PostgreSQL takes 63"),
    "a table that no asset can be called by": (("tables", '"label": "text"})', '"label": "text"}, as_="größe")'), "tables", "CAT", "'größe' can't name a table: .*as_="),
    "an option of a table": (("tables", '"label": "text"})', '"label": "text"}, drift="evolv")'), "tables", "CAT", "drift='evolv' means nothing: write 'evolve' or 'freeze'"),
    "an option of a star table": (("star", '@dimension(key="id"', '@dimension(rows="one", key="id"'), "star", "@dimension", "rows='one' means nothing"),
    "a title that is too long": (("reports", '"Items"', f'"{"I" * 32}"'), "reports", "@report", "1 to 31 characters"),
    "a title of Excel's own": (("reports", '"Items"', '"history"'), "reports", "@report", "Excel has a sheet history of its own"),
    "a title of the workbook's own": (("reports", '"Items"', '"about"'), "reports", "@report", "about and About are one name"),
    "a report that is called like the workbook": (("reports", "def items", "def reports_workbook"), "reports", "@report", "reports_workbook is what the workbook 'Reports' is called"),
    "a dimension without brackets": (("star", '@dimension(key="id", columns=[Column("id", "int"), Column("label", "text")])', "@dimension"), "star", "@dimension", r"write @dimension\(…\)"),
    "a report without brackets": (("reports", "import pandas as pd", "import pandas as pd\nfrom etl_assets.project import report as again\n\n\n@again\ndef x(made): ...\n"), "reports", "@again", r"write @report\(…\)"),
    "columns without types": (("tables", '{"id": "int", "label": "text"}', '["id"]'), "tables", "CAT", r'write {"name": "type", …}'),
    "columns that are texts": (("star", '[Column("id", "int"), Column("label", "text")]', '["id", "label"]'), "star", "@dimension", r"'id' declares no column: write columns=\[Column"),
    "a spelling of PostgreSQL": (("tables", '"cat_id": "int?"', '"cat_id": "timestmp without time zone"'), "tables", "ITEM =", "write 'timestamp without time zone'"),
    "a function over another": (("star", "dim_date = calendar()", "dim_date = calendar()\n\n\ndef dim_cat(): ...\n"), "star", "def dim_cat(): ", r"dim_cat is defined here and in line \d+: give one another name"),
    "a table over another": (("tables", "CAT =", 'ITEM = Table("other", "", {"id": "int"})\nCAT ='), "tables", "ITEM = Table(\"other", r"ITEM is defined here and in line \d+"),
    "a calendar without a name": (("star", "dim_date = calendar()", "calendar()"), "star", "calendar()", r"calendar\(…\) is declared and not kept: give it a name, NAME = calendar\(…\)$"),
    "a table without a name": (("tables", "CAT = Table(", "Table("), "tables", 'Table("cat"', r"Table\(…\) is declared and not kept: give it a name, cat = Table\(…\)$"),
    "a join that names frames in SQL": (
        ("star", "item.select(", 'item.join_asof(item.select("made"), on="made").select('), "star", "@fact", r"Narwhals' join_asof and unpivot.*: write nw.to_native",
    ),
    "an annotation that is not imported": (("star", "cat: nw.LazyFrame", 'cat: "pd.DataFrame"'), "star", "@dimension", "annotated with is not known where it stands: pd: import it"),
    "a type that is no text": (("tables", '"cat_id": "int?"', '"cat_id": None'), "tables", "ITEM =", r"cat_id: its type is None: write a text, such as .int. or .text\?.$"),
    "two columns for one": (("star", '@dimension(key="id"', '@dimension(references={("id", "label"): "dim_cat"}, key="id"'), "star", "@dimension", "refers to dim_cat, whose key is id: write references=.dim_cat. at the column"),
    "a limit of a report": (("reports", 'ReportColumn("items", "bigint")', 'ReportColumn("items", "bigint", at_least="0")'), "reports", "@report", "items: at_least='0' is no number$"),
    "a parameter too many": (("reports", "def items(", "def items(other: pd.DataFrame, "), "reports", "@report", "its function is given what the query answers: write one parameter$"),
    "a word of a report's query": (("reports", '"SELECT c.label', '"SELEC c.label'), "reports", "@report", r"its query is wrong: [^\x1b]*$"),
    "a dimension that is no text": (("star", 'references="dim_cat"', "references=dim_cat"), "star", 'Column("cat_id"', "cat_id: write its dimension's name as a text: references=.dim_cat.$"),
    "references that are a list": (("star", '@dimension(key="id"', '@dimension(references=["dim_cat"], key="id"'), "star", "@dimension", r"references= says nothing: write references=\{"),
    "a key without an order": (("star", '@dimension(key="id"', '@dimension(key={"id", "label"}'), "star", "@dimension", "name the column, or the columns, of its key: key="),
    "a key that is nothing": (("star", '@dimension(key="id"', "@dimension(key=None"), "star", "@dimension", "name the column, or the columns, of its key: key="),
    "groups that are no names": (("star", '@dimension(key="id"', '@dimension(by=3, key="id"'), "star", "@dimension", "by= names no columns: write by="),
    "facts that are no names": (("star", '@dimension(key="id"', '@dimension(versions_of=calendar, key="id"'), "star", "@dimension", "versions_of= names no facts: write versions_of="),
    "parameters in one": (("star", "(cat: nw", "(*cat: nw"), "star", "@dimension", r"its parameters are given by name: write cat, without \* or /$"),
    "a function of nothing": (("star", "(cat: nw.LazyFrame) -> nw.LazyFrame:", "():\n    cat = nw"), "star", "@dimension", "its function has no parameters: .*a reference file, NAME.csv beside the modules$"),
    "an assertion": (("star", 'return cat.select(', 'assert not cat\n    return cat.select('), "star", "@dimension", r"dim_cat: its function fails: \w+ at star.py:\d+$"),
    "a column that pandas does not give": (
        ("star", 'cat.select("id", "label")', "cat.collect().to_pandas().rename(columns=str.upper)"), "star", "@dimension",
        "does not give what is declared: id is missing; label is missing .it gives ID, LABEL.$",
    ),
    "a column that pandas gives twice": (
        ("star", 'cat.select("id", "label")', "cat.collect().to_pandas().iloc[:, [0, 0, 1]]"), "star", "@dimension",
        "id is there 2 times .it gives id, id, label.$",
    ),
    "a key of a table without an order": (("tables", '"text"})', '"text"}, key={"id", "label"})'), "tables", "CAT", r"cat: key= names no columns in an order: write key=\("),
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


REPORT_SLIPS = {
    "a name": (("reports", "return made", "return pandas.concat([made])"), "its function fails: NameError: name 'pandas' is not defined"),
    "a name of a module": (("reports", "return made", "return pd.concatenate([made])"), "its function fails: AttributeError: module 'pandas' has no attribute 'concatenate'"),
    "nothing": (("reports", "return made", "made.head()"), "its function returns NoneType; return a DataFrame"),
    "a column": (("reports", "AS items FROM", "AS number FROM"), "it has no items; its query gives label, number"),
    "a sum of texts": (("reports", "COUNT(*)", "SUM(c.label)"), "its query is wrong: .*sum"),
    "a float": (("reports", "COUNT(*)", "AVG(i.id)"), r"its query gives floating-point numbers for items: CAST\(… AS NUMERIC"),
    "control totals": (
        ("reports", "GROUP BY c.label\",", "GROUP BY c.label\", control=\"SELECT SUM(c.label) AS items FROM star.dim_cat AS c\","),
        "the query of its control totals is wrong: .*sum",
    ),
}  # fmt: skip


@pytest.mark.parametrize("slip", REPORT_SLIPS)
def test_a_slip_of_a_report_is_told_before_there_is_data(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slip: str
) -> None:
    edit, told = REPORT_SLIPS[slip]
    write(edit)
    use(monkeypatch, tmp_path / "data")
    done = etl("check")
    assert done.exit_code == 1, done.stdout
    assert re.fullmatch(rf"etl_project/reports.py:\d+: items: {told}.*\n", done.stdout), done.stdout
    # What another warehouse makes of a query is not known here.
    monkeypatch.setenv("ETL_WAREHOUSE_URL", "postgresql://127.0.0.1/reports")
    assert etl("check").exit_code == 0


@pytest.mark.parametrize(
    "needs",
    [
        'made.assign(label=made["label"].iloc[0])',
        'made.pivot(index="label", columns="items", values="items").reset_index()',
        'made.rename(columns={"items": "number"})',
        "made.open",
    ],
)
def test_what_a_report_lacks_for_want_of_rows_is_no_slip(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, needs: str
) -> None:
    write(("reports", "return made", f"return {needs}"))
    use(monkeypatch, tmp_path / "data")
    assert etl("check").exit_code == 0


def test_reference_files_lie_beside_modules_and_nowhere_else(write: Write) -> None:
    folder = write()
    for path in ("more/sizes.csv", "more/__init__.py", "tests/__init__.py", "colours.csv", *(
        f"{place}/other.csv" for place in ("tests", "demo", "data/lake/raw/cat", ".venv/lib", ".hidden", "notes")
    )):  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("" if path.endswith(".py") else "code\n1\n")
    assert read(folder).references == {"colours": folder / "colours.csv", "sizes": folder / "more/sizes.csv"}
    (folder / "more" / "Colours.csv").write_text("code\n2\n")
    with pytest.raises(ProjectError, match=r"^etl_project/more/Colours.csv.*one name.*colours.csv.*rename"):
        read(folder)
    (folder / "more" / "Colours.csv").rename(folder / "more" / "colours.csv")
    with pytest.raises(
        ProjectError, match=r"more/colours.csv: colours is also etl_project/colours.csv: give one"
    ):
        read(folder)


def test_a_calendar_spans_dimensions_that_refer_to_it_too(write: Write) -> None:
    folder = write(
        (
            "star",
            'Column("label", "text")]',
            'Column("label", "text"), Column("since", "date", references="dim_date")]',
        ),
        ("star", '"id", "label")', '"id", "label", "since")'),
        ("tables", '"label": "text"', '"label": "text", "since": "date"'),
    )
    dim_date = read(folder).star["dim_date"]
    assert set(dim_date.inputs) == {"dim_cat", "fact_item"}
    assert dim_date.schema.facts_with_versions == ("fact_item",)


def test_two_functions_of_one_name_are_refused(write: Write) -> None:
    again = STAR + STAR.partition("from etl_assets.project import Column, calendar, dimension, fact\n")[2]
    folder = write(star=again.replace("dim_date = calendar()", "", 1))
    with pytest.raises(ProjectError, match=r"dim_cat is defined here and in line \d+: give one another name"):
        read(folder)


def test_reports_of_one_title_or_name_are_refused(write: Write) -> None:
    again = REPORTS.replace('"Items"', '"items"').replace("def items", "def Items")
    folder = write(more=again)
    with pytest.raises(ProjectError) as refused:
        read(folder)
    assert [slip.what.partition(" one name")[0] for slip in refused.value.slips] == [
        "items and Items are", "Items and items are",
    ]  # fmt: skip


def test_a_name_that_is_bound_anew_from_itself_is_no_double(write: Write) -> None:
    folder = write(
        ("tables", "CAT =", "ITEM = replace(ITEM, drift='freeze')\nCAT ="),
        ("tables", "from etl", "from dataclasses import replace\nfrom etl"),
    )
    assert read(folder).tables["item"].drift == "freeze"


def test_one_column_is_a_key_by_itself(write: Write) -> None:
    folder = write(("tables", '"text"})', '"text"}, key="id")'), ("reports", '["label"]', '"label"'))
    project = read(folder)
    assert project.tables["cat"].key == ("id",)
    assert list(project.reports["items"].key) == ["label"]


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
        ("tables", '"id": "int", "name"', '"id": "itn", "name"'),
        ("tables", '"label": "text"', '"label": "txet"'),
        ("star", 'Column("name", "text?")', 'Column("name", "txt?"), Column("no", "nmeric(5,2)")'),
    )
    use(monkeypatch, tmp_path / "data")
    done = etl("check")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    told = {"itn", "txet", "'txt", "nmeric", "dim_kat"}
    assert {said for said in told for line in lines if said in line} == told
    assert len(lines) == len(told), "what is made of something that is wrong is not told of"
    run = etl("run")
    assert run.exit_code == 1
    assert run.stderr.splitlines()[-1].endswith("(and 4 more: etl check)")
    assert not (tmp_path / "data" / "lake").exists()


@pytest.mark.parametrize(
    ("name", "hidden"), [("platform", "the module platform of Python"), ("pytest", "the package pytest in")]
)
def test_a_folder_that_hides_a_module_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, hidden: str
) -> None:
    write().rename(tmp_path / name)
    before = sys.modules[name]
    with pytest.raises(ProjectError, match=f"^{name}: a project of this name hides {hidden}.*another name$"):
        read(tmp_path / name)
    assert sys.modules[name] is before
    use(monkeypatch, tmp_path / "data")
    done = etl("init", "postgresql://nobody@127.0.0.1:1/none", f"new/{name}")
    assert (done.exit_code, (tmp_path / "new").exists()) == (1, False)
    assert f"would hide {hidden}" in done.stderr


def test_only_the_project_that_ships_has_the_demo_for_a_source(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write()
    use(monkeypatch, tmp_path / "data")
    done = etl("run")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(
        "etl: the project's source is not named: set ETL_SOURCE_URL=postgresql://"
    )
    assert not (tmp_path / "data/source").exists()
    for command in ("demo", "simulate"):
        assert etl(command).exit_code == 2
    assert not (tmp_path / "data/source").exists()


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
