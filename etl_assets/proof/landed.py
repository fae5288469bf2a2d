"""Source tables as of a batch, read a second time: from the landed files alone, by other means than the flow's.

The flow folds batches into a base and types text in SQL. Here Arrow reads the files, the newest version of each key is
found by the numbers of the batches, and Arrow's own conversions type the text. What the two have in common is the
declared types, and what they mean: a value is represented exactly, or its row is left out.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import InvalidOperation
from functools import partial
from pathlib import Path
from uuid import UUID

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

from etl_assets.engine.duck import MAX_LINE_BYTES, header, identifier, own
from etl_assets.engine.pieces import split
from etl_assets.engine.types import Type
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import LandedFile, Manifest, TableState
from etl_assets.source.table import Table

# Of the memory of a machine this takes a part that does not grow with the table.
_BATCH_ROWS = 50_000
_PAST = own("past")
LANDED_IN = own("landed_in")
_INTEGERS = {"smallint": (16, pa.int16()), "int": (32, pa.int32()), "bigint": (64, pa.int64())}
# A type of PostgreSQL -> the declared types that hold all of its usual values as they are written.
_NATIVE = {
    "smallint": {"smallint", "int", "bigint"},
    "integer": {"int", "bigint"},
    "bigint": {"bigint"},
    "boolean": {"boolean"},
    "real": {"real", "double"},
    "double precision": {"double"},
    "date": {"date"},
    "time without time zone": {"time"},
    "timestamp without time zone": {"timestamp"},
    "timestamp with time zone": {"timestamptz"},
    "uuid": {"uuid"},
    "bytea": {"bytea"},
}
_KEY = "\N{WORD JOINER}" * 22  # longer than PostgreSQL lets any name be


@dataclass(frozen=True)
class LandedTable:
    """A source table as of a batch. `path`: a Parquet file with the rows that exist and fit, in declared columns and
    types (an identifier as text), and the key as it was landed under names that no column of a source has (`keys`). `misfits`
    counts the existing rows that do not fit. `once`: a Parquet file with the keys, in declared types, of versions that
    fitted and that a later one or a deletion took the place of, and the batch that brought each (`LANDED_IN`). `longest`: no
    row that was landed has more bytes; 0 where none is unusually long."""

    path: Path
    once: Path
    rows: int
    misfits: int
    keys: tuple[str, ...]
    longest: int = 0


def landed_table(
    table: Table, manifest: Manifest, batches: Batches, connection: duckdb.DuckDBPyConnection, folder: Path
) -> LandedTable:
    """Read a source table as of a batch; where it was declared later, as of the batch that first read it."""
    manifest = _holding(table.name, manifest, batches)
    state = manifest.tables[table.name]
    path, once = folder / f"{table.name}-now.parquet", folder / f"{table.name}-once.parquet"
    declared = [pa.field(name, type_.arrow) for name, type_ in table.types.items()]
    keys = [pa.field(_KEY + name, pa.int64() if _whole(state, name) else pa.string()) for name in state.key]
    schema = pa.schema([*declared, *keys])
    past_keys = pa.schema([field for field in declared if field.name in state.key])
    past_schema = past_keys.append(pa.field(LANDED_IN, pa.int64()))
    rows = misfits = 0
    landed = [m.changed[table.name].rows for m in batches.changing(table.name, manifest)]
    longest = max((file.longest_row for file in landed if file), default=0)
    # Statistics would hold the least and the largest value, several times; a dictionary each once more.
    writing = partial(pq.ParquetWriter, compression="lz4", write_statistics=False, use_dictionary=not longest)
    with writing(path, schema) as writer, writing(once, past_schema) as past:
        for texts, held in _versions(table, manifest, batches, connection):
            typed, fits = _typed(table.types, held, texts, schema)
            current = pc.invert(texts.column(_PAST)) if _PAST in texts.schema.names else fits.is_valid()
            shown = pc.and_(fits, current)
            count = pc.sum(shown).as_py() or 0
            rows, misfits = rows + count, misfits + (pc.sum(current).as_py() or 0) - count
            writer.write_batch(typed if count == len(fits) else typed.filter(shown))
            if count < len(fits):
                ended = typed.filter(pc.and_(fits, pc.invert(current))).select(past_keys.names)
                landed_in = pa.array([held.changed_in] * ended.num_rows, pa.int64())
                past.write_batch(pa.RecordBatch.from_arrays([*ended.columns, landed_in], schema=past_schema))
    return LandedTable(path, once, rows, misfits, tuple(field.name for field in keys), longest)


def _holding(table: str, manifest: Manifest, batches: Batches) -> Manifest:
    if table in manifest.tables:
        return manifest
    later = (batches.get(number) for number in batches.numbers() if number > manifest.batch)
    found = next((m for m in later if table in m.tables), None)
    if found is None:
        raise LakeError(f"the lake holds nothing of the source's table {table}: run etl run")
    return found


def _whole(state: TableState, name: str) -> bool:
    kinds = {column.name: column.type for column in state.columns}
    return kinds[name] in {"smallint", "integer", "bigint"}


# -- the versions of each row ------------------------------------------------------------------------------------------


def _read(
    connection: duckdb.DuckDBPyConnection, path: Path, block_bytes: int, wanted: Collection[str]
) -> pa.RecordBatchReader:
    """Columns of a landed file as text: an unquoted nothing is NULL, a quoted one is the empty text."""
    names = header(path)
    chosen = [name for name in names if name in wanted]
    parsed = pa.csv.ParseOptions(newlines_in_values=True)
    converted = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    if block_bytes > MAX_LINE_BYTES + 1:  # Arrow would read dozens of blocks ahead
        converted.include_columns = chosen
        read = pa.csv.ReadOptions(block_size=block_bytes, use_threads=False)
        batches = (
            batch
            for piece in split(connection, path)
            for batch in pa.csv.read_csv(
                pa.OSFile(str(piece)), read_options=read, parse_options=parsed, convert_options=converted
            ).to_batches()
        )
        return pa.RecordBatchReader.from_batches(
            pa.schema([pa.field(name, pa.string()) for name in chosen]), batches
        )
    format_ = pa.dataset.CsvFileFormat(
        parse_options=parsed,
        read_options=pa.csv.ReadOptions(block_size=block_bytes),
        convert_options=converted,
    )
    schema = pa.schema([pa.field(name, pa.string()) for name in names])
    # The file system is named, since a path alone may be read as a URL.
    data = pa.dataset.dataset(str(path), filesystem=pa.fs.LocalFileSystem(), format=format_, schema=schema)
    scanner = data.scanner(columns=chosen, batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=1)
    return scanner.to_reader()


def _versions(
    table: Table, manifest: Manifest, batches: Batches, connection: duckdb.DuckDBPyConnection
) -> Iterator[tuple[pa.RecordBatch, TableState]]:
    """All versions of all rows as text, newest first, with the table as it was then. Column `_PAST`, where there is one,
    says whether something newer is known of the row."""
    keys = manifest.tables[table.name].key
    wanted = {*table.types, *keys}  # other columns may be as long as they like
    listed = ", ".join(map(identifier, keys))
    seen = identifier(f"seen {table.name}")
    declared = ", ".join(f"{identifier(name)} VARCHAR" for name in keys)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {seen} ({declared})")
    changing = list(batches.changing(table.name, manifest))  # newest first
    for i, batch in enumerate(changing):
        changes, state = batch.changed[table.name], batch.tables[table.name]
        if changes.rows:
            with _file(connection, batches, changes.rows, keys, wanted) as rows:
                if i == 0:  # nothing is newer
                    for texts in rows:
                        yield texts, state
                else:
                    same = " AND ".join(f"r.{identifier(k)} = s.{identifier(k)}" for k in keys)
                    query = f"SELECT r.*, EXISTS (FROM {seen} s WHERE {same}) AS {_PAST} FROM landed_rows r"
                    for texts in connection.sql(query).to_arrow_reader(_BATCH_ROWS):
                        yield texts, state
        if i + 1 < len(changing):
            for file in (changes.rows, changes.deletions):
                if file:
                    with _file(connection, batches, file, keys, keys):
                        connection.execute(f"INSERT INTO {seen} SELECT {listed} FROM landed_rows")


@contextmanager
def _file(
    connection: duckdb.DuckDBPyConnection,
    batches: Batches,
    file: LandedFile,
    keys: Sequence[str],
    wanted: Collection[str],
) -> Iterator[pa.RecordBatchReader]:
    """Columns of a landed file to be read once, as it is or as `landed_rows` in a query. Raises `LakeError` if it lacks keys."""
    path = batches.files.local(file.path)
    try:
        has_keys = set(keys) <= set(header(path))
    except (OSError, ValueError):
        has_keys = False
    if not has_keys:
        raise LakeError(
            f"{batches.files.url}/{file.path} is not the file its manifest lists; etl repair supersedes it by what is "
            "still known"
        )
    # A row has to lie in two blocks at the most.
    reader = _read(connection, path, min(file.bytes, max(MAX_LINE_BYTES, file.longest_row)) + 1, wanted)
    connection.register("landed_rows", reader)
    try:
        yield reader
    finally:
        connection.unregister("landed_rows")


# -- types ---------------------------------------------------------------------------------------------------------


def _typed(
    types: Mapping[str, Type], state: TableState, texts: pa.RecordBatch, schema: pa.Schema
) -> tuple[pa.RecordBatch, pa.Array]:
    """Declared columns (and keys, if the schema has them) in their types, and which rows fit in all of them."""
    source = {column.name: column.type for column in state.columns}
    fits = pa.array([True] * texts.num_rows, pa.bool_())
    columns = []
    for name, type_ in types.items():
        at = texts.schema.get_field_index(name)
        text = texts.column(at).cast(pa.string()) if at >= 0 else pa.nulls(texts.num_rows, pa.string())
        values = _convert(type_, source.get(name, "text"), text)
        lost = pc.and_(pc.is_valid(text), pc.is_null(values))
        fits = pc.and_(fits, pc.invert(lost))
        if not type_.nullable:
            fits = pc.and_(fits, pc.is_valid(text))
        columns.append(values)
    for field in schema:
        if field.name.startswith(_KEY):
            columns.append(pc.cast(texts.column(field.name.removeprefix(_KEY)), field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema), fits


def _convert(type_: Type, source: str, text: pa.Array) -> pa.Array:
    """Text as values of a type; NULL for what it can't hold exactly."""
    if type_.arrow == pa.string() and type_.name != "uuid":
        return text
    native = type_.name in _NATIVE.get(re.sub(r"\(.*\)", "", source), set())
    if type_.arrow.id == pa.decimal128(1).id and re.fullmatch(r"numeric\(\d+,\d+\)", source):
        native = True
    if native and (type_.name in {"smallint", "int", "bigint", "date", "timestamp"} or "(" in type_.name):
        try:
            return pc.cast(text, type_.arrow)  # all at once, as long as nothing is unusual
        except pa.ArrowInvalid:
            pass
    if type_.arrow.id == pa.decimal128(1).id:
        return _decimals(type_, text)
    distinct = pc.dictionary_encode(text)
    known = pa.array(
        [_value(type_, value, native) for value in distinct.dictionary.to_pylist()],
        type=_integral(type_.arrow),
    )
    return pc.cast(known.take(distinct.indices), type_.arrow)


