"""What a lake holds of star tables that are not declared, or not as that any more; and its removal.

    star/batches/…               the star's manifest lists the files of a table
    star/baselines/<table>.json, current/trials/<table>.json    what was decided, and found out, about a table

A table is taken out of the manifest first, so that nobody is told of files that are being removed. What an interrupted
removal left is found again in the table's folder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from etl_assets.lake.names import folder_of
from etl_assets.star.files import BASELINES, NO_TABLES, STAR, TRIALS, StarFiles, kind_of
from etl_assets.star.schema import StarTable

_ROWS = re.compile(r"[0-9]+(-[0-9a-f]+)?\.parquet")


@dataclass(frozen=True)
class InLake:
    """What there is of one table, as paths with their bytes. `notes`: what is kept about it beside its rows;
    `now`: what it is declared as, if these are files of what it was before."""

    files: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    now: str | None = None

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def in_lake(star: StarFiles, declared: Mapping[str, StarTable]) -> dict[str, InLake]:
    """What is to be retired, by table. A folder whose table nobody knows any more goes by the folder's name. Of a layout
    before this one, which a first run removes, that of tables which are not declared."""
    files, listed = star.files, star.manifest.tables if star.manifest else {}
    known = {folder_of(name): name for name in (*declared, *listed)}
    rows: dict[str, dict[str, int]] = {name: {} for name in listed if name not in declared}
    for folder in (f for f in files.folders(STAR) if f not in NO_TABLES):
        name = known.get(folder, folder)
        if name in declared and (name not in listed or listed[name].kind == kind_of(declared[name])):
            continue
        found = {f"{STAR}/{folder}/{file}": size for file, size in files.sizes(f"{STAR}/{folder}").items()}
        # Of a table that is something else now only what it was.
        was = {file.path for file in listed[name].files} if name in declared else None
        ours = {
            path: size
            for path, size in found.items()
            if (_ROWS.fullmatch(path.rpartition("/")[2]) if was is None else path in was)
        }
        if ours or name in listed:
            rows[name] = ours
    for file, size in files.sizes(STAR).items():
        name = file.removesuffix(".parquet")
        if file.endswith(".parquet") and name not in declared:
            rows.setdefault(name, {})[f"{STAR}/{file}"] = size
    notes: dict[str, dict[str, int]] = {}
    for folder in (BASELINES, TRIALS):
        for file, size in files.sizes(folder).items():
            stem = file.removesuffix(".json")
            name = known.get(stem, stem)
            if file.endswith(".json") and name not in declared:
                notes.setdefault(name, {})[f"{folder}/{file}"] = size
    return {
        name: InLake(
            rows.get(name, {}), notes.get(name, {}), kind_of(declared[name]) if name in declared else None
        )
        for name in sorted({*rows, *notes})
    }


def remove(star: StarFiles, found: Mapping[str, InLake]) -> None:
    """Remove what was found."""
    latest = star.batches.latest()
    listed = {name: None for name in found if star.manifest and name in star.manifest.tables}
    if latest and listed:
        star.publish(listed, latest.batch)
    for held in found.values():
        for path in (*held.files, *held.notes):
            star.files.remove(path)
        for folder in {path.rpartition("/")[0] for path in held.files} - {STAR}:
            star.files.sweep(folder)  # nobody writes there any more
            star.files.remove_folder(folder)
