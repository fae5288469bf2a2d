"""Where a lake in a folder keeps what, read from its manifests without the product's help."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal


def manifest(lake: Path, batch: int) -> Mapping[str, Any]:
    told: Mapping[str, Any] = json.loads((lake / f"raw/batches/{batch:06d}.json").read_text())
    return told


def unsealed(path: Path) -> str:
    """The text of a JSON document that may be edited: nothing in it says any more what was written."""
    told = json.loads(path.read_text())
    del told["seal"]
    return json.dumps(told, indent=1)


def landed(
    lake: Path, table: str, batch: int, kind: Literal["rows", "deletions", "quarantined"] = "rows"
) -> Path:
    """The file that a batch landed for a table."""
    path: str = manifest(lake, batch)["tables"][table]["changes"][kind]["path"]
    return lake / path


def newest_of_star(lake: Path) -> Path | None:
    """The newest manifest of the star."""
    found = {}
    for path in (lake / "star/batches").glob("*.json"):
        told = re.fullmatch(r"(\d+)(?:-(\d+))?\.json", path.name)
        assert told, path
        found[int(told[1]), int(told[2] or 1)] = path
    return found[max(found)] if found else None


def star_files(lake: Path, name: str) -> list[Path]:
    """The files of a star table, oldest first."""
    newest = newest_of_star(lake)
    tables = json.loads(newest.read_text())["tables"] if newest else {}
    return [lake / file["path"] for file in tables.get(name, {"files": ()})["files"]]
