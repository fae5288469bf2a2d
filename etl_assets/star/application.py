"""Applying a star function to what a batch changed: to the rows that the change reaches where that can be told, else to
all rows. The outcome is the same; what it costs is not.

    by row    each row of the result is made from one row of the table that drives it
    by key    of rows that have keys in common, through joins, groups and windows
    whole     whatever else
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.operators import Opaque
from etl_assets.lake.current import materialized, view
from etl_assets.star.change import InputChange
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.planning import compared_by
from etl_assets.star.reach import Reach, rewritten


@dataclass(frozen=True)
class Applied:
    """What a function gives: `now` for its inputs as they are, `was` for what they were. Both leave out the same rows
    that no change reaches. `was` is None where nothing was left out: then what was is what is published.

    Both are names of relations. `how` says in words what was done, and why; `work` counts what was reached.
    """

    now: str
    was: str | None
    how: str


class Application:
    """One star function, applied in a connection."""

    def __init__(
        self, definition: StarFunction, inputs: Inputs, connection: duckdb.DuckDBPyConnection
    ) -> None:
        self.definition = definition
        self.inputs = inputs
        self.connection = connection

    def whole(self, changes: Mapping[str, InputChange], reason: str) -> Applied:
        """Apply it to all rows."""
        relations = {name: self._seen(change, change.rows) for name, change in changes.items()}
        made = self.definition.apply(self.connection, relations)
        return Applied(view(self._declared(made)), None, f"compared whole: {reason}")

    def to_changes(self, changes: Mapping[str, InputChange]) -> Applied:
        """Apply it to what changes reach. Raises `Opaque` where that can't be told."""
        for change in changes.values():
            if change.reshaped:
                raise Opaque(f"columns of {change.name} have another type than before")
        schema = self.definition.schema
        if schema.by == "row":
            return self._declared_by_row(changes)
        if schema.by_columns:
            return self._declared_by_columns(changes, schema.by_columns)
        query, tree = self.inputs.plan(self.definition)
        if isinstance(tree, Opaque):
            raise Opaque(str(tree))
        reach = Reach(tree, changes, self.connection)
        anchors = reach.run()
        now, was = (
            materialized(self.connection, f"FROM {view(self._declared(self.connection.sql(sql)))}")
            for sql in (rewritten(query, reach, now=True), rewritten(query, reach, now=False))
        )
        told = compared_by(tree, changes, anchors)
        return Applied(now, was, f"{told}: {reach.reached:,} of {reach.describe(anchors)}")

    def _declared_by_row(self, changes: Mapping[str, InputChange]) -> Applied:
        first, *others = self.definition.inputs
        for name in others:
            if changes[name].changed:
                raise Opaque(f'{name} changed, and by="row" speaks of {first} alone')
        change = changes[first]
        nothing = f"(SELECT * FROM {change.rows} LIMIT 0)"
        now, was = (self._made(changes, {first: rows or nothing}) for rows in (change.come, change.gone))
        return Applied(now, was, f"by row: {self._count(change.come or nothing):,} of {first}")

    def _declared_by_columns(self, changes: Mapping[str, InputChange], columns: Sequence[str]) -> Applied:
        grouped = {n: c for n, c in changes.items() if set(columns) <= set(c.columns)}
        for change in changes.values():
            if change.changed and change.name not in grouped:
                raise Opaque(
                    f"{change.name} changed, and has not the columns {', '.join(columns)} that it goes by"
                )
        names = listing(columns)
        parts = [
            f"SELECT {names} FROM {rows}" for c in grouped.values() if c.changed for rows in (c.gone, c.come)
        ]
        groups = materialized(self.connection, " UNION ".join(parts))
        same = " AND ".join(f"r.{identifier(c)} IS NOT DISTINCT FROM g.{identifier(c)}" for c in columns)
        now, was = (
            self._made(
                changes,
                {
                    name: f"(SELECT r.* FROM {rows} AS r SEMI JOIN {groups} AS g ON {same})"
                    for name, rows in state.items()
                },
            )
            for state in (
                {name: change.rows for name, change in grouped.items()},
                {name: change.before() for name, change in grouped.items()},
            )
        )
        return Applied(now, was, f"by key: {self._count(groups):,} of {', '.join(columns)}")

    def _made(self, changes: Mapping[str, InputChange], instead: Mapping[str, str]) -> str:
        """What the function gives, with other rows for some of its inputs."""
        relations = {
            name: self._seen(change, instead.get(name, change.rows)) for name, change in changes.items()
        }
        made = self._declared(self.definition.apply(self.connection, relations))
        return materialized(self.connection, f"FROM {view(made)}")

    def _seen(self, change: InputChange, rows: str) -> duckdb.DuckDBPyRelation:
        """Rows as a function sees them, without what stands beside them; to one that computes in memory in the order of
        their keys, so that sums of floats come out the same."""
        order = ""
        if self.inputs.queries[self.definition.name] is None:
            order = f" ORDER BY {listing(change.keys)}" if change.keys else " ORDER BY ALL"
        return self.connection.sql(f"SELECT {listing(change.columns)} FROM {rows}{order}")

    def _declared(self, made: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        return made.project(listing([column.name for column in self.definition.schema.declared]))

    def _count(self, rows: str) -> int:
        ((count,),) = self.connection.execute(f"SELECT count(*) FROM {rows}").fetchall()
        return int(count)
