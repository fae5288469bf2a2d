"""Random star tables: what each promises, and the function that makes it, from a tree."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

import narwhals as nw
import pandas as pd
import pyarrow as pa

from etl_assets_tests.law import relations
from etl_assets_tests.law.expressions import as_text, column
from etl_assets_tests.law.interpret import interpret
from etl_assets_tests.law.lazy import run
from etl_assets_tests.law.locality import groups_stay_together, rows_stay_alone
from etl_assets_tests.law.models import Model, TableSpec
from etl_assets_tests.law.pieces import Pieces
from etl_assets_tests.law.steps import Known, Piece
from etl_assets_tests.law.trees import (
    Column,
    Expression,
    Input,
    Relation,
    Select,
    Type,
    Types,
    inputs,
    origin,
    parts,
)

Kind = Literal["dimension", "fact"]
Engine = Literal["narwhals", "duckdb", "pandas", "arrow"]
_TAKEN = ("batch", "deleted")  # the platform's own columns


@dataclass(frozen=True)
class StarSpec:
    """A star table. `carried`: the key of the first parameter, if that is a source table, is its key, unchanged."""

    name: str
    kind: Kind
    key: tuple[str, ...]
    tree: Relation
    parameters: tuple[str, ...]
    rows: Literal["one per row", "any"] = "any"
    carried: bool = False
    engine: Engine = "narwhals"
    by: str | tuple[str, ...] | None = None
    versions_of: tuple[str, ...] = ()
    references: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    loosened: bool = False
    """Whether the declaration allows NULL where there is none, so that stand-ins can be put."""

    @property
    def types(self) -> Types:
        types = self.tree.types
        return {n: t.maybe(self.loosened) if n not in self.key else t for n, t in types.items()}

    @property
    def origins(self) -> Mapping[str, str]:
        """Of columns of the key that are the first parameter's, unchanged: which they are."""
        found = {name: origin(self.tree, name) for name in self.key}
        return {name: one[1] for name, one in found.items() if one and one[0] == self.parameters[0]}

    @property
    def one_by_one(self) -> bool:
        """Whether each row of the only parameter makes one row, does that alone, and gives it its key."""
        tree = self.tree
        while isinstance(tree, Select):
            tree = tree.of
        return self.carried and len(self.parameters) == 1 and isinstance(tree, Input)

    @property
    def record(self) -> str:
        return f"{self.name}_record"

    @property
    def published(self) -> dict[str, str]:
        """The columns that readers see, and their types."""
        declared = {name: type_.declared for name, type_ in self.types.items()}
        if self.kind == "dimension":
            return {**declared, "deleted": "boolean"}
        return {self.record: "bigint", **declared, "batch": "bigint", "deleted": "boolean"}

    def __str__(self) -> str:
        told = [self.kind, f"key={self.key}", f"rows={self.rows!r}", self.engine]
        told += [f"by={self.by!r}"] if self.by else []
        told += [f"versions_of={self.versions_of!r}"] if self.versions_of else []
        told += [f"references={dict(self.references)!r}"] if self.references else []
        types = {name: type_.declared for name, type_ in self.types.items()}
        body = str(self.tree).replace("\n", "\n    ")
        return f"{self.name}({', '.join(self.parameters)}): {', '.join(told)}\n    {types}\n    {body}"


# -- functions ---------------------------------------------------------------------------------------------------


class Body:
    """What a star function does. It is neither a function nor declared data, so that a code version does not go into
    it: all of this package would be read for every table."""

    def __init__(self, spec: StarSpec) -> None:
        self.spec = spec

    def __call__(self, frames: Mapping[str, Any]) -> Any:
        spec = self.spec
        if spec.engine == "pandas":
            return in_pandas(spec.tree, spec.types, frames)
        if spec.engine == "arrow":
            return in_arrow(spec.tree, spec.types, frames)
        if spec.engine == "duckdb":
            return relations.run(spec.tree, {name: nw.to_native(frame) for name, frame in frames.items()})
        return run(spec.tree, frames)


def function(spec: StarSpec) -> Any:
    """The star function of a table, as if it were written by hand: parameters by name, each with a type."""
    body, meaning = Body(spec), f"{spec.engine} {spec.tree!r}"

    def made(**frames: Any) -> Any:
        assert meaning  # a constant that it uses: this is what its version is told by
        return body(frames)

    kind = {"pandas": pd.DataFrame, "arrow": pa.Table}.get(spec.engine, nw.LazyFrame)
    made.__name__ = made.__qualname__ = spec.name
    made.__annotations__ = {**dict.fromkeys(spec.parameters, kind), "return": kind}
    parameter = inspect.Parameter.POSITIONAL_OR_KEYWORD
    made.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, parameter, annotation=kind) for name in spec.parameters]
    )
    return made


