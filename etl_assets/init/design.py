"""What becomes a fact, what a dimension, and why: decided by foreign keys, days, amounts and sizes.

    fact        refers to others and has a day or an amount, or ties several of them together; its header is joined to it
    dimension   is referred to, or has neither
    lookup      a small table of a few columns that dimensions refer to: it is joined into each of them, and is a dimension
                of its own only where a fact refers to it, since a fact refers to dimensions only

Only foreign keys become references of the star. What merely looks like one helps to tell facts from dimensions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from etl_assets.init.catalog import CatalogColumn, ForeignKey
from etl_assets.init.comparing import Comparison
from etl_assets.init.declaring import Declared, Note, snake, unique
from etl_assets.init.names import (
    LINKS,
    RESERVED,
    bare,
    counts_lines,
    day_of,
    is_named_after,
    nullable,
    several,
    shortened,
    singulars,
    star_columns,
    stem_of,
    without_prefix,
)
from etl_assets.init.proposal import CALENDAR, Design, LeftJoin, ProposedTable, StarColumn
from etl_assets.source.equality import BLANKS

_AUDIT = re.compile(
    r"(?i)creat|updat|modif|insert|(^|_)write_|written|last_?(chang|login|sign_?in|seen|used)|current_sign_in|changed|synced|loaded"
    r"|(^|_)(deleted|discarded|archived)(_|$)"
)
_MADE = re.compile(r"(?i)creat|insert")
_QUANTITY = re.compile(
    r"(?i)(^|_)(qty|quantity|quantities|amount|units|count|number_of|num|total|points|cents|on_hand|hours|minutes|seconds|duration)(_|$)"
)
_UNSUMMED = re.compile(
    r"(?i)price|rate|ratio|percent|pct|share|score|latitude|longitude|(^|_)(lat|lng|lon)(_|$)"
)
# What a document comes to: a thing has a price, and no total.
_TOTAL = re.compile(r"(?i)(^|_)(amount|total|subtotal|sum)(_|$)")
# Tables of days, as a source that is a warehouse itself has one.
_DAYS = re.compile(r"((dim|d)_)?(date|calendar|day)s?(_dim)?")
# What a person, a thing or a place is called by. Something that happened has no name.
_NAME = re.compile(r"(first|last|full|sur)?_?name|title|titel|bezeichnung|nombre|nom|nome|label")
_INTEGERS = {"smallint", "int", "bigint"}
_MOMENTS = {"date", "timestamp", "timestamptz"}
_UNSTARRED = {"bytea", "xml"}  # types of what nobody groups, counts or reads in a star
_DERIVED = {"tsvector"}
_LOOKUP_COLUMNS, _LOOKUP_ROWS = 3, 100_000
_JOINS = 6  # into one dimension, and how deep
_DEPTH = 3
_AMOUNTS = 5  # that a report adds up


def design(
    tables: Sequence[Declared], foreign_keys: Sequence[ForeignKey], settled: Mapping[int, bool] | None = None
) -> Design:
    """The star of the declared tables. `settled`: which of them are facts, and which are not, whatever they look like."""
    return _Designer(tables, foreign_keys).design(settled or {})


class _Designer:
    def __init__(self, tables: Sequence[Declared], foreign_keys: Sequence[ForeignKey]) -> None:
        self.tables = {declared.table.oid: declared for declared in tables}
        self.keys: dict[int, list[ForeignKey]] = {oid: [] for oid in self.tables}
        for one in foreign_keys:
            if one.table != one.target and self._is_read(one):
                self.keys[one.table].append(one)
        self.comparison = Comparison(self.tables, [key for keys in self.keys.values() for key in keys])
        self.called: dict[tuple[str, str], list[int]] = {}
        for oid, declared in self.tables.items():
            for form in singulars(snake(declared.table.name)) if len(declared.key) == 1 else ():
                self.called.setdefault((declared.table.schema, form), []).append(oid)
        self.likely = {oid: list(self._likely(declared)) for oid, declared in self.tables.items()}
        self.used: dict[int, list[int]] = {oid: [] for oid in self.tables}
        for oid in self.tables:
            for one in self._links(oid):
                if oid not in self.used[one.target]:
                    self.used[one.target].append(oid)
        self.headers = {
            oid: header for oid in self.tables if (header := self._header(self.tables[oid])) is not None
        }
        self.why: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.joined: dict[str, list[str]] = {}

    def _is_read(self, key: ForeignKey) -> bool:
        """Whether both ends of a foreign key are declared."""
        return (
            {key.table, key.target} <= self.tables.keys()
            and set(key.columns) <= self.tables[key.table].types.keys()
            and set(key.target_columns) <= self.tables[key.target].types.keys()
        )

    def _is_joined(self, key: ForeignKey) -> bool:
        """Whether a join by a foreign key finds the one row that it refers to."""
        return set(key.target_columns) == set(self.tables[key.target].key) and not self.comparison.unequal(
            key
        )

    def design(self, settled: Mapping[int, bool]) -> Design:
        facts = [oid for oid in self.tables if settled.get(oid, self._is_fact(oid))] or self._largest()
        lookups = {oid for oid in self.tables if oid not in facts and self._is_lookup(oid, set(facts), ())}
        referred = {key.target for fact in facts for key in self._all_keys(fact)}
        roots = [oid for oid in self.tables if oid not in facts and (oid not in lookups or oid in referred)]
        reached = {key.target for oid in roots for key in self._reached(oid, lookups)}
        alone = lookups - set(roots) - reached
        dimensions = [oid for oid in self.tables if oid in roots or oid in alone]
        self._name(dimensions, facts)
        made = [self._dimension(oid, lookups) for oid in dimensions]
        events = [self._fact(oid) for oid in facts]
        for one in [*made, *events]:
            inputs = [one.table, *(join.table for join in one.joins)]
            one.trimmed = {t.name: columns for t in inputs if (columns := self.comparison.of(t))}
        return Design(made, events, self.joined, list(self._notes()))

    # -- what is what ------------------------------------------------------------------------------------------------

    def _links(self, oid: int) -> list[ForeignKey]:
        """What a table refers to, by foreign keys or by what looks like them."""
        return [*self.keys[oid], *self.likely[oid]]

    def _likely(self, declared: Declared) -> Iterator[ForeignKey]:
        """Columns named like the key of another table, and of its type, that no foreign key covers."""
        oid = declared.table.oid
        covered = {name for key in self.keys[oid] for name in key.columns}
        for column in declared.columns:
            if column.name in covered or not LINKS.search(column.name):
                continue
            stem, family = stem_of(column.name), snake(declared.table.name).partition("_")[0]
            forms = (stem, f"{family}_{stem}")  # wp_postmeta.post_id is of wp_posts
            for target in (
                one for form in forms for one in self.called.get((declared.table.schema, form), ())
            ):
                other = self.tables[target]
                (key,) = other.key
                is_named = snake(key) == snake(column.name) or snake(key) in {"id", "key", "code", "no", "nr"}
                is_alike = bare(other.types[key]) == bare(declared.types[column.name])
                if target != oid and is_named and is_alike:
                    yield ForeignKey(oid, (column.name,), target, (key,))
                    break

    def _header(self, lines: Declared) -> ForeignKey | None:
        """The foreign key of lines to their header: it is a part of their key, or they are named after it."""
        keys = self.keys[lines.table.oid]
        if self._is_bridge(lines.table.oid):
            return None
        able = [key for key in keys if self._is_joined(key) and self._happened(self.tables[key.target])]
        name = snake(lines.table.name)
        named = [
            key
            for key in able
            if is_named_after(name, snake(self.tables[key.target].table.name))
            and (not self._has_name(self.tables[key.target]) or self._is_document(key.target, lines))
        ]
        identifying = [key for key in able if self._is_identifying(key, lines)]
        # Of several the one that the key begins with.
        identifying.sort(key=lambda key: lines.key[0] not in key.columns)
        return next(iter([*named, *identifying]), None)

    def _is_document(self, oid: int, lines: Declared) -> bool:
        """Whether a table is what its lines make a document: an order that is called S00042 is no thing, but for its name."""
        declared = self.tables[oid]
        others = {key.target for key in self._events_links(oid)}
        return bool(self._totals(declared) and len(others) > 1 and self._amounts(lines))

    def _totals(self, declared: Declared) -> list[CatalogColumn]:
        return [c for c in self._amounts(declared) if _TOTAL.search(snake(c.name))]

    def _is_identifying(self, key: ForeignKey, lines: Declared) -> bool:
        """Whether a foreign key is the part of a key that lines share. What a day tells apart are states, and no lines."""
        header = self.tables[key.target]
        rest = [c for c in lines.columns if c.name in set(lines.key) - set(key.columns)]
        if (
            not rest
            or not set(key.columns) < set(lines.key)
            or self._has_name(header)
            or not self._amounts(lines)
        ):
            return False
        if any(bare(lines.types[c.name]) in _MOMENTS for c in rest):
            return False
        is_counted = [bare(lines.types[c.name]) in _INTEGERS and counts_lines(c.name) for c in rest] == [True]
        return is_counted or len(self.keys[key.target]) > 1

    def _happened(self, declared: Declared) -> list[CatalogColumn]:
        """The days of an event: of what has amounts and no other day, the one on which its row was made."""
        if (moments := self._moments(declared)) or not self._amounts(declared):
            return moments
        return [c for c in declared.columns if _is_audit(c, declared) and _MADE.search(c.name)][:1]

    def _events_links(self, oid: int) -> list[ForeignKey]:
        """What a table refers to, other than who wrote its row."""
        return [key for key in self._links(oid) if not all(_AUDIT.search(name) for name in key.columns)]

    def _has_day(self, oid: int) -> bool:
        """Whether a table has a day, or refers to one in a table of days."""
        return bool(self._moments(self.tables[oid])) or any(
            _DAYS.fullmatch(snake(self.tables[key.target].table.name))
            and self._moments(self.tables[key.target])
            for key in self.keys[oid]
        )

    def _is_bridge(self, oid: int) -> bool:
        return self._is_tied(oid) and not self._amounts(self.tables[oid])

    def _is_tied(self, oid: int) -> bool:
        """Whether the key of a table is made of several references."""
        declared = self.tables[oid]
        linked = {name for key in self._links(oid) for name in key.columns}
        own = [key for key in self._links(oid) if set(key.columns) <= set(declared.key)]
        return len(own) > 1 and set(declared.key) <= linked

    def _is_fact(self, oid: int) -> bool:
        """Whether a table is a fact; why it is what it is is noted."""
        declared, links = self.tables[oid], self._events_links(oid)
        amounts = self._amounts(declared)
        users = [self.tables[one].shown for one in self.used[oid]]
        lines = [self.tables[one].shown for one, key in self.headers.items() if key.target == oid]
        others = list(dict.fromkeys(self.tables[key.target].shown for key in links))
        has = " and ".join(
            [*(["a day"] if self._has_day(oid) else []), *(["amounts"] if amounts else [])]
        )  # what tells an event
        refers = f"it refers to {several(others)}"
        if lines:
            day = "a day" if self._has_day(oid) else "the day that it was made"
            self.why[oid] = (
                f"A fact: the header of {several(lines)}, with {day}{' and amounts' if amounts else ''}."
            )
            return True
        if users:
            has_happened = self._has_day(oid) and (amounts or len(users) == 1)
            is_measured = amounts and self._is_tied(oid)
            # Who is referred to by more than it refers to itself is what events are about.
            least = 1 if has_happened and self._totals(declared) else 2
            is_event = len(links) >= max(least, len(users)) and (has_happened or is_measured)
            is_event = (is_event and not self._has_name(declared)) or (amounts and oid in self.headers)
            verb = "refers" if len(users) == 1 else "refer"
            self.why[oid] = (
                f"A fact: {refers}, and has {has}, though {several(users)} {verb} to it."
                if is_event
                else f"A dimension: {several(users)} {verb} to it."
            )
            return bool(is_event)
        if self._is_bridge(oid):
            tied = (
                f"{several(others)} together"
                if len(others) > 1
                else f"rows of {several(others)} to one another"
            )
            self.why[oid] = f"A fact without amounts, a bridge: its key ties {tied}."
            return True
        if links and has:
            self.why[oid] = f"A fact: {refers}, and has {has}; nothing refers to it."
            return True
        if len(links) > 1:
            self.why[oid] = f"A fact: {refers}; nothing refers to it."
            return True
        if self._has_day(oid) and amounts:
            self.why[oid] = f"A fact: it has {has}; nothing refers to it."
            return True
        self.why[oid] = "A dimension: it has no day beside an amount, and does not tie others together."
        return False

    def _largest(self) -> list[int]:
        """The table that is the fact where none looks like one."""
        if not self.tables:
            return []
        free = [oid for oid in self.tables if not self.used[oid]] or list(self.tables)
        chosen = max(free, key=lambda oid: (self.tables[oid].table.rows, len(self.tables[oid].types)))
        self.why[chosen] = (
            "The fact, since there must be one to report on: the largest that is not referred to."
        )
        return [chosen]

    def _is_lookup(self, oid: int, facts: set[int], path: tuple[int, ...]) -> bool:
        """Whether a table is referred to, small, and has but a few columns; it may refer to other lookups."""
        declared = self.tables[oid]
        if oid in facts or oid in path or not self.used[oid] or declared.table.rows > _LOOKUP_ROWS:
            return False
        return (
            len(self._told(declared)) <= _LOOKUP_COLUMNS
            and not self._moments(declared)
            and all(self._is_lookup(key.target, facts, (*path, oid)) for key in self.keys[oid])
        )

    def _told(self, declared: Declared) -> list[CatalogColumn]:
        """The columns that say something of a member: no key or other identifier, no reference, no audit, nothing that a star
        does not show."""
        links = {name for key in self.keys[declared.table.oid] for name in key.columns}
        return [
            c
            for c in declared.columns
            if c.name not in {*declared.key, *links}
            and bare(declared.types[c.name]) != "uuid"
            and not _is_audit(c, declared)
            and _is_shown(c, declared)
        ]

    def _moments(self, declared: Declared) -> list[CatalogColumn]:
        """Columns with a day on which something happened, other than to the row."""
        return [
            c
            for c in declared.columns
            if bare(declared.types[c.name]) in _MOMENTS and not _AUDIT.search(c.name)
        ]

    def _amounts(self, declared: Declared) -> list[CatalogColumn]:
        """Columns that can be added up: decimals and quantities that are neither key nor reference."""
        links = {name for key in self._links(declared.table.oid) for name in key.columns}
        return [
            c
            for c in declared.columns
            if c.name not in {*declared.key, *links}
            and (
                bare(declared.types[c.name]).startswith("numeric(")
                or (bare(declared.types[c.name]) in _INTEGERS and _QUANTITY.search(snake(c.name)))
            )
            and not re.search(r"(?i)latitude|longitude|(^|_)(lat|lng|lon)(_|$)", c.name)
        ]

    def _has_name(self, declared: Declared) -> bool:
        """Whether a table has a column of a name: name, title, product_name of products, promo_name of promotions."""
        table = snake(declared.table.name)
        names = without_prefix([c.name for c in declared.columns])
        own = {f"{form}_name" for form in singulars(table)}
        begun = [name.removesuffix("_name") for name in names if name.endswith("_name")]
        return (
            any(_NAME.fullmatch(name) for name in names)
            or not own.isdisjoint(names)
            or any(len(stem) > 2 and table.startswith(stem) for stem in begun)
        )

    def _all_keys(self, oid: int) -> list[ForeignKey]:
        """The foreign keys of a fact, with those of its header."""
        header = self.headers.get(oid)
        return [*self.keys[oid], *(self.keys[header.target] if header else [])]

    def _reached(self, oid: int, lookups: set[int], depth: int = 0) -> Iterator[ForeignKey]:
        """The lookups that are joined into a dimension, by way of one another too."""
        for key in self.keys[oid]:
            if key.target in lookups and self._is_joined(key):
                yield key
                if depth + 1 < _DEPTH:
                    yield from self._reached(key.target, lookups, depth + 1)

    # -- the tables of the star --------------------------------------------------------------------------------------

    def _name(self, dimensions: Sequence[int], facts: Sequence[int]) -> None:
        """Names that no table, star table or view of current rows has."""
        taken = {CALENDAR, *(declared.name for declared in self.tables.values())}
        for prefix, oids in (("dim", dimensions), ("fact", facts)):
            for oid in oids:
                base = (
                    re.sub(r"^(table_(?=[a-z]))?((dim|fact)_)?", "", snake(self.tables[oid].name)) or "table"
                )
                others = {*taken, *(name.removesuffix("_current") for name in taken)}
                self.names[oid] = unique(f"{prefix}_{base}", others)
                taken |= {self.names[oid], f"{self.names[oid]}_current"}

    def _dimension(self, oid: int, lookups: set[int]) -> ProposedTable:
        declared = self.tables[oid]
        made = ProposedTable(self.names[oid], declared, self.why[oid])
        names = self._own_columns(made, RESERVED)
        self._join_lookups(made, oid, {c.name: c.name for c in declared.columns}, lookups, "", ())
        made.key = tuple(names[name] for name in declared.key)
        return made

    def _own_columns(self, made: ProposedTable, reserved: Iterable[str]) -> dict[str, str]:
        """Take the columns of a star table's own source table: their names there and in the star."""
        declared = made.table
        names = star_columns([c.name for c in declared.columns if _is_named(c.name)], reserved)
        for column in declared.columns:
            if column.name not in declared.key and not _is_shown(column, declared):
                made.unshown.append(column.name)
                continue
            made.columns.append(
                StarColumn(
                    names[column.name], declared.types[column.name], column.name, described(column.comment)
                )
            )
        return names

    def _join_lookups(
        self,
        made: ProposedTable,
        oid: int,
        at: Mapping[str, str],
        lookups: set[int],
        prefix: str,
        path: tuple[int, ...],
    ) -> None:
        """Join what a table refers to. `at`: what its columns are called in what was joined so far."""
        for key in self.keys[oid]:
            target = self.tables[key.target]
            if (
                key.target not in lookups
                or not self._is_joined(key)
                or not set(key.columns) <= at.keys()
                or len(made.joins) >= _JOINS
                or len(path) >= _DEPTH
            ):
                continue
            stem = stem_of(key.columns[0]) if len(key.columns) == 1 else ""
            called = "_".join(filter(None, [prefix, stem or snake(target.name)]))
            further = {name for one in self.keys[key.target] for name in one.columns} - set(target.key)
            payload = [c for c in target.columns if c in self._told(target) or c.name in further]
            taken = {*self._taken(made), *key.target_columns}
            columns: dict[str, str] = {}
            for column in payload:
                wanted = star_columns([column.name], RESERVED)[column.name]
                if wanted != called and not wanted.startswith(f"{called}_"):
                    wanted = f"{called}_{wanted}"
                columns[column.name] = unique(shortened(wanted), {*taken, *columns.values()})
            if not columns:
                continue
            made.joins.append(
                LeftJoin(target, tuple(at[name] for name in key.columns), key.target_columns, columns)
            )
            made.columns += [
                StarColumn(
                    columns[c.name], nullable(target.types[c.name]), columns[c.name], described(c.comment)
                )
                for c in payload
                if c.name not in further
            ]
            self.joined.setdefault(target.shown, []).append(made.name)
            inner = {**columns, **{n: at[o] for n, o in zip(key.target_columns, key.columns, strict=True)}}
            self._join_lookups(made, key.target, inner, lookups, "", (*path, oid))

    def _taken(self, made: ProposedTable) -> set[str]:
        """What a column that is joined can't be called."""
        return {
            *(c.name for c in made.table.table.columns),
            *(c.name for c in made.columns),
            *(name for join in made.joins for name in join.columns.values()),
            *RESERVED,
            made.record,
        }

    def _fact(self, oid: int) -> ProposedTable:
        declared = self.tables[oid]
        base = self.names[oid].partition("_")[2]
        columns = {snake(c.name) for c in declared.columns}
        record = unique(shortened(f"{base}_record_id"), columns)
        made = ProposedTable(self.names[oid], declared, self.why[oid], record)
        names = self._own_columns(made, {*RESERVED, record})
        made.key = tuple(names[name] for name in declared.key)
        made.amounts = [names[c.name] for c in self._amounts(declared)]
        self._refer(made, self.keys[oid], names)
        made.likely = {
            names[key.columns[0]]: self.names[key.target]
            for key in self.likely[oid]
            if self.names.get(key.target, "").startswith("dim_")
        }
        header = self.headers.get(oid)
        moments = self._moments(declared)
        if header:
            self._join_header(made, header)
        elif not moments:
            moments = [c for c in declared.columns if _is_audit(c, declared) and _MADE.search(c.name)][:1]
        self._add_days(made, [names[c.name] for c in moments if c.name in names])
        return made

    def _refer(self, made: ProposedTable, keys: Sequence[ForeignKey], names: Mapping[str, str]) -> None:
        """Note which columns refer to dimensions, by their key and in its order."""
        shown = {c.name for c in made.columns}
        for key in keys:
            target, dimension = self.tables[key.target], self.names.get(key.target, "")
            if not dimension.startswith("dim_"):
                continue
            pairs = dict(zip(key.target_columns, key.columns, strict=True))
            own = tuple(names.get(pairs.get(part, ""), "") for part in target.key)
            if self._is_joined(key) and own not in made.links and shown.issuperset(own):
                if len(own) > 1:
                    made.references[own] = dimension
                else:
                    made.columns = [_referring(c, dimension) if (c.name,) == own else c for c in made.columns]

    def _join_header(self, made: ProposedTable, key: ForeignKey) -> None:
        """Take what a header refers to, and its days, along to its lines; no amounts, which each line would repeat."""
        header = self.tables[key.target]
        links = {name for one in self.keys[key.target] for name in one.columns}
        moments = [c.name for c in self._happened(header)]
        chosen = [
            c
            for c in header.columns
            if c.name not in header.key
            and _is_shown(c, header)
            and _is_named(c.name)
            and (c.name in links or c.name in moments)
        ]
        if not chosen:
            return
        base = snake(header.name)
        columns: dict[str, str] = {}
        for column in chosen:
            wanted = star_columns([column.name], RESERVED)[column.name]
            taken = {*self._taken(made), *columns.values(), *key.target_columns}
            if wanted.lower() in {name.lower() for name in taken}:
                wanted = shortened(f"{base}_{wanted}")
            columns[column.name] = unique(wanted, taken)
        made.joins.append(LeftJoin(header, key.columns, key.target_columns, columns))
        made.columns += [
            StarColumn(columns[c.name], nullable(header.types[c.name]), columns[c.name], described(c.comment))
            for c in chosen
        ]
        made.why += f" Its header {header.shown} is joined to it."
        self._refer(made, self.keys[key.target], columns)
        made.days += [columns[name] for name in moments if name in columns]

    def _add_days(self, made: ProposedTable, moments: Sequence[str]) -> None:
        """Let dates refer to the calendar, and give instants a date beside them that does."""
        wanted = [*moments, *made.days]
        made.days = []
        columns: list[StarColumn] = []
        taken = self._taken(made)
        for column in made.columns:
            kind = bare(column.declared)
            if kind == "date" and column.references is None and column.name not in _keyed(made):
                columns.append(_referring(column, CALENDAR))
                made.days.append(column.name)
                continue
            columns.append(column)
            if kind in {"timestamp", "timestamptz"} and column.name in wanted:
                name = unique(shortened(day_of(column.name)), taken)
                taken.add(name)
                mark = "?" if column.declared.endswith("?") else ""
                told = f"The day of {column.name}" + (", in UTC." if kind == "timestamptz" else ".")
                columns.append(StarColumn(name, f"date{mark}", column.source, told, CALENDAR, day=True))
                made.days.append(name)
                wanted = [name if one == column.name else one for one in wanted]
        made.columns = columns
        made.days.sort(key=lambda name: wanted.index(name) if name in wanted else len(wanted))

    def _notes(self) -> Iterator[Note]:
        """Foreign keys that are no references, and columns that look like references and have no foreign key."""
        for oid, keys in self.keys.items():
            for key in keys:
                if told := self._compared(key):
                    yield Note(f"{self.tables[oid].shown}.{', '.join(key.columns)}", *told)
        for oid, keys in self.likely.items():
            for key in keys:
                own, target = self.tables[oid], self.tables[key.target]
                dimension = self.names.get(key.target, "")
                if self.names.get(oid, "").startswith("fact_") and dimension.startswith("dim_"):
                    yield Note(
                        f"{own.shown}.{key.columns[0]}",
                        f"it looks like a reference to {target.shown}, and is no foreign key",
                        f'references="{dimension}" in facts.py, if all its values are there',
                    )

    def _compared(self, key: ForeignKey) -> tuple[str, str] | None:
        """What to know of how a foreign key is compared, and what to write."""
        target = self.tables[key.target]
        if why := self.comparison.unequal(key):
            return (
                f"it refers to {target.shown}, and {why}: neither a reference nor joined",
                "a view that spells both alike, to have it",
            )
        if set(key.target_columns) != set(target.key):
            own, other = self.names.get(key.table, ""), self.names.get(key.target, "")
            told = f"it refers to columns of {target.shown} that are not its key: no reference"
            return (told, "nothing") if own.startswith("fact_") and other.startswith("dim_") else None
        if any((key.table, name) in self.comparison.trimmed for name in key.columns):
            return f"{BLANKS}, as its functions do in joining {target.shown}", "nothing"
        return None


