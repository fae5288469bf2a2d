"""What changed in a table since the lake last read it: the difference between what was read and what is held."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.pieces import pieces
from etl_assets.lake.current import DELETED, Fold, materialized, storage, view
from etl_assets.lake.manifest import SourceColumn

_MANY_COLUMNS = 100
_NEW, _FIRST, _REFITS, _BUCKET, _BITS = map(duck.own, ("new", "first", "refits", "bucket", "bits"))


@dataclass(frozen=True)
class Changed:
    """Rows that the lake does not hold, as the lake holds rows. A row that comes back counts as new, but its key
    is not `first_seen`."""

    rows: duckdb.DuckDBPyRelation
    new: int
    changed: int
    first_seen: int


def read_text(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Sequence[SourceColumn],
    longest: int = 0,
    rows: int = 0,
) -> duckdb.DuckDBPyRelation:
    """A CSV file that was just copied, in the form in which the lake holds rows."""
    return read_pieces(connection, pieces(connection, path, rows, longest), columns, longest)


def read_pieces(
    connection: duckdb.DuckDBPyConnection,
    paths: Sequence[Path],
    columns: Sequence[SourceColumn],
    longest: int = 0,
) -> duckdb.DuckDBPyRelation:
    """CSV files with the rows of one that was copied, as `read_text`."""
    duck.one_at_a_time(connection, longest)
    return duck.read_csv(connection, paths, longest).project(
        ", ".join(f"CAST({identifier(c.name)} AS {storage(c.type)}) AS {identifier(c.name)}" for c in columns)
    )


def changed_rows(
    connection: duckdb.DuckDBPyConnection,
    read: duckdb.DuckDBPyRelation,
    held: Fold,
    refits: str = "false",
) -> Changed:
    """Those of the rows read that are new or differ from what is held, in key order.

    Columns that the source has no longer take no part; one that it did not have before is compared with NULL, one
    of another type as text. Rows read for which `refits` holds (a condition) count as changed.
    """
    names, key = read.columns, held.key
    had = set(held.relation.columns)
    lacking = "".join(f", NULL AS {identifier(name)}" for name in names if name not in had)
    values = [name for name in names if name not in key]
    now, was = (dict(zip(rows.columns, map(str, rows.types), strict=True)) for rows in (read, held.relation))
    pairs = [
        tuple(
            f"CAST({side}.{identifier(v)} AS VARCHAR)"
            if was.get(v, now[v]) != now[v]
            else f"{side}.{identifier(v)}"
            for side in "rh"
        )
        for v in values
    ]
    differs = [_differ(pairs)] if pairs else []
    came = view(read)
    if refits != "false":
        differs.append(f"r.{_REFITS}")
        came = f"(SELECT *, {refits} AS {_REFITS} FROM {came})"
    known = view(held.relation.project(f"*{lacking}") if lacking else held.relation)
    table = materialized(
        connection,
        f"SELECT {listing(names, 'r.')}, coalesce(h.{DELETED}, true) AS {_NEW}, "
        f"h.{DELETED} IS NULL AS {_FIRST} "
        f"FROM {came} r LEFT JOIN {known} h USING ({listing(key)}) "
        f"WHERE {' OR '.join([f'coalesce(h.{DELETED}, true)', *differs])}",
    )
    new, changed, first_seen = duck.one(
        connection,
        f"SELECT count(*) FILTER ({_NEW}), count(*) FILTER (NOT {_NEW}), count(*) FILTER ({_FIRST}) "
        f"FROM {table}",
    )
    rows = connection.sql(f"SELECT {listing(names)} FROM {table} ORDER BY {listing(key)}")
    return Changed(rows, new, changed, first_seen)


def _differ(pairs: Sequence[tuple[str, ...]]) -> str:
    """The condition under which any two values of a pair differ."""
    if len(pairs) <= _MANY_COLUMNS:
        return " OR ".join(f"{r} IS DISTINCT FROM {h}" for r, h in pairs)
    # As one value each: a condition for each of a thousand columns takes longer to plan than rows take to compare.
    came, known = zip(*pairs, strict=True)
    return f"row({', '.join(came)}) IS DISTINCT FROM row({', '.join(known)})"


def missing_keys(
    connection: duckdb.DuckDBPyConnection, present: duckdb.DuckDBPyRelation, held: Fold
) -> tuple[duckdb.DuckDBPyRelation, int]:
    """The keys that are held but not among those present in the source, in key order, and how many they are."""
    return _kept(
        connection,
        f"SELECT {listing(held.key)} FROM (FROM {view(held.relation)} WHERE NOT {DELETED}) "
        f"ANTI JOIN {view(present)} USING ({listing(held.key)})",
        listing(held.key),
    )


def missing_bits(
    connection: duckdb.DuckDBPyConnection, bitmap: Path, held: Fold
) -> tuple[duckdb.DuckDBPyRelation, int]:
    """As `missing_keys`, where the keys present are a bitmap (see `etl_assets.raw.keys`)."""
    (name,) = held.key
    key = identifier(name)
    present = duck.read_csv(connection, [bitmap]).project(
        f"CAST(bucket AS BIGINT) AS {_BUCKET}, CAST(bits AS BIGINT) AS {_BITS}"
    )
    return _kept(
        connection,
        f"SELECT {key} FROM {view(held.relation)} LEFT JOIN {view(present)} ON {_BUCKET} = ({key} - ({key} & 31)) // 32 "
        f"WHERE NOT {DELETED} AND ({_BITS} IS NULL OR ({_BITS} >> ({key} & 31)) & 1 = 0)",
        key,
    )


def _kept(
    connection: duckdb.DuckDBPyConnection, keys: str, order: str
) -> tuple[duckdb.DuckDBPyRelation, int]:
    """The keys that a query gives, in order, and how many they are."""
    table = materialized(connection, keys)
    (count,) = duck.one(connection, f"SELECT count(*) FROM {table}")
    return connection.sql(f"FROM {table} ORDER BY {order}"), count


def no_keys(held: Fold) -> duckdb.DuckDBPyRelation:
    """An empty relation of a table's key columns."""
    return held.relation.project(listing(held.key)).limit(0)
