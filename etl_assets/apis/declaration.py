"""The declaration of a REST API: what a user writes to have its records in the lake, as a table."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from etl_assets.apis.paging import Header, Link, Numbered, OnePage, Paging, Path, check_path
from etl_assets.apis.windows import Windows, filled, names_days
from etl_assets.engine.location import caller
from etl_assets.source.table import Table

_SETTING = re.compile(r"[A-Z][A-Z0-9_]*")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_UNSUPPORTED = {"bytea"}  # JSON has no bytes


@dataclass(frozen=True)
class Rate:
    """At most `calls` in any `per_seconds`: calls that fail count too, and all threads together."""

    calls: int
    per_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.calls < 1 or not self.per_seconds > 0:
            raise ValueError(
                f"Rate({self.calls}, {self.per_seconds}): at least one call in more than 0 seconds"
            )


@dataclass(frozen=True)
class Retry:
    """A call that fails for a moment (no connection, no answer in time, 408, 425, 429, 5xx, an answer that is cut off) is
    made up to `attempts` times. Between them lie `pause_seconds`, twice as many each time, and a fifth more or less at
    random; or what the server asks for (`Retry-After`), if that is no more than `longest_pause_seconds`."""

    attempts: int = 3
    pause_seconds: float = 5.0
    longest_pause_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.pause_seconds < 0 or self.longest_pause_seconds < self.pause_seconds:
            raise ValueError(
                f"Retry({self.attempts}, {self.pause_seconds}, {self.longest_pause_seconds}): at least one attempt, and "
                "pauses that are no longer than the longest"
            )


@dataclass(frozen=True)
class Limits:
    """What an API may cost. `pages` of a window; `answer_bytes` of one answer, unpacked; `seconds` that a run may take;
    `call_seconds` for one answer from the first byte to the last. `bad_share`: above this share of records that can't be
    used (and more than five) a run fails. `private_redirects`: redirects may lead to addresses that are not public."""

    pages: int = 10_000
    answer_bytes: int = 32 << 20
    seconds: float = 300.0
    call_seconds: float = 60.0
    bad_share: float = 0.05
    private_redirects: bool = False

    def __post_init__(self) -> None:
        if min(self.pages, self.answer_bytes) < 1 or min(self.seconds, self.call_seconds) <= 0:
            raise ValueError("Limits: pages, answer_bytes, seconds and call_seconds must be more than 0")
        if not 0 <= self.bad_share <= 1:
            raise ValueError(f"Limits: bad_share={self.bad_share} is no share: write 0.05 for 5 %")


@dataclass(frozen=True)
class Batch:
    """So many pages, or what came in so many seconds, land as one file."""

    pages: int = 10
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.pages < 1 or self.seconds <= 0:
            raise ValueError(
                f"Batch({self.pages}, {self.seconds}): at least one page, in more than 0 seconds"
            )


@dataclass(frozen=True)
class Credential:
    """What a call carries so that it is answered: the secret that the setting (an environment variable) holds, or names
    as `aws-secret://…`. In a header (`{}` stands for the secret), or as a parameter; it is read when a call is made, and
    kept nowhere."""

    setting: str
    header: str = "Authorization"
    form: str = "Bearer {}"
    parameter: str = ""

    def __post_init__(self) -> None:
        if not _SETTING.fullmatch(self.setting):
            raise ValueError(
                "a credential names the environment variable that holds it, as CARDS_TOKEN; it is never written here"
            )
        if not self.parameter and (not _HEADER.fullmatch(self.header) or self.form.count("{}") != 1):
            raise ValueError(
                f'{self.setting}: form={self.form!r} needs one {{}} for the secret, as "Bearer {{}}"'
            )


Records = Path | Callable[[Any], Iterable[Any]]
"""Where the records stand in an answer: a path, "" for the answer itself, or a function that takes them out of it. The function
gets whole numbers as `int` and others as `Decimal`, and gives records with what JSON has, or `float`, `Decimal`, `date`,
`datetime`, `time`, `UUID`."""


@dataclass(frozen=True)
class Api:
    """A REST API whose records are kept as the table `name`: star functions read it as any other.

    `url`: where it is, in its path maybe `{start}`, `{end}` and `{last}` of the window; `url_setting`: an environment variable that
    may say otherwise. `columns` and their types (`?` allows
    NULL) are what is kept of a record; `fields` says where a column stands in it, if not under its own name (`set.name`).
    `key` tells records apart: the newest version of each counts. `records`: where they stand in an answer; `total`: where
    it says how many there are, or in which header, which is then compared. `parameters` are the same in every call. With a `body`
    each call is a POST of this JSON: in its texts `{start}`, `{end}` and `{last}` stand for the days of the window, and what asks
    for a page is put into it. What the rest means, the classes say.
    """

    name: str
    description: str
    url: str
    columns: Mapping[str, str]
    key: Sequence[str]
    records: Records = ""
    total: Path | Header = ""
    fields: Mapping[str, Path] = field(default_factory=dict)
    paging: Paging = field(default_factory=OnePage)
    windows: Windows | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    credential: Credential | None = field(default=None, repr=False)
    rate: Rate = field(default_factory=lambda: Rate(10), repr=False)
    concurrency: int = field(default=1, repr=False)
    batch: Batch = field(default_factory=Batch, repr=False)
    retry: Retry = field(default_factory=Retry, repr=False)
    limits: Limits = field(default_factory=Limits, repr=False)
    url_setting: str = field(default="", repr=False)
    where: str = field(default="", init=False, repr=False, compare=False)
    """The file and line of the declaration, as an editor takes them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", caller(1))  # that calls __init__, which calls this
        for mistake in self._mistakes():
            raise ValueError(f"{self.name}: {mistake}")
        _ = self.table

    def _mistakes(self) -> Iterable[str]:
        if not _NAME.fullmatch(self.name):
            yield "an API is called as a parameter of functions: letters a to z, digits and _"
        if isinstance(self.key, str):
            yield f"key names columns: write key=({self.key!r},)"
        if not self.key:
            yield 'nothing tells its records apart: write key=("…",)'
        if nullable := [name for name in self.key if self.columns.get(name, "").strip().endswith("?")]:
            yield f"{nullable[0]} is a part of its key, which always has a value: take the ? away"
        if unknown := sorted({*self.fields} - {*self.columns}):
            yield f"fields names {unknown[0]}, which is none of its columns"
        for path in self.fields.values():
            check_path("fields", path)
        if not callable(self.records) and self.records:
            check_path("records", self.records)
        if self.total:
            check_path("total", self.total)
        yield from self._mistakes_of_calls()
        if wrong := wrong_url(self.url):
            yield f"url {wrong}"
        if names_days(self.url) and not self.windows:
            yield "its url names the days of a window, and it has no windows=Windows(…)"
        if unsupported := [
            n for n, t in Table("t", "", self.columns).types.items() if t.name in _UNSUPPORTED
        ]:
            yield f"{unsupported[0]} can't be bytea, which JSON does not have: declare it text"

    def _mistakes_of_calls(self) -> Iterable[str]:
        if self.concurrency < 1:
            yield f"concurrency={self.concurrency}: at least one call at a time"
        if self.concurrency > 1 and not isinstance(self.paging, Numbered):
            yield "concurrency needs pages that can be asked for in any order: PageNumber or Offset"
        if self.url_setting and not _SETTING.fullmatch(self.url_setting):
            yield f"url_setting={self.url_setting!r} is no name of an environment variable"
        if self.body is not None:
            try:
                json.dumps(self.body)
            except (TypeError, ValueError):
                yield "body is no JSON: it has texts, numbers, true, false, None, lists and mappings of texts"
            if isinstance(self.paging, Link):
                yield "a body is posted, and Link gives an address to get: page by PageNumber, Offset or Cursor"
        if self.windows and not self._names_the_window():
            yield "nothing names its window: write {start}, {end} or {last} in parameters of Windows, in body or in url"

    def _names_the_window(self) -> bool:
        windows = self.windows
        if windows is None:
            return False
        first, second = windows.first, windows.named(windows.first.end.isoformat())
        return (windows.told(first), filled([self.url, self.body], first.days)) != (
            windows.told(second),
            filled([self.url, self.body], second.days),
        )

    @cached_property
    def table(self) -> Table:
        """The table that its records are kept as."""
        table = Table(self.name, self.description, self.columns, tuple(self.key), source=self.name)
        object.__setattr__(table, "where", self.where)
        return table

    def field_of(self, column: str) -> Path:
        """Where a column stands in a record."""
        return self.fields.get(column, column)


def wrong_url(url: str) -> str:
    """What is wrong with the address of an API, without repeating it; empty if nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "can't be read: write https://host/path"
    if parts.scheme not in ("http", "https") or not host or "{" in parts.netloc:
        return "can't be read: write https://host/path"
    if parts.username is not None or parts.password is not None:
        return "has a user or a password in it: name them in a credential (Credential)"
    if parts.query or parts.fragment:
        return "has parameters in it: write them as parameters={…}, and a key in a credential (Credential)"
    return ""
