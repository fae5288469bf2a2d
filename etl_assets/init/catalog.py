"""What the catalog of a source says of its tables, and a few rows where the catalog says too little. Nothing is decided here."""

import fnmatch
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.source.catalog import is_required
from etl_assets.source.connection import explained

# Tables once: partitions are rows of the table that they are parts of. What an extension brought is its own affair.
_TABLES = """
    WITH sizes AS (
        SELECT coalesce(pg_partition_root(oid)::oid, oid) AS oid, sum(greatest(reltuples, 0))::bigint AS rows,
               sum(relpages::bigint * 8192)::bigint AS bytes, bool_or(relkind = 'f') AS foreign_parts
        FROM pg_class WHERE relkind IN ('r', 'm', 'f') GROUP BY 1
    )
    SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
           has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
           row_security_active(c.oid) AND NOT current_setting('row_security')::bool, quote_ident(current_user), quote_ident(n.nspname),
           quote_ident(n.nspname) || '.' || quote_ident(c.relname),
           (SELECT p.relname::text FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid
            ORDER BY i.inhseqno LIMIT 1),
           ARRAY(SELECT p.relname::text FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
                 WHERE i.inhparent = c.oid AND NOT p.relispartition ORDER BY 1),
           coalesce(s.rows, 0), coalesce(s.bytes, 0), coalesce(s.foreign_parts, false)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN sizes s ON s.oid = c.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND (%s::text[] IS NULL OR n.nspname = ANY(%s))
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY n.nspname <> 'public', n.nspname, c.relname
"""
# A domain counts as what it is over, to the bottom.
_COLUMNS = f"""
    WITH RECURSIVE columns AS (
        SELECT * FROM pg_attribute WHERE attrelid = ANY(%s::oid[]) AND attnum > 0 AND NOT attisdropped
    ), bottoms(type, oid, modifier) AS (
        SELECT DISTINCT c.atttypid, t.typbasetype, t.typtypmod FROM columns c JOIN pg_type t ON t.oid = c.atttypid
        WHERE t.typtype = 'd'
        UNION SELECT b.type, t.typbasetype, t.typtypmod FROM bottoms b JOIN pg_type t USING (oid) WHERE t.typtype = 'd'
    )
    SELECT c.attrelid::bigint, c.attname::text, {is_required("c")}, d.description,
           coalesce(format_type(b.oid, b.modifier), format_type(c.atttypid, c.atttypmod)),
           CASE WHEN t.typcategory = 'A' THEN 'array' WHEN t.typtype = 'e' THEN 'enum' WHEN t.typtype = 'b' THEN 'base'
                ELSE 'other' END,
           t.typname = 'citext'
           OR EXISTS (SELECT FROM pg_collation o WHERE o.oid = c.attcollation AND NOT o.collisdeterministic),
           coalesce(pg_get_expr(f.adbin, f.adrelid) ILIKE '%%infinity%%', false)
    FROM columns c
    LEFT JOIN (bottoms b JOIN pg_type bt ON bt.oid = b.oid AND bt.typtype <> 'd') ON b.type = c.atttypid
    JOIN pg_type t ON t.oid = coalesce(b.oid, c.atttypid)
    LEFT JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.attrelid AND d.objsubid = c.attnum
    LEFT JOIN pg_attrdef f ON f.adrelid = c.attrelid AND f.adnum = c.attnum
    ORDER BY c.attrelid, c.attnum
"""
# Columns that an index only carries along are no part of its key.
_KEYS = f"""
    SELECT i.indrelid::bigint, i.indisprimary, k.names
    FROM pg_index i CROSS JOIN LATERAL (
        SELECT array_agg(a.attname::text ORDER BY u.position) AS names, bool_and({is_required("a")}) AS required
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u(attnum, position)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
        WHERE u.position <= i.indnkeyatts
    ) k
    WHERE i.indrelid = ANY(%s::oid[]) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid
      AND k.required
    ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid
"""
# A table refers to another where all its partitions do: a key of some of them says nothing of the others' rows, nor does one that
# was never validated say anything of the rows that were there. A key with PERIOD leads to rows that together cover one's
# own, and not to one. Columns by name, since their numbers may differ.
_REFERENCES = """
    WITH keys AS (
        SELECT k.oid, k.conkey, k.conrelid::oid AS own_table, coalesce(pg_partition_root(k.conrelid)::oid, k.conrelid) AS root,
               coalesce(pg_partition_root(k.confrelid)::oid, k.confrelid) AS target, n.own, n.other
        FROM pg_constraint k CROSS JOIN LATERAL (
            SELECT array_agg(a.attname::text ORDER BY u.position) AS own, array_agg(b.attname::text ORDER BY u.position) AS other
            FROM unnest(k.conkey, k.confkey) WITH ORDINALITY AS u(own, other, position)
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.own
            JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.other
        ) n
        WHERE k.contype = 'f' AND k.convalidated AND to_jsonb(k) ->> 'conperiod' IS DISTINCT FROM 'true'
    )
    SELECT root::bigint, target::bigint, own, other FROM keys GROUP BY root, target, own, other
    HAVING bool_or(own_table = root)
        OR array_agg(own_table) @> (SELECT array_agg(p.relid::oid) FROM pg_partition_tree(root) p WHERE p.isleaf)
    ORDER BY root, min(conkey), min(oid)
"""
_WIDE = """
    SELECT schemaname::text, tablename::text, attname::text, max(avg_width)::int FROM pg_stats
    WHERE avg_width >= %s GROUP BY 1, 2, 3
"""
WIDE_BYTES = 4_000
_SAMPLE_ROWS = 50
_SAMPLE_TEXT = 40
_SAMPLE_SECONDS = 3.0  # for all tables together
_SAMPLED = {"text", "date", "numeric", "real", "double precision", "time without time zone"}


