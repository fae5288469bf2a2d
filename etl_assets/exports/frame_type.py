"""The contract of a report as a Dagster type over frames: a frame that breaks it fails the step before it is published."""

# mypy: allow-untyped-calls
# (dagster-pandas has no types)

import warnings
from collections.abc import Sequence

import dagster as dg
import pandas as pd
from dagster_pandas import PandasColumn, create_dagster_pandas_dataframe_type
from dagster_pandas.constraints import (
    CategoricalColumnConstraint,
    ColumnDTypeInSetConstraint,
    Constraint,
    DataFrameConstraint,
    DataFrameConstraintViolationException,
    MinValueColumnConstraint,
    NonNullableColumnConstraint,
)

from etl_assets.exports.contract import Report, ReportColumn


class UniqueKey(DataFrameConstraint):
    """No two rows have the same values in all of some columns."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        rule = f"one row for each ({', '.join(columns)})"
        super().__init__(error_description=rule, markdown_description=rule)

    def validate(self, dataframe: pd.DataFrame) -> None:
        """Raise `DataFrameConstraintViolationException` that names the first key that repeats."""
        repeated = dataframe.loc[dataframe.duplicated(self.columns), self.columns]
        if not repeated.empty:
            first = ", ".join(str(value) for value in repeated.iloc[0])
            raise DataFrameConstraintViolationException(
                self.name, f"{self.error_description}, but ({first}) repeats"
            )


def frame_type(report: Report) -> dg.DagsterType:
    """The type of a report's frames."""
    with warnings.catch_warnings():
        # All of dagster-pandas is marked as beta, and has been for years.
        warnings.simplefilter("ignore", dg.BetaWarning)
        made: dg.DagsterType = create_dagster_pandas_dataframe_type(
            name="".join(word.capitalize() for word in report.name.split("_")),
            description=report.description,
            columns=[PandasColumn(column.name, _constraints(column)) for column in report.columns],
            dataframe_constraints=[UniqueKey(report.key)],
            metadata_fn=report.statistics,
        )
    return made


def _constraints(column: ReportColumn) -> list[Constraint]:
    made: list[Constraint] = [ColumnDTypeInSetConstraint({str(pd.ArrowDtype(column.type.arrow))})]
    if not column.type.nullable:
        made.append(NonNullableColumnConstraint())
    if column.at_least is not None:
        made.append(MinValueColumnConstraint(column.at_least, ignore_missing_vals=column.type.nullable))
    if column.one_of:
        made.append(CategoricalColumnConstraint(set(column.one_of), ignore_missing_vals=column.type.nullable))
    return made
