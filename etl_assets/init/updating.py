"""What a catalog has and a project has not, as an edit of the modules that declare tables. Nothing is ever taken away."""

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from etl_assets.init.catalog import Catalog
from etl_assets.init.declaring import Declaration, Declared, shown, slug, unique
from etl_assets.init.layout import comment, literal, prose
from etl_assets.init.writing import constant_names, declared_table
from etl_assets.source.table import Table


@dataclass
class Update:
    """`files`: path -> (what it holds, what it would hold). `tables`, `columns`: how many are new. `gone`: what the source
    no longer has, and where it is declared."""

    files: dict[Path, tuple[str, str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def diff(self, here: Path) -> str:
        """The edit as a unified diff."""
        parts: list[str] = []
        for path, (old, new) in self.files.items():
            name = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
            parts += difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="")
        return "\n".join(parts)

    def write(self) -> None:
        """Write what would be written."""
        for path, (_, new) in self.files.items():
            path.write_text(new, encoding="utf-8")


def compare(catalog: Catalog, declaration: Declaration, tables: Mapping[str, Table], main: Path) -> Update:
    """What `catalog` has and `tables`, the project's, have not. New tables are added to the module `main`."""
    update = Update()
    known = {(table.schema, table.source_name): table for table in tables.values()}
    found = {(one.schema, one.name): one for one in catalog.tables}
    declared = {(one.table.schema, one.table.name): one for one in declaration.tables}
    edits = _Edits()
    for place, table in known.items():
        if place not in found:
            update.gone.append(f"table {table.name} ({_where(table)})")
            continue
        has = {column.name for column in found[place].columns}
        update.gone += [
            f"column {name} of {table.name} ({_where(table)})" for name in table.columns if name not in has
        ]
        new = {
            name: type_
            for name, type_ in (declared[place].types.items() if place in declared else ())
            if name not in table.columns and name not in table.exclude
        }
        if new:
            edits.add_columns(table, new)
            update.columns += [f"{table.name}.{name}" for name in new]
    missing = [one for place, one in declared.items() if place not in known]
    if missing:
        edits.add_tables(main, missing, tables)
        update.tables += [shown(one.table) for one in missing]
    update.files = edits.files()
    return update


def _where(table: Table) -> str:
    path, _, line = table.where.rpartition(":")
    return f"{Path(path).name}:{line}"


class _Edits:
    """Lines that are put into modules: behind which line, and what."""

    def __init__(self) -> None:
        self._texts: dict[Path, str] = {}
        self._inserted: dict[Path, list[tuple[int, str]]] = {}
        self._appended: dict[Path, list[str]] = {}

    def files(self) -> dict[Path, tuple[str, str]]:
        """Each module as it is, and as it would be."""
        made = {}
        for path, old in self._texts.items():
            lines = old.split("\n")  # as Python counts them
            for line, text in sorted(self._inserted.get(path, ()), reverse=True):
                lines.insert(line, text)
            kept = "\n".join(lines).rstrip("\n")
            made[path] = old, "\n\n".join([kept, *self._appended.get(path, ())]) + "\n"
        return made

    def _text(self, path: Path) -> str:
        if path not in self._texts:
            self._texts[path] = path.read_text(encoding="utf-8")
        return self._texts[path]

    def add_columns(self, table: Table, columns: Mapping[str, str]) -> None:
        """Behind the last column, where each has a line of its own; else as a comment at the end of the module."""
        name, _, line = table.where.rpartition(":")
        path = Path(name)
        entries = [f"{literal(column)}: {literal(type_)}" for column, type_ in columns.items()]
        last = _last_entry(self._text(path), int(line))
        if last is None:
            told = f"New columns of {table.name}, to be declared if the star uses them: "
            self._appended.setdefault(path, []).append(comment(prose(told + ", ".join(entries))))
            return
        at = self._text(path).split("\n")[last - 1]
        margin = at[: len(at) - len(at.lstrip())]
        inserted = "\n".join(f"{margin}{entry}," for entry in entries)
        self._inserted.setdefault(path, []).append((last, inserted))

    def add_tables(self, path: Path, missing: Sequence[Declared], tables: Mapping[str, Table]) -> None:
        """At the end of a module, under names that it does not have yet."""
        taken = {node.id for node in ast.walk(ast.parse(self._text(path))) if isinstance(node, ast.Name)}
        renamed = [one for one in missing if one.name in tables]
        constants = constant_names([one.name for one in missing], sorted(taken))
        self._appended.setdefault(path, []).extend(
            declared_table(_renamed(one, tables) if one in renamed else one, constants[one.name])
            for one in missing
        )


def _renamed(declared: Declared, tables: Mapping[str, Table]) -> Declared:
    """A table whose name another table of the project has."""
    wanted = slug(f"{declared.table.schema}_{declared.name}", "table")
    return replace(declared, name=unique(wanted, tables))


def _last_entry(text: str, line: int) -> int | None:
    """The line of the last column of the Table(…) that begins in a line, if each column has a line of its own."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or node.lineno != line:
            continue
        values = [*node.args[2:3], *(k.value for k in node.keywords if k.arg == "columns")]
        if not values or not isinstance(columns := values[0], ast.Dict) or not columns.values:
            return None
        ends = [value.end_lineno or 0 for value in columns.values]
        alone = len(set(ends)) == len(ends) and columns.lineno < ends[0]
        behind = text.split("\n")[ends[-1] - 1].rstrip()
        return ends[-1] if alone and behind.endswith(",") and (columns.end_lineno or 0) > ends[-1] else None
    return None
