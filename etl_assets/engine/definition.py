"""A star table as it is written: what it promises, and the function that makes it.

The function's parameters name its inputs: source tables, other star tables, reference files. What it returns is
compared with what is promised before any data exists, by running it on empty tables.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import duckdb
import narwhals as nw
import pandas as pd
import pyarrow as pa

from etl_assets.capture.table import Table
from etl_assets.engine.code_version import code_version, declared_version
from etl_assets.engine.duck import identifier
from etl_assets.engine.schema import Fact, StarTable
from etl_assets.engine.typing import types_version
from etl_assets.errors import EtlError


class ContractError(EtlError):
    """A star function does not give what its declaration promises."""


@dataclass(frozen=True)
class Definition:
    """A star table: its declaration, and the function that computes it from its inputs."""

    schema: StarTable
    function: Callable[..., Any]

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

    def apply(
        self, connection: duckdb.DuckDBPyConnection, inputs: Mapping[str, duckdb.DuckDBPyRelation]
    ) -> duckdb.DuckDBPyRelation:
        """Call the function, and bring what it returns to the declared types."""
        return as_relation(connection, self.function(**self.frames(inputs)), self.schema)

    def frames(self, inputs: Mapping[str, duckdb.DuckDBPyRelation]) -> dict[str, Any]:
        """The arguments of the function: each parameter gets the kind of frame that it is annotated with."""
        hints = get_type_hints(self.function)
        return {name: as_frame(inputs[name], hints.get(name)) for name in self.inputs}


def star_table(schema: StarTable) -> Callable[[Callable[..., Any]], Definition]:
    """Declare that the function below makes the table."""
    return lambda function: Definition(schema, function)


def definitions_in(*modules: ModuleType) -> dict[str, Definition]:
    """The star tables that modules define, by name."""
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Definition)]
    return {definition.name: definition for definition in found}


def as_frame(relation: duckdb.DuckDBPyRelation, annotation: Any) -> Any:
    """A relation as the frame that a function asks for: Narwhals' lazy frame, unless it says pandas or Arrow."""
    if annotation is pd.DataFrame:
        return relation.to_arrow_table().to_pandas(types_mapper=pd.ArrowDtype)
    if annotation is pa.Table:
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
        declared = pa.schema(
            [pa.field(c.name, c.type.arrow) for c in schema.declared if c.name in native.columns]
        )
        try:
            native = pa.Table.from_pandas(native, schema=declared, preserve_index=False, safe=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ContractError(f"{schema.name}: a value does not fit its declared type: {error}") from error
    if isinstance(native, pa.Table):
        return connection.from_arrow(native)
    raise ContractError(f"{schema.name}: its function returns {type(native).__name__}; return a frame")


@dataclass(frozen=True)
class Origin:
    """The (input, column) pairs that a column is computed from; `unchanged` if it is one column as it is."""

    columns: Sequence[tuple[str, str]]
    unchanged: bool


@dataclass(frozen=True)
class Inputs:
    """What parameters of star functions can name."""

    tables: Mapping[str, Table]
    star: Mapping[str, Definition]
    references: Mapping[str, Path]
    lineage: dict[str, Mapping[str, Origin]] = field(default_factory=dict, repr=False)
    """What `etl_assets.engine.lineage` found out so far; it takes a while and does not change."""

    def __post_init__(self) -> None:
        with duckdb.connect() as connection:
            for definition in self.star.values():
                for name in definition.inputs:
                    if sum(name in kind for kind in (self.tables, self.star, self.references)) != 1:
                        raise ContractError(
                            f"{definition.name}: its parameter {name!r} must name one source table, star table or "
                            f"reference file; there are {', '.join([*self.tables, *self.star, *self.references])}"
                        )
                    if isinstance(definition.schema, Fact) and name in self.star:
                        raise ContractError(
                            f"{definition.name}: a fact is made batch by batch, and {name} has no history: made again it "
                            "would show other values; name the source tables that it needs instead"
                        )
                self._check(definition, connection)

    def code_version(self, definition: Definition) -> str:
        """What a star table is made by: its function, and as what its source tables are typed for it."""
        typed = [types_version(self.tables[name].types) for name in definition.inputs if name in self.tables]
        return declared_version(definition.code_version, *typed)

    def empty(self, connection: duckdb.DuckDBPyConnection, name: str) -> duckdb.DuckDBPyRelation:
        """An input without rows, in the types that its function will see."""
        if name in self.references:
            return reference(connection, self.references[name]).limit(0)
        if name in self.tables:
            schema, columns = "raw", {n: t.duckdb for n, t in self.tables[name].types.items()}
        else:
            schema, columns = "star", {c.name: c.type.duckdb for c in self.star[name].schema.columns}
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        declared = ", ".join(f"{identifier(column)} {type_}" for column, type_ in columns.items())
        connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{identifier(name)} ({declared})")
        return connection.table(f"{schema}.{identifier(name)}")

    def _check(self, definition: Definition, connection: duckdb.DuckDBPyConnection) -> None:
        """Compare what a function gives for empty inputs with what is declared."""
        inputs = {name: self.empty(connection, name) for name in definition.inputs}
        try:
            made = definition.apply(connection, inputs)
        except (
            nw.exceptions.NarwhalsError,
            duckdb.Error,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise ContractError(
                f"{definition.name}: its function fails: {' '.join(str(error).split())}"
            ) from error
        given = dict(zip(made.columns, (str(type_) for type_ in made.types), strict=True))
        declared = {c.name: c.type.duckdb for c in definition.schema.declared}
        declared = {n: "TIMESTAMP WITH TIME ZONE" if t == "TIMESTAMPTZ" else t for n, t in declared.items()}
        if given != declared:
            differ = [
                f"{name} is {given.get(name, 'missing')} and should be {declared.get(name, 'left out')}"
                for name in {**declared, **given}
                if given.get(name) != declared.get(name)
            ]
            raise ContractError(
                f"{definition.name}: its function does not give what is declared: {'; '.join(differ)}"
            )


def reference(connection: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyRelation:
    """A reference file of the project (CSV) as text columns."""
    return connection.read_csv(str(path), header=True, all_varchar=True)
