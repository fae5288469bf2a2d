"""The source as external assets, so that lineage starts where the data comes from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from etl_assets.capture.table import Table

GROUP = "source"
REFERENCES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.csv"))}
_REFERENCE_DESCRIPTIONS = {"iso_4217": "One row is a currency of ISO 4217: its code and its name."}


def source_key(name: str) -> dg.AssetKey:
    return dg.AssetKey([GROUP, name])


def source_assets(tables: Sequence[Table], references: Mapping[str, Path] = REFERENCES) -> list[dg.AssetSpec]:
    """One external asset per table that is read and per reference file that is used."""
    read = [
        dg.AssetSpec(
            source_key(table.name),
            description=table.description,
            group_name=GROUP,
            kinds={"postgres"},
            owners=["team:operations"],
            metadata={
                "dagster/table_name": f"{table.schema}.{table.name}",
                "dagster/column_schema": _declared(table),
            },
        )
        for table in tables
    ]
    used = [
        dg.AssetSpec(
            source_key(name),
            description=_REFERENCE_DESCRIPTIONS.get(name, path.name),
            group_name=GROUP,
            kinds={"csv"},
            owners=["team:data-platform"],
            metadata={"file": path.name},
        )
        for name, path in references.items()
    ]
    return read + used


def _declared(table: Table) -> dg.TableSchema:
    """The columns that the star uses. What else the table has is known when it was read, and shown in `raw`."""
    return dg.TableSchema(
        [
            dg.TableColumn(name, type_.name, constraints=dg.TableColumnConstraints(nullable=type_.nullable))
            for name, type_ in table.types.items()
        ]
    )
