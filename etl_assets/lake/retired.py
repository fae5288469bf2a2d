"""What a lake holds of star tables that are not declared, or not as that any more; and its removal.

    star/batches/…               the star's manifest lists the files of a table
    star/baselines/<table>.json, current/trials/<table>.json    what was decided, and found out, about a table

A table is taken out of the manifest first, so that nobody is told of files that are being removed. What an interrupted
removal left is found again in the table's folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from etl_assets.engine.schema import StarTable
from etl_assets.lake.batches import folder_of
from etl_assets.lake.star import BASELINES, STAR, TRIALS, StarFiles, kind_of

_NO_TABLES = {"baselines", "batches"}


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
    """What is to be retired, by table. A folder whose table nobody knows any more goes by the folder's name."""
    files = star.files
    known = {folder_of(name): name for name in (*declared, *(star.manifest.tables if star.manifest else ()))}
    rows: dict[str, Mapping[str, int]] = {}
    for folder in (f for f in files.folders(STAR) if f not in _NO_TABLES):
        name = known.get(folder, folder)
        held = star.table(name)
        if name not in declared or (held is not None and held.kind != kind_of(declared[name])):
            rows[name] = {
                f"{STAR}/{folder}/{file}": size for file, size in files.sizes(f"{STAR}/{folder}").items()
            }
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
    for name, held in found.items():
        for path in (*held.files, *held.notes):
            star.files.remove(path)
        folder = f"{STAR}/{folder_of(name)}"
        if held.files:
            star.files.sweep(folder)  # nobody writes there any more
            star.files.remove_folder(folder)
