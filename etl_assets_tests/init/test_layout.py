"""What is put together line by line is what the formatter would make of it, whatever the lengths."""

from pathlib import Path

import pytest

from etl_assets.init.layout import chain, docstring, literal
from etl_assets.init.proposal import StarColumn
from etl_assets.init.writing import _column, _link, _not_taken
from etl_assets_tests.init.test_projects import lint


def test_lines_of_every_length_stay_as_they_are(tmp_path: Path) -> None:
    parts = ['"""Lines of many lengths."""\n\nimport narwhals as nw\nfrom module import Column, call']
    for length in range(1, 110):
        name, other = literal("a" * length), literal("b" * 30)
        told = "word " * (length // 4) + "end."
        chosen = [
            chain("nw", ("col", name), ("alias", other), indent=2),
            chain("nw", ("col", other), ("alias", name), indent=2),
            chain("nw", ("col", name), ("cast", "nw.Date"), ("alias", other), indent=2),
        ]
        column = StarColumn("a" * length, "date?", "a", references="dim_date")
        links = [_link(["a" * min(length, 63), "b" * 20], "dim_" + "c" * (length // 2))]
        parts.append(
            "\n".join(
                [
                    f"def f{length}(frame: nw.LazyFrame) -> nw.LazyFrame:",
                    docstring(told, 1),
                    "    return frame.select(",
                    *(f"{one}," for one in chosen),
                    "    )",
                    "",
                    "",
                    f"LINKS_{length} = call(",
                    "    columns=[",
                    f"{_column(column)},",
                    "    ],",
                    "    references={",
                    *(f"        {one}," for one in links),
                    "    },",
                    ")",
                ]
            )
        )
    (tmp_path / "module.py").write_text("\n\n\n".join(parts) + "\n")
    lint(tmp_path)


@pytest.mark.parametrize(
    "text", ["plain", "it's", 'a "b"', "\"'", "\\", "\n\t\x00\x1b\u202e", "é\U0001f600", "ends\\", '"""']
)
def test_a_literal_is_the_text(text: str) -> None:
    assert eval(literal(text)) == text  # noqa: S307  it is what is tested


@pytest.mark.parametrize(
    ("name", "ending", "title"),
    [
        ("Measurements of a station in the north", " by month", "Measurements of a stat by month"),
        ("Short", " by month", "Short by month"),
        ("A", " by " + "x" * 60, "A by " + "x" * 26),
        ("A" * 40, " by " + "x" * 60, "A" * 16 + " by " + "x" * 11),
    ],
)
def test_reports_of_tables_that_are_called_alike_have_titles_of_their_own(
    name: str, ending: str, title: str
) -> None:
    titles: list[str] = []
    for _ in range(120):
        titles.append(_not_taken(name, ending, 31, " ", titles))
    assert titles[0] == title
    assert len({one.lower() for one in titles}) == len(titles)
    assert max(map(len, titles)) <= 31
