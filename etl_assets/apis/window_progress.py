"""What is known of a window while its pages come: which have come, which is the last, and what the mark of the whole then says."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from etl_assets.apis.pages import Page, PagesFile
from etl_assets.apis.takes import Summary


@dataclass
class WindowProgress:
    """The pages of a window so far, those that landed before included. `pages`: the indexes of those that have landed or come;
    `first`: how many records the first one has; `full`: the index of the last one that has records; `following`: how the page
    behind `last` is asked for; `called`: when the newest call was made (seconds since 1970). `gone`: of the first page that the API
    says is not there. `in_turn`: each page begins where the one before it ended, however long they are; else all are taken to be
    as long as the first."""

    in_turn: bool = False
    pages: set[int] = field(default_factory=set)
    first: int | None = None
    total: int | None = None
    following: str | None = None
    last: int = -1
    full: int = -1
    gone: int | None = None
    records: int = 0
    calls: int = 0
    failed: int = 0
    called: float = 0.0
    machines: set[str] = field(default_factory=set)
    _empty: set[int] = field(default_factory=set)
    _shorter: set[int] = field(default_factory=set)

    def add(self, page: Page) -> None:
        """Take note of a page."""
        if page.index in self.pages:
            return
        self.pages.add(page.index)
        self.records += page.records
        self.calls += len(page.calls)
        self.failed += len(page.calls) - 1
        self.called = max(self.called, *page.calls) if page.calls else self.called
        self.machines.add(page.machine)
        if page.index > self.last:
            self.last, self.following = page.index, page.following
            self.total = page.total if page.total is not None else self.total
        if page.index == 0:
            self.first = page.records
        if page.records < (self.first or 0):
            self._shorter.add(page.index)
        self.came(page)

    def came(self, page: Page) -> None:
        """Take note of whether a page has records, before its turn comes: behind one that has none there is nothing, as far as it
        is known."""
        if page.records:
            self.full = max(self.full, page.index)
        else:
            self._empty.add(page.index)

    def is_gone(self, index: int) -> None:
        """Take note that the API says that there is no such page."""
        self.gone = index if self.gone is None else min(index, self.gone)

    @property
    def end(self) -> int | None:
        """The index of the first page behind the last that has records; None if it is not known."""
        # As one step: other threads add to it.
        behind = [index for index in tuple(self._empty) if index > self.full]
        return min(behind if self.gone is None else [*behind, self.gone], default=None)

    def is_past(self, index: int) -> bool:
        """Whether there is no page with an index, as far as it is known, of pages that have numbers."""
        if not self.first:
            return True
        if (end := self.end) is not None and index >= end:
            return True
        if (self.is_one_page and index == 1) or (self.in_turn and index <= self.last):
            return False
        return self.total is not None and self.begins(index, self.first) >= self.total

    def begins(self, index: int, step: int) -> int:
        """At which record, from 0 on, a page begins; `step`: how many one is taken to have."""
        return self.records if self.in_turn and index == self.last + 1 else index * step

    @property
    def shorter(self) -> int | None:
        """The index of a page that has fewer records than the first, though another one behind it has some; None if none has."""
        return min((index for index in self._shorter if index < self.full), default=None)

    @property
    def is_one_page(self) -> bool:
        """Whether the first page has as many records as the API says that there are: either all, or it says how many are on a
        page, and only the next one tells."""
        return self.last == 0 and self.first == self.total

    def lacking(self, *, numbered: bool) -> int | None:
        """The index of the first page that should be there and is not; None if all are."""
        end = self.last + 1 if self.end is None else self.end
        lacking = [index for index in range(end) if index not in self.pages]
        if lacking or not self.pages or (not self.is_past(end) if numbered else self.following):
            return lacking[0] if lacking else end
        return None

    def summary(self, files: Sequence[PagesFile]) -> Summary:
        """What the mark of the complete window says, of the calls that pages tell of."""
        return Summary(
            files=tuple(files),
            pages=len(self.pages),
            calls=self.calls,
            failed_calls=self.failed,
            records=self.records,
            waited_seconds=0.0,
            total=self.total,
            received=self.called,
            machines=tuple(sorted(self.machines)),
        )
