"""The certificate of a batch: source, raw, star and warehouse, side by side.

The count and the sums of each table were compared with the source's before the batch was committed, in its own
snapshot (`etl_assets.raw.controls`). The certificate follows what the batch brought from there on: as much
must stand in the star's files and in the warehouse as was landed, less what was quarantined. And it compares the two
ends: what the source said in that snapshot, and what the warehouse now shows as current.

Of a table that has not one row for each of its first input (`rows="any"`) nobody can say how many rows it should have
but its function: the certificate follows its inputs from the source to raw and what it gives from the star to the
warehouse, and names the batch as of which `etl verify` last applied it whole and found it equal.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from itertools import pairwise

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.lake.certificates import VERIFIED, certificate_path, noted
from etl_assets.lake.current import view
from etl_assets.lake.manifest import ApiState, Manifest
from etl_assets.lake.names import number
from etl_assets.lake.seal import sealed
from etl_assets.proof.totals import Totals, add_up, amounts, as_decimal, current_rows, digest_of, loaded_rows
from etl_assets.star.build import Builder
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import WarehouseReader
from etl_assets.warehouse.dialect import INFERRED, LOADS, SCHEMA
from etl_assets.warehouse.duckdb import DuckDBReader


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
    by_other_inputs: int | None = None
    """Of a fact: how many versions of the batch came about by a change of what is joined to its first input."""
    applied_whole: str | None = None
    """The batch as of which a verification applied the function whole and found the star equal; None: not yet."""
    stand_ins: int = 0
    """Of a dimension: members of the warehouse that stand in for what facts refer to and the star does not have."""

    @property
    def equal(self) -> bool:
        return not self.differences

    def as_json(self) -> dict[str, object]:
        """The proof as the certificate has it."""
        return {
            "source_table": self.source_table,
            "batch": self.batch,
            "quarantined_rows": self.quarantined,
            "hops": {hop: totals.as_json() for hop, totals in self.hops.items()},
            "whole": {hop: totals.as_json() for hop, totals in self.whole.items()},
            "by_other_inputs": self.by_other_inputs,
            "applied_whole": self.applied_whole,
            "stand_ins": self.stand_ins,
            "equal": self.equal,
            "differences": list(self.differences),
        }


class Certifier:
    """Follows what the newest batches brought, from the landed files to the warehouse."""

    def __init__(self, builder: Builder, manifest: Manifest, warehouse: WarehouseReader) -> None:
        self.builder = builder
        self.inputs = builder.inputs
        self.manifest = manifest
        self.lake = DuckDBReader(builder.connection)
        self.warehouse = warehouse

    def proofs(self, only: Collection[str] | None = None) -> list[TableProof]:
        """One proof per star table; `only` of those named."""
        return [
            replace(
                self._proof(definition),
                applied_whole=self._verified.get(name),
                stand_ins=self._stand_ins.get(name, 0),
            )
            for name, definition in self.inputs.star.items()
            if only is None or name in only
        ]

    def _proof(self, definition: StarFunction) -> TableProof:
        if behind := self._behind(definition):
            first = definition.inputs[0]
            shown = self._shown(definition)
            return TableProof(definition.name, first, number(shown) if shown else "none", {}, 0, (behind,))
        if isinstance(definition.schema, Fact):
            return self._fact(definition, definition.schema)
        return self._dimension(definition)

    def _shown(self, definition: StarFunction) -> int | None:
        """The batch that the star's files show of a table."""
        held = self.builder.star.shown(definition.schema)
        return held.batch if held else None

    def _behind(self, definition: StarFunction) -> str | None:
        """Why a table can't be certified as of the batch; None if it shows it."""
        name, held = definition.name, self.builder.star.shown(definition.schema)
        if held is None or held.version != self.builder.version(name, self.manifest):
            shown = number(held.batch) if held else "none"
            return f"{name} shows batch {shown} and not what batch {number(self.manifest.batch)} makes of it"
        loaded = self._loaded.get(name)
        if loaded != held.batch:
            shown = number(loaded) if loaded else "none"
            return f"the warehouse shows batch {shown} of {name}, the star {number(held.batch)}"
        return None

    @cached_property
    def _loaded(self) -> Mapping[str, int]:
        """The newest batch of each table that the warehouse holds."""
        found = self.warehouse.rows(
            f"SELECT table_name, max(batch) FROM {SCHEMA}.{LOADS.name} GROUP BY table_name"
        )
        return {name: int(batch) for name, batch in found}

    @cached_property
    def _stand_ins(self) -> Mapping[str, int]:
        return dict(
            self.warehouse.rows(
                f"SELECT table_name, count(*) FROM {SCHEMA}.{INFERRED.name} GROUP BY table_name"
            )
        )

    @cached_property
    def _verified(self) -> Mapping[str, str]:
        """The newest batch, up to this one, as of which each table was verified whole."""
        files = self.builder.star.files
        told = noted(files, VERIFIED) if files.exists(VERIFIED) else None
        return {
            name: batch
            for name, (batch, version) in (told["tables"] if told else {}).items()
            if name in self.inputs.star
            and self.inputs.star[name].code_version == version
            and int(batch) <= self.manifest.batch
        }

    def publish(self, proofs: list[TableProof]) -> str:
        """Write the certificate beside the manifest; returns its path. What it said of other tables stays; those of
        which it says nothing are listed as not certified."""
        manifest = self.manifest
        path = certificate_path(manifest.batch)
        files = self.builder.star.files
        before = files.read(path) if files.exists(path) else None
        known = noted(files, path) if before else None
        if known and known.get("manifest") != self.builder.batches.sha256(manifest.batch):
            known = None  # it speaks of another batch that had this number
        tables = {
            **(known["tables"] if known else {}),
            **{proof.table: proof.as_json() for proof in proofs},
        }
        lacking = [name for name in self.inputs.star if name not in tables]
        source = manifest.database
        content = {
            "batch": number(manifest.batch),
            "manifest": self.builder.batches.sha256(manifest.batch),
            "lake": manifest.lake,
            "source": source.identity.model_dump(mode="json") if source else None,
            "snapshot": source.snapshot if source else None,
            "lsn": source.lsn if source else None,
            "apis": {
                name: state.model_dump(mode="json", exclude={"kind"})
                for name, state in manifest.sources.items()
                if isinstance(state, ApiState)
            },
            "server_time": manifest.server_time.isoformat(),
            "source_totals": {
                name: {
                    "rows": state.rows,
                    "controls": {c: v.model_dump(exclude_none=True) for c, v in state.controls.items()},
                }
                for name, state in manifest.tables.items()
            },
            "tables": {name: tables[name] for name in self.inputs.star if name in tables},
            "not_certified": lacking,
            "equal": not lacking and all(tables[name]["equal"] for name in self.inputs.star),
        }
        text = sealed(json.dumps(content, indent=1).encode())
        if text != before:
            with files.writing(path) as stream:
                stream.write(text)
        return path

    def _fact(self, definition: StarFunction, schema: Fact) -> TableProof:
        """The newest batch of a fact: what was landed, what its file holds, what the warehouse holds of it."""
        source = definition.inputs[0]
        newest = self.builder.star.fact_files(schema.name)[-1]
        batch, file = newest.batch, duck.parquet([self.builder.star.local(newest.path)])
        rows = f"(SELECT * FROM {file} WHERE NOT deleted) AS brought"
        if source not in self.inputs.tables or schema.rows != "one per row":
            amounts_ = {c.name: c.name for c in schema.declared if c.type.is_amount}
            hops = self._brought(schema, batch, rows, amounts_, digested=True)
            return TableProof(schema.name, source, number(batch), hops, 0, tuple(_unequal(hops, schema.name)))
        manifest = self.builder.batches.get(batch)
        carried = amounts(definition, self.inputs, self.builder.as_of(source, manifest))
        hops = self._brought(schema, batch, rows, carried)
        what = f"batch {number(batch)} of {schema.name}"
        differences = _unequal(hops, what)
        others: int | None = None
        quarantined = 0
        if source in manifest.changed and self.builder.carried_key(definition, manifest) is not None:
            landed, quarantined = self._landed(definition, schema, manifest, carried)
            of_landed, others = hops["star"], 0
            if of_landed != landed:  # a change of what is joined brings versions too
                keys = self._landed_keys(definition, manifest)
                own = f"(SELECT brought.* FROM {rows} SEMI JOIN {keys} AS k USING ({listing(schema.key_columns)})) AS own"
                of_landed = add_up(self.lake, own, as_decimal(carried, schema))
                others = hops["star"].rows - of_landed.rows
            differences += _unequal({"landed": landed, "star": of_landed}, what)
            expected = manifest.changed[source].new + manifest.changed[source].changed
            if landed.rows + quarantined != expected:
                differences.append(
                    f"batch {number(batch)} brought {expected:,} rows, of which {landed.rows:,} fit and {quarantined:,} are "
                    "quarantined"
                )
            if not others:
                hops = {"landed": landed, **hops}
        whole = self._whole(source, schema, carried)
        differences += _unequal(whole, schema.name)
        return TableProof(
            schema.name,
            source,
            number(batch),
            hops,
            quarantined,
            tuple(differences),
            whole,
            by_other_inputs=others,
        )

    def _brought(
        self, schema: Fact, batch: int, rows: str, carried: Mapping[str, str], *, digested: bool = False
    ) -> dict[str, Totals]:
        """What a batch's file holds, and what the warehouse holds of that batch."""
        decimals = as_decimal(carried, schema)
        loaded = (
            f"(SELECT * FROM star.{identifier(schema.name)} WHERE batch = {batch} AND NOT deleted) AS brought"
        )
        found = {
            "star": add_up(self.lake, rows, decimals),
            "warehouse": add_up(self.warehouse, loaded, decimals),
        }
        return self._digested(found, schema, rows, loaded) if digested else found

    def _digested(
        self, totals: Mapping[str, Totals], schema: StarTable, star: str, warehouse: str
    ) -> dict[str, Totals]:
        """The totals of star and warehouse with the digests of their rows."""
        names = [column.name for column in schema.declared]
        connection = self.builder.connection
        if isinstance(self.warehouse, DuckDBReader):
            loaded = self.warehouse.one(digest_of(schema, warehouse, names))
        else:
            copy = self.warehouse.copy(connection, schema.declared, warehouse)
            loaded = duck.one(connection, digest_of(schema, copy, names))
            connection.execute(f"DROP TABLE {copy}")
        digests = {"star": duck.one(connection, digest_of(schema, star, names)), "warehouse": loaded}
        return {
            hop: replace(found, digest=f"{digests[hop][1] % 2**64:016x}") for hop, found in totals.items()
        }

    def _landed_keys(self, definition: StarFunction, manifest: Manifest) -> str:
        """A table with the keys of the rows that a batch landed, as the fact names them."""
        source = definition.inputs[0]
        state, changes = manifest.tables[source], manifest.changed[source]
        carried = self.builder.carried_key(definition, manifest) or ()
        types = self.inputs.tables[source].types
        if changes.rows is None:
            rows = self.inputs.empty(self.builder.connection, source)
        else:
            raw = self.builder.current.read([changes.rows], self.builder.columns(source, manifest))
            rows = self.builder.typing(source, manifest).typed(raw, only_exact=True)
        chosen = ", ".join(
            f"CAST({identifier(k)} AS {types[k].duckdb}) AS {identifier(c)}"
            for k, c in zip(state.key, carried, strict=True)
        )
        return view(rows.project(chosen))

    def _landed(
        self, definition: StarFunction, schema: Fact, manifest: Manifest, carried: Mapping[str, str]
    ) -> tuple[Totals, int]:
        """What a batch landed of a fact's first input and fits, and how many rows do not."""
        source, batch = definition.inputs[0], manifest.batch
        changes = manifest.changed[source]
        typing = self.builder.typing(source, manifest)
        # What was declared otherwise when the batch was taken may fit now, or no longer.
        clean = self.builder.clean(source, manifest)
        known = self._certified(batch, schema) if clean else None
        if known and known.sums.keys() == carried.keys():  # the function has not changed since
            return known, 0
        if clean and manifest.tables[source].previous is None and changes.rows:
            # All that the lake held then was the one file, and was added up from it when it had landed.
            held = {name: manifest.tables[source].controls[raw].held for name, raw in carried.items()}
            if all(amount is not None for amount in held.values()):
                return Totals(
                    changes.rows.rows, {name: Decimal(amount or 0) for name, amount in held.items()}
                ), 0
        if not changes.rows:
            return Totals(0, {name: Decimal(0) for name in carried}), 0
        rows = self.builder.current.read([changes.rows], self.builder.columns(source, manifest))
        typed = typing.typed(rows, only_exact=True).project(
            ", ".join(f"{identifier(raw)} AS {identifier(column)}" for column, raw in carried.items()) or "1"
        )
        quarantined = 0 if clean else self.builder.count(rows.filter(f"NOT ({typing.exact})"))
        return add_up(self.lake, view(typed), as_decimal(carried, schema)), quarantined

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

    def _certified(self, batch: int, schema: Fact) -> Totals | None:
        """What was landed in a batch, as its own certificate says: landed files never change."""
        told = noted(self.builder.star.files, certificate_path(batch))
        own = self.builder.batches.sha256(batch)
        proof = told["tables"].get(schema.name) if told and told.get("manifest", own) == own else None
        known = proof["hops"].get("landed") if proof and proof["batch"] == number(batch) else None
        return Totals.from_json(known) if known else None

    def _dimension(self, definition: StarFunction) -> TableProof:
        """The members that exist: in the source, in the star's file, in the warehouse."""
        schema, source = definition.schema, definition.inputs[0]
        (path,) = self.builder.star.paths(schema)
        file = duck.read_parquet(self.builder.connection, [self.builder.star.local(path)])
        rows, loaded = (
            current_rows(schema, file),
            current_rows(schema, loaded_rows(schema, self.warehouse)),
        )
        hops = {"star": add_up(self.lake, rows, {}), "warehouse": add_up(self.warehouse, loaded, {})}
        if schema.rows == "any":
            hops = self._digested(hops, schema, rows, loaded)
        batch, quarantined = self._shown(definition) or 0, 0
        if source in self.inputs.tables and schema.rows == "one per row":
            now = self.builder.as_of(source, self.manifest)
            quarantined = self.builder.misfits(source, now)
            hops = {"source": Totals(now.tables[source].rows - quarantined, {}), **hops}
            batch = now.tables[source].changed_in
        differences = tuple(_unequal(hops, schema.name))
        return TableProof(schema.name, source, number(batch), hops, quarantined, differences)


def _unequal(hops: Mapping[str, Totals], what: str) -> list[str]:
    """What differs from one hop to the next."""
    names = list(hops)
    return [
        f"{what}: {after} has {hops[after]}, {before} has {hops[before]}"
        for before, after in pairwise(names)
        if hops[before] != hops[after]
    ]
