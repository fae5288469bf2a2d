"""Column lineage, computed from what a star function does to empty tables: it never has to be declared."""

import re
from collections.abc import Mapping, Sequence

import duckdb
from sqlglot import exp
from sqlglot.lineage import Node, lineage

from etl_assets.engine.operators import NOT_FOLLOWED, Join, Opaque, Scan, Union
from etl_assets.engine.operators import Node as Tree
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


def drives(definition: StarFunction, inputs: Inputs, columns: Sequence[str]) -> bool:
    """Whether columns of a star table are its first table's, as that drives the function: then whatever rows have the same
    values there are made from one of its rows. What is joined may have them too, or the same table, read once more."""
    _, tree = inputs.plan(definition)
    return not isinstance(tree, Opaque) and all(_of_driving(tree, c, definition.inputs[0]) for c in columns)


def _of_driving(node: Tree, name: str, table: str) -> bool:
    if isinstance(node, Scan):
        return node.input == table
    if isinstance(node, Union):
        return False
    source, expression = node.source, node.columns[name]
    while isinstance(source, Join):
        source = source.left
    return (
        isinstance(expression, exp.Column)
        and expression.table == source.alias
        and _of_driving(source.node, expression.name, table)
    )


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
    except NOT_FOLLOWED:  # some queries it can't follow: then it is not known where their columns come from
        return {}
    # What is found has names without capitals.
    made = {column.name.lower(): column.name for column in definition.schema.declared}
    read = {
        (name.lower(), column.lower()): (name, column)
        for name, relation in relations.items()
        for column in relation.columns
    }
    try:
        return {
            made[column.lower()]: Origin(_origins(node, read), _unchanged(node))
            for column, node in nodes.items()
            if column.lower() in made  # what a PIVOT gives stands as one *
        }
    except KeyError:  # a name that sqlglot does not give back as it is
        return {}


def _origins(node: Node, read: Mapping[tuple[str, str], tuple[str, str]]) -> list[tuple[str, str]]:
    leaves = [leaf for leaf in node.walk() if not leaf.downstream and isinstance(leaf.expression, exp.Table)]
    return sorted({read[leaf.expression.name.lower(), _column_of(leaf).lower()] for leaf in leaves})


def _column_of(leaf: Node) -> str:
    """The column of a table that a leaf is, which is called `table.column`. Where the table is called like a word of SQL, that
    can't be taken apart, and what stands behind it has its quotes still."""
    name = exp.to_column(leaf.name).name
    quoted = re.search(r'\."((?:[^"]|"")+)"$', leaf.name)
    return quoted[1].replace('""', '"') if quoted and name.startswith('"') else name


def _unchanged(node: Node) -> bool:
    """Whether every query on the way hands a column on as it is."""
    while not isinstance(node.expression, exp.Table):
        if not isinstance(node.expression.unalias(), exp.Column) or len(node.downstream) != 1:
            return False
        (node,) = node.downstream
    return True
