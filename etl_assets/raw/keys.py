"""Which keys the source has: as they are, or, for integers, as bitmaps that the server adds up.

A bitmap row is (bucket, bits): bit `key mod 32` of the bucket `floor(key / 32)` says whether the key exists.
"""

from psycopg2 import sql

from etl_assets.source.catalog import Relation


def every(relation: Relation) -> sql.Composed:
    """The query for all keys."""
    return sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(sql.Identifier(name) for name in relation.key), _name(relation)
    )


def bitmap(relation: Relation, key: str) -> sql.Composed:
    """The query for all keys of an integer column, 32 to a row."""
    return sql.SQL(
        "SELECT {key}::bigint >> 5 AS bucket, bit_or(1::bigint << ({key} & 31)::int) AS bits FROM {table} GROUP BY 1"
    ).format(key=sql.Identifier(key), table=_name(relation))


def doubled(relation: Relation) -> sql.Composed:
    """The query for how many keys occur more than once, or are NULL."""
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in relation.key)
    return sql.SQL(
        "SELECT count(*) FROM (SELECT FROM {} GROUP BY {} HAVING count(*) > 1 OR num_nulls({}) > 0) AS doubled"
    ).format(_name(relation), columns, columns)


def _name(relation: Relation) -> sql.Identifier:
    return sql.Identifier(relation.table.schema, relation.table.source_name)
