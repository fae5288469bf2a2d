"""What verification says of a table, and how it tells rows that differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from etl_assets import faults
from etl_assets.lake.files import LakeError
from etl_assets.star.function import ContractError
from etl_assets.warehouse.contract import WarehouseError

# Differences that are told in full.
TOLD = 3


@dataclass(frozen=True)
class Finding:
    """The outcome of one comparison of a table at a hop. `difference` is empty where all is equal. `skipped`: nothing was
    compared, since a run is at it."""

    table: str
    hop: str
    compared: str
    difference: str = ""
    skipped: bool = False

    @property
    def equal(self) -> bool:
        return not self.difference


def differing_rows(
    keys: Sequence[str],
    names: Sequence[str],
    expected: Mapping[tuple[object, ...], Sequence[object]],
    found: Mapping[tuple[object, ...], Sequence[object]],
) -> str:
    """Which keys differ of rows in memory, by key in the order of `names`, and how; empty if none does."""
    differ = sorted((k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)), key=str)
    told = []
    for key in differ[:TOLD]:
        nothing = [None] * len(names)
        pairs = zip(expected.get(key, nothing), found.get(key, nothing), strict=True)
        values = [value for pair in pairs for value in pair]
        row = [*key, key not in expected, key not in found, *values]
        told.append(difference_of(keys, names, row, "all columns"))
    return counted(len(differ), told)


def counted(count: int, told: Sequence[str]) -> str:
    if not count:
        return ""
    more = f"; {count - TOLD:,} more" if count > TOLD else ""
    return f"{count:,} {'keys differ' if count > 1 else 'key differs'}: {'; '.join(told)}{more}"


def difference_of(keys: Sequence[str], names: Sequence[str], row: Sequence[object], what: str) -> str:
    """One key that differs: where it is missing, or in which columns it has which value, and should have which."""
    key = ", ".join(f"{name} {value}" for name, value in zip(keys, row, strict=False))
    lacking, missing = row[len(keys)], row[len(keys) + 1]
    if lacking:
        return f"{key} is there and should not be" + (f" ({what})" if what != "all columns" else "")
    if missing:
        return f"{key} is missing" + (f" ({what})" if what != "all columns" else "")
    values = row[len(keys) + 2 :]
    pairs = zip(names, values[::2], values[1::2], strict=True)
    told = [
        f"{name} is {found} and should be {expected}" for name, expected, found in pairs if expected != found
    ]
    return f"{key}: " + ", ".join(told)


def or_unreadable(table: str, hop: str, compare: Callable[[], Finding]) -> Finding:
    """A comparison. Where what is to be compared can't be read, that is the difference."""
    try:
        return compare()
    except _unreadable() as error:
        return Finding(table, hop, "nothing", faults.told(error))


def _unreadable() -> tuple[type[Exception], ...]:
    arrow = faults.raised_by("pyarrow.lib", "ArrowInvalid")
    return (LakeError, WarehouseError, ContractError, faults.Fault, duckdb.Error, OSError, *arrow)


def from_to(keys: Sequence[tuple[object, ...]]) -> str:
    """The first and the last of sorted keys."""
    return " to ".join(",".join(map(str, key)) for key in (keys[0], keys[-1])) if keys else "unknown"
