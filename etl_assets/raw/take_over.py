"""Taking over what an older pipeline kept, as the first batch of a new lake.

    <old>/input_csv_key/<table>.csv      exported and not yet processed      (its run number is in a marker, csv_export.txt)
    <old>/processed_csv_key/<table>.csv  moved there after use               (likewise, csv_processed.txt)

Each file is a whole table as one run exported it; a later run writes over it. So a table's latest content is its file
in `input_csv_key`, or else the one in `processed_csv_key`. The files say neither types nor keys, and not which instant
they show: types and keys come from the source's catalog, and the next run reads every table whole, compares, and lands
the differences. Whatever the files hold, the lake then equals the source. Nothing is written to the old place.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing, literal
from etl_assets.errors import EtlError
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import materialized, storage
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.manifest import Manifest, SourceColumn, SourceIdentity
from etl_assets.lake.names import number
from etl_assets.lake.opening import open_files
from etl_assets.raw.landing import UNBORN, Landed, Landing, claimed
from etl_assets.raw.plan import ReadPlan
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.catalog import Relation, check_readable
from etl_assets.source.snapshot import Snapshot
from etl_assets.source.table import Table

INPUT, PROCESSED = "input_csv_key", "processed_csv_key"
_RUN = re.compile(rb"\brun\s+(\d+)", re.IGNORECASE)
_TEXT = re.compile(r"text|character|bpchar|name\b")


class TakeOverError(EtlError):
    """What is to be taken over can't be told, or read."""


@dataclass(frozen=True)
class OldTable:
    """The file that holds the latest content of a table, and the run that wrote it, if a marker says so."""

    name: str
    path: str
    run: int | None


@dataclass(frozen=True)
class OldLayout:
    """What is to be taken over. `missing`: declared tables without a file; `others`: files that are none of them."""

    files: Files
    tables: Mapping[str, OldTable]
    missing: Sequence[str]
    others: Sequence[str]


@dataclass(frozen=True)
class Taken:
    """A table that was taken over: `dropped` are columns that the source does not have, `lacking` those it has
    and the file does not."""

    table: OldTable
    rows: int
    dropped: Sequence[str]
    lacking: Sequence[str]


def find(url: str, tables: Sequence[Table], cache: Path) -> OldLayout:
    """The latest file of each table below a URL. Raises `TakeOverError` where that can't be told."""
    try:
        files = open_files(url, cache)
        listed = {folder: files.names(folder) for folder in (INPUT, PROCESSED)}
        runs = {folder: _run(files, folder, names) for folder, names in listed.items()}
    except LakeError as error:  # it speaks of the lake that files are elsewhere
        raise TakeOverError(str(error).replace("ETL_LAKE_URL", "the URL")) from error
    wanted = {f"{table.name}.csv": table.name for table in tables}
    found: dict[str, OldTable] = {}
    others = []
    for folder, names in listed.items():
        for name in (name for name in names if name.endswith(".csv")):
            if name not in wanted:
                _refuse_numbered(files, folder, name, wanted.values())
                others.append(f"{folder}/{name}")
            elif wanted[name] not in found:
                found[wanted[name]] = OldTable(wanted[name], f"{folder}/{name}", runs[folder])
            elif (runs[INPUT] or 0) < (runs[PROCESSED] or 0) and runs[INPUT] is not None:
                raise TakeOverError(
                    f"{name} lies in {INPUT} (run {runs[INPUT]}) and in {PROCESSED} (run {runs[PROCESSED]}) of {files.url}: "
                    "which is the latest can't be told; copy the right files to a place of their own"
                )
    if not found:
        raise TakeOverError(
            f"{files.url} holds no file of a declared table ({', '.join(wanted)}) in {INPUT} or {PROCESSED}; "
            "name the folder or bucket that these two are in"
        )
    missing = [table.name for table in tables if table.name not in found]
    return OldLayout(files, found, missing, others)


