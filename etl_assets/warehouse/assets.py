"""The warehouse's tables as assets, loaded together in one transaction."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from etl_assets.cost import named
from etl_assets.engine.duck import identifier
from etl_assets.engine.preview import PREVIEWED, markdown
from etl_assets.lake.names import number
from etl_assets.notices import NOTICE
from etl_assets.presentation import DAILY, PLAIN, Naming
from etl_assets.star.assets import column_schema, star_key
from etl_assets.star.definition import Inputs
from etl_assets.star.resource import Lake, OpenLake
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import (
    Loaded,
    TargetBatch,
    Warehouse,
    WarehouseDamaged,
    WarehouseReader,
    noted_in,
)
from etl_assets.warehouse.dialect import SCHEMA
from etl_assets.warehouse.load import load_star
from etl_assets.warehouse.references import unfillable

GROUP = "warehouse"
LOAD = "load"
"""The step, by which a run's configuration calls it."""
_CHECK = "references_resolve"
_PREVIEW_ROWS = 5


class LoadConfig(dg.Config):
    """What may be decided for a single run."""

    anew: list[str] = Field(default=[], description="Tables to load anew, whatever was loaded before.")
    whole: bool = Field(default=False, description="Load all tables anew, and replace what differs.")
    adopt: bool = Field(default=False, description="Replace what was loaded from another lake.")


def warehouse_key(name: str, naming: Naming = PLAIN) -> dg.AssetKey:
    """The asset key of a table of the warehouse."""
    return naming.key(GROUP, name)


def warehouse_assets(
    inputs: Inputs, project: str, naming: Naming = PLAIN, star_schema: str = SCHEMA
) -> dg.AssetsDefinition:
    """One asset per star table; all of them are loaded by one step, as one version."""
    tables = [definition.schema for definition in inputs.star.values()]
    facts = [table for table in tables if isinstance(table, Fact)]

    @dg.multi_asset(
        name=naming.name(LOAD),
        can_subset=True,
        specs=[
            dg.AssetSpec(
                warehouse_key(table.name, naming),
                deps=[star_key(table.name, naming)],
                description=table.description
                + (
                    f" `{table.name}_current` has the latest version of what still exists."
                    if table in facts
                    else ""
                ),
                group_name=naming.name(GROUP),
                kinds={"table"},
                owners=naming.owners,
                freshness_policy=DAILY,
                code_version=table.version,
                tags={"type": "fact" if table in facts else "dimension"},
                metadata={
                    "dagster/column_schema": column_schema(table),
                    "dagster/column_lineage": _lineage(table, naming),
                    "dagster/table_name": f"{star_schema}.{table.name}",
                },
            )
            for table in tables
        ],
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK,
                asset=warehouse_key(fact.name, naming),
                description="Every date and every id of the rows loaded is found in its dimension.",
                blocking=True,
            )
            for fact in facts
        ],
    )
    @naming.resources
    def load(
        context: dg.AssetExecutionContext, config: LoadConfig, lake: Lake, warehouse: Warehouse
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        """Bring the warehouse up to the lake's star."""
        wanted = [t for t in tables if warehouse_key(t.name, naming) in context.selected_asset_keys]
        with lake.open(inputs) as bench:
            versions = {table.name: bench.builder.version(table.name, bench.manifest) for table in wanted}
            shown = {table.name: bench.star.shown(table) for table in wanted}
            # What the star can't show stays here too; why is said where it was made.
            ready = {n: v for n, v in versions.items() if (file := shown[n]) and file.version == v}
            load_ready = partial(
                load_star,
                warehouse,
                bench.star,
                tables,
                ready,
                context.run.run_id,
                bench.changed_members,
                [table.name for table in tables] if config.whole else config.anew,
                batch_of(bench, project),
                adopt=config.adopt,
                version_then=partial(version_then, bench),
            )
            notice = ""
            try:
                loaded = load_ready()
            except WarehouseDamaged as damage:  # what is damaged is set aside by now
                context.log.warning(notice := str(damage))
                loaded = load_ready()
        for fact in facts:
            key = warehouse_key(fact.name, naming)
            if dg.AssetCheckKey(key, _CHECK) not in context.selected_asset_check_keys:
                continue
            found = loaded[fact.name].dangling if fact.name in loaded else {}
            dangling = {", ".join(columns): count for columns, count in found.items()}
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=_CHECK,
                passed=not dangling,
                metadata={f"members missing for {columns}": count for columns, count in dangling.items()},
            )
        waiting = [name for name, outcome in loaded.items() if outcome.waits]
        with warehouse.reading() as reader:  # another project may load the same file now: this waits
            held = noted_in(reader).tables
            # The history would grow by the others at every run, though they are the same.
            previews = {
                table.name: _preview(reader, table)
                for table in wanted
                if table.name in held and table.name in loaded and loaded[table.name].batches
            }
        behind = (datetime.now(UTC) - bench.manifest.server_time).total_seconds()
        for table in wanted:
            outcome = loaded.get(table.name) or Loaded(
                held[table.name].rows if table.name in held else 0, 0, ()
            )
            stays = table.name in waiting or table.name not in loaded
            shows = number(held[table.name].batch) if table.name in held else "none"
            yield dg.MaterializeResult(
                asset_key=warehouse_key(table.name, naming),
                data_version=dg.DataVersion(f"{shows}:stays" if stays else versions[table.name]),
                metadata={
                    "dagster/row_count": outcome.rows,
                    "unchanged": not outcome.batches,
                    "batch": number(bench.manifest.batch),
                    **({"inferred members": outcome.inferred} if outcome.inferred else {}),
                    **({"stays at batch": shows} if stays else {}),
                    **({NOTICE: notice} if notice else {}),
                    **(_loaded(table, outcome, behind, previews.get(table.name)) if outcome.batches else {}),
                },
            )
        if waiting:
            stay = "stays as it was" if len(waiting) == 1 else "stay as they were"
            raise dg.Failure(
                f"{', '.join(waiting)} {stay} in the warehouse: {'; '.join(_dangling(inputs, loaded))}",
                allow_retries=False,
            )

    return load


