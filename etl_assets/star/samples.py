"""Some rows of each input of a function, such that they belong together: a line comes with its header.

What belongs together is read from the joins of the function's SQL; where that can't be followed it is taken to be what has
the columns of another input's key.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from etl_assets.engine.duck import identifier
from etl_assets.engine.operators import Join, Opaque, Select, nodes
from etl_assets.lake.current import materialized
from etl_assets.star.change import InputChange, shown_key
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.reach import Reach

# An input with up to so many rows is taken as it is, and of a larger one at most so many rows.
_MOST = 2_000


@dataclass(frozen=True)
class Link:
    """Columns of two inputs, in pairs, whose values are the same in rows that belong together."""

    one: str
    other: str
    columns: tuple[tuple[str, str], ...]

    def turned(self) -> "Link":
        return Link(self.other, self.one, tuple((b, a) for a, b in self.columns))


def sampled(
    definition: StarFunction,
    inputs: Inputs,
    changes: Mapping[str, InputChange],
    connection: duckdb.DuckDBPyConnection,
    rows: int,
) -> dict[str, InputChange]:
    """About so many rows of each input: of one, and of the others those that belong to them, and some more."""
    links = list(_links(definition, inputs, changes))
    links += [link.turned() for link in links]
    found: dict[str, InputChange] = {}
    while waiting := [name for name in changes if name not in found]:
        linked = next((one for one in links if one.one in found and one.other in waiting), None)
        name = linked.other if linked else waiting[0]
        change = changes[name]
        if not change.keys:  # a reference file: it has few rows, and counts as code
            found[name] = change
            continue
        limit = max(_MOST, rows) if found else rows
        few = f"SELECT * FROM {change.rows} LIMIT {limit}"
        large = change.size is None or change.size > limit
        query = _belonging(change, linked, found[linked.one].rows, rows) if linked and large else few
        kept = materialized(connection, query)
        found[name] = replace(change, rows=kept, pick=None, gone=None, come=None, reshaped=False)
    return {name: found[name] for name in changes}


def _belonging(change: InputChange, link: Link, sample: str, some: int) -> str:
    """A query for the rows that belong to rows of another input, or are alike with a few rows of their own."""

    def values(columns: Sequence[str]) -> str:
        return ", ".join(f"CAST({identifier(name)} AS VARCHAR) AS v{i}" for i, name in enumerate(columns))

    own = [b for _, b in link.columns]
    wanted = (
        f"SELECT {values([a for a, _ in link.columns])} FROM {sample} "
        f"UNION SELECT {values(own)} FROM (SELECT * FROM {change.rows} LIMIT {some})"
    )
    same = " AND ".join(f"CAST(r.{identifier(name)} AS VARCHAR) = w.v{i}" for i, name in enumerate(own))
    return f"SELECT r.* FROM {change.rows} AS r SEMI JOIN ({wanted}) AS w ON {same} LIMIT {max(_MOST, some)}"


def _links(definition: StarFunction, inputs: Inputs, changes: Mapping[str, InputChange]) -> Iterator[Link]:
    _, tree = inputs.plan(definition)
    if isinstance(tree, Opaque):
        yield from _by_name(changes)
        return
    reach = Reach(tree, changes)
    for node in nodes(tree):
        source = node.source if isinstance(node, Select) else None
        while isinstance(source, Join):
            pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
            for left, right in source.equal:
                one, other = reach.column(source.left, left), reach.column(source.right, right)
                if one and other and one[0] != other[0]:
                    pairs.setdefault((one[0], other[0]), []).append((one[1], other[1]))
            yield from (Link(one, other, tuple(columns)) for (one, other), columns in pairs.items())
            source = source.left


def _by_name(changes: Mapping[str, InputChange]) -> Iterator[Link]:
    """Inputs that have the columns of another one's key."""
    for one in changes.values():
        key = [shown_key(name) for name in one.keys]
        for other in changes.values():
            if other is not one and key and set(key) <= {*one.columns} & {*other.columns}:
                yield Link(one.name, other.name, tuple((name, name) for name in key))
