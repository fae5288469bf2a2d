"""The hop from the warehouse to the exports: each published report is what its query gives now."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import duckdb

from etl_assets import faults
from etl_assets.errors import EtlError
from etl_assets.exports.contract import Report, content_version
from etl_assets.exports.publishing import ReportTables
from etl_assets.later import Later
from etl_assets.proof.findings import Finding, differing_rows
from etl_assets.warehouse.contract import Warehouse

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")


def compare_exports(
    reports: Iterable[Report], warehouse: Warehouse, published: ReportTables, loading: Callable[[], bool]
) -> Iterator[Finding]:
    """Compare published reports with what their queries give. `loading` tells whether a run is under way: it publishes one
    report after the other, so what differs meanwhile is no difference."""
    for report in reports:
        if not warehouse.exists:
            missing = f"there is no warehouse {warehouse.where}: run etl run"
            yield Finding(report.name, "exports", "nothing", missing)
            continue
        try:
            yield _settled(partial(_compared, report, warehouse, published), loading)
        except (EtlError, duckdb.Error) as error:
            yield Finding(report.name, "exports", "nothing", faults.told(error))


def _settled(compare: Callable[[], Finding], loading: Callable[[], bool]) -> Finding:
    """A comparison of what a run changes one after the other. A difference counts where none did meanwhile."""
    under_way = loading()
    finding = compare()
    if finding.equal:
        return finding
    if not under_way and not loading():
        finding = compare()  # a run may have begun and ended in between
        under_way = loading()
    if finding.equal or not under_way:
        return finding
    return replace(finding, compared="nothing: a run is at it", difference="", skipped=True)


def _compared(report: Report, warehouse: Warehouse, tables: ReportTables) -> Finding:
    """Compare a published report with what its query gives now."""
    made = report.make(warehouse.query(report.query))
    published = tables.read(report.name)
    compared = f"{len(made):,} rows, all columns"
    if list(made.columns) != list(published.columns):
        return Finding(report.name, "exports", compared, "was published with other columns: run etl run")
    published = report.typed(published)
    if content_version(made) == content_version(published):
        return Finding(report.name, "exports", compared)
    rows, stand = (Counter(frame.itertuples(index=False, name=None)) for frame in (made, published))
    at = [list(made.columns).index(name) for name in report.key]
    if rows == stand:  # the same values, told differently
        return Finding(report.name, "exports", compared)
    expected, there = (
        {tuple(row[i] for i in at): row for row in (tuple(map(_or_none, row)) for row in side)}
        for side in (rows, stand)
    )
    told = differing_rows(report.key, list(made.columns), expected, there)
    return Finding(
        report.name, "exports", compared, told or "rows differ that are told alike, or occur twice"
    )


def _or_none(value: object) -> object:
    """A value of a frame; None for whatever it has for nothing."""
    return None if value is pd.NA or value != value else value
