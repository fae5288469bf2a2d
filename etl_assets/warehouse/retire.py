"""What a warehouse holds of star tables that are no longer declared, and its removal, once for all engines.

The books say what was loaded: a table that they do not name is not ours, and stays.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from etl_assets.warehouse.contract import Warehouse, WarehouseError
from etl_assets.warehouse.dialect import LOADS, OF_TABLES, SCHEMA, current
from etl_assets.warehouse.load import not_ours, of_others


@dataclass(frozen=True)
class InWarehouse:
    """What there is of one table: itself and its view of what is current by name, rows about it by book."""

    places: Sequence[str]
    noted: Mapping[str, int]


def in_warehouse(warehouse: Warehouse, declared: Collection[str]) -> dict[str, InWarehouse]:
    """What is to be retired, by table. Waits for nobody: raises `WarehouseInUse`."""
    if not warehouse.exists:
        return {}
    with warehouse.glancing() as reader:
        if not reader.has(LOADS.name):
            return {}
        counts = {
            book.name: dict(
                reader.rows(f"SELECT table_name, count(*) FROM {SCHEMA}.{book.name} GROUP BY table_name")
            )
            for book in OF_TABLES
        }
        found = {}
        for name in sorted(set(counts[LOADS.name]) - set(declared)):
            kinds = {name: "table", current(name): "view"}
            places = [place for place, kind in kinds.items() if reader.kind(SCHEMA, place) == kind]
            noted = {book: rows[name] for book, rows in counts.items() if name in rows}
            found[name] = InWarehouse(places, noted)
        return found


def retire(warehouse: Warehouse, names: Sequence[str], lake: str | None = None, project: str = "") -> None:
    """Remove tables, their views of what is current, and what the books say of them: in one transaction, where
    the engine can. Raises `WarehouseError` if they were loaded from another lake than this project's."""
    with warehouse.session() as session:
        if lake and (others := of_others(session, lake)):
            raise WarehouseError(not_ours(warehouse, lake, project, others))
        d = session.dialect
        listed = ", ".join(d.literal(name) for name in names)
        forgotten = [f"DELETE FROM {d.place(book.name)} WHERE table_name IN ({listed})" for book in OF_TABLES]
        session.commit([*session.retire(names), *forgotten], f"retire {', '.join(names)}")
