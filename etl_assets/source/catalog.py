"""What the source's catalog says of the declared tables, and whether that is enough to read them."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.lake.manifest import SourceColumn
from etl_assets.source.connection import SourceError
from etl_assets.source.table import Table

_RELATIONS = """
    WITH RECURSIVE parts AS (  -- partitions, and tables that inherit; none of which is on its way out (PostgreSQL 14)
        SELECT inhparent, inhrelid FROM pg_inherits i WHERE to_jsonb(i)->>'inhdetachpending' IS DISTINCT FROM 'true'
    ), heirs AS (
        SELECT i.inhparent AS ancestor, h.oid, h.relkind, h.relam FROM parts i JOIN pg_class h ON h.oid = i.inhrelid
        UNION
        SELECT t.ancestor, h.oid, h.relkind, h.relam FROM heirs t JOIN parts i ON i.inhparent = t.oid
        JOIN pg_class h ON h.oid = i.inhrelid
    )
    SELECT n.nspname, c.relname, c.oid::bigint, c.relkind::text, coalesce(am.amname, ''),
           json_build_object('usage', has_schema_privilege(n.oid, 'USAGE'), 'select', has_table_privilege(c.oid, 'SELECT'),
                             'refused', row_security_active(c.oid) AND NOT current_setting('row_security')::bool,
                             'role', quote_ident(current_user)),
           row_security_active(c.oid),
           ARRAY(SELECT heirs.oid::bigint FROM heirs WHERE heirs.ancestor = c.oid ORDER BY 1),
           ARRAY(SELECT DISTINCT heirs.relkind::text FROM heirs WHERE heirs.ancestor = c.oid),
           ARRAY(SELECT DISTINCT a.amname::text FROM heirs JOIN pg_am a ON a.oid = heirs.relam WHERE heirs.ancestor = c.oid),
           (SELECT string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname), ',' ORDER BY a.attrelid, a.attnum)
            FROM heirs JOIN pg_attribute a ON a.attrelid = heirs.oid AND a.attnum > 0 AND NOT a.attisdropped
            JOIN pg_attribute own ON own.attrelid = c.oid AND own.attnum > 0 AND own.attname = a.attname
            WHERE heirs.ancestor = c.oid),
           ARRAY(SELECT k.attname::text FROM pg_index i
                 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS u(attnum, position)
                 JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary AND u.position <= i.indnkeyatts ORDER BY u.position),
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indisvalid),
           ARRAY(SELECT DISTINCT k.attname::text FROM pg_constraint f CROSS JOIN LATERAL unnest(f.conkey) AS u(attnum)
                 JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.attnum
                 WHERE f.conrelid = c.oid AND f.contype = 'f')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
    WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_ELSEWHERE = """
    SELECT relname::text, quote_ident(nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relname = ANY(%s) AND relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 1, 2
"""


def is_required(column: str) -> str:
    """SQL: whether a column, by the alias of its row of pg_attribute, is NULL in no row. From PostgreSQL 18 on NOT NULL may have
    been declared for new rows only (NOT VALID)."""
    return (
        f"({column}.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conrelid = {column}.attrelid "
        f"AND n.contype = 'n' AND NOT n.convalidated AND {column}.attnum = ANY(n.conkey)))"
    )


