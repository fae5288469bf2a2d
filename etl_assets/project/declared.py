"""What the modules of a project declare, collected, and what is wrong with it."""

import ast
import pkgutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from etl_assets.apis.declaration import Api
from etl_assets.engine.mistakes import Noted, noting
from etl_assets.exports.contract import Report, ReportError, report
from etl_assets.exports.lineage import ReportQuery, queries
from etl_assets.project import names
from etl_assets.project.contract import Options, Project, ProjectError, Slip, at, shown
from etl_assets.project.finding import SHIPPED, imported, package, root_of
from etl_assets.project.names import Named
from etl_assets.source.table import Table
from etl_assets.star.calendar import Calendar, calendar
from etl_assets.star.definition import Inputs
from etl_assets.star.function import ContractError, StarFunction, dimension, fact, star_table
from etl_assets.star.schema import StarTable
from etl_assets.steps.contract import Step
from etl_assets.steps.functions import step
from etl_assets.steps.group import Steps

_APART = {"demo", "tests"}  # folders of a package that are no part of its project
_DECLARING = (
    Table,
    Api,
    Steps,
    StarTable,
    Calendar,
    Options,
    calendar,
    dimension,
    fact,
    star_table,
    report,
    step,
)
_Named = TypeVar("_Named", Table, Api, StarFunction, Calendar, Report, Steps)


def read(where: Path | str) -> Project:
    """The project in a folder, or of a package, anew. Raises `ProjectError` with all that is wrong."""
    slips: list[Slip] = []
    with noting(root_of(where)) as noted:
        found = _Declared(package(where, slips), slips, noted)
        for module in found.modules():
            found.collect(module)
    return found.project(is_shipped=where == SHIPPED)


