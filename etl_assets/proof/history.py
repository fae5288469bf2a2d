"""The star as it was after a batch, from what the lake keeps for good.

    facts        their files hold every version with the batch that brought it, so what is newer is left out; what was
                 before the batch that one was told to begin at is made as of dimensions
    dimensions   their files hold the latest state, so the batches up to that one are gone through again, in a scratch place

The warehouse's facts answer the same question with `facts_then`. What is shown is what the code of today makes of
the rows of then.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import listing
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.names import number
from etl_assets.proof.totals import current_rows
from etl_assets.star.build import Builder
from etl_assets.star.files import StarFiles, TableFiles
from etl_assets.star.outcome import publish
from etl_assets.star.schema import Fact


class StarFilesThen(StarFiles):
    """The files of the facts with what there was after a batch; the last of them may have later batches too. Of dimensions
    only the latest state is kept."""

    def __init__(self, files: Files, batches: Batches, batch: int) -> None:
        super().__init__(files, batches)
        self.batch = batch

    def table(self, name: str) -> TableFiles | None:
        found = super().table(name)
        if found is None or found.kind != "fact":
            return found
        kept = tuple(file for file in found.files if file.first <= self.batch)
        return found.model_copy(update={"files": kept}) if kept else None


@contextmanager
def table_then(
    builder: Builder, name: str, manifest: Manifest, scratch: Path
) -> Iterator[duckdb.DuckDBPyRelation]:
    """A star table after the batch of a manifest, by key, in the table's columns: of a fact the current version of each
    row that existed, of a dimension all members, those that were gone flagged. What was read later holds what it held then,
    as the star has it. Raises `LakeError` if the lake can't say."""
    schema = builder.inputs.star[name].schema
    sources = builder.sources(name)
    if sources and not any(table in manifest.tables for table in sources):
        raise LakeError(
            f"batch {number(manifest.batch)} holds nothing of {', '.join(sources)}, from which {name} is made; name a later "
            "batch"
        )
    keys = listing(schema.key_columns)
    begins = builder.star.baseline(name)
    if isinstance(schema, Fact) and not (begins and begins > manifest.batch):
        wanted = [changing.batch for changing in builder.changing(name, manifest)]
        held = builder.star.fact_files(name)
        if lacking := [b for b in wanted if not any(file.first <= b <= file.batch for file in held)]:
            raise LakeError(f"the star's {name} lacks batch {', '.join(map(number, lacking))}: run etl run")
        then = StarFilesThen(builder.star.files, builder.batches, manifest.batch)
        rows = duck.read_parquet(builder.connection, [then.local(path) for path in then.paths(schema)])
        rows = rows.filter(f"batch <= {manifest.batch}")
        yield builder.connection.sql(f"FROM {current_rows(schema, rows)}").order(keys)
        return
    with own_folder(scratch, "history-") as folder:
        star = StarFiles(LocalFiles(folder), builder.batches, decided_in=builder.star.files)
        again = Builder(builder.inputs, builder.current, star, builder.connection)
        (build,) = again.derive(manifest, [name])
        if build.shows is None:
            raise LakeError(str(build.failure))
        publish(star, [build], builder.connection)
        made = duck.read_parquet(builder.connection, [star.local(path) for path in star.paths(schema)])
        if isinstance(schema, Fact):
            made = builder.connection.sql(f"FROM {current_rows(schema, made)}")
        yield made.order(keys)


def facts_then(fact: Fact) -> str:
    """The warehouse's answer: a query for a fact as it was after the batch `$batch`."""
    return (
        f"SELECT * FROM star.{fact.name} WHERE batch <= $batch QUALIFY row_number() OVER "
        f"(PARTITION BY {listing(fact.key_columns)} ORDER BY {fact.record} DESC) = 1 AND NOT deleted "
        f"ORDER BY {listing(fact.key_columns)}"
    )


def at_batch(batches: Batches, batch: int) -> Manifest:
    """The manifest of a batch. Raises `LakeError` that says which there are."""
    numbers = batches.numbers()
    if batch not in numbers:
        raise LakeError(f"the lake {batches.files.url} has no batch {number(batch)}; {_there_are(numbers)}")
    return batches.get(batch)


def at_time(batches: Batches, moment: datetime) -> Manifest:
    """The newest batch that shows the source as of a time, or before. Raises `LakeError` if all are later."""
    numbers = batches.numbers()
    for batch in reversed(numbers):
        manifest = batches.get(batch)
        if manifest.server_time <= moment:
            return manifest
    first = (
        f"; the first shows {batches.get(numbers[0]).server_time:%Y-%m-%d %H:%M:%S} UTC" if numbers else ""
    )
    raise LakeError(
        f"the lake {batches.files.url} has no batch as old as {moment:%Y-%m-%d %H:%M:%S} UTC{first}"
    )


def _there_are(numbers: Sequence[int]) -> str:
    if not numbers:
        return "there is none yet"
    first, last = number(numbers[0]), number(numbers[-1])
    return f"there are {first} to {last}" if len(numbers) > 1 else f"there is {first}"
