"""Few files for a fact, however many batches brought something for it: older ones are merged, the newest stay apart.

A file of many batches holds what the files of each held, in the same order. Files of about as many batches are merged when
there are `_FEW` of them, so that a row is written anew about once in each power of that; large files are left alone, and so is
the first, which is usually all there was and has one version of each row. It is part of the publish of a batch: whoever
reads by the manifest before finds the files that it lists.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier
from etl_assets.lake.files import LakeError
from etl_assets.star.files import StarFile, StarFiles, TableFiles, listed
from etl_assets.star.schema import Fact

_FEW = 16
_APART = 32
"""So many of the newest files stay as the batches brought them: a warehouse that is a little behind loads these alone."""
_LARGE_BYTES = 64 << 20


def merged(
    star: StarFiles, connection: duckdb.DuckDBPyConnection, schema: Fact, table: TableFiles, upto: int
) -> TableFiles:
    """A fact with fewer files, as its manifest will list them; those that are written are published. `upto`: the batch that
    the run brings the star to."""
    files = list(table.files)
    for group in list(_groups(files[1:-_APART])):
        at = files.index(group[0])
        try:
            files[at : at + len(group)] = [_written(star, connection, schema, group, upto)]
        except (
            LakeError
        ):  # one is damaged: it is made again when its content is needed, and nothing of it here
            continue
    return table.model_copy(update={"files": tuple(files)})


def _groups(files: Sequence[StarFile]) -> Iterator[list[StarFile]]:
    """The runs of neighbours that are to be merged, each into a file."""
    for level, run in groupby(files, _level):
        neighbours = list(run)
        if level is None or len(neighbours) < _FEW:
            continue
        group: list[StarFile] = []
        for file in neighbours:
            if group and sum(one.bytes for one in group) + file.bytes > _LARGE_BYTES:
                yield group
                group = []
            group.append(file)
        yield group


def _level(file: StarFile) -> int | None:
    """How often what a file holds was merged; None if it is not merged any more."""
    if file.bytes > _LARGE_BYTES // 2:
        return None
    level, batches = 0, file.batches
    while batches >= _FEW:
        level, batches = level + 1, batches // _FEW
    return level


def _written(
    star: StarFiles,
    connection: duckdb.DuckDBPyConnection,
    schema: Fact,
    group: Sequence[StarFile],
    upto: int,
) -> StarFile:
    newest = group[-1]
    staged = star.staging(schema.name, upto)
    try:
        rows = duck.read_parquet(connection, [star.local(file.path) for file in group])
        duck.write_parquet(rows.order(identifier(schema.record)), staged.local, {})
        file = listed(
            staged.path, staged.local, newest.version, newest.batch, sum(file.rows for file in group)
        )
        staged.publish()
    finally:
        staged.discard()
    return file.model_copy(update={"since": group[0].first, "batches": sum(file.batches for file in group)})