# A domain counts as what it is over, to the bottom, since its values are written alike. How a value is written hangs on
# the types that it is made of: labels of enums, attributes of composites, functions of types that the source brought
# itself. Names of the catalog are written as the catalog has them now, and money as lc_monetary says.
_COLUMNS = f"""
    WITH RECURSIVE columns AS (
        SELECT * FROM pg_attribute WHERE attrelid = ANY(%s::oid[]) AND attnum > 0 AND NOT attisdropped
    ), bottoms(type, oid, modifier) AS (
        SELECT DISTINCT c.atttypid, t.typbasetype, t.typtypmod FROM columns c JOIN pg_type t ON t.oid = c.atttypid
        WHERE t.typtype = 'd'
        UNION SELECT b.type, t.typbasetype, t.typtypmod FROM bottoms b JOIN pg_type t USING (oid) WHERE t.typtype = 'd'
    ), parts(type, oid) AS (
        SELECT DISTINCT atttypid, atttypid FROM columns
        UNION SELECT p.type, part FROM parts p JOIN pg_type t USING (oid) CROSS JOIN LATERAL (
            SELECT t.typelem UNION SELECT t.typbasetype
            UNION SELECT rngsubtype FROM pg_range WHERE rngtypid = t.oid
            UNION SELECT rngtypid FROM pg_range r WHERE (to_jsonb(r)->>'rngmultitypid')::oid = t.oid  -- PostgreSQL 14
            UNION SELECT atttypid FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0
        ) made(part) WHERE part <> 0
    ), writing(type, how) AS (
        SELECT type, concat_ws(' ', e.oid, e.enumlabel) FROM parts p JOIN pg_enum e ON e.enumtypid = p.oid
        UNION ALL
        SELECT type, concat_ws(' ', t.oid, attnum, atttypid, atttypmod, attisdropped)
        FROM parts p JOIN pg_type t USING (oid) JOIN pg_attribute ON attrelid = t.typrelid AND attnum > 0
        UNION ALL
        SELECT type, concat_ws(' ', f.oid, f.prosrc, f.probin)
        FROM parts p JOIN pg_type t USING (oid) JOIN pg_proc f ON f.oid = t.typoutput
        WHERE t.oid >= 16384 AND t.typtype = 'b' AND t.typelem = 0  -- 16384: the first that is not PostgreSQL's own
        UNION ALL
        SELECT type, current_setting('lc_monetary') FROM parts WHERE oid = 'money'::regtype
    )
    SELECT c.attrelid::bigint, c.attname::text, {is_required("c")},
           regexp_replace(coalesce(format_type(b.oid, b.modifier), format_type(c.atttypid, c.atttypmod)), '^public[.]', ''),
           (SELECT bool_or(t.typname ~ '^(reg.+|aclitem)$' AND t.oid < 16384)
            FROM parts p JOIN pg_type t USING (oid) WHERE p.type = c.atttypid),
           c.attnum, CASE c.attgenerated WHEN 'v' THEN pg_get_expr(d.adbin, d.adrelid) END,
           ARRAY(SELECT how FROM writing WHERE type = c.atttypid ORDER BY 1)
    FROM columns c
    LEFT JOIN (bottoms b JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd') ON b.type = c.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.attrelid AND d.adnum = c.attnum
    ORDER BY c.attrelid, c.attnum
"""


@dataclass(frozen=True)
class Relation:
    """A source table as it is: `kind` is PostgreSQL's relkind ("f" also if a partition is foreign), `key` the declared
    key or else its primary key, empty if there is neither; `references` the columns of its foreign keys. `columns` has
    none of those that its declaration leaves out. `layout` identifies what can make stored rows read otherwise though
    none is written: which column is which, in the partitions too, how their types are written, virtual columns, row security;
    `restless`: it may read otherwise at any time. `filtered`: row security decides which rows we see. `unique`: the source itself sees to it
    that the key is."""

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
    restless: bool = False
    told: tuple[tuple[str, str], ...] = ()
    """What `layout` is made of: the name of a column, or nothing, with what the catalog says of it."""

    def layout_of(self, names: Collection[str]) -> str:
        """What `layout` would be if there were no other columns than some."""
        return _digest(said for name, said in self.told if not name or name in names)

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
    def by_version(self) -> bool:
        """Whether its rows have versions that tell what was written."""
        return self.lockable and self.access_method in {"heap", ""} and not self.filtered

    @property
    def lockable(self) -> bool:
        return self.kind in {"r", "p"}


def select(relation: Relation, where: Sequence[sql.Composable] = ()) -> sql.Composed:
    """All columns of a relation, in the catalog's order: of all its rows, or of those that meet one of several conditions,
    of which none meets two."""
    rows = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(sql.Identifier(name) for name in relation.names),
        sql.Identifier(relation.table.schema, relation.table.source_name),
    )
    return sql.SQL(" UNION ALL ").join(rows + sql.SQL(" WHERE ") + one for one in where) if where else rows


class LeftOut(SourceError):
    """A table can't be read as it is. The others can."""


class NoKey(LeftOut):
    """Nothing tells the rows of a table apart."""


def check_readable(relation: Relation) -> None:
    """Raise `LeftOut` for a table that can't be read, `NoKey` if that is since nothing says what tells its rows apart."""
    same = [name for name in relation.names if [n.lower() for n in relation.names].count(name.lower()) > 1]
    if same:
        raise LeftOut(
            f"table {relation.table.name} has columns that differ only in case ({', '.join(same)}): leave all but one out "
            "(exclude=), or declare a view over it that calls them otherwise"
        )
    if not relation.key:
        raise NoKey(
            f"table {relation.table.name} has no primary key: name its key columns in its declaration (key=); if rows of "
            "it can be equal, declare a view that tells them apart or counts them"
        )


