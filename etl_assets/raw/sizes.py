"""How large rows are: one that is too large is named before anything lands."""

import re
from collections.abc import Sequence

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.engine import duck
from etl_assets.engine.duck import MAX_LINE_BYTES
from etl_assets.lake.current import storage
from etl_assets.source.catalog import Relation
from etl_assets.source.connection import SourceError, explained

MAX_ROW_BYTES = 256 << 20
"""Of a row's text."""
# Values of these types are never large.
_SMALL = re.compile(
    r"(smallint|integer|bigint|real|double precision|boolean|date|uuid|oid|money|name|\"char\"|"
    r"time.*|interval.*|numeric.*|inet|cidr|macaddr8?|pg_lsn|bit\(\d+\))"
)
_TEXT = re.compile(r"(text|character.*)")
# What is kept outside of its row is compressed 255-fold at the most: below this no row can be large.
_KEPT_ELSEWHERE_BYTES = MAX_LINE_BYTES // 256
_COMPRESSED_BYTES = 32 << 10
# Tables, partitioned ones and materialized views.
_STORED = {"r", "p", "m"}


class TooLarge(SourceError):
    """A row, or all large rows of a table, are more than can be handled."""


def may_be_large(connection: Connection, relation: Relation) -> bool:
    """Whether a table can have large rows at all; asking costs nothing. Of a view, and of what lies on another server,
    nobody knows."""
    if not _wide(relation):
        return False
    if relation.kind not in _STORED:
        return True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(pg_relation_size(reltoastrelid::regclass)), 0) FROM pg_class "
            "WHERE oid = ANY(%s::oid[]) AND reltoastrelid <> 0",
            ([relation.oid, *relation.partitions],),
        )
        ((kept_elsewhere,),) = cursor.fetchall()
    return int(kept_elsewhere) > _KEPT_ELSEWHERE_BYTES


def row_bytes(relation: Relation) -> sql.Composable:
    """The bytes of the text of a row's large values, without decompressing those that can tell without."""
    return _added(_wide(relation))


def declared_bytes(relation: Relation) -> sql.Composable:
    """As `row_bytes`, of the declared columns alone: the star is made of their values."""
    return _added(_declared(relation))


def undeclared(relation: Relation) -> tuple[str, ...]:
    """The columns of text of any length whose values nothing but the lake needs."""
    return tuple(
        name
        for name, type_ in _wide(relation)
        if name not in relation.table.columns and name not in relation.key and storage(type_) == "VARCHAR"
    )


def check(connection: Connection, relation: Relation, largest: int, large: int) -> None:
    """Raise `TooLarge`, given the bytes of the largest row, and those of the declared columns of all rows where these are larger
    than `MAX_LINE_BYTES`."""
    if largest > MAX_ROW_BYTES:
        key, column, size = _example(connection, relation, _wide(relation))
        raise TooLarge(
            f"row ({key}) of {relation.table.name} is too large: its column {column} alone has {_mib(size)}, and a row may "
            f"have {_mib(MAX_ROW_BYTES)}; {_remedy(column)}; nothing was committed"
        )
    most = duck.memory_bytes() // 3
    if large > most:
        key, column, size = _example(connection, relation, _declared(relation))
        raise TooLarge(
            f"the rows of {relation.table.name} whose declared columns are larger than {_mib(MAX_LINE_BYTES)} have "
            f"{_mib(large)} of them together, and with this memory they may have {_mib(most)} (the column {column} of ({key}) "
            f"has {_mib(size)}); declare that no longer ({relation.table.where}), or {_remedy(column)}, or give the process more memory; "
            "nothing was committed"
        )


def unwritable(connection: Connection, relation: Relation) -> TooLarge:
    """The error for a value that the server can't even write as text, of which it has a gigabyte at the most: it does not say
    which. The transaction has failed already."""
    wide = _wide(relation)
    kept = sql.SQL(", ").join(
        sql.SQL("coalesce(pg_column_size({}), 0)").format(sql.Identifier(name)) for name, _ in wide
    )
    query = sql.SQL("SELECT concat_ws(', ', {}), {} FROM {} ORDER BY greatest({}) DESC LIMIT 1").format(
        sql.SQL(", ").join(map(sql.Identifier, relation.key)), kept, _name(relation), kept
    )
    with explained(f"measuring table {relation.table.name}"), connection.cursor() as cursor:
        cursor.execute("ROLLBACK")
        cursor.execute(query)
        ((key, *sizes),) = cursor.fetchall()
    _, column = max(zip(sizes, [name for name, _ in wide], strict=True))
    return TooLarge(
        f"a row of {relation.table.name} is too large: the server can't write it as text, and a row may have "
        f"{_mib(MAX_ROW_BYTES)} (the largest value as it is kept is the {column} of ({key})); {_remedy(column)}; nothing was "
        "committed"
    )


def _wide(relation: Relation) -> list[tuple[str, str]]:
    return [(c.name, c.type) for c in relation.columns if not _SMALL.fullmatch(c.type)]


def _declared(relation: Relation) -> list[tuple[str, str]]:
    return [(name, type_) for name, type_ in _wide(relation) if name in relation.table.columns]


def _added(columns: Sequence[tuple[str, str]]) -> sql.Composable:
    if not columns:
        return sql.SQL("0::bigint")
    return sql.SQL("({})").format(sql.SQL(" + ").join(_bytes(name, type_) for name, type_ in columns))


def _bytes(name: str, type_: str) -> sql.Composable:
    form = "coalesce(CASE WHEN pg_column_size({c}) > {few} THEN octet_length({c}::text) END, 0)::bigint"
    if _TEXT.fullmatch(type_):
        form = "coalesce(octet_length({c}), 0)::bigint"
    elif type_ == "bytea":
        form = "coalesce(2 * octet_length({c})::bigint, 0)"
    return sql.SQL(form).format(c=sql.Identifier(name), few=sql.Literal(_COMPRESSED_BYTES))


def _example(
    connection: Connection, relation: Relation, wide: Sequence[tuple[str, str]]
) -> tuple[str, str, int]:
    """Key, column and bytes of the largest value of the row that is the largest in some columns."""
    query = sql.SQL("SELECT concat_ws(', ', {}), {} FROM {} ORDER BY {} DESC LIMIT 1").format(
        sql.SQL(", ").join(map(sql.Identifier, relation.key)),
        sql.SQL(", ").join(_bytes(name, type_) for name, type_ in wide),
        _name(relation),
        _added(wide),
    )
    with explained(f"measuring table {relation.table.name}"), connection.cursor() as cursor:
        cursor.execute(query)
        ((key, *sizes),) = cursor.fetchall()
    size, column = max(zip(sizes, [name for name, _ in wide], strict=True))
    return str(key), column, int(size)


def _name(relation: Relation) -> sql.Identifier:
    return sql.Identifier(relation.table.schema, relation.table.source_name)


def _remedy(column: str) -> str:
    return f"leave it out in the table's declaration (exclude=({column!r},)), or make its values smaller"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
