"""Takes: how far the pages of a window are, told by the lake alone, in files that nobody else writes or replaces.

    raw/<api>/<window>/<take>/<first page>-<token>.pages   some pages, each a line of JSON about it and then its bytes
    raw/<api>/<window>/<take>/<first page>-<token>.mended  what is read in the place of a file that was damaged
    raw/<api>/windows/<window>-<take>.complete.json         all pages of the window have landed; which files they are in
    raw/<api>/windows/<window>-<take>.loaded.json           a batch has them, or they brought nothing
    raw/<api>/windows/<window>-<take>.rejected.json         they can't be used, and why; the window is fetched anew

A take is one way through all pages of a window. What has landed of one that is not complete is gone on from, whoever
fetched it; one that is complete costs no further call, however often its load fails. One listing tells how all windows stand.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from etl_assets.apis.pages import Page, PagesFile, legible_in, pages_in, pieces_of
from etl_assets.apis.windows import WHOLE
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import AlreadyExists, Files, LakeError
from etl_assets.lake.names import folder_of
from etl_assets.lake.seal import is_intact, sealed

COMPLETE, REJECTED, LOADED = "complete", "rejected", "loaded"
"""How a take may stand, each later than the one before; one of which nothing is said is open."""
_PAGES = re.compile(r"[0-9]{6,}-[0-9a-f]{12}\.pages")
_MARK = re.compile(r"(.+)-([0-9]{3,})\.(complete|rejected|loaded)\.json")


class DamagedPages(LakeError):
    """A file of pages of a `take` is not what landed."""

    def __init__(self, message: str, take: "Take") -> None:
        super().__init__(message)
        self.take = take


@dataclass(frozen=True)
class Summary:
    """What the mark of a complete take says: the files, and what it took to fetch them. `total` is what the API said last of
    how many records there are, None if it does not say. `machines`: whose journals have the calls, "" for one that is not known."""

    files: tuple[PagesFile, ...]
    pages: int
    calls: int
    failed_calls: int
    records: int
    waited_seconds: float
    total: int | None
    received: float
    machines: tuple[str, ...] = ("",)

    def as_json(self) -> dict[str, Any]:
        """As the mark has it."""
        return {**vars(self), "files": [vars(file) for file in self.files]}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Summary":
        """What a mark says. Raises `KeyError` or `TypeError` for another."""
        names = ("pages", "calls", "failed_calls", "records", "waited_seconds", "total", "received")
        files = tuple(PagesFile(**file) for file in told["files"])
        summary = cls(files, *(told[name] for name in names))
        return replace(summary, machines=tuple(told.get("machines", [""])))

    @property
    def sha256(self) -> str:
        """Identifies all that the pages say."""
        return hashlib.sha256(" ".join(file.sha256 for file in self.files).encode()).hexdigest()


@dataclass(frozen=True)
class Take:
    """One way through the pages of a window of an API. `state`: how it stood when it was looked for."""

    files: Files
    api: str
    window: str
    number: int
    state: str = field(default="open", compare=False)

    @property
    def folder(self) -> str:
        return f"raw/{folder_of(self.api)}/{self.window}/{self.number:03d}"

    def mark(self, state: str) -> str:
        """The path of the file that says how it stands."""
        return f"{_marks(self.api)}/{self.window}-{self.number:03d}.{state}.json"

    def __str__(self) -> str:
        return f"{self.api} {self.window}, take {self.number}"

    def land(self, pages: Sequence[Page]) -> PagesFile:
        """Land pages as one file, whole or not at all."""
        return self._land(f"{pages[0].index + 1:06d}", "pages", pages)

    def land_instead(self, file: PagesFile, pages: Sequence[Page]) -> PagesFile:
        """Land what is known of a file that is damaged."""
        return self._land(file.path.rpartition("/")[2].partition("-")[0], "mended", pages)

    def _land(self, stem: str, kind: str, pages: Sequence[Page]) -> PagesFile:
        digest = hashlib.sha256()
        path = f"{self.folder}/{stem}-{secrets.token_hex(6)}.{kind}"
        with self.files.writing(path) as stream:
            for page in pages:
                for piece in pieces_of(page):
                    stream.write(piece)
                    digest.update(piece)
        return PagesFile(path, len(pages), digest.hexdigest())

    def landed(self) -> list[PagesFile]:
        """The files of pages that have landed, without a look inside."""
        names = self.files.names(self.folder)
        return [PagesFile(f"{self.folder}/{name}", 0, "") for name in names if _PAGES.fullmatch(name)]

    def read(self, file: PagesFile) -> Iterator[Page]:
        """The pages of a file, in the order in which they landed. Raises `DamagedPages` if they are not what landed."""
        content = self._content(file)
        if content is None or (file.sha256 and hashlib.sha256(content).hexdigest() != file.sha256):
            raise self._damaged(file)
        for page in pages_in(content):
            if page is None:
                raise self._damaged(file)
            yield page

    def legible(self, file: PagesFile) -> list[Page]:
        """The pages of a damaged file that are what landed all the same."""
        return legible_in(self._content(file) or b"")

    def examined(self, file: PagesFile, *, damaged: bool = False) -> tuple[PagesFile, list[Page]]:
        """A file as a mark lists it, and its pages, read once; of a `damaged` one those that are legible. Raises `DamagedPages` if
        it is damaged and may not be."""
        content = self._content(file) or b""
        whole = list(pages_in(content))
        if not damaged and (not whole or None in whole):
            raise self._damaged(file)
        pages = legible_in(content) if damaged else [page for page in whole if page]
        return PagesFile(file.path, len(pages), hashlib.sha256(content).hexdigest()), pages

    def _content(self, file: PagesFile) -> bytes | None:
        return self.files.read(file.path) if self.files.exists(file.path) else None

    def _damaged(self, file: PagesFile) -> "DamagedPages":
        return DamagedPages(
            f"{self.files.url}/{file.path} is not what landed: etl repair mends it; or restore it from a backup, or have the "
            f"window fetched anew: etl fetch {self.api}{'' if self.window == WHOLE else f' --window {self.window}'} --again",
            self,
        )

    @property
    def following(self) -> "Take":
        """The take of the window that comes after this one."""
        return Take(self.files, self.api, self.window, self.number + 1)

    # -- how far it is -------------------------------------------------------------------------------------------------

    def complete(self, summary: Summary) -> None:
        """Say that all pages have landed. If another run said it before, that counts."""
        self._mark(COMPLETE, summary.as_json())

    def summary(self) -> Summary | None:
        """What the mark of a complete take says; None if it is not complete. Raises `LakeError` for a damaged one."""
        told = self._told(COMPLETE)
        try:
            return None if told is None else Summary.from_json(told)
        except (KeyError, TypeError):
            raise LakeError(f"{self.files.url}/{self.mark(COMPLETE)} is damaged: run etl repair") from None

    def loaded(self, batch: int | None, quarantined: str) -> None:
        """Say that a batch has what is new in it; None: nothing was. `quarantined` identifies the records that can't be
        used."""
        self._mark(LOADED, {"batch": batch, "quarantined": quarantined})

    def known_quarantine(self) -> str:
        """What identifies the records that can't be used, of a take that was loaded; "" if that is not known."""
        return str((self._told(LOADED) or {}).get("quarantined", ""))

    def reject(self, why: str) -> None:
        """Say that its pages can't be used: the window is fetched anew."""
        self._mark(REJECTED, {"why": why})

    def _mark(self, state: str, content: Mapping[str, Any]) -> None:
        with suppress(AlreadyExists):
            self.files.create(self.mark(state), sealed(json.dumps(content, indent=1).encode()))

    def _told(self, state: str) -> dict[str, Any] | None:
        path = self.mark(state)
        if not self.files.exists(path):
            return None
        content = self.files.read(path)
        if not is_intact(content):
            hint = "run etl repair" if state == COMPLETE else "remove it, and run again"
            raise LakeError(f"{self.files.url}/{path} is damaged: {hint}")
        told: dict[str, Any] = json.loads(content)
        return told


