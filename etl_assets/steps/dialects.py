"""What in a text of SQL is no code, as each database reads it: texts, quoted names, comments.

A driver may put a value into the text itself, quoted. Where the database reads a text or a comment at that place, the value
gets out of its quotes. So this follows the lexers of the databases, not their grammar. Not here: what a statement does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

# An end that is missing reaches to the end.
_SINGLE = r"'(?:[^']|'')*+(?:'|\Z)"
_SINGLE_ESCAPED = r"'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|\Z)"
_DOUBLE = r'"(?:[^"]|"")*+(?:"|\Z)'
_DOUBLE_ESCAPED = r'"(?:[^"\\]|\\(?:.|\Z)|"")*+(?:"|\Z)'
_BACKTICK = r"`(?:[^`]|``)*+(?:`|\Z)"
_BLOCK = r"/\*.*?(?:\*/|\Z)"
_LINE = r"--[^\n]*"
_LINE_TO_RETURN = r"--[^\n\r]*"
_WORD = r"A-Za-z0-9_\x80-\U0010ffff"  # what PostgreSQL takes for a part of a name, beside $
_E_TEXT = rf"(?<![{_WORD}$])[eE]{_SINGLE_ESCAPED}"
# A text goes on behind the end of a line, and stays one with backslashes.
_E_MORE = (
    rf"(?:(?:[ \t\f\v]|--[^\n\r]*)*+[\n\r](?:[ \t\f\v\n\r]|--[^\n\r]*[\n\r])*+(?=')(?:{_SINGLE_ESCAPED}))*"
)
_DOLLAR = rf"(?<![{_WORD}$])\$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][{_WORD}]*)?)\$.*?(?:\$(?P=tag)\$|\Z)"
_EXECUTED = ("/*!", "/*M!")


@dataclass(frozen=True)
class LexicalRules:
    """How a database reads SQL. `other`: patterns of what is no code; `nested`: a comment may hold comments."""

    name: str
    other: Sequence[str]
    nested: bool = False

    @cached_property
    def _other(self) -> re.Pattern[str]:
        return re.compile("|".join(self.other), re.DOTALL)

    def others(self, sql: str) -> Iterator[tuple[int, int]]:
        """Where texts, quoted names and comments stand: from, to."""
        at = 0
        while found := self._other.search(sql, at):
            nests = self.nested and found[0].startswith("/*")
            at = _end_of_comment(sql, found.start()) if nests else found.end()
            yield found.start(), at

    def runs(self, other: str) -> bool:
        """Whether it is a comment that is executed by some versions: where it ends depends on that."""
        return self in _MYSQLS and other.startswith(_EXECUTED)


def _end_of_comment(sql: str, start: int) -> int:
    depth = 0
    for mark in re.finditer(r"/\*|\*/", sql[start:]):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return start + mark.end()
    return len(sql)


def _postgres(single: str) -> LexicalRules:
    others = (_E_TEXT + _E_MORE, single, _DOUBLE, _DOLLAR, _LINE_TO_RETURN, _BLOCK)
    return LexicalRules("PostgreSQL", others, nested=True)


def _mysql(single: str, double: str) -> LexicalRules:
    others = (single, double, _BACKTICK, r"\#[^\n]*", r"--(?=[\x00-\x20\x7f]|\Z)[^\n]*", _BLOCK)
    return LexicalRules("MySQL", others)


POSTGRES = _postgres(_SINGLE)
POSTGRES_BACKSLASHES = _postgres(_SINGLE_ESCAPED)
"""With `standard_conforming_strings` off."""
DUCKDB = LexicalRules("DuckDB", (_E_TEXT, _SINGLE, _DOUBLE, _DOLLAR, _LINE_TO_RETURN, _BLOCK))
SQLITE = LexicalRules("SQLite", (_SINGLE, _DOUBLE, _BACKTICK, r"\[[^\]]*(?:\]|\Z)", _LINE, _BLOCK))
SQL_SERVER = LexicalRules(
    "SQL Server", (_SINGLE, _DOUBLE, r"\[(?:[^\]]|\]\])*+(?:\]|\Z)", _LINE, _BLOCK), nested=True
)
MYSQL = _mysql(_SINGLE_ESCAPED, _DOUBLE_ESCAPED)
_MYSQL_BY_MODE = {
    (False, False): MYSQL,
    (False, True): _mysql(_SINGLE_ESCAPED, _DOUBLE),
    (True, False): _mysql(_SINGLE, _DOUBLE),
    (True, True): _mysql(_SINGLE, _DOUBLE),
}
_MYSQLS = tuple(_MYSQL_BY_MODE.values())

OF_DATABASES = (POSTGRES, MYSQL, SQLITE, SQL_SERVER)
OF_WAREHOUSES = (DUCKDB, POSTGRES)
_NAMED: Mapping[str, Sequence[LexicalRules]] = {
    "postgresql": (POSTGRES,),
    "mysql": (MYSQL,),
    "mariadb": (MYSQL,),
    "sqlite": (SQLITE,),
    "mssql": (SQL_SERVER,),
}


def dialects(name: str) -> Sequence[LexicalRules]:
    """The dialects that a database may have that SQLAlchemy calls so: of one that is not known here, all."""
    return _NAMED.get(name, (*OF_DATABASES, DUCKDB))


def mysql(modes: str) -> LexicalRules:
    """The dialect of a MySQL or MariaDB whose `sql_mode` is this."""
    known = modes.upper().split(",")
    return _MYSQL_BY_MODE["NO_BACKSLASH_ESCAPES" in known, "ANSI_QUOTES" in known]
