"""Is what a tool wrote what the source holds? Compared by a digest of all values of all rows, in whatever order they lie.

Both sides go the same way: each value becomes a text by the type that the source's catalog gives its column (a number by its
value, a time by its microseconds since 1970, so that a tool may keep them in a type of its own choice), each row one text in
which no two different rows are alike, each table the number of its rows and the sum of their MD5 sums. Where tables differ, what
differs is counted by key. What is kept in another kind of type is told beside it.

The source's own side is what PostgreSQL's `COPY` writes, all tables in one snapshot.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psycopg2
from psycopg2 import sql

from benchmarks.peers.tool import Written

KINDS = {
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "numeric": "numeric",
    "boolean": "boolean",
    "timestamp without time zone": "timestamp",
    "text": "text",
    "character varying": "text",
    "USER-DEFINED": "text",  # an enum
}
_CATALOG = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position
"""
_EXPECTED = {
    "integer": ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DECIMAL"),
    "numeric": ("DECIMAL",),
    "boolean": ("BOOLEAN",),
    "timestamp": ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
    "text": ("VARCHAR", "ENUM"),
}
_NUMBER = "DECIMAL(38,18)"
_MEMORY = "4GB"


@dataclass(frozen=True)
class Truth:
    """The source at one instant: CSV files in `folder`, with `rows` rows in all. `columns`: of each table the kinds of its
    columns; `keys`: its key."""

    folder: Path
    rows: int
    columns: Mapping[str, Mapping[str, str]]
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """`rows` and `digest` of all tables as they were written; `differences` from the source, by table, in words; `types`: what is
    kept in a type of another kind."""

    rows: int
    digest: str
    differences: tuple[str, ...]
    types: tuple[str, ...]


def read_source(url: str, folder: Path, keys: Mapping[str, str]) -> Truth:
    """Write all rows of the tables into `folder`. Raises ValueError for a column whose type is not known here."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, dict[str, str]] = {}
    rows = 0
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        for table in keys:
            cursor.execute(_CATALOG, (table,))
            columns[table] = {name: _kind(table, name, kind) for name, kind in cursor.fetchall()}
            copy = sql.SQL("COPY {} TO STDOUT (FORMAT csv, HEADER)").format(sql.Identifier(table))
            with (folder / f"{table}.csv").open("wb") as file:
                cursor.copy_expert(copy, file)
            rows += cursor.rowcount
    return Truth(folder, rows, columns, keys)


def compare(truth: Truth, folder: Path, written: Written) -> Verdict:
    """What a tool wrote into `folder`, and in what it differs from the source."""
    lines, differences, types, total = [], [], Counter[str](), 0
    with closing(duckdb.connect(config={"memory_limit": _MEMORY, "preserve_insertion_order": False})) as db:
        db.execute(f"SET TimeZone = 'UTC'; SET temp_directory = {_text(truth.folder / 'spill')}")
        for table in truth.columns:
            _show(db, "truth", table, truth, _csv(truth.folder / f"{table}.csv"))
            relation = _relation(db, folder, written, table, truth.keys[table])
            if lacking := _lacking(db, truth.columns[table], relation):
                differences.append(f"{table}: {lacking}")
                continue
            if written.form in ("duckdb", "parquet"):
                types.update(_other_types(db, truth.columns[table], relation))
            _show(db, "held", table, truth, relation)
            held = _digest(db, f"held_{table}", truth.columns[table])
            if held != _digest(db, f"truth_{table}", truth.columns[table]):
                differences.append(f"{table}: {_difference(db, table, truth)}")
            lines.append(f"{table} {held}")
            total += held[0]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    return Verdict(total, digest, tuple(differences), tuple(f"{n} × {what}" for what, n in types.items()))


def _kind(table: str, column: str, kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(
            f"{table}.{column} is {kind}: say in benchmarks/peers/contents.py how such values are compared"
        )
    return KINDS[kind]


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _show(db: duckdb.DuckDBPyConnection, side: str, table: str, truth: Truth, relation: str) -> None:
    """A view of the table's values as text."""
    kinds = {name: kind for name, kind, *_ in db.sql(f"DESCRIBE {relation}").fetchall()}
    values = ", ".join(
        f"{_value(_name(column), kind, kinds[column])} AS {_name(column)}"
        for column, kind in truth.columns[table].items()
    )
    db.execute(f"CREATE OR REPLACE TEMP VIEW {_name(f'{side}_{table}')} AS SELECT {values} FROM ({relation})")


def _value(column: str, kind: str, held_as: str) -> str:
    """The text by which values of a column are compared; one that is none of its kind stays apart from all that are."""
    text = f"CAST({column} AS VARCHAR)"
    match kind:
        case "text":
            return text
        case "timestamp" if held_as.startswith("TIMESTAMP"):
            read = f"epoch_us({column})"
        case "timestamp":
            read = f"epoch_us(TRY_CAST({text} AS TIMESTAMP))"
        case "boolean":
            read = f"TRY_CAST({text} AS BOOLEAN)"
        case _:
            read = f"TRY_CAST({text} AS {_NUMBER})"
    return (
        f"CASE WHEN {column} IS NOT NULL THEN coalesce(CAST({read} AS VARCHAR), 'not {kind}: ' || {text}) END"
    )


