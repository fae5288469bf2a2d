"""What the law says that a star shows, computed from what the batches found and from the trees of its functions.

Nothing of the platform is used here: this is the independent path that the engine is held against.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etl_assets_tests.law.functions import StarSpec
from etl_assets_tests.law.histories import Content, Key
from etl_assets_tests.law.interpret import interpret
from etl_assets_tests.law.models import Codes, TableSpec, Values


@dataclass(frozen=True)
class Batch:
    """A batch as it was committed: its number, and the contents of the tables that it read."""

    number: int
    tables: Mapping[str, Content]


@dataclass(frozen=True)
class Version:
    """A row of a fact."""

    record: int
    values: Values
    batch: int
    deleted: bool


@dataclass
class Shown:
    """A star table as of a batch. `current`: the rows that exist, by key. `left`: of members that are gone, the last
    values. `versions`: of a fact, all of them."""

    current: dict[Key, Values] = field(default_factory=dict)
    left: Mapping[Key, Values] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)


class Oracle:
    """The star of some functions, replayed from the first batch on. `codes`: the reference file as it is now."""

    def __init__(
        self,
        tables: Mapping[str, TableSpec],
        stars: Sequence[StarSpec],
        batches: Sequence[Batch],
        codes: Sequence[Codes] = (),
    ) -> None:
        self.tables = tables
        self.codes = [{"code": code, "label": label} for code, label in codes]
        self.stars = stars
        self.batches = batches
        self.sources: dict[str, set[str]] = {}
        for spec in stars:
            self.sources[spec.name] = {t for name in spec.parameters for t in self.sources.get(name, {name})}

    def shown(self) -> dict[str, Shown]:
        """Each star table as of the last batch."""
        shown = {spec.name: Shown() for spec in self.stars}
        for place in range(len(self.batches)):
            for spec in self.stars:
                if any(
                    name in batch.tables
                    for batch in self.batches[: place + 1]
                    for name in self.sources[spec.name]
                ):
                    self._step(spec, place, shown)
        return shown

    def _step(self, spec: StarSpec, place: int, shown: Mapping[str, Shown]) -> None:
        inputs = {name: self._seen(spec, name, place, shown) for name in spec.parameters}
        rows = interpret(spec.tree, inputs)
        now: dict[Key, Values] = {tuple(row[name] for name in spec.key): row for row in rows}
        assert len(now) == len(rows), f"{spec.name}: not told apart by {spec.key}"
        assert not any(None in key for key in now), f"{spec.name}: a key is NULL"
        before = shown[spec.name]
        gone = {key: row for key, row in before.current.items() if key not in now}
        if spec.kind == "fact":
            again = self._landed_again(spec, place)
            new = [key for key, row in now.items() if before.current.get(key) != row or key in again]
            self._record(spec, place, before, {key: now[key] for key in new}, gone)
        before.left = {key: row for key, row in {**before.left, **gone}.items() if key not in now}
        before.current = now

    def _record(
        self, spec: StarSpec, place: int, shown: Shown, new: Mapping[Key, Values], gone: Mapping[Key, Values]
    ) -> None:
        """Number what a batch brings, by the key."""
        record = max((version.record for version in shown.versions), default=0)
        if spec.one_by_one:
            record = self._recorded(spec.parameters[0], place)
        brought = [(key, row, False) for key, row in new.items()] + [
            (k, row, True) for k, row in gone.items()
        ]
        for key, row, deleted in sorted(brought, key=lambda entry: entry[0]):
            assert key not in new or key not in gone
            record += 1
            shown.versions.append(Version(record, row, self.batches[place].number, deleted))

    # -- what functions see --------------------------------------------------------------------------------------

    def _seen(
        self, spec: StarSpec, name: str, place: int, shown: Mapping[str, Shown]
    ) -> Sequence[Mapping[str, Any]]:
        if name == "codes":
            return self.codes
        if name in self.tables:
            typed = (self.tables[name].typed(row) for row in self._content(name, place).values())
            return [row for row in typed if row is not None]
        (made,) = [star for star in self.stars if star.name == name]
        if made.kind == "dimension":
            return [{**row, "deleted": False} for row in shown[name].current.values()]
        versions = shown[name].versions
        if name not in spec.versions_of:
            newest = {tuple(v.values[k] for k in made.key): v for v in versions}
            versions = [version for version in newest.values() if not version.deleted]
        return [{**v.values, made.record: v.record, "batch": v.batch, "deleted": v.deleted} for v in versions]

    def _content(self, name: str, place: int) -> Content:
        """A table as its last read found it; before it was first read, as that will find it."""
        earlier = [batch.tables[name] for batch in self.batches[: place + 1] if name in batch.tables]
        later = [batch.tables[name] for batch in self.batches[place:] if name in batch.tables]
        return earlier[-1] if earlier else later[0]

    def _landed_again(self, spec: StarSpec, place: int) -> set[Key]:
        """The keys of rows that the batch brought anew of the first table, if the fact's rows are these rows."""
        if not spec.carried or not place:
            return set()
        (name, *_), table = spec.parameters, self.tables[spec.parameters[0]]
        was, now = self._content(name, place - 1), self._content(name, place)
        again = [row for key, row in now.items() if was.get(key) != row]
        return {self._named(spec, typed) for row in again if (typed := table.typed(row)) is not None}

    def _named(self, spec: StarSpec, row: Values) -> Key:
        """The key that the fact's row has that is made of a row of the first table."""
        return tuple(row[spec.origins[name]] for name in spec.key)

    def _recorded(self, name: str, place: int) -> int:
        """How many row versions and deletions of a table the batches before recorded."""
        contents = [batch.tables[name] for batch in self.batches[:place] if name in batch.tables]
        count = 0
        held: Mapping[Key, Mapping[str, str | None]] = {}
        for content in contents:
            count += sum(held.get(key) != row for key, row in content.items())
            count += len(held.keys() - content.keys())
            held = content
        return count
