"""Control totals: what a table adds up to, so that two copies of it can be compared without comparing rows.

Exact sums of numbers that mean an amount (keys and references do not), the range of every time, and the count.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.capture.catalog import Relation
from etl_assets.capture.connection import explained
from etl_assets.lake.batches import Control


@dataclass(frozen=True)
class Totals:
    rows: int
    controls: Mapping[str, Control]


def source_totals(connection: Connection, relation: Relation) -> Totals:
    """The totals of a table as PostgreSQL computes them in the connection's snapshot, in one scan."""
    amounts, times = relation.amounts, relation.times
    chosen: list[sql.Composable] = [sql.SQL("count(*)")]
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
    rows, *values = row
    controls = {name: Control(sum=values[i]) for i, name in enumerate(amounts)}
    ranges = values[len(amounts) :]
    controls |= {name: Control(min=ranges[2 * i], max=ranges[2 * i + 1]) for i, name in enumerate(times)}
    return Totals(rows, controls)
