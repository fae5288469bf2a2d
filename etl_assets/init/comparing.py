"""Foreign keys whose ends are equal to PostgreSQL and are written differently: what the star has to do before it joins them."""

from collections.abc import Iterator, Mapping, Sequence

from etl_assets.init.catalog import ForeignKey
from etl_assets.init.declaring import Declared
from etl_assets.source.equality import BLANKS, End, unequal

Place = tuple[int, str]


def pairs(key: ForeignKey) -> Iterator[tuple[Place, Place]]:
    """The columns of a foreign key, each with the one that it refers to."""
    for own, other in zip(key.columns, key.target_columns, strict=True):
        yield (key.table, own), (key.target, other)


class Comparison:
    """Which columns are compared without trailing blanks (`trimmed`), and which foreign keys can't be compared.

    Whatever refers to a column that is trimmed is trimmed too, as is what that refers to. Only a text with significant blanks
    that tells the rows of its own table apart can't be: two of its rows might become one.
    """

    def __init__(self, tables: Mapping[int, Declared], keys: Sequence[ForeignKey]) -> None:
        self._tables = tables
        self.trimmed: set[Place] = set()
        found = [pair for key in keys for pair in pairs(key)]
        columns = {(oid, c.name): c for oid, declared in tables.items() for c in declared.columns}
        self._ends = {
            (oid, name): End(columns[oid, name].type, tables[oid].types[name], columns[oid, name].folds)
            for pair in found
            for oid, name in pair
        }
        before = -1
        while before < len(self.trimmed):
            before = len(self.trimmed)
            for own, other in found:
                self._trim(own, other)

    def _trim(self, own: Place, other: Place) -> None:
        is_padded = [place for place in (own, other) if self._ends[place].is_padded]
        together = not self.trimmed.isdisjoint((own, other))
        if is_padded and (together or unequal(self._ends[own], self._ends[other]) == BLANKS):
            self.trimmed |= set(is_padded)
            if own[1] not in self._tables[own[0]].key and other in is_padded:
                self.trimmed.add(own)

    def unequal(self, key: ForeignKey) -> str | None:
        """Why a star can't tell what a foreign key refers to; None where it can."""
        for own, other in pairs(key):
            why = unequal(self._ends[own], self._ends[other])
            if why and why != BLANKS:
                return why
            # What refers to a text is compared with it as a text, in which all blanks count.
            as_text = self._ends[own].is_padded and not self._ends[other].is_padded
            if (own in self.trimmed) != (other in self.trimmed) and not as_text:
                return BLANKS
        return None

    def of(self, declared: Declared) -> list[str]:
        """The columns of a table that are trimmed, in its order."""
        return [c.name for c in declared.columns if (declared.table.oid, c.name) in self.trimmed]