def describe(connection: Connection, tables: Sequence[Table]) -> Mapping[str, Relation]:
    """The relations of the declared tables. Raises `SourceError` that names everything that is missing."""
    with connection.cursor() as cursor:
        cursor.execute(_RELATIONS, ([t.schema for t in tables], [t.source_name for t in tables]))
        found = {(schema, name): rest for schema, name, *rest in cursor.fetchall()}
        cursor.execute(_COLUMNS, ([rest[0] for rest in found.values()],))
        columns: dict[int, list[_Column]] = {}
        for oid, name, required, type_, restless, *layout in cursor.fetchall():
            column = SourceColumn(name=name, type=type_, nullable=not required)
            columns.setdefault(oid, []).append(_Column(column, restless, str(layout)))
        elsewhere: list[tuple[str, str]] = []
        if missing := [t.source_name for t in tables if (t.schema, t.source_name) not in found]:
            cursor.execute(_ELSEWHERE, (missing,))
            elsewhere = cursor.fetchall()

    names = [table.name for table in tables]
    complaints = [f"table {name} is declared twice" for name in sorted(set(names)) if names.count(name) > 1]
    relations = {}
    for table in tables:
        if (table.schema, table.source_name) not in found:
            others = [schema for name, schema in elsewhere if name == table.source_name]
            complaints.append(
                f"table {table.schema}.{table.source_name} does not exist ({table.where}"
                + (
                    f"; there is one in the schema {', '.join(others)}: is it schema= that differs?)"
                    if others
                    else ")"
                )
            )
            continue
        (
            oid,
            kind,
            access_method,
            rights,
            filtered,
            partitions,
            kinds_of_heirs,
            methods_of_heirs,
            layout_of_heirs,
            key,
            unfinished,
            references,
        ) = found[table.schema, table.source_name]
        has = columns.get(oid, [])
        complaints += _lacking(table, has) + _forbidden(table, rights)
        read = [one for one in has if one.column.name not in table.exclude]
        told = (
            *((one.column.name, one.layout) for one in read),
            *([("", layout_of_heirs)] if layout_of_heirs else []),
            *(
                [("", "row security")] if filtered else []
            ),  # a row that it hides is no younger once it shows it
        )
        if unread := set(key if not table.key else table.key) & set(table.exclude):
            complaints.append(
                f"table {table.name}: its key {', '.join(sorted(unread))} is to be left out (exclude=)"
            )
        relations[table.name] = Relation(
            table=table,
            oid=oid,
            kind="f" if "f" in kinds_of_heirs else kind,
            access_method=next((name for name in methods_of_heirs if name != "heap"), access_method),
            partitions=tuple(partitions),
            columns=tuple(one.column for one in read),
            key=table.key or tuple(key),
            references=frozenset(references),
            layout=_digest(said for _, said in told),
            told=told,
            restless=any(one.restless for one in read),
            filtered=filtered,
            # A primary key says nothing of the rows of tables that inherit, nor of those of partitions that do not have it yet.
            unique=table.key in {(), tuple(key)} and not unfinished and not (kind == "r" and partitions),
        )
    if len(tables) > 1 and not found:
        folder = Path(tables[0].where.rpartition(":")[0]).parent
        raise SourceError(
            f"the source has none of the {len(tables)} tables of the project {folder.name} ({folder}): name your own by "
            "ETL_PROJECT (ETL_PROJECT=. where it is this folder), or its database by ETL_SOURCE_URL. Nothing was read"
        )
    if complaints:
        raise SourceError(
            f"the source does not have what is declared: {'; '.join(complaints)}. Nothing was read; "
            "mend the source or its declaration"
        )
    return relations


def _digest(told: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


@dataclass(frozen=True)
class _Column:
    """A column, whether it may read otherwise at any time, and what decides how its values are written."""

    column: SourceColumn
    restless: bool
    layout: str


def _lacking(table: Table, has: Sequence[_Column]) -> list[str]:
    """What is wrong with the columns of a table."""
    names = [one.column.name for one in has]
    complaints = []
    if lacking := [name for name in table.columns if name not in names]:
        complaints.append(
            f"table {table.name} has no column {', '.join(lacking)} (it has {', '.join(sorted(names))})"
        )
    if lacking := [name for name in table.exclude if name not in names]:
        complaints.append(
            f"table {table.name} has no column {', '.join(lacking)} to leave out (exclude=): what is meant might be read"
        )
    return complaints


def _forbidden(table: Table, rights: Mapping[str, Any]) -> list[str]:
    """Which right is missing to read a table."""
    name, role = table.name, rights["role"]
    if not rights["usage"]:
        return [f"table {name} may not be read by this role: GRANT USAGE ON SCHEMA {table.schema} TO {role}"]
    if not rights["select"]:
        return [
            f"table {name} may not be read by this role: grant SELECT on it (GRANT SELECT ON {table.schema}.{table.source_name} TO "
            f"{role}; on single columns is not enough)"
        ]
    if rights["refused"]:
        return [
            f"table {name} has row security, and row_security is off for this role, which then may not read it: ALTER ROLE "
            f"{role} BYPASSRLS to read all rows, or ALTER ROLE {role} SET row_security = on to read those that its "
            "policies show"
        ]
    return []
