"""Column types: PostgreSQL's names, and what stands for each of them in Arrow and in the warehouse's engines.

Values travel as PostgreSQL's own text until they are typed here. Typing is exact or it does not happen: a
value that its type can't hold makes the condition of `Decoded.exact` false, and whoever reads decides what
becomes of the row. How a value is written is the source's business (PostgreSQL manual, chapter 8).
"""

import re
from dataclasses import dataclass, replace
from decimal import Context
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

from etl_assets.engine.mistakes import refuse
from etl_assets.later import Later

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Later("pyarrow")


# For sums: Python's usual arithmetic rounds to 28 digits, and says nothing.
EXACT = Context(prec=1_000)

_NUMERIC = re.compile(r"(?:numeric|decimal)\((\d+),\s*(\d+)\)")

# type -> (DuckDB type, the constructor of the Arrow type and its arguments, the source types whose text this type always
# holds, special values apart)
_EXACT: dict[str, tuple[str, tuple[str, ...], frozenset[str]]] = {
    "smallint": ("SMALLINT", ("int16",), frozenset({"smallint"})),
    "int": ("INTEGER", ("int32",), frozenset({"smallint", "integer"})),
    "bigint": ("BIGINT", ("int64",), frozenset({"smallint", "integer", "bigint"})),
    "boolean": ("BOOLEAN", ("bool_",), frozenset({"boolean"})),
    "real": ("FLOAT", ("float32",), frozenset({"real"})),
    "double": ("DOUBLE", ("float64",), frozenset({"real", "double precision"})),
    "date": ("DATE", ("date32",), frozenset({"date"})),
    "time": ("TIME", ("time64", "us"), frozenset({"time without time zone"})),
    "timestamp": ("TIMESTAMP", ("timestamp", "us"), frozenset({"timestamp without time zone"})),
    "timestamptz": ("TIMESTAMPTZ", ("timestamp", "us", "UTC"), frozenset({"timestamp with time zone"})),
    "uuid": ("UUID", ("string",), frozenset({"uuid"})),
    "bytea": ("BLOB", ("binary",), frozenset({"bytea"})),
}
# Types whose text is kept, because nothing in Arrow holds every value of theirs.
_AS_TEXT = {
    "text",
    "numeric",
    "interval",
    "json",
    "jsonb",
    "inet",
    "cidr",
    "macaddr",
    "timetz",
    "xml",
    "array",
    "enum",
}


# What PostgreSQL and its users call the same; lengths and precisions behind them make no difference to what is kept.
_SPELLINGS = {
    "integer": "int",
    "int4": "int",
    "serial": "int",
    "int2": "smallint",
    "smallserial": "smallint",
    "int8": "bigint",
    "bigserial": "bigint",
    "bool": "boolean",
    "float4": "real",
    "float8": "double",
    "double precision": "double",
    "float": "double",
    "varchar": "text",
    "character varying": "text",
    "char": "text",
    "character": "text",
    "bpchar": "text",
    "citext": "text",
    "name": "text",
    "money": "text",
    "decimal": "numeric",
    "dec": "numeric",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "time without time zone": "time",
    "time with time zone": "timetz",
    "macaddr8": "macaddr",
}
_LENGTH = re.compile(r"\s*\(\s*\d+\s*\)")
_SUGGESTED = {
    "datetime": "timestamp",
    "string": "text",
    "str": "text",
    "number": "numeric(18,2)",
    "long": "bigint",
}
_POSTGRES = {
    "int": "integer",
    "double": "double precision",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}
_BIGQUERY = {
    "smallint": "INT64",
    "int": "INT64",
    "bigint": "INT64",
    "boolean": "BOOL",
    "real": "FLOAT64",
    "double": "FLOAT64",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "DATETIME",
    "timestamptz": "TIMESTAMP",
    "bytea": "BYTES",
}


@dataclass(frozen=True)
class Decoded:
    """SQL (DuckDB's) that turns a column of source text into typed values.

    `value` may be NULL where `exact` is false; `exact` is never NULL. `known` is the same as `value` for a text that was
    found exact before, at half the cost; it is an error for one that can't be read at all.
    """

    value: str
    exact: str
    known: str


