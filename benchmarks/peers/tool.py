"""What a tool is to the comparison. Its file in `tools` declares it, and is what runs in the tool's own environment.

So nothing here, nor at the top of those files, imports what an environment may not have.
"""

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_TASK = "BENCHMARK_TASK"


@dataclass(frozen=True)
class Task:
    """Copy the tables of `url`, each with the column of its primary key, into `folder`, which is the tool's own; bring
    what is there up to the source, unless this is the `first` time, when nothing is there."""

    url: str
    folder: Path
    keys: Mapping[str, str]
    first: bool

    def variables(self, **others: str) -> dict[str, str]:
        """Environment variables that hand it to a process, and others: the address has a password, which a command line would
        show."""
        return {_TASK: json.dumps([self.url, str(self.folder), dict(self.keys), self.first]), **others}

    @classmethod
    def given(cls) -> "Task":
        """The task of this process."""
        url, folder, keys, first = json.loads(os.environ[_TASK])
        return cls(url, Path(folder), keys, first)


@dataclass(frozen=True)
class Written:
    """Where the tables are that a tool wrote, in its folder. `place` has `{table}` in it, or is a DuckDB file.

    `duckdb` is a file of tables in the schema `schema`; `parquet` and `csv` are files; of `versions`, CSV files that are numbered
    in their order, a later one has the later versions of rows; `batches` is the lake of this platform, read as README.md
    describes it.
    """

    form: Literal["duckdb", "parquet", "csv", "versions", "batches"]
    place: str
    schema: str = "main"


@dataclass(frozen=True)
class Tool:
    """`configured` says in half a line how it is set up. `environments` are files of requirements, of which the first that can be
    had is taken; without any, this environment. `probe` are arguments of the environment's Python with which it shows whether all
    of the tool is there. `increments`: whether it has a mode that brings only changes. `program` is what is measured, given
    the task and the environment's Python, with `variables` in its environment."""

    name: str
    configured: str
    written: Written
    program: Callable[[Task, Path], Sequence[str]]
    increments: bool
    environments: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()
    variables: Callable[[Task], Mapping[str, str]] = Task.variables

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)


def module(name: str) -> Callable[[Task, Path], Sequence[str]]:
    """The program of a tool that is this module, run by the Python of the tool's environment."""
    return lambda _, python: [str(python), "-m", f"benchmarks.peers.tools.{name}"]


def run(command: Sequence[str], **variables: str) -> None:
    """Run a command of a tool; if it fails so does this process, and what it said last stays the last word."""
    if code := subprocess.run(command, check=False, env={**os.environ, **variables}).returncode:
        raise SystemExit(code)
