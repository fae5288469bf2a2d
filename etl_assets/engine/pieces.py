"""A CSV file of long rows, in pieces that have few of them.

DuckDB works on up to 2,048 rows at once, and holds all of each. A file ends what it works on, so of long rows there is never
more in memory than a piece has.
"""

import mmap
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import MAX_LINE_BYTES

# Up to the end of a record: a line may end inside of quotes. Nothing of it is tried twice.
_RECORD = re.compile(rb'(?:[^"\n]++|"[^"]*+")*+\n')
_BLOCK_BYTES = 16 << 20
_AT_ONCE = 2_048

_folders = count()


def are_long(size: int, rows: int, longest: int) -> bool:
    """Whether rows of `size` bytes together, the longest of `longest` (0: none is unusually long), can't be worked on as others
    are."""
    memory = duck.memory_bytes()
    return size > memory // 3 and (longest > 0 or size // max(rows, 1) > memory // (8 * _AT_ONCE))


def pieces(
    connection: duckdb.DuckDBPyConnection, path: Path, rows: int = 0, longest: int = 0
) -> Sequence[Path]:
    """The file itself; where its rows are long, files of the same name with few rows each, which lie where the connection
    spills to, and go with that."""
    if not (rows or longest) or not are_long(path.stat().st_size, rows, longest):
        return [path]
    connection.execute("SET threads = 1")  # else as many pieces are in work at once
    return split(connection, path)


def split(connection: duckdb.DuckDBPyConnection, path: Path) -> Sequence[Path]:
    """Files with the rows of one, each with one row or no more than `MAX_LINE_BYTES` of them, in a folder as `pieces` says."""
    made: list[Path] = []
    (spill,) = duck.one(connection, "SELECT current_setting('temp_directory')")
    folder = Path(spill, f"pieces-{next(_folders)}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = _RECORD.match(content)
        begin = end = header.end() if header else len(content)
        head = content[:begin]

        def write(upto: int) -> None:
            piece = folder / str(len(made)) / path.name
            piece.parent.mkdir(parents=True)
            with piece.open("wb") as target:
                target.write(head)
                for at in range(begin, upto, _BLOCK_BYTES):
                    target.write(content[at : min(at + _BLOCK_BYTES, upto)])
            made.append(piece)

        for record in _RECORD.finditer(content, begin):
            if record.end() - begin > MAX_LINE_BYTES and end > begin:
                write(end)
                begin = end
            end = record.end()
        write(len(content))
    return made
