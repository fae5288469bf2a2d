"""What the source's catalog says of the declared tables, and whether that is enough to read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from etl_assets.capture.connection import SourceError
from etl_assets.capture.table import Table
from etl_assets.lake.batches import SourceColumn

_RELATIONS = """
    SELECT n.nspname, c.relname, c.oid::bigint, c.relkind::text, coalesce(am.amname, ''),
           has_table_privilege(c.oid, 'SELECT'),
           ARRAY(SELECT p.relid::oid::bigint FROM pg_partition_tree(c.oid) p WHERE p.isleaf ORDER BY 1),
           ARRAY(SELECT k.attname::text FROM pg_index i
                 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS u(attnum, position)
                 JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY u.position)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
    WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
# A domain counts as the type it is over, since its values are written alike.
_COLUMNS = """
    SELECT a.attrelid::bigint, a.attname::text, a.attnotnull,
           CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod)
                ELSE format_type(a.atttypid, a.atttypmod) END
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""


@dataclass(frozen=True)
class Relation:
    """A source table as it is: `kind` is PostgreSQL's relkind, `key` its primary key or the declared one."""

    table: Table
    oid: int
    kind: str
    access_method: str
    partitions: tuple[int, ...]
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]

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
        for oid, name, required, type_ in cursor.fetchall():
            columns.setdefault(oid, []).append(SourceColumn(name=name, type=type_, nullable=not required))

    complaints = []
    relations = {}
    for table in tables:
        if (table.schema, table.name) not in found:
            complaints.append(f"table {table.schema}.{table.name} does not exist")
            continue
        oid, kind, access_method, readable, partitions, key = found[table.schema, table.name]
        have = {column.name for column in columns.get(oid, [])}
        lacking = [name for name in table.columns if name not in have]
        if lacking:
            complaints.append(
                f"table {table.name} has no column {', '.join(lacking)} (it has {', '.join(sorted(have))})"
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
            kind,
            access_method,
            tuple(partitions),
            tuple(columns.get(oid, [])),
            tuple(key) or table.key,
        )
    if complaints:
        raise SourceError(
            f"the source does not have what is declared: {'; '.join(complaints)}. Nothing was read; "
            "mend the source or its declaration (etl_assets/source)"
        )
    return relations
