"""Where steps put files and take them from: `lake://path`, `s3://bucket/key`, `gs://bucket/key`.

`lake://` is the folder `files` of the lake: what the platform keeps there lies beside it and can't be reached.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from etl_assets.errors import EtlError
from etl_assets.lake.files import AlreadyExists, Files
from etl_assets.lake.opening import open_files
from etl_assets.steps.parameters import Value, named, placeholders

LAKE_FOLDER = "files"
_FORM = re.compile(r"(?P<scheme>lake|s3|gs)://(?P<rest>.*)", re.DOTALL)


class PlaceError(EtlError):
    """A place for files that is none."""


@dataclass(frozen=True)
class Place:
    """A template of a place, with `{parameters}`. Raises `ValueError` for one that is none."""

    template: str
    is_prefix: bool = False

    def __post_init__(self) -> None:
        found = _FORM.fullmatch(self.template)
        if not found or not (found["rest"] or (self.is_prefix and found["scheme"] == "lake")):
            raise ValueError(
                f"{self.template!r} is no place: write lake://path, s3://bucket/key or gs://bucket/key"
            )
        placeholders(self.template)
        parts = found["rest"].split("/")
        if found["scheme"] != "lake" and len(parts) < 2 - self.is_prefix:
            raise ValueError(f"{self.template!r} has no key: write {found['scheme']}://bucket/key")
        inner = parts[:-1] if self.is_prefix else parts
        if {"", ".", ".."} & {*inner, *({parts[-1]} - {""} if self.is_prefix else ())}:
            raise ValueError(f"{self.template!r} has an empty part, or one of dots")

    @property
    def stores(self) -> list[str]:
        """The object store that it lies in, if it lies in one."""
        scheme = self.template.partition("://")[0]
        return [] if scheme == "lake" else [scheme]

    @property
    def parameters(self) -> list[str]:
        return placeholders(self.template)


@dataclass(frozen=True)
class FilePlaces:
    """The lake, and buckets."""

    lake: Files
    cache: Path

    def of(self, place: Place, values: Mapping[str, Value]) -> tuple[Files, str, str]:
        """The files of a place, the path among them, and how it is shown. Raises `ParameterError`."""
        filled = named(place.template, values)
        scheme, _, rest = filled.partition("://")
        if scheme == "lake":
            path = f"{LAKE_FOLDER}/{rest}"
            return self.lake, path, f"{self.lake.url}/{path}"
        bucket, _, key = rest.partition("/")
        return open_files(f"{scheme}://{bucket}", self.cache), key, filled

    def listed(self, place: Place, values: Mapping[str, Value], suffix: str) -> Iterator[tuple[str, int]]:
        """What lies at a prefix and ends in a suffix: each as a place, with its bytes, in order."""
        files, prefix, _ = self.of(place, values)
        for path, size in files.walk(prefix):
            if path.endswith(suffix):
                yield self._shown(place, files, path), size

    def _shown(self, place: Place, files: Files, path: str) -> str:
        if files is self.lake:
            return f"lake://{path.removeprefix(f'{LAKE_FOLDER}/')}"
        return f"{files.url}/{path}"


def put(files: Files, path: str, content: bytes, *, overwrite: bool) -> None:
    """Write a file whole. Raises `PlaceError` if there is one and it is not to be overwritten."""
    if overwrite:
        with files.writing(path) as stream:
            stream.write(content)
        return
    try:
        files.create(path, content)
    except AlreadyExists:
        raise PlaceError(
            f"{files.url}/{path} exists already: write overwrite=True if it may be replaced"
        ) from None
