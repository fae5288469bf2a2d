"""Fetching a window: its pages, one after the other or several at a time, into the lake.

    which pages have landed ► the next ones, at the agreed rate ► land them, some in a file ► say that all have

The stream is `streamable`'s: mapped with concurrency, caught, observed, grouped. An error of one page does not stop the
others; it is raised when the stream has ended, and the next run fetches what is missing. What was begun and can't be gone on
with, since a cursor does not last or what landed is damaged, is begun anew as another take.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from streamable import stream

from etl_assets.apis.client import Answer, ApiError, CallFailed, Client, NotYet, Refused
from etl_assets.apis.declaration import Api
from etl_assets.apis.due import calls_elsewhere
from etl_assets.apis.journal import Journal
from etl_assets.apis.limiter import Limiter
from etl_assets.apis.pages import DamagedPages, Page, PagesFile, Summary, Take, records_of
from etl_assets.apis.paging import Cursor, Header, Link, Numbered, OnePage, dig, in_words
from etl_assets.apis.paging import Path as AnyPath
from etl_assets.apis.windows import filled
from etl_assets.failpoints import reached

_MOST_FAILED_PAGES = 5
"""So many pages fail, each after all its attempts, before no other one is tried."""
_NOT_FOUND = 404
_NO_SUCH_CURSOR = {400, 404, 410, 422}
"""What APIs answer to a cursor, or an address of a page, that they gave once and do not know any more."""

Told = Callable[[int, int, int], None]
"""Gets the pages that came so far, their records, and the calls that failed."""


class _Expired(ApiError):
    """The API does not know any more where an earlier run was to go on."""


class _NoSuchPage(ApiError):
    """There is no page with this number: the one before it was the last."""


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
    machines: set[str] = field(default_factory=set)
    full: int = -1
    """The index of the last page that has records."""

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
        if page.records:
            self.full = max(self.full, page.index)
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


def _with(body: Mapping[str, Any], page: Mapping[str, str | int]) -> dict[str, Any]:
    """A body with what asks for a page in it, each at its path."""
    made = dict(body)
    for path, value in page.items():
        first, _, behind = path.partition(".")
        within = made.get(first)
        made[first] = (
            _with(within if isinstance(within, Mapping) else {}, {behind: value}) if behind else value
        )
    return made


class Fetch:
    """The pages of one take. `parameters` tell the API which window is meant. In `scratch`, a folder of this machine, runs
    tell each other of their calls."""

    def __init__(
        self,
        api: Api,
        take: Take,
        url: str,
        secret: Callable[[str], str],
        parameters: Mapping[str, str],
        told: Told,
        scratch: Path,
    ) -> None:
        self.api = api
        self.take = take
        self.parameters = {**api.parameters, **parameters}
        self._body = api.body
        if api.body is not None and api.windows:
            self._body = filled(api.body, api.windows.named(take.window).days)
        self._told = told
        self._scratch = scratch
        self._deadline = time.monotonic() + api.limits.seconds
        self._given_up: ApiError | None = None
        self._failed: list[ApiError] = []
        self._interrupted = threading.Event()
        self._machine = ""
        self.progress = _Progress()
        self._before = _Progress()
        self._landed_before = 0
        self._not_found: int | None = None
        self.files: list[PagesFile] = []
        self.limiter = Limiter(api.rate, self._go_on)
        self.client = Client(api, url, secret, self.limiter, self._check_wanted)

    def run(self) -> Summary:
        """Land what is missing, and say that the take is complete. Raises `ApiError`; what has landed by then stays."""
        files = self.take.files
        with Journal.held(self._scratch, files.url, self.api.name, lambda: self._go_on(0.0)) as journal:
            if summary := self.take.summary():  # by the run that held it before
                return summary
            self._machine = journal.machine
            now, period = time.time(), self.api.rate.per_seconds
            elsewhere = calls_elsewhere(self.api, files, journal.machine, now - period)
            self.limiter.go_on(journal, [max(0.0, now - call) for call in elsewhere])
            with self.client:
                self._resume()
                self._interruptible(self._land)
                if self._failed and isinstance(self._failed[0], _Expired):
                    self._begin_anew(str(self._failed[0]))
                    self._interruptible(self._land)
        return self._concluded()

    def _land(self) -> None:
        """Land the pages that are missing, as they come."""
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

    def _interruptible(self, work: Callable[[], None]) -> None:
        """Do work in a thread of its own: an interrupt reaches this one at once, and no thread waits or calls any longer."""
        with ThreadPoolExecutor(1) as executor:
            done = executor.submit(work)
            try:
                done.result()
            except BaseException:
                self._interrupted.set()
                raise

    def _concluded(self) -> Summary:
        """Say that the take is complete, if it is. Raises `ApiError`."""
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
        """Take note of what has landed."""
        self.take.files.sweep(self.take.folder)
        try:
            for file in self.take.landed():
                pages = list(self.take.read(file))
                self.files.append(file)
                for page in pages:
                    self.progress.add(page)
        except DamagedPages as error:
            self._begin_anew(str(error))
        self._before = replace(self.progress)
        self._landed_before = len(self.progress.pages)

    def _begin_anew(self, why: str) -> None:
        """Give up the take, and begin the next one."""
        self.take.reject(why)
        self.take = self.take.following
        self.progress, self._before, self._landed_before = _Progress(), _Progress(), 0
        self.files, self._failed, self._given_up = [], [], None

    # -- which pages come next ---------------------------------------------------------------------------------------

    def _missing(self) -> Iterator[int]:
        """The indexes of the pages behind the first that have not landed, as far as it is known that they are there."""
        index = 1
        while not self._is_past(index):
            if index > self.api.limits.pages:  # the one behind the last tells that there is none
                raise self._too_many()
            if index not in self.progress.pages:
                yield index
            index += 1

    def _is_past(self, index: int) -> bool:
        """Whether there is no page with an index, as far as it is known, or none is to be asked for."""
        progress = self.progress
        if (
            self._given_up
            or self._interrupted.is_set()
            or not progress.first
            or (progress.end is not None and index >= progress.end)
        ):
            return True
        return progress.total is not None and index * progress.first >= progress.total

    def _followed(self) -> Iterator[Page]:
        """The pages that follow the last one that has landed, each asked for as the one before it says."""
        following, index = self.progress.following, self.progress.last + 1
        seen = {following}
        while index == 0 or following:
            page = self._page(index, self._answered(following, index))
            self._check_pages(page)
            yield page
            if page.following and page.following in seen:
                raise ApiError(
                    f"{self.api.name}: page {index + 1:,} leads back to one that was there before: it never ends"
                )
            following, index = page.following, index + 1
            seen.add(following)

    def _check_pages(self, page: Page) -> None:
        if page.index >= self.api.limits.pages and (page.records or page.following):
            raise self._too_many()

    def _too_many(self) -> ApiError:
        return ApiError(
            f"{self.api.name}: there are more than {self.api.limits.pages:,} pages: take shorter windows, or raise pages "
            f"(Limits; {self.api.where})"
        )

    # -- one page --------------------------------------------------------------------------------------------------------

    def _numbered(self, index: int) -> Page:
        paging = self.api.paging
        assert isinstance(paging, Numbered)  # noqa: S101
        step = self.progress.first or paging.records
        try:
            answer = self._call(paging.parameters(index, step))
        except Refused as error:
            # Some say so of a page behind the last. An API that says its total is not asked for one.
            if error.status != _NOT_FOUND or not index or self.api.total:
                raise
            self._not_found = index if self._not_found is None else min(index, self._not_found)
            self.progress.ends(Page(index, b"", 0, None, None, ()))
            self._look_behind(paging, index, step)
            raise _NoSuchPage(str(error)) from None
        page = self._page(index, answer)
        self._check_pages(page)
        self.progress.ends(page)  # before its turn comes, so that none behind it is asked for
        return page

    def _look_behind(self, paging: Numbered, gone: int, step: int) -> None:
        """Ask for the page behind one that there is not: it may be the end, or a page that is lost amid others."""
        try:
            page = self._page(gone + 1, self._call(paging.parameters(gone + 1, step)))
        except Refused:
            return
        if page.records:
            self.progress.full = max(self.progress.full, page.index)

    def _answered(self, following: str | None, index: int) -> Answer:
        """The answer that an earlier page leads to."""
        try:
            return self._answer(following)
        except Refused as error:
            if self._landed_before and index == self._landed_before and error.status in _NO_SUCH_CURSOR:
                raise _Expired(f"{error}; where it was to go on is not known there any more") from None
            raise

    def _answer(self, following: str | None) -> Answer:
        paging = self.api.paging
        if isinstance(paging, OnePage):
            return self._call({})
        if isinstance(paging, Cursor):
            cursor = {paging.parameter: following} if following else {}
            return self._call({**paging.parameters(), **cursor})
        assert isinstance(paging, Link)  # noqa: S101
        if following:
            return self.client.call({}, path=following)
        return self._call(paging.parameters())

    def _call(self, page: Mapping[str, str | int]) -> Answer:
        """The answer to what asks for a page: as parameters, or within what is posted."""
        if self._body is None:
            return self.client.call({**self.parameters, **page})
        return self.client.call(self.parameters, body=_with(self._body, page))

    def _page(self, index: int, answer: Answer) -> Page:
        records = records_of(self.api.name, answer.value, self.api.records)
        return Page(
            index,
            answer.body,
            len(records),
            self._total(answer, index),
            self._following(answer),
            answer.calls,
            self._machine,
        )

    def _said(self, answer: Answer, where: AnyPath | Header) -> Any:
        """What an answer says at a path, or in a header."""
        return answer.headers.get(where.name) if isinstance(where, Header) else dig(answer.value, where)

    def _total(self, answer: Answer, index: int) -> int | None:
        if not self.api.total:
            return None
        total = self._said(answer, self.api.total)
        if total is None and index:
            return None  # the first page said it
        if isinstance(total, str) and isinstance(self.api.total, Header):
            total = total.rpartition("/")[2].strip()  # Content-Range: items 0-99/1234
        if isinstance(total, str) and total.isdecimal():
            total = int(total)
        if not isinstance(total, int) or isinstance(total, bool) or total < 0:
            raise ApiError(
                f"{self.api.name}: its answer says no total at {in_words(self.api.total)} ({self.api.where})"
            )
        return total

    def _following(self, answer: Answer) -> str | None:
        paging = self.api.paging
        if isinstance(paging, Cursor):
            cursor = self._said(answer, paging.next)
            return str(cursor) if cursor not in (None, False, "") else None
        if isinstance(paging, Link):
            link = dig(answer.value, paging.next) if paging.next else answer.following
            return self.client.path_of(str(link)) if link else None
        return None

    # -- how it goes -----------------------------------------------------------------------------------------------------

    def _go_on(self, wait_seconds: float) -> None:
        """Raises `ApiError` when no further call is to be made, or none can be in time."""
        self._check_wanted()
        if self._given_up:
            raise self._given_up
        left = self._deadline - time.monotonic()
        if left >= max(wait_seconds, 0.0):
            return
        told = f"{self.api.name}: not done within {self.api.limits.seconds:,.0f} s (Limits; {self.api.where})"
        if wait_seconds > max(left, 0.0):
            told = f"{told}: the next call may be made in {wait_seconds:,.0f} s"
        if self.limiter.calls and len(self.progress.pages) == self._landed_before:
            raise ApiError(told)
        raise NotYet(told, wait_seconds)  # it goes on from there, and fails at nothing

    def _check_wanted(self) -> None:
        """Raises `ApiError` when nobody waits for an answer any longer."""
        if self._interrupted.is_set():
            raise ApiError(f"{self.api.name}: interrupted")

    def _note(self, error: ApiError) -> None:
        if isinstance(error, _NoSuchPage):
            return
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
        progress, behind = self.progress, self._not_found
        if behind is not None and progress.full > behind:
            raise ApiError(
                f"{self.api.name}: there is no page {behind + 1:,} (404), and there is page {progress.full + 1:,}; "
                f"{self._so_far()}"
            )
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
            machines=tuple(sorted(progress.machines)),
        )

    def _digested(self, file: PagesFile) -> PagesFile:
        """A file that an earlier run landed, with what is in it."""
        if file.sha256:
            return file
        digest = hashlib.sha256(self.take.files.read(file.path)).hexdigest()
        return PagesFile(file.path, sum(1 for _ in self.take.read(file)), digest)
