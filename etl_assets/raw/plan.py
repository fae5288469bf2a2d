"""How a table is read: what has a recent row version and no more, or whole; and why.

A row that the last snapshot could not see was written by a transaction that had not ended then, and no such
transaction is older than that snapshot's horizon (pg_snapshot_xmin). So every row that is new or changed since has
`xmin >= horizon`, savepoints included: their transaction ids follow their parent's. The rule needs transaction ids
that only move forward, on the same server, in the same table: where that does not hold, the table is read whole.
`xmin` is 32 bits wide and compared by distance from now, which is unambiguous over 2^31 transactions; an older row
(frozen, say) may be read once too often, never once too seldom.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etl_assets.lake.current import storage
from etl_assets.lake.manifest import Manifest, SourceColumn, TableState
from etl_assets.source.catalog import Relation
from etl_assets.source.connection import SourceError
from etl_assets.source.identity import is_another, older_by
from etl_assets.source.snapshot import UNTOLD, Instant

# Half of what 32 bits can tell apart, less what may be started while a table is read.
_FARTHEST = 2**31 - 2**24
# Of one and the same value these write the same.
_AS_IT_IS = re.compile(r"smallint|integer|bigint|text|character varying(\(\d+\))?")


class SchemaFrozen(SourceError):
    """A table changed its columns, and its declaration does not allow that."""


@dataclass(frozen=True)
class ReadPlan:
    """How to read a table. `renews`: a batch is worth taking even if no row changed, because the next read can
    then be cheaper, or because the change of columns is to be recorded. `unusual`: row versions could have told, as a rule."""

    read: Literal["whole", "horizon"]
    why: str
    horizon: int = 0
    renews: bool = False
    unusual: bool = False


def plan(
    relation: Relation,
    latest: Manifest | None,
    instant: Instant,
    *,
    whole: bool = False,
    one_history: bool = False,
) -> ReadPlan:
    """Decide how to read a table. `one_history`: servers behind the source's address that started at other times are replicas
    of one another, as somebody vouches. Raises `SchemaFrozen` or `SourceError` where it can't be carried on."""
    held = latest.tables.get(relation.table.name) if latest else None
    if latest is None or held is None:
        return ReadPlan("whole", "the lake holds nothing of it yet")
    _check(relation, held)
    if not relation.by_version and not relation.filtered:
        kinds = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
        return ReadPlan("whole", f"{kinds.get(relation.kind, 'its storage')} has no row versions to go by")
    if relation.filtered:
        return ReadPlan("whole", "row security decides which of its rows are seen")
    if relation.restless:
        return ReadPlan(
            "whole", "it holds names of the catalog (regclass, aclitem …), which may be others at any time"
        )
    if whole:
        return ReadPlan("whole", "asked for", renews=True)
    reason = _broken(relation, latest, held, instant, one_history)
    if reason:
        return ReadPlan("whole", reason, renews=True, unusual=True)
    weaker = "; the server does not say where its log stands" if instant.lsn == UNTOLD else ""
    return ReadPlan("horizon", f"row versions since transaction {held.horizon}{weaker}", held.horizon)


def still_tells(relation: Relation, then: Manifest, instant: Instant) -> bool:
    """Whether rows that are older than the horizon of a batch show what it read of them: in the same table of the same history,
    all of whose columns of then are read as they were. Columns may have been added, and the server started, since."""
    held = then.tables[relation.table.name]
    names = {column.name: column.type for column in held.columns}
    now = {column.name: column.type for column in relation.columns if column.name in names}
    if not relation.by_version or relation.restless or now != names:
        return False
    as_it_was = replace(relation, columns=held.columns, layout=relation.layout_of(names))
    return _broken(as_it_was, then, held, instant, one_history=True) is None


def _broken(
    relation: Relation, latest: Manifest, held: TableState, instant: Instant, one_history: bool
) -> str | None:
    """Why transaction ids seen now can't be compared with those seen then; None if they can."""
    was, now = latest.source, instant.source
    if not held.relation:
        return f"what the lake holds was {held.why}"
    if now.system_identifier is None or was.system_identifier is None:
        return "the server does not say which one it is (grant pg_control_system)"
    if is_another(was, now):
        return "the source is another server or database than the last batch's"
    if was.timeline != now.timeline:
        return f"the server was restored or failed over: timeline {now.timeline} instead of {was.timeline}"
    if instant.next_transaction < latest.next_transaction or older_by(latest, instant):
        return "the server stands behind the last batch: it was restored, or crashed"
    if was.database_oid is None or was.database_oid != now.database_oid:
        return "the database was dropped and made again, or is a copy of the last batch's"
    if not one_history and (was.started is None or was.started != now.started):
        return (
            "the server was started since the last batch: a copy of it, or it set back to an older state, would look the "
            "same"
        )
    if held.relation != relation.oid:
        return "the table was dropped and made again"
    if held.partitions != relation.partitions:
        return "its partitions changed"
    if held.columns != relation.columns:
        return f"its columns changed: {'; '.join(schema_change(held.columns, relation.columns))}"
    if held.layout != relation.layout:
        return "a column was replaced by one of the same name, or how values are written changed (enum labels, composite types, generated columns), or row security no longer decides which rows are seen"
    if instant.next_transaction - held.horizon >= _FARTHEST:
        return "more transactions have passed since the last batch than row versions can tell apart"
    return None


def _check(relation: Relation, held: TableState) -> None:
    name = relation.table.name
    if relation.key != held.key:
        raise SourceError(
            f"the key of {name} was {', '.join(held.key)} and is now {', '.join(relation.key)}: its history can't go "
            "on under the same name; name the old key in its declaration, let it begin anew under another name (as_=), or begin "
            "a new lake (ETL_LAKE_URL)"
        )
    now = {c.name for c in relation.columns if storage(c.type) == "BIGINT"}
    become = [
        c.name for c in held.columns if c.name in held.key and c.name in now and storage(c.type) != "BIGINT"
    ]
    if become:
        raise SourceError(
            f"the key {', '.join(become)} of {name} has become an integer: keys that were none can't be kept under it; "
            "begin a new lake (ETL_LAKE_URL)"
        )
    if relation.table.drift == "freeze" and held.columns != relation.columns:
        raise SchemaFrozen(
            f"{name} is declared with drift='freeze' and its columns changed: "
            f"{'; '.join(schema_change(held.columns, relation.columns))}; nothing was written"
        )


def schema_change(was: Sequence[SourceColumn], now: Sequence[SourceColumn]) -> list[str]:
    """What is different about columns, in words; empty if nothing is."""
    before, after = {c.name: c for c in was}, {c.name: c for c in now}
    changes = [f"{c.name} {c.type} added" for c in now if c.name not in before]
    changes += [f"{c.name} dropped" for c in was if c.name not in after]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if old.type != new.type:
            changes.append(f"{name} is {new.type}, was {old.type}")
        if old.nullable != new.nullable:
            changes.append(f"{name} {'may' if new.nullable else 'may no longer'} be NULL")
    if not changes and was != now:
        changes.append("reordered")
    return changes


def keys_written_otherwise(held: TableState, now: Sequence[SourceColumn]) -> list[str]:
    """The key columns whose values may be written in another way since their type changed, in words: a `char(n)` is filled with
    blanks to its width, say."""
    types = {column.name: column.type for column in now}
    return [
        f"{c.name} is {types[c.name]}, was {c.type}"
        for c in held.key_columns
        if c.type != types[c.name] and not all(map(_AS_IT_IS.fullmatch, (c.type, types[c.name])))
    ]
