"""The first hops: every landed file is the one its manifest lists, and adds up to what the source said."""

from collections.abc import Iterator
from decimal import Decimal
from functools import partial

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier
from etl_assets.engine.sums import added_up
from etl_assets.lake.certificates import certificate_path, noted
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import TableState
from etl_assets.lake.names import number
from etl_assets.proof.findings import Finding, or_unreadable
from etl_assets.proof.totals import amount
from etl_assets.proof.verification import Verification


def compare_files(verification: Verification) -> Iterator[Finding]:
    """Compare the manifests with each other, every landed file with the SHA-256 in its manifest, and what is kept of
    a table beside them with its checksum."""
    wrong = [*verification.batches.chain(verification.manifest), *_vouched(verification)]
    yield Finding("all tables", "manifests", f"{verification.manifest.batch:,} manifests", "; ".join(wrong))
    for table in filter(verification.wanted, verification.manifest.tables):
        count = 0
        difference = ""
        try:
            for batch in verification.batches.changing(table, verification.manifest):
                for file in batch.changed[table].files:
                    verification.builder.current.landed(file, fresh=True)
                    count += 1
            if unsound := verification.builder.current.without_unsound(table):
                difference = (
                    f"{', '.join(unsound)} was damaged; it is removed, and made again when it is needed"
                )
        except LakeError as error:
            difference = str(error)
        yield Finding(table, "files", f"{count} files", difference)


def _vouched(verification: Verification) -> Iterator[str]:
    """Whether star and certificate were made from the manifest as it is now: nothing names that of the newest batch
    but they."""
    own, batch = verification.batches.sha256(verification.manifest.batch), verification.manifest.batch
    star = verification.builder.star.manifest
    told = noted(verification.batches.files, path := certificate_path(batch))
    if told is None and verification.batches.files.exists(path):
        yield f"the certificate {path} is damaged: etl run makes it again"
    for what, seen in (
        ("the star", star.raw if star and star.batch == batch else own),
        ("the certificate", told.get("manifest", own) if told else own),
    ):
        if seen != own:
            yield f"manifest {number(batch)} is not the one that {what} was made from: it was changed or swapped"
    if star and star.batch > batch and verification.only is None and batch == verification.batches.newest():
        yield f"the star was made from batch {number(star.batch)}, whose manifest is not there"


def compare_raw(verification: Verification) -> Iterator[Finding]:
    """Compare the rows held with the source's totals in the batch's snapshot."""
    for name, state in verification.manifest.tables.items():
        if name in verification.inputs.tables and verification.wanted(name):
            yield or_unreadable(name, "raw", partial(_raw, verification, name, state))


def _raw(verification: Verification, name: str, state: TableState) -> Finding:
    types = verification.inputs.tables[name].types
    sums = [c for c, control in state.controls.items() if control.held is not None and c in types]
    ranges = [c for c, control in state.controls.items() if control.min is not None and c in types]
    landed = verification.landed(name)
    rows = duck.parquet([landed.path])
    ask = partial(duck.one, verification.connection)
    count, values = added_up(ask, rows, {c: amount(c, types[c]) for c in sums})
    ends = ", ".join(f"min({identifier(c)})::VARCHAR, max({identifier(c)})::VARCHAR" for c in ranges)
    found = ask(f"SELECT {ends} FROM {rows}") if ranges else ()
    differences = []
    if count + landed.misfits != state.rows:
        differences.append(f"{count + landed.misfits:,} rows are held, the source had {state.rows:,}")
    for column, value in values.items():
        if value != Decimal(state.controls[column].sum or 0):
            differences.append(f"{column} adds up to {value}, in the source to {state.controls[column].sum}")
    for i, column in enumerate(ranges):
        low, high = found[2 * i : 2 * i + 2]
        control = state.controls[column]
        if not landed.misfits and (low, high) != (control.min, control.max):
            differences.append(
                f"{column} is in {low} … {high}, in the source in {control.min} … {control.max}"
            )
    compared = f"{state.rows:,} rows, {len(sums)} sums, {len(ranges)} ranges, {landed.misfits} quarantined"
    return Finding(name, "raw", compared, "; ".join(differences))
