"""What a user writes is refused where it makes no sense, with the file and line, and nothing is called or read for it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etl_assets.apis.declaration import Api, Batch, Credential, Limits, Rate, Retry
from etl_assets.apis.limiter import Limiter
from etl_assets.apis.paging import Cursor, Header, Link, PageNumber
from etl_assets.apis.windows import Windows
from etl_assets.project import ProjectError, read

_RIGHT: dict[str, Any] = {
    "description": "One row is a thing.",
    "url": "https://things.example/v1",
    "columns": {"id": "int", "name": "text?"},
    "key": ("id",),
}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "Our things"}, "letters a to z, digits and _"),
        ({"url": "things.example"}, "can't be read: write https://host/path"),
        ({"url": "https://me:secret@things.example"}, "has a user or a password in it"),
        ({"url": "https://things.example/?key=secret"}, "has parameters in it"),
        ({"key": "id"}, r"key names columns: write key=\('id',\)"),
        ({"key": ("name",)}, "always has a value: take the . away"),
        ({"key": ("nr",)}, "key columns .'nr'. are not among its columns"),
        ({"columns": {"id": "integr"}}, "unknown type 'integr': write 'integer'|unknown type 'integr'"),
        ({"columns": {"id": "int", "name": "bytea"}}, "can't be bytea"),
        ({"fields": {"nam": "name"}}, "fields names nam"),
        ({"records": "data..rows"}, "is no path into the answer"),
        ({"concurrency": 4}, "pages that can be asked for in any order"),
        ({"concurrency": 0, "paging": PageNumber()}, "at least one call at a time"),
        ({"url_setting": "things"}, "no name of an environment variable"),
        ({"windows": Windows("day", since="2024-01-01")}, "nothing names its window"),
        ({"windows": Windows("day", "2024-01-01"), "body": {"day": "{star}"}}, "nothing names its window"),
        ({"body": {"day": object()}}, "body is no JSON"),
        ({"body": {}, "paging": Link()}, "Link gives an address to get"),
        ({"fields": {"name": "full name"}}, "one by one"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(wrong: dict[str, Any], told: str) -> None:
    """Row E1. What is told never repeats a secret that stands in an address."""
    with pytest.raises(ValueError, match=told) as error:
        Api(**{"name": "thing", **_RIGHT, **wrong})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Rate(0),
        lambda: Rate(1, 0),
        lambda: Retry(0),
        lambda: Retry(3, 10, 5),
        lambda: Limits(bad_share=5),
        lambda: Limits(pages=0),
        lambda: Batch(0),
        lambda: Credential("my token"),
        lambda: Credential("TOKEN", form="Bearer"),
        lambda: Cursor("meta next"),
        lambda: PageNumber(records=0),
        lambda: Windows("hour", since="2024-01-01", parameters={"a": "{start}"}),  # type: ignore[arg-type]
        lambda: Windows("day", since="yesterday", parameters={"a": "{start}"}),
        lambda: Header("X Total"),
        lambda: Cursor(("meta", "")),
        lambda: Windows("day", since="2024-01-01", parameters={"a": "{begin}"}),
        lambda: Windows("day", since="2024-01-01", parameters={"a": "{start"}),
    ],
)
def test_each_part_refuses_nonsense(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        wrong()


def test_a_slip_in_a_project_is_one_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "apis.py").write_text(
        "from etl_assets.project import Api, Rate\n\n"
        "THING = Api('thing', '', 'https://things.example', {'id': 'int'}, key='id')\n"
    )
    with pytest.raises(ProjectError, match=r"apis\.py:3: thing: key names columns"):
        read(tmp_path)


def test_windows_are_days_weeks_and_months_and_are_over_before_they_are_due() -> None:
    """Row E9: weekly windows from Monday on."""
    weeks = Windows(
        "week", since="2024-01-03", parameters={"from": "{start}", "to": "{end}", "until": "{last}"}
    )
    now = datetime(2024, 1, 22, tzinfo=UTC)
    assert [window.name for window in weeks.ended(now)] == ["2024-01-01", "2024-01-08", "2024-01-15"]
    assert weeks.told(weeks.first) == {"from": "2024-01-01", "to": "2024-01-08", "until": "2024-01-07"}
    months = Windows("month", since="2023-12-31", parameters={"m": "{start}"}, late_days=2)
    assert [window.name for window in months.ended(datetime(2024, 3, 2, tzinfo=UTC))] == [
        "2023-12-01",
        "2024-01-01",
    ]
    with pytest.raises(ValueError, match=r"no window begins on 2024-01-02: .*2024-01-01 is the one"):
        weeks.named("2024-01-02")


def test_a_pause_that_the_server_asks_for_is_kept_by_all_threads() -> None:
    limiter = Limiter(Rate(1_000))
    limiter.pause(0.2)
    import time

    began = time.monotonic()
    limiter.go().answers()
    assert time.monotonic() - began >= 0.2
