"""Values on their way out: a terminal, Dagster's pages and a spreadsheet show them, and carry out nothing of them."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from etl_assets.cli import output
from etl_assets.engine.preview import markdown
from etl_assets.engine.printable import printable
from etl_assets_tests.commands import etl, use
from etl_assets_tests.flow import Flow, execute

ESCAPES = {
    "\x1b[2J\x1b[31mred": r"\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x1b\\here": r"\x1b]8;;http://evil.example\x1b\here",
    "\x9b31mred": r"\x9b31mred",
    "over\rwritten": r"over\rwritten",
    "two\nlines": r"two\nlines",
    "tab\tbed": r"tab\tbed",
    "back\x08\x08\x7f": r"back\x08\x08\x7f",
    "\u202egnirts": r"\u202egnirts",
    "\u2066a\u2069": r"\u2066a\u2069",
    "hid\u200bden\ufeff": r"hid\u200bden\ufeff",
    "a\u2028b\u2029c\x85d": r"a\u2028b\u2029c\x85d",
    "nul\x00": r"nul\x00",
    "\U000e0041tag": r"\U000e0041tag",
    "Zoë, 東京 – «naïve» 👩\u200d💻 a\u00a0b": "Zoë, 東京 – «naïve» 👩\u200d💻 a\u00a0b",
}


@pytest.mark.parametrize("text", ESCAPES)
def test_what_a_terminal_would_carry_out_is_shown_as_an_escape(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable(text) == ESCAPES[text]
    output.table(["name", text], [("value", text)])
    output.difference(f"is {text}")
    output.say(f"found {output.shown(text)}")
    printed = capsys.readouterr().out
    assert printed.count(ESCAPES[text]) == 4
    assert printable(printed.replace("\n", "")) == printed.replace("\n", "")
    assert len(printed.splitlines()) == 4


def test_a_table_that_is_drawn_shows_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    output.table(["name"], [("\x1b[2J[bold]\u202e",)])
    assert r"\x1b[2J[bold]\u202e" in Text.from_ansi(terminal.getvalue()).plain


def test_an_error_is_one_line_whatever_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "data", ETL_LAKE_URL="/no/\x1b[31m\nsuch")
    done = etl("status")
    assert "\x1b" not in done.output


# -- Dagster's pages -------------------------------------------------------------------------------------------------

ACTIVE = [
    "![x](https://evil.example/x.png)",
    "[here](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "https://evil.example",
    "www.evil.example",
    "someone@evil.example",
    "`code`",
    "``` fence",
    "a ` b `` c",
    "a | b",
    "a \\| b",
    "\\",
    "ends \\",
    "`",
    "` ![x](y) `",
    "\\` ![x](y)",
    "| a |\n|---|\n| b |",
    "# heading",
    "[x]: https://evil.example",
    "&lt;img&gt;",
    "**bold** _em_ ~~gone~~",
    "\x1b[31m",
    "[^1]",
]


@pytest.mark.parametrize("text", ACTIVE)
def test_no_value_makes_an_image_a_link_or_html(text: str) -> None:
    """Read as Dagster's pages read Markdown: GitHub's, which makes links of what looks like an address too."""
    commonmark = pytest.importorskip("markdown_it")
    shown = markdown(["name", text], [["value", text], ["other", "value"]])
    assert len(shown.splitlines()) == 4
    reader = commonmark.MarkdownIt("gfm-like", {"html": True, "linkify": False})
    (body,) = [token for token in reader.parse(shown) if token.type == "tbody_open"] or [None]
    assert body is not None, shown
    kinds = {child.type for token in reader.parse(shown) for child in token.children or []}
    assert kinds <= {"text", "code_inline"}, shown
    cells = [token for token in reader.parse(shown) if token.type == "inline"]
    assert len(cells) == 6
    for cell in cells:
        told = "".join(child.content for child in cell.children if child.type == "text")
        assert not set(told) & set("<[]!@:/`*#&\\"), shown
        assert "www." not in told


def test_words_numbers_and_dates_stay_what_they_are() -> None:
    import datetime as dt
    from decimal import Decimal

    row = [
        1,
        -2,
        Decimal("-3.50"),
        True,
        None,
        "Ada Byron",
        "東京",
        dt.date(2026, 3, 1),
        dt.datetime(2026, 3, 1, 4, 5),  # noqa: DTZ001
    ]
    names = [f"c_{n}" for n in range(len(row))]
    assert markdown(names, [row]).splitlines()[2] == (
        "| 1 | -2 | -3.50 | true |  | Ada Byron | 東京 | 2026-03-01 | 2026-03-01 04:05:00 |"
    )
    assert markdown(["sales_record_id"], []).splitlines()[0] == "| sales_record_id |"


# -- streams ---------------------------------------------------------------------------------------------------------


def run(arguments: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """An `etl` of its own, called by a shell."""
    known = {n: v for n, v in os.environ.items() if not n.startswith(("ETL_", "DAGSTER_"))}
    return subprocess.run(
        ["sh", "-c", f"exec '{sys.executable}' -m etl_assets.cli {arguments}"],
        cwd=folder,
        env={**known, "PYTHONPATH": str(Path(__file__).parents[1]), **settings},
        capture_output=True,
        check=False,
    )


def test_streams_that_are_closed_lead_nowhere(bicycles: str, tmp_path: Path) -> None:
    """Else the next file that is opened is taken for one of them."""
    settings = Flow(bicycles, tmp_path / "data").environment
    for closed in ("2>&-", "0<&- 1>&- 2>&-"):
        ran = run(f"run {closed}", tmp_path, **settings)
        assert ran.returncode == 0
        assert bool(ran.stdout) == ("1>" not in closed)
    assert run("verify 2>&-", tmp_path, **settings).returncode == 0


def test_a_character_that_the_locale_does_not_have_is_shown_as_an_escape(tmp_path: Path) -> None:
    ran = run("--help", tmp_path, PYTHONIOENCODING="latin-1")
    assert ran.returncode == 0, ran.stderr
    assert b"ETL_LAKE_URL, \\u2026)" in ran.stdout


def test_a_file_has_every_character_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding="latin-1", errors="backslashreplace"))
    output.csv(["Größe"], [["東京"]])
    sys.stdout.flush()
    assert file.getvalue().decode() == "Größe\n東京\n"


# -- spreadsheets ----------------------------------------------------------------------------------------------------

FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "-cmd|' /C calc'!A0",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\tx",
    "\rx",
    " =1+1",
    "\u00a0=1+1",
    "\u200b=1+1",
    "\ufeff=1+1",
    "\x00=1+1",
    "＝1+1",
    "＋1+1",
    "－1+1",
    "＠SUM(1)",
    "\u2212x",
    "﹦1+1",
    '="a"',
    '=HYPERLINK("https://evil.example";"x")',
    "-",
    "=",
    "+44 1803 123456",
    "--1",
    "-1 day, 23:00:00",
]
HARMLESS = [
    "",
    "a",
    "a=b",
    "1+1",
    "-5",
    "-5.25",
    "5",
    "1e5",
    "-1E-5",
    "2026-01-01",
    "O'Brien",
    "a, b",
    'say "x"',
    "0",
]


def read_back(text: str) -> str:
    return next(csv.reader(io.StringIO(text, newline="")))[0]


def printed(value: object, capsys: pytest.CaptureFixture[str]) -> str:
    output.csv(["name"], [[value]])
    return capsys.readouterr().out.split("\n", 1)[1]


@pytest.mark.fault("F32")
@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    cell = read_back(printed(text, capsys))
    assert cell == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_none_stays_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_back(printed(text, capsys)) == text


@pytest.mark.fault("F32")
@pytest.mark.parametrize("value", [-5, -5.25, 0, 10**20])
def test_numbers_stay_numbers(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(value, capsys) == f"{value}\n"


def test_the_rest_of_a_text_is_no_cell_of_its_own_where_the_separator_is_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert read_back(printed("a;=1+1", capsys)) == "a;'=1+1"
    assert read_back(printed("a\t =1+1", capsys)) == "a\t' =1+1"
    assert read_back(printed("a; b", capsys)) == "a; b"


def test_a_header_is_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    output.csv(["=1+1"], [])
    assert capsys.readouterr().out.startswith('"\'=1+1"')


# -- the commands ----------------------------------------------------------------------------------------------------


def test_values_of_the_source_come_out_inert_everywhere(
    bicycles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nasty, formula = "\x1b[31m=1+1 ![x](http://evil.example)\u202e", "=1+1\x1b[0m"
    execute(bicycles, "UPDATE station SET name = %s, city = %s WHERE station_id = 1", nasty, formula)
    flow = Flow(bicycles, tmp_path / "data")
    use(monkeypatch, flow.data, **flow.environment)
    assert etl("run").exit_code == 0
    for arguments in (
        ["explain", "station", "1"], ["history", "dim_station", "--batch", "1"], ["status"], ["verify"],
    ):  # fmt: skip
        done = etl(*arguments)
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output, arguments
        assert "\u202e" not in done.output
    assert r"\x1b[31m=1+1" in etl("explain", "station", "1").output
    told = json.loads(etl("history", "dim_station", "--batch", "1", "--json").output)
    assert nasty in {row["name"] for row in told["rows"]}
    rows = list(csv.DictReader(io.StringIO(etl("history", "dim_station", "--batch", "1", "--csv").stdout)))
    assert nasty in {row["name"] for row in rows}, "a file gets it exactly"
    assert f"'{formula}" in {row["city"] for row in rows}
