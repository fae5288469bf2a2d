"""The property tests of the law find mistakes: with one put into the engine on purpose, they turn red."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from types import ModuleType
from unittest import mock

import duckdb
import pytest

from etl_assets.star import application, frames, reach
from etl_assets.star.change import InputChange
from etl_assets.star.course import Course, DimensionCourse
from etl_assets_tests.law.play import Broken, play
from etl_assets_tests.law.test_law import unguarded
from etl_assets_tests.law.test_reach import examine

# Models, or samples, among which one has to show a mistake.
ENOUGH = 100

_GONE_AND_COME = "SELECT {chosen} FROM {change.gone} UNION ALL SELECT {chosen} FROM {change.come}"
_ALL_VERSIONS = "SELECT {names} FROM {self.rows} UNION ALL SELECT {names} FROM {self.gone}"

MISTAKES_IN_REACH = {
    "what changed rows were is not followed": (_GONE_AND_COME, "SELECT {chosen} FROM {change.come}"),
    "what changed rows are is not followed": (_GONE_AND_COME, "SELECT {chosen} FROM {change.gone}"),
    "changes of the right side of a join are not followed": (
        "for touched in self._of_right(source):\n            yield",
        "for touched in ():\n            yield",
    ),
    "changes of the right side of a join below a group are not followed": (
        "yield from self._touched_from(source.left)\n        yield from self._of_right(source)",
        "yield from self._touched_from(source.left)",
    ),
    "only one way to a key is followed": (
        "parts = list(self._collect(self.tree, anchor))",
        "parts = list(self._collect(self.tree, anchor))[:1]",
    ),
    "of a group only the rows that changed are read": (
        'FROM {self._picked(change, touched)} AS {ROW}")\n        was = now',
        'FROM {change.come or self._picked(change, touched)} AS {ROW}")\n        was = now',
    ),
    "the rows as they were lack what left": (
        "\"\n                f\"SELECT {names} FROM {change.gone} AS {ROW} SEMI JOIN {table} AS {VALUE} ON {same_values(touched)}",
        "\"\n                f\"SELECT {names} FROM {change.gone} AS {ROW} WHERE false",
    ),
    "what is looked up by a default is cut down to what is there": (
        'and (source.kind != "left" or isinstance(expression, exp.Column)):',
        ":",
    ),
    "a group by one key is cut down by another": (
        "kept = [i for i, e in enumerate(down) if _made_of(e, common)]",
        "kept = list(range(len(down)))",
    ),
}  # fmt: skip


def mistaken(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """A module, made anew with a piece of its text replaced."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"not once in {module.__name__}: {right}"
    made = ModuleType(f"{module.__name__}_mistaken")
    exec(compile(source.replace(right, wrong), module.__file__ or "", "exec"), made.__dict__)  # noqa: S102
    return made


def found(examined: Callable[[int], object]) -> bool:
    """Whether one of the samples shows a mistake."""
    for seed in range(ENOUGH):
        try:
            examined(seed)
        except (Broken, AssertionError, duckdb.Error):
            return True
    return False


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.mark.parametrize("mistake", MISTAKES_IN_REACH)
def test_a_mistake_can_still_be_put_into_the_code(mistake: str) -> None:
    mistaken(reach, *MISTAKES_IN_REACH[mistake])


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("mistake", MISTAKES_IN_REACH)
def test_a_mistake_in_what_a_change_reaches_is_found(
    mistake: str, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mistaken(reach, *MISTAKES_IN_REACH[mistake])
    monkeypatch.setattr(application, "Reach", wrong.Reach)
    assert found(lambda seed: examine(seed, connection))


@pytest.mark.slow
def test_a_mistake_in_which_versions_are_joined_is_found(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rows as they are alone, what a row was joined to before it changed is forgotten."""
    monkeypatch.setattr(InputChange, "ever", lambda change: change.rows)
    assert found(lambda seed: examine(seed, connection))


MISTAKES_IN_TABLES: Mapping[str, AbstractContextManager[object]] = {
    "deleted rows of a source table are seen": mock.patch.object(frames, "DELETED", "false"),
    "deleted members of a dimension are seen": mock.patch.object(
        DimensionCourse, "current", lambda self: f"(SELECT {self.declared} FROM {self.members})"
    ),
    "rows that left are not looked for": mock.patch.object(Course, "_all_are_there", return_value=True),
    "rows that leave are not recorded": mock.patch.object(
        Course, "without", lambda self, rows, others: f"(SELECT {self.declared} FROM {rows} LIMIT 0)"
    ),
}


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("mistake", MISTAKES_IN_TABLES)
def test_a_mistake_in_what_a_table_shows_is_found(mistake: str, tmp_path: Path) -> None:
    places = count()
    with MISTAKES_IN_TABLES[mistake], unguarded():
        assert found(lambda seed: play(seed, tmp_path / str(next(places))))
