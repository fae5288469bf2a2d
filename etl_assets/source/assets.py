"""The source as assets, so that lineage starts where the data comes from: tables, and files that are observed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import dagster as dg

from etl_assets.engine.code_version import code_version
from etl_assets.presentation import PLAIN, Naming, column
from etl_assets.source.files import ObservedFiles
from etl_assets.source.table import Table

GROUP = "source"
DATA_VERSION = "dagster/data_version"
CODE_VERSION = "dagster/code_version"
FILES = "files"
"""The metadata of an observed group of files that says what is in it: path -> SHA-256."""


def source_key(name: str, naming: Naming = PLAIN) -> dg.AssetKey:
    """The asset key of a table or file outside."""
    return naming.key(GROUP, name)


def source_assets(tables: Sequence[Table], naming: Naming = PLAIN) -> list[dg.AssetSpec]:
    """One external asset per table that is read."""
    return [
        dg.AssetSpec(
            source_key(table.name, naming),
            description=table.description,
            group_name=naming.name(GROUP),
            kinds={"postgres"},
            owners=naming.source_owners,
            metadata={
                "dagster/table_name": f"{table.schema}.{table.source_name}",
                "dagster/column_schema": declared_schema(table),
            },
        )
        for table in tables
    ]


def reference_files(references: Mapping[str, Path]) -> list[ObservedFiles]:
    """Reference files, each by itself."""
    return [ObservedFiles(name, path.parent, path.name) for name, path in references.items()]


def file_assets(
    observed: Sequence[ObservedFiles],
    described: Mapping[str, str] = MappingProxyType({}),
    naming: Naming = PLAIN,
) -> list[dg.AssetsDefinition]:
    """One asset per group of files, with what a row of it is where that is said. To materialize it is to note what the files
    are now."""
    return [
        _file_asset(files, described.get(files.name, f"One file is a model: {files.pattern}."), naming)
        for files in observed
    ]


def _file_asset(files: ObservedFiles, description: str, naming: Naming) -> dg.AssetsDefinition:
    key = source_key(files.name, naming)

    @dg.asset(
        key=key,
        description=description,
        group_name=naming.name(GROUP),
        kinds={Path(files.pattern).suffix.lstrip(".") or "file"},
        owners=naming.owners,
        code_version=code_version(observation, files.pattern),
        metadata={"folder": str(files.folder), "pattern": files.pattern},
    )
    def observed(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        now = observation(files, naming)
        held = context.instance.get_latest_materialization_event(key)
        before = held.asset_materialization if held else None
        unchanged = before is not None and data_version(before) == data_version(now)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(data_version(now)), metadata={**now.metadata, "unchanged": unchanged}
        )

    return observed


def observation(files: ObservedFiles, naming: Naming = PLAIN) -> dg.AssetMaterialization:
    """What a group of files is now, as an event. A materialization: what is observed of an asset counts for
    nothing where Dagster asks whether an asset downstream is stale. Raises `ModelError`."""
    checksums = files.checksums()
    return dg.AssetMaterialization(
        source_key(files.name, naming),
        metadata={"dagster/row_count": len(checksums), FILES: dict(checksums)},
        tags={DATA_VERSION: files.version(checksums)},
    )


def data_version(materialization: dg.AssetMaterialization) -> str:
    """The version of what was observed; empty if the event has none."""
    return (materialization.tags or {}).get(DATA_VERSION, "")


def declared_schema(table: Table) -> dg.TableSchema:
    """The columns that the star uses. What else the table has is known when it was read, and shown in `raw`."""
    return dg.TableSchema(
        [column(name, type_.name, nullable=type_.nullable) for name, type_ in table.types.items()]
    )
