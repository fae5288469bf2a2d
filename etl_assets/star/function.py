"""A star function as it is declared, with its contract, and how it is applied to rows."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import duckdb
import narwhals as nw

from etl_assets import faults
from etl_assets.engine.code_version import code_version
from etl_assets.engine.location import location
from etl_assets.errors import EtlError
from etl_assets.later import Later
from etl_assets.star.schema import Column, Dimension, Fact, StarTable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
else:
    pd = Later("pandas")
    pa = Later("pyarrow")


class ContractError(EtlError):
    """A star function does not give what its declaration promises. `mistakes`: all that were found, with what each is of."""

    def __init__(self, message: str, mistakes: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.mistakes = mistakes


@dataclass(frozen=True)
class StarFunction:
    """A star table: its declaration, and the function that computes it from its inputs."""

    schema: StarTable
    function: Callable[..., Any]
    is_ours: bool = False
    """Whether the platform made the function to fit the declaration: then it is not tried when it is declared."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        return self.schema.name

    @cached_property
    def inputs(self) -> list[str]:
        return list(inspect.signature(self.function).parameters)

    @cached_property
    def code_version(self) -> str:
        return code_version(self.function, self.schema.version)

    @property
    def where(self) -> str:
        """The file and line of the function, as an editor takes them."""
        return location(self.function)

    def apply(
        self, connection: duckdb.DuckDBPyConnection, inputs: Mapping[str, duckdb.DuckDBPyRelation]
    ) -> duckdb.DuckDBPyRelation:
        """Call the function, and bring what it returns to the declared types. Raises `ContractError` for whatever it
        raises: that is its business, and the other tables'."""
        return as_relation(connection, self.called(self.frames(inputs)), self.schema)

    def called(self, frames: Mapping[str, Any]) -> Any:
        """What the function returns. Raises `ContractError` for whatever it raises."""
        try:
            return self.function(**frames)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  whatever somebody's function raises is told with its table
            remedy = ""
            if isinstance(error, _told_twice()):
                remedy = "; " + _TWICE
            elif isinstance(error, duckdb.InvalidInputException) and "replacement scan" in str(error):
                remedy = "; " + _UNSEEN
            told = f"{self.name}: its function fails: {faults.told(error)}{remedy}"
            raise ContractError(told).with_traceback(error.__traceback__) from None

    def frames(self, inputs: Mapping[str, duckdb.DuckDBPyRelation]) -> dict[str, Any]:
        """The arguments of the function: each parameter gets the kind of frame that it is annotated with. Raises
        `ContractError` where an annotation names what there is not."""
        try:
            hints = get_type_hints(self.function)
        except NameError as error:
            raise ContractError(
                f"{self.name}: what its parameters are annotated with is not known where it stands: {error.name}: import it "
                "there, outside of TYPE_CHECKING too"
            ) from None
        return {name: as_frame(inputs[name], hints.get(name)) for name in self.inputs}


def function_fails() -> tuple[type[Exception], ...]:
    """What shows that a function can't be applied to the rows that there are. Anything else is a mistake of ours."""
    return (duckdb.Error, ContractError, *faults.raised_by("pyarrow.lib", "ArrowException"))


def _told_twice() -> tuple[type[Exception], ...]:
    """What Narwhals raises where two columns have one name."""
    return faults.raised_by("narwhals.exceptions", "DuplicateError")


_TWICE = 'select the columns that are needed before a join, or write join(…, suffix="_of_what")'


_UNSEEN = (
    "what is written as SQL that names frames (duckdb.sql, and Narwhals' join_asof and unpivot, which write it) does not find "
    'them here: write nw.to_native(frame).set_alias("a").join(…, "a.day >= b.day", how="left"), or annotate the parameters '
    "pandas.DataFrame"
)


def star_table(schema: StarTable) -> Callable[[Callable[..., Any]], StarFunction]:
    """Declare that the function below makes the table."""
    return lambda function: StarFunction(schema, function)


