"""The star as assets: one per declared table, made from its function."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from etl_assets.cost import FIRST, named
from etl_assets.engine import duck
from etl_assets.engine.preview import markdown
from etl_assets.lake.names import folder_of, number
from etl_assets.notices import NOTICE
from etl_assets.presentation import PLAIN, Naming, column
from etl_assets.raw.assets import raw_key
from etl_assets.source.assets import CODE_VERSION, source_key
from etl_assets.star.definition import Inputs
from etl_assets.star.function import ContractError, StarFunction
from etl_assets.star.lineage import column_lineage
from etl_assets.star.outcome import Build, merged
from etl_assets.star.resource import Lake, OpenLake, Published
from etl_assets.star.schema import Fact, StarTable

GROUP = "star"
DERIVE = "derive_star"
"""The step, by which a run's configuration calls it."""
IO_MANAGER = "star_io"
_PREVIEW_ROWS = 5
# One check for all audits: each costs a run several events, and there are many tables.
_CHECK = "is_sound"


class DeriveConfig(dg.Config):
    """What may be decided for a single run."""

    rebuild: list[str] = Field(
        default=[], description="Star tables to make anew from their first batch on, whatever is published."
    )
    whole: bool = Field(
        default=False,
        description="Apply every function to all rows, read again from the landed files, and make anew what differs.",
    )
    replay: list[str] = Field(
        default=[], description="Star tables that may be made from more batches than ETL_REPLAY_BATCHES."
    )
    from_now: list[str] = Field(
        default=[],
        description="Star tables to begin at the newest batch, now and whenever they are made again: what they were "
        "before is given up.",
    )


def star_key(name: str, naming: Naming = PLAIN) -> dg.AssetKey:
    """The asset key of a star table."""
    return naming.key(GROUP, name)


def input_key(name: str, inputs: Inputs, naming: Naming = PLAIN) -> dg.AssetKey:
    """The asset that a parameter of a star function names."""
    if name in inputs.tables:
        return raw_key(name, naming)
    return source_key(name, naming) if name in inputs.references else star_key(name, naming)


Differing = Callable[[OpenLake, Path], Sequence[str]]
"""Tells of which star tables what is published is not what their functions give."""


