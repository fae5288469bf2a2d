"""Repair of landed pages that are damaged or lost: what is still legible of them is read in their place.

    find the damage ► what a copy on this machine, or the file itself, still says ► commit what supersedes it

Rows that came from pages of which nothing is known stay as they were landed; their keys are kept with what supersedes the
pages, so that the verification knows for which rows there is no page any more. Whoever fetches the windows anew has pages for
them again, if the API still gives them. Of pages that wait to be loaded no batch knows: their take is given up.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from etl_assets.apis.declaration import Api
from etl_assets.apis.pages import Page, PagesFile, pages_in
from etl_assets.apis.reading import loaded_takes, read_pages
from etl_assets.apis.takes import COMPLETE, LOADED, Take, files_of, takes
from etl_assets.apis.window_progress import WindowProgress
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import DELETED, Current, view
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import LandedFile, Manifest, Superseded
from etl_assets.lake.names import FileNames
from etl_assets.raw.repair import find_damage, kept_copy, what_is_wrong
from etl_assets.raw.writing import BatchWriter

_NAMED = 1_000


@dataclass(frozen=True)
class DamagedFile:
    """A file of pages that is not what landed."""

    take: Take
    file: PagesFile
    what: str


@dataclass(frozen=True)
class MendedPages:
    """What became of damaged pages. `lacking`: the windows, each with its API, of which pages are not known any more."""

    superseded: tuple[Superseded, ...] = ()
    lacking: tuple[tuple[str, str], ...] = ()


def find_damaged_pages(apis: Iterable[str], batches: Batches) -> list[DamagedFile]:
    """All files of complete takes that are not what landed. Reads every one of them."""
    found = []
    for take in (take for api in apis for take in takes(batches.files, api)):
        if take.state not in (COMPLETE, LOADED):
            continue
        try:
            summary = take.summary()
        except LakeError:
            summary = None
        if summary is None:
            found.append(
                DamagedFile(take, PagesFile(take.mark(COMPLETE), 0, ""), "it is damaged, or not there")
            )
        for file in files_of(summary, batches) if summary else ():
            if what := what_is_wrong(batches.files, file.path, file.sha256):
                found.append(DamagedFile(take, file, what))
    return found


def _restore_mark(take: Take, batches: Batches) -> None:
    """Write anew what lists the files of a take, as the batch that loaded it tells it. Raises `LakeError` if they are not what it
    loaded."""
    latest = batches.latest()
    known = {
        state.sha256
        for manifest in (batches.changing(take.api, latest) if latest else ())
        if (loaded := manifest.api(take.api))
        for state in loaded.takes
        if (state.window, state.take) == (take.window, take.number)
    }
    examined = [take.examined(file, damaged=True) for file in take.landed()]
    progress = WindowProgress()
    for page in sorted((page for _, pages in examined for page in pages), key=lambda page: page.index):
        progress.add(page)
    summary = progress.summary([file for file, _ in examined])
    if not known or summary.sha256 in known:  # of a take that brought nothing no batch tells
        batches.files.remove(take.mark(COMPLETE))
        take.complete(summary)
        return
    raise LakeError(
        f"{batches.files.url}/{take.mark(COMPLETE)} is damaged, and what it said can't be told from its pages: restore it from a "
        "backup"
    )


def repair_damaged_pages(
    apis: Mapping[str, Api], run_id: str, batches: Batches, scratch: Path
) -> MendedPages:
    """Supersede damaged pages that were loaded, as a batch of its own, and give up takes that were not; nothing is done if
    nothing is damaged. No API is asked. Raises `EtlError`, and then nothing was committed."""
    started, latest = time.monotonic(), batches.latest()
    for one in find_damaged_pages(apis, batches):
        if one.take.state == LOADED and one.file.path == one.take.mark(COMPLETE):
            _restore_mark(one.take, batches)
    damaged = find_damaged_pages(apis, batches)
    waiting = {one.take: one for one in damaged if one.take.state == COMPLETE}
    for take, one in waiting.items():
        take.reject(f"{one.file.path}: {one.what}")
    loaded = [one for one in damaged if one.take.state == LOADED]
    lacking = [(take.api, take.window) for take in waiting]
    if latest is None or not loaded:
        return MendedPages(lacking=tuple(dict.fromkeys(lacking)))
    with own_folder(scratch, "pages-") as folder, duck.connect(folder) as connection:
        mending = _Mending(apis, batches, latest, connection, folder)
        for take in {one.take: one for one in loaded}:
            lacking += mending.mend(take, [one for one in loaded if one.take == take])
        mending.name_rows_without_page()
        superseded = tuple(mending.superseded.values())
        writer = BatchWriter(
            batches=batches,
            latest=latest,
            naming=FileNames.of_a_run(latest.batch + 1),
            connection=connection,
            names=(),
        )
        writer.put(
            run_id=run_id,
            project="",
            sources={},
            tables={},
            seconds=time.monotonic() - started,
            superseded=superseded,
        )
    return MendedPages(superseded, tuple(dict.fromkeys(lacking)))


def rows_without_page(api: Api, batches: Batches, scratch: Path) -> list[list[str]]:
    """The keys, as text, of rows that no page tells of any more."""
    latest = batches.latest()
    if latest is None or api.name not in latest.tables:
        return []
    with own_folder(scratch, "pages-") as folder, duck.connect(folder) as connection:
        return _keys(api, latest, batches, connection, folder)


def _keys(
    api: Api, latest: Manifest, batches: Batches, connection: duckdb.DuckDBPyConnection, folder: Path
) -> list[list[str]]:
    chosen = loaded_takes(batches, api.name, batches.changing(api.name, latest))
    read = read_pages(api, chosen, batches, connection, folder)
    if not any(manifest.changed[api.name].rows for manifest in batches.changing(api.name, latest)):
        return []
    held = Current(batches, connection, from_batches_alone=True).fold(
        api.name, latest, columns=read.relation.columns
    )
    texts = ", ".join(f"CAST({identifier(name)} AS VARCHAR)" for name in api.key)
    rows = connection.sql(
        f"SELECT {texts} FROM {view(held.relation)} ANTI JOIN {read.rows} USING ({listing(list(api.key))}) "
        f"WHERE NOT {DELETED} ORDER BY ALL"
    ).fetchall()
    return [list(row) for row in rows]


@dataclass
class _Mending:
    """What is read instead of damaged pages, as it becomes known."""

    apis: Mapping[str, Api]
    batches: Batches
    latest: Manifest
    connection: duckdb.DuckDBPyConnection
    folder: Path

    def __post_init__(self) -> None:
        self.superseded: dict[str, Superseded] = {}
        self._lacking: list[tuple[DamagedFile, list[Page], list[int]]] = []

    def mend(self, take: Take, damaged: Sequence[DamagedFile]) -> Iterator[tuple[str, str]]:
        """Land what is known of the damaged files of a take; gives its window if that is not all."""
        summary = take.summary()
        if summary is None:
            raise LakeError(f"{take} is not complete: run again")
        known = {one: self._copy(one) or take.legible(one.file) for one in damaged}
        broken = {one.file for one in damaged}
        there = {page.index for pages in known.values() for page in pages}
        there |= {
            page.index
            for file in files_of(summary, self.batches)
            if file not in broken
            for page in take.read(file)
        }
        lost = sorted({*range(summary.pages)} - there)
        for one, pages in known.items():
            self._note(one, pages)
        if lost:
            self._lacking.append((damaged[0], known[damaged[0]], lost))
            yield take.api, take.window

    def name_rows_without_page(self) -> None:
        """Keep the keys of rows that no page tells of any more with what supersedes the pages that are lost."""
        for name in dict.fromkeys(damage.take.api for damage, _, _ in self._lacking):
            keys = _keys(self.apis[name], *self._as_read(), self.connection, self.folder)
            for damage, pages, lost in self._lacking:
                if damage.take.api == name:
                    bodies = [json.dumps(keys).encode(), *[b"[]"] * (len(lost) - 1)]
                    nothing = [
                        Page(index, body, 0, None, None, (), lost=True)
                        for index, body in zip(lost, bodies, strict=True)
                    ]
                    self._note(damage, [*pages, *nothing], keys)

    def _note(self, damage: DamagedFile, pages: Sequence[Page], keys: Sequence[Sequence[str]] = ()) -> None:
        before = self.superseded.get(damage.file.path)
        file = damage.take.land_instead(damage.file, pages)
        size = len(self.batches.files.read(file.path))
        by = LandedFile(path=file.path, rows=file.pages, bytes=size, sha256=file.sha256)
        legible = sum(not page.lost for page in pages)
        reason = f"{damage.what}; {legible:,} of its {damage.file.pages:,} pages are known"
        self.superseded[damage.file.path] = Superseded(
            path=damage.file.path,
            sha256=damage.file.sha256,
            by=by,
            reason=reason,
            lost=tuple(", ".join(key) for key in keys[:_NAMED]),
        )
        if before and before.by:
            self.batches.files.remove(before.by.path)

    def _copy(self, damage: DamagedFile) -> list[Page]:
        """The pages of a copy that this machine kept of a file in a bucket."""
        kept = kept_copy(self.batches.files, damage.file.path, damage.file.sha256)
        return [page for page in pages_in(kept.read_bytes()) if page] if kept else []

    def _as_read(self) -> tuple[Manifest, Batches]:
        """The newest batch as it is read by what is known so far; of landed rows that are damaged, none."""
        known = {**self.batches.superseded(), **self.superseded}
        for row in find_damage(self.batches, self.latest, {one.take.api for one, _, _ in self._lacking}):
            known[row.file.path] = Superseded(path=row.file.path, sha256=row.file.sha256, by=None, reason="")
        batches = Batches(self.batches.files, known)
        return batches.get(self.latest.batch), batches
