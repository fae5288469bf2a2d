"""What a lake holds of star tables that are not declared, or not as that any more; and its removal.

Everything is found by its name, so that whatever an interrupted removal left is found again:
    star/<dimension>.parquet, star/<fact>/<batch>.parquet    the rows
    star/baselines/<table>.json, current/trials/<table>.json    what was decided, and found out, about a table
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from etl_assets.engine.schema import Fact, StarTable
from etl_assets.lake.files import Files
from etl_assets.lake.star import BASELINES, STAR, TRIALS

_NO_TABLES = {"baselines", "batches"}
_OF_A_FACT = re.compile(r"[0-9]+\.parquet")


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


def in_lake(files: Files, declared: Mapping[str, StarTable]) -> dict[str, InLake]:
    """What is to be retired, by table."""
    found = {**_dimensions(files), **_facts(files, declared)}
    rows: dict[str, dict[str, int]] = {}
    for path, size in found.items():
        parts = PurePosixPath(path).parts
        fact, name = len(parts) > 2, parts[1].removesuffix(".parquet")
        if name not in declared or isinstance(declared[name], Fact) != fact:
            rows.setdefault(name, {})[path] = size
    notes: dict[str, dict[str, int]] = {}
    for folder in (BASELINES, TRIALS):
        for file, size in files.sizes(folder).items():
            name = file.removesuffix(".json")
            if file.endswith(".json") and name not in declared:
                notes.setdefault(name, {})[f"{folder}/{file}"] = size
    return {
        name: InLake(
            rows.get(name, {}), notes.get(name, {}), _kind(declared[name]) if name in declared else None
        )
        for name in sorted({*rows, *notes})
    }


def remove(files: Files, found: Mapping[str, InLake]) -> None:
    """Remove what was found."""
    for name, held in found.items():
        for path in (*held.files, *held.notes):
            files.remove(path)
        folder = f"{STAR}/{name}"
        if any(path.startswith(f"{folder}/") for path in held.files):
            files.sweep(folder)  # nobody writes there any more
            files.remove_folder(folder)


def _dimensions(files: Files) -> dict[str, int]:
    return {f"{STAR}/{file}": size for file, size in files.sizes(STAR).items() if file.endswith(".parquet")}


def _facts(files: Files, declared: Mapping[str, StarTable]) -> dict[str, int]:
    """The files in folders of facts, but for those that are declared as such: these may be many."""
    names = [n for n in files.folders(STAR) if n not in _NO_TABLES and not isinstance(declared.get(n), Fact)]
    return {
        f"{STAR}/{name}/{file}": size
        for name in names
        for file, size in files.sizes(f"{STAR}/{name}").items()
        if _OF_A_FACT.fullmatch(file)
    }


def _kind(table: StarTable) -> str:
    return "fact" if isinstance(table, Fact) else "dimension"
