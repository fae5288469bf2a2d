"""Steps in somebody's project: one file more, as the documentation has it; slips are one line; all is there in the interface."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from etl_assets import project
from etl_assets.definitions import definitions
from etl_assets.project import ProjectError, read
from etl_assets.settings import Settings
from etl_assets_tests.commands import etl, use
from etl_assets_tests.init.samples import execute
from etl_assets_tests.init.test_init import SHOP, _anew

DOCUMENT = Path(__file__).parents[2] / "docs/steps.md"


def documented() -> str:
    """The group of steps in the documentation."""
    (found,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(found)


@pytest.fixture
def shop(database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that etl init made, with the file of the documentation beside the others."""
    url = database()
    execute(url, SHOP)
    use(monkeypatch, tmp_path / "data", ETL_SOURCE_URL=url)
    monkeypatch.setattr(project, "load", _anew)
    assert etl("init", url).exit_code == 0
    (tmp_path / "etl_project/mailing.py").write_text(documented())
    return tmp_path


@pytest.mark.places
def test_a_project_gets_steps_by_one_file_more(shop: Path) -> None:
    checked = etl("check")
    assert checked.exit_code == 0, checked.output
    assert "5 steps" in checked.stdout
    assert etl("run").exit_code == 0
    listed = json.loads(etl("steps", "--json").stdout)["groups"]
    assert [group["group"] for group in listed] == ["mailing"]
    done = etl("steps", "mailing", "--set", "begin=2023-12-31", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"]["best"]["rows"] == 1
    assert (
        shop / "data/lake/files/mailing/2023-12-31.csv"
    ).read_text() == '"customer_id","orders","amount"\n1,1,2.50\n'
    with duckdb.connect(str(shop / "data/warehouse.duckdb"), read_only=True) as warehouse:
        assert [str(v) for v in warehouse.execute("FROM mailing.best").fetchall()[0]] == ["1", "1", "2.50"]
    again = etl("steps", "mailing", "--set", "begin=2023-12-31")
    assert again.exit_code == 1
    assert "exists already: write overwrite=True" in again.output
    assert again.stderr.strip().count("\n") <= 5
    part = etl("steps", "mailing", "--step", "best", "--set", "least=99", "--json")
    assert json.loads(part.stdout)["steps"] == {"best": {"rows": 0, "seconds": pytest.approx(0, abs=60)}}
    # The copy and its proof stay what they are.
    assert etl("run").exit_code == 0
    assert etl("verify").exit_code == 0
    assert etl("doctor").exit_code == 0


def test_it_is_all_in_the_interface_without_a_warning(shop: Path, recwarn: pytest.WarningsRecorder) -> None:
    import os

    defs = definitions(Settings.read(os.environ))
    dg.Definitions.validate_loadable(defs)
    assert [str(one.message) for one in recwarn if "etl_assets" in str(one.filename)] == []
    specs = {
        spec.key.to_user_string(): spec
        for spec in defs.resolve_all_asset_specs()
        if spec.group_name == "mailing"
    }
    names = ("ordered", "best", "best_table", "best_csv", "told")
    assert set(specs) == {f"mailing/{name}" for name in names}
    assert all(
        spec.description and spec.owners and spec.kinds and spec.code_version for spec in specs.values()
    )
    parents = {dep.asset_key.to_user_string() for dep in specs["mailing/ordered"].deps}
    assert parents == {"warehouse/fact_orders"}
    assert "SELECT customer_id" in specs["mailing/ordered"].metadata["query"].value
    assert defs.resolve_job_def("mailing").name == "mailing"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "there is no group nothing; there are mailing"),
        (["mailing", "--set", "begin=yesterday"], "'yesterday' is no date: write YYYY-MM-DD"),
        (["mailing", "--set", "beginn=2024-01-01"], "the parameters are begin, until, least"),
        (
            ["mailing", "--set", "least=x", "--set", "begin=y"],
            "'x' is no numeric(9,2); --set begin=y: parameter begin: 'y' is no",
        ),
        (["mailing", "--step", "bets"], "the steps are ordered, best"),
        (["mailing", "--partition", "2024-01-01"], "has no --partition"),
    ],
)
def test_a_wrong_command_is_told_what_there_is(shop: Path, arguments: list[str], told: str) -> None:
    done = etl("steps", *arguments)
    assert done.exit_code == 2
    assert told in done.output


SLIPS = {
    "an input": ('of="best", table', 'of="bets", table', "SqlWrite", "'bets' is no step before it; did you mean best"),
    "an argument": ("best(ordered: pd", "best(orderd: pd", "def best", "'orderd' is no step before it; did you mean ordered"),
    "a bound parameter": ("day < :until", "day < :untill", "SqlQuery", ":untill names no parameter; did you mean :until"),
    "a pasted parameter": ("day < :until", "day < {until}", "SqlQuery", "{until} would be pasted into SQL: write :until"),
    "a quoted parameter": ("day < :until", "day < ':until'", "SqlQuery", ":until stands in a text"),
    "a parameter of a path": ("mailing/{begin}", "mailing/{beginn}", "Upload", "{beginn} names no parameter"),
    "a place": ("lake://mailing", "ftp://mailing", "Upload", "is no place: write lake://path"),
    "a type": ('"until", "date"', '"until", "dtae"', "Parameter", "unknown type 'dtae': write 'date'"),
    "a default": ('default="2025-01-01"', 'default="1.1.2025"', "Parameter", "'1.1.2025' is no date: write YYYY-MM-DD"),
    "what a function returns": ("Decimal) -> pd.DataFrame", "Decimal)", "def best", "it must say what it returns"),
    "a schema of ours": ("mailing.best\", if", "star.best\", if", "SqlWrite", "schema star of the warehouse is the platform's"),
    "a name of ours": ('    "mailing",\n', '    "star",\n', "Steps", "star is the platform's own"),
    "a subject": ('subject="Customers from {begin}"', 'subject="{until"', "Message", "a brace that stands alone"),
    "two of a name": ('"best_csv"', '"best_table"', "Upload", "there are two steps of that name"),
    "one that nobody runs": ("        ordered,\n        best,", "        ordered,", "def best", "best is declared, and no group runs it"),
    "if_exists": ('if_exists="replace"', 'if_exists="truncate"', "SqlWrite", "if_exists is fail, replace or append"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_one_line_with_its_place_and_what_to_write(
    slip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, near, told = SLIPS[slip]
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "etl_project"
    folder.mkdir()
    text = documented()
    assert text.count(old) >= 1
    (folder / "__init__.py").write_text("")
    (folder / "mailing.py").write_text(text.replace(old, new, 1))
    with pytest.raises(ProjectError) as refused:
        read(folder)
    found = [str(one) for one in refused.value.slips if told in one.what]
    assert found, refused.value.slips
    assert found[0].startswith("etl_project/mailing.py:")
    line = int(found[0].split(":")[1])
    lines = (folder / "mailing.py").read_text().splitlines()
    assert any(near in one for one in lines[max(0, line - 13) : line + 2]), found[0]
