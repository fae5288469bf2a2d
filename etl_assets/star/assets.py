"""The star as assets: one per declared table, made from its function."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from etl_assets.engine.build import Audit, Build, merged
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
_CHECKS = {
    "keys_are_unique": "No key occurs twice (in a fact: twice in one batch).",
    "required_values_are_present": "No column that must have a value is empty.",
    "no_row_is_lost_or_added": "As many rows come out as went in.",
}


def star_key(name: str) -> dg.AssetKey:
    return dg.AssetKey([GROUP, name])


def input_key(name: str, inputs: Inputs) -> dg.AssetKey:
    """The asset that a parameter of a star function names."""
    if name in inputs.tables:
        return raw_key(name)
    return source_key(name) if name in inputs.references else star_key(name)


def star_assets(inputs: Inputs) -> list[dg.AssetsDefinition]:
    return [_star_asset(definition, inputs) for definition in inputs.star.values()]


def _star_asset(definition: Definition, inputs: Inputs) -> dg.AssetsDefinition:
    schema = definition.schema
    key = star_key(schema.name)
    checks = {
        name: text
        for name, text in _CHECKS.items()
        if name != "no_row_is_lost_or_added" or _counts(definition, inputs)
    }

    @dg.asset(
        key=key,
        deps=[input_key(name, inputs) for name in definition.inputs],
        description=schema.description,
        group_name=GROUP,
        kinds={"duckdb", "parquet"},
        owners=["team:data-platform"],
        tags={"type": "fact" if isinstance(schema, Fact) else "dimension"},
        code_version=definition.code_version,
        io_manager_key=IO_MANAGER,
        metadata={"dagster/column_schema": column_schema(schema)},
        check_specs=[
            dg.AssetCheckSpec(n, asset=key, description=t, blocking=True) for n, t in checks.items()
        ],
    )
    def make(
        context: dg.AssetExecutionContext, lake: Lake
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        started = time.monotonic()
        with lake.open(inputs) as bench:
            build = bench.builder.build(definition, bench.manifest)
            try:
                audits = merged(build.audits)
                for name in checks:
                    yield _check_result(key, audits.get(name, Audit(name, 0)))
                if not build.passed:
                    # Before anything is published: the old version stays as it is.
                    broken = "; ".join(
                        f"{a.name}: {a.found} ({', '.join(a.examples)})" for a in build.audits if not a.passed
                    )
                    raise dg.Failure(f"{schema.name} is not published: {broken}", allow_retries=False)
                yield dg.MaterializeResult(
                    value=build,
                    data_version=dg.DataVersion(build.version),
                    metadata=_metadata(build, bench, inputs, time.monotonic() - started),
                )
            finally:
                build.discard()

    return make


def _counts(definition: Definition, inputs: Inputs) -> bool:
    return definition.inputs[0] in inputs.tables


def _check_result(key: dg.AssetKey, audit: Audit) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=audit.name,
        passed=audit.passed,
        metadata={"violations": audit.found, "examples": ", ".join(audit.examples) or "none"},
    )


def _metadata(build: Build, bench: Workbench, inputs: Inputs, seconds: float) -> dict[str, Any]:
    schema = build.definition.schema
    star = bench.star
    # What is staged stands in for what is published: publishing happens right after.
    staged = {path: file.local for path, file in build.staged}
    files = [
        staged.get(path, star.files.local(path))
        for path in dict.fromkeys([*star.paths(schema.name), *staged])
    ]
    rows, written = _count(bench, files), _count(bench, list(staged.values()))
    delta = _delta(build, bench, staged)
    metadata: dict[str, Any] = {
        "dagster/row_count": rows,
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
                column: [dg.TableColumnDep(input_key(name, inputs), source) for name, source in pairs]
                for column, pairs in origins.items()
            }
        )
    if files:
        sample = bench.connection.read_parquet(str(files[-1])).limit(_PREVIEW_ROWS)
        metadata["preview"] = dg.MetadataValue.md(markdown(sample.columns, sample.fetchall()))
    return metadata


def _count(bench: Workbench, files: Sequence[Path]) -> int:
    if not files:
        return 0
    ((rows,),) = bench.connection.read_parquet([str(file) for file in files]).count("*").fetchall()
    return int(rows)


def _delta(build: Build, bench: Workbench, staged: Mapping[str, Path]) -> Delta:
    """What publishing the staged files will change. To be asked before they are."""
    definition, star = build.definition, bench.star
    schema = definition.schema
    if not staged:
        return Delta()
    if isinstance(schema, Fact):
        earlier = [star.files.local(path) for path in star.paths(schema.name) if path not in staged]
        return fact_delta(bench.connection, schema, list(staged.values()), earlier)
    ((path, made),) = staged.items()
    held = star.dimension(schema.name)
    keys = bench.builder.changed_keys(definition, held, bench.manifest) if held else None
    among = bench.builder.named(definition, bench.connection.sql(f"FROM {keys}")) if keys else None
    return dimension_delta(bench.connection, schema, made, star.files.local(path) if held else None, among)


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
