"""The star as assets: one per declared table, made from its function."""

import time
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import dagster as dg

from etl_assets.engine.build import Build, merged
from etl_assets.engine.definition import Definition, Inputs
from etl_assets.engine.deltas import Delta, dimension_delta, fact_delta
from etl_assets.engine.lineage import column_lineage
from etl_assets.engine.preview import markdown
from etl_assets.engine.schema import Fact, StarTable
from etl_assets.raw.assets import raw_key
from etl_assets.resources.lake import Lake, Workbench
from etl_assets.source.assets import source_key

GROUP = "star"
IO_MANAGER = "star_io"
_PREVIEW_ROWS = 5
# One check for all audits: each costs a run several events, and there are many tables.
_CHECK = "is_sound"


def star_key(name: str) -> dg.AssetKey:
    return dg.AssetKey([GROUP, name])


def input_key(name: str, inputs: Inputs) -> dg.AssetKey:
    """The asset that a parameter of a star function names."""
    if name in inputs.tables:
        return raw_key(name)
    return source_key(name) if name in inputs.references else star_key(name)


def star_assets(inputs: Inputs) -> dg.AssetsDefinition:
    """All star tables, as one asset each; any of them can be left out of a run. One step makes them, from one batch:
    a step for each would cost a small run more than its work does."""
    order = TopologicalSorter({name: inputs.star.keys() & d.inputs for name, d in inputs.star.items()})
    made = {star_key(name): inputs.star[name] for name in order.static_order()}

    @dg.multi_asset(
        name="derive_star",
        can_subset=True,
        specs=[_spec(definition, inputs) for definition in made.values()],
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK,
                asset=key,
                description="What was staged, before it is published: no key occurs twice (in a fact: twice in one "
                "batch), no column that must have a value is empty, and as many rows come out as went in.",
                blocking=True,
            )
            for key in made
        ],
    )
    def derive_star(
        context: dg.AssetExecutionContext, lake: Lake
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        """Bring star tables up to the newest batch: stage, audit, publish one after the other."""
        with lake.open(inputs) as bench:
            for key, definition in made.items():
                if key in context.selected_asset_keys:
                    yield from _make(key, definition, bench, inputs)

    return derive_star


def _spec(definition: Definition, inputs: Inputs) -> dg.AssetSpec:
    schema = definition.schema
    return dg.AssetSpec(
        star_key(schema.name),
        deps=[input_key(name, inputs) for name in definition.inputs],
        description=schema.description,
        group_name=GROUP,
        kinds={"duckdb", "parquet"},
        owners=["team:data-platform"],
        tags={"type": "fact" if isinstance(schema, Fact) else "dimension"},
        code_version=inputs.code_version(definition),
        metadata={"dagster/column_schema": column_schema(schema)},
    ).with_io_manager_key(IO_MANAGER)


def _make(
    key: dg.AssetKey, definition: Definition, bench: Workbench, inputs: Inputs
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    started = time.monotonic()
    build = bench.builder.build(definition, bench.manifest)
    try:
        yield _check_result(key, build)
        if not build.passed:
            # Before anything is published: the old version stays as it is.
            broken = "; ".join(
                f"{a.name}: {a.found} ({', '.join(a.examples)})" for a in build.audits if not a.passed
            )
            raise dg.Failure(f"{definition.name} is not published: {broken}", allow_retries=False)
        yield dg.MaterializeResult(
            asset_key=key,
            value=build,
            data_version=dg.DataVersion(build.version),
            metadata=_metadata(build, bench, inputs, time.monotonic() - started),
        )
    finally:
        build.discard()


def _check_result(key: dg.AssetKey, build: Build) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {
        name.replace("_", " "): f"{audit.found:,} violations: {', '.join(audit.examples)}".rstrip(": ")
        if audit.found
        else "yes"
        for name, audit in merged(build.audits).items()
    }
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=_CHECK,
        passed=build.passed,
        metadata=metadata or {"unchanged": "nothing was staged: what is published was audited before"},
    )


def _metadata(build: Build, bench: Workbench, inputs: Inputs, seconds: float) -> dict[str, Any]:
    schema = build.definition.schema
    star = bench.star
    # What is staged stands in for what is published: publishing happens right after.
    staged = {path: file.local for path, file in build.staged}
    paths = list(dict.fromkeys([*star.paths(schema.name), *staged]))
    written = _count(bench, list(staged.values()))
    delta = _delta(build, bench, staged)
    metadata: dict[str, Any] = {
        "dagster/row_count": _rows(build, bench, staged, paths),
        "dagster/column_schema": column_schema(schema),
        "dagster/uri": f"{star.files.url}/{GROUP}/{schema.name}"
        + ("" if isinstance(schema, Fact) else ".parquet"),
        "unchanged": not build.staged,
        "batch": build.batch,
        "rows new": delta.new,
        "rows changed": delta.changed,
        "rows deleted": delta.deleted,
        "rows written": written,
        "bytes written": sum(file.stat().st_size for file in staged.values()),
        "seconds": round(seconds, 3),
        "rows per second": round(written / seconds) if seconds else 0,
    }
    origins = column_lineage(build.definition, inputs)
    if origins:
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(
            {
                column: [
                    dg.TableColumnDep(input_key(name, inputs), source) for name, source in origin.columns
                ]
                for column, origin in origins.items()
            }
        )
    if paths:
        newest = staged[paths[-1]] if paths[-1] in staged else star.files.local(paths[-1])
        sample = bench.connection.read_parquet(str(newest)).limit(_PREVIEW_ROWS)
        metadata["preview"] = dg.MetadataValue.md(markdown(sample.columns, sample.fetchall()))
    return metadata


def _rows(build: Build, bench: Workbench, staged: Mapping[str, Path], paths: Sequence[str]) -> int:
    """How many rows a table has, once what is staged is published."""
    source = build.definition.inputs[0]
    if isinstance(build.definition.schema, Fact) and bench.builder.clean(source, bench.manifest):
        return bench.manifest.tables[source].versions  # the files would say the same; there may be thousands
    return _count(bench, [staged[p] if p in staged else bench.star.files.local(p) for p in paths])


def _count(bench: Workbench, files: Sequence[Path]) -> int:
    if not files:
        return 0
    ((rows,),) = bench.connection.read_parquet([str(file) for file in files]).count("*").fetchall()
    return int(rows)


def _delta(build: Build, bench: Workbench, staged: Mapping[str, Path]) -> Delta:
    """What publishing the staged files will change. To be asked before they are."""
    schema, star = build.definition.schema, bench.star
    if not staged:
        return Delta()
    if isinstance(schema, Fact):
        batches = [bench.builder.batches.get(Path(path).stem) for path in staged]
        brought = [batch.changed[build.definition.inputs[0]] for batch in batches]
        return fact_delta(bench.connection, list(staged.values()), brought)
    ((path, made),) = staged.items()
    held = star.dimension(schema.name)
    return dimension_delta(
        bench.connection, schema, made, star.files.local(path) if held else None, build.changed
    )


def column_schema(schema: StarTable) -> dg.TableSchema:
    """A declared table's columns, as the UI shows them."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.type.name,
                description=column.description or None,
                constraints=dg.TableColumnConstraints(
                    nullable=column.type.nullable,
                    unique=column.name == schema.primary_key,
                    other=[f"references {column.references}"] if column.references else [],
                ),
            )
            for column in schema.columns
        ]
    )