def _run(files: Files, folder: str, names: Sequence[str]) -> int | None:
    """The number of the last run that a folder's markers name."""
    markers = [name for name in names if name.endswith(".txt")]
    numbers = [int(n) for name in markers for n in _RUN.findall(files.read(f"{folder}/{name}"))]
    return max(numbers, default=None)


def _refuse_numbered(files: Files, folder: str, name: str, tables: Iterable[str]) -> None:
    for table in tables:
        if re.fullmatch(rf"{re.escape(table)}[ ._(-]*(run)?[ ._-]*\d+\)?\.csv", name, re.IGNORECASE):
            raise TakeOverError(
                f"{files.url}/{folder}/{name} looks like one of several files of {table}: whether it replaces or "
                f"continues {table}.csv can't be told; make one {table}.csv of them, in a place of its own"
            )


def take_over(
    old: OldLayout, request: CaptureRequest, batches: Batches, scratch: Path
) -> tuple[Manifest, Sequence[Taken]]:
    """Commit the old content as batch 000001. Raises `EtlError`, and then nothing was committed."""
    started = time.monotonic()
    _refuse_begun(batches)
    with claimed(request, UNBORN, scratch) as (snapshot, folder, connection):
        _refuse_begun(Batches(batches.files))  # another run may have begun it while this one waited
        landing = Landing.of(request, _of_no_instant(snapshot), batches, None, connection, folder)
        landing.sweep()
        landed, taken = {}, []
        for table in old.tables.values():
            landed[table.name], told = _land(old.files, table, snapshot.relations[table.name], landing)
            taken.append(told)
        return landing.commit(landed, seconds=time.monotonic() - started), taken


def _refuse_begun(batches: Batches) -> None:
    if latest := batches.latest():
        raise TakeOverError(
            f"the lake {batches.files.url} has begun already (batch {number(latest.batch)}), and what is taken over must be its "
            "first batch; name a new lake (ETL_LAKE_URL)"
        )


def _of_no_instant(snapshot: Snapshot) -> Snapshot:
    """The source's relations at an instant of which the old files know nothing."""
    known = snapshot.instant.source
    nobody = SourceIdentity(
        system_identifier=None, timeline=None, database=known.database, version=known.version
    )
    instant = replace(snapshot.instant, snapshot="", horizon=0, next_transaction=0, lsn="0/0", source=nobody)
    return Snapshot(instant, snapshot.relations, snapshot.connections, snapshot.lock, snapshot.written)


def _land(files: Files, table: OldTable, relation: Relation, landing: Landing) -> tuple[Landed, Taken]:
    """Land an old file in the form of a first batch."""
    check_readable(relation)
    where = f"{files.url}/{table.path}"
    path = files.local(table.path)
    header = _header(path, where)
    columns = tuple(column for column in relation.columns if column.name in header)
    lacking = [name for name in relation.names if name not in header]
    needed = set(relation.names if relation.table.drift == "freeze" else relation.table.columns)
    if missing := [name for name in lacking if name in needed or name in relation.key]:
        raise TakeOverError(
            f"{where} has no column {', '.join(missing)}, which the source's {table.name} has and which is needed; "
            f"leave the table out (--without {table.name}): the next run reads it from the source"
        )
    names = [f"c{position}" for position in range(len(header))]  # pandas' index has no name of its own
    places = dict(zip(header, map(identifier, names), strict=True))
    chosen = [f"{_as_the_source_writes(c, places[c.name])} AS {identifier(c.name)}" for c in columns]
    rows = f"SELECT {', '.join(chosen)} FROM {duck.csv_rows([path], names)}"
    try:
        kept = materialized(landing.connection, rows)
        count = _checked(landing.connection, kept, relation.key, columns, where)
    except duckdb.Error as error:  # it would quote the row
        line = re.search(r"Line: (\d+)", str(error))
        raise _unreadable(where, f" (line {line[1]})" if line else "") from None
    ordered = landing.connection.sql(f"FROM {kept} ORDER BY {listing(relation.key)}")
    file = landing.write(ordered, landing.naming.rows(table.name), count)
    run = f" (run {table.run})" if table.run is not None else ""
    plan = ReadPlan("whole", f"taken over from {where}{run}")
    held = replace(relation, oid=0, partitions=(), layout="", columns=columns)
    dropped = [name or "(without a name)" for name in header if name not in relation.names]
    return (
        landing.begin(held, landing.connection, plan, file, None),
        Taken(table, count, dropped, lacking),
    )


