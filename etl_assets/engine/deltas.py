"""What publishing a build changes, in rows: for people to look at, nothing is decided by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier
from etl_assets.engine.schema import StarTable
from etl_assets.lake.batches import Changes
from etl_assets.lake.current import view


@dataclass(frozen=True)
class Delta:
    """Members of a dimension, or versions of a fact, that are new, changed or recorded as deleted."""

    new: int = 0
    changed: int = 0
    deleted: int = 0


def fact_delta(
    connection: duckdb.DuckDBPyConnection, added: Sequence[Path], brought: Sequence[Changes]
) -> Delta:
    """Of the versions added: first ones of what they are of, later ones, and records of deletions. `brought` is what
    the batches say that they were made from: where some of that was quarantined, later ones may count as first."""
    rows, deleted = duck.one(
        connection, f"SELECT count(*), count(*) FILTER (deleted) FROM {duck.parquet(added)}"
    )
    new = min(sum(changes.new for changes in brought), rows - deleted)
    return Delta(new, rows - deleted - new, deleted)


def dimension_delta(
    connection: duckdb.DuckDBPyConnection,
    schema: StarTable,
    made: Path,
    held: Path | None,
    among: duckdb.DuckDBPyRelation | None,
) -> Delta:
    """A dimension's file compared with the one that it takes the place of; `among` names the members to compare, if
    it is known that no other differs."""
    key, now = identifier(schema.key), connection.read_parquet(str(made))
    if held is None:
        return Delta(new=duck.one(connection, f"SELECT count(*) FROM {view(now)}")[0])
    was = connection.read_parquet(str(held))
    if schema.key not in was.columns or "deleted" not in was.columns:
        return Delta(changed=duck.one(connection, f"SELECT count(*) FROM {view(now)}")[0])
    only = ""
    if among is not None:
        only = f" SEMI JOIN {view(among)} USING ({key})"
    values = [identifier(name) for name in now.columns if name not in (schema.key, "deleted")]
    differs = " OR ".join(f"n.{value} IS DISTINCT FROM w.{value}" for value in values) or "false"
    if set(now.columns) != set(was.columns):
        differs = "true"
    gone = f"n.{key} IS NULL OR (n.deleted AND w.deleted IS FALSE)"
    new, changed, deleted = duck.one(
        connection,
        f"SELECT count(*) FILTER (w.{key} IS NULL), "
        f"count(*) FILTER (w.{key} IS NOT NULL AND NOT ({gone}) AND (({differs}) OR n.deleted <> w.deleted)), "
        f"count(*) FILTER (w.{key} IS NOT NULL AND ({gone})) "
        f"FROM (FROM {view(now)}{only}) n FULL JOIN (FROM {view(was)}{only}) w ON n.{key} = w.{key}",
    )
    return Delta(new, changed, deleted)
