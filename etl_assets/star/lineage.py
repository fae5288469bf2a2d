"""Column lineage, computed from what a star function does to empty tables: it never has to be declared."""

from collections.abc import Mapping, Sequence

import duckdb
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node, lineage

from etl_assets.star.definition import Inputs, Origin
from etl_assets.star.function import StarFunction

Origins = Mapping[str, Origin]


def column_lineage(definition: StarFunction, inputs: Inputs) -> Origins:
    """Where each declared column comes from. Empty where that is not known, as for a function that computes its frame in
    memory."""
    if not inputs.lineage:
        with duckdb.connect() as connection:
            for one in inputs.star.values():
                inputs.lineage[one.name] = _column_lineage(one, inputs, connection)
    return inputs.lineage[definition.name]


def carried_key(definition: StarFunction, inputs: Inputs, key: Sequence[str]) -> Sequence[str] | None:
    """The columns of a star table's key that carry, unchanged, the columns of its first table's `key`, in that
    order; None where the star's key is another."""
    first, columns = definition.inputs[0], definition.schema.key_columns
    if definition.schema.rows != "one per row" or first not in inputs.tables or len(key) != len(columns):
        return None
    origins = column_lineage(definition, inputs)
    carried = {
        origins[name].columns[0][1]: name
        for name in columns
        if name in origins and origins[name].unchanged and origins[name].columns[0][0] == first
    }
    return [carried[name] for name in key] if carried.keys() == set(key) else None


def _column_lineage(
    definition: StarFunction, inputs: Inputs, connection: duckdb.DuckDBPyConnection
) -> Origins:
    relations = {name: inputs.empty(connection, name) for name in definition.inputs}
    sql = inputs.queries[definition.name]
    if sql is None:
        return {}
    schema: dict[str, dict[str, dict[str, str]]] = {}
    for name, relation in relations.items():
        kind = "reference" if name in inputs.references else "raw" if name in inputs.tables else "star"
        columns = {c: str(t) for c, t in zip(relation.columns, relation.types, strict=True)}
        schema.setdefault(kind, {})[name] = columns
    try:
        nodes = lineage(None, sql, schema, dialect="duckdb", trim_selects=False)
    except SqlglotError:  # some queries it can't follow: then it is not known where their columns come from
        return {}
    return {column: Origin(_origins(node), _unchanged(node)) for column, node in nodes.items()}


def _origins(node: Node) -> list[tuple[str, str]]:
    leaves = [leaf for leaf in node.walk() if not leaf.downstream and isinstance(leaf.expression, exp.Table)]
    return sorted({(leaf.expression.name, exp.to_column(leaf.name).name) for leaf in leaves})


def _unchanged(node: Node) -> bool:
    """Whether every query on the way hands a column on as it is."""
    while not isinstance(node.expression, exp.Table):
        if not isinstance(node.expression.unalias(), exp.Column) or len(node.downstream) != 1:
            return False
        (node,) = node.downstream
    return True
