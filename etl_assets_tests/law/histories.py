"""Random histories of a source, as a list of what each batch finds: contents of tables, in PostgreSQL's texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any

from etl_assets_tests.law.kinds import Misfit
from etl_assets_tests.law.models import Model, Row, TableSpec

Key = tuple[Any, ...]
Content = Mapping[Key, Row]
"""The rows of a table by their key."""


@dataclass(frozen=True)
class Found:
    """What a batch found: the contents of the tables that it read, and what all of them held (`source`). `derived`: star
    and warehouse are brought up to it."""

    tables: Mapping[str, Content]
    source: Mapping[str, Content]
    derived: bool = True


@dataclass
class Source:
    """A source that changes. What it holds may be looked at, and is replaced rather than changed."""

    rng: Random
    model: Model
    tables: dict[str, Content] = field(default_factory=dict)

    def begin(self) -> None:
        """Fill the tables; now and then one is empty."""
        for table in self.model.tables.values():
            rows = 0 if self.rng.random() < 0.06 else self.rng.randint(table.most * 2 // 3, table.most)
            self._put(table, {}, rows)

    def change(self) -> None:
        """What happens until the next batch: mostly little and in one table, so that nothing else brings it to light."""
        names = list(self.model.tables)
        much = self.rng.random() < 0.3
        for name in names if much else self.rng.sample(names, self.rng.choice((1, 1, 1, min(2, len(names))))):
            table = self.model.tables[name]
            for _ in range(self.rng.choice((0, 1, 2, 3, 6) if much else (1, 1, 1, 2))):
                rows = dict(self.tables[name])
                kind = self.rng.choices(
                    (
                        self._insert, self._update, self._update, self._null, self._repoint, self._touch, self._move,
                        self._swap, self._delete, self._mend, self._spoil,
                    ),
                    (4, 4, 2, 1, 3, 1, 1, 1, 2.5, 2, 0.7),
                )[0]  # fmt: skip
                kind(table, rows)
                self.tables[name] = MappingProxyType(rows)

    def _put(self, table: TableSpec, rows: dict[Key, Row], count: int) -> None:
        for _ in range(9 * count):
            if len(rows) < count:
                self._insert(table, rows)
        self.tables[table.name] = MappingProxyType(rows)

    # -- what happens to a row -----------------------------------------------------------------------------------

    def _insert(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        if len(rows) >= table.most:
            return
        row = {
            column.name: column.draw(self.rng, fitting=self.rng.random() < 0.5) for column in table.columns
        }
        if table.key_of(row) not in rows and self._free(table, rows, row):
            rows[table.key_of(row)] = row

    def _update(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        """Other values of some columns, keys apart; perhaps the same as before."""
        if changed := self._some(table, rows):
            key, row = changed
            others = [c for c in table.columns if c.name not in table.key]
            for column in self.rng.sample(others, min(len(others), self.rng.choice((1, 1, 2, 5)))):
                row[column.name] = column.draw(self.rng)
            self._replace(table, rows, key, row)

    def _null(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        nullable = [c.name for c in table.columns if c.nullable]
        if nullable and (changed := self._some(table, rows)):
            key, row = changed
            row[self.rng.choice(nullable)] = None
            self._replace(table, rows, key, row)

    def _repoint(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        """A reference to another row; in a bridge table that changes the key."""
        links = [c for c in table.columns if c.link]
        if links and (changed := self._some(table, rows)):
            key, row = changed
            link = self.rng.choice(links)
            there = [found[0] for found in self.tables.get(link.link or "", {}) if len(found) == 1]
            row[link.name] = self.rng.choice(there) if there else link.draw(self.rng)
            self._replace(table, rows, key, row)

    def _touch(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        """Another value of a column that nobody declared."""
        if "unseen" in table.by_name and (changed := self._some(table, rows)):
            key, row = changed
            row["unseen"] = table.by_name["unseen"].draw(self.rng)
            self._replace(table, rows, key, row)

    def _move(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        """Another key."""
        if changed := self._some(table, rows):
            key, row = changed
            for name in table.key:
                row[name] = table.by_name[name].draw(self.rng)
            self._replace(table, rows, key, row)

    def _swap(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        """Two rows take each other's key, or each other's code."""
        if len(rows) < 2:
            return
        one, other = self.rng.sample(list(rows), 2)
        names = self.rng.choice((table.key, table.unique or table.key))
        a, b = dict(rows.pop(one)), dict(rows.pop(other))
        for name in names:
            a[name], b[name] = b[name], a[name]
        rows[table.key_of(a)], rows[table.key_of(b)] = a, b

    def _delete(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        if rows:
            del rows[self.rng.choice(list(rows))]

    def _mend(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        """A row that did not fit fits again."""
        wrong = [key for key, row in rows.items() if table.typed(row) is None]
        if wrong:
            key = self.rng.choice(wrong)
            mended = {
                name: text
                if table.by_name[name].value(text) is not Misfit
                else table.by_name[name].draw(self.rng, fitting=True)
                for name, text in rows[key].items()
            }
            self._replace(table, rows, key, mended)

    def _spoil(self, table: TableSpec, rows: dict[Key, Row]) -> None:
        """A value that does not fit, or NULL where that does not."""
        loose = [c for c in table.used if c.kind.misfits or (c.nullable and c.required)]
        if loose and (changed := self._some(table, rows)):
            key, row = changed
            column = self.rng.choice(loose)
            row[column.name] = self.rng.choice(column.kind.misfits) if column.kind.misfits else None
            self._replace(table, rows, key, row)

    # -- what it needs -------------------------------------------------------------------------------------------

    def _some(self, table: TableSpec, rows: Mapping[Key, Row]) -> tuple[Key, dict[str, str | None]] | None:
        if not rows:
            return None
        key = self.rng.choice(list(rows))
        return key, dict(rows[key])

    def _replace(self, table: TableSpec, rows: dict[Key, Row], key: Key, row: Row) -> None:
        """Put a row in the place of another, unless its key or its code is taken."""
        others = {k: r for k, r in rows.items() if k != key}
        if table.key_of(row) not in others and self._free(table, others, row):
            del rows[key]
            rows[table.key_of(row)] = row

    def _free(self, table: TableSpec, others: Mapping[Key, Row], row: Row) -> bool:
        return all(row[name] not in {other[name] for other in others.values()} for name in table.unique)


def random_history(rng: Random, model: Model, *, late_from: int, batches: int) -> list[Found]:
    """What each batch finds. The table that is declared later is read from a batch on; some batches read some tables
    only, and after some nothing is derived."""
    source = Source(rng, model)
    source.begin()
    history: list[Found] = []
    for number in range(batches):
        if number:
            source.change()
        names = [name for name in model.tables if name != model.late or number >= late_from]
        if number and number != late_from and rng.random() < 0.2:
            names = rng.sample(names, rng.randint(1, len(names)))
        derived = number in (batches - 1, late_from) or rng.random() < 0.55
        held = dict(source.tables)
        history.append(Found({name: held[name] for name in names}, held, derived))
    return history
