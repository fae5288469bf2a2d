"""A statement of SQL with `:parameters`, which the database gets as bound values.

A driver may put values into the text itself, quoted. Within a text or a comment that would let a value out of its quotes, so
a parameter may stand in code only; what is code is found here, the same for all databases.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

from etl_assets.later import Later
from etl_assets.steps.parameters import Parameter

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.engine import default as dialects
else:  # a project that is loaded runs no statement yet
    sa = Later("sqlalchemy")
    dialects = Later("sqlalchemy.engine.default")

# What is no code: texts, quoted names, comments, PostgreSQL's $$ texts. An end that is missing reaches to the end.
_OTHER = re.compile(
    r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|`[^`]*(?:`|\Z)|--[^\n]*|\#[^\n]*|/\*.*?(?:\*/|\Z)|"""
    r"""(?<![\w$])\$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|\Z)""",
    re.DOTALL,
)
_BOUND = re.compile(r"(?<![:\w]):([A-Za-z_]\w*)")
_BRACED = re.compile(r"\{\w+\}")
_TYPES = {
    "text": "String", "int": "BigInteger", "bigint": "BigInteger", "double": "Double", "boolean": "Boolean", "date": "Date",
    "timestamp": "DateTime",
}  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """One statement. Raises `ValueError` for one in which a parameter could be read as something else."""

    sql: str

    def __post_init__(self) -> None:
        if not self.sql.strip():
            raise ValueError("its SQL is empty")
        for literal in self._others:
            if literal[0] in "'\"" and re.search(r"\\['\"]", literal):
                raise ValueError(
                    "a \\ before a quote ends a text in some databases only: write the quote twice"
                )
            if literal.startswith("/*") and "/*" in literal[2:]:
                raise ValueError(
                    "a comment within a comment ends with the inner one in some databases only: take it out"
                )
        if found := _BRACED.search(_OTHER.sub(" ", self.sql)):
            raise ValueError(f"{found[0]} would be pasted into SQL: write :{found[0][1:-1]}, which is bound")

    @cached_property
    def _others(self) -> list[str]:
        return [found[0] for found in _OTHER.finditer(self.sql)]

    @cached_property
    def parameters(self) -> list[str]:
        """The parameters that it names, in order of their first appearance."""
        return list(dict.fromkeys(_BOUND.findall(_OTHER.sub(" ", self.sql))))

    def unbound(self, declared: Collection[str]) -> Iterator[str]:
        """What is wrong with how it names parameters: those that are not declared, and those that stand where nothing is
        bound."""
        for name in self.parameters:
            if name not in declared:
                yield f":{name} names no parameter; {_near(name, declared)}"
        for literal in self._others:
            for name in _BOUND.findall(literal):
                if name in declared:
                    yield (
                        f":{name} stands in a text, a quoted name or a comment, where nothing is bound: write … || :{name}, "
                        "or take it out"
                    )

    def clause(self, parameters: Mapping[str, Parameter]) -> sa.TextClause:
        """As SQLAlchemy takes it, with the type of each parameter."""
        pieces, at = [], 0
        for other in _OTHER.finditer(self.sql):
            pieces += [_code(self.sql[at : other.start()]), _escaped(other[0])]
            at = other.end()
        pieces.append(_code(self.sql[at:]))
        bound = [sa.bindparam(name, type_=_type(parameters[name])) for name in self.parameters]
        return sa.text("".join(pieces)).bindparams(*bound)

    def numbered(self, parameters: Mapping[str, Parameter]) -> tuple[str, list[str]]:
        """As DuckDB takes it, with $1, $2, …, and the parameters that these stand for."""
        compiled = self.clause(parameters).compile(
            dialect=dialects.DefaultDialect(paramstyle="numeric_dollar")
        )
        return str(compiled), list(compiled.positiontup or ())

    def star_tables(self) -> list[str]:
        """The tables of schema `star` that it reads, of facts also by way of their views."""
        code = _OTHER.sub(lambda found: found[0] if found[0][0] == '"' else " ", self.sql).replace('"', "")
        names = re.findall(r"(?<![\w.])star\.(\w+)", code, re.IGNORECASE)
        return list(dict.fromkeys(name.removesuffix("_current") for name in names))


def _code(piece: str) -> str:
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


def _type(parameter: Parameter) -> sa.types.TypeEngine[Any]:
    name = parameter.kind.name
    if name in _TYPES:
        made: sa.types.TypeEngine[Any] = getattr(sa, _TYPES[name])()
        return made
    precision, scale = (int(n) for n in re.findall(r"\d+", name))
    return sa.Numeric(precision, scale)
