"""The certificate of a batch: source, raw, star and warehouse, side by side.

The count and the sums of each table were compared with the source's before the batch was committed, in its own
snapshot (`etl_assets.capture.controls`). The certificate follows what the batch brought from there on: as much
must stand in the star's files and in the warehouse as was landed, less what was quarantined. And it compares the two
ends: what the source said in that snapshot, and what the warehouse now shows as current. `etl verify` looks at all
that lies between.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise

from etl_assets.engine.build import Builder
from etl_assets.engine.definition import Definition
from etl_assets.engine.duck import identifier, literal
from etl_assets.engine.schema import Fact
from etl_assets.lake.batches import Manifest
from etl_assets.lake.current import view
from etl_assets.lake.star import dimension_path, fact_path
from etl_assets.proof.totals import Totals, add_up, amounts, as_decimal, current_rows, loaded_rows
from etl_assets.resources.duckdb_warehouse import DuckDBReader
from etl_assets.resources.warehouse import WarehouseReader


@dataclass(frozen=True)
class TableProof:
    """The totals of one star table at each hop, and where two of them that must be equal are not."""

    table: str
    source_table: str
    batch: str
    hops: Mapping[str, Totals]
    quarantined: int
    differences: tuple[str, ...] = field(default=())
    whole: Mapping[str, Totals] = field(default_factory=dict)
    """Of a fact: everything that exists, in the source and in the warehouse; `hops` is what the batch brought."""

    @property
    def equal(self) -> bool:
        return not self.differences

    def as_json(self) -> dict[str, object]:
        return {
            "source_table": self.source_table,
            "batch": self.batch,
            "quarantined_rows": self.quarantined,
            "hops": {hop: totals.as_json() for hop, totals in self.hops.items()},
            "whole": {hop: totals.as_json() for hop, totals in self.whole.items()},
            "equal": self.equal,
            "differences": list(self.differences),
        }


def certificate_path(batch: str) -> str:
    return f"raw/batches/{batch}.certificate.json"


class Certifier:
    """Follows what the newest batches brought, from the landed files to the warehouse."""

    def __init__(self, builder: Builder, manifest: Manifest, warehouse: WarehouseReader) -> None:
        self.builder = builder
        self.inputs = builder.inputs
        self.manifest = manifest
        self.lake = DuckDBReader(builder.connection)
        self.warehouse = warehouse

    @property
    def tables(self) -> list[str]:
        """The star tables that can be certified: those that are made from a source table."""
        return [name for name, made in self.inputs.star.items() if made.inputs[0] in self.inputs.tables]

    def proofs(self, only: Collection[str] | None = None) -> list[TableProof]:
        """One proof per star table that is made from a source table; `only` of those named."""
        return [
            self._fact(definition, definition.schema)
            if isinstance(definition.schema, Fact)
            else self._dimension(definition)
            for name, definition in self.inputs.star.items()
            if name in self.tables and (only is None or name in only)
        ]

    def publish(self, proofs: list[TableProof]) -> str:
        """Write the certificate beside the manifest; returns its path. What it said of other tables stays; those of
        which it says nothing are listed as not certified."""
        manifest = self.manifest
        path = certificate_path(manifest.batch)
        files = self.builder.star.files
        before = files.read(path) if files.exists(path) else None
        tables = {
            **(json.loads(before)["tables"] if before else {}),
            **{proof.table: proof.as_json() for proof in proofs},
        }
        lacking = [name for name in self.tables if name not in tables]
        content = {
            "batch": manifest.batch,
            "lake": manifest.lake,
            "source": manifest.source.model_dump(),
            "snapshot": manifest.snapshot,
            "lsn": manifest.lsn,
            "server_time": manifest.server_time.isoformat(),
            "source_totals": {
                name: {
                    "rows": state.rows,
                    "controls": {c: v.model_dump(exclude_none=True) for c, v in state.controls.items()},
                }
                for name, state in manifest.tables.items()
            },
            "tables": {name: tables[name] for name in self.tables if name in tables},
            "not_certified": lacking,
            "equal": not lacking and all(tables[name]["equal"] for name in self.tables),
        }
        text = json.dumps(content, indent=1).encode()
        if text != before:
            with files.writing(path) as stream:
                stream.write(text)
        return path

    def _fact(self, definition: Definition, schema: Fact) -> TableProof:
        """The newest batch of a fact: what was landed, what its file holds, what the warehouse holds of it."""
        source = definition.inputs[0]
        batch = self.manifest.tables[source].changed_in
        manifest = self.builder.batches.get(batch)
        changes = manifest.changed[source]
        carried = amounts(definition, self.inputs, manifest)
        typing = self.builder.typing(source, manifest)
        # What was declared otherwise when the batch was taken may fit now, or no longer.
        clean, quarantined = self.builder.clean(source, manifest), 0
        known = self._certified(batch, schema) if clean else None
        if known and known.sums.keys() != carried.keys():  # the function has changed since
            known = None
        landed = known or Totals(0, {name: Decimal(0) for name in carried})
        if changes.rows and not landed.rows:
            rows = self.builder.current.read([changes.rows], self.builder.columns(source, manifest))
            typed = typing.typed(rows, only_exact=True).project(
                ", ".join(f"{identifier(raw)} AS {identifier(column)}" for column, raw in carried.items())
                or "1"
            )
            landed = add_up(self.lake, view(typed), as_decimal(carried, schema))
            quarantined = 0 if clean else self.builder.count(rows.filter(f"NOT ({typing.exact})"))
        path = self.builder.star.files.local(fact_path(schema.name, batch))
        file = view(self.builder.connection.read_parquet(str(path)))
        decimals = as_decimal(carried, schema)
        hops = {
            "landed": landed,
            "star": add_up(self.lake, f"(SELECT * FROM {file} WHERE NOT deleted) AS brought", decimals),
            "warehouse": add_up(
                self.warehouse,
                f"(SELECT * FROM star.{identifier(schema.name)} WHERE batch = {literal(batch)} AND NOT deleted) "
                "AS brought",
                decimals,
            ),
        }
        expected = changes.new + changes.changed
        differences = (
            []
            if landed.rows + quarantined == expected
            else [
                f"batch {batch} brought {expected:,} rows, of which {landed.rows:,} fit and {quarantined:,} are "
                "quarantined"
            ]
        )
        differences += _unequal(hops, f"batch {batch} of {schema.name}")
        whole = self._whole(source, schema, carried)
        differences += _unequal(whole, schema.name)
        return TableProof(schema.name, source, batch, hops, quarantined, tuple(differences), whole)

    def _whole(self, source: str, schema: Fact, carried: Mapping[str, str]) -> dict[str, Totals]:
        """All that exists, from end to end: what the source said in the batch's snapshot, what the lake holds, what
        the warehouse shows as current. Sums are known of a table all of whose values fit."""
        state = self.manifest.tables[source]
        controls = {name: state.controls[raw] for name, raw in carried.items() if raw in state.controls}
        proven = {name: control for name, control in controls.items() if control.held is not None}
        rows = state.rows - self.builder.misfits(source, self.manifest)
        return {
            "source": Totals(rows, {name: Decimal(control.sum or 0) for name, control in proven.items()}),
            "raw": Totals(rows, {name: Decimal(control.held or 0) for name, control in proven.items()}),
            "warehouse": add_up(
                self.warehouse,
                f"star.{identifier(schema.name + '_current')}",
                as_decimal({name: carried[name] for name in proven}, schema),
            ),
        }

    def _certified(self, batch: str, schema: Fact) -> Totals | None:
        """What was landed in a batch, as its own certificate says: landed files never change."""
        files, path = self.builder.star.files, certificate_path(batch)
        if not files.exists(path):
            return None
        proof = json.loads(files.read(path))["tables"].get(schema.name)
        return Totals.from_json(proof["hops"]["landed"]) if proof and proof["batch"] == batch else None

    def _dimension(self, definition: Definition) -> TableProof:
        """The members that exist: in the source, in the star's file, in the warehouse."""
        schema, source = definition.schema, definition.inputs[0]
        state = self.manifest.tables[source]
        path = self.builder.star.files.local(dimension_path(schema.name))
        file = self.builder.connection.read_parquet(str(path))
        star = add_up(self.lake, current_rows(schema, file), {})
        quarantined = self.builder.misfits(source, self.manifest)
        hops = {
            "source": Totals(state.rows - quarantined, {}),
            "star": star,
            "warehouse": add_up(
                self.warehouse, current_rows(schema, loaded_rows(schema, self.warehouse)), {}
            ),
        }
        differences = _unequal(hops, schema.name)
        return TableProof(schema.name, source, state.changed_in, hops, quarantined, tuple(differences))


def _unequal(hops: Mapping[str, Totals], what: str) -> list[str]:
    """What differs from one hop to the next."""
    names = list(hops)
    return [
        f"{what}: {after} has {hops[after]}, {before} has {hops[before]}"
        for before, after in pairwise(names)
        if hops[before] != hops[after]
    ]
