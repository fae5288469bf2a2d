"""What differs between two runs: the code and the files that they were made with, and the data that they made.

Each run has it all on record, in what Dagster keeps of every materialization: the version of the code that made it,
the version of the data, and of observed files their checksums. So nothing is kept beside the runs for this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from etl_assets.automation.runs import Run
from etl_assets.presentation import stage
from etl_assets.source.assets import GROUP as SOURCE


@dataclass(frozen=True)
class Difference:
    """Names, sorted. `new` and `removed` are those that only the later, or only the earlier run has."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.removed)


@dataclass(frozen=True)
class ModelChanges:
    """From one run to a later one: `code` and `data` of assets, and observed `files` as source/<group>/<path>.

    `partial`: one of them was no run of the whole flow, or did not succeed. What only one of them made may exist
    none the less, so it is left out.
    """

    code: Difference
    files: Difference
    data: Difference
    partial: bool

    def __bool__(self) -> bool:
        return bool(self.code or self.files or self.data)


def changes(before: Run, after: Run) -> ModelChanges:
    """Compare two runs."""
    made = {name for name in before.made if name in after.made}
    # Whether what only the other run made was not there for this one.
    news = None if before.whole else made
    losses = None if after.whole else made
    code, files, data = (
        _difference(earlier, later, news, losses)
        for earlier, later in zip(_sides(before), _sides(after), strict=True)
    )
    return ModelChanges(code, files, data, partial=not (before.whole and after.whole))


@dataclass(frozen=True)
class _Version:
    """A version of something that an asset has or is."""

    asset: str
    version: str


def _sides(run: Run) -> tuple[Mapping[str, _Version], ...]:
    """Code, files and data of a run, by name."""
    code, files, data = {}, {}, {}
    for name, made in run.made.items():
        if stage(made.key) == SOURCE:
            files.update({f"{name}/{path}": _Version(name, sum_) for path, sum_ in made.files.items()})
            continue
        if made.code_version:
            code[name] = _Version(name, made.code_version)
        if made.data_version:
            data[name] = _Version(name, made.data_version)
    return code, files, data


def _difference(
    earlier: Mapping[str, _Version],
    later: Mapping[str, _Version],
    news: set[str] | None,
    losses: set[str] | None,
) -> Difference:
    """`news` and `losses`: the assets whose additions and losses count; None: those of all."""
    return Difference(
        tuple(sorted(n for n in later.keys() - earlier.keys() if news is None or later[n].asset in news)),
        tuple(sorted(n for n in later.keys() & earlier.keys() if later[n].version != earlier[n].version)),
        tuple(
            sorted(n for n in earlier.keys() - later.keys() if losses is None or earlier[n].asset in losses)
        ),
    )
