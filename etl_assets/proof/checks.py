"""The proofs as asset checks: the certificate of each run, and the verification that a schedule starts."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path

import dagster as dg

from etl_assets.apis.declaration import Api
from etl_assets.lake.manifest import MAIN, TableState, in_words
from etl_assets.lake.names import number
from etl_assets.presentation import PLAIN, Naming
from etl_assets.proof.certificate import Certifier, TableProof
from etl_assets.proof.parts import PARTS, Parts
from etl_assets.proof.totals import Totals
from etl_assets.raw.assets import raw_key
from etl_assets.source.resource import PostgresSource
from etl_assets.star.definition import Inputs
from etl_assets.star.resource import Lake, OpenLake
from etl_assets.warehouse.assets import warehouse_key
from etl_assets.warehouse.contract import Warehouse
from etl_assets.warehouse.load import is_noted_certified, note_certified

_NAME = "equals_the_source"
GROUP = "proof"
VERIFY = "verify"
"""The job of the verification."""
VERIFICATION = "verification"
"""Its step."""
SAID = "etl/batch"
"""Tags a run with what it brought and what that came to, in a sentence."""
_PLACES = ("source", "raw", "star", "warehouse")
# Differences that the failure of a run names.
_TOLD = 3


def differing(bench: OpenLake, scratch: Path) -> Sequence[str]:
    """The star tables of which what is published is not what their functions give for all rows."""
    from etl_assets.proof.hops import star

    return star.differing(bench, scratch)


def verification_key(naming: Naming = PLAIN) -> dg.AssetKey:
    """The asset key of what the checks of the verification hang on."""
    return naming.key(GROUP, VERIFICATION)


def certificate_checks(inputs: Inputs, naming: Naming = PLAIN) -> dg.AssetChecksDefinition:
    """Certify the newest batch after it was loaded."""

    @dg.multi_asset_check(
        name=naming.name("certificate"),
        can_subset=True,
        specs=[
            dg.AssetCheckSpec(
                _NAME,
                asset=warehouse_key(name, naming),
                description="Count and exact sums are the same in source, raw, star and warehouse, as far as each row of "
                "the table is one of the source's; of other tables in star and warehouse.",
                blocking=True,
            )
            for name in inputs.star
        ],
    )
    @naming.resources
    def certificate(
        context: dg.AssetCheckExecutionContext, lake: Lake, warehouse: Warehouse
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = {key.asset_key.path[-1] for key in context.selected_asset_check_keys}
        with lake.open(inputs) as bench, warehouse.reading() as reader:
            certifier = Certifier(bench.builder, bench.manifest, reader)
            proofs = certifier.proofs(wanted)
            path = certifier.publish(proofs)
            whole = len(proofs) == len(inputs.star) and all(proof.equal for proof in proofs)
            to_note = whole and not is_noted_certified(reader, bench.manifest.batch)
        if to_note:
            note_certified(warehouse, bench.manifest.batch)
        brought = in_words(bench.manifest, told=bench.manifest.run_id == context.run.run_id)
        said = f"{brought}; {_outcome(proofs)}"
        context.instance.add_run_tags(context.run.run_id, {SAID: said})
        context.log.info(said)
        for proof in proofs:
            state = bench.manifest.tables.get(proof.source_table)
            yield dg.AssetCheckResult(
                asset_key=warehouse_key(proof.table, naming),
                check_name=_NAME,
                passed=proof.equal,
                description=said if proof.batch == number(bench.manifest.batch) else None,
                metadata={
                    **({"everything, side by side": _side_by_side(proof.whole)} if proof.whole else {}),
                    ("the batch, side by side" if proof.whole else "side by side"): _side_by_side(proof.hops),
                    **({"source": _said(proof.source_table, state)} if state else {}),
                    "differences": "; ".join(proof.differences) or "none",
                    "quarantined rows": proof.quarantined,
                    **({"versions by other inputs": proof.by_other_inputs} if proof.by_other_inputs else {}),
                    **({"members that stand in": proof.stand_ins} if proof.stand_ins else {}),
                    "applied whole and equal as of batch": proof.applied_whole or "not yet: etl verify",
                    "batch": proof.batch,
                    "as of": dg.MetadataValue.timestamp(bench.manifest.server_time),
                    "certificate": f"{lake.url}/{path}",
                },
            )
        if differing := [told for proof in proofs for told in proof.differences]:
            raise _failure(
                bench.manifest.batch,
                differing,
                "etl run brings up what is behind, etl run --whole mends what differs",
            )

    return certificate


def _failure(batch: int, differences: Sequence[str], advice: str) -> dg.Failure:
    """What a proof that failed says: the first differences, and what to do."""
    more = f"; and {len(differences) - _TOLD} more" if len(differences) > _TOLD else ""
    return dg.Failure(
        f"batch {number(batch)}: {'; '.join(differences[:_TOLD])}{more} ({advice})", allow_retries=False
    )


def verification_asset(inputs: Inputs, naming: Naming = PLAIN) -> dg.AssetSpec:
    """What the checks of the verification hang on. It is made by nothing, so that no run that makes something verifies
    everything by the way."""
    return dg.AssetSpec(
        verification_key(naming),
        deps=[
            *(raw_key(name, naming) for name in inputs.tables),
            *(warehouse_key(name, naming) for name in inputs.star),
        ],
        description="Whether lake and warehouse are what they claim to be, recomputed from the landed files and the source "
        "by the job `verify`: a check for each table.",
        group_name=naming.name(GROUP),
        kinds={"duckdb"},
        owners=naming.owners,
    )


def verified_tables(inputs: Inputs) -> dict[str, str]:
    """The checks of the verification, with the source or star table that each is about."""
    return {f"raw_{name}": name for name in inputs.tables} | {f"star_{name}": name for name in inputs.star}


def verification_checks(
    inputs: Inputs, apis: Sequence[Api] = (), naming: Naming = PLAIN
) -> dg.AssetChecksDefinition:
    """Recompute from storage and source what lake and warehouse claim; a run that finds a difference is red."""
    tables = verified_tables(inputs)
    parts = dg.Field(
        {str: [int]},
        is_required=False,
        default_value={},
        description=f"Star tables of which only parts of the keys are compared, and which, from 0 to {PARTS - 1}: a seventh "
        "each. Of those that are not named all keys are.",
    )

    @dg.multi_asset_check(
        name=naming.name(VERIFICATION),
        can_subset=True,
        config_schema={"parts": parts},
        specs=[
            dg.AssetCheckSpec(
                check,
                asset=verification_key(naming),
                description=f"What was landed of {name} is in its files and is what the source holds."
                if check.startswith("raw_")
                else f"What the function of {name} gives for all rows, read again from the landed files, is what star and "
                "warehouse show, in all columns.",
            )
            for check, name in tables.items()
        ],
    )
    @naming.resources
    def verification(
        context: dg.AssetCheckExecutionContext, lake: Lake, warehouse: Warehouse, source: PostgresSource
    ) -> Iterator[dg.AssetCheckResult]:
        chosen = sorted(context.selected_asset_check_keys, key=lambda k: k.name)
        names = {tables[key.name] for key in chosen}
        parts = checked_parts(context.op_execution_context.op_config["parts"], inputs)
        from etl_assets.proof.hops.landed import compare_files, compare_raw
        from etl_assets.proof.hops.source import compare_pages, compare_source
        from etl_assets.proof.hops.star import compare_star
        from etl_assets.proof.hops.warehouse import compare_loaded
        from etl_assets.proof.verification import verifying
        from etl_assets.proof.verified import record_verified

        going = partial(is_loading, context.instance)
        with (
            lake.open(inputs) as bench,
            verifying(bench, Path(lake.scratch), names, going, parts) as ours,
        ):
            manifest = ours.manifest
            found = [*compare_files(ours), *compare_raw(ours), *compare_star(ours)]
            found += compare_loaded(ours, warehouse)
            if read := [table for table in inputs.tables.values() if table.source == MAIN]:
                found += compare_source(ours, source.address(), read, thorough=False)
            found += compare_pages(ours, apis)
            record_verified(ours, found)
        for key in chosen:
            own = [
                finding
                for finding in found
                if finding.table == tables[key.name]
                and (finding.hop in ("star", "warehouse")) is key.name.startswith("star_")
            ]
            yield dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=all(finding.equal for finding in own),
                metadata={
                    "batch": number(manifest.batch),
                    "as of": dg.MetadataValue.timestamp(manifest.server_time),
                    **{finding.hop: finding.difference or f"equal: {finding.compared}" for finding in own},
                },
            )
        if differing := [f"{f.hop}, {f.table}: {f.difference}" for f in found if not f.equal]:
            raise _failure(
                manifest.batch, differing, "etl verify shows all; etl run --whole mends star and warehouse"
            )

    return verification


def checked_parts(config: Mapping[str, Sequence[int]], inputs: Inputs) -> Parts:
    """The parts of star tables that a run was asked for. Raises `dg.Failure` where there are none such."""
    for name, parts in config.items():
        if name not in inputs.star:
            raise dg.Failure(f"parts of {name}: the star has no such table", allow_retries=False)
        if not parts or not set(parts) <= set(range(PARTS)):
            raise dg.Failure(f"parts of {name}: give numbers from 0 to {PARTS - 1}", allow_retries=False)
    return config


def only_verifies(run: dg.DagsterRun) -> bool:
    """Whether a run makes nothing: one of the job of a project, whatever stands before its name, or picked checks."""
    picked = run.asset_check_selection and not run.asset_selection
    return run.job_name.rpartition("_")[2] == VERIFY or bool(
        picked and run.job_name.startswith("__ASSET_JOB")
    )


def is_loading(instance: dg.DagsterInstance) -> bool:
    """Whether a run goes on that may change what is verified."""
    status = dg.DagsterRunStatus
    going = dg.RunsFilter(statuses=[status.STARTING, status.STARTED, status.CANCELING])
    return not all(only_verifies(run) for run in instance.get_runs(going))


def _outcome(proofs: Sequence[TableProof]) -> str:
    """What the certificate of a batch comes to."""
    differing = [proof.table for proof in proofs if not proof.equal]
    if differing:
        return f"{', '.join(differing)} differ{'s' if len(differing) == 1 else ''}"
    found = {hop for proof in proofs for hop in (*proof.whole, *proof.hops)}
    return f"equal in {', '.join(place for place in _PLACES if place in found)}"


def _said(table: str, state: TableState) -> str:
    """What the source said of a table."""
    sums = [f"{n} {Decimal(c.sum):,}" for n, c in state.controls.items() if c.sum is not None]
    return "; ".join([f"{state.rows:,} rows in {table}", *sums])


def _side_by_side(hops: Mapping[str, Totals]) -> dg.TableMetadataValue:
    # What a function computes in memory can't be followed: such a table has fewer sums than its source.
    names = list(dict.fromkeys(name for totals in hops.values() for name in totals.sums))
    records = [
        # As text, with all digits: the UI would make floats of the sums.
        {"in": hop, "rows": f"{totals.rows:,}"}
        | {name: f"{totals.sums[name]:,}" if name in totals.sums else "" for name in names}
        for hop, totals in hops.items()
    ]
    columns = [dg.TableColumn(name, "text") for name in ("in", "rows", *names)]
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records], dg.TableSchema(columns))
