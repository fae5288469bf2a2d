"""What a star table promises: columns, types, keys, references.

A declaration is the one place from which the Arrow schema, the warehouse's DDL, the UI's column schema and the
checks are derived. Which tables there are is declared in `etl_assets/star/schema.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from etl_assets.engine.code_version import declared_version
from etl_assets.engine.types import Type


@dataclass(frozen=True)
class Column:
    """A column: its type in PostgreSQL's terms (`?` allows NULL), its meaning, and the dimension it refers to."""

    name: str
    declared: str
    description: str = ""
    references: str | None = None

    @cached_property
    def type(self) -> Type:
        return Type(self.declared)


@dataclass(frozen=True)
class StarTable:
    """What dimensions and facts have in common: a name, a meaning, columns with a key."""

    name: str
    description: str
    key: str
    declared: Sequence[Column] = field(repr=False)

    def __post_init__(self) -> None:
        names = [column.name for column in self.declared]
        if self.key not in names:
            raise ValueError(f"{self.name}: the key {self.key!r} is not among its columns {names}")
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: a column is declared twice in {names}")

    @property
    def columns(self) -> Sequence[Column]:
        """All columns in the order in which they are published."""
        raise NotImplementedError

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    @property
    def primary_key(self) -> str:
        """The column whose values are unique over the whole table."""
        return self.key

    @cached_property
    def version(self) -> str:
        """What identifies the declaration. Descriptions don't count."""
        columns = [(column.name, column.declared, column.references) for column in self.columns]
        return declared_version(type(self).__name__, self.name, self.key, repr(columns))

    @cached_property
    def arrow(self) -> pa.Schema:
        return pa.schema(
            [
                pa.field(column.name, column.type.arrow, nullable=column.type.nullable)
                for column in self.columns
            ]
        )

    @property
    def references(self) -> Mapping[str, str]:
        """Column -> the dimension in which each of its values must exist."""
        return {column.name: column.references for column in self.columns if column.references}


@dataclass(frozen=True)
class Dimension(StarTable):
    """A dimension: the latest state of each member. A member that is gone from the source stays, flagged."""

    @cached_property
    def columns(self) -> Sequence[Column]:
        return [
            *self.declared,
            Column("deleted", "boolean", "True when the source no longer has this member."),
        ]


@dataclass(frozen=True)
class Fact(StarTable):
    """A fact: one row per version of what `key` names, and one row that records its deletion.

    `record` is the surrogate key: it numbers the versions in the order in which they were captured.
    """

    record: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.record:
            raise ValueError(f"{self.name}: a fact needs the name of its surrogate key (record=)")

    @cached_property
    def columns(self) -> Sequence[Column]:
        return [
            Column(self.record, "bigint", "Numbers the versions; the same after every rebuild."),
            *self.declared,
            Column("batch", "text", "The batch that brought this version."),
            Column(
                "deleted", "boolean", "True on the row that records a deletion; its values are the last ones."
            ),
        ]

    @property
    def primary_key(self) -> str:
        return self.record

    @property
    def date_columns(self) -> list[str]:
        return [column.name for column in self.declared if column.type.name == "date"]
