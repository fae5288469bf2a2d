"""The lake as raw assets use it: its files and batches."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from pydantic import Field

from etl_assets.lake.batches import Batches
from etl_assets.lake.checkup import check_files
from etl_assets.lake.files import Files
from etl_assets.lake.opening import open_files
from etl_assets.preflight import CheckResult, room


class RawLake(dg.ConfigurableResource):
    """Where raw batches are kept."""

    url: str = Field(description="A folder, s3://bucket/prefix or gs://bucket/prefix.")
    scratch: str = Field(description="Folder for what does not fit into memory.")
    cache: str = Field(description="Folder for local copies of what is kept in a bucket.")

    def files(self) -> Files:
        """The files of the lake, in a folder or a bucket."""
        return open_files(self.url, Path(self.cache))

    def check(self) -> Iterator[CheckResult]:
        """Try all that is done to files."""
        yield from check_files(self.files())
        yield room("scratch", Path(self.scratch), "ETL_DATA")

    def batches(self) -> Batches:
        """The batches of the lake, read anew."""
        return Batches(self.files())
