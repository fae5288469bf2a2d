"""Random trees, step by step: here the steps that put other inputs beside what there is."""

from collections.abc import Callable
from dataclasses import replace

from etl_assets_tests.law.expressions import (
    TEXT,
    as_text,
    column,
    constant,
    widened,
)
from etl_assets_tests.law.steps import Piece, Steps, same
from etl_assets_tests.law.trees import (
    Call,
    Column,
    Expression,
    Join,
    Literal,
    Select,
    Type,
    Union,
    inputs,
    origin,
)

_MOST_ROWS = 500
_MOST_INPUTS = 3


# Steps in the order in which people take them.
_WAYS = (
    ("looked_up", "grouped"),
    ("looked_up", "with_windows"),
    ("looked_up", "looked_up", "with_windows"),
    ("looked_up", "computed", "grouped"),
    ("looked_up", "filtered", "grouped"),
    ("looked_up", "looked_up_by_a_default"),
    ("looked_up", "looked_up_by_a_default", "grouped"),
    ("with_many", "looked_up_by_a_default", "with_windows"),
    ("with_many", "grouped"),
    ("with_many", "with_windows"),
    ("chosen_by_others", "grouped"),
    ("chosen_by_others", "with_windows"),
    ("with_totals_of_others", "looked_up"),
    ("with_totals_of_others", "grouped"),
    ("grouped", "looked_up"),
    ("with_windows", "looked_up"),
    ("with_windows", "filtered", "looked_up"),
    ("with_windows", "grouped"),
    ("grouped", "with_windows"),
    ("looked_up", "first_of_groups"),
    ("first_of_groups", "looked_up"),
    ("looked_up", "distinct"),
    ("exploded", "looked_up"),
    ("exploded", "grouped"),
    ("looked_up", "exploded", "with_windows"),
    ("looked_up", "put_together_with_another"),
    ("put_together_with_another", "grouped"),
    ("put_together_with_another", "with_windows"),
    ("split_and_put_together", "looked_up", "grouped"),
)