def _integral(type_: pa.DataType) -> pa.DataType:
    """What stands for values of a type on the way: times are counted."""
    if pa.types.is_temporal(type_):
        return pa.int32() if pa.types.is_date32(type_) else pa.int64()
    return type_


def _decimals(type_: Type, text: pa.Array) -> pa.Array:
    precision, scale = type_.arrow.precision, type_.arrow.scale
    plain = pc.match_substring_regex(text, r"^-?[0-9]+(\.[0-9]+)?$")
    trimmed = pc.replace_substring_regex(text, r"(\.[0-9]*?)0+$", r"\1")
    trimmed = pc.replace_substring_regex(trimmed, r"\.$", "")
    whole = pc.utf8_length(pc.replace_substring_regex(trimmed, r"^-?0*([0-9]*)(\..*)?$", r"\1"))
    behind = pc.utf8_length(pc.replace_substring_regex(trimmed, r"^[^.]*\.?", ""))
    within = pc.and_(pc.less_equal(whole, precision - scale), pc.less_equal(behind, scale))
    return pc.cast(pc.if_else(pc.and_(plain, within), trimmed, None), type_.arrow)


def _value(type_: Type, text: str | None, native: bool) -> object:
    """One text as a value, None if the type can't hold it. What is not of the source's own type counts only in its
    canonical form."""
    if text is None:
        return None
    try:
        return _READ[type_.name](text, native)
    except (ValueError, OverflowError, InvalidOperation):
        return None


