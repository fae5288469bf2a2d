"""The star as it was after a batch, from what the lake keeps for good.

    facts        their files hold every version with the batch that brought it, so what is newer is left out
    dimensions   their files hold the latest state, so they are made again, from the raw rows as of the batch

The warehouse's facts answer the same question with `facts_then`. What is shown is what the code of today makes of
the rows of then.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import duckdb

from etl_assets.engine.definition import Definition, Inputs
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.frames import Frames
from etl_assets.engine.schema import Fact
from etl_assets.lake.batches import Batches, Manifest
from etl_assets.lake.current import DELETED
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.star import StarFiles, fact_path
from etl_assets.proof.totals import current_rows


class StarFilesThen(StarFiles):
    """The files of the facts as they were after a batch. Of dimensions only the latest state is kept."""

    def __init__(self, files: Files, batches: Batches, batch: str) -> None:
        super().__init__(files, batches)
        self.batch = batch

    def fact_batches(self, name: str) -> list[str]:
        return [batch for batch in super().fact_batches(name) if batch <= self.batch]


class Then(Frames):
    """What star functions read, with star tables too as they were after the batch of a manifest."""

    def read(self, name: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        return self.rows(name, manifest) if name in self.inputs.star else super().read(name, manifest)

    def table(self, name: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        """A star table after a batch, by key: of a fact the current version of each row that existed, of a dimension
        all members, those that were gone flagged. Raises `LakeError` if the lake can't say."""
        definition = self.inputs.star[name]
        rows = self.rows(name, manifest)
        if isinstance(definition.schema, Fact):
            rows = self.connection.sql(f"FROM {current_rows(definition.schema, rows)}")
        return rows.order(identifier(definition.schema.key))

    def rows(self, name: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        """All rows that a star table had after a batch: of a fact, every version so far."""
        definition = self.inputs.star[name]
        first, *others = definition.inputs
        for needed in definition.inputs:
            if needed in self.inputs.tables and needed not in manifest.tables:
                raise LakeError(
                    f"batch {manifest.batch} holds nothing of {needed}, from which {name} is made; name a later batch"
                )
        if isinstance(definition.schema, Fact):
            return self._versions(name, first, manifest)
        context = {other: self.read(other, manifest) for other in others}
        names = listing([column.name for column in definition.schema.columns])
        if first not in self.inputs.tables:
            made = definition.apply(self.connection, {first: self.read(first, manifest), **context})
            return made.project("*, false AS deleted").project(names)
        existing, gone = (
            definition.apply(
                self.connection, {first: self.members(first, manifest, f"{DELETED} = {deleted}"), **context}
            ).project(f"*, {deleted} AS deleted")
            for deleted in (False, True)
        )
        return existing.union(gone).project(names)

    def _versions(self, name: str, source: str, manifest: Manifest) -> duckdb.DuckDBPyRelation:
        wanted = [changing.batch for changing in self.batches.changing(source, manifest)][::-1]
        lacking = sorted(set(wanted) - set(self.star.fact_batches(name)))
        if lacking:
            raise LakeError(f"the star's {name} lacks batch {', '.join(lacking)}: run etl run")
        paths = [str(self.star.files.local(fact_path(name, batch))) for batch in wanted]
        return self.connection.read_parquet(paths)


def facts_alone(inputs: Inputs) -> Inputs:
    """The same inputs with those star tables only whose files say what they were at any batch: facts that are made
    from nothing but their source table."""

    def alone(definition: Definition) -> bool:
        return isinstance(definition.schema, Fact) and definition.inputs[1:] == []

    return replace(inputs, star={name: made for name, made in inputs.star.items() if alone(made)})


def facts_then(fact: Fact) -> str:
    """The warehouse's answer: a query for a fact as it was after the batch `$batch`."""
    return (
        f"SELECT * FROM star.{fact.name} WHERE batch <= $batch QUALIFY row_number() OVER "
        f"(PARTITION BY {fact.key} ORDER BY {fact.record} DESC) = 1 AND NOT deleted ORDER BY {fact.key}"
    )


def at_batch(batches: Batches, batch: str) -> Manifest:
    """The manifest of a batch. Raises `LakeError` that says which there are."""
    numbers = batches.numbers()
    if batch not in numbers:
        raise LakeError(f"the lake {batches.files.url} has no batch {batch}; {_there_are(numbers)}")
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


def _there_are(numbers: Sequence[str]) -> str:
    if not numbers:
        return "there is none yet"
    return f"there are {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"there is {numbers[0]}"
