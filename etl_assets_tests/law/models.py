"""Random schemas of a source: lookups, hierarchies, bridge tables, headers with lines; keys of every form."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from etl_assets_tests.law.kinds import AMOUNT, DAY, INT, KEYS, LOOSE, PLAIN, TEXT, Kind, Misfit

Row = Mapping[str, str | None]
"""A row of the source: PostgreSQL's texts by column."""
Values = Mapping[str, Any]
"""A row as a star function sees it: typed values by column."""
Codes = tuple[str, str]
"""A row of the reference file: a code, and what it stands for."""


@dataclass(frozen=True)
class ColumnSpec:
    """A column of the source. `required`: declared without `?`, so that NULL does not fit. `used`: declared at all.
    `link`: the table whose key its values are taken from; they may lead nowhere."""

    name: str
    kind: Kind
    nullable: bool = True
    required: bool = False
    used: bool = True
    link: str | None = None

    @property
    def declared(self) -> str:
        return self.kind.declared + ("" if self.required else "?")

    def value(self, text: str | None) -> Any:
        """What a text means; `Misfit` if its declared type can't hold it."""
        if text is None:
            return Misfit if self.required else None
        return self.kind.meaning[text]

    def draw(self, rng: Random, *, fitting: bool = False) -> str | None:
        """A text that the source may hold, which mostly fits."""
        if (
            self.nullable
            and not (fitting and self.required)
            and rng.random() < (0.05 if self.required else 0.2)
        ):
            return None
        wrong = self.kind.misfits and not fitting and rng.random() < 0.1
        return rng.choice(self.kind.misfits if wrong else self.kind.fitting)


@dataclass(frozen=True)
class TableSpec:
    """A table of the source. `unique`: columns besides the key that have no value twice. `most`: its rows at the most."""

    name: str
    key: tuple[str, ...]
    columns: tuple[ColumnSpec, ...]
    unique: tuple[str, ...] = ()
    most: int = 10

    @cached_property
    def by_name(self) -> Mapping[str, ColumnSpec]:
        return {column.name: column for column in self.columns}

    @property
    def used(self) -> list[ColumnSpec]:
        return [column for column in self.columns if column.used]

    @property
    def declared(self) -> dict[str, str]:
        return {column.name: column.declared for column in self.used}

    def key_of(self, row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)

    def typed(self, row: Row) -> Values | None:
        """A row as star functions see it; None if it does not fit."""
        values = {column.name: column.value(row[column.name]) for column in self.used}
        return None if Misfit in values.values() else values

    @property
    def ddl(self) -> str:
        """As PostgreSQL creates it. Nothing refers to anything, as the source might not enforce it either."""
        parts = [f'"{c.name}" {c.kind.source}{"" if c.nullable else " NOT NULL"}' for c in self.columns]
        parts += [f'UNIQUE ("{name}")' for name in self.unique]
        key = ", ".join(f'"{name}"' for name in self.key)
        return f'CREATE TABLE "{self.name}" ({", ".join(parts)}, PRIMARY KEY ({key}))'


@dataclass(frozen=True)
class Model:
    """A source. `late`: the table that is declared, and first read, only after some batches; or none. `codes`: the rows of
    a reference file of the project, if there is one."""

    tables: Mapping[str, TableSpec]
    late: str | None
    codes: tuple[Codes, ...] = ()

    def __str__(self) -> str:
        lines = []
        for table in self.tables.values():
            late = "  (declared later)" if table.name == self.late else ""
            lines.append(f"{table.ddl}{late}")
            lines.append(f"    declared {table.declared}")
        return "\n".join(lines)


