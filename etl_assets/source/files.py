"""Files that are observed: the project's reference files, and model files (SQL, CSV, JSON …) that a setting names.

Each group of files has one version, made of the checksums of what is in it. Nothing is run or changed here.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from etl_assets.errors import EtlError

_WILDCARD = re.compile(r"[*?\[]")
_EXAMPLE = "write name=folder/*.sql;other=folder/**/*.json"


class ModelError(EtlError):
    """Model files are declared in a way that makes no sense, or are not where they should be."""


@dataclass(frozen=True)
class ObservedFiles:
    """The files below a folder that a pattern names. Paths relative to the folder tell them apart."""

    name: str
    folder: Path
    pattern: str

    def checksums(self) -> Mapping[str, str]:
        """Relative path -> SHA-256 in hexadecimal digits, in the order of the paths.

        Folders are no files, and a link that leads nowhere is none either; a link to a file counts as that file.
        Raises `ModelError` if the folder is not there.
        """
        if not self.folder.is_dir():
            raise ModelError(
                f"source/{self.name}: {self.folder} is not a folder; make it, or correct ETL_MODELS"
            )
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.glob(self.pattern)}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in sorted(found.items())
            if path.is_file()
        }

    def version(self, checksums: Mapping[str, str]) -> str:
        """What identifies the group: its paths and contents. That of a file named by itself is its SHA-256."""
        if list(checksums) == [self.pattern]:
            return checksums[self.pattern]
        return hashlib.sha256(json.dumps(sorted(checksums.items())).encode()).hexdigest()


def models(setting: str, taken: Sequence[str]) -> list[ObservedFiles]:
    """What ETL_MODELS declares. `taken` are the names that a group of files can't have.

    `load=models/load/*.sql;transform=models/**/*.json` declares two groups; the folder of each is what stands before
    the first part with a wildcard. Raises `ModelError`.
    """
    declared: list[ObservedFiles] = []
    for entry in filter(None, map(str.strip, setting.split(";"))):
        name, equals, glob = (part.strip() for part in entry.partition("="))
        if not equals or not glob or not re.fullmatch(r"\w+", name):
            raise ModelError(f"ETL_MODELS has an entry that names no files; {_EXAMPLE}")
        if "://" in glob:  # which may hold a password
            raise ModelError(f"ETL_MODELS: {name} is not of this machine; {_EXAMPLE}")
        if name in {*taken, *(one.name for one in declared)}:
            raise ModelError(f"ETL_MODELS: source/{name} exists already; choose another name for {glob}")
        parts = Path(glob).parts
        fixed = next((i for i, part in enumerate(parts) if _WILDCARD.search(part)), len(parts) - 1)
        if ".." in parts[fixed:]:
            raise ModelError(f"ETL_MODELS: {glob} leaves its folder behind a wildcard; {_EXAMPLE}")
        declared.append(ObservedFiles(name, Path(*parts[:fixed]).absolute(), str(Path(*parts[fixed:]))))
    return declared
