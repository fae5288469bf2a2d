"""A version of code says whether its meaning changed. Were it blind, stale data would pass for fresh; were it moved by
a comment, an edit of nothing would rebuild everything.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etl_assets.engine.code_version import code_version
from etl_assets_tests.modules import loaded

MAIN = '''
import datetime as dt
import enum
import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache, partial
import narwhals as nw
import {package}.other as other
from {package}.other import Shape, half, PRICED as price

FACTOR = 3
NAMES = ["a", "b"]
ALLOWED = {{"x", "y", "z"}}
LIMITS = {{"low": 1}}

@dataclass(frozen=True)
class Table:
    columns: list[str] = field(repr=False)
    def width(self):
        return len(self.columns)

TABLE = Table(["one"])
SHIFTED = partial(half, 8)
RATES = {{"low": Decimal("1.10")}}
SINCE: dt.date = dt.date(2024, 1, 1)
WORDS = re.compile("a+")
WORK = {{"turn": (lambda value: value * 16)}}
STATES = {{}}
STATES["open"] = enum.Enum("Kind", "NEW OLD")

FIRST = other.Kind.NEW

def raised(value, since=SINCE, *, least=Decimal("0.5")):
    return value + since.year

@lru_cache
def doubled(value):
    return value * 2

def tripled(value, by=FACTOR):
    return value * by

def used(value):
    """What it is."""
    # How it is done.
    def inner(x):
        return other.quarter(x) + doubled(x)
    kinds = [name for name in NAMES if name in ALLOWED]
    kinds += [RATES, WORDS, WORK, STATES, FIRST, price, other.CHOSEN, raised(1)]
    return inner(value) + tripled(value) + half(value) + Shape().area() + LIMITS["low"] + TABLE.width() + SHIFTED()
'''
OTHER = """
import enum
import narwhals as nw

class Kind(enum.Enum):
    NEW = "new"

TAX = nw.lit(21)
PRICED = nw.col("price") + TAX
CHOSEN = [nw.col("name")]
CHOSEN.append(nw.col("day"))

class Base:
    def scale(self):
        return 1

class Shape(Base):
    side = 2
    def area(self):
        return self.side * self.side * self.scale()

DIVISOR = 2

def half(value):
    return value / DIVISOR

def quarter(value):
    return half(value) / 2

def unused(value):
    return value
"""


@pytest.fixture
def version(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The version of `used`, after an edit of one of the two modules."""
    package = "package_of_a_test"
    numbers = itertools.count()

    def computed(old: str = "", new: str = "") -> str:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        texts = {"other": OTHER, "main": MAIN.format(package=package)}
        assert not old or sum(text.count(old) for text in texts.values()) == 1, old
        for name in (package, f"{package}.other"):
            text = texts.get(name.rpartition(".")[2], "") if "." in name else ""
            sys.modules[name] = loaded(name, text.replace(old, new) if old else text, folder)
        sys.modules[package].other = sys.modules[f"{package}.other"]  # type: ignore[attr-defined]
        main = loaded(f"{package}.main", texts["main"].replace(old, new) if old else texts["main"], folder)
        assert main.used(4) > 0, "the edit broke the code"
        return code_version(main.used)

    yield computed
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("# How it is done.", "# How it is done, and why."),
        ('"""What it is."""', '"""Something else."""'),
        ('    """What it is."""\n', ""),
        ("    return value * 2", "    return (\n        value  *  2\n    )"),
        ("    kinds =", "\n\n    kinds ="),
        ('{"x", "y", "z"}', '{"z", "y", "x"}'),
        ("def unused(value):\n    return value", "def unused(value):\n    return value + 1"),
    ],
)
def test_what_changes_nothing_does_not_change_the_version(
    version: Callable[..., str], old: str, new: str
) -> None:
    assert version(old, new) == version()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("inner(value) + tripled", "inner(value) - tripled"),
        ("return value * 2", "return value * 4"),
        ("@lru_cache\n", "@lru_cache(maxsize=1)\n"),
        ("FACTOR = 3", "FACTOR = 5"),
        ('NAMES = ["a", "b"]', 'NAMES = ["b", "a"]'),
        ('"x", "y", "z"', '"x", "y"'),
        ('"low": 1', '"low": 2'),
        ('Table(["one"])', 'Table(["one", "two"])'),
        ("return len(self.columns)", "return 1 + len(self.columns)"),
        ("partial(half, 8)", "partial(half, 16)"),
        ("DIVISOR = 2", "DIVISOR = 4"),
        ("return half(value) / 2", "return half(value) / 4"),
        ("side = 2", "side = 3"),
        ("return 1\n", "return 2\n"),
        ('Decimal("1.10")', 'Decimal("1.20")'),
        ("dt.date(2024, 1, 1)", "dt.date(2025, 1, 1)"),
        ('re.compile("a+")', 're.compile("b+")'),
        ("value * 16", "value * 17"),
        ('"NEW OLD"', '"OLD NEW"'),
        ('NEW = "new"', 'NEW = "other"'),
        ('least=Decimal("0.5")', 'least=Decimal("0.6")'),
        ('nw.col("price")', 'nw.col("cost")'),
        ("nw.lit(21)", "nw.lit(22)"),
        ('nw.col("day")', 'nw.col("month")'),
    ],
    ids=lambda text: text.strip()[:30],
)
def test_what_changes_the_outcome_changes_the_version(
    version: Callable[..., str], old: str, new: str
) -> None:
    assert version(old, new) != version()


def test_what_a_function_was_given_when_it_was_made_counts(tmp_path: Path) -> None:
    """What makes it stands somewhere beside it, and is not a value that can be written down."""
    package = "package_of_a_test"
    made = "def of(by):\n    def inner(value):\n        return value * by\n    return inner\n"

    def version(place: str, rate: str) -> str:
        folder = tmp_path / place
        folder.mkdir()
        text = f"from decimal import Decimal\n\n{made}\nused = of(Decimal({rate!r}))\n"
        return code_version(loaded(f"{package}.main", text, folder).used)

    try:
        assert version("one", "1.5") == version("same", "1.5") != version("other", "2.5")
    finally:
        del sys.modules[f"{package}.main"]


def test_two_processes_agree_on_it(tmp_path: Path) -> None:
    package = tmp_path / "package_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "other.py").write_text(OTHER)
    (package / "main.py").write_text(MAIN.format(package=package.name))
    script = (
        "from etl_assets.engine.code_version import code_version; from package_of_a_test.main import used; "
        "print(code_version(used))"
    )
    root = Path(__file__).parents[2]
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
