"""Everything that a lake needs of its folder or bucket, tried with a file that does not stay."""

import uuid
from collections.abc import Iterator
from functools import partial

from etl_assets.lake.batches import Batches
from etl_assets.lake.files import AlreadyExists, Files, LakeError, two_may_win
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.names import FOLDER, number
from etl_assets.preflight import CheckResult, probed, room


def check_files(files: Files) -> Iterator[CheckResult]:
    """Try to list, to create (a second time in vain), to read and to remove."""
    yield probed("list", partial(_listed, files))
    if isinstance(files, LocalFiles):
        space = room("space", files.root, "ETL_LAKE_URL")
        yield space
        if space.state == "missing" or not files.root.exists():
            return
    yield probed("write", partial(_written, files))


def _listed(files: Files) -> str:
    files.names(FOLDER)  # whether it may be listed
    newest = Batches(files).newest()
    return f"{files.url}: " + (f"batches up to {number(newest)}" if newest else "no batch yet")


def _written(files: Files) -> str:
    name = f"doctor-{uuid.uuid4().hex}"
    try:
        files.create(name, b"etl doctor\n")
        try:
            files.create(name, b"etl doctor, again\n")
        except AlreadyExists:
            pass
        else:
            raise LakeError(two_may_win(files.url))
        files.read(name)
    finally:
        files.remove(name)
    return "files can be created once, read and removed"
