"""Names that meet where they are one: in DuckDB and BigQuery, a folder or a workbook, capitals make no other name."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from etl_assets.exports.contract import ABOUT, Report, workbook_name
from etl_assets.project.contract import Slip, at
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import Fact
from etl_assets.warehouse.dialect import OWN_NAMES, current

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_LONGEST = 63  # bytes, in PostgreSQL


@dataclass(frozen=True)
class Named:
    """Something that has a name: what it is, where it is declared, and what to write for another name."""

    name: str
    what: str
    where: str
    remedy: str = "give one another name"


def one_name(named: Iterable[Named]) -> Iterator[Slip]:
    """Of names that are equal but for capitals all but the first."""
    seen: dict[str, Named] = {}
    for one in named:
        other = seen.setdefault(without_case(one.name), one)
        if other is not one:
            same = "is" if other.name == one.name else f"and {other.name} are one name: that is"
            yield Slip(
                at(one.where),
                f"{one.name} {same} {other.what} at {at(other.where)}, and here {one.what}: {one.remedy}",
            )


def of_inputs(named: Iterable[Named]) -> Iterator[Slip]:
    """Tables, APIs and reference files whose name can't be the key of an asset."""
    for one in named:
        if not _KEY.fullmatch(one.name):
            yield Slip(at(one.where), f"{one.name!r} can't name {one.what}: {one.remedy}, of a-z, 0-9 and _")


def of_star(star: Iterable[tuple[StarFunction, str]]) -> Iterator[Slip]:
    """Star tables, with where they are declared, whose names a warehouse has already, or does not take."""
    tables = [(one, at(where)) for one, where in star]
    views = {
        without_case(current(one.name)): (one.name, where)
        for one, where in tables
        if isinstance(one.schema, Fact)
    }
    for one, where in tables:
        folded = without_case(one.name)
        if folded in OWN_NAMES:
            yield Slip(
                where,
                f"{one.name} is a table of the warehouse's own ({', '.join(sorted(OWN_NAMES))}): write another name",
            )
        elif folded in views:
            fact, there = views[folded]
            yield Slip(
                where, f"{one.name} is the view of the current rows of {fact} ({there}): write another name"
            )
        longest = current(one.name) if isinstance(one.schema, Fact) else one.name
        yield from _unfit(one.name, longest, "a star table", where)


def of_reports(reports: Iterable[Report], workbook: str) -> Iterator[Slip]:
    """Reports that would be one table or one sheet, or that nothing can be called by."""
    made = list(reports)
    yield from one_name(Named(one.name, "a report", one.where) for one in made)
    titles = [Named(one.title, f"the title of {one.name}", one.where, "write another title") for one in made]
    about = [Named(ABOUT, "the sheet that says what the others are", made[0].where)] if made else []
    yield from one_name([*about, *titles])
    for one in made:
        if without_case(one.name) == workbook_name(workbook):
            yield Slip(
                at(one.where), f"{one.name} is what the workbook {workbook!r} is called: write another name"
            )
        yield from _unfit(one.name, one.name, "a report", at(one.where))


def _unfit(name: str, longest: str, what: str, where: str) -> Iterator[Slip]:
    if not _IDENTIFIER.fullmatch(name):
        yield Slip(where, f"{name!r} can't name {what}: write letters of a-z, digits and _")
    elif len(longest) > _LONGEST:
        yield Slip(
            where,
            f"{name}: {longest} has {len(longest)} characters, and PostgreSQL takes {_LONGEST}: write a shorter name",
        )


def without_case(name: str) -> str:
    """A name without what makes no other name where it is used: capitals."""
    return name.lower()
