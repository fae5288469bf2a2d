"""The settings, all optional: each has one name, one place and one meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etl_assets.errors import EtlError


class SettingsError(EtlError):
    """A setting is missing or makes no sense."""


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    deployment      ETL_DEPLOYMENT     `local` or `production`
    source_url      ETL_SOURCE_URL     a PostgreSQL URL; None: the embedded demo
    lake_url        ETL_LAKE_URL       a folder
    warehouse_url   ETL_WAREHOUSE_URL  `duckdb:///path`
    data            ETL_DATA           the folder for all that is kept locally and not set otherwise
    """

    deployment: str
    source_url: str | None
    lake_url: str
    warehouse_url: str
    data: Path
    unset: tuple[str, ...] = ()
    """Which of ETL_SOURCE_URL, ETL_LAKE_URL and ETL_WAREHOUSE_URL are not set."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        def get(name: str, default: str | None = None) -> str | None:
            return environment.get(name, "").strip() or default

        data = Path(get("ETL_DATA") or "data").absolute()
        return cls(
            deployment=get("ETL_DEPLOYMENT") or "local",
            source_url=get("ETL_SOURCE_URL"),
            lake_url=get("ETL_LAKE_URL") or str(data / "lake"),
            warehouse_url=get("ETL_WAREHOUSE_URL") or f"duckdb:///{data / 'warehouse.duckdb'}",
            data=data,
            unset=tuple(n for n in ("ETL_SOURCE_URL", "ETL_LAKE_URL", "ETL_WAREHOUSE_URL") if not get(n)),
        )


def duckdb_path(warehouse_url: str) -> Path:
    """The file that a `duckdb:///` URL names; a third slash more makes it absolute."""
    scheme, separator, rest = warehouse_url.partition("://")
    if scheme != "duckdb" or not separator or not rest.startswith("/") or len(rest) < 2:
        raise SettingsError(
            f"ETL_WAREHOUSE_URL: {scheme}:// is not a warehouse that can be used; write duckdb:///path/to/file.duckdb"
        )
    return Path(rest[1:]).absolute()
