"""Whether what is declared of a column holds all that the source can have in it."""

import re

from etl_assets.engine.types import Type

_DIGITS = {"smallint": (5, 0), "int": (10, 0), "bigint": (19, 0)}
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")


def holds(declared: str, source: str) -> bool:
    """Whether a declared type holds every value of a type as `format_type` names it. What the source has as text may be declared
    as whatever stands in it, as may numbers without a precision: those are somebody's decision."""
    type_ = Type(declared)
    if type_.duckdb == "VARCHAR":
        return True
    digits, wanted = _digits(type_.name), _digits(_name(source) or source)
    if wanted:
        return digits is not None and digits[0] >= wanted[0] and digits[1] >= wanted[1]
    name = _name(source)
    return name is None or name in {type_.name, "numeric", "text"} or (name, type_.name) == ("real", "double")


def _name(source: str) -> str | None:
    """What a type of the source is called here; None for one that is kept as text."""
    try:
        found = Type(re.sub(r"\(\d\)(?= with)", "", source))
    except ValueError:
        return None
    return found.name if found.duckdb != "VARCHAR" or found.name == "numeric" else None


def _digits(name: str) -> tuple[int, int] | None:
    """The digits before and behind the point that a type of numbers has."""
    if name in _DIGITS:
        return _DIGITS[name]
    match = _NUMERIC.fullmatch(name)
    return (int(match[1]) - int(match[2]), max(int(match[2]), 0)) if match else None
