"""Why a star table is no longer what the lake has of it, as far as can be told from what was kept of the older one: its file, the
verdict on its function, and the batch that it shows."""

import json
from collections.abc import Iterator

from etl_assets.engine import duck
from etl_assets.engine.typing import types_version
from etl_assets.lake.files import LakeError
from etl_assets.lake.manifest import Manifest
from etl_assets.lake.seal import is_intact
from etl_assets.star.build import Builder
from etl_assets.star.files import StarFile, trial_path
from etl_assets.star.function import StarFunction


def reasons(builder: Builder, definition: StarFunction, held: StarFile, at: Manifest) -> list[str]:
    """What changed of a star table since the file `held` was made of the batch `at`."""
    inputs, found = builder.inputs, []
    for name in definition.inputs:
        if name in inputs.star and _is_another(builder, inputs.star[name], at):
            found.append(f"{name}, which it is made of, is made anew")
        if name in inputs.tables:
            under = at.tables[name].clean_under if name in at.tables else None
            if under and under != types_version(inputs.tables[name].types):
                found.append(f"the declared types of {name} changed")
    found += [f"its contract changed: {told}" for told in _contract(builder, definition, held)]
    files = [name for name in definition.inputs if name in inputs.references]
    of_files = f"the reference file {' or '.join(files)}"
    if _is_same_code(builder, definition):
        return found or [f"{of_files} changed" if files else "what it is made by changed"]
    if not found:
        found.append(
            f"its code, its contract or {of_files} changed" if files else "its code or its contract changed"
        )
    return found


def _is_another(builder: Builder, definition: StarFunction, at: Manifest) -> bool:
    held = builder.star.shown(definition.schema)
    try:
        return (
            held is None or builder.version(definition.name, builder.batches.get(held.batch)) != held.version
        )
    except LakeError:
        return True


def _contract(builder: Builder, definition: StarFunction, held: StarFile) -> Iterator[str]:
    """The columns that a file has otherwise than they are declared."""
    file = duck.read_parquet(builder.connection, [builder.star.local(held.path)])
    has = {name: duck.type_name(type_) for name, type_ in zip(file.columns, file.types, strict=True)}
    declared = {one.name: one.type.duckdb for one in definition.schema.columns}
    for name in {**declared, **has}:
        if name not in has:
            yield f"{name} is new"
        elif name in declared and has[name] != declared[name]:
            yield f"{name} was {has[name]} and is {declared[name]}"
    if gone := [name for name in has if name not in declared]:
        yield f"{', '.join(gone)} is declared no longer"


def _is_same_code(builder: Builder, definition: StarFunction) -> bool:
    """Whether the function that was tried last is this one, by its code, its contract and the types of its tables."""
    path = trial_path(definition.name)
    files = builder.star.files
    if not files.exists(path):
        return False
    content = files.read(path)
    kept = json.loads(content)["code_version"] if is_intact(content) else ""
    return bool(kept == builder.inputs.code_version(definition))
