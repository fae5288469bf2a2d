"""What a user declares: the one import that a project needs, and how a project is found and read.

    from etl_assets.project import Column, Table, calendar, dimension, fact, report, ReportColumn
    from etl_assets.project import Message, Parameter, SqlQuery, SqlWrite, Steps, Upload, step
    from etl_assets.project import Api, Credential, Cursor, Limits, Link, Offset, PageNumber, Rate, Retry, Windows

A project is a package, or a folder with an `__init__.py`, that anybody keeps wherever they like. Everything that its modules
declare belongs to it, and every CSV file beside them is a reference file: nothing is listed twice. `ETL_PROJECT` names it;
else a folder `etl_project` where the command is started is meant, else ToteSys, which ships.
"""

import ast
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from etl_assets.apis.declaration import Api, Batch, Credential, Limits, Rate, Retry
from etl_assets.apis.paging import Cursor, Link, Offset, OnePage, PageNumber
from etl_assets.apis.windows import Windows
from etl_assets.errors import EtlError
from etl_assets.exports.contract import Report, ReportColumn, ReportError, report
from etl_assets.exports.lineage import Query, queries
from etl_assets.source.table import Table
from etl_assets.star.calendar import Calendar, calendar
from etl_assets.star.definition import ContractError, Inputs, StarFunction, dimension, fact, star_table
from etl_assets.star.schema import Column, Dimension, Fact, StarTable
from etl_assets.steps.contract import Picture, Step, StepError, StepResult
from etl_assets.steps.functions import step
from etl_assets.steps.group import Steps
from etl_assets.steps.messages import Message
from etl_assets.steps.objects import CsvFile, Download, Listing, Upload
from etl_assets.steps.parameters import Parameter, Partitions
from etl_assets.steps.sql import SqlExecute, SqlQuery, SqlWrite

__all__ = [
    "Api",
    "Batch",
    "Column",
    "Credential",
    "CsvFile",
    "Cursor",
    "Dimension",
    "Download",
    "Fact",
    "Limits",
    "Link",
    "Listing",
    "Message",
    "Offset",
    "OnePage",
    "Options",
    "PageNumber",
    "Parameter",
    "Partitions",
    "Picture",
    "Project",
    "ProjectError",
    "Rate",
    "ReportColumn",
    "Retry",
    "SqlExecute",
    "SqlQuery",
    "SqlWrite",
    "StepError",
    "StepResult",
    "Steps",
    "Table",
    "Upload",
    "Windows",
    "calendar",
    "dimension",
    "fact",
    "load",
    "report",
    "star_table",
    "step",
]

SHIPPED = "etl_assets.totesys"
FOLDER = "etl_project"
_APART = {"demo", "tests"}  # folders of a package that are no part of its project


@dataclass(frozen=True)
class Options:
    """What a project says of itself beside its tables: `OPTIONS = Options(…)` in one of its modules, if at all.

    `workbook`: the title of the workbook that has all reports. `references`: what one row of a reference file is, by name.
    """

    workbook: str = "Reports"
    references: Mapping[str, str] = field(default_factory=dict)


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
    queries: Mapping[str, tuple[Query, Query | None]] = field(repr=False)
    """The query of each report, and that of its control totals, traced to the star."""

    @property
    def schemas(self) -> Mapping[str, StarTable]:
        """What the star's tables promise."""
        return {name: definition.schema for name, definition in self.star.items()}


# -- finding it ----------------------------------------------------------------------------------------------------------

_known: dict[str, Project] = {}


def load(setting: str | None = None, folder: Path | None = None) -> Project:
    """The project that a setting names: a package or a folder; None: the one in the folder, else the one that ships. It is
    read once in a process. Raises `ProjectError`."""
    where = place(setting, folder)
    if str(where) not in _known:
        _known[str(where)] = read(where)
    return _known[str(where)]


def read(where: Path | str) -> Project:
    """The project in a folder, or of a package, anew. Raises `ProjectError` with all that is wrong."""
    package, slips = _imported(where) if isinstance(where, Path) else _by_name(where)
    found = _Declared(package, slips)
    for module in found.modules():
        found.collect(module)
    return found.project()


