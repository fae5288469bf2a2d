"""Reports tried on no rows: the slips of their queries and functions that show before there is any data.

A function may need rows that are not there, and give other columns then. So only what no rows can mend is told.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from etl_assets import faults
from etl_assets.engine.duck import identifier
from etl_assets.exports.contract import Report
from etl_assets.later import Later
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.dialect import SCHEMA, current

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")

_FLOATS = {"FLOAT", "DOUBLE"}


def _given_back(answer: Any) -> Any:
    return answer


def tried(reports: Collection[Report], star: Mapping[str, StarTable]) -> Iterator[tuple[Report, str]]:
    """What is wrong with reports over a star in DuckDB, in a line each."""
    with duckdb.connect() as connection:
        connection.execute(";".join(_empty(star.values(), "".join(f"{r.query}{r.control}" for r in reports))))
        for report in reports:
            if told := _tried(report, connection):
                yield report, f"{report.name}: {told}"


def _empty(star: Iterable[StarTable], queries: str) -> Iterator[str]:
    """The statements that make what queries name of an empty star; a view of current rows is a table too."""
    yield f"CREATE SCHEMA {SCHEMA}"
    for table in star:
        columns = ", ".join(f"{identifier(c.name)} {c.type.duckdb}" for c in table.columns)
        for name in [table.name, current(table.name)] if isinstance(table, Fact) else [table.name]:
            if name in queries:
                yield f"CREATE TABLE {SCHEMA}.{identifier(name)} ({columns})"


def _tried(report: Report, connection: duckdb.DuckDBPyConnection) -> str:
    try:
        answer = connection.sql(report.query)  # names and types are looked at; nothing is run
    except duckdb.Error as error:
        return f"its query is wrong: {faults.told(error)}"
    try:
        if report.control:
            connection.sql(report.control)
    except duckdb.Error as error:
        return f"the query of its control totals is wrong: {faults.told(error)}"
    kept = set(answer.columns)
    if not _hands_on(report.shape):
        frame = answer.to_arrow_table().to_pandas(types_mapper=pd.ArrowDtype)
        try:
            shaped: Any = report.shape(frame)
        except Exception as error:  # noqa: BLE001  most of what it may raise is for want of rows
            return f"its function fails: {faults.told(error)}" if _is_of_code(error) else ""
        if not isinstance(shaped, pd.DataFrame):
            return f"its function returns {type(shaped).__name__}; return a DataFrame"
        if list(shaped.columns) != answer.columns:
            return ""
        kept = {name for name in answer.columns if shaped[name].dtype == frame[name].dtype}
    lacking = [name for name in report.by_name if name not in answer.columns]
    if lacking:
        return f"it has no {', '.join(lacking)}; its query gives {', '.join(answer.columns)}"
    floating = {n for n, t in zip(answer.columns, answer.types, strict=True) if str(t) in _FLOATS}
    floats = [
        name
        for name, column in report.by_name.items()
        if name in kept & floating and not pa.types.is_floating(column.type.arrow)
    ]
    if floats:
        return f"its query gives floating-point numbers for {', '.join(floats)}: CAST(… AS NUMERIC(38,2)) what it adds up or divides"
    return ""


def _hands_on(function: Callable[..., Any]) -> bool:
    """Whether a function gives what it is given, as most reports' do: then there is nothing to try."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_code == _given_back.__code__.co_code


def _is_of_code(error: Exception) -> bool:
    """Whether it comes from names that there are not, whatever the rows."""
    return isinstance(error, NameError | ImportError) or (
        isinstance(error, AttributeError) and isinstance(error.obj, ModuleType)
    )