class Pieces(Steps):
    """Makes trees over known inputs."""

    def random(self, first: str) -> Piece:
        """A tree that begins with an input: in steps as people take them, or in any."""
        piece = self.input(first)
        if self.rng.random() < 0.5:
            for name in self.rng.choice(_WAYS):
                made = getattr(self, name)(piece)
                piece = made if made and self._bounded(made) else piece
            return piece
        for _ in range(self.rng.choice((0, 1, 1, 2, 2, 3, 4))):
            piece = self.step(piece)
        return piece

    def _bounded(self, piece: Piece) -> bool:
        return piece.most <= _MOST_ROWS and len(inputs(piece.tree)) <= _MOST_INPUTS

    def step(self, piece: Piece) -> Piece:
        steps: dict[Callable[[Piece], Piece | None], float] = {
            self.looked_up: 5,
            self.looked_up_by_a_default: 1,
            self.with_totals_of_others: 2,
            self.with_many: 2,
            self.chosen_by_others: 1.5,
            self.crossed: 0.7,
            self.with_windows: 2,
            self.first_of_groups: 1,
            self.computed: 2,
            self.filtered: 1,
            self.split_and_put_together: 0.5,
            self.put_together_with_another: 1,
            self.grouped: 1.5,
            self.distinct: 0.7,
            self.exploded: 0.7,
        }
        while True:
            (kind,) = self.rng.choices(list(steps), list(steps.values()))
            made = kind(piece)
            if made and self._bounded(made):
                return made

    # -- with others -------------------------------------------------------------------------------------------

    def looked_up(self, piece: Piece) -> Piece | None:
        """Joined with at most one row of another input, or of the same."""
        right = self._other(piece)
        on = self._pairs(piece, right, right.key)
        if not on:
            return None
        if self.rng.random() < 0.2 and (further := self._pairs(piece, right)):
            on = tuple({r: (left, r) for left, r in (*further, *on)}.values())
        how = self.rng.choice(("left", "left", "left", "inner"))
        right, on = self._prefixed(right, on)
        tree = Join(piece.tree, right.tree, how, on)
        return replace(piece, tree=tree, single=piece.single and how == "left")

    def looked_up_by_a_default(self, piece: Piece) -> Piece | None:
        """Joined by a column of what was joined before, or by what stands for it where that was not found."""
        types = piece.tree.types
        joined = [n for n, t in types.items() if n.startswith("r") and t.nullable]
        targets = [one for one in self.known.values() if len(one.key) == 1]
        pairs = [
            (n, one) for n in joined for one in targets if types[n].family == one.types[one.key[0]].family
        ]
        if not pairs:
            return None
        name, target = self.rng.choice(pairs)
        filled, type_ = self.name("x"), Type(types[name].base)
        default: Expression = constant(self.rng, type_)
        # A key of the target may be too large for a column that refers to it.
        values = [v for v in target.values.get(target.key[0], ()) if type_.base != "int" or abs(v) < 2**31]
        if values:
            default = Literal(type_, self.rng.choice(values))
        default = Call(type_, "coalesce", (column(types, name), default))
        made = replace(piece, tree=Select(piece.tree, (*same(types), (filled, default))))
        right, on = self._prefixed(self.input(target.name), ((filled, target.key[0]),))
        return replace(made, tree=Join(made.tree, right.tree, "left", on))

    def with_totals_of_others(self, piece: Piece) -> Piece | None:
        """Joined with the totals of the rows that belong to it, if there are any."""
        right = self._other(piece)
        on = self._pairs(piece, right)
        if not on:
            return None
        right, on = self._prefixed(right, on)
        group = self.group(right, tuple(name for _, name in on))
        return replace(piece, tree=Join(piece.tree, group, "left", on))

    def with_many(self, piece: Piece) -> Piece | None:
        """Joined with as many rows as there are."""
        right = self._other(piece)
        on = self._pairs(piece, right)
        if not on:
            return None
        how, joined = self.rng.choice(("inner", "left", "full")), {name for _, name in on}
        # What the condition names is told by the row on the left already, if there is one.
        told = [how != "full" and name in joined for name in right.key]
        right, on = self._prefixed(right, on, rename=True if how == "full" else None)
        key = (*piece.key, *(n for n, is_told in zip(right.key, told, strict=True) if not is_told))
        tree = Join(piece.tree, right.tree, how, on)
        most = piece.most * max(1, right.most // 3)
        if how == "inner":
            return Piece(tree, key, False, most)
        return self.named_by(tree, key, most + right.most)

    def chosen_by_others(self, piece: Piece) -> Piece | None:
        right = self._other(piece)
        on = self._pairs(piece, right)
        if not on:
            return None
        tree = Join(piece.tree, right.tree, self.rng.choice(("semi", "anti")), on)
        return replace(piece, tree=tree, single=False)

    def crossed(self, piece: Piece) -> Piece | None:
        small = [name for name, one in self.known.items() if one.most <= 8]
        if not small:
            return None
        right, _ = self._prefixed(self.input(self.rng.choice(small)), (), rename=True)
        return Piece(
            Join(piece.tree, right.tree, "cross"), (*piece.key, *right.key), False, piece.most * right.most
        )

    def put_together_with_another(self, piece: Piece) -> Piece | None:
        """A union of two inputs, or of one with itself, with a column that says which is which."""
        other, types = self._other(piece), piece.tree.types
        keys = self._common_key(piece, other)
        if not keys:
            return None
        columns: list[tuple[str, Expression, Expression]] = []
        for name in self.rng.sample(list(types), min(4, len(types))):
            mine = widened(column(types, name))
            alike = [widened(column(other.tree.types, n)) for n in other.tree.types]
            alike = [item for item in alike if item.type.base == mine.type.base]
            columns.append((name, mine, self.rng.choice([*alike, constant(self.rng, mine.type)])))
        tag = self.name("kind")
        named = [(self.name("k"), mine, theirs) for mine, theirs in keys] + columns
        one = [(name, mine) for name, mine, _ in named]
        another = [(name, theirs) for name, _, theirs in named]
        parts = [
            Select(part.tree, ((tag, Literal(TEXT, label)), *shown))
            for part, label, shown in ((piece, "one", one), (other, "another", another))
        ]
        key = (tag, *(name for name, _, _ in named[: len(keys)]))
        return Piece(Union(tuple(parts)), key, False, piece.most + other.most)

    def _common_key(self, piece: Piece, other: Piece) -> list[tuple[Expression, Expression]] | None:
        """The keys of two pieces in the same types."""
        mine = [widened(column(piece.tree.types, name)) for name in piece.key]
        theirs = [widened(column(other.tree.types, name)) for name in other.key]
        if [item.type for item in mine] == [item.type for item in theirs]:
            return list(zip(mine, theirs, strict=True))
        one, another = as_text(mine), as_text(theirs)
        return [(one, another)] if one and another else None

    def _other(self, piece: Piece) -> Piece:
        """An input to be put beside a piece, sometimes filtered, looked up itself or with windows."""
        linked = [self.known[i].links.get(c, "") for i, c in self._origins(piece)]
        backwards = [n for n, one in self.known.items() if set(inputs(piece.tree)) & set(one.links.values())]
        names = [*self.known, *2 * [name for name in linked if name in self.known], *backwards]
        made = self.input(self.rng.choice(names))
        if self.rng.random() < 0.35:
            change = self.rng.choice((self.filtered, self.with_windows, self.computed, self.looked_up))
            made = change(made) or made
        return made

    def _origins(self, piece: Piece) -> list[tuple[str, str]]:
        return [found for name in piece.tree.types if (found := origin(piece.tree, name))]

    def _pairs(
        self, piece: Piece, right: Piece, wanted: tuple[str, ...] | None = None
    ) -> tuple[tuple[str, str], ...] | None:
        """Columns to join on: for all of those wanted on the right, or for one or two; those that refer to it first."""
        found = []
        if wanted is None:
            names = list(right.tree.types)
            wanted = tuple(self.rng.sample(names, min(self.rng.choice((1, 1, 1, 2)), len(names))))
        for name in wanted:
            family = right.tree.types[name].family
            alike = [n for n, t in piece.tree.types.items() if t.family == family]
            if not alike:
                return None
            linked = [n for n in alike if self._linked(piece, n, right, name)]
            found.append((self.rng.choice([*alike, *(linked * 10)]), name))
        return tuple(found)

    def _linked(self, piece: Piece, left: str, right: Piece, name: str) -> bool:
        """Whether one of two columns refers to the other's input, or both to the same."""
        one, other = origin(piece.tree, left), origin(right.tree, name)
        if one is None or other is None:
            return False
        to, back = self.known[one[0]].links.get(one[1]), self.known[other[0]].links.get(other[1])
        return to == other[0] or back == one[0] or (to is not None and to == back)

    def _prefixed(
        self, piece: Piece, on: tuple[tuple[str, str], ...], *, rename: bool | None = None
    ) -> tuple[Piece, tuple[tuple[str, str], ...]]:
        """A piece whose columns have names of their own, as they must beside another's; those joined on may keep theirs."""
        if rename is None:
            rename = self.rng.random() < 0.5
        joined, prefix = {name for _, name in on}, self.name("r")
        # A column that a condition names is there twice, so that it can be seen (and be a key) afterwards.
        items: list[tuple[str, Expression]] = [
            (f"{prefix}_{name}", Column(type_, name)) for name, type_ in piece.tree.types.items()
        ]
        kept = {name: f"{prefix}_on_{name}" if rename else name for name in joined}
        items += [(kept[name], Column(piece.tree.types[name], name)) for name in sorted(joined)]
        key = tuple(f"{prefix}_{name}" for name in piece.key)
        made = replace(piece, tree=Select(piece.tree, tuple(items)), key=key)
        return made, tuple((left, kept[right]) for left, right in on)
