"""The certificate as asset checks: one per table, with the numbers side by side."""

from collections.abc import Iterator

import dagster as dg

from etl_assets.engine.definition import Inputs
from etl_assets.engine.preview import markdown
from etl_assets.proof.certificate import Certifier, TableProof
from etl_assets.resources.lake import Lake
from etl_assets.resources.warehouse import DuckDBWarehouse
from etl_assets.warehouse.assets import warehouse_key

_NAME = "equals_the_source"


def certificate_checks(inputs: Inputs) -> dg.AssetChecksDefinition:
    """Certify the newest batch after it was loaded."""
    tables = [name for name, definition in inputs.star.items() if definition.inputs[0] in inputs.tables]

    @dg.multi_asset_check(
        name="certificate",
        can_subset=False,
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
    def certificate(lake: Lake, warehouse: DuckDBWarehouse) -> Iterator[dg.AssetCheckResult]:
        with lake.open(inputs) as bench, warehouse.connect() as connection:
            certifier = Certifier(bench.builder, bench.manifest, bench.connection, connection)
            proofs = certifier.proofs()
            path = certifier.publish(proofs)
        for proof in proofs:
            state = bench.manifest.tables[proof.source_table]
            yield dg.AssetCheckResult(
                asset_key=warehouse_key(proof.table),
                check_name=_NAME,
                passed=proof.equal,
                metadata={
                    "side by side": dg.MetadataValue.md(_side_by_side(proof)),
                    "source": f"{state.rows:,} rows in {proof.source_table}, "
                    + ", ".join(f"{n} {c.sum}" for n, c in state.controls.items() if c.sum is not None),
                    "differences": "; ".join(proof.differences) or "none",
                    "quarantined rows": proof.quarantined,
                    "batch": proof.batch,
                    "as of": bench.manifest.server_time.isoformat(),
                    "certificate": f"{lake.url}/{path}",
                },
            )

    return certificate


def _side_by_side(proof: TableProof) -> str:
    names = list(next(iter(proof.hops.values())).sums)
    rows = [[hop, f"{t.rows:,}", *(t.sums[name] for name in names)] for hop, t in proof.hops.items()]
    return markdown(["", "rows", *names], rows)
