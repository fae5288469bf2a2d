"""What a manifest says of an API and of the table that is made of its pages. Not here: what is written, and when (`loading`)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from etl_assets.apis.declaration import Api
from etl_assets.apis.errors import ApiError
from etl_assets.apis.reading import Counts, PagesRead
from etl_assets.engine.types import EXACT
from etl_assets.engine.typing import types_version
from etl_assets.lake.manifest import ApiState, Control, TableChanges, TableState
from etl_assets.raw.controls import Sums
from etl_assets.raw.writing import history_of
from etl_assets.source.catalog import Relation


def table_state(
    read: PagesRead,
    held: TableState | None,
    batch: int,
    changes: TableChanges,
    first_seen: int,
    added: Sums,
    removed: Sums,
) -> TableState:
    """A table as it is with the `changes` of a batch. `first_seen`: so many of its keys were never there; `added`, `removed`: the
    sums of the amounts of the rows that the batch has, and of those that they replace."""
    relation = read.relation
    types = types_version(read.api.table.types)
    return TableState(
        source=read.api.name,
        columns=relation.columns,
        key=relation.key,
        rows=(held.rows if held else 0) + changes.new - changes.deleted,
        members=(held.members if held else 0) + first_seen,
        versions=(held.versions if held else 0) + changes.versions,
        changed_in=batch,
        previous=held.changed_in if held else None,
        history=history_of(held, batch, changes),
        read_in=batch,
        read="pages",
        why=_why(read.counts),
        horizon=0,
        relation=0,
        partitions=(),
        layout=relation.layout,
        controls=_controls(relation, held, added, removed),
        clean_under=types if held is None or held.clean_under == types else None,
        changes=changes,
    )


def api_state(read: PagesRead) -> ApiState:
    """What a manifest says of the takes of an API."""
    received = max(counts.summary.received for counts in read.counts)
    return ApiState(
        server_time=datetime.fromtimestamp(received, UTC),
        takes=tuple(counts.state() for counts in read.counts),
    )


def _why(counts: Sequence[Counts]) -> str:
    windows = [str(one.take.window) for one in counts]
    pages = sum(one.summary.pages for one in counts)
    told = windows[0] if len(windows) == 1 else f"{windows[0]} to {windows[-1]}"
    return f"{pages:,} pages of {told}"


def check_goes_on(api: Api, held: TableState | None) -> None:
    """Raises `ApiError` for a table that can't go on with an API as it is declared."""
    if held is None:
        return
    if held.source != api.name:
        raise ApiError(
            f"{api.name}: the lake holds a table of this name from elsewhere: give the API another ({api.where})"
        )
    if held.key != tuple(api.key):
        raise ApiError(
            f"{api.name}: its key was {', '.join(held.key)} and is now {', '.join(api.key)}: its history can't go on under "
            f"the same name ({api.where})"
        )


def _controls(relation: Relation, held: TableState | None, added: Sums, removed: Sums) -> dict[str, Control]:
    """The sums of the amounts of all rows. Of a column that was none before, they are not known."""
    controls = {}
    for name in relation.amounts:
        before = held.controls[name].held if held and name in held.controls else None
        if held and before is None:
            continue
        total = EXACT.subtract(EXACT.add(Decimal(before or 0), added[name]), removed.get(name, Decimal(0)))
        controls[name] = Control(sum=str(total), held=str(total))
    return controls
