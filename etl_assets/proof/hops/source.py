"""The hop back to where the rows came from: the source as it is now, and the pages of APIs as they landed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from etl_assets.apis.declaration import Api
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.current import Current, view
from etl_assets.lake.manifest import MAIN, TableState
from etl_assets.proof.findings import Finding, from_to, or_unreadable
from etl_assets.proof.pages import altered, compared, keys_without_page, newest_records
from etl_assets.proof.verification import Verification
from etl_assets.raw.controls import Unproven, proven
from etl_assets.raw.plan import ReadPlan, plan
from etl_assets.raw.reading import Folding, Reader
from etl_assets.source.catalog import LeftOut
from etl_assets.source.connection import SourceError
from etl_assets.source.identity import check_identity
from etl_assets.source.snapshot import take_snapshot
from etl_assets.source.table import Table
from etl_assets.star.schema import Column, Dimension, StarTable


def compare_source(
    verification: Verification, url: str, tables: Sequence[Table], *, thorough: bool
) -> Iterator[Finding]:
    """Compare what is held with what the source holds now. What changed there since the batch is no
    difference; a row that differs and has no recent version is one."""
    held = [
        table
        for table in tables
        if table.name in verification.manifest.tables
        and table.source == MAIN
        and verification.wanted(table.name)
    ]
    if not held:
        return
    with (
        take_snapshot(url, held, lake=None, run_id="verify", connections=1, wait_seconds=60) as snapshot,
        own_folder(verification.scratch, "verify-") as folder,
    ):
        try:
            check_identity(verification.manifest, snapshot.instant)
        except SourceError as error:
            yield Finding("all tables", "source", "nothing", str(error))
            return
        current = Current(verification.batches, verification.connection)
        for name, relation in snapshot.relations.items():
            state = verification.manifest.tables[name]
            reader = Reader(
                relation, snapshot.connections[0], verification.connection, folder, lambda table, size: None
            )
            how = plan(
                relation, verification.batches.last_read(name, verification.manifest), snapshot.instant
            )
            fold, long = (
                partial(current.fold, name, verification.manifest),
                current.is_long(name, verification.manifest),
            )
            try:
                yield _source(verification, reader, how, state, fold, thorough=thorough, long=long)
            except LeftOut as why:
                yield Finding(name, "source", "nothing", str(why))


def _source(
    verification: Verification,
    reader: Reader,
    how: ReadPlan,
    state: TableState,
    fold: Folding,
    *,
    thorough: bool,
    long: bool,
) -> Finding:
    name = reader.table
    found = reader.again(how, state, fold, long=long)
    changed = found.changed
    since = f"{changed.new:,} new, {changed.changed:,} changed and {found.deleted:,} deleted since the batch"
    compared = f"{found.totals.rows:,} rows, read {found.plan.read}; {since}"
    key = listing(reader.relation.key)
    if how.read == "horizon" and found.plan.read == "whole":
        differ = verification.connection.sql(
            f"SELECT {key} FROM {view(changed.rows)} UNION ALL SELECT {key} FROM {view(found.gone)}"
        )
        keys = from_to(differ.order(key).fetchall())
        return Finding(
            name,
            "source",
            compared,
            f"rows differ that have not changed since the batch, among key {keys}",
        )
    try:
        clean = state.clean_under is not None
        proven(reader.relation, found.totals, found.held or state, found.added, found.removed, clean=clean)
    except Unproven as error:
        return Finding(name, "source", compared, str(error))
    if thorough and how.read == "horizon":
        whole = reader.again(ReadPlan("whole", "verification"), state, fold, long=long)
        silent = verification.connection.sql(
            f"SELECT {key} FROM {view(whole.changed.rows)} ANTI JOIN {view(changed.rows)} USING ({key})"
        )
        rows = silent.order(key).fetchall()
        if rows:
            return Finding(
                name, "source", compared, f"{len(rows):,} rows differ unexplained, key {from_to(rows)}"
            )
    return Finding(name, "source", compared)


def compare_pages(verification: Verification, apis: Iterable[Api]) -> Iterator[Finding]:
    """Compare what is held of APIs with their pages, as they landed. No API is asked."""
    for api in apis:
        if api.name in verification.manifest.tables and verification.wanted(api.name):
            yield or_unreadable(api.name, "source", partial(_pages, verification, api))


def _pages(verification: Verification, api: Api) -> Finding:
    if wrong := "; ".join(altered(api, verification.manifest, verification.batches)):
        return Finding(api.name, "source", "its pages", wrong)
    schema = Dimension(api.name, "", list(api.key), [Column(n, t) for n, t in api.columns.items()])
    expected = newest_records(
        api, verification.manifest, verification.batches, verification.connection, verification.folder
    )
    found = duck.parquet([verification.landed(api.name).path])
    lost = keys_without_page(api, verification.manifest, verification.batches)
    if not lost:
        return verification.compare(schema, "source", expected, found, compared(api))
    keys = _keys_as(verification, schema, lost)
    apart = f"({keys} ANTI JOIN {expected} USING ({listing(schema.key_columns)}))"
    (count,) = duck.one(verification.connection, f"SELECT count(*) FROM {apart}")
    found = f"(FROM {found} ANTI JOIN {apart} USING ({listing(schema.key_columns)}))"
    finding = verification.compare(schema, "source", expected, found, compared(api))
    return replace(finding, compared=f"{finding.compared}; {count:,} rows of lost pages not compared")


def _keys_as(verification: Verification, schema: StarTable, keys: Sequence[Sequence[str]]) -> str:
    """A query of keys that are told as text."""
    name = f"keys {schema.name}"
    columns = zip(*keys, strict=True)
    told = pa.table({n: pa.array(c, pa.string()) for n, c in zip(schema.key_columns, columns, strict=True)})
    verification.connection.register(name, told)
    typed = ", ".join(
        f"CAST({identifier(n)} AS {schema.by_name[n].type.duckdb}) AS {identifier(n)}"
        for n in schema.key_columns
    )
    return f"SELECT {typed} FROM {identifier(name)}"
