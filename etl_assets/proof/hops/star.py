"""The hop from what landed to the star: every function, applied whole, gives what the star shows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.current import materialized
from etl_assets.proof.applied import applied
from etl_assets.proof.findings import Finding, or_unreadable
from etl_assets.proof.landed import LANDED_IN, landed_table
from etl_assets.proof.verification import Verification, verifying
from etl_assets.star.function import StarFunction
from etl_assets.star.lineage import carried_key
from etl_assets.star.resource import OpenLake
from etl_assets.star.schema import Fact


def compare_star(verification: Verification) -> Iterator[Finding]:
    """Compare what the star shows with what its functions give."""
    for definition in verification.inputs.in_order():
        if verification.wanted(definition.name):
            yield verification.unless_gone(definition.name, "star", partial(_star, verification, definition))


def compare_facts(verification: Verification) -> Iterator[Finding]:
    """The same of the facts that are made from nothing but source tables, whose files say what they were."""
    for definition in verification.inputs.in_order():
        if isinstance(definition.schema, Fact) and not verification.inputs.star.keys() & definition.inputs:
            yield or_unreadable(definition.name, "star", partial(_star, verification, definition))


def _star(verification: Verification, definition: StarFunction) -> Finding:
    schema, star = definition.schema, verification.builder.star
    if behind := verification.behind(definition):
        return Finding(schema.name, "star", "nothing", behind)
    expected = applied(verification, definition, in_parts=True)
    found = verification.in_parts(schema, verification.shown(schema))
    names = [c.name for c in schema.declared]
    finding = verification.compare(schema, "star", expected, f"(SELECT {listing(names)} FROM {found})", names)
    if finding.equal:
        finding = _deleted(verification, definition, finding, expected)
    return finding if star.paths(schema) else replace(finding, difference="the star does not have it")


def _deleted(
    verification: Verification, definition: StarFunction, finding: Finding, expected: str
) -> Finding:
    """Compare which keys are marked as deleted with those that were landed once and are no longer given. Of a table
    whose key is not the source's own, only a rebuild can say that."""
    schema = definition.schema
    table = definition.inputs[0]
    if table not in verification.inputs.tables or table not in verification.manifest.tables:
        return finding
    state = verification.manifest.tables[table]
    carried = carried_key(definition, verification.inputs, state.key)
    if carried is None or not set(state.key) <= verification.inputs.tables[table].types.keys():
        return finding
    own = ", ".join(
        f"CAST({identifier(k)} AS {schema.by_name[c].type.duckdb}) AS {identifier(c)}"
        for k, c in zip(state.key, carried, strict=True)
    )
    keys = listing(schema.key_columns)
    once = _once(verification, table, state.key, verification.builder.star.baseline(schema.name))
    gone = f"(SELECT DISTINCT {keys} FROM (SELECT {own} FROM {once}) ANTI JOIN {expected} USING ({keys}))"
    gone = verification.in_parts(schema, gone)
    marked = (
        f"(SELECT {keys} FROM {verification.in_parts(schema, verification.everything(schema))} WHERE deleted)"
    )
    if isinstance(schema, Fact):
        marked = f"(SELECT DISTINCT {keys} FROM {marked} ANTI JOIN {expected} USING ({keys}))"
    return verification.compare(
        schema, "star", gone, marked, schema.key_columns, "deleted keys", finding.compared
    )


def _once(verification: Verification, table: str, key: Sequence[str], begins: int | None) -> str:
    """A FROM clause with the keys that a source table had once: where a star table begins at a batch later than the
    first, those that it had in that batch or after it."""
    once = duck.parquet([verification.landed(table).once])
    if begins is None or begins > verification.manifest.batch:
        return once
    if (table, begins) not in verification.begun:
        with own_folder(verification.folder, "begun-") as folder:
            landed = landed_table(
                verification.inputs.tables[table],
                verification.batches.get(begins),
                verification.batches,
                verification.connection,
                folder,
            )
            there = f"SELECT {listing(key)} FROM {duck.parquet([landed.path])}"
            later = f"SELECT {listing(key)} FROM {once} WHERE {LANDED_IN} > {begins}"
            query = f"{there} UNION {later}"
            verification.begun[table, begins] = materialized(verification.connection, query)
    return verification.begun[table, begins]


def differing(bench: OpenLake, scratch: Path) -> list[str]:
    """The star tables of which what is published is not what their functions give for all rows."""
    with verifying(bench, scratch) as verification:
        return [finding.table for finding in compare_star(verification) if not finding.equal]
