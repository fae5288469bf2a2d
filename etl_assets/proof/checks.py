"""The certificate as asset checks: one per table, with the numbers side by side."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

import dagster as dg

from etl_assets.engine.definition import Inputs
from etl_assets.proof.certificate import Certifier
from etl_assets.proof.totals import Totals
from etl_assets.resources.lake import Lake
from etl_assets.resources.warehouse import Warehouse
from etl_assets.warehouse.assets import warehouse_key

_NAME = "equals_the_source"


def certificate_checks(inputs: Inputs) -> dg.AssetChecksDefinition:
    """Certify the newest batch after it was loaded."""
    tables = [name for name, definition in inputs.star.items() if definition.inputs[0] in inputs.tables]

    @dg.multi_asset_check(
        name="certificate",
        can_subset=True,
        specs=[
            dg.AssetCheckSpec(
                _NAME,
                asset=warehouse_key(name),
                description="Count and exact sums are the same in source, raw, star and warehouse.",
                blocking=True,
            )
            for name in tables
        ],
    )
    def certificate(
        context: dg.AssetCheckExecutionContext, lake: Lake, warehouse: Warehouse
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = {key.asset_key.path[-1] for key in context.selected_asset_check_keys}
        with lake.open(inputs) as bench, warehouse.reading() as reader:
            certifier = Certifier(bench.builder, bench.manifest, reader)
            proofs = certifier.proofs(wanted)
            path = certifier.publish(proofs)
        for proof in proofs:
            state = bench.manifest.tables[proof.source_table]
            yield dg.AssetCheckResult(
                asset_key=warehouse_key(proof.table),
                check_name=_NAME,
                passed=proof.equal,
                metadata={
                    **({"everything, side by side": _side_by_side(proof.whole)} if proof.whole else {}),
                    ("the batch, side by side" if proof.whole else "side by side"): _side_by_side(proof.hops),
                    "source": "; ".join(
                        [
                            f"{state.rows:,} rows in {proof.source_table}",
                            *(
                                f"{n} {Decimal(c.sum):,}"
                                for n, c in state.controls.items()
                                if c.sum is not None
                            ),
                        ]
                    ),
                    "differences": "; ".join(proof.differences) or "none",
                    "quarantined rows": proof.quarantined,
                    "batch": proof.batch,
                    "as of": dg.MetadataValue.timestamp(bench.manifest.server_time),
                    "certificate": f"{lake.url}/{path}",
                },
            )

    return certificate


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