def _header(path: Path, where: str) -> list[str]:
    try:
        header = duck.header(path)
    except StopIteration:
        header = []
    except UnicodeDecodeError:
        raise _unreadable(where) from None
    header[:1] = [name.removeprefix("\ufeff") for name in header[:1]]
    if not header:
        raise TakeOverError(f"{where} is empty: it has not even a header; remove it from what is taken over")
    if doubled := sorted({name for name in header if name and header.count(name) > 1}):
        raise TakeOverError(f"{where} has several columns called {', '.join(doubled)}; mend a copy of it")
    return header


def _unreadable(where: str, line: str = "") -> TakeOverError:
    return TakeOverError(
        f"{where} can't be read as CSV in UTF-8{line}; mend a copy of it, or leave the table out (--without)"
    )


def _checked(
    connection: duckdb.DuckDBPyConnection,
    rows: str,
    key: Sequence[str],
    columns: Sequence[SourceColumn],
    where: str,
) -> int:
    """How many rows there are. Raises `TakeOverError` for rows that can't be told apart, or are not the source's."""
    for column in columns:
        if storage(column.type) == "BIGINT":
            name = identifier(column.name)
            # DuckDB alone would round 3.5, and take 1 and 01 for different keys.
            whole = f"regexp_full_match({name}, '0|-?[1-9][0-9]*') AND TRY_CAST({name} AS BIGINT) IS NOT NULL"
            (wrong,) = duck.one(
                connection, f"SELECT count(*) FROM {rows} WHERE {name} IS NOT NULL AND NOT ({whole})"
            )
            if wrong:
                raise TakeOverError(
                    f"{where} has {wrong:,} rows in which {column.name} is no {column.type}; is it the right file?"
                )
    known = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in key)
    count, distinct = duck.one(
        connection,
        f"SELECT count(*), count(DISTINCT row({listing(key)})) FILTER (WHERE {known}) FROM {rows}",
    )
    if distinct < count:
        raise TakeOverError(
            f"{where} has {count - distinct:,} rows whose key ({', '.join(key)}) is missing or occurs before: which "
            "version is the latest can't be told; keep one of each in a copy of it"
        )
    return int(count)


def _as_the_source_writes(column: SourceColumn, text: str) -> str:
    """The value of a column in PostgreSQL's own text, as far as Python's way to write it is understood; what is not
    stays as it is, and differs from the source then. An empty field was NULL or the empty text, which the files do not
    tell: it is NULL where the source allows that."""
    type_, value = column.type, f"nullif({text}, '')"
    if _TEXT.match(type_):
        return value if column.nullable else f"coalesce({text}, '')"
    if storage(type_) == "BIGINT":
        return f"regexp_replace({value}, '[.]0+$', '')"  # pandas writes integers beside NULL as 3.0
    if type_ == "boolean":
        return f"CASE lower({text}) WHEN 'true' THEN 't' WHEN 'false' THEN 'f' ELSE {value} END"
    if type_ == "date":
        return f"regexp_replace({value}, ' 00:00:00$', '')"
    if re.fullmatch(r"timestamp(\(\d\))? without time zone", type_):
        form = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.]\d{1,6})?"
        read = f"TRY_CAST({text} AS TIMESTAMP)"
    elif scale := re.fullmatch(r"numeric\(\d+,(\d+)\)", type_):
        form = rf"-?\d+([.]\d{{0,{scale[1]}}}0*)?"
        read = f"TRY_CAST({text} AS DECIMAL(38,{scale[1]}))"
    else:
        return value
    return f"coalesce(CASE WHEN regexp_full_match({text}, {literal(form)}) THEN CAST({read} AS VARCHAR) END, {value})"
