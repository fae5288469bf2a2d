"""Fetching a window: its pages, one after the other or several at a time, into the lake.

    which pages have landed ► the next ones, at the agreed rate ► land them, some in a file ► say that all have

The stream is `streamable`'s: mapped with concurrency, caught, observed, grouped. An error of one page does not stop the
others; it is raised when the stream has ended, and the next run fetches what is missing. What was begun and can't be gone on
with, since a cursor does not last or what landed is damaged, is begun anew as another take.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from streamable import stream

from etl_assets.apis.asking import Asking
from etl_assets.apis.client import Client
from etl_assets.apis.declaration import Api
from etl_assets.apis.due import calls_elsewhere
from etl_assets.apis.errors import ApiError, CallFailed, NotYet, Refused
from etl_assets.apis.journal import Journal
from etl_assets.apis.limiter import Limiter
from etl_assets.apis.pages import Page, PagesFile
from etl_assets.apis.paging import Numbered, Offset
from etl_assets.apis.takes import DamagedPages, Summary, Take
from etl_assets.apis.window_progress import WindowProgress
from etl_assets.apis.windows import filled
from etl_assets.failpoints import reached

_MOST_FAILED_PAGES = 5
"""So many pages fail, each after all its attempts, before no other one is tried."""
_NOT_FOUND = 404
_NOT_THERE = {400, _NOT_FOUND, 410, 416, 422}
"""What APIs answer to a cursor, or an address of a page, that they gave once and do not know any more; or to one behind the last."""

Told = Callable[[int, int, int], None]
"""Gets the pages that came so far, their records, and the calls that failed."""


class _Expired(ApiError):
    """The API does not know any more where an earlier run was to go on."""


class _NoSuchPage(ApiError):
    """There is no page with this number: the one before it was the last."""


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
        self._told = told
        self._scratch = scratch
        self._deadline = time.monotonic() + api.limits.seconds
        self._interrupted = threading.Event()
        self.limiter = Limiter(api.rate, self._go_on)
        days = api.windows.named(take.window).days if api.windows else {}
        self.client = Client(
            api, filled(url, days) if days else url, secret, self.limiter, self._check_wanted
        )
        self._asking = Asking(api, self.client, take.window, parameters)
        self._begin(take)

    def _begin(self, take: Take) -> None:
        self.take = take
        self.progress = WindowProgress(
            in_turn=isinstance(self.api.paging, Offset) and self.api.concurrency == 1
        )
        self._before = WindowProgress()
        self._landed_before = 0
        self.files: list[PagesFile] = []
        self._failed: list[ApiError] = []
        self._given_up: ApiError | None = None

    def run(self) -> Summary:
        """Land what is missing, and say that the take is complete. Raises `ApiError`; what has landed by then stays."""
        files = self.take.files
        with Journal.held(self._scratch, files.url, self.api.name, lambda: self._go_on(0.0)) as journal:
            if summary := self.take.summary():  # by the run that held it before
                return summary
            self._asking.machine = journal.machine
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
        summary = replace(
            self.progress.summary(self.files),
            calls=self._before.calls + self.limiter.calls,
            failed_calls=self._before.failed + self.client.failed,
            waited_seconds=round(self.limiter.waited_seconds, 3),
        )
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
            for landed in self.take.landed():
                file, pages = self.take.examined(landed)
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
        self._begin(self.take.following)

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
        return self._given_up is not None or self._interrupted.is_set() or self.progress.is_past(index)

    def _followed(self) -> Iterator[Page]:
        """The pages that follow the last one that has landed, each asked for as the one before it says."""
        following, index = self.progress.following, self.progress.last + 1
        seen = {following}
        while index == 0 or following:
            page = self._next_page(index, following)
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
            page = self._asking.numbered(index, self.progress.begins(index, step))
        except Refused as error:
            # Behind a page that has all that the total says.
            if self.progress.is_one_page and index and error.status in _NOT_THERE:
                self.progress.is_gone(index)
                raise _NoSuchPage(str(error)) from None
            # Some say so of a page behind the last. An API that says its total is not asked for one.
            if error.status != _NOT_FOUND or not index or self.api.total:
                raise
            self.progress.is_gone(index)
            self._look_behind(index, step)
            raise _NoSuchPage(str(error)) from None
        self._check_pages(page)
        self.progress.came(page)  # before its turn comes, so that none behind it is asked for
        return page

    def _look_behind(self, gone: int, step: int) -> None:
        """Ask for the page behind one that there is not: it may be the end, or a page that is lost amid others."""
        try:
            page = self._asking.numbered(gone + 1, self.progress.begins(gone, step) + step)
        except Refused:
            return
        if page.records:
            self.progress.came(page)

    def _next_page(self, index: int, following: str | None) -> Page:
        """The page that an earlier one leads to."""
        try:
            return self._asking.followed(index, following)
        except Refused as error:
            if self._landed_before and index == self._landed_before and error.status in _NOT_THERE:
                raise _Expired(f"{error}; where it was to go on is not known there any more") from None
            raise

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
            # Where one page begins where the one before it ended, none is asked for behind one that failed.
            if lasting or self.progress.in_turn or len(self._failed) >= _MOST_FAILED_PAGES:
                self._given_up = error

    def _tell(self) -> None:
        self._told(len(self.progress.pages), self.progress.records, self.client.failed)

    def _so_far(self) -> str:
        pages = len(self.progress.pages)
        return f"{pages:,} {'page has' if pages == 1 else 'pages have'} landed and stay: run again for the others"

    def _check_whole(self) -> None:
        """Raises `ApiError` if the stream ended before the pages did."""
        progress = self.progress
        if progress.gone is not None and progress.full > progress.gone:
            raise ApiError(
                f"{self.api.name}: there is no page {progress.gone + 1:,} (404), and there is page {progress.full + 1:,}; "
                f"{self._so_far()}"
            )
        if isinstance(self.api.paging, Offset) and not self.api.total and not progress.in_turn:
            self._check_length()
        lacking = progress.lacking(numbered=isinstance(self.api.paging, Numbered))
        if lacking is not None:
            raise ApiError(f"{self.api.name}: page {lacking + 1:,} did not come; {self._so_far()}")

    def _check_length(self) -> None:
        """Raises `ApiError` if pages were not as long as they were taken to be: records between them would be left out."""
        if (page := self.progress.shorter) is None:
            return
        why = f"{self.api.name}: page {page + 1:,} has fewer records than the first, and there are others behind it"
        self._begin_anew(why)
        raise ApiError(
            f"{why}: some between them may be left out. Say concurrency=1, and each page is asked for from where the one before it "
            f"ended, or declare its total ({self.api.where})"
        )
