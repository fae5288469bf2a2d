"""The warehouse's tables as assets, loaded together in one transaction."""

import time
from collections.abc import Iterator

import dagster as dg

from etl_assets.engine.definition import Inputs
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.preview import markdown
from etl_assets.engine.schema import Fact, StarTable
from etl_assets.proof.freshness import DAILY
from etl_assets.resources.lake import Lake
from etl_assets.resources.warehouse import SCHEMA, Warehouse, WarehouseReader
from etl_assets.resources.warehouse_load import load_star
from etl_assets.star.assets import column_schema, star_key

GROUP = "warehouse"
_CHECK = "references_resolve"
_PREVIEW_ROWS = 5


def warehouse_key(name: str) -> dg.AssetKey:
    return dg.AssetKey([GROUP, name])


def warehouse_assets(inputs: Inputs) -> dg.AssetsDefinition:
    """One asset per star table; all of them are loaded by one step, as one version."""
    tables = [definition.schema for definition in inputs.star.values()]
    facts = [table for table in tables if isinstance(table, Fact)]

    @dg.multi_asset(
        name="load",
        can_subset=True,
        specs=[
            dg.AssetSpec(
                warehouse_key(table.name),
                deps=[star_key(table.name)],
                description=table.description
                + (
                    f" `{table.name}_current` has the latest version of what still exists."
                    if table in facts
                    else ""
                ),
                group_name=GROUP,
                kinds={"table"},
                owners=["team:data-platform"],
                freshness_policy=DAILY,
                code_version=table.version,
                tags={"type": "fact" if table in facts else "dimension"},
                metadata={
                    "dagster/column_schema": column_schema(table),
                    "dagster/table_name": f"star.{table.name}",
                },
            )
            for table in tables
        ],
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK,
                asset=warehouse_key(fact.name),
                description="Every date and every id of the rows loaded is found in its dimension.",
                blocking=True,
            )
            for fact in facts
        ],
    )
    def load(
        context: dg.AssetExecutionContext, lake: Lake, warehouse: Warehouse
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        """Bring the warehouse up to the lake's star."""
        started = time.monotonic()
        wanted = [table for table in tables if warehouse_key(table.name) in context.selected_asset_keys]
        with lake.open(inputs) as bench:
            versions = {table.name: bench.builder.version(table.name, bench.manifest) for table in wanted}
            loaded = load_star(
                warehouse, bench.star, tables, versions, context.run.run_id, bench.changed_members
            )
        seconds = time.monotonic() - started
        for fact in facts:
            if dg.AssetCheckKey(warehouse_key(fact.name), _CHECK) not in context.selected_asset_check_keys:
                continue
            dangling = {column: count for column, count in loaded[fact.name].dangling.items() if count}
            yield dg.AssetCheckResult(
                asset_key=warehouse_key(fact.name),
                check_name=_CHECK,
                passed=not dangling,
                metadata={f"members missing for {column}": count for column, count in dangling.items()},
            )
        broken = [
            f"{count} values of {column} in {name} are no member of {inputs.star[name].schema.references[column]}"
            for name, outcome in loaded.items()
            for column, count in outcome.dangling.items()
            if count
        ]
        if broken:
            raise dg.Failure(f"the warehouse stays as it was: {'; '.join(broken)}", allow_retries=False)
        with warehouse.reading() as reader:
            previews = {table.name: _preview(reader, table) for table in wanted}
        size = warehouse.size_bytes()
        for table in wanted:
            outcome = loaded[table.name]
            yield dg.MaterializeResult(
                asset_key=warehouse_key(table.name),
                data_version=dg.DataVersion(versions[table.name]),
                metadata={
                    "dagster/row_count": outcome.rows,
                    "dagster/table_name": f"star.{table.name}",
                    "dagster/column_schema": column_schema(table),
                    "dagster/column_lineage": dg.TableColumnLineage(
                        {c.name: [dg.TableColumnDep(star_key(table.name), c.name)] for c in table.columns}
                    ),
                    "unchanged": not outcome.batches,
                    "rows loaded": outcome.rows_loaded,
                    "inferred members": outcome.inferred,
                    "batch": bench.manifest.batch,
                    "batches loaded": ", ".join(outcome.batches[-5:]) or "none",
                    **({} if size is None else {"bytes of the warehouse": size}),
                    "seconds": round(seconds, 3),
                    "rows per second": round(outcome.rows_loaded / seconds),
                    "warehouse": warehouse.where,
                    "preview": dg.MetadataValue.md(previews[table.name]),
                },
            )

    return load


def _preview(reader: WarehouseReader, table: StarTable) -> str:
    """A few rows of a table: of a fact the newest."""
    newest = f" ORDER BY {identifier(table.primary_key)} DESC" if isinstance(table, Fact) else ""
    names = [column.name for column in table.columns]
    found = reader.rows(
        f"SELECT {listing(names)} FROM {SCHEMA}.{identifier(table.name)}{newest} LIMIT {_PREVIEW_ROWS}"
    )
    return markdown(names, found)
