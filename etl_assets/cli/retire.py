"""`etl retire`: remove what lake and warehouse hold of star tables that are no longer declared."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from etl_assets.cli import environment, output
from etl_assets.errors import EtlError

if TYPE_CHECKING:
    from etl_assets.star.retired import InLake
    from etl_assets.warehouse.retire import InWarehouse


class RetireError(EtlError):
    """A table was named that can't be retired."""


@click.command(short_help="Remove star tables that are no longer declared.")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--yes", is_flag=True, help="Do it. Else it is said what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def retire(tables: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove what the warehouse and the lake's star hold of tables that are no longer declared: all of them,
    or those named. Without --yes nothing is changed.

    A table that is a dimension now and was a fact before, or the other way round, keeps what it is now.
    Nothing of raw is touched: what is declared again is made again.
    """
    settings = environment.settings()

    from etl_assets.proof.forecast import check_lake
    from etl_assets.star import retired
    from etl_assets.warehouse import retire as warehouse_retire

    project = environment.project(settings)
    declared = {name: definition.schema for name, definition in project.star.items()}
    with environment.resources(settings, "lake", "warehouse") as found:
        star = found.lake.star()
        check_lake(star.batches, project.name)  # another project's tables are all declared no longer
        lake = retired.in_lake(star, declared)
        warehouse = warehouse_retire.in_warehouse(found.warehouse, declared)
        if tables:
            _check(tables, declared, {*lake, *warehouse})
            lake = {name: held for name, held in lake.items() if name in tables}
            warehouse = {name: held for name, held in warehouse.items() if name in tables}
        if yes and warehouse:
            newest = star.batches.latest()
            lake_id = newest.lake if newest else "none"
            warehouse_retire.retire(found.warehouse, list(warehouse), lake_id, project.name)
        if yes:
            retired.remove(star, lake)
    if as_json:
        output.emit_json({"removed": yes, "tables": _as_object(lake, warehouse)})
    elif not lake and not warehouse:
        output.say("nothing to retire: all star tables in lake and warehouse are declared")
    else:
        output.table(
            ["table", "in", "removed" if yes else "would be removed"],
            list(_rows(lake, warehouse, settings.warehouse_schema)),
        )
        if not yes:
            output.say("\nnothing was changed; --yes removes it")


def _check(tables: Collection[str], declared: Collection[str], found: Collection[str]) -> None:
    """Refuse tables that there is nothing to retire of."""
    names = [name for name in dict.fromkeys(tables) if name not in found]
    told = [
        f"{name} is still declared: take its declaration away first" for name in names if name in declared
    ]
    told += [f"there is no {name} in lake or warehouse" for name in names if name not in declared]
    if told:
        raise RetireError("; ".join(told))


def _rows(
    lake: Mapping[str, "InLake"], warehouse: Mapping[str, "InWarehouse"], schema: str
) -> Iterator[tuple[str, str, str]]:
    for name in sorted({*lake, *warehouse}):
        if name in warehouse:
            held = warehouse[name]
            noted = [
                f"{output.count(rows, 'row', 'rows')} of {schema}.{book}" for book, rows in held.noted.items()
            ]
            yield name, "warehouse", "; ".join([*(f"{schema}.{place}" for place in held.places), *noted])
        if name in lake:
            kept = lake[name]
            told = []
            if kept.files:
                told.append(f"{output.count(len(kept.files), 'file', 'files')}, {output.size(kept.bytes)}")
            if kept.now:
                told.append(f"it is a {kept.now} now, which the next run makes")
            yield name, "lake", "; ".join([*told, *kept.notes])


def _as_object(
    lake: Mapping[str, "InLake"], warehouse: Mapping[str, "InWarehouse"]
) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for name in sorted({*lake, *warehouse}):
        told[name] = {"lake": None, "warehouse": None}
        if name in lake:
            kept = lake[name]
            told[name]["lake"] = {
                "files": len(kept.files),
                "bytes": kept.bytes,
                "notes": list(kept.notes),
                "declared_as": kept.now,
            }
        if name in warehouse:
            held = warehouse[name]
            told[name]["warehouse"] = {"places": list(held.places), "rows": dict(held.noted)}
    return told
