"""What a star table promises: columns, types, keys, references.

A declaration is the one place from which the Arrow schema, the warehouse's DDL, the UI's column schema and the
checks are derived. Which tables there are a project declares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from etl_assets.engine.code_version import declared_version
from etl_assets.engine.mistakes import columns_of, refuse
from etl_assets.engine.types import Type, checked
from etl_assets.later import Later

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Later("pyarrow")


@dataclass(frozen=True)
class Column:
    """A column: its type in PostgreSQL's terms (`?` allows NULL), its meaning, and the dimension it refers to."""

    name: str
    declared: str
    description: str = ""
    references: str | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for a type that there is not, or a reference that names nothing."""
        self.__dict__["type"] = checked(self, self.name, self.declared)
        given: Any = self.references
        if not isinstance(given, str | None):
            refuse(self, f"{self.name}: write its dimension's name as a text: references={_as_text(given)}")
            object.__setattr__(self, "references", None)

    @cached_property
    def type(self) -> Type:
        return checked(self, self.name, self.declared)


@dataclass(frozen=True)
class StarTable:
    """What dimensions and facts have in common: a name, a meaning, columns with a key.

    `key`: the column, or the columns, whose values tell the rows apart that exist at the same time. None of them may be
    NULL. `references`: columns -> the dimension in whose key their values must exist, for references over several
    columns; a single column may say so itself (`Column.references`). A reference that has a NULL part is not checked.

    `rows`: "one per row" of the function's first parameter (audited), or "any": it may filter, explode, aggregate.
    `by`: for a function whose SQL does not tell what a change reaches (pandas, Arrow): "row" if each row of the first
    parameter is treated by itself, or the columns whose groups are (every parameter that has them is then given to the
    function by whole groups). `strict`: that the whole table must be computed to find what a change did is an error.
    `versions_of`: facts among the parameters of which the function sees all versions, not only the current rows.
    """

    name: str
    description: str
    key: str | Sequence[str]
    declared: Sequence[Column] = field(repr=False)
    references: Mapping[str | tuple[str, ...], str] = field(default_factory=dict, kw_only=True)
    rows: Literal["one per row", "any"] = field(default="one per row", kw_only=True)
    by: str | Sequence[str] | None = field(default=None, kw_only=True)
    strict: bool = field(default=False, kw_only=True)
    versions_of: str | Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Raise `ValueError` for a declaration that contradicts itself."""
        object.__setattr__(self, "declared", columns_of(self, self.name, self.declared, Column))
        self._check_kinds()
        names = [column.name for column in self.declared]
        if self.rows not in ("one per row", "any"):
            refuse(self, f'{self.name}: rows={self.rows!r} means nothing: write "one per row" or "any"')
        for name in self.key_columns:
            if name not in names:
                refuse(self, f"{self.name}: the key {name!r} is not among its columns {names}")
            elif self.by_name[name].type.nullable:
                refuse(
                    self,
                    f"{self.name}: the key {name!r} is declared {self.by_name[name].declared!r}, but no part of a key is "
                    "NULL: take the ? away",
                )
        self._check_columns()
        for columns, dimension in self.links.items():
            if lacking := [name for name in columns if name not in names]:
                refuse(
                    self,
                    f"{self.name}: {', '.join(lacking)}, which refers to {dimension}, is not among its columns {names}",
                )

    def _check_kinds(self) -> None:
        """Refuse what names no columns; a set has no order."""
        if not self.key or not _are_names(self.key):
            told = 'name the column, or the columns, of its key: key="…", or key=["…", "…"]'
            refuse(self, f"{self.name}: {told}")
            object.__setattr__(self, "key", ())
        if self.by is not None and not _are_names(self.by):
            refuse(self, f'{self.name}: by= names no columns: write by="row", by="…", or by=["…", "…"]')
            object.__setattr__(self, "by", None)
        if not _are_names(self.versions_of):
            refuse(self, f'{self.name}: versions_of= names no facts: write versions_of="fact_…"')
            object.__setattr__(self, "versions_of", ())
        given: Any = self.references
        if not isinstance(given, Mapping) or not all(
            isinstance(dimension, str) and _are_names(columns) for columns, dimension in given.items()
        ):
            refuse(self, f'{self.name}: references= says nothing: write references={{("…", "…"): "dim_…"}}')
            object.__setattr__(self, "references", {})

    def _check_columns(self) -> None:
        """Refuse columns of one name, in whatever case: no warehouse tells them apart."""
        alike: dict[str, list[Column]] = {}
        for column in self.columns:
            alike.setdefault(column.name.lower(), []).append(column)
        for columns in alike.values():
            if len(columns) > 1:
                own = [one for one in columns if any(one is declared for declared in self.declared)]
                name = (own or columns)[0].name
                others = sorted({one.name for one in columns} - {name})
                told = f" (as {', '.join(others)}: capitals make no other name)" if others else ""
                added = (
                    "" if len(own) > 1 else "; the platform adds a column of that name, give yours another"
                )
                refuse(self, f"{self.name}: the column {name!r} is declared twice{told}{added}")

    @cached_property
    def key_columns(self) -> tuple[str, ...]:
        """The columns of the key, in declared order."""
        return _several(self.key)

    @cached_property
    def links(self) -> Mapping[tuple[str, ...], str]:
        """Columns -> the dimension in whose key their values must exist."""
        single = {(column.name,): column.references for column in self.declared if column.references}
        return single | {_several(columns): dimension for columns, dimension in self.references.items()}

    @property
    def by_columns(self) -> tuple[str, ...] | None:
        """The columns whose groups the function treats by themselves, if that is declared."""
        return None if self.by in (None, "row") else _several(self.by or ())

    @property
    def facts_with_versions(self) -> tuple[str, ...]:
        """The parameters that stand for all versions of a fact."""
        return _several(self.versions_of)

    @property
    def columns(self) -> Sequence[Column]:
        """All columns in the order in which they are published."""
        raise NotImplementedError

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The columns whose values are unique over the whole table."""
        return self.key_columns

    @cached_property
    def version(self) -> str:
        """What identifies the declaration. Descriptions don't count, nor does what is left at its default."""
        columns = [(column.name, column.declared, column.references) for column in self.columns]
        further = {
            name: value
            for name, value in {
                "references": {_several(names): dimension for names, dimension in self.references.items()},
                "rows": self.rows,
                "by": self.by_columns or self.by,
                "versions_of": self.facts_with_versions,
            }.items()
            if value and value != "one per row"
        }
        return declared_version(
            type(self).__name__,
            self.name,
            self.key_columns[0] if len(self.key_columns) == 1 else repr(self.key_columns),
            repr(columns),
            *([repr(further)] if further else []),
        )

    @cached_property
    def arrow(self) -> "pa.Schema":
        return pa.schema(
            [
                pa.field(column.name, column.type.arrow, nullable=column.type.nullable)
                for column in self.columns
            ]
        )


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
        if not self.record:
            refuse(
                self, f'{self.name}: a fact needs the name of its surrogate key: write record="…_record_id"'
            )
        super().__post_init__()

    @cached_property
    def columns(self) -> Sequence[Column]:
        return [
            Column(self.record, "bigint", "Numbers the versions; the same after every rebuild."),
            *self.declared,
            Column("batch", "bigint", "The batch that brought this version."),
            Column(
                "deleted", "boolean", "True on the row that records a deletion; its values are the last ones."
            ),
        ]

    @property
    def primary_key(self) -> tuple[str, ...]:
        return (self.record,)

    @property
    def date_columns(self) -> list[str]:
        return [column.name for column in self.declared if column.type.name == "date"]


def _are_names(given: object) -> bool:
    return isinstance(given, str) or (
        isinstance(given, list | tuple) and all(isinstance(one, str) for one in given)
    )


def _as_text(named: object) -> str:
    """What stands for something, as the text that names it."""
    return f'"{getattr(named, "name", "dim_…")}"'


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