def _integer(bits: int) -> Callable[[str, bool], int | None]:
    def read(text: str, native: bool) -> int | None:
        if not re.fullmatch(r"0|-?[1-9][0-9]*", text):
            return None
        value = int(text)
        return value if -(1 << (bits - 1)) <= value < 1 << (bits - 1) else None

    return read


def _boolean(text: str, native: bool) -> bool | None:
    return (
        {"t": True, "f": False, "true": True, "false": False}.get(text)
        if native
        else {
            "true": True,
            "false": False,
        }.get(text)
    )


def _float(text: str, native: bool) -> float | None:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")) or "_" in text or text != text.strip():
        return None
    return value if native or repr(value) == text else None


def _single(text: str, native: bool) -> float | None:
    value = _float(text, True)
    if value is None:
        return None
    narrow: float = pa.scalar(value, pa.float32()).as_py()
    if narrow in (float("inf"), float("-inf")):
        return None
    if native:
        return narrow
    shortest = str(pc.cast(pa.scalar(value, pa.float32()), pa.string()).as_py())
    return narrow if text in {shortest, f"{shortest}.0"} else None


_DAY = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?")
_EPOCH = date(1970, 1, 1).toordinal()


def _days(text: str) -> int | None:
    """Days since 1970-01-01, of the years 1 to 9999."""
    found = _DAY.fullmatch(text)
    if not found:
        return None
    year, month, day = (int(part) for part in found.groups())
    return date(year, month, day).toordinal() - _EPOCH


