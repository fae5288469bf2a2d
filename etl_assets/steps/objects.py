"""Steps with files: put something there, take something from there, list what is there; a CSV file on this machine."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from etl_assets.lake.folder import LocalFiles
from etl_assets.later import Later
from etl_assets.steps.contract import Made, Output, Step, StepError
from etl_assets.steps.parameters import Parameter, named, placeholders
from etl_assets.steps.places import Place, put
from etl_assets.steps.work import Work

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq
else:
    pa = Later("pyarrow")
    pcsv = Later("pyarrow.csv")
    pq = Later("pyarrow.parquet")

Form = Literal["csv", "text", "bytes"]
_OUTPUT: Mapping[Form, Output] = {"csv": "frame", "text": "text", "bytes": "bytes"}


def _unknown(names: Sequence[str], parameters: Mapping[str, Parameter]) -> Iterator[str]:
    for name in names:
        if name not in parameters:
            yield f"{{{name}}} names no parameter; there are {', '.join(parameters) or 'none'}"


@dataclass(frozen=True)
class Upload(Step):
    """What another step made, as a file: a frame as CSV (as Parquet, if the name ends so), a text, bytes, JSON. In a bucket of
    S3 it is encrypted by the server. One that is there is refused, unless `overwrite`."""

    of: str = field(default="", kw_only=True)
    to: str = field(default="", kw_only=True)
    overwrite: bool = field(default=False, kw_only=True)

    kinds: ClassVar[frozenset[str]] = frozenset({"file"})

    def check(self) -> None:
        _ = self.place

    @cached_property
    def place(self) -> Place:
        return _place(self.name, self.to)

    @property
    def inputs(self) -> Sequence[str]:
        return [self.of]

    @property
    def stores(self) -> Sequence[str]:
        return self.place.stores

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        yield from _unknown(self.place.parameters, parameters)

    def make(self, work: Work) -> Made:
        files, path, shown = work.places.of(self.place, work.values)
        content, rows = _content(work, self.of, as_parquet=path.endswith(".parquet"))
        put(files, path, content, overwrite=self.overwrite)
        return Made({"path": shown, "bytes": len(content)}, rows=rows)


@dataclass(frozen=True)
class Download(Step):
    """A file, as a frame of texts (`csv`), a text or bytes."""

    source: str = field(default="", kw_only=True)
    as_: Form = field(default="text", kw_only=True)

    kinds: ClassVar[frozenset[str]] = frozenset({"file"})

    def check(self) -> None:
        _ = self.place
        if self.as_ not in _OUTPUT:
            raise ValueError(f"{self.name}: as_ is {', '.join(_OUTPUT)}, not {self.as_!r}")

    @cached_property
    def place(self) -> Place:
        return _place(self.name, self.source)

    @property
    def gives(self) -> Output:
        return _OUTPUT[self.as_]

    @property
    def stores(self) -> Sequence[str]:
        return self.place.stores

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        yield from _unknown(self.place.parameters, parameters)

    def make(self, work: Work) -> Made:
        files, path, shown = work.places.of(self.place, work.values)
        content = files.read(path)
        head, rows = None, None
        if self.as_ == "csv":
            frame = read_csv(shown, content)
            kept = work.keeping.put_frame(self.name, [frame])
            head, rows = frame.slice(0, 10), frame.num_rows
        else:
            kept = work.keeping.put(
                self.name, self.as_, content if self.as_ == "bytes" else _text(shown, content)
            )
        return Made({"path": shown, "bytes": len(content)}, kept.version, head, rows)


@dataclass(frozen=True)
class Listing(Step):
    """The files whose place begins with `prefix` and ends in `suffix`, any number: a frame with `path` and `bytes`."""

    prefix: str = field(default="", kw_only=True)
    suffix: str = field(default="", kw_only=True)

    kinds: ClassVar[frozenset[str]] = frozenset({"file"})
    output: ClassVar[Output] = "frame"

    def check(self) -> None:
        _ = self.place

    @cached_property
    def place(self) -> Place:
        return _place(self.name, self.prefix, is_prefix=True)

    @property
    def stores(self) -> Sequence[str]:
        return self.place.stores

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        yield from _unknown(self.place.parameters, parameters)

    def make(self, work: Work) -> Made:
        found = list(work.places.listed(self.place, work.values, self.suffix))
        frame = pa.table(
            {
                "path": pa.array([p for p, _ in found], pa.string()),
                "bytes": pa.array([n for _, n in found], pa.int64()),
            }
        )
        kept = work.keeping.put_frame(self.name, [frame])
        return Made({"bytes": sum(size for _, size in found)}, kept.version, frame.slice(0, 10), kept.rows)


@dataclass(frozen=True)
class CsvFile(Step):
    """The frame of another step as a CSV file of this machine. A `path` that is relative lies below ETL_DATA/files. One that is
    there is refused, unless `overwrite`."""

    of: str = field(default="", kw_only=True)
    path: str = field(default="", kw_only=True)
    overwrite: bool = field(default=False, kw_only=True)

    kinds: ClassVar[frozenset[str]] = frozenset({"csv"})

    def check(self) -> None:
        if not self.path.strip("/") or ".." in Path(self.path).parts:
            raise ValueError(f"{self.name}: {self.path!r} is no file: write folder/name.csv")
        placeholders(self.path)

    @property
    def inputs(self) -> Sequence[str]:
        return [self.of]

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        yield from _unknown(placeholders(self.path), parameters)

    def make(self, work: Work) -> Made:
        target = work.folder / named(self.path, work.values)
        frame = work.keeping.frame(self.of)
        content = csv(frame)
        put(LocalFiles(target.parent), target.name, content, overwrite=self.overwrite)
        return Made(
            {"path": os.fspath(target), "bytes": len(content)}, "", frame.slice(0, 10), frame.num_rows
        )


def csv(frame: pa.Table) -> bytes:
    """A frame as CSV with a header: NULL is nothing, the empty text is "". Raises `StepError` for what CSV can't say."""
    sink = io.BytesIO()
    try:
        pcsv.write_csv(frame, sink)
    except pa.ArrowException:
        kinds = ", ".join(f"{f.name} {f.type}" for f in frame.schema if pa.types.is_nested(f.type))
        raise StepError(
            f"CSV can't hold {kinds or 'these types'}: bring them to texts or numbers first"
        ) from None
    return sink.getvalue()


def read_csv(shown: str, content: bytes) -> pa.Table:
    """A CSV file with a header, all columns as texts; what stands between no quotes and is nothing is NULL."""
    try:
        header = pcsv.open_csv(io.BytesIO(content)).schema.names
        return pcsv.read_csv(
            io.BytesIO(content),
            parse_options=pcsv.ParseOptions(newlines_in_values=True),
            convert_options=pcsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
                quoted_strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        raise StepError(f"{shown} is no CSV with a header and rows of as many fields") from None


def _place(name: str, template: str, *, is_prefix: bool = False) -> Place:
    try:
        return Place(template, is_prefix)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _text(shown: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise StepError(f'{shown} is no text in UTF-8: take it as_="bytes"') from None


def _content(work: Work, name: str, *, as_parquet: bool) -> tuple[bytes, int | None]:
    """What another step made, as the bytes of a file, and its rows."""
    kind = work.kinds[name]
    if kind != "frame":
        found = work.keeping.raw(name, kind)
        return found, None
    frame = work.keeping.frame(name)
    if not as_parquet:
        return csv(frame), frame.num_rows
    sink = io.BytesIO()
    pq.write_table(frame, sink)
    return sink.getvalue(), frame.num_rows
