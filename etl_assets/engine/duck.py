"""DuckDB, as this project uses it: bounded memory, no surprises from Python variables, PostgreSQL's CSV."""

import csv
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
from duckdb import _expression

from etl_assets.engine.scratch import own_folder
from etl_assets.errors import EtlError

# A CSV line of up to this size is read without being told of it. DuckDB reserves memory for it.
MAX_LINE_BYTES = 16 << 20
# Reading in parts takes 16 lines of the longest kind at once, for each of some buffers.
_PARTS_BYTES = 64 * MAX_LINE_BYTES
_LONGEST_NAME_BYTES = 63  # of what PostgreSQL calls anything


def own(name: str) -> str:
    """The name of a column that stands beside those of a source table: longer than PostgreSQL lets any of its be."""
    return f"__{name}".ljust(_LONGEST_NAME_BYTES + 1, "_")


FILE = own("file")


def _warn_of_literals_only() -> None:
    """Let DuckDB look at the names of columns only where an expression has a string that may be called like one. It looks at all
    of them for each expression of a projection: of 1,500 columns those were two seconds for each `select` of a star function."""
    relations = vars(sys.modules[duckdb.DuckDBPyRelation.__module__])
    warn: Any = relations.get("_warn_on_literal_names")
    literals: Any = getattr(_expression, "string_literals", None)

    def warn_of_literals(value: object, columns: list[str]) -> None:
        if isinstance(value, duckdb.Expression) and literals(value):
            warn(value, columns)

    if warn and literals:
        relations["_warn_on_literal_names"] = warn_of_literals


_warn_of_literals_only()


@cache  # each FROM clause over CSV files asks
def memory_bytes(root: Path = Path("/")) -> int:
    """What DuckDB may use before it spills: half of what this process may have, 4 GiB at the most."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4 << 30, min([machine, *_container_limits(root)]) // 2)


def _container_limits(root: Path) -> list[int]:
    """The limits on memory, in bytes, of the control groups (v1 and v2) that this process is in."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted, file = (
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            if controllers
            else ("sys/fs/cgroup", "memory.max")
        )
        # Inside a container its own group may be what is mounted, whatever it is called outside.
        place = PurePosixPath(path.lstrip("/"))
        for group in (place, *place.parents):
            with suppress(OSError, ValueError):  # no such group here, or "max"
                found.append(int((root / mounted / group / file).read_text()))
    return found


