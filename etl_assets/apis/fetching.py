"""Fetching a window: its pages, one after the other or several at a time, into the lake.

    which pages have landed ► the next ones, at the agreed rate ► land them, some in a file ► say that all have

The stream is `streamable`'s: mapped with concurrency, caught, observed, grouped. An error of one page does not stop the
others; it is raised when the stream has ended, and the next run fetches what is missing.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from streamable import stream

from etl_assets.apis.client import Answer, ApiError, CallFailed, Client
from etl_assets.apis.declaration import Api
from etl_assets.apis.due import calls_since
from etl_assets.apis.limiter import Limiter
from etl_assets.apis.pages import Page, PagesFile, Summary, Take, records_of
from etl_assets.apis.paging import Cursor, Link, Numbered, OnePage, dig
from etl_assets.failpoints import reached

_MOST_FAILED_PAGES = 5
"""So many pages fail, each after all its attempts, before no other one is tried."""
_SHORT_SECONDS = 10.0

Told = Callable[[int, int, int], None]
"""Gets the pages that came so far, their records, and the calls that failed."""


@dataclass
class _Progress:
    """What is known of a window while its pages come."""

    pages: set[int] = field(default_factory=set)
    """The indexes of those that have landed or come."""
    first: int | None = None
    """How many records the first page has."""
    total: int | None = None
    end: int | None = None
    """The index of the first page that has no records."""
    following: str | None = None
    last: int = -1
    records: int = 0
    calls: int = 0
    failed: int = 0
    called: float = 0.0
    """When the newest call was made (seconds since 1970)."""

    def add(self, page: Page) -> None:
        """Take note of a page."""
        if page.index in self.pages:
            return
        self.pages.add(page.index)
        self.records += page.records
        self.calls += len(page.calls)
        self.failed += len(page.calls) - 1
        self.called = max(self.called, *page.calls) if page.calls else self.called
        if page.index > self.last:
            self.last, self.following = page.index, page.following
            self.total = page.total if page.total is not None else self.total
        if page.index == 0:
            self.first = page.records
        self.ends(page)

    def ends(self, page: Page) -> None:
        """Take note of a page without records: there is none behind it."""
        if not page.records and (self.end is None or page.index < self.end):
            self.end = page.index


class Fetch:
    """The pages of one take. `parameters` tell the API which window is meant."""

    def __init__(
        self,
        api: Api,
        take: Take,
        url: str,
        secret: Callable[[str], str],
        parameters: Mapping[str, str],
        told: Told,
    ) -> None:
        self.api = api
        self.take = take
        self.parameters = {**api.parameters, **parameters}
        self._told = told
        self._deadline = time.monotonic() + api.limits.seconds
        self._given_up: ApiError | None = None
        self._failed: list[ApiError] = []
        self.progress = _Progress()
        self._before = _Progress()
        self.files: list[PagesFile] = []
        self.limiter = Limiter(api.rate, self._go_on)
        self.client = Client(api, url, secret, self.limiter)

    def run(self) -> Summary:
        """Land what is missing, and say that the take is complete. Raises `ApiError`; what has landed by then stays."""
        self._resume()
        with self.client:
            pages = (
                self._pages()
                .catch(ApiError, do=self._note)
                .do(self.progress.add)
                .observe("pages", do=lambda _: self._tell())
                .group(up_to=self.api.batch.pages, within=timedelta(seconds=self.api.batch.seconds))
            )
            for group in pages:
                reached("pages fetched")
                self.files.append(self.take.land(group))
        self._tell()
        if self._failed:
            first = self._failed[0]
            more = f" (and {len(self._failed) - 1} more pages)" if len(self._failed) > 1 else ""
            raise ApiError(f"{first}{more}; {self._so_far()}") from first
        self._check_whole()
        summary = self._summary()
        self.take.complete(summary)
        return summary

    def _pages(self) -> "stream[Page]":
        if isinstance(self.api.paging, Numbered):
            # The first one alone: it says how many there are.
            first = (
                stream(range(1)).filter(lambda index: index not in self.progress.pages).map(self._numbered)
            )
            return first + stream(self._missing()).map(self._numbered, concurrency=self.api.concurrency)
        # A page that leads to the next is asked for while the one before it lands.
        return stream(self._followed()).buffer(up_to=1)

    # -- what has landed ---------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Take note of what has landed, and of the calls that it took: the rate is that of all runs together."""
        self.take.files.sweep(self.take.folder)
        for file in self.take.landed():
            pages = list(self.take.read(file))
            self.files.append(file)
            for page in pages:
                self.progress.add(page)
        self._before = replace(self.progress)
        self._count_earlier_calls()

    def _count_earlier_calls(self) -> None:
        """Let the limiter know of calls that were made before, for this window and for others."""
        rate, now, known = self.api.rate, time.time(), [(self.progress.called, self.progress.calls)]
        if rate.per_seconds <= _SHORT_SECONDS:
            # Of a run that was killed only the calls are known whose pages landed. A short period is waited for instead.
            known = [(now, rate.calls)] if now - self.progress.called < rate.per_seconds else []
        else:
            known += calls_since(self.api, self.take.files, now - rate.per_seconds)
        for called, calls in sorted(known):
            if now - called < rate.per_seconds:
                for _ in range(min(calls, rate.calls)):
                    self.limiter.assume(now - called)

    # -- which pages come next ---------------------------------------------------------------------------------------

    def _missing(self) -> Iterator[int]:
        """The indexes of the pages behind the first that have not landed, as far as it is known that they are there."""
        index = 1
        while not self._is_past(index):
            self._check_pages(index)
            if index not in self.progress.pages:
                yield index
            index += 1

    def _is_past(self, index: int) -> bool:
        """Whether there is no page with an index, as far as it is known, or none is to be asked for."""
        progress = self.progress
        if self._given_up or not progress.first or (progress.end is not None and index >= progress.end):
            return True
        return progress.total is not None and index * progress.first >= progress.total

    def _followed(self) -> Iterator[Page]:
        """The pages that follow the last one that has landed, each asked for as the one before it says."""
        following, index = self.progress.following, self.progress.last + 1
        seen = {following}
        while index == 0 or following:
            self._check_pages(index)
            page = self._page(index, self._answer(following))
            yield page
            if page.following and page.following in seen:
                raise ApiError(
                    f"{self.api.name}: page {index + 1:,} leads back to one that was there before: it never ends"
                )
            following, index = page.following, index + 1
            seen.add(following)

    def _check_pages(self, index: int) -> None:
        most = self.api.limits.pages
        if index >= most:
            raise ApiError(
                f"{self.api.name}: there are more than {most:,} pages: take shorter windows, or raise pages (Limits; "
                f"{self.api.where})"
            )

    # -- one page --------------------------------------------------------------------------------------------------------

    def _numbered(self, index: int) -> Page:
        paging = self.api.paging
        assert isinstance(paging, Numbered)  # noqa: S101
        step = self.progress.first or paging.records
        page = self._page(index, self.client.get({**self.parameters, **paging.parameters(index, step)}))
        self.progress.ends(page)  # before its turn comes, so that none behind it is asked for
        return page

    def _answer(self, following: str | None) -> Answer:
        paging = self.api.paging
        if isinstance(paging, OnePage):
            return self.client.get(self.parameters)
        if isinstance(paging, Cursor):
            cursor = {paging.parameter: following} if following else {}
            return self.client.get({**self.parameters, **paging.parameters(), **cursor})
        assert isinstance(paging, Link)  # noqa: S101
        if following:
            return self.client.get({}, path=following)
        return self.client.get({**self.parameters, **paging.parameters()})

    def _page(self, index: int, answer: Answer) -> Page:
        records = records_of(self.api.name, answer.value, self.api.records)
        return Page(
            index, answer.body, len(records), self._total(answer.value), self._following(answer), answer.calls
        )

    def _total(self, value: Any) -> int | None:
        if not self.api.total:
            return None
        total = dig(value, self.api.total)
        if isinstance(total, str) and total.isdecimal():
            total = int(total)
        if not isinstance(total, int) or isinstance(total, bool) or total < 0:
            raise ApiError(
                f"{self.api.name}: its answer says no total at {self.api.total} ({self.api.where})"
            )
        return total

    def _following(self, answer: Answer) -> str | None:
        paging = self.api.paging
        if isinstance(paging, Cursor):
            cursor = dig(answer.value, paging.next)
            return str(cursor) if cursor not in (None, False, "") else None
        if isinstance(paging, Link):
            link = dig(answer.value, paging.next) if paging.next else answer.following
            return self.client.path_of(str(link)) if link else None
        return None

    # -- how it goes -----------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Raises `ApiError` when no further call is to be made."""
        if self._given_up:
            raise self._given_up
        if time.monotonic() > self._deadline:
            raise ApiError(
                f"{self.api.name}: not done within {self.api.limits.seconds:,.0f} s (Limits; {self.api.where})"
            )

    def _note(self, error: ApiError) -> None:
        if self._given_up is None:
            self._failed.append(error)
            lasting = not isinstance(error, CallFailed) or time.monotonic() > self._deadline
            if lasting or len(self._failed) >= _MOST_FAILED_PAGES:
                self._given_up = error

    def _tell(self) -> None:
        self._told(len(self.progress.pages), self.progress.records, self.client.failed)

    def _so_far(self) -> str:
        pages = len(self.progress.pages)
        return f"{pages:,} {'page has' if pages == 1 else 'pages have'} landed and stay: run again for the others"

    def _check_whole(self) -> None:
        """Raises `ApiError` if the stream ended before the pages did."""
        progress = self.progress
        end = progress.last + 1 if progress.end is None else progress.end
        lacking = [index for index in range(end) if index not in progress.pages]
        numbered = isinstance(self.api.paging, Numbered)
        if lacking or not progress.pages or (not self._is_past(end) if numbered else progress.following):
            page = lacking[0] if lacking else end
            raise ApiError(f"{self.api.name}: page {page + 1:,} did not come; {self._so_far()}")

    def _summary(self) -> Summary:
        progress = self.progress
        return Summary(
            files=tuple(map(self._digested, self.files)),
            pages=len(progress.pages),
            calls=self._before.calls + self.limiter.calls,
            failed_calls=self._before.failed + self.client.failed,
            records=progress.records,
            waited_seconds=round(self.limiter.waited_seconds, 3),
            total=progress.total,
            received=progress.called,
        )

    def _digested(self, file: PagesFile) -> PagesFile:
        """A file that an earlier run landed, with what is in it."""
        if file.sha256:
            return file
        digest = hashlib.sha256(self.take.files.read(file.path)).hexdigest()
        return PagesFile(file.path, sum(1 for _ in self.take.read(file)), digest)
