"""Which assets are out of date, and why, from what Dagster records of every materialization.

A materialization is tagged with the version of the code that made it and with the data versions of its inputs. An
asset is stale when either is not what it is now. That says the same as the UI, which is held in a test; it needs no
memory of its own, so whatever failed, was lost or was set back is found again the next time somebody looks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import dagster as dg

from etl_assets.source.assets import CODE_VERSION, DATA_VERSION

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

_INPUT_VERSION = "dagster/input_data_version/"
# What Dagster notes as the version of an external asset that nothing was ever reported of, ...
_EXTERNAL = "INITIAL"
# ... and takes for the version of an asset that was never materialized.
_NEVER = "NULL"


@dataclass(frozen=True)
class Cause:
    """Why an asset is stale: its `code`, the `data` of an input, or its `inputs` being others than they were.

    `version` is what it would be made from now.
    """

    kind: Literal["code", "data", "inputs"]
    text: str
    version: str


@dataclass(frozen=True)
class Standing:
    """How an asset stands. `version` is that of its data, None if it was never made."""

    key: dg.AssetKey
    version: str | None
    causes: tuple[Cause, ...] = ()

    @property
    def status(self) -> Literal["fresh", "stale", "missing"]:
        if self.version is None:
            return "missing"
        return "stale" if self.causes else "fresh"


@dataclass(frozen=True)
class _Made:
    """The last materialization of an asset."""

    timestamp: float
    tags: Mapping[str, str]

    @property
    def version(self) -> str:
        return self.tags.get(DATA_VERSION, _EXTERNAL)

    @property
    def inputs(self) -> Mapping[str, str]:
        return {
            tag.removeprefix(_INPUT_VERSION): value
            for tag, value in self.tags.items()
            if tag.startswith(_INPUT_VERSION)
        }


def standings(
    instance: dg.DagsterInstance,
    graph: "BaseAssetGraph",
    reported: Mapping[dg.AssetKey, str] | None = None,
) -> Mapping[dg.AssetKey, Standing]:
    """How the assets that can be made stand, by key, upstream first.

    `reported` are data versions that count although Dagster has yet to record them.
    """
    made = _last_materializations(instance)
    for key, version in (reported or {}).items():
        made[key] = _Made(made[key].timestamp if key in made else 0.0, {DATA_VERSION: version})
    makeable = graph.materializable_asset_keys
    return {key: _standing(graph, made, key) for key in graph.toposorted_asset_keys if key in makeable}


def downstream(graph: "BaseAssetGraph", keys: Iterable[dg.AssetKey]) -> set[dg.AssetKey]:
    """Assets, and all that is made from them, directly or not."""
    found: set[dg.AssetKey] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting.extend(graph.get(key).child_keys)
    return found


def _standing(graph: "BaseAssetGraph", made: Mapping[dg.AssetKey, _Made], key: dg.AssetKey) -> Standing:
    last = made.get(key)
    if last is None:
        return Standing(key, None)
    return Standing(key, last.version, tuple(_causes(graph, made, key, last)))


def _causes(
    graph: "BaseAssetGraph", made: Mapping[dg.AssetKey, _Made], key: dg.AssetKey, last: _Made
) -> Iterator[Cause]:
    node = graph.get(key)
    # The pages of an API are many versions, one for each window: no one of them says whether its table is behind.
    parents = sorted(key for key in node.parent_keys if not graph.get(key).is_partitioned)
    if CODE_VERSION not in last.tags:  # it was reported, not made: nothing but the times is known
        yield from _later(graph, made, parents, last)
        return
    if node.code_version and node.code_version != last.tags[CODE_VERSION]:
        yield Cause("code", "its code changed", node.code_version)
    now = {parent.to_user_string(): _version(graph, made, parent) for parent in parents}
    before = last.inputs
    partitioned = {key.to_user_string() for key in node.parent_keys if graph.get(key).is_partitioned}
    for name in sorted(before.keys() - now.keys() - partitioned):
        yield Cause("inputs", f"it is no longer made from {name}", "")
    for name, version in now.items():
        if name not in before:
            yield Cause("inputs", f"it is now made from {name} too", version)
        elif before[name] != version and (before[name], version) != (_EXTERNAL, _NEVER):
            yield Cause("data", f"{name} has other data", version)


def _later(
    graph: "BaseAssetGraph", made: Mapping[dg.AssetKey, _Made], parents: Sequence[dg.AssetKey], last: _Made
) -> Iterator[Cause]:
    for parent in parents:
        other = made.get(parent)
        if graph.get(parent).is_external or (other and other.timestamp <= last.timestamp):
            continue
        yield Cause("data", f"{parent.to_user_string()} was made later", _version(graph, made, parent))


def _version(graph: "BaseAssetGraph", made: Mapping[dg.AssetKey, _Made], key: dg.AssetKey) -> str:
    if key in made:
        return made[key].version
    return _EXTERNAL if graph.get(key).is_external else _NEVER


def _last_materializations(instance: dg.DagsterInstance) -> dict[dg.AssetKey, _Made]:
    found = {}
    for record in instance.get_asset_records():
        entry = record.asset_entry.last_materialization
        if entry and entry.asset_materialization:
            found[record.asset_entry.asset_key] = _Made(
                entry.timestamp, entry.asset_materialization.tags or {}
            )
    return found