@dataclass(frozen=True)
class CatalogColumn:
    """A column as the catalog has it: `type` is that of the bottom of its domain, as `format_type` names it; `kind` is
    `array`, `enum`, `base` or `other`. `width`: its average bytes, where they are many. `folds`: texts that are spelled
    differently may be equal. `endless`: it is infinite where nothing else is said. `seen`: values of a few rows."""

    name: str
    type: str
    kind: str
    required: bool
    comment: str = ""
    width: int = 0
    folds: bool = False
    endless: bool = False
    seen: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class CatalogTable:
    """A table, view or foreign table: `kind` is PostgreSQL's relkind. `quoted`: its name with its schema, for SQL.
    `keys`: the columns of its unique indexes that allow no NULL, those of the primary key first if it has one (`primary`).
    `inherits`: the table that its rows are rows of too; `heirs`: the tables whose rows are rows of it too."""

    oid: int
    schema: str
    name: str
    kind: str
    comment: str
    usage: bool
    select: bool
    filtered: bool
    refused: bool
    role: str
    quoted_schema: str
    quoted: str
    inherits: str | None
    heirs: Sequence[str]
    rows: int
    bytes: int
    foreign_parts: bool
    columns: tuple[CatalogColumn, ...] = ()
    keys: tuple[tuple[str, ...], ...] = ()
    primary: bool = False

    @property
    def is_table(self) -> bool:
        return self.kind in {"r", "p"} and self.inherits is None

    @property
    def readable(self) -> bool:
        return self.usage and self.select and not self.refused


@dataclass(frozen=True)
class ForeignKey:
    """Columns of a table whose values exist in columns of another; tables by oid."""

    table: int
    columns: tuple[str, ...]
    target: int
    target_columns: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """The tables that were asked for, with the foreign keys between them. `unsampled`: how many were not looked into."""

    tables: Sequence[CatalogTable]
    foreign_keys: Sequence[ForeignKey]
    unsampled: int = 0


def read(
    connection: Connection, schemas: Sequence[str], patterns: Sequence[str], *, sample: bool = True
) -> Catalog:
    """The catalog of a database, in one transaction that can only read. `schemas`: all, if none is named; `patterns`: as a
    shell has them, for `table` or `schema.table`. Raises `SourceError`."""
    with explained("reading the catalog"), connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            cursor.execute(_TABLES, (list(schemas) or None, list(schemas)))
            tables = [CatalogTable(*row) for row in cursor.fetchall()]  # in the order of its fields
            tables = [table for table in tables if _is_wanted(table, patterns)]
            tables = _described(connection, tables)
            cursor.execute(_REFERENCES)
            found = [ForeignKey(t, tuple(own), f, tuple(other)) for t, f, own, other in cursor.fetchall()]
            known = {table.oid for table in tables}
            foreign_keys = list(dict.fromkeys(k for k in found if {k.table, k.target} <= known))
            unsampled = 0
            if sample:
                tables, unsampled = _sampled(connection, tables)
        finally:
            cursor.execute("ROLLBACK")
    return Catalog(tables, foreign_keys, unsampled)


