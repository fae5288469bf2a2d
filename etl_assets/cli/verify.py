"""`etl verify`: is everything that lake, warehouse and exports hold what it should be, down to the live source?"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etl_assets.cli import environment, output
from etl_assets.errors import EtlError

if TYPE_CHECKING:
    from etl_assets.apis.declaration import Api
    from etl_assets.exports.contract import Report
    from etl_assets.lake.manifest import Manifest
    from etl_assets.proof.findings import Finding
    from etl_assets.proof.verification import Verification
    from etl_assets.settings import Settings
    from etl_assets.source.table import Table
    from etl_assets.star.resource import OpenLake

_OLDER = "dimensions, warehouse, source and exports (they show the newest batch, this is an older one; see etl history)"


@click.command()
@click.argument("batch", required=False)
@click.option("--thorough", is_flag=True, help="Read the source's tables whole and compare all their rows.")
@click.option(
    "--rebuild",
    is_flag=True,
    help="Also build star and warehouse anew from all batches, and compare: deleted rows and surrogate keys too.",
)
@click.option(
    "--expect",
    metavar="HASH",
    help="The manifest's SHA-256 as an earlier verification told it, or 12 digits of it or more: is it still the same?",
)
@click.option("--offline", is_flag=True, help="Leave the source alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(
    ctx: click.Context,
    batch: str | None,
    thorough: bool,
    rebuild: bool,
    expect: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Compare every copy with what it was made from.

    \b
    files      each landed file is the one that its manifest lists
    raw        the rows held add up to what the source said when the batch was taken
    star       is what each function gives for all rows held, read again from the landed files, in all columns
    warehouse  is the star
    exports    each published report is what its query gives
    pages      of APIs, read again, have what is held; no API is asked
    source     what is held, plus what changed since, is what the source holds now

    BATCH is the newest if it is left out. Of an older one, what is kept of it is compared: files, rows and facts.
    Ends with 0 if all is equal, with 1 at any difference. What runs publish and load meanwhile is none.
    """
    settings = environment.settings()
    wanted = _number(batch)
    if expect is not None and not re.fullmatch("[0-9a-f]{12,64}", expect):
        raise click.UsageError(
            "--expect: give the SHA-256 that a verification told, or 12 digits of it or more"
        )

    from etl_assets.cli.display import display
    from etl_assets.lake.files import LakeError
    from etl_assets.lake.names import number
    from etl_assets.proof.history import at_batch
    from etl_assets.proof.verification import verifying
    from etl_assets.proof.verified import record_verified

    project = environment.project(settings)
    names = ["lake", "warehouse", "reports", *([] if offline else ["source"])]
    findings: list[Finding] = []
    failure = None
    with (
        environment.resources(settings, *names) as found,
        found.lake.open(project.inputs) as bench,
        ExitStack() as stack,
    ):
        loading = _loading(settings, stack)
        older = wanted is not None and wanted != bench.manifest.batch
        if older and rebuild:
            raise click.UsageError("--rebuild is for the newest batch: leave BATCH out")
        if older and wanted:
            verification = _older(found, bench, at_batch(bench.builder.batches, wanted), stack)
        else:
            scratch = Path(found.lake.scratch)
            verification = stack.enter_context(verifying(bench, scratch, loading=loading))
        manifest = verification.manifest
        hops = (
            _of_facts(verification)
            if older
            else _newest(
                found,
                verification,
                loading,
                list(project.reports.values()),
                list(project.tables.values()),
                list(project.apis.values()),
                thorough=thorough,
                rebuild=rebuild,
                offline=offline,
            )
        )
        digest = bench.builder.batches.sha256(manifest.batch)
        if expect is not None:
            findings.append(_expected(manifest, digest, expect))
        shown = display()
        for hop, compare in hops.items():
            shown.say(f"comparing {hop}")
            try:
                findings.extend(_whatever_is_read(hop, compare()))
            except EtlError as error:  # tell what was found before it
                failure = error
                break
        if not older:
            try:
                record_verified(verification, findings)
            except LakeError as error:  # who may only read the lake may verify it all the same
                shown.say(f"not noted in the lake: {error}")
    findings_of_runs = sorted({f"{f.hop} of {f.table} (a run is at it)" for f in findings if f.skipped})
    skipped = [_OLDER] if older else ["the live source (--offline)"] if offline else []
    skipped += findings_of_runs
    differences = [finding for finding in findings if not finding.equal]
    if as_json:
        told: dict[str, Any] = {
            "batch": number(manifest.batch),
            "manifest": digest,
            "source_time": manifest.server_time.isoformat(),
            "thorough": thorough,
            "equal": not differences and failure is None,
            "comparisons": [
                {
                    "hop": f.hop,
                    "table": f.table,
                    "compared": f.compared,
                    "equal": f.equal and not f.skipped,
                    "difference": f.difference,
                }
                for f in findings
            ],
            "not_compared": skipped,
        }
        output.emit_json(told | ({"error": str(failure)} if failure else {}))
    else:
        output.table(
            ["hop", "table", "compared", "outcome"],
            [(f.hop, f.table, f.compared, _outcome(f)) for f in findings],
        )
        output.say()
        for finding in differences:
            output.difference(f"{finding.hop}, {finding.table}: {finding.difference}")
        for what in skipped:
            output.say(f"not compared: {what}")
        output.say(
            f"manifest {number(manifest.batch)} is {digest} (etl verify {number(manifest.batch)} --expect …)"
        )
        outcome = f"{len(differences)} of {{}} differ" if differences else "{} are equal"
        output.say(
            f"batch {number(manifest.batch)}, the source as of {output.moment(manifest.server_time)} UTC: "
            + outcome.format(output.count(sum(not f.skipped for f in findings), "comparison", "comparisons"))
        )
    if failure:
        raise failure
    if differences:
        ctx.exit(1)


