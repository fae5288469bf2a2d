"""Reports tried on no rows: the slips of their queries and functions that show before there is any data.

A function may need rows that are not there, and give other columns then. So only what no rows can mend is told.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from etl_assets import faults
from etl_assets.engine.duck import identifier
from etl_assets.exports.contract import Report
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.dialect import SCHEMA, current
from etl_assets.warehouse.duckdb import DuckDBReader

if TYPE_CHECKING:
    import pandas as pd
else:
    from etl_assets.later import Later

    pd = Later("pandas")


def tried(reports: Iterable[Report], star: Mapping[str, StarTable]) -> Iterator[tuple[Report, str]]:
    """What is wrong with reports over a star in DuckDB, in a line each."""
    with duckdb.connect() as connection:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for table in star.values():
            place = f"{SCHEMA}.{identifier(table.name)}"
            columns = ", ".join(f"{identifier(c.name)} {c.type.duckdb}" for c in table.columns)
            connection.execute(f"CREATE TABLE {place} ({columns})")
            if isinstance(table, Fact):
                view = f"{SCHEMA}.{identifier(current(table.name))}"
                connection.execute(f"CREATE VIEW {view} AS FROM {place}")
        for report in reports:
            if told := _tried(report, DuckDBReader(connection)):
                yield report, f"{report.name}: {told}"


def _tried(report: Report, reader: DuckDBReader) -> str:
    try:
        answer = reader.frame(report.query)
    except duckdb.Error as error:
        return f"its query is wrong: {faults.told(error)}"
    try:
        if report.control:
            reader.frame(report.control)
    except duckdb.Error as error:
        return f"the query of its control totals is wrong: {faults.told(error)}"
    types = dict(answer.dtypes)
    try:
        shaped: Any = report.shape(answer)
    except Exception as error:  # noqa: BLE001  most of what it may raise is for want of rows
        return f"its function fails: {faults.told(error)}" if _is_of_code(error) else ""
    if not isinstance(shaped, pd.DataFrame):
        return f"its function returns {type(shaped).__name__}; return a DataFrame"
    if list(shaped.columns) != list(types):
        return ""
    lacking = [name for name in report.by_name if name not in types]
    if lacking:
        return f"it has no {', '.join(lacking)}; its query gives {', '.join(types)}"
    floats = [
        name
        for name, column in report.by_name.items()
        if shaped[name].dtype == types[name]
        and _is_float(types[name])
        and not pa.types.is_floating(column.type.arrow)
    ]
    if floats:
        return f"its query gives floating-point numbers for {', '.join(floats)}: CAST(… AS NUMERIC(38,2)) what it adds up or divides"
    return ""


def _is_of_code(error: Exception) -> bool:
    """Whether it comes from names that there are not, whatever the rows."""
    return isinstance(error, NameError | ImportError) or (
        isinstance(error, AttributeError) and isinstance(error.obj, ModuleType)
    )


def _is_float(dtype: object) -> bool:
    return isinstance(dtype, pd.ArrowDtype) and pa.types.is_floating(dtype.pyarrow_dtype)
