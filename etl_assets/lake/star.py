"""What the lake's star holds: one Parquet file per dimension, one per fact and batch.

What a file was made from stands in its footer, so that what is still to do is found from the files themselves.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.engine.schema import Fact, StarTable
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import Files, LakeError

STAR = "star"
BASELINES = f"{STAR}/baselines"
TRIALS = "current/trials"
VERSION = b"etl.version"
BATCH = b"etl.batch"


@dataclass(frozen=True)
class StarFile:
    """A published file. `version` identifies the code and the data it was made from, `batch` the newest of them."""

    path: str
    version: str
    batch: str
    rows: int
    bytes: int


class StarFiles:
    """The star's files of a lake."""

    def __init__(self, files: Files, batches: Batches) -> None:
        self.files = files
        self.batches = batches
        self._baselines: dict[str, str | None] = {}

    def dimension(self, name: str) -> StarFile | None:
        """The file of a dimension, None if there is none that can be read."""
        return self._open(dimension_path(name))

    def fact_batches(self, name: str) -> list[str]:
        """The batches that a fact holds, oldest first. A file of a batch that is not committed (the lake was set back,
        say) does not count."""
        held = [entry.removesuffix(".parquet") for entry in self.files.names(f"star/{name}")]
        committed = set(self.batches.numbers())
        return [batch for batch in held if batch in committed]

    def remove_strays(self, name: str) -> None:
        """Remove the files of a fact that no committed batch gave, so that nobody reads them by a pattern."""
        held = [entry.removesuffix(".parquet") for entry in self.files.names(f"star/{name}")]
        for batch in set(held) - set(self.batches.numbers()):
            self.files.remove(fact_path(name, batch))

    def fact(self, name: str, batch: str) -> StarFile | None:
        return self._open(fact_path(name, batch))

    def shown(self, table: StarTable) -> StarFile | None:
        """The file that says where a table stands: that of a dimension, of a fact the newest; None if there is
        none, or it can't be read. A fact's are published oldest first, so the newest vouches for the others."""
        if not isinstance(table, Fact):
            return self.dimension(table.name)
        batches = self.fact_batches(table.name)
        return self.fact(table.name, batches[-1]) if batches else None

    def paths(self, table: StarTable) -> list[str]:
        """All files of a table, in the order of its batches."""
        if isinstance(table, Fact):
            return [fact_path(table.name, batch) for batch in self.fact_batches(table.name)]
        path = dimension_path(table.name)
        return [path] if self.files.exists(path) else []

    def paths_of_any(self, name: str) -> list[str]:
        """The same for who does not know what a table is declared as. Raises `LakeError` if it was one thing, is
        another now, and has files of both."""
        dimension = [dimension_path(name)] if self.files.exists(dimension_path(name)) else []
        fact = [fact_path(name, batch) for batch in self.fact_batches(name)]
        if dimension and fact:
            raise LakeError(
                f"the lake {self.files.url} holds {name} as a dimension and as a fact: etl retire {name} removes "
                "what it is no longer"
            )
        return dimension or fact

    def baseline(self, name: str) -> str | None:
        """The batch from which on a table is made, if that was decided not to be the first one."""
        if name not in self._baselines:
            path = baseline_path(name)
            kept = json.loads(self.files.read(path))["batch"] if self.files.exists(path) else None
            self._baselines[name] = kept
        return self._baselines[name]

    def begin_at(self, name: str, batch: str) -> None:
        """Decide that a table is made from a batch on, now and whenever it is made again."""
        with self.files.writing(baseline_path(name)) as stream:
            stream.write(json.dumps({"batch": batch}).encode())
        self._baselines[name] = batch

    def _open(self, path: str) -> StarFile | None:
        stream = self.files.reading(path)
        if stream is None:
            return None
        try:
            with stream:
                footer, size = pq.read_metadata(stream), stream.seek(0, os.SEEK_END)
        except pa.ArrowInvalid:  # damaged: it is derived, so it is made again
            return None
        notes: Mapping[bytes, bytes] = footer.metadata or {}
        return StarFile(
            path,
            notes.get(VERSION, b"").decode(),
            notes.get(BATCH, b"").decode(),
            footer.num_rows,
            size,
        )


def baseline_path(name: str) -> str:
    return f"{BASELINES}/{name}.json"


def trial_path(name: str) -> str:
    return f"{TRIALS}/{name}.json"


def dimension_path(name: str) -> str:
    return f"{STAR}/{name}.parquet"


def fact_path(name: str, batch: str) -> str:
    return f"{STAR}/{name}/{batch}.parquet"
