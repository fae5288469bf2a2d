"""From source text to typed columns: exactly, or the row is named and kept aside. Nothing is altered."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import duckdb

from etl_assets.engine.duck import identifier, literal
from etl_assets.engine.types import Decoded, Type

_YEARS = " in the years 1 to 9999"  # once, later years fitted too


class ColumnOfSource(Protocol):
    """A column as the source's catalog has it; `type` as PostgreSQL's `format_type` names it."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...


@dataclass(frozen=True)
class Typing:
    """How the declared columns of a table are typed, given what the source's catalog says of them. `values`: the SQL of
    a column, where it is not the column itself."""

    types: Mapping[str, Type]
    columns: Sequence[ColumnOfSource]
    values: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _decoded(self) -> dict[str, Decoded]:
        source = {column.name: column.type for column in self.columns}
        return {
            name: type_.decode(self.values.get(name, identifier(name)), source[name])
            for name, type_ in self.types.items()
        }

    @property
    def exact(self) -> str:
        """The condition (SQL) under which a row can be represented."""
        tested = [f"({d.exact})" for d in self._decoded.values() if d.exact != "true"]
        return " AND ".join(tested) or "true"

    def typed(
        self, relation: duckdb.DuckDBPyRelation, *, only_exact: bool, kept: Mapping[str, str] | None = None
    ) -> duckdb.DuckDBPyRelation:
        """The declared columns of rows as the lake holds them. A row that can't be represented is left out if
        `only_exact`; else all were found to fit before. `kept`: name -> column that is handed on as it is held."""
        if only_exact:
            relation = relation.filter(self.exact)
        chosen = []
        for name, decoded in self._decoded.items():
            value = decoded.value if only_exact else decoded.known
            chosen.append(f"CAST({value} AS {self.types[name].duckdb}) AS {identifier(name)}")
        chosen += [f"{identifier(column)} AS {identifier(name)}" for name, column in (kept or {}).items()]
        return relation.project(", ".join(chosen))

    def misfits(
        self, relation: duckdb.DuckDBPyRelation, key: Sequence[str]
    ) -> duckdb.DuckDBPyRelation | None:
        """One row per value that can't be represented: (key, column, value, reason), all text."""
        tested = {name: decoded for name, decoded in self._decoded.items() if decoded.exact != "true"}
        if not tested:
            return None
        structs = ", ".join(
            f"CASE WHEN NOT ({decoded.exact}) THEN {{'column': {literal(name)}, "
            f"'value': CAST({identifier(name)} AS VARCHAR), 'reason': CASE WHEN {identifier(name)} IS NULL THEN "
            f"'is NULL, and must have a value' ELSE {literal('is no ' + self.types[name].name)} END}} END"
            for name, decoded in tested.items()
        )
        # Several columns are parted by commas as in CSV, so that different keys read differently.
        texts = [f"CAST({identifier(name)} AS VARCHAR)" for name in key]
        if len(texts) > 1:
            texts = [
                f"""CASE WHEN contains({t}, ',') OR contains({t}, '"') THEN '"' || replace({t}, '"', '""') || '"' ELSE {t} END"""
                for t in texts
            ]
        keys = " || ',' || ".join(texts)
        return (
            relation.filter(f"NOT ({self.exact})")
            .project(f"{keys} AS key, unnest([{structs}]) AS misfit")
            .filter("misfit IS NOT NULL")
            .project("key, misfit['column'] AS column, misfit['value'] AS value, misfit['reason'] AS reason")
        )


def types_version(types: Mapping[str, Type]) -> str:
    """Identifies declared types: what fitted once fits as long as it is the same."""
    declared = " ".join(
        f"{name}:{type_.declared}{_YEARS if type_.has_year else ''}" for name, type_ in sorted(types.items())
    )
    return hashlib.sha256(declared.encode()).hexdigest()[:16]