class _Declared:
    """What the modules of a package declare, and what is wrong with it."""

    def __init__(self, package: ModuleType, slips: list[Slip], noted: Noted) -> None:
        self.package = package
        self.slips = slips
        self.noted = noted
        self.root = noted.root
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
                module = imported(found.name, self.root, self.slips)
                if module:
                    yield module

    def collect(self, module: ModuleType) -> None:
        """Take what a module declares, and find names that it gives twice."""
        for value in list(vars(module).values()):
            several = isinstance(value, list | tuple | set | frozenset)
            for one in value if several else value.values() if isinstance(value, dict) else (value,):
                self._take(one, module)
        if module.__file__ and Path(module.__file__).is_file():
            statements = ast.parse(Path(module.__file__).read_bytes()).body  # in its own encoding
            self._find_doubles(module, statements)
            self._find_unkept(module, statements)

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
                    at(value.where),
                    f"{value.name} is declared here and at {at(other.where)}: take one away",
                )
            )
        known[value.name] = value

    def _find_unkept(self, module: ModuleType, statements: Sequence[ast.stmt]) -> None:
        """What a module declares without a name: nobody can find it."""
        for node in statements:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                declared = _named(node.value.func, module)
                if declared in _DECLARING:
                    called = ast.unparse(node.value.func)
                    told = f"{called}(…) is declared and not kept: give it a name, {_kept_as(node.value)} = {called}(…)"
                    self.slips.append(Slip(f"{shown(str(module.__file__))}:{node.lineno}", told))

    def _find_doubles(self, module: ModuleType, statements: Sequence[ast.stmt]) -> None:
        """What a module declares by a name that it binds again: Python keeps the second, and says nothing."""
        seen: dict[str, tuple[int, bool]] = {}
        for node in statements:
            used = {
                inner.id
                for inner in ast.walk(node)
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)
            }
            for name in _bound(node):
                declares = any(_named(call, module) in _DECLARING for call in _called(node))
                line, declared = seen.get(name, (0, False))
                if line and (declares or declared) and name not in used:
                    told = f"{name} is defined here and in line {line}: give one another name"
                    self.slips.append(Slip(f"{shown(str(module.__file__))}:{node.lineno}", told))
                seen[name] = (node.lineno, declares)

    def project(self, *, is_shipped: bool) -> Project:
        """The whole. Raises `ProjectError`."""
        # Where a module could not be carried out, what others miss of it is not their fault.
        is_whole = not self.slips
        self.slips += [Slip(at(where), what) for where, what in self.noted.found]
        self._find_unmade()
        for one in self.calendars.values():
            try:
                self.star[one.name] = one.spanning(self.star)
            except ContractError as error:
                self.slips.append(Slip(at(one.where), str(error)))
        self._find_wrong_steps()
        references = self._references()
        self._find_wrong_names(references)
        if not self.slips and not self.tables and not self.apis:
            self.slips.append(
                Slip(
                    shown(str(self.root)),
                    "it declares no table: write one with Table(…), or an API with Api(…)",
                )
            )
        inputs = self._inputs(references) if is_whole else None
        traced = self._traced() if is_whole else {}
        if self.slips or inputs is None:
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
            is_shipped,
        )

    def _references(self) -> dict[str, Path]:
        """The CSV files beside the modules, by their names without .csv."""
        found: dict[str, Path] = {}
        for path in sorted(file for folder in _packages(self.root) for file in folder.glob("*.csv")):
            other = found.setdefault(path.stem, path)
            if other is not path:
                told = f"{path.stem} is also {shown(str(other))}: give one of the files another name"
                self.slips.append(Slip(shown(str(path)), told))
        return found

    def _find_wrong_names(self, references: Mapping[str, Path]) -> None:
        """Names that a stage can't use, or that two have."""
        files = [Named(n, "a reference file", f"{p}:1", "rename the file") for n, p in references.items()]
        outside = [
            *(Named(one.name, "an API", one.where) for one in self.apis.values()),
            *(
                Named(one.name, "a table", one.where, 'give one another name, as by as_="…"')
                for one in self.tables.values()
            ),
            *files,
        ]
        star = [Named(one.name, "a star table", self._where(one.name)) for one in self.star.values()]
        clashes = list(names.one_name([*star, *outside]))
        self.slips += [
            *clashes,
            *names.of_inputs(outside),
            *names.of_star((one, self._where(one.name)) for one in self.star.values()),
            *names.of_reports(self.reports.values(), self.options.workbook),
        ]

    def _where(self, star_table: str) -> str:
        """Where a star table is declared; a calendar's function is nobody's."""
        known = self.calendars.get(star_table)
        return known.where if known else self.star[star_table].where

    def _wrong(self) -> set[str]:
        """Tables and star tables with whose declaration something is wrong: what is made of them can't be tried."""
        wrong = {t.name for t in self.tables.values() if self.noted.has(t)}
        wrong |= {n for n, d in self.star.items() if self.noted.has(d.schema, *d.schema.declared)}
        every = [*self.tables, *self.apis, *self.star]
        times = Counter(map(names.without_case, every))
        return wrong | {name for name in every if times[names.without_case(name)] > 1}

    def _traced(self) -> dict[str, tuple[ReportQuery, ReportQuery | None]]:
        """The queries of the reports. One of a report, or over a star table, with which something is wrong can't be traced."""
        traced: dict[str, tuple[ReportQuery, ReportQuery | None]] = {}
        schemas, wrong = {name: one.schema for name, one in self.star.items()}, self._wrong()
        for made in self.reports.values():
            if self.noted.has(made, *made.columns) or any(
                name in f"{made.query}{made.control}" for name in wrong
            ):
                continue
            try:
                traced[made.name] = queries(made, schemas)
            except ReportError as error:
                self.slips.append(Slip(at(made.where), str(error)))
        return traced

    def _find_unmade(self) -> None:
        """Contracts that no function makes."""
        made = {id(definition.schema) for definition in self.star.values()}
        for identity, (schema, module) in self.contracts.items():
            if identity not in made:
                kind = type(schema).__name__.lower()
                self.slips.append(
                    Slip(
                        shown(module.__file__ or ""),
                        f"{schema.name} is declared, and no function makes it: write @{kind}(…) above its function",
                    )
                )

    def _find_wrong_steps(self) -> None:
        """What is wrong with groups of steps, and steps that no group runs."""
        run = {id(one) for group in self.steps.values() for one in group.steps}
        for group in self.steps.values():
            self.slips += [Slip(at(where), what) for where, what in group.mistakes()]
        for identity, one in self.loose.items():
            if identity not in run:
                told = f"{one.name} is declared, and no group runs it: name it in Steps(…)"
                self.slips.append(Slip(at(one.where), told))

    def _inputs(self, references: Mapping[str, Path]) -> Inputs | None:
        try:
            tables = {**self.tables, **{name: api.table for name, api in self.apis.items()}}
            return Inputs(tables, self.star, references, untried=frozenset(self._wrong()))
        except ContractError as error:
            self.slips += [Slip(at(self._where(name)), what) for name, what in error.mistakes]
            return None


def _packages(root: Path) -> Iterator[Path]:
    """The folders of a project's modules: those of its own packages too."""
    yield root
    for folder in sorted(root.iterdir()):
        if folder.name not in _APART and (folder / "__init__.py").is_file():
            yield from _packages(folder)


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement of a module binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _kept_as(call: ast.Call) -> str:
    """A name for what a call declares: what it calls it, if that can be one."""
    given = [*call.args[:1], *(one.value for one in call.keywords if one.arg == "name")]
    names = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return next((name for name in names if name.isidentifier()), "NAME")


def _called(node: ast.stmt) -> list[ast.expr]:
    """What a statement calls to get what it binds: decorators, or the function of its value."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return [value.func] if isinstance(value, ast.Call) else []


def _named(call: ast.expr, module: ModuleType) -> Any:
    """What a name, or an attribute of a module, stands for in a module."""
    if isinstance(call, ast.Attribute):
        return getattr(_named(call.value, module), call.attr, None)
    return vars(module).get(call.id) if isinstance(call, ast.Name) else None
