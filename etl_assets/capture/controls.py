"""Control totals: what a table adds up to, so that two copies of it can be compared without comparing rows.

Exact sums of numbers that mean an amount (keys and references do not), the range of every time, and the count.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import duckdb
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.capture.catalog import Relation
from etl_assets.capture.connection import SourceError, explained
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier
from etl_assets.engine.types import EXACT
from etl_assets.lake.batches import Control, TableState
from etl_assets.lake.current import DELETED, view


@dataclass(frozen=True)
class Totals:
    rows: int
    controls: Mapping[str, Control]
    where: str | None = None
    """Where the rows stand (a tid array) for which the condition asked for holds."""


def source_totals(
    connection: Connection, relation: Relation, condition: sql.Composable | None = None
) -> Totals:
    """The totals of a table as PostgreSQL computes them in the connection's snapshot, in one scan. In the same scan
    the rows are found for which a condition holds."""
    amounts, times = relation.amounts, relation.times
    found = sql.SQL("NULL")
    if condition is not None:
        found = sql.SQL("(array_agg(ctid) FILTER (WHERE {}))::text").format(condition)  # type: ignore[assignment]
    chosen: list[sql.Composable] = [sql.SQL("count(*)"), found]
    for column in amounts:
        chosen.append(sql.SQL("sum({})::text").format(sql.Identifier(column)))
    for column in times:
        chosen.append(sql.SQL("min({0})::text, max({0})::text").format(sql.Identifier(column)))
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(chosen), sql.Identifier(relation.table.schema, relation.table.name)
    )
    with explained(f"adding up table {relation.table.name}"), connection.cursor() as cursor:
        cursor.execute(query)
        (row,) = cursor.fetchall()
    rows, where, *values = row
    controls = {name: Control(sum=values[i]) for i, name in enumerate(amounts)}
    ranges = values[len(amounts) :]
    controls |= {name: Control(min=ranges[2 * i], max=ranges[2 * i + 1]) for i, name in enumerate(times)}
    return Totals(rows, controls, where)


class Unproven(SourceError):
    """What the lake holds does not add up to what the source says."""


Sums = Mapping[str, Decimal]


def sums(connection: duckdb.DuckDBPyConnection, relation: Relation, rows: duckdb.DuckDBPyRelation) -> Sums:
    """The exact sums of the amounts in rows as the lake holds them; those marked as deleted do not count."""
    if not relation.amounts:
        return {}
    types = {column.name: column.type for column in relation.columns}
    alive = f"WHERE NOT {DELETED}" if DELETED in rows.columns else ""
    chosen = ", ".join(
        f"coalesce(sum(try_cast({identifier(name)} AS DECIMAL(38,{_scale(relation, name, types[name])}))), 0)"
        for name in relation.amounts
    )
    found = duck.one(connection, f"SELECT {chosen} FROM {view(rows)} {alive}")
    return dict(zip(relation.amounts, map(Decimal, found), strict=True))


def _scale(relation: Relation, column: str, source_type: str) -> int:
    """The digits behind the point that a column's values have: by its type, else as it is declared."""
    declared = re.search(r",(\d+)\)", source_type) or re.search(
        r",\s*(\d+)\)", relation.table.columns[column]
    )
    return int(declared[1]) if declared else 0


def proven(
    relation: Relation, totals: Totals, held: TableState | None, added: Sums, removed: Sums, *, clean: bool
) -> dict[str, Control]:
    """The source's totals beside those of what the lake will hold: what it held, plus what is `added`, less what is
    `removed`. Raises `Unproven` where they differ. Sums of a table with misfits are not compared (not `clean`)."""
    controls = dict(totals.controls)
    for name in relation.amounts:
        if held is None:
            before: str | None = "0"
        else:
            before = held.controls[name].held if name in held.controls else None
        if before is None or not clean:
            continue
        now = EXACT.add(Decimal(before), added.get(name, Decimal(0)))
        now = EXACT.subtract(now, removed.get(name, Decimal(0)))
        source = controls[name].sum
        if now != Decimal(source or 0):
            raise Unproven(
                f"the {name} of {relation.table.name} add up to {source} in the source and to {now} in the lake, in "
                "the same snapshot; nothing was committed: please report this"
            )
        controls[name] = controls[name].model_copy(update={"held": str(now)})
    return controls
