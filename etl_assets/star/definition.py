"""A star table as it is written: what it promises, and the function that makes it.

The function's parameters name its inputs: source tables, other star tables, reference files. What it returns is
compared with what is promised before any data exists, by running it on empty tables.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import sqlglot
from sqlglot.tokenizer_core import TokenType

from etl_assets import faults
from etl_assets.engine import duck
from etl_assets.engine.code_version import declared_version
from etl_assets.engine.duck import identifier
from etl_assets.engine.operators import Node, Opaque, Query, aggregate_names
from etl_assets.engine.typing import types_version
from etl_assets.errors import EtlError
from etl_assets.source.table import Table
from etl_assets.star import planning
from etl_assets.star.function import ContractError, StarFunction, as_relation, listed
from etl_assets.star.schema import Dimension, Fact, StarTable


@dataclass(frozen=True)
class Origin:
    """The (input, column) pairs that a column is computed from; `unchanged` if it is one column as it is."""

    columns: Sequence[tuple[str, str]]
    unchanged: bool


@dataclass(frozen=True)
class Inputs:
    """What parameters of star functions can name."""

    tables: Mapping[str, Table]
    star: Mapping[str, StarFunction]
    references: Mapping[str, Path]
    lineage: dict[str, Mapping[str, Origin]] = field(default_factory=dict, repr=False)
    """What `etl_assets.star.lineage` found out so far; it takes a while and does not change."""
    queries: dict[str, str | None] = field(default_factory=dict, repr=False)
    """The SQL of each star function; None for one that computes its frame in memory."""
    plain: dict[str, bool] = field(default_factory=dict, repr=False)
    """What `by_row` found out so far."""
    ties: dict[str, Sequence[str]] = field(default_factory=dict, repr=False)
    """What in the SQL of each star function may depend on the order of rows, and does if an order leaves some side by side."""

    untried: frozenset[str] = field(default=frozenset(), repr=False)
    """What is declared wrongly, which was told already: nothing that is made from it is tried."""

    def __post_init__(self) -> None:
        mistakes: list[tuple[str, str]] = []
        with duckdb.connect() as connection:
            for definition in self.star.values():
                told = [
                    *self._wrong_inputs(definition),
                    *self._wrong_links(definition.schema),
                    *self._wrong_promises(definition),
                ]
                mistakes += [(definition.name, what) for what in told]
            try:
                order = self.in_order()
            except ContractError as error:
                mistakes += error.mistakes
                order = []
            for definition in order:
                # What is made from something that is wrong can't be tried.
                if not {definition.name, *definition.inputs} & (
                    {name for name, _ in mistakes} | self.untried
                ):
                    try:
                        self._check(definition, connection)
                    except ContractError as error:
                        mistakes.append((definition.name, str(error)))
        if mistakes:
            raise ContractError(mistakes[0][1], mistakes)

    def in_order(self) -> list[StarFunction]:
        """The star tables such that each comes after those it is made from. Raises `ContractError` for a circle."""
        order = TopologicalSorter({name: self.star.keys() & d.inputs for name, d in self.star.items()})
        try:
            return [self.star[name] for name in order.static_order()]
        except CycleError as error:
            circle = error.args[1]
            told = f"star tables are made from each other: {' from '.join(circle)}"
            raise ContractError(told, [(circle[0], told)]) from error

    def types(self, name: str) -> Mapping[str, str]:
        """The columns of an input, as DuckDB types, as a function sees them."""
        if name in self.tables:
            return {n: t.duckdb for n, t in self.tables[name].types.items()}
        if name in self.references:
            with duckdb.connect() as connection:
                return dict.fromkeys(reference(connection, self.references[name]).columns, "VARCHAR")
        return {c.name: c.type.duckdb for c in self.star[name].schema.columns}

    def plan(self, definition: StarFunction) -> tuple[Query, Node | Opaque]:
        """The query of a function and its tree, or why there is none."""
        return planning.plan(self.queries[definition.name], self._types_of(definition))

    def classified(self, definition: StarFunction) -> str:
        """What a change of any input of a function will be compared by: see `planning.classified`."""
        sql, types = self.queries[definition.name], self._types_of(definition)
        return planning.classified(definition.schema, sql, types, self.references.keys())

    def _types_of(self, definition: StarFunction) -> Mapping[str, Mapping[str, str]]:
        return {name: self.types(name) for name in definition.inputs}

    def by_row(self, definition: StarFunction) -> bool:
        """Whether a function makes each row from one row of its only input, a source table."""
        if definition.name not in self.plain:
            self.plain[definition.name] = self._by_row(definition)
        return self.plain[definition.name]

    def is_seen_by_row(self, definition: StarFunction) -> bool:
        """Whether its SQL shows that; else it is only said."""
        return self.queries[definition.name] is not None and self.by_row(definition)

    def _by_row(self, definition: StarFunction) -> bool:
        sql = self.queries[definition.name]
        (first, *others), schema = definition.inputs, definition.schema
        if others or first not in self.tables or schema.rows != "one per row":
            return False
        if sql is None:
            return schema.by == "row"
        return not _of_several_rows(sql)

    def sources(self, name: str) -> list[str]:
        """The source tables that a star table is made from, by way of other star tables too, in declared order."""
        if name in self.tables:
            return [name]
        if name in self.references:
            return []
        found = [table for one in self.star[name].inputs for table in self.sources(one)]
        return list(dict.fromkeys(found))

    def files(self, name: str) -> list[str]:
        """The reference files that a star table is made from, by way of other star tables too, in declared order."""
        if name in self.references:
            return [name]
        made_from = self.star[name].inputs if name in self.star else []
        return list(dict.fromkeys(file for one in made_from for file in self.files(one)))

    def code_version(self, definition: StarFunction) -> str:
        """What a star table is made by: its function, and as what its source tables are typed for it."""
        typed = [types_version(self.tables[name].types) for name in definition.inputs if name in self.tables]
        return declared_version(definition.code_version, *typed)

    def empty(self, connection: duckdb.DuckDBPyConnection, name: str) -> duckdb.DuckDBPyRelation:
        """An input without rows, in the types that its function will see."""
        if name in self.references:
            # A file is read by a function call; as a table it has columns that can be followed.
            table = f"reference.{identifier(name)}"
            connection.execute("CREATE SCHEMA IF NOT EXISTS reference")
            rows = reference(connection, self.references[name])
            try:
                rows.aggregate("count(COLUMNS(*))").fetchall()
            except duckdb.Error as error:
                raise ContractError(_wrong_rows(self.references[name], error)) from None
            rows.limit(0).query("file", f"CREATE TABLE IF NOT EXISTS {table} AS FROM file")
            return connection.table(table)
        schema, columns = "raw" if name in self.tables else "star", self.types(name)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        declared = ", ".join(f"{identifier(column)} {type_}" for column, type_ in columns.items())
        connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{identifier(name)} ({declared})")
        return connection.table(f"{schema}.{identifier(name)}")

    def _wrong_inputs(self, definition: StarFunction) -> Iterator[str]:
        """Parameters that name nothing, or two things."""
        known = [*self.tables, *self.star, *self.references]
        if not definition.inputs:
            yield (
                f"{definition.name}: its function has no parameters: name there what it is made from; rows that stand nowhere else "
                "go into a reference file, NAME.csv beside the modules"
            )
        for name, parameter in inspect.signature(definition.function).parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                yield f"{definition.name}: its parameters are given by name: write {name}, without * or /"
            elif known.count(name) != 1 and name not in self.untried:
                others = [one for one in known if one != definition.name]
                near = difflib.get_close_matches(name, others, 1) if name not in known else []
                what = f"did you mean {near[0]}?" if near else f"there are {listed(known)}"
                yield (
                    f"{definition.name}: its parameter {name!r} must name one source table, star table or "
                    f"reference file; {what}"
                )

    def _wrong_links(self, schema: StarTable) -> Iterator[str]:
        """References that lead nowhere."""
        for columns, name in schema.links.items():
            told = f"{schema.name}: {', '.join(columns)} refers to {name}"
            found = self.star.get(name)
            dimensions = [n for n, d in self.star.items() if isinstance(d.schema, Dimension)]
            if found is None or not isinstance(found.schema, Dimension):
                close = difflib.get_close_matches(name, dimensions, 1)
                yield (
                    f"{told}, which is no dimension: "
                    + (f"write {close[0]}" if close else f"there are {', '.join(dimensions) or 'none'}")
                )
            elif {schema.name, name} & self.untried:
                continue
            elif len(key := found.schema.key_columns) == 1 != len(columns):
                yield f'{told}, whose key is {key[0]}: write references="{name}" at the column that names it'
            elif len(key) != len(columns):
                yield (
                    f"{told}, whose key is ({', '.join(key)}): write "
                    + "references={("
                    + ", ".join(f'"…{part}"' for part in key)
                    + f'): "{name}"}}'
                )
            else:
                for column, part in zip(columns, key, strict=True):
                    own, other = schema.by_name[column].type, found.schema.by_name[part].type
                    if own.name != other.name:
                        yield (
                            f"{schema.name}: {column} is {own.name}, and refers to {name}, whose {part} is {other.name}: "
                            "declare both as the same type"
                        )

    def _wrong_promises(self, definition: StarFunction) -> Iterator[str]:
        """What a table says of its inputs and they are not."""
        schema = definition.schema
        for name in schema.facts_with_versions:
            if (
                name not in definition.inputs
                or name not in self.star
                or not isinstance(self.star[name].schema, Fact)
            ):
                yield (
                    f"{schema.name}: versions_of names {name}, which is no fact among its parameters "
                    f"({', '.join(definition.inputs)})"
                )
        typed = [i for i in definition.inputs if i not in self.references]
        is_known = all(i in self.tables or i in self.star for i in typed)
        for name in (schema.by_columns or ()) if is_known else ():
            if not any(name in self.types(i) for i in typed):
                yield f"{schema.name}: by names {name}, which is no column of its inputs"

    def _check(self, definition: StarFunction, connection: duckdb.DuckDBPyConnection) -> None:
        """Compare what a function gives for empty inputs with what is declared."""
        if definition.is_ours:
            self.queries[definition.name] = None
            return
        frames = definition.frames({name: self.empty(connection, name) for name in definition.inputs})
        returned = definition.called(frames)  # once: a function over a thousand columns takes its time
        try:
            made = as_relation(connection, returned, definition.schema)
        except duckdb.Error as error:
            raise ContractError(f"{definition.name}: its function fails: {faults.told(error)}") from None
        self.queries[definition.name] = _query(frames, returned)
        self._check_promises(definition, connection)
        given = dict(zip(made.columns, map(duck.type_name, made.types), strict=True))
        declared = {c.name: c.type.duckdb for c in definition.schema.declared}
        if given != declared:
            differ = [
                f"{name} is {given.get(name, 'missing')} and should be {declared.get(name, 'left out')}"
                for name in {**declared, **given}
                if given.get(name) != declared.get(name)
            ]
            raise ContractError(
                f"{definition.name}: its function does not give what is declared: {'; '.join(differ)}"
            )

    def _check_promises(self, definition: StarFunction, connection: duckdb.DuckDBPyConnection) -> None:
        """Refuse a function that does not say one thing, and one that costs more than its contract allows."""
        from etl_assets.engine import determinism

        sql = self.queries[definition.name]
        found: list[str] = []
        if sql is not None:
            told = list(determinism.undetermined(connection, sql))
            self.ties[definition.name] = tuple(str(one) for one in told if isinstance(one, determinism.Tie))
            found += [one for one in told if not isinstance(one, determinism.Tie)]
            if "row_number" in sql.lower():  # a second look is worth its time
                _, tree = self.plan(definition)
                found += [] if isinstance(tree, Opaque) else determinism.numbered_anyhow(tree)
        if found:
            raise ContractError(f"{definition.name}: {'; '.join(dict.fromkeys(found))}")
        if definition.schema.strict and (class_ := self.classified(definition)).startswith("compared whole"):
            raise ContractError(f"{definition.name}: it is declared strict, and would be {class_}")


def reference(connection: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyRelation:
    """A reference file of the project (CSV) as text columns. Raises `ContractError` if it has no header, or is not UTF-8."""
    try:
        return duck.read_any_csv(connection, path)
    except EtlError as error:
        raise ContractError(f"the reference file {error}") from None


def _wrong_rows(path: Path, error: duckdb.Error) -> str:
    """What is wrong with a reference file, without its values, which DuckDB repeats."""
    said = str(error)
    found = re.search(r"CSV Error on Line: (\d+)", said)
    line = f"the reference file {path.name}, line {found[1]}" if found else f"the reference file {path.name}"
    if "unicode" in said:
        return f"{line}: it {duck.NOT_UTF_8}"
    if "Expected Number of Columns" in said:
        return f"{line}: it has another number of values than the header"
    if "quote" in said:
        return f"{line}: a quote is not closed"
    return f"{line}: {faults.told(error)}"


# With what a query in brackets begins.
_QUERY = {TokenType.SELECT, TokenType.FROM, TokenType.WITH, TokenType.VALUES, TokenType.TABLE}
# After what a query in brackets gives rows.
_BEFORE_ROWS = {"FROM", "AS", "MATERIALIZED"}
# What tells in SQL that a row of a result depends on more than one row of an input, or gives more than one.
_OF_SEVERAL_ROWS = {
    TokenType.JOIN,
    TokenType.GROUP_BY,
    TokenType.OVER,
    TokenType.DISTINCT,
    TokenType.UNION,
    TokenType.EXCEPT,
    TokenType.INTERSECT,
    TokenType.LIMIT,
    TokenType.FETCH,
    TokenType.OFFSET,
    TokenType.UNNEST,
    TokenType.QUALIFY,
    TokenType.WHERE,
}


def _of_several_rows(sql: str) -> bool:
    """Whether there is anything in the SQL by which a row may depend on others, or be another number of rows."""
    tokens = sqlglot.tokenize(sql, read="duckdb")
    if any(token.token_type in _OF_SEVERAL_ROWS for token in tokens):
        return True
    for before, opening, token in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if opening.token_type != TokenType.L_PAREN:
            continue
        # A query in brackets that is not read FROM stands for a value, made of whatever rows.
        is_value = token.token_type in _QUERY and before.text.upper() not in _BEFORE_ROWS
        if is_value or before.text.lower() in aggregate_names():
            return True
    return False


def _query(frames: Mapping[str, Any], returned: Any) -> str | None:
    """The SQL that a function makes of tables; None for one that computes its frame in memory."""
    if any(not isinstance(frame, nw.LazyFrame) for frame in frames.values()):
        return None
    native = nw.to_native(returned, pass_through=True)
    return str(native.sql_query()) if isinstance(native, duckdb.DuckDBPyRelation) else None