def in_pandas(tree: Relation, types: Types, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """As somebody does it who loops over the rows of data frames."""
    held = {
        name: pa.Table.from_pandas(frame, preserve_index=False).to_pylist() for name, frame in frames.items()
    }
    rows = interpret(tree, held)
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in types})


def in_arrow(tree: Relation, types: Types, frames: Mapping[str, pa.Table]) -> pa.Table:
    rows = interpret(tree, {name: frame.to_pylist() for name, frame in frames.items()})
    return pa.Table.from_pylist(rows, pa.schema([(name, arrow_type(type_)) for name, type_ in types.items()]))


def arrow_type(type_: Type) -> pa.DataType:
    if type_.family == "numeric":
        precision, scale = type_.base.removeprefix("numeric(").removesuffix(")").split(",")
        return pa.decimal128(int(precision), int(scale))
    return {
        "int": pa.int32(),
        "bigint": pa.int64(),
        "text": pa.string(),
        "date": pa.date32(),
        "boolean": pa.bool_(),
        "timestamp": pa.timestamp("us"),
    }[type_.base]


# -- random star tables ------------------------------------------------------------------------------------------


def known_table(table: TableSpec, key: tuple[str, ...]) -> Known:
    types = {c.name: Type(c.kind.declared, not c.required) for c in table.used}
    links = {c.name: c.link for c in table.used if c.link}
    values = {name: tuple(table.by_name[name].kind.meaning.values()) for name in key}
    return Known(table.name, types, key, links, table.most, values)


def known_star(spec: StarSpec, most: int, *, versions: bool) -> Known:
    """A star table as an input: of a fact its current rows, or all versions."""
    if not versions:
        return Known(spec.name, spec.types, spec.key, {}, most)
    also = {spec.record: Type("bigint"), "deleted": Type("boolean"), "batch": Type("bigint")}
    return Known(spec.name, {**spec.types, **also}, (spec.record,), {}, 3 * most)