def described(comment: str) -> str:
    """The first sentence or so of a comment, in one line."""
    line = " ".join(comment.split())
    if len(line) <= 200:
        return line
    return line[:200].rpartition(" ")[0] + "\N{HORIZONTAL ELLIPSIS}"


def summed(fact: ProposedTable) -> list[str]:
    """The amounts that a report adds up: prices and rates only where there is nothing else."""
    plain = [name for name in fact.amounts if not _UNSUMMED.search(name)]
    return plain[:_AMOUNTS]


# -- names and kinds of columns ------------------------------------------------------------------------------------------


def _is_named(name: str) -> bool:
    """Whether a star function can name a column: `*` means all of them."""
    return name != "*"


def _is_audit(column: CatalogColumn, declared: Declared) -> bool:
    return bare(declared.types[column.name]) in _MOMENTS and bool(_AUDIT.search(column.name))


def _is_shown(column: CatalogColumn, declared: Declared) -> bool:
    return (
        bare(declared.types[column.name]) not in _UNSTARRED
        and column.type not in _DERIVED
        and _is_named(column.name)
    )


def _keyed(made: ProposedTable) -> set[str]:
    """The columns that refer to a dimension together with others."""
    return {name for columns in made.references for name in columns}


def _referring(column: StarColumn, dimension: str) -> StarColumn:
    return StarColumn(column.name, column.declared, column.source, column.description, dimension, column.day)
