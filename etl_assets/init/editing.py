"""Edits of the modules of a project, each as a person would make it."""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from etl_assets.init.declaring import Declared, slug, unique
from etl_assets.init.layout import comment, literal, prose
from etl_assets.init.writing import constant_names, declared_table
from etl_assets.source.table import Table


class Edits:
    """Lines that are put into modules: behind which line, and what; and lines that somebody has to change."""

    def __init__(self) -> None:
        self._texts: dict[Path, str] = {}
        self._inserted: dict[Path, list[tuple[int, str]]] = {}
        self._appended: dict[Path, list[str]] = {}
        self._changed: dict[Path, dict[tuple[int, int, int], str]] = {}

    def files(self, *, by_hand: bool = False) -> dict[Path, tuple[str, str]]:
        """Each module as it is, and as it would be; `by_hand`: with what somebody has to change, too."""
        made = {}
        for path, old in self._texts.items():
            lines = old.split("\n")  # as Python counts them
            for (line, start, end), text in self._changed.get(path, {}).items() if by_hand else ():
                changed = lines[line - 1].encode()
                lines[line - 1] = (changed[:start] + text.encode() + changed[end:]).decode()
            for line, text in sorted(self._inserted.get(path, ()), reverse=True):
                lines.insert(line, text)
            kept = "\n".join(lines).rstrip("\n")
            new = "\n\n".join(filter(None, [kept, *self._appended.get(path, ())])).lstrip("\n") + "\n"
            if new != old:
                made[path] = old, new
        return made

    def _text(self, path: Path) -> str:
        if path not in self._texts:
            self._texts[path] = _module_text(path) if path.exists() else ""
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
            declared_table(renamed_table(one, tables) if one in renamed else one, constants[one.name])
            for one in missing
        )

    def change_type(self, table: Table, column: str, wanted: str) -> None:
        """In the line that declares a column; nothing where it is declared otherwise than by a text."""
        name, _, line = table.where.rpartition(":")
        path = Path(name)
        for key, value in _entries(self._text(path), int(line)):
            if isinstance(key, ast.Constant) and key.value == column and isinstance(value, ast.Constant):
                place = value.lineno, value.col_offset, value.end_col_offset or value.col_offset
                self._changed.setdefault(path, {})[place] = literal(wanted)

    def add_functions(
        self, path: Path, head: str, imports: Mapping[str, str], functions: Sequence[str]
    ) -> None:
        """At the end of a module, which is begun with `head` if it is not there. `imports`: name -> the line that imports it."""
        text = self._text(path)
        if not text:
            self._appended[path] = [head, *(f"\n{one}" for one in functions)]
            return
        body = ast.parse(text).body
        lines = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        has = {alias.asname or alias.name for node in lines for alias in node.names}
        at = max((node.end_lineno or 0 for node in lines), default=(body[0].end_lineno or 0) if body else 0)
        lacking = dict.fromkeys(line for name, line in imports.items() if name not in has)
        self._inserted.setdefault(path, []).extend((at, line) for line in lacking)
        self._appended.setdefault(path, []).extend(f"\n{one}" for one in functions)


def _module_text(path: Path) -> str:
    """A module as Python reads it: whatever ends its lines is a line feed."""
    with tokenize.open(path) as file:
        return file.read()


def write_module(path: Path, text: str) -> None:
    """Write a module in the encoding that it has, its lines ended as its first one is."""
    raw = path.read_bytes() if path.exists() else b""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    ends = "\r\n" if raw.partition(b"\n")[0].endswith(b"\r") else "\n"
    path.write_text(text, encoding=encoding, newline=ends)


def renamed_table(declared: Declared, tables: Mapping[str, Table]) -> Declared:
    """A table whose name another table of the project has."""
    wanted = slug(f"{declared.table.schema}_{declared.name}", "table")
    return replace(declared, name=unique(wanted, tables))


def _entries(text: str, line: int) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """The columns of the Table(…) that begins in a line, and their types."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.lineno == line:
            values = [*node.args[2:3], *(k.value for k in node.keywords if k.arg == "columns")]
            if values and isinstance(columns := values[0], ast.Dict):
                yield from zip(columns.keys, columns.values, strict=True)


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
