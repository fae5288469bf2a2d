"""Column lineage, computed from what a star function does to empty tables: it never has to be declared."""

from collections.abc import Mapping

import duckdb
import narwhals as nw
from sqlglot import exp
from sqlglot.lineage import Node, lineage

from etl_assets.engine.definition import Definition, Inputs

Origins = Mapping[str, list[tuple[str, str]]]
"""Column -> the (input, column) pairs that it is computed from."""


def column_lineage(definition: Definition, inputs: Inputs) -> Origins:
    """Where each declared column comes from. Empty for a function that computes its frame in memory."""
    if definition.name not in inputs.lineage:
        inputs.lineage[definition.name] = _column_lineage(definition, inputs)
    return inputs.lineage[definition.name]


def _column_lineage(definition: Definition, inputs: Inputs) -> Origins:
    with duckdb.connect() as connection:
        relations = {name: inputs.empty(connection, name) for name in definition.inputs}
        for name in inputs.references.keys() & relations.keys():
            # A file is read by a function call; as a table it has columns that can be followed.
            connection.execute("CREATE SCHEMA IF NOT EXISTS reference")
            relations[name].create(f"reference.{duckdb_name(name)}")
            relations[name] = connection.table(f"reference.{duckdb_name(name)}")
        made = definition.function(**definition.frames(relations))
        native = nw.to_native(made, pass_through=True)
        if not isinstance(native, duckdb.DuckDBPyRelation):
            return {}
        schema: dict[str, dict[str, dict[str, str]]] = {}
        for name, relation in relations.items():
            kind = "reference" if name in inputs.references else "raw" if name in inputs.tables else "star"
            columns = {c: str(t) for c, t in zip(relation.columns, relation.types, strict=True)}
            schema.setdefault(kind, {})[name] = columns
        nodes = lineage(None, native.sql_query(), schema, dialect="duckdb")
        return {column: _origins(node) for column, node in nodes.items()}


def duckdb_name(name: str) -> str:
    return exp.to_identifier(name, quoted=True).sql("duckdb")


def _origins(node: Node) -> list[tuple[str, str]]:
    leaves = [leaf for leaf in node.walk() if not leaf.downstream and isinstance(leaf.expression, exp.Table)]
    return sorted({(leaf.expression.name, exp.to_column(leaf.name).name) for leaf in leaves})