def _loaded(table: StarTable, outcome: Loaded, behind: float, preview: str | None) -> dict[str, Any]:
    """What a run loaded of a table. `behind`: seconds since the moment that the batch shows of the source."""
    figures = {
        "rows loaded": outcome.rows_loaded,
        **outcome.cost.figures(),
        **outcome.cost.rate(outcome.rows_loaded),
    }
    return {
        "batches loaded": ", ".join(map(number, outcome.batches[-5:])),
        "seconds behind the source": round(behind, 3),
        # A dimension is loaded whole whenever it changes.
        **named(figures, is_first=isinstance(table, Fact) and outcome.rows_loaded == outcome.rows),
        **({"preview": dg.MetadataValue.md(preview)} if preview else {}),
    }


def _lineage(table: StarTable, naming: Naming) -> dg.TableColumnLineage:
    """Each column is that of the lake's table."""
    star = star_key(table.name, naming)
    return dg.TableColumnLineage({c.name: [dg.TableColumnDep(star, c.name)] for c in table.columns})


def batch_of(bench: OpenLake, project: str) -> TargetBatch:
    """What is noted of the batch that a load brings a warehouse up to."""
    manifest = bench.manifest
    digest = bench.builder.batches.sha256(manifest.batch)
    return TargetBatch(manifest.batch, manifest.server_time, manifest.lake, project, digest)


def version_then(bench: OpenLake, table: str, batch: int) -> str | None:
    """The version of a star table as of a batch; None if its manifest is gone."""
    batches = bench.builder.batches
    return bench.builder.version(table, batches.get(batch)) if batches.is_committed(batch) else None


def _dangling(inputs: Inputs, loaded: Mapping[str, Loaded]) -> Iterator[str]:
    """What leads nowhere, and what can be done."""
    for name, outcome in loaded.items():
        for columns, count in outcome.dangling.items():
            dimension = inputs.star[name].schema.links[columns]
            schema = inputs.star[dimension].schema
            remedies = [f"give {dimension} a row for them"]
            if required := [column for column in unfillable(schema) if column not in schema.key_columns]:
                remedies.append(f"declare its {', '.join(required)} nullable")
            yield (
                f"{count} values of {', '.join(columns)} in {name} are no member of {dimension}; {' or '.join(remedies)}"
            )


def _preview(reader: WarehouseReader, table: StarTable) -> str:
    """A few rows of a table: of a fact the newest. Bytes say nothing to people; a text may be as long as it likes."""
    newest = f" ORDER BY {identifier(table.record)} DESC" if isinstance(table, Fact) else ""
    shown = {
        column.name: f"left({identifier(column.name)}, {PREVIEWED})"
        if column.type.duckdb == "VARCHAR"
        else identifier(column.name)
        for column in table.columns
        if column.type.name != "bytea"
    }
    found = reader.rows(
        f"SELECT {', '.join(shown.values())} FROM {SCHEMA}.{identifier(table.name)}{newest} LIMIT {_PREVIEW_ROWS}"
    )
    return markdown(list(shown), found)
