"""The export assets: one per report, and the workbook that holds them all."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from etl_assets.cost import Cost
from etl_assets.engine.code_version import code_version
from etl_assets.exports.contract import Report, content_version, workbook_name
from etl_assets.exports.lineage import ReportQuery
from etl_assets.exports.publishing import ReportsWarehouse, Sheet, Workbook
from etl_assets.lake.certificates import uncertified
from etl_assets.presentation import PLAIN, Naming, column
from etl_assets.star.resource import Lake
from etl_assets.warehouse.assets import warehouse_key

if TYPE_CHECKING:
    import pandas as pd

GROUP = "exports"
_CHECK = "control_totals"


def export_key(name: str, naming: Naming = PLAIN) -> dg.AssetKey:
    """The asset key of a report."""
    return naming.key(GROUP, name)


def export_assets(
    reports: Sequence[Report],
    queries: Mapping[str, tuple[ReportQuery, ReportQuery | None]],
    workbook: str,
    naming: Naming = PLAIN,
) -> list[dg.AssetsDefinition]:
    """An asset per report with its query and that of its control totals, and the workbook of that title that has all of
    them."""
    if not reports:
        return []
    made = [report_asset(report, *queries[report.name], naming) for report in reports]
    return [*made, workbook_asset(workbook, reports, naming)]


def report_asset(
    report: Report, query: ReportQuery, control: ReportQuery | None, naming: Naming = PLAIN
) -> dg.AssetsDefinition:
    """A report as an asset: computed in the warehouse, held against its control totals and contract, published."""
    key = export_key(report.name, naming)
    read = sorted({*query.tables, *(control.tables if control else [])})

    @dg.asset(
        key=key,
        deps=[warehouse_key(table, naming) for table in read],
        description=report.description,
        group_name=naming.name(GROUP),
        kinds={"pandas", "table"},
        owners=naming.owners,
        code_version=report.code_version,
        dagster_type=report_type(report, naming.name(report.name)),
        io_manager_key=naming.resource("reports"),
        metadata={
            "dagster/column_schema": column_schema(report),
            "dagster/column_lineage": _column_lineage(report, query, naming),
            "query": dg.MetadataValue.md(f"```sql\n{report.query}\n```"),
        },
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK,
                asset=key,
                description=f"Its sums are exactly those of the facts: {', '.join(control.columns)}.",
            )
        ]
        if control
        else None,
    )
    @naming.resources
    def made(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[ReportsWarehouse], lake: Lake
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        if reason := uncertified(lake.files(), lake.batches(), read):
            raise dg.Failure(f"{report.name} is not published: {reason}", allow_retries=False)
        cost = Cost()
        with cost.counting():
            frame = report.make(warehouse.query(query.sql))
        if control:
            # Before the frame is handed on: a check that ran after the publish would guard nothing.
            differences = report.differences(frame, warehouse.query(control.sql))
            yield dg.AssetCheckResult(
                passed=not differences,
                check_name=_CHECK,
                metadata={"compared": ", ".join(control.columns), "differences": differences},
            )
            if differences:
                raise dg.Failure(
                    f"{report.name} is not published: {'; '.join(differences[:3])}"
                    + (f"; and {len(differences) - 3} more" if len(differences) > 3 else ""),
                    allow_retries=False,
                )
        yield dg.MaterializeResult(
            value=frame, data_version=dg.DataVersion(content_version(frame)), metadata=cost.figures()
        )

    return made


def column_schema(report: Report) -> dg.TableSchema:
    """A report's columns, as the UI shows them."""
    return dg.TableSchema(
        [
            column(
                one.name,
                one.type.name,
                one.description,
                nullable=one.type.nullable,
                unique=[one.name] == list(report.key),
                other=f"at least {one.at_least}" if one.at_least is not None else "",
            )
            for one in report.columns
        ],
        dg.TableConstraints(other=[f"one row for each ({', '.join(report.key)})"]),
    )


def report_type(report: Report, name: str) -> dg.DagsterType:
    """The contract of a report as the type of an asset's output; `name` as a table is called. It is made with dagster-pandas
    when a frame is there to be checked."""

    def check(context: dg.TypeCheckContext, frame: object) -> dg.TypeCheck:
        from etl_assets.exports.frame_type import frame_type

        return frame_type(report).type_check(context, frame)

    return dg.DagsterType(
        check,
        name="".join(word.capitalize() for word in name.split("_")),
        description=report.description,
    )


def workbook_asset(title: str, reports: Sequence[Report], naming: Naming = PLAIN) -> dg.AssetsDefinition:
    """Reports as the sheets of a workbook."""

    @dg.asset(
        key=export_key(workbook_name(title), naming),
        ins={report.name: dg.AssetIn(key=export_key(report.name, naming)) for report in reports},
        description=f"One sheet is a report: {', '.join(report.title for report in reports)}.",
        group_name=naming.name(GROUP),
        kinds={"excel"},
        owners=naming.owners,
        code_version=code_version(_sheets, repr([(r.name, r.title, r.description) for r in reports])),
    )
    @naming.resources
    def made(workbook: Workbook, **frames: Any) -> dg.MaterializeResult:
        cost = Cost()
        with cost.counting():
            sheets = _sheets(reports, frames)
            published = workbook.publish(title, sheets)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(content_version(*(sheet.frame for sheet in sheets))),
            metadata={
                "path": published.where,
                "bytes": published.bytes,
                "sheets": len(sheets),
                "dagster/row_count": published.rows,
                "unchanged": published.unchanged,
                **cost.figures(),
                **cost.rate(published.rows),
            },
        )

    return made


def _sheets(reports: Sequence[Report], frames: "dict[str, pd.DataFrame]") -> list[Sheet]:
    return [
        Sheet(report.title, report.description, report.in_order(frames[report.name])) for report in reports
    ]


def _column_lineage(report: Report, query: ReportQuery, naming: Naming) -> dg.TableColumnLineage:
    """Where the columns come from that the query itself names; what the function computes it can't know."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(warehouse_key(table, naming), name) for table, name in sources]
            for column, sources in query.sources.items()
            if column in report.by_name and sources
        }
    )
