"""Random tables and functions in the form in which the engine takes them."""

from collections.abc import Sequence
from pathlib import Path

from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.schema import Column, Dimension, Fact, StarTable
from etl_assets_tests.law.functions import StarSpec, function
from etl_assets_tests.law.models import Codes, Model, TableSpec


def table(spec: TableSpec) -> Table:
    return Table(spec.name, "", spec.declared)


def schema(spec: StarSpec) -> StarTable:
    columns = [Column(name, type_.declared) for name, type_ in spec.types.items()]
    key = spec.key[0] if len(spec.key) == 1 else spec.key
    options = {
        "references": dict(spec.references),
        "rows": spec.rows,
        "by": spec.by,
        "versions_of": spec.versions_of,
    }
    if spec.kind == "dimension":
        return Dimension(spec.name, "", key, columns, **options)  # type: ignore[arg-type]
    return Fact(spec.name, "", key, columns, record=spec.record, **options)  # type: ignore[arg-type]


def definition(spec: StarSpec) -> StarFunction:
    return star_table(schema(spec))(function(spec))


def write_codes(folder: Path, codes: Sequence[Codes]) -> Path:
    """The reference file of a model."""
    path = folder / "codes.csv"
    path.write_text("".join(f"{code},{label}\n" for code, label in (("code", "label"), *codes)))
    return path


def declared(model: Model, stars: Sequence[StarSpec], *, late: bool, codes: Path | None = None) -> Inputs:
    """What a project would declare. Raises `EtlError` or `ValueError` for what the engine refuses."""
    tables = {n: table(t) for n, t in model.tables.items() if late or n != model.late}
    return Inputs(tables, {spec.name: definition(spec) for spec in stars}, {"codes": codes} if codes else {})