def _digest(db: duckdb.DuckDBPyConnection, view: str, columns: Mapping[str, str]) -> tuple[int, int, int]:
    """Rows, and the sums of both halves of their MD5 sums."""
    values = ", ".join(
        f"CASE WHEN {c} IS NULL THEN '-' ELSE length({c}) || ':' || {c} END" for c in map(_name, columns)
    )
    (found,) = db.execute(
        "SELECT count(*), coalesce(sum(md5_number_lower(r)), 0), coalesce(sum(md5_number_upper(r)), 0) "
        f"FROM (SELECT concat({values}) AS r FROM {_name(view)})"
    ).fetchall()
    return found[0], int(found[1]), int(found[2])


def _difference(db: duckdb.DuckDBPyConnection, table: str, truth: Truth) -> str:
    """In how many rows, by their keys, a table differs, and in which columns."""
    key, columns = _name(truth.keys[table]), truth.columns[table]
    stale = [f"count_if(t.{key} = h.{key} AND t.{c} IS DISTINCT FROM h.{c})" for c in map(_name, columns)]
    any_stale = " OR ".join(f"t.{c} IS DISTINCT FROM h.{c}" for c in map(_name, columns))
    ((lost, kept, differ, *by_column),) = db.execute(
        f"SELECT count_if(h.{key} IS NULL), count_if(t.{key} IS NULL), count_if(t.{key} = h.{key} AND ({any_stale})), "
        f"{', '.join(stale)} "
        f"FROM {_name(f'truth_{table}')} t FULL JOIN {_name(f'held_{table}')} h ON t.{key} = h.{key}"
    ).fetchall()
    ((twice,),) = db.execute(
        f"SELECT count(*) - count(DISTINCT {key}) FROM {_name(f'held_{table}')}"
    ).fetchall()
    where = ", ".join(name for name, n in zip(columns, by_column, strict=True) if n)
    counted = (
        (lost, "missing"),
        (kept, "deleted in the source and kept"),
        (twice, "twice"),
        (differ, f"other {where}"),
    )
    return ", ".join(f"{n:,} {what}" for n, what in counted if n)


def _lacking(db: duckdb.DuckDBPyConnection, columns: Mapping[str, str], relation: str) -> str:
    """What is not there at all, in words."""
    try:
        there = {name for name, *_ in db.sql(f"DESCRIBE {relation}").fetchall()}
    except (duckdb.CatalogException, duckdb.IOException) as error:
        return f"cannot be read: {str(error).splitlines()[0]}"
    return ", ".join(f"no column {name}" for name in columns if name not in there)


def _other_types(db: duckdb.DuckDBPyConnection, columns: Mapping[str, str], relation: str) -> Iterator[str]:
    """Of each column that is kept in a type of another kind what it is kept as."""
    for name, kind, *_ in db.sql(f"DESCRIBE {relation}").fetchall():
        if name in columns and kind.partition("(")[0] not in _EXPECTED[columns[name]]:
            yield f"{columns[name]} as {kind.lower()}"


def _relation(db: duckdb.DuckDBPyConnection, folder: Path, written: Written, table: str, key: str) -> str:
    """A query for the rows of a table that a tool wrote."""
    place = folder / written.place.format(table=table)
    match written.form:
        case "duckdb":
            db.execute(f"ATTACH IF NOT EXISTS {_text(place)} AS copy (READ_ONLY)")
            return f"FROM copy.{_name(written.schema)}.{_name(table)}"
        case "parquet":
            return f"FROM read_parquet({_text(place)})"
        case "csv":
            return _csv(place)
        case "versions":
            return _newest(list(enumerate(sorted(place.glob("*.csv")))), [], key)
        case "batches":
            return _newest(*_batches(place, table), key)


def _batches(lake: Path, table: str) -> tuple[list[tuple[int, Path]], list[tuple[int, Path]]]:
    """The files of new and changed rows, and those of deleted keys, each with its batch, as the manifests list them."""
    rows: list[tuple[int, Path]] = []
    deletions: list[tuple[int, Path]] = []
    for file in sorted((lake / "raw/batches").glob("*.json")):
        if file.stem.isdecimal():
            changes = json.loads(file.read_text())["tables"][table]["changes"] or {}
            for kind, found in (("rows", rows), ("deletions", deletions)):
                if changes.get(kind):
                    found.append((int(file.stem), lake / changes[kind]["path"]))
    return rows, deletions


def _newest(rows: Sequence[tuple[int, Path]], deletions: Sequence[tuple[int, Path]], key: str) -> str:
    """The newest version of each row, unless it was deleted since."""
    if len(rows) == 1 and not deletions:
        return _csv(rows[0][1])
    key = _name(key)
    versions = " UNION ALL ".join(f"SELECT *, {n} AS _at FROM ({_csv(file)})" for n, file in rows)
    newest = f"FROM ({versions}) QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY _at DESC) = 1"
    gone = " UNION ALL ".join(f"SELECT {key}, {n} AS _at FROM ({_csv(file)})" for n, file in deletions)
    return (
        newest
        if not gone
        else (
            f"SELECT n.* FROM ({newest}) n WHERE NOT EXISTS (FROM ({gone}) d WHERE d.{key} = n.{key} AND d._at > n._at)"
        )
    )


def _csv(file: Path) -> str:
    """All values as text; an empty value is NULL, a quoted one is an empty text, as PostgreSQL writes them."""
    with file.open(newline="", encoding="utf-8") as lines:
        columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in next(csv.reader(lines)))
    return (
        f"FROM read_csv({_text(file)}, auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', "
        f"nullstr = '', allow_quoted_nulls = false, columns = {{{columns}}})"
    )
