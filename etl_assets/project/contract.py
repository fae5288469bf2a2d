"""What a project is once it is read, and what is wrong with one that can't be."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etl_assets.apis.declaration import Api
from etl_assets.engine.mistakes import refuse
from etl_assets.errors import EtlError
from etl_assets.exports.contract import Report
from etl_assets.exports.lineage import ReportQuery
from etl_assets.owners import OWNERS, SOURCE_OWNERS
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import StarTable
from etl_assets.steps.group import Steps

_OWNER = re.compile(r"team:[A-Za-z0-9_-]+|[^@\s:]+@[^@\s]+\.[^@\s]+")


@dataclass(frozen=True)
class Options:
    """What a project says of itself beside its tables: `OPTIONS = Options(…)` in one of its modules, if at all.

    `workbook`: the title of the workbook that has all reports. `references`: what one row of a reference file is, by name.
    `owners`: whose the assets are, as Dagster takes it: `team:…`, or an e-mail address; `source_owners`: whose what is outside
    is, the tables and APIs that are read.
    """

    workbook: str = "Reports"
    references: Mapping[str, str] = field(default_factory=dict)
    owners: Sequence[str] = OWNERS
    source_owners: Sequence[str] = SOURCE_OWNERS

    def __post_init__(self) -> None:
        """Raise `ValueError` for an owner that Dagster does not take."""
        for owner in (*_several(self.owners), *_several(self.source_owners)):
            if not _OWNER.fullmatch(owner):
                refuse(
                    self,
                    f"{owner!r} is no owner: write team:NAME, of letters, digits, _ and -, or an e-mail address",
                )
        object.__setattr__(self, "owners", _several(self.owners))
        object.__setattr__(self, "source_owners", _several(self.source_owners))


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


@dataclass(frozen=True)
class Slip:
    """A mistake in a project: the file and line where it is made, what is wrong, and what to write instead."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class ProjectError(EtlError):
    """A project can't be used as it is."""

    def __init__(self, slips: Sequence[Slip]) -> None:
        slips = list(dict.fromkeys(slips))
        more = f" (and {len(slips) - 1} more: etl check)" if len(slips) > 1 else ""
        super().__init__(f"{slips[0]}{more}")
        self.slips = slips


@dataclass(frozen=True)
class Project:
    """The tables of a database that are read, the APIs that are called, the star and the reports that are made of them,
    reference files and groups of steps, each by name."""

    name: str
    root: Path
    tables: Mapping[str, Table]
    apis: Mapping[str, Api]
    star: Mapping[str, StarFunction]
    references: Mapping[str, Path]
    reports: Mapping[str, Report]
    steps: Mapping[str, Steps]
    options: Options
    inputs: Inputs = field(repr=False)
    queries: Mapping[str, tuple[ReportQuery, ReportQuery | None]] = field(repr=False)
    """The query of each report, and that of its control totals, traced to the star."""
    is_shipped: bool = False
    """Whether it is the one that ships, which alone has a source that ships too."""

    @property
    def schemas(self) -> Mapping[str, StarTable]:
        """What the star's tables promise."""
        return {name: definition.schema for name, definition in self.star.items()}


def shown(path: str) -> str:
    """A path as it is told: from where the command was started, if it is below."""
    absolute = Path(path).resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def at(where: str) -> str:
    """A file with a line, told likewise."""
    path, _, line = where.rpartition(":")
    return f"{shown(path)}:{line}"