def place(setting: str | None = None, folder: Path | None = None) -> Path | str:
    """The folder of the project that a setting names, or the name of its package; nothing of it is read. Raises
    `ProjectError` for a folder that is none."""
    here = folder or Path.cwd()
    if setting is None:
        return here / FOLDER if (here / FOLDER / "__init__.py").exists() else SHIPPED
    path = (here / setting).resolve()
    if not path.is_dir() and "/" not in setting and not setting.startswith("."):
        return setting
    if not (path / "__init__.py").is_file():
        raise ProjectError(
            [
                Slip(
                    "",
                    f"ETL_PROJECT={setting}: {path} is no project: it needs an __init__.py (etl init makes one)",
                )
            ]
        )
    return path


def _by_name(name: str) -> tuple[ModuleType, list[Slip]]:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ProjectError(
            [Slip("", f"ETL_PROJECT={name}: there is no package {name}, and no folder of that name here")]
        )
    slips: list[Slip] = []
    package = _import(name, Path(spec.submodule_search_locations[0]), slips)
    return package or ModuleType(name), slips


def _imported(folder: Path) -> tuple[ModuleType, list[Slip]]:
    """A folder as a package of its name, whatever else is called so."""
    name = "".join(c if c.isalnum() else "_" for c in folder.name)
    name = name if name.isidentifier() else f"project_{name}"
    for known in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
        del sys.modules[known]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ProjectError([Slip(str(folder), "it can't be imported")])
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    importlib.invalidate_caches()
    slips: list[Slip] = []
    try:
        spec.loader.exec_module(package)
    except Exception as error:  # noqa: BLE001  whatever a user's module raises is told with its place
        slips.append(_slip(error, folder))
    return package, slips


def _import(name: str, root: Path, slips: list[Slip]) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  whatever a user's module raises is told with its place
        slips.append(_slip(error, root))
        return None


