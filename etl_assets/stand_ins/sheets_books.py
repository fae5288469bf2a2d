"""Spreadsheets in memory: grids with the limits of the service, changed by requests of the API, all or none of them."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_CELLS = 10_000_000
MAX_TEXT = 50_000
MAX_TITLE = 100

Json = dict[str, Any]
_MESSAGES = {
    403: "The caller does not have permission",
    404: "Requested entity was not found.",
    429: "Quota exceeded for quota metric 'Write requests' and limit 'Write requests per minute per user'",
    503: "The service is currently unavailable.",
}
_RANGE = re.compile(r"'((?:[^']|'')+)'!A(\d+):([A-Z]+)(\d+)")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


class ErrorResponse(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str | None = None) -> None:
        super().__init__(message or _MESSAGES.get(status, "Internal error encountered."))
        self.status = status


@dataclass
class Grid:
    """A tab. Cells and formats are kept by (row, column), from 0; an empty cell is not kept."""

    id: int
    title: str
    rows: int = 1000
    columns: int = 26
    frozen_rows: int = 0
    frozen_columns: int = 0
    hidden: bool = False
    cells: dict[tuple[int, int], Any] = field(default_factory=dict)
    formats: dict[tuple[int, int], Json] = field(default_factory=dict)

    @property
    def properties(self) -> Json:
        grid = {"rowCount": self.rows, "columnCount": self.columns}
        if self.frozen_rows:
            grid["frozenRowCount"] = self.frozen_rows
        found: Json = {"sheetId": self.id, "title": self.title, "sheetType": "GRID", "gridProperties": grid}
        return found | ({"hidden": True} if self.hidden else {})

    @property
    def values(self) -> list[list[Any]]:
        """All that it shows, row by row."""
        last = max((row for row, _ in self.cells), default=-1)
        return [
            [
                self.cells.get((row, column), "")
                for column in range(max((c for r, c in self.cells if r == row), default=-1) + 1)
            ]
            for row in range(last + 1)
        ]

    def resize(self, rows: int, columns: int) -> None:
        """Give a grid other numbers of rows and columns."""
        self.rows, self.columns = rows, columns
        for kept in (self.cells, self.formats):
            for at in [(r, c) for r, c in kept if r >= rows or c >= columns]:
                del kept[at]


@dataclass
class Book:
    """A spreadsheet."""

    grids: list[Grid] = field(default_factory=lambda: [Grid(0, "Sheet1")])
    shared_for: Literal["nothing", "reading", "editing"] = "editing"

    def grid(self, sheet_id: int) -> Grid:
        """The grid of an id, or the answer that there is none."""
        for grid in self.grids:
            if grid.id == sheet_id:
                return grid
        raise ErrorResponse(400, f"Invalid requests[0]: No grid with id: {sheet_id}")

    def titled(self, title: str) -> Grid:
        """The grid of a title."""
        for grid in self.grids:
            if grid.title.casefold() == title.casefold():
                return grid
        raise ErrorResponse(400, f"Unable to parse range: {title}")

    def visible(self) -> dict[str, list[list[Any]]]:
        """What a reader sees: the values of each tab."""
        return {grid.title: grid.values for grid in self.grids if not grid.hidden}

    def change(self, requests: Sequence[Json]) -> None:
        """All of the requests, or none."""
        grids = self.grids
        self.grids = copy.deepcopy(grids)
        try:
            for request in requests:
                ((kind, wanted),) = request.items()
                handler = getattr(self, f"_{kind}", None)
                if handler is None:
                    raise ErrorResponse(400, f'Invalid JSON payload received. Unknown name "{kind}"')
                handler(wanted)
                self._check()
        except ErrorResponse:
            self.grids = grids
            raise

    def _check(self) -> None:
        if sum(grid.rows * grid.columns for grid in self.grids) > MAX_CELLS:
            raise ErrorResponse(
                400,
                f"This action would increase the number of cells in the workbook above the limit of {MAX_CELLS} cells.",
            )
        if all(grid.hidden for grid in self.grids):
            raise ErrorResponse(400, "You can't remove or hide all the visible sheets in a document.")
        for grid in self.grids:
            if grid.frozen_rows >= grid.rows or grid.frozen_columns >= grid.columns:
                raise ErrorResponse(400, "You can't freeze all visible rows or columns on the sheet.")
            if not 0 < len(grid.title) <= MAX_TITLE:
                raise ErrorResponse(400, f"A sheet's name has 1 to {MAX_TITLE} characters.")
        titles = [grid.title.casefold() for grid in self.grids]
        if len(set(titles)) < len(titles):
            raise ErrorResponse(400, "A sheet with that name already exists. Please enter another name.")
        if len({grid.id for grid in self.grids}) < len(titles):
            raise ErrorResponse(400, "A sheet with that id already exists.")

    # One method per request of batchUpdate, under its name there.

    def _addSheet(self, wanted: Json) -> None:
        properties = wanted["properties"]
        grid = properties.get("gridProperties", {})
        self.grids.append(
            Grid(
                properties["sheetId"],
                properties["title"],
                grid.get("rowCount", 1000),
                grid.get("columnCount", 26),
                grid.get("frozenRowCount", 0),
                hidden=properties.get("hidden", False),
            )
        )

    def _deleteSheet(self, wanted: Json) -> None:
        self.grids.remove(self.grid(wanted["sheetId"]))

    def _updateSheetProperties(self, wanted: Json) -> None:
        properties = wanted["properties"]
        grid, size = self.grid(properties["sheetId"]), properties.get("gridProperties", {})
        for name in wanted["fields"].split(","):
            match name:
                case "title" | "hidden":
                    setattr(grid, name, properties[name])
                case "gridProperties.rowCount":
                    grid.resize(size["rowCount"], grid.columns)
                case "gridProperties.columnCount":
                    grid.resize(grid.rows, size["columnCount"])
                case "gridProperties.frozenRowCount":
                    grid.frozen_rows = size["frozenRowCount"]
                case "gridProperties.frozenColumnCount":
                    grid.frozen_columns = size["frozenColumnCount"]
                case _:
                    raise ErrorResponse(400, f"Invalid field mask: {name}")

    def _repeatCell(self, wanted: Json) -> None:
        grid, cells = self._area(wanted["range"])
        for name in wanted["fields"].split(","):
            if not name.startswith("userEnteredFormat."):
                raise ErrorResponse(400, f"Invalid field mask: {name}")
        for at in cells:
            grid.formats[at] = grid.formats.get(at, {}) | wanted["cell"]["userEnteredFormat"]

    def _unmergeCells(self, wanted: Json) -> None:
        self._area(wanted["range"])  # there are no merged cells here

    def _updateCells(self, wanted: Json) -> None:
        if wanted["fields"] != "userEnteredValue" or "rows" in wanted:
            raise ErrorResponse(400, "the stand-in only empties cells")
        grid, cells = self._area(wanted["range"])
        for at in cells:
            grid.cells.pop(at, None)

    def _copyPaste(self, wanted: Json) -> None:
        if wanted["pasteType"] != "PASTE_NORMAL":
            raise ErrorResponse(400, "the stand-in only pastes values and formats")
        (source, taken), (target, given) = self._area(wanted["source"]), self._area(wanted["destination"])
        if len(taken) != len(given):
            raise ErrorResponse(400, "the stand-in only pastes into an area of the same size")
        for kept, pasted in ((source.cells, target.cells), (source.formats, target.formats)):
            for at, to in zip(taken, given, strict=True):
                pasted.pop(to, None)
                if at in kept:
                    pasted[to] = copy.deepcopy(kept[at])

    def _area(self, area: Json) -> tuple[Grid, list[tuple[int, int]]]:
        grid = self.grid(area["sheetId"])
        bottom, right = area.get("endRowIndex", grid.rows), area.get("endColumnIndex", grid.columns)
        if bottom > grid.rows or right > grid.columns:
            raise ErrorResponse(400, "Invalid range: it exceeds the grid's limits")
        rows = range(area.get("startRowIndex", 0), bottom)
        return grid, [(r, c) for r in rows for c in range(area.get("startColumnIndex", 0), right)]

    # values

    def put(self, given: Json) -> None:
        """Write values into a range."""
        if given["valueInputOption"] not in {"RAW", "USER_ENTERED"}:
            raise ErrorResponse(400, "'valueInputOption' is required but not specified")
        grids = copy.deepcopy(self.grids)
        try:
            for data in given["data"]:
                self._put(data["range"], data["values"], raw=given["valueInputOption"] == "RAW")
        except ErrorResponse:
            self.grids = grids
            raise

    def _put(self, range_: str, rows: Sequence[Sequence[Any]], *, raw: bool) -> None:
        grid, top, bottom, right = self._parsed(range_)
        if len(rows) > bottom - top or any(len(row) > right for row in rows):
            raise ErrorResponse(
                400, f"Requested writing within range [{range_}], but tried writing beyond it"
            )
        for at, row in enumerate(rows, start=top):
            for column, value in enumerate(row):
                if isinstance(value, list | dict):
                    raise ErrorResponse(400, f"Invalid values[{at}][{column}]: {type(value).__name__}_value")
                if isinstance(value, str) and len(value.encode("utf-16-le")) // 2 > MAX_TEXT:
                    raise ErrorResponse(
                        400,
                        f"Your input contains more than the maximum of {MAX_TEXT} characters in a single cell.",
                    )
                if value == "":
                    grid.cells.pop((at, column), None)
                elif value is not None:  # null leaves a cell as it is
                    grid.cells[at, column] = value if raw else _as_typed(value)

    def read(self, range_: str) -> Json:
        """The values of a range."""
        grid, top, bottom, right = self._parsed(range_)
        rows = [
            [grid.cells.get((row, column), "") for column in range(right)]
            for row in range(top, min(bottom, grid.rows))
        ]
        for row in rows:
            while row and row[-1] == "":
                row.pop()
        while rows and not rows[-1]:
            rows.pop()
        return {"range": range_, "majorDimension": "ROWS"} | ({"values": rows} if rows else {})

    def _parsed(self, range_: str) -> tuple[Grid, int, int, int]:
        found = _RANGE.fullmatch(range_)
        if not found:
            raise ErrorResponse(400, f"Unable to parse range: {range_}")
        title, top, letters, bottom = found.groups()
        grid, right = self.titled(title.replace("''", "'")), 0
        for letter in letters:
            right = right * 26 + ord(letter) - ord("A") + 1
        if int(top) > grid.rows or right > grid.columns:
            raise ErrorResponse(
                400,
                f"Range ({range_}) exceeds grid limits. Max rows: {grid.rows}, max columns: {grid.columns}",
            )
        return grid, int(top) - 1, int(bottom), right


def _as_typed(value: Any) -> Any:
    """What Sheets makes of a value that a person types in: texts may become formulas (here: an error) or numbers."""
    if isinstance(value, str) and value.startswith(("=", "+")):
        return "#ERROR!"
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value.removeprefix("'") if isinstance(value, str) else value