def _is_wanted(table: CatalogTable, patterns: Sequence[str]) -> bool:
    names = (table.name, f"{table.schema}.{table.name}")
    return not patterns or any(fnmatch.fnmatchcase(name, one) for name in names for one in patterns)


def _described(connection: Connection, tables: Sequence[CatalogTable]) -> list[CatalogTable]:
    """The tables with their columns and keys."""
    oids = [table.oid for table in tables]
    columns: dict[int, list[CatalogColumn]] = {}
    keys: dict[int, list[tuple[bool, tuple[str, ...]]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_WIDE, (WIDE_BYTES,))
        wide = {(schema, table, column): width for schema, table, column, width in cursor.fetchall()}
        cursor.execute(_KEYS, (oids,))
        for oid, primary, names in cursor.fetchall():
            keys.setdefault(oid, []).append((primary, tuple(names)))
        places = {table.oid: (table.schema, table.name) for table in tables}
        cursor.execute(_COLUMNS, (oids,))
        for oid, name, required, comment, type_, kind, folds, endless in cursor.fetchall():
            width = wide.get((*places[oid], name), 0)
            columns.setdefault(oid, []).append(
                CatalogColumn(name, type_, kind, required, comment or "", width, folds, endless)
            )
    return [
        replace(
            table,
            columns=tuple(columns.get(table.oid, ())),
            keys=tuple(names for _, names in keys.get(table.oid, ())),
            primary=any(primary for primary, _ in keys.get(table.oid, ())),
        )
        for table in tables
    ]


def _sampled(connection: Connection, tables: Sequence[CatalogTable]) -> tuple[list[CatalogTable], int]:
    """The tables with a few values of those columns of which the type says too little, and how many were not looked into.
    The first rows that the server comes upon: nothing is sorted, and nobody is waited for."""
    deadline = time.monotonic() + _SAMPLE_SECONDS
    found, unsampled = [], 0
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '200ms'")
    for table in tables:
        chosen = [c for c in table.columns if _base(c.type) in _SAMPLED]
        if not chosen or not table.is_table or not table.readable or table.foreign_parts:
            found.append(table)
        elif time.monotonic() > deadline or (values := _first_rows(connection, table, chosen)) is None:
            found.append(table)
            unsampled += 1
        else:
            columns = (replace(c, seen=values.get(c.name, ())) for c in table.columns)
            found.append(replace(table, columns=tuple(columns)))
    return found, unsampled


def _base(type_: str) -> str:
    if type_.startswith("character varying"):
        return "text"
    return "date" if type_.startswith("timestamp") else type_


def _first_rows(
    connection: Connection, table: CatalogTable, columns: Sequence[CatalogColumn]
) -> dict[str, tuple[str, ...]] | None:
    """Values of columns, as text; None where they can't be had at once."""
    query = sql.SQL("SELECT {} FROM {} LIMIT {}").format(
        sql.SQL(", ").join(
            sql.SQL("left({}::text, {})").format(sql.Identifier(c.name), sql.Literal(_SAMPLE_TEXT))
            for c in columns
        ),
        sql.Identifier(table.schema, table.name),
        sql.Literal(_SAMPLE_ROWS),
    )
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT sample")
        try:
            cursor.execute(query)
            rows = cursor.fetchall()
        except (psycopg2.Error, UnicodeDecodeError):
            cursor.execute("ROLLBACK TO SAVEPOINT sample")
            return None
        cursor.execute("RELEASE SAVEPOINT sample")
    seen = zip(*rows, strict=True) if rows else [()] * len(columns)
    return {
        c.name: tuple(v for v in values if v is not None) for c, values in zip(columns, seen, strict=True)
    }
