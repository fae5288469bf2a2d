"""What readers find: a star table's files in the lake, and its table in the warehouse."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from etl_assets_tests.lake_layout import star_files
from etl_assets_tests.law.functions import StarSpec
from etl_assets_tests.law.oracle import Shown

_DUCKDB = {
    "int": "INTEGER",
    "bigint": "BIGINT",
    "text": "VARCHAR",
    "date": "DATE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP",
}


@dataclass(frozen=True)
class Table:
    """Columns with their types, and rows."""

    types: Mapping[str, str]
    rows: list[tuple[Any, ...]]

    def sorted(self) -> list[tuple[Any, ...]]:
        return sorted(self.rows, key=repr)


def promised(spec: StarSpec, shown: Shown) -> Table:
    """A star table as it should be."""
    types = _types(spec)
    if spec.kind == "fact":
        found = [
            {spec.record: v.record, **v.values, "batch": v.batch, "deleted": v.deleted}
            for v in shown.versions
        ]
    else:
        found = [{**row, "deleted": False} for row in shown.current.values()]
        found += [{**row, "deleted": True} for row in shown.left.values()]
    return Table(types, [_exact(types, (row[name] for name in types)) for row in found])


def _types(spec: StarSpec) -> dict[str, str]:
    bases = {name: declared.removesuffix("?") for name, declared in spec.published.items()}
    return {n: _DUCKDB.get(base) or base.upper().replace("NUMERIC", "DECIMAL") for n, base in bases.items()}


def exact_key(spec: StarSpec, key: tuple[Any, ...]) -> tuple[Any, ...]:
    types = _types(spec)
    return _exact({name: types[name] for name in spec.key}, key)


def _exact(types: Mapping[str, str], values: Iterable[Any]) -> tuple[Any, ...]:
    """Decimals with as many digits as their type has, so that rows are equal if they look alike."""
    scales = [
        int(t.partition(",")[2].rstrip(")")) if t.startswith("DECIMAL") else None for t in types.values()
    ]
    return tuple(
        v if scale is None or v is None else f"{v:.{scale}f}" for v, scale in zip(values, scales, strict=True)
    )


def _read(connection: duckdb.DuckDBPyConnection, query: str) -> Table:
    relation = connection.sql(query)
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    return Table(types, [_exact(types, row) for row in relation.fetchall()])


def in_lake(connection: duckdb.DuckDBPyConnection, data: Path, spec: StarSpec) -> Table:
    """What the star's manifest lists."""
    files = star_files(data / "lake", spec.name)
    if not files:
        return Table({}, [])
    return _read(connection, f"FROM read_parquet({[str(file) for file in files]!r})")


def in_warehouse(connection: duckdb.DuckDBPyConnection, spec: StarSpec) -> Table:
    """Without the members that were inferred, since others refer to them."""
    table = _read(connection, f'FROM star."{spec.name}"')
    if spec.kind == "fact" or not table.rows:
        return table
    apart, places = inferred(connection, spec), [list(table.types).index(name) for name in spec.key]
    kept = [row for row in table.rows if member_key([row[place] for place in places]) not in apart]
    return Table(table.types, kept)


def current_in_warehouse(connection: duckdb.DuckDBPyConnection, spec: StarSpec) -> Table:
    """The rows of a fact that exist, by the view that analysts use."""
    return _read(connection, f'FROM star."{spec.name}_current"')


def inferred(connection: duckdb.DuckDBPyConnection, spec: StarSpec) -> set[str]:
    """The members that stand in for those that others refer to."""
    found = connection.execute(
        "SELECT member_key FROM star.inferred_members WHERE table_name = $name", {"name": spec.name}
    )
    return {key for (key,) in found.fetchall()}


def member_key(key: Sequence[Any]) -> str:
    """How a key of integers and texts is written where members are listed."""
    if len(key) == 1:
        return str(key[0])
    return ",".join('"' + str(part).replace('"', '""') + '"' for part in key)


def to_be_inferred(spec: StarSpec, stars: Mapping[str, tuple[StarSpec, Shown]]) -> set[str]:
    """The members that others refer to, and that the dimension does not have."""
    shown = stars[spec.name][1]
    found = set()
    for other, rows in stars.values():
        for columns, dimension in other.references.items():
            if dimension == spec.name:
                found |= {tuple(row[name] for name in columns) for row in _ever(rows)}
    found -= {*shown.current, *shown.left}
    return {member_key(key) for key in found if None not in key}


def _ever(shown: Shown) -> list[Mapping[str, Any]]:
    """All rows that a table has, those of the past included."""
    versions = [version.values for version in shown.versions]
    return versions or [*shown.current.values(), *shown.left.values()]


def difference(expected: Table, found: Table) -> str:
    """In which rows two tables differ; empty if they are equal."""
    if expected.types != found.types and (found.types or expected.rows):
        return f"columns {found.types}, promised are {expected.types}"
    one, other = expected.sorted(), found.sorted()
    if one == other:
        return ""
    lacking = [row for row in one if row not in other]
    added = [row for row in other if row not in one]
    told = [f"lacks {row}" for row in lacking[:4]] + [f"has   {row}" for row in added[:4]]
    names = ", ".join(expected.types)
    return "\n    ".join([f"{len(lacking)} lacking, {len(added)} too many: ({names})", *told])