def _outcome(finding: "Finding") -> str:
    return "not compared" if finding.skipped else "equal" if finding.equal else "DIFFERENT"


def _loading(settings: "Settings", stack: ExitStack) -> Callable[[], bool]:
    """Whether a run goes on, as the history knows; of one that can't be read, none does."""
    if environment.dagster_home(settings) is None:
        return lambda: False
    environment.arrange_dagster_home(settings)
    from etl_assets.automation.orphans import end_orphans
    from etl_assets.proof.checks import is_loading

    try:
        instance = stack.enter_context(environment.open_instance())
    except environment.InstanceError:
        return lambda: False
    end_orphans(instance)
    return partial(is_loading, instance)


def _expected(manifest: "Manifest", digest: str, expect: str) -> "Finding":
    from etl_assets.lake.names import number
    from etl_assets.proof.findings import Finding

    name = number(manifest.batch)
    difference = (
        "" if digest.startswith(expect) else f"manifest {name} is {digest} and was expected to be {expect}"
    )
    return Finding("all tables", "manifests", "the hash that was expected", difference)


def _number(batch: str | None) -> int | None:
    if batch is None:
        return None
    if not batch.isdecimal():
        raise click.UsageError(f"BATCH {batch}: give its number, as 3 or 000003")
    return int(batch)


_Hops = dict[str, Callable[[], "Iterator[Finding]"]]
"""A hop and what compares it."""


def _newest(
    found: Any,
    verification: "Verification",
    loading: Callable[[], bool],
    reports: "Sequence[Report]",
    tables: "Sequence[Table]",
    apis: "Sequence[Api]",
    *,
    thorough: bool,
    rebuild: bool,
    offline: bool,
) -> _Hops:
    from etl_assets.proof.hops.exports import compare_exports
    from etl_assets.proof.hops.landed import compare_files, compare_raw
    from etl_assets.proof.hops.source import compare_pages, compare_source
    from etl_assets.proof.hops.star import compare_star

    hops: _Hops = {
        "files": partial(compare_files, verification),
        "raw": partial(compare_raw, verification),
        "star": partial(compare_star, verification),
        "warehouse": partial(_warehouse, found, verification),
        "exports": partial(compare_exports, reports, found.warehouse, found.reports.tables, loading),
    }
    if tables and not offline:
        hops["source"] = lambda: compare_source(
            verification, found.source.address(), tables, thorough=thorough
        )
    if apis:
        hops["pages"] = partial(compare_pages, verification, apis)
    if rebuild:
        hops["rebuild"] = partial(_rebuild, found, verification)
    return hops


def _of_facts(verification: "Verification") -> _Hops:
    from etl_assets.proof.hops.landed import compare_files, compare_raw
    from etl_assets.proof.hops.star import compare_facts

    return {
        "files": partial(compare_files, verification),
        "raw": partial(compare_raw, verification),
        "star": partial(compare_facts, verification),
    }


def _older(found: Any, bench: "OpenLake", manifest: "Manifest", stack: ExitStack) -> "Verification":
    """What can be said of an older batch: of the star, only facts keep what they were."""
    from etl_assets.proof.history import StarFilesThen
    from etl_assets.proof.verification import Verification
    from etl_assets.star.build import Builder

    builder = bench.builder
    then = StarFilesThen(builder.star.files, builder.batches, manifest.batch)
    facts = Builder(builder.inputs, builder.current, then, bench.connection)
    stack.enter_context(builder.star.held())
    return stack.enter_context(Verification(facts, manifest, Path(found.lake.scratch)))


def _warehouse(found: Any, verification: "Verification") -> "Iterator[Finding]":
    from etl_assets.proof.findings import Finding
    from etl_assets.proof.hops.warehouse import compare_loaded

    warehouse = found.warehouse
    if not warehouse.exists:
        for name in verification.inputs.star:
            yield Finding(
                name, "warehouse", "nothing", f"there is no warehouse {warehouse.where}: run etl run"
            )
        return
    yield from compare_loaded(verification, warehouse)


def _rebuild(found: Any, verification: "Verification") -> "Iterator[Finding]":
    from etl_assets.proof.hops.rebuilt import compare_rebuilt

    with found.warehouse.resting() as live:
        yield from compare_rebuilt(verification, live)


def _whatever_is_read(hop: str, findings: "Iterator[Finding]") -> "Iterator[Finding]":
    """Findings up to where the lake can't be read any further: that is a difference too."""
    import duckdb

    from etl_assets import faults
    from etl_assets.lake.files import LakeError
    from etl_assets.proof.findings import Finding

    try:
        yield from findings
    except (LakeError, faults.Fault, duckdb.Error, OSError) as error:
        yield Finding("all tables", hop, "nothing", faults.told(error))