def _slip(error: Exception, root: Path) -> Slip:
    """An error of a user's module: the innermost line that is theirs, and what was said."""
    if isinstance(error, SyntaxError) and error.filename:
        return Slip(f"{_shown(error.filename)}:{error.lineno}", f"{error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    where = f"{_shown(theirs[-1].filename)}:{theirs[-1].lineno}" if theirs else str(root)
    said = " ".join(str(error).split())
    if isinstance(error, TypeError) and "record" in said and "missing" in said:
        said = 'a fact needs the name of its surrogate key: write record="…_record_id"'
    elif not isinstance(error, ValueError | EtlError):
        said = f"{type(error).__name__}: {said}"
    return Slip(where, said)


def _shown(path: str) -> str:
    """A path as it is told: from where the command was started, if it is below."""
    absolute = Path(path).resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _at(where: str) -> str:
    path, _, line = where.rpartition(":")
    return f"{_shown(path)}:{line}"


_Named = TypeVar("_Named", Table, Api, StarFunction, Calendar, Report, Steps)


# -- what it declares ------------------------------------------------------------------------------------------------


class _Declared:
    """What the modules of a package declare, and what is wrong with it."""

    def __init__(self, package: ModuleType, slips: list[Slip]) -> None:
        self.package = package
        self.slips = slips
        self.root = Path(package.__path__[0]) if hasattr(package, "__path__") else Path.cwd()
        self.tables: dict[str, Table] = {}
        self.apis: dict[str, Api] = {}
        self.star: dict[str, StarFunction] = {}
        self.calendars: dict[str, Calendar] = {}
        self.reports: dict[str, Report] = {}
        self.steps: dict[str, Steps] = {}
        self.loose: dict[int, Step] = {}
        self.options = Options()
        self.contracts: dict[int, tuple[StarTable, ModuleType]] = {}

    def modules(self) -> Iterator[ModuleType]:
        """The package and its modules, those of its own packages too."""
        yield self.package
        if not hasattr(self.package, "__path__"):
            return
        prefix = f"{self.package.__name__}."
        for found in pkgutil.walk_packages(self.package.__path__, prefix, onerror=lambda _: None):
            if not _APART & set(found.name.removeprefix(prefix).split(".")):
                module = _import(found.name, self.root, self.slips)
                if module:
                    yield module

    def collect(self, module: ModuleType) -> None:
        """Take what a module declares, and find names that it gives twice."""
        for value in list(vars(module).values()):
            several = isinstance(value, list | tuple | set | frozenset)
            for one in value if several else value.values() if isinstance(value, dict) else (value,):
                self._take(one, module)
        self._find_doubles(module)

    def _take(self, value: Any, module: ModuleType) -> None:
        if isinstance(value, Options):
            self.options = value
        if isinstance(value, StarTable):
            self.contracts[id(value)] = (value, module)
        if isinstance(value, Table):
            self._note(self.tables, value)
        elif isinstance(value, Api):
            self._note(self.apis, value)
        elif isinstance(value, StarFunction):
            self._note(self.star, value)
        elif isinstance(value, Calendar):
            self._note(self.calendars, value)
        elif isinstance(value, Report):
            self._note(self.reports, value)
        elif isinstance(value, Steps):
            self._note(self.steps, value)
        elif isinstance(value, Step):
            self.loose[id(value)] = value

    def _note(self, known: dict[str, _Named], value: _Named) -> None:
        other = known.get(value.name)
        if other is not None and other is not value:
            self.slips.append(
                Slip(
                    _at(value.where),
                    f"{value.name} is declared here and at {_at(other.where)}: take one away",
                )
            )
        known[value.name] = value

    def _find_doubles(self, module: ModuleType) -> None:
        """Two functions of one name in a module: Python keeps the second, and says nothing."""
        if not module.__file__ or not Path(module.__file__).is_file():
            return
        seen: dict[str, int] = {}
        for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name in seen and node.decorator_list:
                self.slips.append(
                    Slip(
                        f"{_shown(module.__file__)}:{node.lineno}",
                        f"{node.name} is defined here and in line {seen[node.name]}: give one another name",
                    )
                )
            if isinstance(node, ast.FunctionDef):
                seen[node.name] = node.lineno

    def project(self) -> Project:
        """The whole. Raises `ProjectError`."""
        self._find_unmade()
        for name in self.apis.keys() & self.tables.keys():
            self.slips.append(
                Slip(
                    _at(self.apis[name].where),
                    f"{name} is an API here and a table at {_at(self.tables[name].where)}: give one another name",
                )
            )
        for one in self.calendars.values():
            try:
                self.star[one.name] = one.spanning(self.star)
            except ContractError as error:
                self.slips.append(Slip(_at(one.where), str(error)))
        self._find_wrong_steps()
        if self.slips:
            raise ProjectError(self.slips)
        if not self.tables and not self.apis:
            raise ProjectError(
                [
                    Slip(
                        _shown(str(self.root)),
                        "it declares no table: write one with Table(…), or an API with Api(…)",
                    )
                ]
            )
        references = {path.stem: path for path in sorted(self.root.rglob("*.csv"))}
        inputs = self._inputs(references)
        traced: dict[str, tuple[Query, Query | None]] = {}
        schemas = {name: one.schema for name, one in self.star.items()}
        for made in self.reports.values():
            try:
                traced[made.name] = queries(made, schemas)
            except ReportError as error:
                self.slips.append(Slip(_at(made.where), str(error)))
        if self.slips:
            raise ProjectError(self.slips)
        return Project(
            self.package.__name__.rpartition(".")[2],
            self.root,
            self.tables,
            self.apis,
            self.star,
            references,
            self.reports,
            self.steps,
            self.options,
            inputs,
            traced,
        )

    def _find_unmade(self) -> None:
        """Contracts that no function makes."""
        made = {id(definition.schema) for definition in self.star.values()}
        for identity, (schema, module) in self.contracts.items():
            if identity not in made:
                kind = type(schema).__name__.lower()
                self.slips.append(
                    Slip(
                        _shown(module.__file__ or ""),
                        f"{schema.name} is declared, and no function makes it: write @{kind}(…) above its function",
                    )
                )

    def _find_wrong_steps(self) -> None:
        """What is wrong with groups of steps, and steps that no group runs."""
        run = {id(one) for group in self.steps.values() for one in group.steps}
        for group in self.steps.values():
            self.slips += [Slip(_at(where), what) for where, what in group.mistakes()]
        for identity, one in self.loose.items():
            if identity not in run:
                told = f"{one.name} is declared, and no group runs it: name it in Steps(…)"
                self.slips.append(Slip(_at(one.where), told))

    def _inputs(self, references: Mapping[str, Path]) -> Inputs:
        try:
            tables = {**self.tables, **{name: api.table for name, api in self.apis.items()}}
            return Inputs(tables, self.star, references)
        except ContractError as error:
            calendars = {one.name: one.where for one in self.calendars.values()}
            slips = [
                Slip(_at(calendars.get(name) or self.star[name].where), what)
                for name, what in error.mistakes or [("", str(error))]
                if name in self.star
            ]
            raise ProjectError(slips or [Slip(_shown(str(self.root)), str(error))]) from None
