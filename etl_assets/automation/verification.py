"""The verification on a schedule: every night as much as a night is to bear, every table within a week."""

from collections.abc import Mapping
from datetime import date

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from etl_assets.automation.in_process import EXECUTOR
from etl_assets.lake.manifest import Manifest
from etl_assets.presentation import PLAIN, Naming
from etl_assets.proof.checks import VERIFICATION, VERIFY, verification_key, verified_tables
from etl_assets.proof.parts import PARTS
from etl_assets.star.definition import Inputs
from etl_assets.star.resource import Lake

VERIFY_EVERY_NIGHT = "30 3 * * *"
NIGHTS = 7
"""Within so many nights every table is verified, however large all of them are together."""


def verify(naming: Naming = PLAIN) -> UnresolvedAssetJobDefinition:
    """The job."""
    return dg.define_asset_job(
        naming.name(VERIFY),
        selection=dg.AssetSelection.checks_for_assets(verification_key(naming)),
        description="Recompute what lake and warehouse claim, from the landed files and the source, and compare.",
        executor_def=EXECUTOR,
    )


def verify_every_night(inputs: Inputs, rows_a_night: int, naming: Naming = PLAIN) -> dg.ScheduleDefinition:
    """The schedule; in one night checks read at most about `rows_a_night` rows, or a seventh of all if that is more: of a
    star table that is larger alone, a part of its keys."""

    @dg.schedule(
        name=naming.name("verify_every_night"),
        job_name=naming.name(VERIFY),
        cron_schedule=VERIFY_EVERY_NIGHT,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"The verification, every night at 03:30: of all tables, or, where they hold more than "
        f"{rows_a_night:,} rows together, of a share of them, large ones by parts of their keys, each within a week. What differs makes its run fail, and is "
        "told like any failure.",
    )
    @naming.resources
    def schedule(context: dg.ScheduleEvaluationContext, lake: Lake) -> dg.RunRequest | dg.SkipReason:
        manifest = lake.batches().latest()
        if manifest is None:
            return dg.SkipReason("the lake holds no batch yet")
        weights = rows_read(inputs, manifest)
        chosen = share_of(weights, context.scheduled_execution_time.date(), rows_a_night)
        parts = {name.removeprefix("star_"): which for name, which in chosen.items() if which is not None}
        return dg.RunRequest(
            asset_check_keys=[dg.AssetCheckKey(verification_key(naming), name) for name in chosen],
            run_config={"ops": {naming.name(VERIFICATION): {"config": {"parts": parts}}}},
            tags={"verification": f"{len(chosen)} of {len(weights)} tables"},
        )

    return schedule


def rows_read(inputs: Inputs, manifest: Manifest) -> dict[str, int]:
    """How many rows each check reads: those of a source table, or of all that a star table is made from."""

    def rows(name: str) -> int:
        if name in inputs.star:
            return sum(map(rows, inputs.star[name].inputs))
        return manifest.tables[name].versions if name in manifest.tables else 0

    return {check: rows(name) for check, name in verified_tables(inputs).items()}


def share_of(weights: Mapping[str, int], day: date, most: int) -> dict[str, list[int] | None]:
    """What is verified on a day, and which parts of it (None: all). All that there is lies on a line as long as it weighs,
    which is cut into as many pieces as it takes nights: so every piece is about as heavy, and which one it is depends on the
    day alone. A star table that is more than a night is to bear lies there in parts."""
    pieces: list[tuple[str, int | None, int]] = []
    for name, weight in weights.items():
        if name.startswith("star_") and weight > most:
            pieces += [(name, part, weight // PARTS) for part in range(PARTS)]
        else:
            pieces.append((name, None, weight))
    total = sum(weight for _, _, weight in pieces)
    nights = max(1, min(NIGHTS, -(-total // most), len(pieces)))
    chosen: dict[str, list[int] | None] = {}
    before = 0
    for name, part, weight in pieces:
        place = (2 * before + weight) * nights // (2 * total) if total else 0
        if min(place, nights - 1) == day.toordinal() % nights:
            chosen[name] = None if part is None else [*(chosen.get(name) or []), part]
        before += weight
    return chosen
