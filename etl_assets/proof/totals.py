"""What a star table adds up to, at each place where its data stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb

from etl_assets.engine.duck import identifier, listing, literal
from etl_assets.engine.sums import Amount, added_up
from etl_assets.engine.types import Type
from etl_assets.lake.current import view
from etl_assets.lake.manifest import Manifest
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.lineage import column_lineage
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.contract import WarehouseReader
from etl_assets.warehouse.dialect import DUCKDB, INFERRED, SCHEMA


@dataclass(frozen=True)
class Totals:
    """Rows, and the exact sums of amounts by the star's column name. `digest`: of all their values, whatever their order;
    empty where rows are proven by what the source says of them."""

    rows: int
    sums: Mapping[str, Decimal]
    digest: str = ""

    def __str__(self) -> str:
        amounts = ", ".join(f"{name} {amount}" for name, amount in self.sums.items())
        return ", ".join([f"{self.rows:,} rows", *([amounts] if amounts else []), *self._digested])

    @property
    def _digested(self) -> list[str]:
        return [f"digest {self.digest}"] if self.digest else []

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Totals":
        """Totals as a certificate has them."""
        return cls(content["rows"], {name: Decimal(amount) for name, amount in content["sums"].items()})

    def as_json(self) -> dict[str, object]:
        """The totals as a certificate has them: exact numbers as text."""
        told: dict[str, object] = {
            "rows": self.rows,
            "sums": {name: format(amount, "f") for name, amount in self.sums.items()},
        }
        return told | ({"digest": self.digest} if self.digest else {})


def amounts(definition: StarFunction, inputs: Inputs, manifest: Manifest) -> dict[str, str]:
    """The star's columns that carry an amount of the source unchanged, with the source's name for it."""
    source = definition.inputs[0]
    summed = {name for name, control in manifest.tables[source].controls.items() if control.sum is not None}
    return {
        column: name
        for column, origin in column_lineage(definition, inputs).items()
        for table, name in origin.columns
        if origin.unchanged and table == source and name in summed
    }


def add_up(reader: WarehouseReader, rows: str, columns: Mapping[str, Amount]) -> Totals:
    """The totals of rows (a FROM clause)."""
    return Totals(*added_up(reader.one, rows, columns))


def digest_of(schema: StarTable, rows: str, names: Sequence[str]) -> str:
    """The SQL, for DuckDB, of how many rows there are, and of a sum over all values of each, whatever their order."""
    values = ", ".join(f"CAST({identifier(n)} AS {schema.by_name[n].type.duckdb})" for n in names)
    return f"SELECT count(*), coalesce(sum(CAST(hash({values}) AS HUGEINT)), 0) FROM {rows}"


def as_decimal(columns: Mapping[str, str], schema: StarTable) -> dict[str, Amount]:
    """For `add_up`: the star's columns among `columns`, as decimals."""
    return {name: amount(name, schema.by_name[name].type) for name in columns}


def amount(name: str, type_: Type) -> Amount:
    """The values of a column of a declared type, as decimals wide enough for any of them."""
    scale = type_.name.partition(",")[2].strip(" )") or "0"
    return Amount(f"CAST({identifier(name)} AS DECIMAL(38,{scale}))", int(scale))


def current_rows(schema: StarTable, rows: duckdb.DuckDBPyRelation | str) -> str:
    """A FROM clause with the rows that exist: of a fact the latest version of each, none that is deleted."""
    table = rows if isinstance(rows, str) else view(rows)
    if not isinstance(schema, Fact):
        return f"(SELECT * FROM {table} WHERE NOT deleted) AS existing"
    latest = (
        f"FROM {table} QUALIFY row_number() OVER (PARTITION BY {listing(schema.key_columns)} "
        f"ORDER BY {identifier(schema.record)} DESC) = 1"
    )
    return f"(FROM ({latest}) WHERE NOT deleted)"


def loaded_rows(schema: StarTable, reader: WarehouseReader) -> str:
    """A FROM clause with the rows of a warehouse's table that come from the star, without inferred members."""
    place = f"{SCHEMA}.{identifier(schema.name)}"
    if isinstance(schema, Fact):
        return place
    (inferred,) = reader.one(
        f"SELECT count(*) FROM {SCHEMA}.{INFERRED.name} WHERE table_name = {literal(schema.name)}"
    )
    if not inferred:  # the usual case, and a large dimension is looked through much faster
        return place
    return (
        f"(SELECT t.* FROM {place} AS t WHERE NOT EXISTS (SELECT 1 FROM {SCHEMA}.{INFERRED.name} AS i "
        f"WHERE i.table_name = {literal(schema.name)} AND i.member_key = {DUCKDB.member_key(schema, 't')})) AS loaded"
    )
