"""Control totals: what a table adds up to, so that two copies of it can be compared without comparing rows.

Exact sums of numbers that mean an amount (keys and references do not), the range of every time, and the count.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import duckdb
from psycopg2 import sql
from psycopg2.errors import InternalError_, ProgramLimitExceeded
from psycopg2.extensions import connection as Connection

from etl_assets.engine import duck
from etl_assets.engine.duck import MAX_LINE_BYTES, identifier
from etl_assets.engine.pieces import are_long
from etl_assets.engine.sums import Amount, added_up
from etl_assets.engine.types import EXACT
from etl_assets.lake.current import DELETED, view
from etl_assets.lake.files import BUFFER_BYTES
from etl_assets.lake.manifest import Control, TableState
from etl_assets.raw.recent import Segments
from etl_assets.raw.sizes import check, declared_bytes, may_be_large, row_bytes, unwritable
from etl_assets.source.catalog import Relation
from etl_assets.source.connection import SourceInterrupted, explained

_MISFITS = duck.own("misfits")


@dataclass(frozen=True)
class SourceTotals:
    """What a table adds up to. `recent`: how many rows meet the condition that was asked for, and `conditions`: which
    together find those rows, in as few blocks as makes sense. `large`: whether rows may be unusually large; `long`: whether
    they are so long together that they can't be worked on as others are."""

    rows: int
    controls: Mapping[str, Control]
    recent: int = 0
    conditions: Sequence[sql.Composable] = ()
    large: bool = False
    long: bool = False


def source_totals(
    connection: Connection, relation: Relation, condition: sql.Composable | None = None
) -> SourceTotals:
    """The totals of a table as PostgreSQL computes them in the connection's snapshot, in one scan. In the same scan
    the rows are found for which a condition holds. Raises `TooLarge` for rows that can't be handled."""
    name = relation.table.name
    with explained(f"adding up table {name}"):
        segments = Segments.of(connection, relation) if condition else None
        measured = may_be_large(connection, relation)
    counted = (
        sql.SQL("count(*)") if condition is None else sql.SQL("count(*) FILTER (WHERE {})").format(condition)
    )
    none = sql.SQL("0::bigint")
    size, declared = (row_bytes(relation), declared_bytes(relation)) if measured else (none, none)
    chosen: list[sql.Composable] = [
        sql.SQL("count(*)"),
        counted,
        segments.bitmap(condition) if segments and condition else sql.SQL("NULL"),
        sql.SQL("coalesce(max({}), 0)").format(size),
        sql.SQL("coalesce(sum({0}) FILTER (WHERE {0} > {1}), 0)").format(
            declared, sql.Literal(MAX_LINE_BYTES)
        ),
        sql.SQL("coalesce(sum({}), 0)").format(size),
    ]
    amounts, times = relation.amounts, relation.times
    for column in amounts:
        chosen.append(sql.SQL("sum({})::text").format(sql.Identifier(column)))
    for column in times:
        chosen.append(sql.SQL("min({0})::text, max({0})::text").format(sql.Identifier(column)))
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(chosen), sql.Identifier(relation.table.schema, relation.table.source_name)
    )
    with explained(f"adding up table {name}"), connection.cursor() as cursor:
        try:
            cursor.execute(query)
        except (ProgramLimitExceeded, InternalError_) as error:
            if measured and (isinstance(error, ProgramLimitExceeded) or "alloc request size" in str(error)):
                raise unwritable(connection, relation) from None
            raise
        (row,) = cursor.fetchall()
    rows, recent, bitmap, largest, large, together, *values = row
    check(connection, relation, largest, large)
    controls = {name: Control(sum=values[i]) for i, name in enumerate(amounts)}
    ranges = values[len(amounts) :]
    controls |= {name: Control(min=ranges[2 * i], max=ranges[2 * i + 1]) for i, name in enumerate(times)}
    found: Sequence[sql.Composable] = [condition] if condition else []
    if segments and condition and bitmap:
        found = segments.conditions(bitmap, condition)
    long = are_long(int(together), rows, largest if largest > BUFFER_BYTES else 0)
    return SourceTotals(rows, controls, recent, found, largest > MAX_LINE_BYTES, long)


class Unproven(SourceInterrupted):
    """What the lake holds does not add up to what the source says. It may do so when it is read again."""


def _why(relation: Relation) -> str:
    """Why a table may add up to something else each time it is read in one snapshot, and what to do."""
    if relation.kind == "v":
        return (
            "it is a view, and shows something else each time it is read (by clock_timestamp(), random(), a foreign table "
            "…): it can't be proven before its query gives one result in one snapshot"
        )
    if relation.kind == "f":
        return "it lies on another server, which this snapshot does not hold still: run it again while nobody writes there"
    if relation.filtered:
        return (
            "its row security shows other rows each time it is read: it can't be proven with these policies"
        )
    return "please report this"


def check_rows(relation: Relation, read: int, totals: SourceTotals) -> None:
    """Raise `Unproven` if a whole table was read with another number of rows than it has in the same snapshot."""
    if read != totals.rows:
        raise Unproven(
            f"{relation.table.name} has {totals.rows:,} rows in the source, and {read:,} were read, in the same snapshot; "
            f"{_why(relation)}; nothing was committed"
        )


Sums = Mapping[str, Decimal]


def sums(connection: duckdb.DuckDBPyConnection, relation: Relation, rows: duckdb.DuckDBPyRelation) -> Sums:
    """The exact sums of the amounts in rows as the lake holds them; those marked as deleted do not count."""
    amounts = _amounts(relation)
    if not amounts:
        return {}
    alive = f"WHERE NOT {DELETED}" if DELETED in rows.columns else ""
    _, found = added_up(partial(duck.one, connection), f"{view(rows)} {alive}", amounts)
    return found


def sums_and_misfits(
    connection: duckdb.DuckDBPyConnection, relation: Relation, rows: duckdb.DuckDBPyRelation, exact: str
) -> tuple[Sums, int]:
    """The sums of rows, and how many of them do not meet the condition under which they can be represented, in one reading."""
    misfit = Amount(f"CASE WHEN {exact} THEN 0 ELSE 1 END", 0)
    _, found = added_up(partial(duck.one, connection), view(rows), {**_amounts(relation), _MISFITS: misfit})
    misfits = found.pop(_MISFITS)
    return found, int(misfits)


def _amounts(relation: Relation) -> dict[str, Amount]:
    types = {column.name: column.type for column in relation.columns}
    amounts = {}
    for name in relation.amounts:
        scale = _scale(relation, name, types[name])
        amounts[name] = Amount(f"try_cast({identifier(name)} AS DECIMAL(38,{scale}))", scale)
    return amounts


def _scale(relation: Relation, column: str, source_type: str) -> int:
    """The digits behind the point that a column's values have: by its type, else as it is declared."""
    declared = re.search(r",(\d+)\)", source_type) or re.search(
        r",\s*(\d+)\)", relation.table.columns[column]
    )
    return int(declared[1]) if declared else 0


def proven(
    relation: Relation,
    totals: SourceTotals,
    held: TableState | None,
    added: Sums,
    removed: Sums,
    *,
    clean: bool,
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
                f"the same snapshot; {_why(relation)}; nothing was committed"
            )
        controls[name] = controls[name].model_copy(update={"held": str(now)})
    return controls
