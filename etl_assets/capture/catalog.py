"""What the source's catalog says of the declared tables, and whether that is enough to read them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from etl_assets.capture.connection import SourceError
from etl_assets.capture.table import Table
from etl_assets.lake.batches import SourceColumn

_RELATIONS = """
    WITH RECURSIVE heirs AS (  -- partitions, and tables that inherit
        SELECT i.inhparent AS ancestor, h.oid, h.relkind FROM pg_inherits i JOIN pg_class h ON h.oid = i.inhrelid
        UNION
        SELECT t.ancestor, h.oid, h.relkind FROM heirs t JOIN pg_inherits i ON i.inhparent = t.oid
        JOIN pg_class h ON h.oid = i.inhrelid
    )
    SELECT n.nspname, c.relname, c.oid::bigint, c.relkind::text, coalesce(am.amname, ''),
           has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
           ARRAY(SELECT heirs.oid::bigint FROM heirs WHERE heirs.ancestor = c.oid ORDER BY 1),
           EXISTS (SELECT FROM heirs WHERE heirs.ancestor = c.oid AND heirs.relkind = 'f'),
           ARRAY(SELECT k.attname::text FROM pg_index i
                 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS u(attnum, position)
                 JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY u.position),
           ARRAY(SELECT DISTINCT k.attname::text FROM pg_constraint f CROSS JOIN LATERAL unnest(f.conkey) AS u(attnum)
                 JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.attnum
                 WHERE f.conrelid = c.oid AND f.contype = 'f')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
    WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
# A domain counts as the type it is over, since its values are written alike.
_COLUMNS = """
    SELECT a.attrelid::bigint, a.attname::text, a.attnotnull,
           CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod)
                ELSE format_type(a.atttypid, a.atttypmod) END,
           a.attnum, CASE a.attgenerated WHEN 'v' THEN pg_get_expr(d.adbin, d.adrelid) END,
           ARRAY(WITH RECURSIVE parts(oid) AS (
                     SELECT a.atttypid
                     UNION SELECT p.oid FROM parts JOIN pg_type y USING (oid) CROSS JOIN LATERAL (
                         SELECT y.typelem UNION SELECT y.typbasetype
                         UNION SELECT rngsubtype FROM pg_range WHERE rngtypid = y.oid
                         UNION SELECT atttypid FROM pg_attribute WHERE attrelid = y.typrelid AND attnum > 0) p(oid))
                 SELECT e.oid || e.enumlabel FROM parts JOIN pg_enum e ON e.enumtypid = parts.oid ORDER BY 1)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""


@dataclass(frozen=True)
class Relation:
    """A source table as it is: `kind` is PostgreSQL's relkind ("f" also if a partition is foreign), `key` the declared
    key or else its primary key, `references` the columns of its foreign keys. `layout` identifies what can make stored
    rows read otherwise though none is written: which column is which, the labels of enums, virtual columns.
    `filtered`: row security decides which rows we see. `unique`: the source itself sees to it that the key is."""

    table: Table
    oid: int
    kind: str
    access_method: str
    partitions: tuple[int, ...]
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    references: frozenset[str]
    layout: str
    filtered: bool
    unique: bool

    @property
    def amounts(self) -> list[str]:
        """The declared columns whose exact sum means something: numbers that are neither key nor reference."""
        return [
            column.name
            for column in self.columns
            if column.name in self.table.columns
            and column.name not in self.references
            and column.name not in self.key
            and self.table.types[column.name].is_amount
            and re.fullmatch(r"(smallint|integer|bigint|numeric)(\(.+\))?", column.type)
        ]

    @property
    def times(self) -> list[str]:
        """The declared columns that hold instants or days."""
        return [
            c.name
            for c in self.columns
            if c.name in self.table.columns
            and re.fullmatch(r"date|timestamp(\(\d\))? with(out)? time zone", c.type)
        ]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def lockable(self) -> bool:
        return self.kind in {"r", "p"}


def describe(connection: Connection, tables: Sequence[Table]) -> Mapping[str, Relation]:
    """The relations of the declared tables. Raises `SourceError` that names everything that is missing."""
    with connection.cursor() as cursor:
        cursor.execute(_RELATIONS, ([t.schema for t in tables], [t.name for t in tables]))
        found = {(schema, name): rest for schema, name, *rest in cursor.fetchall()}
        cursor.execute(_COLUMNS, ([rest[0] for rest in found.values()],))
        columns: dict[int, list[SourceColumn]] = {}
        layouts: dict[int, str] = {}
        for oid, name, required, type_, *layout in cursor.fetchall():
            columns.setdefault(oid, []).append(SourceColumn(name=name, type=type_, nullable=not required))
            layouts[oid] = hashlib.sha256(f"{layouts.get(oid)} {layout}".encode()).hexdigest()

    names = [table.name for table in tables]
    complaints = [f"table {name} is declared twice" for name in sorted(set(names)) if names.count(name) > 1]
    relations = {}
    for table in tables:
        if (table.schema, table.name) not in found:
            complaints.append(f"table {table.schema}.{table.name} does not exist")
            continue
        oid, kind, access_method, readable, filtered, partitions, foreign, key, references = found[
            table.schema, table.name
        ]
        have = {column.name for column in columns.get(oid, [])}
        lacking = [name for name in table.columns if name not in have]
        if lacking:
            complaints.append(
                f"table {table.name} has no column {', '.join(lacking)} (it has {', '.join(sorted(have))})"
            )
        folded = {name.lower() for name in have}
        if len(folded) < len(have) or folded & {
            "__deleted",
            "__batch",
            "__new",
            "__first",
            "__bucket",
            "__bits",
            "__refits",
        }:
            complaints.append(
                f"table {table.name} has columns that differ only in case, or one that is named like the lake's own "
                "(__deleted, __batch, …): declare a view over it instead"
            )
        if not readable:
            complaints.append(f"table {table.name} may not be read by this role: grant SELECT on it")
        if not (key or table.key):
            complaints.append(
                f"table {table.name} has no primary key: name its key columns in its declaration (key=)"
            )
        relations[table.name] = Relation(
            table,
            oid,
            "f" if foreign else kind,
            access_method,
            tuple(partitions),
            tuple(columns.get(oid, [])),
            table.key or tuple(key),
            frozenset(references),
            layouts.get(oid, ""),
            filtered,
            table.key in {(), tuple(key)},
        )
    if complaints:
        raise SourceError(
            f"the source does not have what is declared: {'; '.join(complaints)}. Nothing was read; "
            "mend the source or its declaration (etl_assets/source)"
        )
    return relations