def files_of(summary: Summary, batches: Batches) -> list[PagesFile]:
    """The files that the pages of a take are read from: those that landed, or what superseded them."""
    return [
        PagesFile(by.path, by.rows, by.sha256) if (by := batches.instead_of(file.path)) else file
        for file in sorted(summary.files, key=lambda file: file.path)
    ]


def _marks(api: str) -> str:
    return f"raw/{folder_of(api)}/windows"


def takes(files: Files, api: str, window: str | None = None) -> list[Take]:
    """The takes of an API that are complete, loaded or rejected, by window and number; those of one window if it is named."""
    states: dict[tuple[str, int], str] = {}
    order = (COMPLETE, REJECTED, LOADED)
    for name in files.names(_marks(api)):
        if (found := _MARK.fullmatch(name)) and window in (None, found[1]):
            one = found[1], int(found[2])
            states[one] = max(states.get(one, COMPLETE), found[3], key=order.index)
    return [Take(files, api, name, number, state) for (name, number), state in sorted(states.items())]


def take_to_fetch(files: Files, api: str, window: str, *, again: bool = False) -> Take | None:
    """The take that a run goes on with, or begins; None if the newest one is complete and waits to be loaded, unless
    the window is to be fetched `again` all the same."""
    known = takes(files, api, window)
    if known and known[-1].state == COMPLETE and not again:
        return None
    return Take(files, api, window, known[-1].number + 1 if known else 1)


def open_takes(files: Files, api: str) -> Iterator[Take]:
    """The takes of which pages have landed and nothing is said yet."""
    known = {(take.window, take.number) for take in takes(files, api)}
    beginning = f"raw/{folder_of(api)}/"
    found = dict.fromkeys(
        tuple(path.removeprefix(beginning).split("/")[:2])
        for path, _ in files.walk(beginning)
        if path.endswith(".pages")
    )
    for window, number in found:
        if number.isdecimal() and (window, int(number)) not in known:
            yield Take(files, api, window, int(number))


def waiting(files: Files, api: str) -> list[Take]:
    """The complete takes that are not loaded, in the order in which they were fetched."""
    return in_order(take for take in takes(files, api) if take.state == COMPLETE)


def to_load(files: Files, api: str) -> list[Take]:
    """The takes that wait, and those of their windows that were fetched later and are loaded already (of one that waits again the
    mark was lost): of all of them the newest version counts."""
    known, first = takes(files, api), dict[str, int]()
    for take in known:
        if take.state == COMPLETE:
            first.setdefault(take.window, take.number)
    return in_order(
        take
        for take in known
        if take.state in (COMPLETE, LOADED) and take.window in first and take.number >= first[take.window]
    )


def in_order(found: Iterable[Take]) -> list[Take]:
    """Complete takes in the order in which they were fetched: what came later is newer. Of one window their numbers tell, and
    not the clocks of the machines that fetched them."""
    newest: dict[str, float] = {}
    fetched: list[tuple[float, Take]] = []
    for take in sorted(found, key=lambda take: (take.window, take.number)):
        summary = take.summary()
        newest[take.window] = max(newest.get(take.window, 0.0), summary.received if summary else 0.0)
        fetched.append((newest[take.window], take))
    return [take for _, take in sorted(fetched, key=lambda one: (one[0], one[1].window, one[1].number))]
