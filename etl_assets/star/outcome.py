"""What became of the star's tables in a run: what was staged of each, how it was audited, why one stays as it is; and how all of
it is shown at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from etl_assets.cost import Cost
from etl_assets.failpoints import reached
from etl_assets.lake.files import StagedFile
from etl_assets.star.files import StarFile, StarFiles, TableFiles, listed, with_files
from etl_assets.star.function import StarFunction
from etl_assets.star.merging import merged as with_fewer_files
from etl_assets.star.schema import Fact


@dataclass(frozen=True)
class Audit:
    """The outcome of one check of what was staged; `found` counts what violates it."""

    name: str
    found: int
    examples: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.found == 0


@dataclass(frozen=True)
class Staged:
    """A file that was written and is not shown yet."""

    batch: int
    version: str
    file: StagedFile
    rows: int

    @property
    def local(self) -> Path:
        return self.file.local


@dataclass
class Build:
    """The outcome of building a table: what was staged (nothing, if it was up to date), and its audits."""

    definition: StarFunction
    version: str
    batch: int
    star: StarFiles
    staged: list[Staged] = field(default_factory=list)
    anew: bool = False
    """Whether what is staged takes the place of all that is published."""
    notice: str | None = None
    """What was out of the ordinary, in one sentence."""
    new: int = 0
    changed: int = 0
    deleted: int = 0
    touched: duckdb.DuckDBPyRelation | None = None
    """The keys of a dimension's members that may differ from those published; None: any may."""
    held: StarFile | None = None
    """The file of a dimension that is published."""
    how: str = "unchanged"
    """By what the newest batch was compared, in words."""
    audits: list[Audit] = field(default_factory=list)
    failure: str | None = None
    """Why the table can't show the newest batch, in one line with a remedy; then it stays as it is published."""
    error: Exception | None = None
    """What the function raised, if that is why."""
    shows: int | None = None
    """The batch that the table shows once the build is published; None if there is nothing to show."""
    cost: Cost = field(default_factory=Cost)
    """What it took, without what it was made from."""

    @property
    def passed(self) -> bool:
        return self.failure is None

    def files(self) -> TableFiles | None:
        """What the table consists of once what was staged is shown; None if nothing was."""
        if not self.staged:
            return None
        schema = self.definition.schema
        new = [listed(s.file.path, s.local, s.version, s.batch, s.rows) for s in self.staged]
        held = self.star.table(schema.name)
        kept = held.files if held and isinstance(schema, Fact) and not self.anew else ()
        return with_files(schema, (*kept, *new))

    def rows(self) -> int:
        """The rows of the table once what was staged is shown, as its files are listed."""
        staged = sum(one.rows for one in self.staged)
        if self.staged and (self.anew or not isinstance(self.definition.schema, Fact)):
            return staged
        held = self.star.table(self.definition.name)
        return staged + (sum(file.rows for file in held.files) if held else 0)

    def count(self, new: int, changed: int, deleted: int) -> None:
        """How many rows are staged."""
        self.new, self.changed, self.deleted = self.new + new, self.changed + changed, self.deleted + deleted

    def discard(self) -> None:
        """Remove what was staged and not published."""
        for staged in self.staged:
            staged.file.discard()


def publish(star: StarFiles, builds: Sequence[Build], connection: duckdb.DuckDBPyConnection) -> None:
    """Show what was staged of all tables, at once; of facts with many files in fewer."""
    if not builds:
        return
    changes = {build.definition.name: files for build in builds if (files := build.files())}
    upto = max(build.batch for build in builds)
    for build in builds:
        for staged in build.staged:
            staged.file.publish()
            reached("star published")
    for build in builds:
        name, schema = build.definition.name, build.definition.schema
        if name in changes and isinstance(schema, Fact):
            changes[name] = with_fewer_files(star, connection, schema, changes[name], upto)
    star.publish(changes, upto)
    reached("star switched")


def broken(audits: Sequence[Audit]) -> str:
    """The audits that did not pass, in words."""
    return "; ".join(
        f"{name}: {a.found:,}" + (f" ({'; '.join(a.examples)})" if a.examples else "")
        for name, a in merged(audits).items()
        if not a.passed
    )


def merged(audits: Sequence[Audit]) -> Mapping[str, Audit]:
    """The audits of several batches of one table, added up by name."""
    result: dict[str, Audit] = {}
    for audit in audits:
        before = result.get(audit.name, Audit(audit.name, 0))
        result[audit.name] = Audit(
            audit.name, before.found + audit.found, (before.examples + audit.examples)[:5]
        )
    return result