@dataclass(frozen=True)
class Type:
    """A declared column type, such as `int`, `numeric(10,2)` or `text?` (`?` allows NULL)."""

    declared: str

    def __post_init__(self) -> None:
        if self.name not in _EXACT and self.name not in _AS_TEXT and not _NUMERIC.fullmatch(self.name):
            known = sorted([*_EXACT, *_AS_TEXT, "numeric(p,s)"])
            near = _SUGGESTED.get(self.name) or next(
                iter(get_close_matches(self.name, [*known, *_SPELLINGS], 1)), None
            )
            raise ValueError(
                f"unknown type {self.declared!r}: write "
                + (f"{near!r}, or one of " if near else "one of ")
                + f"{', '.join(known)}, with ? behind it if it may be NULL"
            )
        if self._decimal and not (0 <= self._decimal[1] <= self._decimal[0] <= 38 and self._decimal[0] > 0):
            raise ValueError(f"{self.declared!r}: numeric(p,s) holds at most 38 digits and 0 <= s <= p")

    @cached_property
    def name(self) -> str:
        """The type as it is called here, however it was spelled."""
        spelled = " ".join(self.declared.strip().removesuffix("?").lower().split())
        if spelled.endswith("[]"):
            return "array"
        if match := re.fullmatch(r"(?:numeric|decimal|dec)\s*\(\s*(\d+)\s*\)", spelled):
            return f"numeric({match[1]},0)"
        bare = _LENGTH.sub("", spelled)
        return _SPELLINGS.get(bare, bare if bare in _EXACT or bare in _AS_TEXT else spelled)

    @property
    def nullable(self) -> bool:
        return self.declared.endswith("?")

    @cached_property
    def _decimal(self) -> tuple[int, int] | None:
        match = _NUMERIC.fullmatch(self.name)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def duckdb(self) -> str:
        if self._decimal:
            return "DECIMAL({},{})".format(*self._decimal)
        return _EXACT[self.name][0] if self.name in _EXACT else "VARCHAR"

    @property
    def postgres(self) -> str:
        """As PostgreSQL's `format_type` names it. What is kept as text is text there too: it is what was captured."""
        if self._decimal:
            return "numeric({},{})".format(*self._decimal)
        return _POSTGRES.get(self.name, self.name) if self.name in _EXACT else "text"

    @property
    def bigquery(self) -> str:
        """NUMERIC holds 29 digits before the point and 9 behind it; what does not fit there is a BIGNUMERIC."""
        if self._decimal:
            precision, scale = self._decimal
            kind = "NUMERIC" if scale <= 9 and precision - scale <= 29 else "BIGNUMERIC"
            return f"{kind}({precision},{scale})"
        return _BIGQUERY.get(self.name, "STRING")

    @property
    def arrow(self) -> "pa.DataType":
        if self._decimal:
            return pa.decimal128(*self._decimal)
        constructor, *arguments = _EXACT[self.name][1] if self.name in _EXACT else ("string",)
        made: pa.DataType = getattr(pa, constructor)(*arguments)
        return made

    @property
    def is_amount(self) -> bool:
        """Whether values can be summed exactly, as a control total."""
        return self._decimal is not None or self.name in {"smallint", "int", "bigint"}

    @property
    def is_time(self) -> bool:
        return self.name in {"date", "time", "timestamp", "timestamptz"}

    @property
    def has_year(self) -> bool:
        return self.is_time and self.name != "time"

    def decode(self, column: str, source_type: str) -> Decoded:
        """How to type the text in `column` (a quoted identifier) that the source holds as `source_type`
        (as `format_type` names it)."""
        decoded = self._decode(column, source_type)
        if self.nullable:
            return decoded
        present = f"{column} IS NOT NULL"
        exact = present if decoded.exact == "true" else f"{present} AND ({decoded.exact})"
        return replace(decoded, exact=exact)

    def _decode(self, column: str, source_type: str) -> Decoded:
        if self.duckdb == "VARCHAR":
            return Decoded(column, "true", column)
        source = re.sub(r"\(.*\)", "", source_type)
        foreign = self.name not in _EXACT or source not in _EXACT[self.name][2]
        if foreign:
            column = f"CAST({column} AS VARCHAR)"  # integers are not kept as text
        value, known = f"try_cast({column} AS {self.duckdb})", f"CAST({column} AS {self.duckdb})"
        if self.name == "bytea":
            hexadecimal = f"regexp_full_match({column}, '\\\\x([0-9a-f]{{2}})*')"
            known = f"unhex(substr({column}, 3))"
            return Decoded(
                f"CASE WHEN {hexadecimal} THEN {known} END", f"{column} IS NULL OR {hexadecimal}", known
            )
        if self._decimal:
            digits = f"length(rtrim(split_part({column}, '.', 2), '0')) <= {self._decimal[1]}"
            plain = f"regexp_full_match({column}, '-?[0-9]+(\\.[0-9]+)?')"
            within = _NUMERIC.fullmatch(source_type)
            if within and int(within[2]) <= self._decimal[1]:
                return Decoded(value, f"{column} IS NULL OR {value} IS NOT NULL", known)
            fits = f"{value} IS NOT NULL AND {plain} AND {digits}"
            return Decoded(value, f"{column} IS NULL OR ({fits})", known)
        if foreign:
            # Foreign text (a date kept as text, say) counts only in its canonical form: DuckDB would also
            # take '1e3' for a number and '2024-1-5' for a date, and round '1.5' to 2.
            canonical = f"CAST({value} AS VARCHAR) = {column}{self._limits(column, value)}"
            return Decoded(value, f"{column} IS NULL OR coalesce({canonical}, false)", known)
        fits = f"{value} IS NOT NULL{self._limits(column, value)}"
        return Decoded(value, f"{column} IS NULL OR ({fits})", known)

    def _limits(self, column: str, value: str) -> str:
        """What else must hold of a value that DuckDB takes, so that Arrow holds it too."""
        if self.name in {"date", "timestamp", "timestamptz"}:
            # DuckDB reads '44-03-15 BC' as the year 44, and writes '0044-03-15 (BC)'. Arrow has no infinity. Python,
            # BigQuery and spreadsheets know the years 1 to 9999.
            return f" AND isfinite({value}) AND {column} NOT LIKE '%BC%' AND {column} LIKE '____-%'"
        if self.name == "time":
            return f" AND {column} <> '24:00:00'"
        return f" AND isfinite({value})" if self.name in {"real", "double"} else ""


def checked(declared: object, name: str, type_: object) -> Type:
    """The type that a declaration gives a column. What there is not is refused; `text` stands for it."""
    if not isinstance(type_, str):
        refuse(declared, f'{name}: its type is {type_!r}: write a text, such as "int" or "text?"')
        return Type("text")
    try:
        return Type(type_)
    except ValueError as error:
        refuse(declared, f"{name}: {error}")
        return Type("text")