class Stars:
    """Makes the star tables of a model."""

    def __init__(self, rng: Random, model: Model, *, late: bool) -> None:
        self.rng = rng
        self.model = model
        tables = {n: t for n, t in model.tables.items() if late or n != model.late}
        # Rows may be told apart by what the source gives them for a name, rather than by its primary key.
        by_code = {n: bool(t.unique) and rng.random() < 0.5 for n, t in tables.items()}
        self.known = {n: known_table(t, t.unique if by_code[n] else t.key) for n, t in tables.items()}
        self.tables = list(self.known)
        if model.codes:
            self.known["codes"] = Known(
                "codes", {"code": Type("text"), "label": Type("text")}, ("code",), {}, 6
            )
        self._made = 0

    def table(self, name: str, kind: Kind, first: str | None = None) -> StarSpec:
        """A table made of source tables."""
        piece = self._pieces(self.known).random(first or self.rng.choice(self.tables))
        return self.finished(name, kind, piece)

    def summary(self, name: str, kind: Kind, stars: Sequence[StarSpec]) -> StarSpec:
        """A table made of star tables, perhaps with source tables."""
        of = self.rng.choice(stars)
        versions = of.kind == "fact" and self.rng.random() < 0.5
        known = {of.name: known_star(of, 40, versions=versions)}
        others = [known_star(s, 40, versions=False) for s in stars if s.name != of.name]
        others += list(self.known.values())
        known |= {one.name: one for one in self.rng.sample(others, self.rng.choice((0, 0, 1)))}
        pieces = self._pieces(known)
        piece = pieces.random(of.name)
        if self.rng.random() < 0.3:
            piece = pieces.grouped(piece) or piece
        spec = self.finished(name, kind, piece)
        return replace(spec, versions_of=(of.name,) if versions else ())

    def _pieces(self, known: Mapping[str, Known]) -> Pieces:
        self._made += 1
        return Pieces(self.rng, known, 20 * self._made)

    def finished(self, name: str, kind: Kind, piece: Piece) -> StarSpec:
        """A tree with its last step: the columns that are shown, with the key among them."""
        tree, key = self._shown(name, piece)
        first, *others = inputs(piece.tree)
        single = piece.single and self.rng.random() < 0.75
        if not single and self.rng.random() < 0.3:
            first, *others = self.rng.sample([first, *others], 1 + len(others))
        spec = StarSpec(
            name,
            kind,
            key,
            tree,
            (first, *others),
            rows="one per row" if single else "any",
            carried=single and self._carried(tree, key, first),
            loosened=self.rng.random() < 0.5,
        )
        return self._engine(spec)

    def _carried(self, tree: Relation, key: tuple[str, ...], first: str) -> bool:
        """Whether the key is the source's own, unchanged."""
        if first not in self.model.tables:
            return False
        names = self.model.tables[first].key
        return {origin(tree, name) for name in key} == {(first, name) for name in names}

    def _shown(self, name: str, piece: Piece) -> tuple[Select, tuple[str, ...]]:
        """The key, perhaps as one text, under names of their own, and some of the other columns."""
        types = piece.tree.types
        told: list[Expression] = [column(types, n) for n in piece.key]
        text = as_text(told)
        if text and self.rng.random() < 0.15:
            told = [text]
        rename = self.rng.random() < 0.6 or len(told) < len(piece.key)
        keys = [
            (f"{name}_k{i}" if rename else n, p)
            for i, (n, p) in enumerate(zip(piece.key, told, strict=False))
        ]
        rest = [n for n in types if n not in piece.key or rename]
        made = set(rest) - set(self._given(piece))
        shown = [n for n in rest if self.rng.random() < (0.8 if n in made else 0.35)]
        items = [*keys, *((f"{n}_then" if n in _TAKEN else n, Column(types[n], n)) for n in shown)]
        key = tuple(n for n, _ in keys)
        if self.rng.random() < 0.3:
            key = tuple(self.rng.sample(key, len(key)))
        return Select(piece.tree, tuple(self.rng.sample(items, len(items)))), key

    def _given(self, piece: Piece) -> Types:
        """The columns that a piece began with."""
        tree: Relation = piece.tree
        while below := parts(tree):
            tree = below[0]
        return tree.types

    def _engine(self, spec: StarSpec) -> StarSpec:
        """Narwhals mostly, or SQL; else pandas or Arrow, with a declaration of what a change reaches, if there is a true
        one."""
        kinds: list[Engine] = ["narwhals", "duckdb", "pandas", "arrow"]
        (engine,) = self.rng.choices(kinds, (12, 4, 1.5, 1.5))
        spec = replace(spec, engine=engine)
        if engine in ("narwhals", "duckdb"):
            return spec
        # Which column is which can't be told of what is computed in memory.
        spec = replace(spec, carried=False)
        if self.rng.random() < 0.2:
            return spec
        first = spec.parameters[0]
        if rows_stay_alone(spec.tree, first) and self.rng.random() < 0.8:
            return replace(spec, by="row")
        columns = list(self.known[first].types) if first in self.tables else []
        for names in self.rng.sample([(n,) for n in columns], len(columns)):
            if groups_stay_together(spec.tree, first, names):
                return replace(spec, by=names)
        return spec


def random_star(rng: Random, model: Model, *, late: bool, prefix: str = "") -> list[StarSpec]:
    """One to four tables; those that are made of others come last."""
    make = Stars(rng, model, late=late)
    kinds: list[Kind] = ["dimension", "fact", *rng.choice(([], ["dimension"], ["fact"]))]  # type: ignore[list-item]
    stars = [make.table(f"{prefix}{kind[:4]}_{i}", kind) for i, kind in enumerate(kinds)]
    stars = [refer(rng, spec, stars) for spec in stars]
    if rng.random() < 0.5:
        kind = rng.choice(("dimension", "dimension", "fact"))
        stars.append(make.summary(f"{prefix}{kind[:4]}_sum", kind, stars))  # type: ignore[arg-type]
    return stars


def refer(rng: Random, spec: StarSpec, stars: Sequence[StarSpec]) -> StarSpec:
    """A table whose columns refer to dimensions, where the types allow that and stand-ins can be put. A dimension refers
    to those before it."""
    found: dict[tuple[str, ...], str] = {}
    for dimension in stars:
        if spec.kind == "dimension" and dimension.name >= spec.name:
            continue
        if dimension.kind == "fact" or not dimension.loosened or rng.random() < 0.5:
            continue
        key = [dimension.types[name] for name in dimension.key]
        if all(type_.family in ("int", "text") for type_ in key):
            names = [_like(rng, spec, type_) for type_ in key]
            columns = tuple(name for name in names if name)
            if len({*columns}) == len(key) and columns not in found:
                found[columns] = dimension.name
    return replace(spec, references=found)


def _like(rng: Random, spec: StarSpec, type_: Type) -> str | None:
    """A column of a type; of a dimension one that a stand-in can leave open."""
    keys = spec.key if spec.kind == "dimension" else ()
    alike = [
        n
        for n, t in spec.types.items()
        if t.base == type_.base and n not in keys and (t.nullable or not keys)
    ]
    return rng.choice(alike) if alike else None
