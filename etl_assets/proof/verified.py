"""Which star tables were found equal, as of which batch: notes in the lake, that the next runs and verifications read."""

import json
from collections.abc import Mapping, Sequence

from etl_assets.lake.certificates import VERIFIED, noted, verified_path
from etl_assets.lake.files import Files
from etl_assets.lake.names import number
from etl_assets.lake.seal import sealed
from etl_assets.proof.findings import Finding
from etl_assets.proof.parts import PARTS, Parts
from etl_assets.proof.verification import Verification


def record_verified(verification: Verification, findings: Sequence[Finding]) -> None:
    """Note in the lake which star tables were found equal as of a batch, and what code made them, beside those that were
    before."""
    builder, batch = verification.builder, verification.manifest.batch
    equal = {f.table for f in findings if f.hop == "star" and f.equal and not f.skipped}
    codes = {name: made.code_version for name, made in builder.inputs.star.items() if name in equal}
    if not codes:
        return
    files, path = builder.star.files, verified_path(batch)
    told = noted(files, path) if files.exists(path) else None
    before = told["tables"] if told else {}
    differ = {f.table for f in findings if not f.equal}
    whole = {name: code for name, code in codes.items() if name not in verification.parts}
    tables = {name: code for name, code in before.items() if name not in differ} | whole
    if whole:
        with files.writing(path) as stream:
            stream.write(sealed(json.dumps({"batch": number(batch), "tables": tables}, indent=1).encode()))
    _note_last_verified(files, batch, codes, verification.parts)


def _note_last_verified(files: Files, batch: int, codes: Mapping[str, str], parts: Parts) -> None:
    """Note of tables, with their code versions, that they were found equal as of a batch, in the note of all. One that is
    verified by parts was as of the oldest batch of them, once each was."""
    told = (noted(files, VERIFIED) if files.exists(VERIFIED) else None) or {"tables": {}}
    tables, by_parts = told["tables"], told.get("parts", {})
    for name, code in codes.items():
        if name not in parts:
            tables[name] = [number(batch), code]
            continue
        known = {part: note for part, note in by_parts.get(name, {}).items() if note[1] == code}
        known |= {str(part): [number(batch), code] for part in parts[name]}
        by_parts[name] = known
        if len(known) == PARTS:
            tables[name] = [min((note[0] for note in known.values()), key=int), code]
    with files.writing(VERIFIED) as stream:
        stream.write(sealed(json.dumps({"tables": tables, "parts": by_parts}, indent=1).encode()))
