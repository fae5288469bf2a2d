"""A star as it is proposed: its tables with their columns, joins and references, and why each is what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from etl_assets.init.declaring import Declared, Note

CALENDAR = "dim_date"


@dataclass(frozen=True)
class LeftJoin:
    """A left join. `left`: columns of what was joined so far; `right`: the key of the table; `columns`: others of it, and as
    what they are taken."""

    table: Declared
    left: tuple[str, ...]
    right: tuple[str, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class StarColumn:
    """A column of a star table. `source`: the column that it is, or of whose instants it is the day (`day`)."""

    name: str
    declared: str
    source: str
    description: str = ""
    references: str | None = None
    day: bool = False


@dataclass
class ProposedTable:
    """A star table to be written. `why` says what it was taken for; `record` is a fact's surrogate key. `days`: the columns
    that refer to the calendar, the most telling first; `amounts`: those that a report may add up. `likely`: columns that are
    called like the key of a dimension, without a foreign key. `trimmed`: of its inputs the columns that are compared without
    trailing blanks."""

    name: str
    table: Declared
    why: str
    record: str = ""
    key: tuple[str, ...] = ()
    columns: list[StarColumn] = field(default_factory=list)
    references: dict[tuple[str, ...], str] = field(default_factory=dict)
    joins: list[LeftJoin] = field(default_factory=list)
    days: list[str] = field(default_factory=list)
    amounts: list[str] = field(default_factory=list)
    likely: dict[str, str] = field(default_factory=dict)
    unshown: list[str] = field(default_factory=list)
    trimmed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_fact(self) -> bool:
        return bool(self.record)

    @property
    def base(self) -> str:
        """Its name without dim_ or fact_."""
        return self.name.partition("_")[2]

    @property
    def links(self) -> dict[tuple[str, ...], str]:
        """Columns -> the dimension that they refer to, the calendar apart."""
        single = {(c.name,): c.references for c in self.columns if c.references and c.references != CALENDAR}
        return single | self.references


@dataclass(frozen=True)
class Design:
    """The star: its tables, lookups that have none of their own with what they are joined into, and what to know."""

    dimensions: Sequence[ProposedTable]
    facts: Sequence[ProposedTable]
    joined: Mapping[str, Sequence[str]]
    notes: Sequence[Note]

    @property
    def has_calendar(self) -> bool:
        return any(fact.days for fact in self.facts)
