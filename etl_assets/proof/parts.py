"""Large tables are verified by parts of their keys, one after the other."""

from collections.abc import Collection, Mapping

from etl_assets.engine.duck import identifier
from etl_assets.star.schema import StarTable

PARTS = 7
"""Into so many parts the keys of a table are divided, whatever they are: as many as a week has nights."""

Parts = Mapping[str, Collection[int]]
"""A star table that is verified in part, and which parts, from 0 on. Of other tables all keys are meant."""


def of_parts(schema: StarTable, rows: str, parts: Parts) -> str:
    """A FROM clause with those of `rows` (a FROM clause, with the columns of the table's key) whose keys are in the parts
    of the table. It stands outside of what made the rows, so that the engine decides how early it may be applied."""
    if schema.name not in parts:
        return rows
    keys = ", ".join(
        f"CAST({identifier(name)} AS {schema.by_name[name].type.duckdb})" for name in schema.key_columns
    )
    chosen = ", ".join(str(part) for part in sorted(parts[schema.name]))
    return f"(FROM {rows} WHERE hash({keys}) % {PARTS} IN ({chosen}))"


def in_words(parts: Collection[int]) -> str:
    """As `parts 1, 2 of 7 of its keys`."""
    listed = ", ".join(str(part + 1) for part in sorted(parts))
    return f"part{'s' if len(parts) > 1 else ''} {listed} of {PARTS} of its keys"
