"""A statement of SQL with `:parameters`, which the database gets as bound values.

A parameter may stand in code only. What is code depends on the database (`dialects`): a statement is read as the database
reads it that gets it. When a project is loaded it is not known yet which that is; then what no database can read is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

from etl_assets.later import Later
from etl_assets.steps.dialects import OF_WAREHOUSES, LexicalRules

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.engine import default
else:  # a project that is loaded runs no statement yet
    sa = Later("sqlalchemy")
    default = Later("sqlalchemy.engine.default")

_BOUND = re.compile(r"(?<![:\w]):([A-Za-z_]\w*)")
_TEXT_ENDS = ("'", '"', "$")
_COMMENTS = ("--", "/*", "#")
_BRACED = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Statement:
    """One statement. Raises `ValueError` for one that is empty."""

    sql: str

    def __post_init__(self) -> None:
        if not self.sql.strip():
            raise ValueError("its SQL is empty")

    def read(self, dialect: LexicalRules) -> Reading:
        """The statement as a database reads it."""
        return Reading(self.sql, dialect)

    def mistakes(self, declared: Collection[str], dialects: Sequence[LexicalRules]) -> list[str]:
        """What is wrong with how it names parameters in whichever of these dialects it is read; nothing, if it is right in
        one."""
        found = [list(self.read(dialect).mistakes(declared)) for dialect in dialects]
        return found[0] if all(found) else []

    def star_tables(self) -> list[str]:
        """The tables of schema `star` that it reads, of facts also by way of their views."""
        names = [name for dialect in OF_WAREHOUSES for name in self.read(dialect).tables_of("star")]
        return list(dict.fromkeys(name.removesuffix("_current") for name in names))


@dataclass(frozen=True)
class Reading:
    """A statement as a database reads it."""

    sql: str
    dialect: LexicalRules

    @cached_property
    def _pieces(self) -> list[tuple[bool, str]]:
        """The statement in pieces: whether each is code, and what it is."""
        pieces, at = [], 0
        for start, end in self.dialect.others(self.sql):
            pieces += [(True, self.sql[at:start]), (False, self.sql[start:end])]
            at = end
        return [*pieces, (True, self.sql[at:])]

    @property
    def _code(self) -> str:
        return " ".join(piece for is_code, piece in self._pieces if is_code)

    @cached_property
    def parameters(self) -> list[str]:
        """The parameters that it names, in order of their first appearance."""
        return list(dict.fromkeys(_BOUND.findall(self._code)))

    def mistakes(self, declared: Collection[str]) -> Iterator[str]:
        """What is wrong with how it names parameters: those that are not declared, those that stand where nothing is bound,
        those that would be pasted."""
        if found := _BRACED.search(self._code):
            yield f"{found[0]} would be pasted into SQL: write :{found[0][1:-1]}, which is bound"
        for name in self.parameters:
            if name not in declared:
                yield f":{name} names no parameter; {_near(name, declared)}"
        for other in (piece for is_code, piece in self._pieces if not is_code):
            for name in _BOUND.findall(other):
                if name in declared:
                    yield (
                        f":{name} stands in a text, a quoted name or a comment, where nothing is bound: write … || :{name}, "
                        "or take it out"
                    )
            if self.parameters and self.dialect.runs(other):
                yield "a comment /*! … */ is code in some versions: take it out of a statement with parameters"
        yield from self._going_on()

    def _going_on(self) -> Iterator[str]:
        """Parameters directly behind a text: a driver writes a text there too, which goes on the first one, backslashes and
        all."""
        behind_text = False
        for is_code, piece in self._pieces:
            if not is_code:
                behind_text = piece.endswith(_TEXT_ENDS) or (behind_text and piece.startswith(_COMMENTS))
            elif behind_text and (found := _BOUND.match(piece.lstrip())):
                yield f"{found[0]} stands directly behind a text: write what joins them, as ||"
            behind_text = behind_text and (not is_code or not piece.strip())

    def clause(self, types: Mapping[str, sa.types.TypeEngine[Any]]) -> sa.TextClause:
        """As SQLAlchemy takes it, with the types that its parameters have there."""
        text = "".join(_bindable(piece) if is_code else _escaped(piece) for is_code, piece in self._pieces)
        bound = [sa.bindparam(name, type_=types.get(name)) for name in self.parameters]
        return sa.text(text).bindparams(*bound)

    def numbered(self) -> tuple[str, list[str]]:
        """As DuckDB takes it, with $1, $2, …, and the parameters that these stand for."""
        compiled = self.clause({}).compile(dialect=default.DefaultDialect(paramstyle="numeric_dollar"))
        return str(compiled), list(compiled.positiontup or ())

    def tables_of(self, schema: str) -> list[str]:
        """The tables of a schema that it names."""
        names = "".join(piece if is_code or piece[0] == '"' else " " for is_code, piece in self._pieces)
        return re.findall(rf"(?<![\w.]){schema}\.(\w+)", names.replace('"', ""), re.IGNORECASE)


def _bindable(piece: str) -> str:
    """Code in which no colon but that of a parameter means anything to SQLAlchemy."""
    kept, at = [], 0
    for bound in _BOUND.finditer(piece):
        # A space behind it: SQLAlchemy takes no parameter for one that a cast (::) follows.
        kept += [_escaped(piece[at : bound.start()]), bound[0], " "]
        at = bound.end()
    return "".join([*kept, _escaped(piece[at:])])


def _near(name: str, declared: Collection[str]) -> str:
    near = get_close_matches(name, declared, 1)
    return f"did you mean :{near[0]}?" if near else f"there are {', '.join(declared) or 'none'}"


def _escaped(piece: str) -> str:
    return piece.replace(":", "\\:")