def _date(text: str, native: bool) -> int | None:
    return _days(text)


def _microseconds(text: str, native: bool) -> int | None:
    found = _CLOCK.fullmatch(text)
    if not found or (not native and (found[4] or "1").endswith("0")):
        return None
    hour, minute, second = (int(part) for part in found.groups()[:3])
    time(hour, minute, second)  # raises for what is no time of day, 24:00:00 too
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + int((found[4] or "").ljust(6, "0"))


def _timestamp(text: str, native: bool) -> int | None:
    day, blank, clock = text.partition(" ")
    days, within = _days(day), _microseconds(clock, native) if blank else None
    if days is None or within is None:
        return None
    return days * 86_400_000_000 + within


_OFFSET = re.compile(r"(.*)([+-])([0-9]{2})(?::([0-9]{2}))?(?::([0-9]{2}))?")


def _timestamptz(text: str, native: bool) -> int | None:
    found = _OFFSET.fullmatch(text)
    if not found or (not native and found[2] + found[3] + (found[4] or "") != "+00"):
        return None
    value = _timestamp(found[1], native)
    seconds = int(found[3]) * 3600 + int(found[4] or 0) * 60 + int(found[5] or 0)
    return None if value is None else value - (1 if found[2] == "+" else -1) * seconds * 1_000_000


def _uuid(text: str, native: bool) -> str | None:
    return text if str(UUID(text)) == text else None


def _bytes(text: str, native: bool) -> bytes | None:
    # A group that repeats would take memory for each byte.
    return bytes.fromhex(text[2:]) if re.fullmatch(r"\\x[0-9a-f]*", text) else None


_READ: Mapping[str, Callable[[str, bool], object]] = {
    "smallint": _integer(16),
    "int": _integer(32),
    "bigint": _integer(64),
    "boolean": _boolean,
    "double": _float,
    "real": _single,
    "date": _date,
    "time": _microseconds,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "uuid": _uuid,
    "bytea": _bytes,
}
