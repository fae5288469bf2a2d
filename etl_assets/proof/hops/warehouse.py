"""The hop from the star to the warehouse, history included."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier
from etl_assets.lake.files import LakeError
from etl_assets.lake.names import number
from etl_assets.proof.applied import applied
from etl_assets.proof.findings import Finding
from etl_assets.proof.totals import current_rows, digest_of, loaded_rows
from etl_assets.proof.verification import Verification
from etl_assets.star.course import latest_versions
from etl_assets.star.files import StarFiles, kind_of
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import HeldTable, Warehouse, WarehouseInUse, WarehouseReader, noted_in
from etl_assets.warehouse.dialect import BATCHES, SCHEMA
from etl_assets.warehouse.duckdb import DuckDBReader

# A warehouse that can't be read while it is loaded is looked at again.
_AGAIN = 3


@dataclass(frozen=True)
class _Edition:
    """The files that a table of the warehouse was loaded from, and the batch that they show."""

    paths: Sequence[Path]
    batch: int


def compare_loaded(verification: Verification, warehouse: Warehouse) -> list[Finding]:
    """Compare a warehouse, of which runs may load the next batch meanwhile."""
    for left in reversed(range(_AGAIN)):
        try:
            with warehouse.resting() as reader:
                return list(compare_warehouse(verification, reader))
        except WarehouseInUse:
            if not left:
                raise
    raise AssertionError


def compare_warehouse(verification: Verification, reader: WarehouseReader) -> Iterator[Finding]:
    """Compare the warehouse's tables, history included, with the star's files, and what it shows as current with
    what the functions give."""
    yield from _book(verification, reader)
    held, newest = noted_in(reader).tables, verification.newest_star()
    with newest.held():  # it holds what is loaded, whatever was published since this began
        for definition in verification.inputs.star.values():
            name = definition.name
            if verification.wanted(name):
                loaded = loaded_from(verification, definition.schema, held.get(name), newest)
                compare = partial(_warehouse, verification, definition, reader, loaded, held.get(name))
                yield verification.unless_gone(name, "warehouse", compare)


def _book(verification: Verification, reader: WarehouseReader) -> Iterator[Finding]:
    """Whether the warehouse was loaded from the manifests as they are now: its book of batches names each."""
    if "manifest" not in reader.columns(SCHEMA, BATCHES.name):
        return  # an older version loaded it
    found = reader.rows(
        f"SELECT batch, manifest FROM {SCHEMA}.{BATCHES.name} WHERE lake = $lake AND manifest IS NOT NULL ORDER BY batch",
        {"lake": verification.manifest.lake},
    )
    wrong, committed = [], set(verification.batches.numbers())
    for batch, seen in found:
        if batch not in committed:
            wrong.append(f"it was loaded up to batch {number(batch)}, whose manifest is not there")
            continue
        with suppress(LakeError):  # damage is told of where manifests are compared with each other
            if verification.batches.sha256(batch) != seen:
                wrong.append(
                    f"manifest {number(batch)} is not the one it was loaded from: it was changed or swapped"
                )
    if found:
        yield Finding("all tables", "warehouse", f"{len(found):,} batches that it notes", "; ".join(wrong))


def loaded_from(
    verification: Verification, schema: StarTable, held: HeldTable | None, newest: StarFiles
) -> "_Edition | None":
    """What a table of the warehouse was loaded from, where that is another version than the one that is verified, for
    a run that goes on; None else."""
    star = verification.builder.star
    ours, shown = star.manifest, star.table(schema.name)
    if held is None or (shown and shown.files[-1].version == held.version):
        return None
    for manifest in newest.history():
        table = manifest.tables.get(schema.name)
        if table is None or table.kind != kind_of(schema) or table.files[-1].version != held.version:
            continue
        later = ours is None or (manifest.batch, manifest.edition) > (ours.batch, ours.edition)
        if later or verification.under_way:
            paths = [newest.local(file.path) for file in table.files]
            return _Edition(paths, table.files[-1].batch)
        break
    return None


def _warehouse(
    verification: Verification,
    definition: StarFunction,
    reader: WarehouseReader,
    loaded: "_Edition | None",
    held: HeldTable | None,
) -> Finding:
    schema = definition.schema
    if loaded:
        return _as_loaded(verification, schema, reader, loaded)
    paths = verification.paths(verification.builder.star, schema)
    if not paths or not reader.has(schema.name):
        return Finding(schema.name, "warehouse", "nothing", "the warehouse does not have it: run etl run")
    names = [c.name for c in schema.columns]
    finding = _loaded(
        verification,
        schema,
        reader,
        verification.in_parts(schema, duck.parquet(paths)),
        loaded_rows(schema, reader),
        names,
    )
    if not finding.equal and (lag := _lag(verification, schema, held)):
        return replace(finding, difference=f"{lag}; {finding.difference}")
    if not finding.equal or verification.behind(definition):
        return finding
    shown = _current(verification, schema, reader, applied(verification, definition, in_parts=True))
    return finding if shown.equal else shown


def _lag(verification: Verification, schema: StarTable, held: HeldTable | None) -> str:
    """What a table of the warehouse was loaded from, in words, where that is not what the star shows; else nothing."""
    shown = verification.builder.star.table(schema.name)
    if held is None or shown is None or shown.files[-1].version == held.version:
        return ""
    batch = shown.files[-1].batch
    other = " as other code made it" if batch == held.batch else ""
    return f"it shows batch {number(held.batch)}{other}, and the star batch {number(batch)}: run etl run"


def _as_loaded(
    verification: Verification, schema: StarTable, reader: WarehouseReader, edition: "_Edition"
) -> Finding:
    """Compare a table that a run brought to another batch meanwhile, or has not brought to this one yet."""
    names, files = (
        [c.name for c in schema.columns],
        verification.in_parts(schema, duck.parquet(edition.paths)),
    )
    finding = _loaded(verification, schema, reader, files, loaded_rows(schema, reader), names)
    if finding.equal:
        existing = f"(FROM {files} WHERE NOT deleted)"
        if isinstance(schema, Fact):
            existing = verification.in_parts(schema, latest_versions(schema, edition.paths))
        shown = _current(verification, schema, reader, existing)
        finding = finding if shown.equal else shown
    return replace(finding, compared=f"{finding.compared}, as of batch {number(edition.batch)}")


def _current(
    verification: Verification, schema: StarTable, reader: WarehouseReader, expected: str
) -> Finding:
    """Compare what a table of the warehouse shows as current."""
    current = f"star.{identifier(schema.name + '_current')}"
    if not isinstance(schema, Fact):
        current = current_rows(schema, loaded_rows(schema, reader))
    shown = _loaded(verification, schema, reader, expected, current, [c.name for c in schema.declared])
    return shown if shown.equal else replace(shown, difference=f"what is current: {shown.difference}")


def _loaded(
    verification: Verification,
    schema: StarTable,
    reader: WarehouseReader,
    expected: str,
    rows: str,
    names: Sequence[str],
) -> Finding:
    """Compare rows of the lake (those that are compared) with rows of the warehouse."""
    if isinstance(reader, DuckDBReader):
        rows = verification.in_parts(schema, rows)
        if verification.digest(schema, expected, names) == reader.one(digest_of(schema, rows, names)):
            return Finding(schema.name, "warehouse", verification.size(schema, expected))
    with verification.copied(schema, reader, rows, names) as copy:
        return verification.compare(schema, "warehouse", expected, verification.in_parts(schema, copy), names)
