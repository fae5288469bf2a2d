"""What a catalog has and a project has not, as an edit of its modules. Nothing is ever taken away, and nothing that somebody
wrote is changed: that is shown, and told."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from etl_assets.init.catalog import Catalog, CatalogTable
from etl_assets.init.declaring import Declaration, Declared, declared_type, shown, unique
from etl_assets.init.design import described, design
from etl_assets.init.editing import Edits, renamed_table, write_module
from etl_assets.init.layout import docstring, literal, literals
from etl_assets.init.proposal import CALENDAR, Design, ProposedTable
from etl_assets.init.writing import fact_report, one_row, star_function
from etl_assets.project import Project
from etl_assets.source.fitting import holds
from etl_assets.source.table import Table
from etl_assets.star.function import StarFunction
from etl_assets.star.lineage import column_lineage
from etl_assets.star.schema import Dimension, Fact

_COLUMN = "from etl_assets.project import Column"
_FUNCTIONS = {
    "fact": ("facts.py", "The facts: one function per table."),
    "dimension": ("dimensions.py", "The dimensions: one function per table."),
}


@dataclass
class Update:
    """`files`: path -> (what it holds, what it would hold); `shown` likewise, with what somebody has to change. `by_hand`: what
    that is, and where, in a line each. `gone`: what the source no longer has, and where it is declared."""

    files: dict[Path, tuple[str, str]] = field(default_factory=dict)
    shown: dict[Path, tuple[str, str]] = field(default_factory=dict)
    by_hand: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def diff(self, here: Path) -> str:
        """The edit as a unified diff."""
        parts: list[str] = []
        for path, (old, new) in self.shown.items():
            name = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
            parts += difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="")
        return "\n".join(parts)

    def write(self) -> None:
        """Write what would be written."""
        for path, (_, new) in self.files.items():
            write_module(path, new)


def compare(catalog: Catalog, declaration: Declaration, project: Project, main: Path) -> Update:
    """What `catalog` has and a project has not. New tables are added to the module `main`."""
    update, edits = Update(), Edits()
    known = {(table.schema, table.source_name): table for table in project.tables.values()}
    found = {(one.schema, one.name): one for one in catalog.tables}
    declared = {(one.table.schema, one.table.name): one for one in declaration.tables}
    for place, table in known.items():
        if place not in found:
            update.gone.append(f"table {table.name} ({_where(table.where)})")
            continue
        has = {column.name for column in found[place].columns}
        update.gone += [
            f"column {name} of {table.name} ({_where(table.where)})"
            for name in table.columns
            if name not in has
        ]
        new = {
            name: type_
            for name, type_ in (declared[place].types.items() if place in declared else ())
            if name not in table.columns and name not in table.exclude
        }
        if new:
            edits.add_columns(table, new)
        if place in declared:
            update.by_hand += _changed(table, declared[place], edits)
    missing = [one for place, one in declared.items() if place not in known]
    if missing:
        edits.add_tables(main, missing, project.tables)
    ours = [
        _as_declared(one, known[place]) if place in known else _renamed(one, project.tables)
        for place, one in declared.items()
    ]
    star = design(
        [one for one in ours if set(one.key) <= one.types.keys()],
        catalog.foreign_keys,
        dict(_settled(ours, project)),
    )
    stars = _Stars(project, star)
    stars.add({one.table.oid for one in missing}, edits)
    update.by_hand += stars.changed({place: one for place, one in found.items() if place in known})
    update.files, update.shown = edits.files(), edits.files(by_hand=True)
    return update


def _where(where: str) -> str:
    path, _, line = where.rpartition(":")
    return f"{Path(path).name}:{line}"


def _settled(tables: Sequence[Declared], project: Project) -> Iterator[tuple[int, bool]]:
    """The tables that a project made facts or dimensions of: whether facts."""
    for one in tables:
        kinds = [isinstance(d.schema, Fact) for d in project.star.values() if d.inputs[:1] == [one.name]]
        if kinds:
            yield one.table.oid, any(kinds)


def _as_declared(declared: Declared, table: Table) -> Declared:
    """A table of a catalog as a project declares it."""
    has = {column.name for column in declared.table.columns}
    types = {n: t.name + ("?" if t.nullable else "") for n, t in table.types.items() if n in has}
    return replace(declared, name=table.name, key=table.key or declared.key, types=types)


def _renamed(declared: Declared, tables: Mapping[str, Table]) -> Declared:
    return renamed_table(declared, tables) if declared.name in tables else declared


def _changed(table: Table, declared: Declared, edits: Edits) -> Iterator[str]:
    """What the catalog says otherwise of a table that a project declares."""
    where = f"{_where(table.where)}: {table.name}"
    for column in declared.table.columns:
        said = table.columns.get(column.name)
        if said is None:
            continue
        has = declared.types[column.name].removesuffix("?")
        # What a foreign key leads to may be of a larger type.
        is_referring = has != declared_type(column).removesuffix("?")
        fits = holds(said, column.type) and (not is_referring or holds(said, has))
        lacks_null = not column.required and column.name not in declared.key and not said.endswith("?")
        if fits and not lacks_null:
            continue
        mark = "?" if said.endswith("?") or lacks_null else ""
        bare = said.removesuffix("?") if fits else has
        edits.change_type(table, column.name, bare + mark)
        yield (
            f"{where}.{column.name} is {column.type}{'' if column.required else ' with NULL'}: write {literal(bare + mark)} for "
            f"{literal(said)}, and so where the star has it"
        )
    keys = declared.table.keys
    if table.key and all(set(key) != set(table.key) for key in keys):
        yield f"{where}: the source keeps ({', '.join(table.key)}) unique no longer: write key={literals(declared.key)}"
    elif not table.key and not declared.table.primary:
        yield f"{where}: it has no primary key any more: write key={literals(declared.key)}"
    comment = described(declared.table.comment)
    if comment and table.description == one_row(declared):
        yield f"{where}: the source says what it is: write {literal(comment)}"


class _Stars:
    """The star of a project, beside the one that a catalog's tables would have now."""

    def __init__(self, project: Project, star: Design) -> None:
        self.project = project
        self.star = star
        self.made = [*star.dimensions, *star.facts]
        self.names: dict[str, str] = {CALENDAR: CALENDAR} if CALENDAR in project.star else {}
        for one in star.dimensions:
            for definition in self._made_of(one):
                if isinstance(definition.schema, Dimension) and self._carries(definition, one.table.key):
                    self.names[one.name] = definition.name

    def _made_of(self, designed: ProposedTable) -> list[StarFunction]:
        """The star tables of a project about the rows of the same table."""
        return [d for d in self.project.star.values() if d.inputs[:1] == [designed.table.name]]

    def _origins(self, definition: StarFunction, columns: Sequence[str]) -> set[str]:
        """The columns of its first table that columns of a star table come from."""
        origins = column_lineage(definition, self.project.inputs)
        return {
            column
            for name in columns
            for table, column in (origins[name].columns if name in origins else ())
            if table == definition.inputs[0]
        }

    def _carries(self, definition: StarFunction, key: Sequence[str]) -> bool:
        return self._origins(definition, definition.schema.key_columns) == set(key)

    # -- new tables --------------------------------------------------------------------------------------------------

    def add(self, new: set[int], edits: Edits) -> None:
        """The functions of new tables, each in the module for its kind, and the reports of new facts."""
        added = [one for one in self.made if one.table.table.oid in new]
        for one in added:
            name = unique(one.name, self.project.star)
            if not one.is_fact:
                self.names[one.name] = name
            one.name = name
        for one in added:
            self._refer(one)
        for kind, (module, title) in _FUNCTIONS.items():
            these = [star_function(one) for one in added if one.is_fact == (kind == "fact")]
            if these:
                imports = {
                    "nw": "import narwhals as nw",
                    "Column": _COLUMN,
                    kind: f"from etl_assets.project import {kind}",
                }
                head = f"{docstring(title)}\n\nimport narwhals as nw\nfrom etl_assets.project import Column, {kind}"
                edits.add_functions(self.project.root / module, head, imports, these)
        self._report([one for one in added if one.is_fact], edits)

    def _refer(self, made: ProposedTable) -> None:
        """Let a new table refer to what the project calls the dimensions, and to none that it has not."""
        made.columns = [
            replace(c, references=self.names.get(c.references)) if c.references else c for c in made.columns
        ]
        made.references = {
            columns: self.names[name] for columns, name in made.references.items() if name in self.names
        }
        made.days = made.days if CALENDAR in self.names else []

    def _report(self, facts: Sequence[ProposedTable], edits: Edits) -> None:
        names = list(self.project.reports)
        titles = [one.title for one in self.project.reports.values()]
        sizes = {one.name: one.table.table.rows for one in self.star.dimensions}
        these = [fact_report(one, sizes, names, titles) for one in facts]
        if these:
            imports = {
                "pd": "import pandas as pd",
                "ReportColumn": "from etl_assets.project import ReportColumn",
                "report": "from etl_assets.project import report",
            }
            head = f"{docstring('The reports.')}\n\nimport pandas as pd\nfrom etl_assets.project import ReportColumn, report"
            edits.add_functions(self.project.root / "reports.py", head, imports, these)

    # -- tables that are declared ------------------------------------------------------------------------------------

    def changed(self, found: Mapping[tuple[str, str], CatalogTable]) -> Iterator[str]:
        """What the catalog says otherwise of the tables that a star is made of, and a person has to write."""
        known = {
            table.name: found.get((table.schema, table.source_name)) for table in self.project.tables.values()
        }
        for definition in self.project.star.values():
            table = known.get(definition.inputs[0]) if definition.inputs else None
            if table is not None:
                yield from self._commented(definition, table)
        for made in self.made:
            for definition in self._made_of(made):
                if isinstance(definition.schema, Dimension) == made.is_fact or not column_lineage(
                    definition, self.project.inputs
                ):
                    continue
                where = f"{_where(definition.where)}: {definition.name}"
                if definition.schema.rows == "one per row" and not self._carries(definition, made.table.key):
                    key = ", ".join(made.table.key)
                    yield f"{where}: the key of {shown(made.table.table)} is ({key}) now: write its key so"
                yield from (f"{where}: {told}" for told in self._referring(definition, made))

    def _referring(self, definition: StarFunction, made: ProposedTable) -> Iterator[str]:
        """The foreign keys that a star table makes nothing of."""
        has = {frozenset(self._origins(definition, columns)) for columns in definition.schema.links}
        sources = {c.name: c.source for c in made.columns}
        for columns, dimension in made.links.items() if made.is_fact else ():
            own = [sources.get(name, "") for name in columns]
            if set(own) <= made.table.types.keys() and dimension in self.names and frozenset(own) not in has:
                yield f"{', '.join(own)} refers to {self.names[dimension]} by a foreign key: write references="
        for join in made.joins:
            if join.table.name not in definition.inputs:
                yield f"a foreign key leads to {shown(join.table.table)}: join it (parameter {join.table.name})"

    def _commented(self, definition: StarFunction, table: CatalogTable) -> Iterator[str]:
        """The comments on columns that a star table says nothing of."""
        comments = {c.name: described(c.comment) for c in table.columns if c.comment.strip()}
        origins = column_lineage(definition, self.project.inputs) if comments else {}
        for column in definition.schema.declared:
            origin = origins.get(column.name)
            if column.description or origin is None or not origin.unchanged:
                continue
            (source,) = origin.columns
            if source[0] == definition.inputs[0] and (told := comments.get(source[1])):
                where = _where(definition.where)
                yield f"{where}: {definition.name}.{column.name}: the source says what it is: write {literal(told)}"
