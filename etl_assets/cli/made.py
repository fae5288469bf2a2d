"""What a run made, as its events tell."""

from dataclasses import dataclass
from typing import Any

import dagster as dg

from etl_assets.cost import FIRST
from etl_assets.notices import NOTICE


@dataclass(frozen=True)
class MadeAsset:
    """An asset that a run brought up to date. `seconds` are those of the step that made it, maybe with others."""

    stage: str
    name: str
    rows: int | None
    unchanged: bool
    batch: str | None
    new: int
    changed: int
    deleted: int
    bytes_read: int
    bytes: int
    seconds: float
    notice: str

    @classmethod
    def of(cls, materialization: dg.AssetMaterialization) -> "MadeAsset":
        """What an asset's event tells."""
        metadata = materialization.metadata
        told: dict[str, Any] = {name.removesuffix(FIRST): value.value for name, value in metadata.items()}
        stage, name = materialization.asset_key.path[-2:]
        return cls(
            stage,
            name,
            told.get("dagster/row_count"),
            bool(told.get("unchanged")),
            told.get("batch"),
            told.get("rows new", told.get("rows", 0)),
            told.get("rows changed", 0),
            told.get("rows deleted", 0),
            told.get("bytes read", 0),
            told.get("bytes landed", told.get("bytes written", 0)),
            told.get("seconds", 0.0),
            told.get(NOTICE, ""),
        )

    @property
    def key(self) -> str:
        return f"{self.stage}/{self.name}"