@contextmanager
def connect(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that spills into a folder of its own in `scratch` when memory runs short, with times in UTC."""
    with own_folder(scratch, "duckdb-") as folder, duckdb.connect() as connection:
        configure(connection, folder)
        yield connection


def configure(connection: duckdb.DuckDBPyConnection, scratch: Path) -> None:
    """Let a connection spill to a folder, and take no more memory than there is. Where another one to the same database has
    spilled already, both go on in that one's folder."""
    connection.execute("SET TimeZone = 'UTC'")  # as a connect() option it would ask for a download
    connection.execute("SET python_enable_replacements = false")
    with suppress(duckdb.NotImplementedException):  # it can't be switched, not even to the same one
        connection.execute("SET temp_directory = $path", {"path": str(scratch)})
    connection.execute("SET memory_limit = $limit", {"limit": f"{memory_bytes()}B"})
    # Order is asked for where it counts; keeping it elsewhere would hold whole tables in memory.
    connection.execute("SET preserve_insertion_order = false")


def one(connection: duckdb.DuckDBPyConnection, query: str, params: object = None) -> tuple[Any, ...]:
    """The only row of a query. Drained, because an unfinished result blocks its connection."""
    (row,) = connection.execute(query, params).fetchall()
    return row


def identifier(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A quoted SQL string, where SQL takes no parameter (COPY ... TO)."""
    return "'" + text.replace("'", "''") + "'"


def listing(names: Sequence[str], prefix: str = "") -> str:
    """Quoted identifiers with commas between them."""
    return ", ".join(prefix + identifier(name) for name in names)


def type_name(type_: object) -> str:
    """A type of a relation, or as a catalog prints it, by the name that is declared."""
    return str(type_).replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")


# What parts the fields of a CSV file that somebody wrote.
_DELIMITERS = ",;\t|"
NOT_UTF_8 = "is not UTF-8: save it as such (in Excel as CSV UTF-8)"
# To DuckDB a path may be a pattern, and its folders may say values (`country=UK`). Here it is a path and no more.
_ONLY_THESE_FILES = "hive_partitioning = false, union_by_name = false"
_PATTERN = re.compile(r"[*?\[]")


def files(paths: Sequence[Path]) -> str:
    """Files in SQL, as the list that DuckDB's readers take. Raises `EtlError` for a path that can't be said so."""
    return f"[{', '.join(literal(_plain(str(path))) for path in paths)}]"


def _plain(path: str) -> str:
    if "\\" in path and _PATTERN.search(path):
        raise EtlError(
            f"DuckDB can't read {path}: a path with one of * ? [ can't have a backslash too; choose another folder"
        )
    return _PATTERN.sub(r"[\g<0>]", path)


def csv_rows(paths: Sequence[Path], names: Sequence[str] = (), longest: int = 0) -> str:
    """A FROM clause with the rows of CSV files with one header, as PostgreSQL writes them: every column text, an
    unquoted nothing is NULL, `""` is the empty text. The column `FILE` tells where a row comes from. The columns are
    called as the header says, or by `names`. `longest`: the bytes of the longest line, where it may be a long one."""
    called = names or header(paths[0])
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in called)
    # A carriage return in the name of a column would be taken for the end of all lines, and then there are none.
    ends = "new_line = '\\n', " if any("\r" in name for name in called) else ""
    return (
        f"read_csv({files(paths)}, header = true, columns = {{{columns}}}, auto_detect = false, {ends}"
        "allow_quoted_nulls = false, nullstr = '', delim = ',', quote = '\"', escape = '\"', compression = 'none', "
        f"{_lines(longest)}, filename = {literal(FILE)}, {_ONLY_THESE_FILES})"
    )


def _lines(longest: int) -> str:
    """How long lines are read. To read a file in parts DuckDB needs room for many lines of the longest kind. Where there is
    little memory, and for lines beyond what is usual, files are read from end to end."""
    if longest <= MAX_LINE_BYTES and memory_bytes() >= _PARTS_BYTES:
        return f"max_line_size = {MAX_LINE_BYTES}"
    if longest <= MAX_LINE_BYTES:
        return f"max_line_size = {MAX_LINE_BYTES}, buffer_size = {2 * MAX_LINE_BYTES}, parallel = false"
    return f"max_line_size = {longest}, buffer_size = {longest + 1}, parallel = false"


def one_at_a_time(connection: duckdb.DuckDBPyConnection, longest: int) -> None:
    """Let no two lines that are unusually long be in work at once: one fills much of the memory."""
    if longest > MAX_LINE_BYTES:
        connection.execute("SET threads = 1")


def read_csv(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], longest: int = 0
) -> duckdb.DuckDBPyRelation:
    """The rows of CSV files (see `csv_rows`)."""
    return connection.sql(f"FROM {csv_rows(paths, longest=longest)}")


def parquet(paths: Sequence[Path]) -> str:
    """A FROM clause with the rows of Parquet files."""
    return f"read_parquet({files(paths)}, {_ONLY_THESE_FILES})"


def read_parquet(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> duckdb.DuckDBPyRelation:
    """The rows of Parquet files."""
    return connection.sql(f"FROM {parquet(paths)}")


def read_any_csv(connection: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyRelation:
    """The rows of a CSV file with a header, written by whomever: every column text, an empty value NULL. Fields are parted by
    what parts the header. Nothing else is guessed: DuckDB takes a value that begins with # for a comment, or skips lines
    until it likes them. Raises `EtlError` for a file without a header or in another encoding than UTF-8; where rows are at
    fault, reading them does."""
    names, delimiter = _any_header(path)
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    ends = "new_line = '\\n', " if any("\r" in name for name in names) else ""
    return connection.sql(
        f"FROM read_csv({files([path])}, header = true, columns = {{{columns}}}, auto_detect = false, {ends}nullstr = '', "
        f"delim = {literal(delimiter)}, quote = '\"', escape = '\"', compression = 'none', {_ONLY_THESE_FILES})"
    )


def _any_header(path: Path) -> tuple[list[str], str]:
    """The columns of somebody's CSV file, each under a name of its own, and what parts them."""
    found: tuple[list[str], str] = [], ","
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            for delimiter in _DELIMITERS:
                lines.seek(0)
                record = next(csv.reader(lines, delimiter=delimiter), [])
                found = (record, delimiter) if len(record) > len(found[0]) else found
    except UnicodeDecodeError:
        raise EtlError(f"{path.name} {NOT_UTF_8}") from None
    if not any(found[0]):
        raise EtlError(f"{path.name} has no header: write the names of its columns into the first line")
    names: list[str] = []
    for nth, name in enumerate(found[0]):
        name = name.strip() or f"column{nth}"
        alike = sum(one.strip().lower() == name.lower() for one in found[0][:nth])
        names.append(f"{name}_{alike}" if alike else name)
    return names, found[1]


def header(path: Path) -> list[str]:
    """The column names in the first record of a CSV file."""
    with path.open(newline="", encoding="utf-8") as lines:
        return next(csv.reader(lines))


def write_csv(
    relation: duckdb.DuckDBPyRelation, path: Path, *, quoted: Sequence[str] = (), headed: bool = True
) -> int:
    """Write text columns in the form `read_csv` reads; how many rows. The values of the columns `quoted` stand in quotes
    even where they need none. Without a header (not `headed`) it is what may follow. Whoever writes gives a name that nobody
    reads yet."""
    force = f", FORCE_QUOTE ({listing(quoted)})" if quoted else ""
    written = relation.query(
        "written",
        f"COPY (FROM written) TO {literal(str(path))} (FORMAT csv, USE_TMP_FILE false, HEADER {headed}, NULLSTR '', DELIMITER ',', "
        f"QUOTE '\"', ESCAPE '\"'{force})",
    )
    assert written is not None  # noqa: S101  a COPY answers with a count
    ((rows,),) = written.fetchall()
    return int(rows)


# Small, and in the encodings that every reader of Parquet knows.
_TO_KEEP = "COMPRESSION zstd"
# What is quick to encode and to decode; a dictionary is given up early, where values are many.
_FOR_NOW = "COMPRESSION lz4_raw, PARQUET_VERSION V2, DICTIONARY_SIZE_LIMIT 1000"


def write_parquet(
    relation: duckdb.DuckDBPyRelation, path: Path, metadata: dict[str, str], *, for_now: bool = False
) -> None:
    """Write a relation as Parquet, with `metadata` in the footer. `for_now`: nobody else reads it, and it is not kept long."""
    how = _FOR_NOW if for_now else _TO_KEEP
    pairs = ", ".join(f"{identifier(key)}: {literal(value)}" for key, value in metadata.items())
    relation.query(
        "written",
        f"COPY (FROM written) TO {literal(str(path))} (FORMAT parquet, USE_TMP_FILE false, {how}, KV_METADATA {{{pairs}}})",
    )
