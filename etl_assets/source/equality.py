"""Where PostgreSQL calls values of a foreign key equal that are written differently: a star that joins what is written has to
see to it, or to leave it.

How values of a type compare is in chapter 8 of PostgreSQL's manual; a foreign key compares as the key that it refers to does.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from etl_assets.engine.types import Type
from etl_assets.source.catalog import Relation
from etl_assets.source.connection import explained

# Kept as text, and written alike exactly where they are equal.
_ALIKE = re.compile(
    r'("char"|name|oid|money|inet|cidr|macaddr8?|time(\(\d\))? with time zone|bit( varying)?\(\d+\)|bit varying'
    r"|(smallint|integer|bigint|boolean|date|uuid|text|bytea|character varying(\(\d+\))?|timestamp(\(\d\))? with(out)? time zone)\[\]"
    r"|date|time(stamp)?(\(\d\))? without time zone|timestamp(\(\d\))? with time zone|numeric\(\d+,-?\d+\))"
)
_TEXT = re.compile(r"text|character varying(\(\d+\))?")
_PADDED = re.compile(r"bpchar|character(\(\d+\))?")
_FLOATS = {"real", "double"}
BLANKS = "char(n) is compared without trailing blanks"
_FOREIGN_KEYS = """
    SELECT DISTINCT coalesce(pg_partition_root(k.conrelid)::oid, k.conrelid)::bigint, a.attname::text,
           coalesce(pg_partition_root(k.confrelid)::oid, k.confrelid)::bigint, b.attname::text,
           t.typname = 'citext' OR NOT coalesce(o.collisdeterministic, true)
    FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS u(own, other)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.own
    JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.other
    JOIN pg_type t ON t.oid = b.atttypid LEFT JOIN pg_collation o ON o.oid = b.attcollation
    WHERE k.contype = 'f' AND to_jsonb(k) ->> 'conperiod' IS DISTINCT FROM 'true' ORDER BY 1, 2, 3, 4
"""


@dataclass(frozen=True)
class End:
    """A column of a foreign key, or one that it refers to: its type as `format_type` names it, of a domain that of its
    bottom; as what it is declared; whether its type or collation takes texts for equal that are spelled differently."""

    type: str
    declared: str
    folds: bool = False

    @property
    def is_padded(self) -> bool:
        """Whether trailing blanks of it mean nothing."""
        return bool(_PADDED.fullmatch(self.type))


def unequal(own: End, other: End) -> str | None:
    """Why values of `own` and of what it refers to can be written differently where PostgreSQL calls them equal, and go on
    being different in the star; None where they can't. `BLANKS` is what trimming both sides mends."""
    one, two = Type(own.declared), Type(other.declared)
    if other.folds:
        return "its type or collation takes texts for equal that are spelled differently"
    if one.duckdb == two.duckdb == "VARCHAR" and (own.is_padded or other.is_padded):
        # What is filled up to one width is written alike.
        return None if own.type == other.type != "bpchar" else BLANKS
    if one.name != two.name:
        return f"the one is {one.name}, the other {two.name}"
    if one.name in _FLOATS:
        return "0 and -0 are equal, and are written differently"
    if one.duckdb != "VARCHAR" or one.name == "enum":
        return None
    if _TEXT.fullmatch(own.type) and _TEXT.fullmatch(other.type):
        return None
    if own.type == other.type and _ALIKE.fullmatch(own.type):
        return None
    return f"equal values of {other.type} can be written differently"


def unlike(connection: Connection, relations: Mapping[str, Relation]) -> Iterator[tuple[str, str]]:
    """The foreign keys among declared columns whose equal values can be written differently, as `table.column refers to
    table.column`, and why."""
    by_oid = {relation.oid: relation for relation in relations.values()}
    with explained("asking for its foreign keys"), connection.cursor() as cursor:
        cursor.execute(_FOREIGN_KEYS)
        for table, column, target, other, folds in cursor.fetchall():
            own, referred = by_oid.get(table), by_oid.get(target)
            if own is None or referred is None:
                continue
            one, two = _end(own, column), _end(referred, other, folds=folds)
            if one and two and (why := unequal(one, two)):
                yield f"{own.table.name}.{column} refers to {referred.table.name}.{other}", why


def _end(relation: Relation, column: str, *, folds: bool = False) -> End | None:
    declared = relation.table.columns.get(column)
    held = next((c.type for c in relation.columns if c.name == column), None)
    return End(held, declared, folds) if declared and held else None
