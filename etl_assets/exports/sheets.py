"""Reports as tabs of a Google spreadsheet: whoever reads it sees the old ones whole or the new ones whole.

New content is written to hidden tabs, read back and compared; then one batchUpdate, which Google applies as a whole or
not at all, copies it over the tabs that people see and removes the hidden ones. The tabs people see stay the same ones
all the time: links to them, charts and formulas over them, and protections live on.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from pydantic import Field

from etl_assets.clients.sheets import ENDPOINT, Json, SheetsError, Spreadsheet, Tab
from etl_assets.exports.publishing import PublishResult, Sheet, Workbook
from etl_assets.exports.sheets_page import (
    MAX_CELLS,
    UNFINISHED,
    SheetTab,
    check_cells,
    check_sizes,
    portions,
    same,
    shown_as,
)
from etl_assets.failpoints import reached
from etl_assets.preflight import CheckResult, probed

_DOCTOR_ATTEMPTS = 2
_HEADER = {"textFormat": {"bold": True}, "numberFormat": {"type": "TEXT", "pattern": "@"}}


class Sheets(Workbook):
    """Tabs of a Google spreadsheet. Credentials are found as Google's libraries do: GOOGLE_APPLICATION_CREDENTIALS,
    or those of the machine it runs on."""

    spreadsheet: str = Field(description="The id of the spreadsheet: in its address, between /d/ and /edit.")
    endpoint: str = Field(
        default=ENDPOINT,
        json_schema_extra={"dagster__is_secret": True},
        description="Where the API is; http:// only on this machine.",
    )
    attempts: int = Field(default=8, ge=1, description="How often a call is tried that fails for the moment.")
    first_wait_seconds: float = Field(
        default=1.0, ge=0, description="The longest wait before the second try; it doubles with each."
    )

    def publish(self, title: str, sheets: Sequence[Sheet]) -> PublishResult:
        """Replace the tabs named as the sheets; those that are missing are made. Other tabs, and the name that the
        spreadsheet has (`title` is for files), stay as they are. Raises `SheetsError`."""
        return self._publish(self.spreadsheet, [SheetTab(sheet.title, sheet.frame) for sheet in sheets])

    def write(
        self, worksheet: str, frame: pd.DataFrame, spreadsheet: str | None = None, *, create: bool = False
    ) -> PublishResult:
        """Replace a worksheet, given by name, of a spreadsheet, given by id (default: this one's), by a frame; it gets
        the size of the frame. Raises `SheetsError`, also when there is no such worksheet and none is to be made."""
        return self._publish(spreadsheet or self.spreadsheet, [SheetTab(worksheet, frame)], create=create)

    def check(self) -> Iterator[CheckResult]:
        """Try to see its tabs, and to add one, which is removed in the same moment."""
        seen = probed("read", self._seen)
        yield seen
        if seen.state == "ok":
            yield probed("edit", self._rehearsed)

    def _seen(self) -> str:
        with self._open(self.spreadsheet, _DOCTOR_ATTEMPTS) as book:
            tabs = book.tabs()
        cells = sum(tab.cells for tab in tabs)
        return f"spreadsheet {self.spreadsheet}: {len(tabs)} tabs, {cells:,} of {MAX_CELLS:,} cells"

    def _rehearsed(self) -> str:
        tried = _new_id()
        properties: Json = {"sheetId": tried, "title": _unfinished(tried), "hidden": True}
        properties["gridProperties"] = {"rowCount": 1, "columnCount": 1}
        changes: list[Json] = [{"addSheet": {"properties": properties}}, {"deleteSheet": {"sheetId": tried}}]
        with self._open(self.spreadsheet, _DOCTOR_ATTEMPTS) as book:
            book.change(changes, lambda: False)
        return "tabs can be added and removed"

    def _publish(self, spreadsheet: str, pages: Sequence[SheetTab], *, create: bool = True) -> PublishResult:
        check_sizes(pages)
        content = json.dumps([page.rows for page in pages])  # every value is checked before anything is asked
        with self._open(spreadsheet) as book:
            changed = Publication(book, pages).publish(create=create)
        return PublishResult(
            f"https://docs.google.com/spreadsheets/d/{spreadsheet}",
            sum(len(page.frame) for page in pages),
            len(content.encode()),
            unchanged=not changed,
        )

    def _open(self, spreadsheet: str, attempts: int | None = None) -> Spreadsheet:
        return Spreadsheet(
            spreadsheet,
            self.endpoint,
            attempts=attempts or self.attempts,
            first_wait_seconds=self.first_wait_seconds,
        )


class Publication:
    """Pages on their way into a spreadsheet."""

    def __init__(self, book: Spreadsheet, pages: Sequence[SheetTab]) -> None:
        self.book = book
        self.pages = pages

    def publish(self, *, create: bool) -> bool:
        """Make the spreadsheet show the pages; False if it did already. Raises `SheetsError`: then it shows for each of
        them what it showed before, unless the error says otherwise."""
        tabs = self.book.tabs()
        leftovers = [tab for tab in tabs if tab.hidden and tab.title.startswith(UNFINISHED)]
        targets = self._targets([tab for tab in tabs if tab not in leftovers], create)
        standing = self._standing(self.pages, targets)
        changed = [page for page in self.pages if page.title not in standing]
        removals = [{"deleteSheet": {"sheetId": tab.id}} for tab in leftovers]
        if not changed:
            if removals:
                self.book.change(removals, lambda: not _ids(leftovers) & _ids(self.book.tabs()))
            return False
        check_cells(self._needed(tabs, leftovers, targets, changed), "the spreadsheet would have")
        fresh = {page.title: _new_id() for page in changed}
        added = set(fresh.values())
        additions = [request for page in changed for request in _addition(page, fresh[page.title])]
        self.book.change([*removals, *additions], lambda: added <= _ids(self.book.tabs()))
        self._write(changed, fresh)
        if self._held(changed, {title: _unfinished(id_) for title, id_ in fresh.items()}) < set(fresh):
            raise SheetsError(
                f"spreadsheet {self.book.id}: {_ALTERED} the tabs that people see stay as they were"
            )
        reached("report publishing")
        swap = [
            request for page in changed for request in _swap(page, fresh[page.title], targets.get(page.title))
        ]
        self.book.change(swap, lambda: self._shown(changed))
        if not self._shown(changed):
            raise SheetsError(f"spreadsheet {self.book.id}: was published, but {_ALTERED} run it again")
        reached("report published")
        return True

    def _targets(self, tabs: Sequence[Tab], create: bool) -> dict[str, Tab]:
        """The tabs that there are already, by the titles of their pages."""
        by_title = {tab.title.casefold(): tab for tab in tabs}
        found = {p.title: by_title[p.title.casefold()] for p in self.pages if p.title.casefold() in by_title}
        missing = [page.title for page in self.pages if page.title not in found]
        if missing and not create:
            raise SheetsError(
                f"spreadsheet {self.book.id} has no tab {missing[0]!r}; it has {', '.join(tab.title for tab in tabs)}"
            )
        for title, tab in found.items():
            if not tab.grid:
                raise SheetsError(
                    f"spreadsheet {self.book.id}: tab {title!r} is a chart; rename it, or the report"
                )
        return found

    def _needed(
        self,
        tabs: Sequence[Tab],
        leftovers: Sequence[Tab],
        targets: Mapping[str, Tab],
        changed: Sequence[SheetTab],
    ) -> int:
        """The most cells that there will be at any moment: while a tab has grown and its hidden copy is still there."""
        held = sum(tab.cells for tab in tabs) - sum(tab.cells for tab in leftovers)
        grown = sum(
            max(0, page.cells - targets[page.title].cells) for page in changed if page.title in targets
        )
        return held + grown + sum(page.cells for page in changed)

    def _write(self, pages: Sequence[SheetTab], ids: dict[str, int]) -> None:
        for portion in portions(pages):
            self.book.put(
                [(block.range(_unfinished(ids[block.page.title])), block.rows) for block in portion]
            )

    def _shown(self, pages: Sequence[SheetTab]) -> bool:
        """Do the tabs that people see show the pages?"""
        by_title = {tab.title.casefold(): tab for tab in self.book.tabs()}
        tabs = {p.title: by_title[p.title.casefold()] for p in pages if p.title.casefold() in by_title}
        return len(self._standing(pages, tabs)) == len(pages)

    def _standing(self, pages: Sequence[SheetTab], tabs: Mapping[str, Tab]) -> set[str]:
        """The pages, by title, that their tabs show exactly."""
        alike = {
            page.title: tab.title
            for page in pages
            if (tab := tabs.get(page.title))
            and (tab.rows, tab.columns, tab.frozen_rows) == (page.height, page.width, 1)
        }
        return self._held([page for page in pages if page.title in alike], alike)

    def _held(self, pages: Sequence[SheetTab], tabs: Mapping[str, str]) -> set[str]:
        """The pages, by title, that the tabs of these titles hold exactly, cell by cell."""
        held = {page.title for page in pages}
        for portion in portions(pages):
            found = self.book.read([block.range(tabs[block.page.title]) for block in portion])
            held -= {b.page.title for b, rows in zip(portion, found, strict=True) if not same(b.rows, rows)}
        return held


_ALTERED = (
    "what it holds is not what was written (did somebody else write to it at the same moment, or does Sheets alter "
    "one of the values?);"
)


def _addition(page: SheetTab, sheet_id: int) -> Iterator[Json]:
    """The hidden tab, formatted."""
    grid = {"rowCount": page.height, "columnCount": page.width, "frozenRowCount": 1}
    yield {
        "addSheet": {
            "properties": {
                "sheetId": sheet_id,
                "title": _unfinished(sheet_id),
                "hidden": True,
                "gridProperties": grid,
            }
        }
    }
    yield _formatted(_area(sheet_id, 0, 1, 0, page.width), _HEADER)
    for position, column in enumerate(page.table.schema):
        shown = shown_as(column.name, column.type)
        if shown:
            area = _area(sheet_id, 1, page.height, position, position + 1)
            yield _formatted(area, {"numberFormat": shown})


def _formatted(area: Json, shown: Json) -> Json:
    fields = ",".join(f"userEnteredFormat.{name}" for name in shown)
    return {"repeatCell": {"range": area, "cell": {"userEnteredFormat": shown}, "fields": fields}}


def _swap(page: SheetTab, fresh: int, tab: Tab | None) -> Iterator[Json]:
    """What makes people see the hidden tab's content. Where there is no tab yet, the hidden one becomes it."""
    if tab is None:
        properties: Json = {"sheetId": fresh, "title": page.title, "hidden": False}
        yield {"updateSheetProperties": {"properties": properties, "fields": "title,hidden"}}
        return
    grid = {
        "rowCount": page.height,
        "columnCount": page.width,
        "frozenRowCount": 1,
        "frozenColumnCount": 0,
    }
    fields = ",".join(f"gridProperties.{name}" for name in grid)
    properties = {"sheetId": tab.id, "gridProperties": grid}
    everything = {"sheetId": tab.id}
    yield {"updateSheetProperties": {"properties": properties, "fields": fields}}
    yield {"unmergeCells": {"range": everything}}
    yield {"updateCells": {"range": everything, "fields": "userEnteredValue"}}  # empties
    yield {
        "copyPaste": {
            "source": _area(fresh, 0, page.height, 0, page.width),
            "destination": _area(tab.id, 0, page.height, 0, page.width),
            "pasteType": "PASTE_NORMAL",
        }
    }
    yield {"deleteSheet": {"sheetId": fresh}}


def _area(sheet_id: int, top: int, bottom: int, left: int, right: int) -> Json:
    """Rows and columns count from 0; `bottom` and `right` are the first ones outside."""
    return {
        "sheetId": sheet_id,
        "startRowIndex": top,
        "endRowIndex": bottom,
        "startColumnIndex": left,
        "endColumnIndex": right,
    }


def _unfinished(sheet_id: int) -> str:
    return f"{UNFINISHED}{sheet_id}"


def _new_id() -> int:
    """Chosen here, so that a request that is repeated adds nothing twice."""
    return secrets.randbelow(2**30) + 2**30


def _ids(tabs: Sequence[Tab]) -> set[int]:
    return {tab.id for tab in tabs}