def dimension(
    *,
    key: str | Sequence[str],
    columns: Sequence[Column],
    name: str = "",
    description: str = "",
    references: Mapping[str | tuple[str, ...], str] | None = None,
    rows: Literal["one per row", "any"] = "one per row",
    by: str | Sequence[str] | None = None,
    strict: bool = False,
    versions_of: str | Sequence[str] = (),
) -> Callable[[Callable[..., Any]], StarFunction]:
    """Declare that the function below makes a dimension: the latest state of each member, by `key`.

    It is called as the function, and described by its docstring, unless that is said here. What the rest means, `StarTable`
    says. Raises `ValueError` for a declaration that contradicts itself.
    """

    def declared(function: Callable[..., Any]) -> StarFunction:
        schema = Dimension(
            name or function.__name__,
            description or _described(function),
            key,
            columns,
            references=references or {},
            rows=rows,
            by=by,
            strict=strict,
            versions_of=versions_of,
        )
        return StarFunction(schema, function)

    return declared


def fact(
    *,
    key: str | Sequence[str],
    record: str = "",
    columns: Sequence[Column],
    name: str = "",
    description: str = "",
    references: Mapping[str | tuple[str, ...], str] | None = None,
    rows: Literal["one per row", "any"] = "one per row",
    by: str | Sequence[str] | None = None,
    strict: bool = False,
    versions_of: str | Sequence[str] = (),
) -> Callable[[Callable[..., Any]], StarFunction]:
    """Declare that the function below makes a fact: every version of what `key` names, numbered by `record`.

    It is called as the function, and described by its docstring, unless that is said here. What the rest means, `StarTable`
    says. Raises `ValueError` for a declaration that contradicts itself.
    """

    def declared(function: Callable[..., Any]) -> StarFunction:
        schema = Fact(
            name or function.__name__,
            description or _described(function),
            key,
            columns,
            record,
            references=references or {},
            rows=rows,
            by=by,
            strict=strict,
            versions_of=versions_of,
        )
        return StarFunction(schema, function)

    return declared


def _described(function: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def as_frame(relation: duckdb.DuckDBPyRelation, annotation: Any) -> Any:
    """A relation as the frame that a function asks for: Narwhals' lazy frame, unless it says pandas or Arrow."""
    # Who annotates one of them has imported it.
    if "pandas" in sys.modules and annotation is pd.DataFrame:
        return relation.to_arrow_table().to_pandas(types_mapper=pd.ArrowDtype)
    if "pyarrow" in sys.modules and annotation is pa.Table:
        return relation.to_arrow_table()
    return nw.from_native(relation)


def as_relation(
    connection: duckdb.DuckDBPyConnection, frame: Any, schema: StarTable
) -> duckdb.DuckDBPyRelation:
    """What a function returned, as a relation. Frames in memory are brought to the declared types, exactly."""
    native = nw.to_native(frame, pass_through=True)
    if isinstance(native, duckdb.DuckDBPyRelation):
        return native
    if isinstance(native, pd.DataFrame):
        _check_names(schema, list(native.columns))
        declared = pa.schema(
            [pa.field(c.name, c.type.arrow) for c in schema.declared if c.name in native.columns]
        )
        try:
            native = pa.Table.from_pandas(native, schema=declared, preserve_index=False, safe=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ContractError(
                f"{schema.name}: a value does not fit its declared type: {faults.told(error)}"
            ) from None
    if isinstance(native, pa.Table):
        _check_names(schema, native.column_names)
        return connection.from_arrow(native)
    raise ContractError(f"{schema.name}: its function returns {type(native).__name__}; return a frame")


def _check_names(schema: StarTable, given: Sequence[Any]) -> None:
    """Refuse a frame in memory that lacks columns, or has two of one name."""
    told = [f"{column.name} is missing" for column in schema.declared if column.name not in given]
    told += [f"{name} is there {times} times" for name, times in Counter(given).items() if times > 1]
    if told:
        raise ContractError(
            f"{schema.name}: its function does not give what is declared: {'; '.join(told)} (it gives {listed(given)})"
        )


# A message names so many.
_MOST_NAMES = 20


def listed(names: Sequence[Any]) -> str:
    """Names in a line that can be read."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(str, names[:_MOST_NAMES])) + more