class _Maker:
    """Makes tables of one model."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.tables: dict[str, TableSpec] = {}

    def key(self, name: str, values: int) -> ColumnSpec:
        """A key with so few possible values that references meet it, and that keys come back."""
        kind = KEYS[self.rng.choice(("int", "int", "int", "bigint", "text"))]
        chosen = self.rng.sample(kind.values, min(values, len(kind.values)))
        return ColumnSpec(name, replace(kind, values=tuple(chosen)), nullable=False, required=True)

    def link(self, name: str, to: str, **options: Any) -> ColumnSpec:
        """A column that refers to the (single) key of another table."""
        (key,) = self.tables[to].key
        return ColumnSpec(name, self.tables[to].by_name[key].kind, link=to, **options)

    def others(self, least: int = 1, most: int = 3) -> list[ColumnSpec]:
        """Columns that mean nothing; their names may be those of other tables' columns, or SQL's own words."""
        names = self.rng.sample(("name", "v", "w", "amount", "order", "day", "last_update", "Flag"), most)
        found = []
        for name in names[: self.rng.randint(least, most)]:
            loose = self.rng.random() < 0.25
            kind = self.rng.choice(LOOSE if loose else PLAIN).few(self.rng)
            nullable = self.rng.random() < 0.7
            required = self.rng.random() < (0.3 if nullable else 0.7)
            found.append(ColumnSpec(name, kind, nullable, required))
        if self.rng.random() < 0.5:
            found.append(ColumnSpec("unseen", TEXT.few(self.rng), used=False))
        return found

    def add(self, name: str, key: tuple[str, ...], columns: list[ColumnSpec], **options: Any) -> str:
        self.tables[name] = TableSpec(name, key, tuple(columns), **options)
        return name

    # -- shapes --------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> str:
        most = self.rng.choice((3, 6))
        return self.add(name, ("id",), [self.key("id", most + 2), *self.others(1, 2)], most=most)

    def entity(self, name: str, *lookups: str) -> str:
        """A thing with a code of its own, perhaps a boss, and references."""
        most = self.rng.choice((6, 10, 16))
        columns = [self.key("id", most + 3)]
        self.add(name, ("id",), columns)
        columns += [self.link(f"{to}_id", to) for to in lookups]
        if self.rng.random() < 0.5:
            columns.append(self.link("boss", name))
        unique: tuple[str, ...] = ()
        if self.rng.random() < 0.5:
            columns.append(ColumnSpec("code", KEYS["text"], nullable=False, required=True))
            unique = ("code",)
        return self.add(name, ("id",), [*columns, *self.others()], unique=unique, most=most)

    def bridge(self, name: str, left: str, right: str) -> str:
        key = (f"{left}_id", f"{right}_id")
        columns = [
            self.link(column, to, nullable=False, required=True)
            for column, to in zip(key, (left, right), strict=True)
        ]
        return self.add(
            name, key, [*columns, *(self.others(1, 1) if self.rng.random() < 0.5 else [])], most=14
        )

    def lines(self, name: str, header: str, *lookups: str) -> str:
        key = (f"{header}_id", "line")
        columns = [
            self.link(key[0], header, nullable=False, required=True),
            ColumnSpec("line", replace(KEYS["int"], values=KEYS["int"].values[:3]), False, True),
            *(self.link(f"{to}_id", to, nullable=self.rng.random() < 0.5) for to in lookups),
            ColumnSpec("quantity", INT.few(self.rng), nullable=self.rng.random() < 0.5),
            ColumnSpec("price", AMOUNT.few(self.rng)),
        ]
        if self.rng.random() < 0.3:
            columns.append(ColumnSpec("shipped", DAY.few(self.rng)))
        columns += self.others(1, 1) if self.rng.random() < 0.3 else []
        return self.add(name, key, self.rng.sample(columns, len(columns)), most=16)


def random_model(rng: Random) -> Model:
    """Two to five tables that refer to one another."""
    make = _Maker(rng)
    first = make.lookup("cat")
    second = make.lookup("place") if rng.random() < 0.4 else None
    entity = make.entity("item", *(name for name in (first, second) if name and rng.random() < 0.8))
    if rng.random() < 0.5:
        make.bridge("item_cat", entity, first)
    if rng.random() < 0.6:
        header = make.entity("orders", *([entity] if rng.random() < 0.5 else []))
        make.lines("order_line", header, entity)
    late = rng.choice(list(make.tables)) if rng.random() < 0.3 else None
    return Model(make.tables, late, random_codes(rng) if rng.random() < 0.25 else ())


def random_codes(rng: Random) -> tuple[Codes, ...]:
    """A reference file: its codes occur among the texts of tables, too."""
    chosen = rng.sample(("a", "A", "é", "0", "b", "c", "NULL"), rng.randint(2, 5))
    return tuple((code, rng.choice(("one", "two", "it's"))) for code in chosen)
