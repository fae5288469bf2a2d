"""From source text to typed columns: exactly, or the row is named and kept aside. Nothing is altered."""

from collections.abc import Mapping, Sequence

import duckdb

from etl_assets.engine.duck import identifier, literal
from etl_assets.engine.types import Type
from etl_assets.lake.batches import SourceColumn


class Unrepresentable(ValueError):
    """A value that its declared type can't hold, met where all were expected to fit."""


_MARK = "etl: a value does not fit its declared type"


def typed(
    relation: duckdb.DuckDBPyRelation, types: Mapping[str, Type], columns: Sequence[SourceColumn]
) -> duckdb.DuckDBPyRelation:
    """The declared columns of rows as the lake holds them, typed. Reading fails at a value that does not fit
    (see `unrepresentable`)."""
    source = {column.name: column.type for column in columns}
    chosen = []
    for name, type_ in types.items():
        decoded = type_.decode(identifier(name), source[name])
        value = (
            f"CASE WHEN {decoded.exact} THEN {decoded.value} ELSE error({literal(_MARK)}) END"
            if decoded.exact != "true"
            else f"CAST({decoded.value} AS {type_.duckdb})"
        )
        chosen.append(f"{value} AS {identifier(name)}")
    return relation.project(", ".join(chosen))


def is_unrepresentable(error: duckdb.Error) -> bool:
    return _MARK in str(error)
