"""What steps hand to each other, kept in the lake: a run that makes some of a group goes on from what another made.

    <lake>/steps/<group>/<step>.parquet            .txt, .bin, .json for what is no frame
    <lake>/steps/<group>/<step>/<partition>.parquet

A frame goes from a query into its file a few rows at a time; no more of it is in memory than that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etl_assets.engine.scratch import own_folder
from etl_assets.errors import EtlError
from etl_assets.lake.files import BUFFER_BYTES, Files
from etl_assets.later import Later
from etl_assets.steps.parameters import checked

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa = Later("pyarrow")
    pq = Later("pyarrow.parquet")

FOLDER = "steps"
_HEAD = 10  # rows to be looked at
Kind = Literal["frame", "text", "bytes", "json"]
_SUFFIX: dict[Kind, str] = {"frame": "parquet", "text": "txt", "bytes": "bin", "json": "json"}


class KeptError(EtlError):
    """What a step made can't be kept, or is not there."""


@dataclass(frozen=True)
class Kept:
    """What was kept: where, how much, and a version of the content."""

    path: str
    bytes: int
    rows: int | None
    version: str


@dataclass(frozen=True)
class Keeping:
    """What the steps of a group made, in the lake. `partition`: the key of the run's; none, if the group has none."""

    files: Files
    group: str
    partition: str
    scratch: Path

    def path(self, name: str, kind: Kind) -> str:
        """Where something is kept, in the lake."""
        part = f"/{checked(self.partition, 'a partition')}" if self.partition else ""
        return f"{FOLDER}/{self.group}/{name}{part}.{_SUFFIX[kind]}"

    def put_frame(self, name: str, tables: Iterable[pa.Table]) -> Kept:
        """Keep a frame that comes in pieces. Their types may differ where one type holds them all."""
        with own_folder(self.scratch, "steps-") as folder:
            whole = folder / "whole.parquet"
            rows = _joined(name, tables, folder, whole)
            return self._put(name, "frame", _blocks(whole), rows)

    def put(self, name: str, kind: Kind, value: Any) -> Kept:
        """Keep a text, bytes, or what JSON can say."""
        try:
            text = (
                json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) if kind == "json" else value
            )
        except (TypeError, ValueError):
            raise KeptError(f"{name}: it gives what JSON can't say") from None
        return self._put(name, kind, [text.encode() if isinstance(text, str) else bytes(text)], None)

    def _put(self, name: str, kind: Kind, blocks: Iterable[bytes], rows: int | None) -> Kept:
        path, size, content = self.path(name, kind), 0, hashlib.sha256()
        with self.files.writing(path) as stream:
            for block in blocks:
                stream.write(block)
                size += len(block)
                content.update(block)
        return Kept(f"{self.files.url}/{path}", size, rows, content.hexdigest())

    def frame(self, name: str) -> pa.Table:
        """A frame as it was kept."""
        return pq.read_table(self._there(name, "frame"), partitioning=None)

    def head(self, name: str) -> pa.Table:
        """The first rows of a frame, to be looked at."""
        with pq.ParquetFile(self._there(name, "frame")) as file:
            return next(
                (pa.Table.from_batches([b]) for b in file.iter_batches(_HEAD)),
                file.schema_arrow.empty_table(),
            )

    def raw(self, name: str, kind: Kind) -> bytes:
        """What was kept, as it was written."""
        return self._there(name, kind).read_bytes()

    def get(self, name: str, kind: Kind) -> Any:
        """A text, bytes, or what JSON said, as it was kept."""
        content = self.raw(name, kind)
        return content if kind == "bytes" else content.decode() if kind == "text" else json.loads(content)

    def _there(self, name: str, kind: Kind) -> Path:
        path = self.path(name, kind)
        if not self.files.exists(path):
            raise KeptError(f"{self.group}/{name} was not made yet: select it too")
        return self.files.local(path, fresh=True)


def _joined(name: str, tables: Iterable[pa.Table], folder: Path, whole: Path) -> int:
    """Write pieces into one Parquet file, in the types that hold them all. The rows."""
    parts: list[tuple[Path, pa.Schema]] = []
    writer: pa.RecordBatchStreamWriter | None = None
    rows = 0
    try:
        for table in tables:
            rows += table.num_rows
            if writer is None or table.schema != parts[-1][1]:
                if writer is not None:
                    writer.close()
                parts.append((folder / f"{len(parts)}.arrow", table.schema))
                writer = pa.ipc.new_stream(str(parts[-1][0]), table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    schema = _common(name, [schema for _, schema in parts])
    with _writer(name, whole, schema) as out:
        for path, _ in parts:
            for piece in _pieces(path):
                try:
                    out.write_table(piece.cast(schema))
                except pa.ArrowException:
                    raise KeptError(
                        f"{name}: a value does not fit the type of its column: CAST it in the query"
                    ) from None
    return rows


def _writer(name: str, whole: Path, schema: pa.Schema) -> pq.ParquetWriter:
    try:
        return pq.ParquetWriter(whole, schema)
    except pa.ArrowException:
        told = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise KeptError(
            f"{name}: Parquet does not hold one of {told}: bring it to a text or a number"
        ) from None


def _pieces(path: Path) -> Iterator[pa.Table]:
    with pa.ipc.open_stream(str(path)) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _common(name: str, schemas: list[pa.Schema]) -> pa.Schema:
    try:
        common = pa.unify_schemas([s.remove_metadata() for s in schemas], promote_options="permissive")
    except pa.ArrowException:
        raise KeptError(f"{name}: a column has values that no one type holds: CAST it in the query") from None
    return pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in common])


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as content:
        while block := content.read(BUFFER_BYTES):
            yield block
