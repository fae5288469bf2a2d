"""Which rows have a recent version, and where in the table they stand, found in constant memory.

The blocks of a table are divided into segments, and a bitmap of the segments that have such a row is added up by the
server. It is as large for a hundred million rows as for one.
"""

from dataclasses import dataclass
from itertools import pairwise

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.source.catalog import Relation

_SEGMENTS = 1024
# With more ranges than this, or a larger share of the table in them, it is as well read through.
_MOST_RANGES = 64
_MOST_SHARE = 0.5
_RANGES_VERSION = 140_000  # before, PostgreSQL reads a whole table for each range


def since(horizon: int) -> sql.Composable:
    """The condition for rows with a version since a transaction."""
    # age() is an exact distance on the 32-bit circle, and costs next to nothing per row.
    return sql.SQL("age(xmin) <= age({}::text::xid)").format(sql.Literal(horizon % 2**32))


@dataclass(frozen=True)
class Share:
    """One of the parts into which the blocks of a table are divided, by turns."""

    part: int
    of: int

    def rows(self, connection: Connection, relation: Relation) -> sql.Composable:
        """The condition for the rows that stand in it; of a table of several parts, in it of each of them."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT max(pg_relation_size(oid::regclass)) / current_setting('block_size')::int FROM unnest(%s::oid[]) oid",
                ([relation.oid, *relation.partitions],),
            )
            ((blocks,),) = cursor.fetchall()
        first, after = (blocks * part // self.of for part in (self.part, self.part + 1))
        bounds = [sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({first},0)"))]
        if self.part + 1 < self.of:
            bounds.append(sql.SQL("ctid < {}::tid").format(sql.Literal(f"({after},0)")))
        return sql.SQL("({})").format(sql.SQL(" AND ").join(bounds))


@dataclass(frozen=True)
class Segments:
    """How many blocks of a table make a segment."""

    blocks: int

    @classmethod
    def of(cls, connection: Connection, relation: Relation) -> "Segments | None":
        """None for a table of several parts, whose rows are not found by where they stand, and for a small one."""
        if relation.partitions or connection.server_version < _RANGES_VERSION:
            return None
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_relation_size(%s::oid::regclass) / current_setting('block_size')::int",
                (relation.oid,),
            )
            ((blocks,),) = cursor.fetchall()
        return cls(-(-blocks // _SEGMENTS)) if blocks > _SEGMENTS else None

    def bitmap(self, condition: sql.Composable) -> sql.Composable:
        """An aggregate: which segments have a row for which a condition holds, as a text of 0 and 1."""
        return sql.SQL(
            "(bit_or(set_bit({none}::varbit, least((ctid::text::point)[0]::bigint / {blocks}, {last})::int, 1)) "
            "FILTER (WHERE {condition}))::text"
        ).format(
            none=sql.Literal("0" * _SEGMENTS),
            blocks=sql.Literal(self.blocks),
            last=sql.Literal(_SEGMENTS - 1),
            condition=condition,
        )

    def conditions(self, bitmap: str, condition: sql.Composable) -> list[sql.Composable]:
        """Conditions, of which a row for which a condition holds meets just one, for as few blocks as makes sense."""
        ranges = _ranges(bitmap)
        if len(ranges) > _MOST_RANGES or bitmap.count("1") > _MOST_SHARE * len(bitmap):
            return [condition]
        return [
            sql.SQL("{} AND ctid >= {}::tid{}").format(
                condition,
                sql.Literal(f"({first * self.blocks},0)"),
                sql.SQL("")
                if after == _SEGMENTS
                else sql.SQL(" AND ctid < {}::tid").format(sql.Literal(f"({after * self.blocks},0)")),
            )
            for first, after in ranges
        ]


def _ranges(bitmap: str) -> list[tuple[int, int]]:
    """The runs of 1, as (first, one after the last)."""
    edges = [i for i, (a, b) in enumerate(pairwise(f"0{bitmap}0")) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))
