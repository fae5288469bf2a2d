"""What the files of a lake are called. A landed file's name begins with its batch, and no other run can write it."""

import hashlib
import re
import secrets
from dataclasses import dataclass

FOLDER = "raw/batches"
OPEN = f"{FOLDER}/open"
"""Where runs say that they have files which no manifest lists yet."""
_PLAIN = re.compile(r"[a-z0-9_]{1,100}")
# Folders beside those of tables.
_TAKEN = {"batches", "quarantine"}


def number(batch: int) -> str:
    """A batch as people and paths call it: with six digits, or more where these are not enough."""
    return f"{batch:06d}"


def manifest_path(batch: int) -> str:
    """The path of a batch's manifest."""
    return f"{FOLDER}/{number(batch)}.json"


def folder_of(table: str) -> str:
    """The name of a table's folder. Names that a file system may take for the same, that it does not take, or that are
    folders of ours get a digest of what they are."""
    if _PLAIN.fullmatch(table) and table not in _TAKEN:
        return table
    readable = re.sub(r"[^a-z0-9_]+", "_", table.lower())[:60].strip("_")
    return f"{readable}~{hashlib.sha256(table.encode()).hexdigest()[:10]}"


def is_of(path: str, table: str) -> bool:
    """Whether a landed file is one with rows or deletions of a table. Pages of an API lie deeper in its folder."""
    return path.rpartition("/")[0] == f"raw/{folder_of(table)}"


def batch_of(path: str) -> int:
    """The batch that a landed file is of."""
    told = re.match("[0-9]+", path.rpartition("/")[2])
    return int(told[0]) if told else 0


@dataclass(frozen=True)
class FileNames:
    """The names of the files that one run lands for a batch. No other run can write them: `token` is its own."""

    batch: int
    token: str

    @classmethod
    def of_a_run(cls, batch: int) -> "FileNames":
        """Names for a batch with a token that no other run has."""
        return cls(batch, secrets.token_hex(6))

    def rows(self, table: str) -> str:
        """The path of a table's new and changed rows."""
        return f"raw/{folder_of(table)}/{self._stem}.csv"

    def deletions(self, table: str) -> str:
        """The path of the keys of a table's deleted rows."""
        return f"raw/{folder_of(table)}/{self._stem}.deleted.csv"

    def quarantine(self, table: str) -> str:
        """The path of a table's quarantined values."""
        return f"raw/quarantine/{folder_of(table)}/{self._stem}.csv"

    @property
    def marker(self) -> str:
        """A file that is there while the run has files that no manifest lists yet; it names their folders."""
        return f"{OPEN}/{self._stem}.open"

    @property
    def _stem(self) -> str:
        return f"{number(self.batch)}-{self.token}"
