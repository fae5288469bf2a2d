"""Random trees, step by step: here the steps that change what there is. Of each tree the columns are known by which its
rows can be told apart, whatever its inputs hold: by construction, so that no random content makes a random function wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from etl_assets_tests.law.expressions import (
    KEYABLE,
    Expressions,
    column,
    known,
)
from etl_assets_tests.law.trees import (
    Call,
    Distinct,
    Explode,
    Expression,
    Filter,
    Group,
    Input,
    Literal,
    Relation,
    Select,
    Total,
    Type,
    Types,
    Union,
    Window,
    inputs,
)


@dataclass(frozen=True)
class Known:
    """What a function can have as an input: its columns, its key, the inputs that columns refer to, its rows at the most,
    and values that its key may have."""

    name: str
    types: Types
    key: tuple[str, ...]
    links: Mapping[str, str]
    most: int
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A tree on its way. `key`: columns that are never NULL and tell its rows apart. `single`: it has one row for each
    row of the input that it began with. `most`: its rows at the most."""

    tree: Relation
    key: tuple[str, ...]
    single: bool
    most: int


class Steps:
    """Makes trees of one input. New columns are numbered from a number on, so that no two tables share a name."""

    def __init__(self, rng: Random, known_: Mapping[str, Known], number: int) -> None:
        self.rng = rng
        self.known = known_
        self._number = number

    def input(self, name: str) -> Piece:
        found = self.known[name]
        return Piece(Input(name, tuple(found.types.items())), found.key, True, found.most)

    def computed(self, piece: Piece) -> Piece:
        types = piece.tree.types
        made = [
            (self.name("x"), Expressions(self.rng, types).computed()) for _ in range(self.rng.choice((1, 2)))
        ]
        return replace(piece, tree=Select(piece.tree, (*same(types), *made)))

    def filtered(self, piece: Piece) -> Piece:
        condition = Expressions(self.rng, piece.tree.types).condition()
        return replace(piece, tree=Filter(piece.tree, condition), single=False)

    def with_windows(self, piece: Piece) -> Piece:
        """Totals of the group that a row is in, or of all rows; and ranks, where a column has no value twice."""
        expressions, totals = Expressions(self.rng, piece.tree.types), []
        for _ in range(self.rng.choice((1, 1, 2))):
            names = self.rng.sample(list(piece.tree.types), min(2, len(piece.tree.types)))
            partition = tuple(names[: self.rng.choice((0, *[1] * 12, 2, 2, 2))])
            if len(piece.key) == 1 and self.rng.random() < 0.2:
                totals.append(Total(self.name("nth"), "rank", piece.key[0], Type("bigint"), partition))
            else:
                totals.append(expressions.total(self.name("over"), partition))
        return replace(piece, tree=Window(piece.tree, tuple(totals)))

    def first_of_groups(self, piece: Piece) -> Piece | None:
        """One row of each group: the one with the lowest key."""
        if len(piece.key) > 1:
            return None
        nth, by = self.name("nth"), self.rng.choice(list(piece.tree.types))
        ranked = Window(piece.tree, (Total(nth, "rank", piece.key[0], Type("bigint"), (by,)),))
        first = Call(
            Type("boolean"),
            "eq",
            (column(ranked.types, nth), Literal(Type("bigint"), self.rng.choice((1, 1, 2)))),
        )
        return replace(piece, tree=Filter(ranked, first), single=False)

    def grouped(self, piece: Piece) -> Piece | None:
        by = self._some(piece, self.rng.choice((1, 1, 2)))
        return self.named_by(self.group(piece, by), by, piece.most) if by else None

    def distinct(self, piece: Piece) -> Piece | None:
        names = self._some(piece, self.rng.choice((1, 2, 3)))
        if not names:
            return None
        chosen = Select(piece.tree, tuple((name, column(piece.tree.types, name)) for name in names))
        return self.named_by(Distinct(chosen), names, piece.most)

    def exploded(self, piece: Piece) -> Piece | None:
        """A row for each of the different parts of a text."""
        texts = [name for name, type_ in piece.tree.types.items() if type_.base == "text"]
        if not texts:
            return None
        part = self.name("part")
        tree = Explode(piece.tree, part, self.rng.choice(texts), self.rng.choice((",", "a", " ", "'")))
        return self.named_by(Distinct(tree), (*piece.key, part), 2 * piece.most)

    def _some(self, piece: Piece, count: int) -> tuple[str, ...]:
        """Columns of which a key can be made."""
        found = [name for name, type_ in piece.tree.types.items() if type_.family in KEYABLE]
        # The columns that it began with come first: they stand for what is big.
        found.sort(key=lambda name: self.rng.random() * (0.5 if name in self._begun(piece) else 1))
        return tuple(found[:count])

    def _begun(self, piece: Piece) -> Types:
        return self.known[inputs(piece.tree)[0]].types

    def group(self, piece: Piece, by: tuple[str, ...]) -> Group:
        expressions = Expressions(self.rng, piece.tree.types)
        totals = tuple(expressions.total(self.name("sum")) for _ in range(self.rng.choice((1, 2, 2))))
        return Group(piece.tree, by, totals)

    def named_by(self, tree: Relation, by: tuple[str, ...], most: int) -> Piece:
        """Rows that are told apart by columns which may be NULL."""
        keys = tuple((self.name("k"), known(column(tree.types, name), self._number)) for name in by)
        return Piece(Select(tree, (*keys, *same(tree.types))), tuple(name for name, _ in keys), False, most)

    def split_and_put_together(self, piece: Piece) -> Piece:
        """A union of a table with itself: the rows for which something holds, and the others."""
        condition = Expressions(self.rng, piece.tree.types).condition()
        others = Call(Type("boolean"), "not", (Call(Type("boolean"), "coalesce", (condition, truth(False))),))
        tree = Union((Filter(piece.tree, condition), Filter(piece.tree, others)))
        return replace(piece, tree=tree, single=False)

    def name(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}{self._number}"


def same(types: Types) -> tuple[tuple[str, Expression], ...]:
    return tuple((name, column(types, name)) for name in types)


def truth(value: bool) -> Literal:
    return Literal(Type("boolean"), value)
