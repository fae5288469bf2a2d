"""What is kept beside a batch's manifest: its certificate, and what was verified as of it. Both are derived: what is damaged is
no certificate."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from etl_assets.lake.batches import Batches
from etl_assets.lake.checkpoints import Checkpoints
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.names import FOLDER, number
from etl_assets.lake.seal import is_intact


def uncertified(files: Files, batches: Batches, tables: Sequence[str]) -> str | None:
    """Why what is made from tables of the warehouse must not be published: what the newest batch's certificate says
    against them. None if it says nothing."""
    newest = batches.newest()
    path = certificate_path(newest) if newest else ""
    if not path or not files.exists(path):
        return None
    told = noted(files, path)
    if told is None:
        return f"the certificate {files.url}/{path} is damaged: run etl run, which makes it again"
    proofs = told["tables"]
    against = [proofs[name]["differences"] for name in tables if name in proofs and not proofs[name]["equal"]]
    return "; ".join(difference for differences in against for difference in differences) or None


def noted(files: Files, path: str) -> dict[str, Any] | None:
    """What a certificate, or a note of a verification, says; None if it says nothing, or is damaged."""
    try:
        return _read(Checkpoints(files, FOLDER).content(path))
    except LakeError:
        return None


@lru_cache(maxsize=2)  # each report asks, and of many tables it takes long to read
def _read(content: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(content) if is_intact(content) else None
    except ValueError:
        return None
    return told if isinstance(told, dict) and isinstance(told.get("tables"), dict) else None


VERIFIED = "raw/verified.json"
"""Where it is noted as of which batch each table was verified last, beside the notes of the batches: of these there are
more with every one."""


def verified_path(batch: int) -> str:
    """Where it is noted what was verified as of a batch."""
    return f"{FOLDER}/{number(batch)}.verified.json"


def certificate_path(batch: int) -> str:
    """Where the certificate of a batch is."""
    return f"{FOLDER}/{number(batch)}.certificate.json"
