"""The pages of a window: how each is asked for, and what its answer says of itself, as a page that can land."""

import hashlib
from collections.abc import Mapping
from typing import Any

from etl_assets.apis.answers import Answer, Number, Written, records_of
from etl_assets.apis.client import Client
from etl_assets.apis.declaration import Api
from etl_assets.apis.errors import ApiError
from etl_assets.apis.pages import Page
from etl_assets.apis.paging import Cursor, Header, Link, Numbered, OnePage, dig, in_words
from etl_assets.apis.paging import Path as AnyPath
from etl_assets.apis.windows import filled

_ALIKE = 3
"""So many pages in a row, from the first on, have the same records: the API does not know what asks for a page."""


class Asking:
    """Asks for the pages of one window. `parameters` tell the API which window is meant; `machine`: whose journal has the calls.
    Used by any number of threads."""

    def __init__(self, api: Api, client: Client, window: str, parameters: Mapping[str, str]) -> None:
        self.api = api
        self.client = client
        self.machine = ""
        self._parameters = {**api.parameters, **parameters}
        self._body = api.body
        if api.body is not None and api.windows:
            self._body = filled(api.body, api.windows.named(window).days)
        self._first: dict[int, bytes] = {}

    def numbered(self, index: int, begins: int) -> Page:
        """The page with an index, from 0 on, that begins at a record. Raises `ApiError`."""
        paging = self.api.paging
        assert isinstance(paging, Numbered)  # noqa: S101
        page = self._page(index, self._call(paging.parameters(index, begins)))
        self._check_alike(paging)
        return page

    def followed(self, index: int, following: str | None) -> Page:
        """The page that an earlier one leads to; the first, if none does. Raises `ApiError`."""
        return self._page(index, self._answer(following))

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
            return self.client.call({**self._parameters, **page})
        return self.client.call(self._parameters, body=_with(self._body, page))

    def _page(self, index: int, answer: Answer) -> Page:
        records = records_of(self.api.name, answer.value, self.api.records) if answer.body else []
        if index < _ALIKE and records:
            self._first[index] = hashlib.sha256(repr(records).encode()).digest()
        return Page(
            index,
            answer.body,
            len(records),
            self._total(answer, index),
            self._following(answer),
            answer.calls,
            self.machine,
        )

    def _check_alike(self, paging: Numbered) -> None:
        if len(self._first) == _ALIKE and len(set(self._first.values())) == 1:
            raise ApiError(
                f"{self.api.name}: its first {_ALIKE} pages have the same records: it does not know the parameter "
                f"{paging.parameter}, or pages are asked for in another way ({self.api.where})"
            )

    # -- what an answer says of itself -----------------------------------------------------------------------------------

    def _said(self, answer: Answer, where: AnyPath | Header) -> Any:
        """What an answer says at a path, or in a header."""
        return answer.headers.get(where.name) if isinstance(where, Header) else dig(answer.value, where)

    def _total(self, answer: Answer, index: int) -> int | None:
        if not self.api.total:
            return None
        total = self._said(answer, self.api.total)
        if total is None and (index or not answer.body):
            return None  # the first page said it; and where there is no content there is no record
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
            if cursor in (None, False, ""):  # 0 too
                return None
            if isinstance(cursor, bool) or not isinstance(cursor, str | int | Number | Written):
                raise self._leads_nowhere(cursor, paging.next, "a text or a number")
            return str(cursor)
        if isinstance(paging, Link):
            link = dig(answer.value, paging.next) if paging.next else answer.next_link
            if link is not None and link is not False and not isinstance(link, str):
                raise self._leads_nowhere(link, paging.next, "an address")
            return self.client.path_of(link, answer.url) if link else None
        return None

    def _leads_nowhere(self, found: Any, where: AnyPath | Header, wanted: str) -> ApiError:
        return ApiError(
            f"{self.api.name}: its answer has {type(found).__name__} at {in_words(where)}, where {wanted} should be that leads to "
            f"the next page ({self.api.where})"
        )


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
