"""The star and the warehouse, built once more from all batches, beside those that are shown."""

from collections.abc import Iterator
from functools import partial

from etl_assets.engine.duck import identifier
from etl_assets.engine.scratch import own_folder
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import Current
from etl_assets.lake.folder import LocalFiles
from etl_assets.proof.findings import Finding, or_unreadable
from etl_assets.proof.hops.warehouse import loaded_from
from etl_assets.proof.verification import Verification
from etl_assets.star.build import Builder
from etl_assets.star.files import StarFiles
from etl_assets.star.outcome import publish
from etl_assets.star.schema import StarTable
from etl_assets.warehouse.contract import WarehouseReader, noted_in
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets.warehouse.load import load_star


def compare_rebuilt(verification: Verification, live: WarehouseReader) -> Iterator[Finding]:
    """Go through all batches again in a scratch place, and compare: content, deleted rows and surrogate keys. The
    warehouse is built in DuckDB, whatever the live one is: they have the same content."""
    with own_folder(verification.scratch, "rebuild-") as folder:
        star = StarFiles(LocalFiles(folder), verification.batches, decided_in=verification.builder.star.files)
        current = Current(
            Batches(verification.batches.files), verification.connection, from_batches_alone=True
        )
        builder = Builder(verification.inputs, current, star, verification.connection)
        builds = list(builder.derive(verification.manifest))
        publish(star, builds, verification.connection)
        shown = {build.definition.name: build.version for build in builds if build.passed}
        tables = [definition.schema for definition in verification.inputs.star.values()]
        for schema in tables:
            again, have = (
                verification.everything_in(place, schema) for place in (star, verification.builder.star)
            )
            names = [c.name for c in schema.columns]
            yield or_unreadable(
                schema.name,
                "rebuilt star",
                partial(verification.compare, schema, "rebuilt star", again, have, names),
            )
        warehouse = DuckDBWarehouse(path=str(folder / "warehouse.duckdb"), scratch=str(verification.scratch))
        load_star(warehouse, star, tables, shown, "etl verify")
        held, newest = noted_in(live).tables, verification.newest_star()
        with warehouse.reading() as made:
            for name in shown:
                schema, hop = verification.inputs.star[name].schema, "rebuilt warehouse"
                if loaded_from(verification, schema, held.get(name), newest):
                    yield Finding(name, hop, "nothing: a run loaded another batch", skipped=True)
                else:
                    yield or_unreadable(name, hop, partial(_rebuilt, verification, schema, made, live))


def _rebuilt(
    verification: Verification, schema: StarTable, made: WarehouseReader, live: WarehouseReader
) -> Finding:
    place, names = f"star.{identifier(schema.name)}", [c.name for c in schema.columns]
    with (
        verification.copied(schema, made, place, names) as again,
        verification.copied(schema, live, place, names) as have,
    ):
        return verification.compare(schema, "rebuilt warehouse", again, have, names)