def star_assets(inputs: Inputs, differing: Differing, naming: Naming = PLAIN) -> dg.AssetsDefinition:
    """All star tables, as one asset each; any of them can be left out of a run. One step makes them, from one batch:
    a step for each would cost a small run more than its work does."""
    made = {star_key(definition.name, naming): definition for definition in inputs.in_order()}

    @dg.multi_asset(
        name=naming.name(DERIVE),
        can_subset=True,
        specs=[_spec(definition, inputs, naming) for definition in made.values()],
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK,
                asset=key,
                description="What was staged, before it is published: no key occurs twice, no column that must have a "
                "value is empty, and, if it has a row for each of its first input, as many rows came and went.",
            )
            for key in made
        ],
    )
    @naming.resources
    def derive_star(
        context: dg.AssetExecutionContext, config: DeriveConfig, lake: Lake
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        """Bring star tables up to the newest batch, all of them batch by batch: stage, audit, publish."""
        with lake.open(inputs) as bench:
            names = [d.name for key, d in made.items() if key in context.selected_asset_keys]
            for name in _named(config.from_now, inputs):
                bench.star.begin_at(name, bench.manifest.batch)
            builds = _builds(bench, lake, names, _named(config.rebuild, inputs), config, inputs, differing)
            published = Published(bench, builds)
            # All of it is said before the first result is handled, which shows what was staged.
            results = [one for build in builds for one in _made(build, published, naming)]
            yield from results
        failures = [build for build in builds if not build.passed]
        if failures:
            # What could be published is, and is loaded: see the executor in `definitions`.
            error = next((build.error for build in failures if build.error), None)
            told = "; ".join(str(build.failure) for build in failures)
            raise dg.Failure(told, allow_retries=False) from error

    return derive_star


def _builds(
    bench: OpenLake,
    lake: Lake,
    names: list[str],
    anew: list[str],
    config: DeriveConfig,
    inputs: Inputs,
    differing: Differing,
) -> list[Build]:
    """The builds of a run. If whole tables are to be compared, what is published is brought up to the batch first."""
    derive = partial(
        bench.builder.derive, replay=_named(config.replay, inputs), most_batches=lake.most_batches
    )
    if config.whole:
        bench.publish(list(derive(bench.manifest, names, anew)))
        anew = list(differing(bench, Path(lake.scratch)))
    return list(derive(bench.manifest, names, anew))


def _named(tables: list[str], inputs: Inputs) -> list[str]:
    """Star tables by their names or keys. Raises `ContractError` for one that there is not."""
    names = [name.rpartition("/")[2] for name in tables]
    for name in names:
        if name not in inputs.star:
            raise ContractError(f"there is no star table {name}; there are {', '.join(inputs.star)}")
    return names


def _spec(definition: StarFunction, inputs: Inputs, naming: Naming) -> dg.AssetSpec:
    schema = definition.schema
    return dg.AssetSpec(
        star_key(schema.name, naming),
        deps=[input_key(name, inputs, naming) for name in definition.inputs],
        description=schema.description,
        group_name=naming.name(GROUP),
        kinds={"duckdb", "parquet"},
        owners=naming.owners,
        tags={"type": "fact" if isinstance(schema, Fact) else "dimension"},
        code_version=inputs.code_version(definition),
        metadata={"dagster/column_schema": column_schema(schema)} | _lineage(definition, inputs, naming),
    ).with_io_manager_key(naming.resource(IO_MANAGER))


def _lineage(definition: StarFunction, inputs: Inputs, naming: Naming) -> dict[str, Any]:
    """Which columns each column is made from, as an asset's metadata has it; nothing where that is not known."""
    origins = column_lineage(definition, inputs)
    if not origins:
        return {}
    deps = {
        column: [
            dg.TableColumnDep(input_key(name, inputs, naming), source) for name, source in origin.columns
        ]
        for column, origin in origins.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}


def _made(
    build: Build, published: Published, naming: Naming
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """What became of a table. One that can't show the newest batch stays as it is published, if it is; it is told of all the
    same: what comes after, for other tables too, would be skipped otherwise. What other code made keeps its version, and is stale
    for its code."""
    key, tags = star_key(build.definition.name, naming), {}
    if build.passed:
        version = build.version
    elif build.shows:
        version = f"{build.shows}:stays"
    else:
        shown = published.bench.star.shown(build.definition.schema)
        version, tags = shown.version if shown else "none:stays", {CODE_VERSION: "not made"}
    yield _check_result(key, build)
    yield dg.MaterializeResult(
        asset_key=key,
        value=published,
        data_version=dg.DataVersion(version),
        metadata=_metadata(build, published.bench),
        tags=tags,
    )


def _check_result(key: dg.AssetKey, build: Build) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {
        name.replace("_", " "): f"{audit.found:,} violations: {'; '.join(audit.examples)}".rstrip(": ")
        if audit.found
        else "yes"
        for name, audit in merged(build.audits).items()
    }
    if build.failure:
        metadata["not published"] = build.failure
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=_CHECK,
        passed=build.passed,
        metadata=metadata or {"unchanged": "nothing was staged: what is published was audited before"},
    )


def _metadata(build: Build, bench: OpenLake) -> dict[str, Any]:
    schema = build.definition.schema
    metadata: dict[str, Any] = {
        "dagster/row_count": build.rows(),
        "unchanged": not build.staged,
        "batch": number(build.batch) if build.passed else (number(build.shows) if build.shows else "none"),
    }
    if build.staged:  # else it would be the same again, and the history grow by it
        metadata |= _staged(build, bench)
    if build.failure:
        metadata["not published"] = build.failure
    sources = bench.builder.sources(schema.name)
    if told := "; ".join(bench.builder.quarantined(bench.manifest, sources)):
        metadata["left out, in quarantine"] = told
        if build.deleted:
            metadata[NOTICE] = (
                f"of {build.deleted:,} rows that left, some may have left with rows in quarantine: {told}"
            )
    if build.notice:
        metadata[NOTICE] = "; ".join(filter(None, (build.notice, metadata.get(NOTICE))))
    return metadata


def _staged(build: Build, bench: OpenLake) -> dict[str, Any]:
    """What a run wrote of a table."""
    schema, written = build.definition.schema, sum(one.rows for one in build.staged)
    sample = duck.read_parquet(bench.connection, [build.staged[-1].local]).limit(_PREVIEW_ROWS)
    told: dict[str, Any] = {
        "dagster/uri": f"{bench.star.files.url}/{GROUP}/{folder_of(schema.name)}",
        "compared": build.how,
        f"rows{FIRST}" if build.anew else "rows new": build.new,
        "rows changed": build.changed,
        "rows deleted": build.deleted,
        **named(
            {
                "rows written": written,
                "bytes written": sum(one.local.stat().st_size for one in build.staged),
                **build.cost.figures(),
                **build.cost.rate(written),
            },
            is_first=build.anew,
        ),
        "preview": dg.MetadataValue.md(markdown(sample.columns, sample.fetchall())),
    }
    source = build.definition.inputs[0]
    if isinstance(schema, Fact) and schema.rows == "one per row" and build.passed:
        state = bench.builder.inputs.tables.get(source) and bench.manifest.tables.get(source)
        if state and bench.builder.clean(source, bench.manifest):
            told["rows current"] = state.rows  # beside them, the versions that were
    return told


def column_schema(schema: StarTable) -> dg.TableSchema:
    """A declared table's columns, as the UI shows them."""
    return dg.TableSchema(
        [
            column(
                one.name,
                one.type.name,
                one.description,
                nullable=one.type.nullable,
                unique=(one.name,) == schema.primary_key,
                other=f"references {one.references}" if one.references else "",
            )
            for one in schema.columns
        ]
    )
