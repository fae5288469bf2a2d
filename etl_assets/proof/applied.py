"""What star functions give for all rows of their inputs as of a batch: each is computed once."""

from collections.abc import Sequence

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.lake.current import view
from etl_assets.proof.verification import Verification
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import Fact


def applied(verification: Verification, definition: StarFunction, *, in_parts: bool = False) -> str:
    """A FROM clause with what a function gives for all rows of its inputs, computed once; `in_parts`: of it the rows
    that are compared."""
    name, schema = definition.name, definition.schema
    if in_parts and name in verification.parts and (name, False) in verification.expected:
        return verification.in_parts(schema, verification.expected[name, False])
    wanted = (name, in_parts and name in verification.parts)
    if wanted not in verification.expected:
        made = definition.apply(
            verification.connection, {n: _input(verification, definition, n) for n in definition.inputs}
        ).project(listing([column.name for column in schema.declared]))
        if wanted[1]:
            made = verification.connection.sql(f"FROM {verification.in_parts(schema, view(made))}")
        path = verification.folder / f"star-{len(verification.expected)}.parquet"
        duck.write_parquet(made, path, {}, for_now=True)
        verification.expected[wanted] = duck.parquet([path])
    return verification.expected[wanted]


def _input(verification: Verification, definition: StarFunction, name: str) -> duckdb.DuckDBPyRelation:
    """An input as of the batch, in the order of its keys for a function that computes in memory."""
    keys: Sequence[str] = ()
    if name in verification.inputs.references:
        rows = verification.builder.reference(name).to_arrow_table()
        verification.connection.register(f"reference {name}", rows)
        relation = verification.connection.table(identifier(f"reference {name}"))
    elif name in verification.inputs.tables:
        landed, types = verification.landed(name), verification.inputs.tables[name].types
        keys = landed.keys
        chosen = ", ".join(
            f"CAST({identifier(n)} AS {t.duckdb}) AS {identifier(n)}" for n, t in types.items()
        )
        relation = verification.connection.sql(
            f"SELECT {chosen}, {listing(keys)} FROM {duck.parquet([landed.path])}"
        )
    else:
        relation, keys = _star_input(verification, definition, verification.inputs.star[name])
    if verification.inputs.queries[definition.name] is None:
        relation = relation.order(listing(keys) if keys else "ALL")
    return relation.project(
        listing([c for c in relation.columns if c not in keys or name in verification.inputs.star])
    )


def _star_input(
    verification: Verification, definition: StarFunction, other: StarFunction
) -> tuple[duckdb.DuckDBPyRelation, Sequence[str]]:
    schema, keys = other.schema, other.schema.key_columns
    if not isinstance(schema, Fact):
        expected = applied(verification, other)
        return verification.connection.sql(f"SELECT *, false AS deleted FROM {expected}"), keys
    # Of a fact the function sees numbers and batches too. What its rows are was compared before.
    rows = duck.parquet(verification.paths(verification.builder.star, schema))
    if schema.name in definition.schema.facts_with_versions:
        return verification.connection.sql(f"FROM {rows}"), schema.primary_key
    return verification.connection.sql(f"FROM {verification.shown(schema)}"), keys
