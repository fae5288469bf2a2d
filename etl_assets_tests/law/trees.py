"""What a star function does, as a tree of operations. Two modules give it a meaning, each by itself: `lazy` runs it as
Narwhals does, `interpret` computes it in Python. Here is only what both agree on: which columns there are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Type:
    """A type in the words of declarations, without and with `?`."""

    base: str
    nullable: bool = False

    @property
    def declared(self) -> str:
        return self.base + ("?" if self.nullable else "")

    @property
    def family(self) -> str:
        """What can be compared with what."""
        return "int" if self.base in ("int", "bigint") else self.base.partition("(")[0]

    def maybe(self, nullable: bool = True) -> "Type":
        return Type(self.base, self.nullable or nullable)


Types: TypeAlias = Mapping[str, Type]


# -- expressions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    type: Type
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Literal:
    type: Type
    value: Any

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Call:
    """`operation` says what is done to the arguments; `option` is a constant that it needs."""

    type: Type
    operation: str
    arguments: tuple["Expression", ...]
    option: str = ""

    def __str__(self) -> str:
        option = f", {self.option!r}" if self.option else ""
        return f"{self.operation}({', '.join(map(str, self.arguments))}{option})"


Expression: TypeAlias = Column | Literal | Call


# -- relations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """A parameter of the function."""

    name: str
    given: tuple[tuple[str, Type], ...]

    @property
    def types(self) -> Types:
        return dict(self.given)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Select:
    of: "Relation"
    items: tuple[tuple[str, Expression], ...]

    @cached_property
    def types(self) -> Types:
        return {name: item.type for name, item in self.items}

    def __str__(self) -> str:
        shown = ", ".join(name if str(e) == name else f"{name}={e}" for name, e in self.items)
        return f"{self.of}\n.select({shown})"


@dataclass(frozen=True)
class Filter:
    of: "Relation"
    condition: Expression

    @property
    def types(self) -> Types:
        return self.of.types

    def __str__(self) -> str:
        return f"{self.of}\n.filter({self.condition})"


@dataclass(frozen=True)
class Join:
    """`how`: inner, left, full, semi, anti or cross. All pairs of columns in `on` must be equal. As in Narwhals, the right
    columns of `on` are gone afterwards, unless it is a full join."""

    left: "Relation"
    right: "Relation"
    how: str
    on: tuple[tuple[str, str], ...] = ()

    @cached_property
    def added(self) -> list[str]:
        """The columns that come from the right."""
        if self.how in ("semi", "anti"):
            return []
        joined = {right for _, right in self.on} if self.how in ("inner", "left") else set()
        return [name for name in self.right.types if name not in joined]

    @cached_property
    def types(self) -> Types:
        left, right = self.how == "full", self.how in ("left", "full")
        kept = {name: type_.maybe(left) for name, type_ in self.left.types.items()}
        return kept | {name: self.right.types[name].maybe(right) for name in self.added}

    def __str__(self) -> str:
        on = ", ".join(f"{left} = {right}" for left, right in self.on)
        return f"{self.left}\n.{self.how}_join({_inset(self.right)}; {on})"


@dataclass(frozen=True)
class Union:
    parts: tuple["Relation", ...]

    @cached_property
    def types(self) -> Types:
        first, *others = (part.types for part in self.parts)
        return {n: t.maybe(any(other[n].nullable for other in others)) for n, t in first.items()}

    def __str__(self) -> str:
        return f"union({', '.join(map(_inset, self.parts))})"


@dataclass(frozen=True)
class Total:
    """A number for a group, or for the group that a row is in (`partition`; everything, if it names nothing). `kind`:
    len, count, sum, min, max, n_unique; and of a row in its group, rank (by `column`, which has no value twice)."""

    name: str
    kind: str
    column: str
    type: Type
    partition: tuple[str, ...] = ()

    def __str__(self) -> str:
        over = f".over({', '.join(self.partition)})" if self.partition else ""
        return f"{self.name}={self.kind}({self.column}){over}"


@dataclass(frozen=True)
class Group:
    of: "Relation"
    by: tuple[str, ...]
    totals: tuple[Total, ...]

    @cached_property
    def types(self) -> Types:
        return {name: self.of.types[name] for name in self.by} | {t.name: t.type for t in self.totals}

    def __str__(self) -> str:
        return f"{self.of}\n.group_by({', '.join(self.by)}; {', '.join(map(str, self.totals))})"


@dataclass(frozen=True)
class Window:
    of: "Relation"
    totals: tuple[Total, ...]

    @cached_property
    def types(self) -> Types:
        return {**self.of.types, **{t.name: t.type for t in self.totals}}

    def __str__(self) -> str:
        return f"{self.of}\n.with_columns({', '.join(map(str, self.totals))})"


@dataclass(frozen=True)
class Distinct:
    of: "Relation"

    @property
    def types(self) -> Types:
        return self.of.types

    def __str__(self) -> str:
        return f"{self.of}\n.unique()"


@dataclass(frozen=True)
class Explode:
    """A row for each part of a text, as a separator parts it; a text that is NULL is a row without a part."""

    of: "Relation"
    name: str
    column: str
    separator: str

    @cached_property
    def types(self) -> Types:
        return {**self.of.types, self.name: Type("text", self.of.types[self.column].nullable)}

    def __str__(self) -> str:
        return f"{self.of}\n.explode({self.name}=split({self.column}, {self.separator!r}))"


Relation: TypeAlias = Input | Select | Filter | Join | Union | Group | Window | Distinct | Explode


def parts(tree: Relation) -> tuple[Relation, ...]:
    """What a relation is made of directly."""
    if isinstance(tree, Input):
        return ()
    if isinstance(tree, Join):
        return (tree.left, tree.right)
    return tree.parts if isinstance(tree, Union) else (tree.of,)


def every(tree: Relation) -> Iterator[Relation]:
    """A relation, and all that it is made of."""
    yield tree
    for part in parts(tree):
        yield from every(part)


def inputs(tree: Relation) -> list[str]:
    """The names of its inputs, in the order in which they are met."""
    return list(dict.fromkeys(part.name for part in every(tree) if isinstance(part, Input)))


def origin(tree: Relation, column: str) -> tuple[str, str] | None:
    """The input and its column that a column is, unchanged and in every row; None if it is computed, or from both
    parts of a union."""
    if isinstance(tree, Input):
        return tree.name, column
    if isinstance(tree, Select):
        item = dict(tree.items)[column]
        return origin(tree.of, item.name) if isinstance(item, Column) else None
    if isinstance(tree, Join):
        if tree.how == "full" or (column not in tree.left.types and tree.how == "left"):
            return None
        return origin(tree.left if column in tree.left.types else tree.right, column)
    if isinstance(tree, Union) or column not in tree.of.types:
        return None
    return origin(tree.of, column)


def _inset(tree: Relation) -> str:
    text = str(tree)
    return text if "\n" not in text else "\n    " + text.replace("\n", "\n    ") + "\n"
