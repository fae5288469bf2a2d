"""Reading the pages of complete takes: their records as rows, and those that can't be rows as a report.

    take ► page ► record ► row, in the order in which they were fetched

Every row goes through a file as text, so memory does not grow with the records; sums are compared on both sides of it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import duckdb

from etl_assets.apis.answers import records_in
from etl_assets.apis.declaration import Api
from etl_assets.apis.errors import ApiError
from etl_assets.apis.pages import Page
from etl_assets.apis.records import Misfit, Rows
from etl_assets.apis.takes import COMPLETE, LOADED, Summary, Take, files_of, in_order, takes
from etl_assets.engine import duck
from etl_assets.engine.code_version import code_version, declared_version
from etl_assets.engine.duck import identifier, listing, literal
from etl_assets.engine.sums import Amount, added_up
from etl_assets.engine.types import EXACT
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import view
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import Manifest, SourceColumn, TakeState
from etl_assets.lake.names import number
from etl_assets.raw.changes import read_text
from etl_assets.source.catalog import Relation

ORDER, TAKE = duck.own("order"), duck.own("take")
"""Columns of what was read, beside those of the table: the place of a record among all, and of its take."""
_REPORT = ("key", "column", "value", "reason")


@dataclass
class Counts:
    """What came of the records of one take. `digest` is that of the report of those kept aside. `perhaps_again`: so many of
    those without a key are as others on earlier pages, and may be the same ones. `fell`: the totals that two pages said, the
    later one fewer than the one before; None if none did. `lacking`: some of its pages are lost."""

    take: Take
    summary: Summary
    records: int = 0
    bad: int = 0
    perhaps_again: int = 0
    duplicates: int = 0
    digest: str = ""
    fell: tuple[int, int] | None = None
    lacking: bool = False

    def state(self) -> TakeState:
        """As the manifest has it."""
        summary = self.summary
        return TakeState(
            window=self.take.window,
            take=self.take.number,
            pages=summary.pages,
            calls=summary.calls,
            failed_calls=summary.failed_calls,
            waited_seconds=summary.waited_seconds,
            records=self.records,
            duplicates=self.duplicates,
            quarantined=self.bad,
            total=summary.total,
            sha256=summary.sha256,
        )


@dataclass(frozen=True)
class PagesRead:
    """The pages of an API, read: `rows` is a view of all good records, in the order in which they came, the
    longest of `longest` bytes (0: none is unusually long). `report`: a CSV file about those that can't be used."""

    api: Api
    relation: Relation
    counts: Sequence[Counts]
    rows: str
    longest: int
    report: Path
    first_bad: str
    unknown: frozenset[str]

    @property
    def bad(self) -> int:
        return sum(one.bad for one in self.counts)

    @property
    def records(self) -> int:
        return sum(one.records for one in self.counts)

    def newest(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        """The newest row of each key, as text."""
        names, key = listing(self.relation.names), listing(self.relation.key)
        return connection.sql(
            f"SELECT {names} FROM {self.rows} QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {ORDER} DESC) = 1"
        )

    def kept_aside(self, connection: duckdb.DuckDBPyConnection, batch: int) -> duckdb.DuckDBPyRelation:
        """What a batch lands of the records that can't be used: a row for each value."""
        told = f"(SELECT DISTINCT {listing(_REPORT)} FROM {duck.csv_rows([self.report])})"
        return connection.sql(
            f'SELECT {literal(self.api.name)} AS "table", *, {literal(number(batch))} AS batch FROM {told} ORDER BY ALL'
        )


def read_pages(
    api: Api,
    chosen: Sequence[Take],
    batches: Batches,
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
) -> PagesRead:
    """The records of complete takes, as rows. Raises `EtlError` for pages that can't be read."""
    rows = Rows(api)
    path, report = (
        folder / f"{len(rows.columns)}-{api.name}.csv",
        folder / f"bad-{api.name}.csv",
    )
    names = [column.name for column in rows.columns]
    counts, totals, first, unknown = [], [Decimal(0)] * len(rows.amounts), "", set[str]()
    order = longest = 0
    with (
        path.open("w", encoding="utf-8", newline="") as good,
        report.open("w", encoding="utf-8", newline="") as bad,
    ):
        good.write(_line([*names, TAKE, ORDER]))
        bad.write(_line([*_REPORT, TAKE]))
        for take_number, take in enumerate(chosen):
            summary = take.summary()
            if summary is None:
                raise LakeError(f"{take} is not complete: run again")
            count, digest, keyless = Counts(take, summary), hashlib.sha256(), _Keyless(take)
            said: list[tuple[float, int]] = []
            for page in pages_of(take, summary, batches):
                if page.lost:
                    count.lacking = True
                    continue
                if page.total is not None:
                    said.append((page.calls[-1] if page.calls else 0.0, page.total))
                for place, record in enumerate(records_in(api, page.body)):
                    count.records += 1
                    try:
                        row = rows.row(record)
                    except Misfit as misfit:
                        key = rows.key(record) or keyless.named(record, page.index, place)
                        told = [key, misfit.column, misfit.value, misfit.reason]
                        count.bad += 1
                        digest.update(_line(told).encode())
                        bad.write(_line([*told, str(take_number)]))
                        first = first or f"{misfit.column or 'the record'} of {key} {misfit.reason}"
                        continue
                    order += 1
                    line = _line([*row, str(take_number), str(order)])
                    good.write(line)
                    longest = max(longest, len(line))
                    for i, place_of_amount in enumerate(rows.amounts):
                        if (value := row[place_of_amount]) is not None:
                            totals[i] = EXACT.add(totals[i], Decimal(value))
                    if not place:
                        unknown |= rows.unknown(record)
            count.perhaps_again = keyless.again
            count.fell = _fell(said, api.concurrency)
            count.digest = digest.hexdigest() if count.bad else ""
            counts.append(count)
    longest = 4 * longest if 4 * longest > duck.MAX_LINE_BYTES else 0  # bytes of a character
    good_rows = _view(connection, path, rows, longest)
    read = PagesRead(api, relation_of(api), counts, good_rows, longest, report, first, frozenset(unknown))
    _check_sums(connection, read, dict(zip([names[i] for i in rows.amounts], totals, strict=True)))
    return read


def _fell(said: Sequence[tuple[float, int]], concurrency: int) -> tuple[int, int] | None:
    """Two totals, each with the time of its call, of which the later one is fewer. Of calls that were under way at the same
    time it is not known which was answered first."""
    totals = [total for _, total in sorted(said)]
    apart = 2 * concurrency if concurrency > 1 else 1
    most = 0
    for before, after in zip(totals, totals[apart:], strict=False):
        most = max(most, before)
        if after < most:
            return most, after
    return None


class _Keyless:
    """The records of a take that have no key: named by the place where they were seen first, since pages that drift show the
    last records of one again on the next. `again`: so many were named like one of an earlier page."""

    def __init__(self, take: Take) -> None:
        self._window = take.window
        self._seen: dict[bytes, tuple[int, str]] = {}
        self.again = 0

    def named(self, record: object, page: int, place: int) -> str:
        """What stands for the key of a record."""
        told = json.dumps(record, sort_keys=True, default=str).encode("utf-8", "replace")
        name = f"{self._window}, page {page + 1}, record {place + 1}"
        first_page, first = self._seen.setdefault(hashlib.sha256(told).digest(), (page, name))
        if first_page == page:  # on one page they are as many as there are
            return name
        self.again += 1
        return first


def _view(connection: duckdb.DuckDBPyConnection, path: Path, rows: Rows, longest: int) -> str:
    own = [SourceColumn(name=name, type="bigint", nullable=False) for name in (TAKE, ORDER)]
    return view(read_text(connection, path, (*rows.columns, *own), longest))


def _check_sums(connection: duckdb.DuckDBPyConnection, read: PagesRead, totals: dict[str, Decimal]) -> None:
    """Compare the sums of what the records say with those of the rows that were made of them."""
    types = read.api.table.types
    amounts = {}
    for name in totals:
        scale = types[name].arrow.scale if hasattr(types[name].arrow, "scale") else 0
        amounts[name] = Amount(f"CAST({identifier(name)} AS DECIMAL(38,{scale}))", scale)
    _, found = added_up(partial(duck.one, connection), read.rows, amounts)
    for name, total in totals.items():
        if found[name] != total:
            raise ApiError(
                f"{read.api.name}: the {name} of its records add up to {total}, and to {found[name]} as rows; nothing "
                "was committed"
            )


def layout_of(api: Api) -> str:
    """Identifies where in an answer the values of each column are taken from: a function by what it does."""
    records = _version(api.records) if callable(api.records) else str(api.records)
    return declared_version(records, *(f"{name}:{api.field_of(name)}" for name in api.columns))


def _version(function: Any) -> str:
    if isinstance(function, partial):
        return f"{_version(function.func)} {function.args!r} {function.keywords!r}"
    if isinstance(function, FunctionType):
        return code_version(function)
    if isinstance(called := getattr(type(function), "__call__", None), FunctionType):  # noqa: B004
        return code_version(called)
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def all_takes(batches: Batches, api: str) -> list[Take]:
    """All takes that can be read, in the order in which they were fetched."""
    return in_order(take for take in takes(batches.files, api) if take.state in (LOADED, COMPLETE))


def loaded_takes(batches: Batches, api: str, loaded_by: Iterable[Manifest]) -> list[Take]:
    """The takes that some batches loaded, in the order in which they were fetched."""
    states = [state for manifest in loaded_by if (state := manifest.api(api))]
    loaded = {(take.window, take.take) for state in states for take in state.takes}
    return [take for take in all_takes(batches, api) if (take.window, take.number) in loaded]


def pages_of(take: Take, summary: Summary, batches: Batches) -> Iterator[Page]:
    """The pages of a take in their order; one that two runs landed is read once. Files hold neighbouring pages."""
    seen: set[int] = set()
    for file in files_of(summary, batches):
        for page in sorted(take.read(file), key=lambda page: page.index):
            if page.lost:
                yield page
            elif page.index not in seen:
                seen.add(page.index)
                yield page


def relation_of(api: Api) -> Relation:
    """The table in the form in which the lake compares tables."""
    return Relation(
        table=api.table,
        oid=0,
        kind="",
        access_method="",
        partitions=(),
        columns=Rows(api).columns,
        key=tuple(api.key),
        references=frozenset(),
        layout=layout_of(api),
        filtered=False,
        unique=True,
    )


def _line(values: Sequence[str | None]) -> str:
    """Values as a line of CSV as PostgreSQL writes it: nothing for NULL, all else in quotes."""
    return ",".join(["" if v is None else f'"{v.replace(chr(34), chr(34) * 2)}"' for v in values]) + "\n"
