"""Where a lake is, by its URL."""

from pathlib import Path

from etl_assets.lake.files import Files, parts
from etl_assets.lake.folder import LocalFiles


def open_files(url: str, cache: Path) -> Files:
    """The files under a URL: a folder (`data/lake`, `file:///srv/lake`), `s3://bucket/prefix`, `gs://bucket/prefix`.
    Below `cache` lie the local copies of what is kept in a bucket. Nothing is asked of a bucket yet."""
    scheme, rest = parts(url)
    if scheme == "s3":
        from etl_assets.lake.s3 import (
            open_s3,  # here, as the next: clients of clouds take their time to import
        )

        return open_s3(url, cache)
    if scheme == "gs":
        from etl_assets.lake.gcs import open_gcs

        return open_gcs(url, cache)
    return LocalFiles(Path(rest).absolute())
