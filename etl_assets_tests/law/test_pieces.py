"""What the law is tested with holds by itself: trees mean the same to Narwhals and to Python, histories are landed as
capture lands them, and the oracle says of a small case what can be counted by hand."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from etl_assets.engine import duck
from etl_assets.engine.typing import types_version
from etl_assets.errors import EtlError
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import DELETED, Current
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.manifest import LandedFile, Manifest, TableState
from etl_assets_tests.law import definitions
from etl_assets_tests.law.functions import Stars, StarSpec, arrow_type, random_star
from etl_assets_tests.law.histories import Content, Found, Source, random_history
from etl_assets_tests.law.interpret import interpret
from etl_assets_tests.law.kinds import INT, KEYS, LOOSE
from etl_assets_tests.law.landing import Lander
from etl_assets_tests.law.models import ColumnSpec, Model, TableSpec, Values, random_model
from etl_assets_tests.law.oracle import Batch, Oracle, Version
from etl_assets_tests.law.server import Server
from etl_assets_tests.law.trees import Column, Input, Select, Type
from etl_assets_tests.oracle import parse_csv

FUNCTIONS = int(os.environ.get("ETL_LAW_FUNCTIONS", "60"))
HISTORIES = 6


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def contents(rng: Random, model: Model) -> dict[str, list[Values]]:
    """The rows that fit of tables with random contents."""
    source = Source(rng, model)
    source.begin()
    source.change()
    return {
        name: [values for row in source.tables[name].values() if (values := table.typed(row)) is not None]
        for name, table in model.tables.items()
    }


def relation(
    connection: duckdb.DuckDBPyConnection, table: TableSpec, rows: Sequence[Values]
) -> duckdb.DuckDBPyRelation:
    schema = pa.schema([(column.name, arrow_type(Type(column.kind.declared))) for column in table.used])
    return connection.from_arrow(pa.Table.from_pylist(list(rows), schema))


def counted(rows: Sequence[Mapping[str, Any]]) -> Counter[tuple[Any, ...]]:
    """Rows as they compare: by name, decimals by their amount."""
    return Counter(
        tuple((n, v.normalize() if isinstance(v, Decimal) else v) for n, v in sorted(row.items()))
        for row in rows
    )


def from_tables(rng: Random, model: Model) -> list[StarSpec]:
    return [
        spec for spec in random_star(rng, model, late=True) if all(n in model.tables for n in spec.parameters)
    ]


@pytest.mark.many
@pytest.mark.parametrize("seed", range(FUNCTIONS))
def test_a_function_gives_in_duckdb_what_python_makes_of_its_tree(
    seed: int, connection: duckdb.DuckDBPyConnection
) -> None:
    rng = Random(seed)
    model = random_model(rng)
    held = contents(rng, model)
    relations = {name: relation(connection, model.tables[name], rows) for name, rows in held.items()}
    for spec in from_tables(rng, model):
        made = definitions.definition(spec).apply(connection, relations)
        rows = [dict(zip(made.columns, row, strict=True)) for row in made.fetchall()]
        expected = interpret(spec.tree, held)
        assert counted(rows) == counted(expected), str(spec)
        keys = [tuple(row[name] for name in spec.key) for row in expected]
        assert len(set(keys)) == len(keys), str(spec)
        required = [name for name, type_ in spec.types.items() if not type_.nullable]
        assert not any(row[name] is None for row in expected for name in required), str(spec)


@pytest.mark.parametrize("seed", range(FUNCTIONS))
def test_what_a_function_declares_of_itself_is_true(seed: int) -> None:
    """That it treats each row, or each group of rows, of its first parameter by itself; and gives one row for each."""
    rng = Random(seed)
    model = random_model(rng)
    held = contents(rng, model)
    for spec in from_tables(rng, model):
        first, whole = spec.parameters[0], interpret(spec.tree, held)
        if spec.rows == "one per row":
            assert len(whole) == len(held[first]), str(spec)
        if spec.by:
            groups = defaultdict(list)
            for place, row in enumerate(held[first]):
                groups[place if spec.by == "row" else tuple(row[name] for name in spec.by)].append(row)
            pieces = [interpret(spec.tree, {**held, first: rows}) for rows in groups.values()]
            assert counted([row for piece in pieces for row in piece]) == counted(whole), str(spec)


def test_few_random_stars_are_refused(tmp_path: Path) -> None:
    refused = 0
    for seed in range(FUNCTIONS):
        rng = Random(seed)
        model = random_model(rng)
        star = random_star(rng, model, late=True)
        try:
            codes = definitions.write_codes(tmp_path, model.codes) if model.codes else None
            definitions.declared(model, star, late=True, codes=codes)
        except (ValueError, EtlError):
            refused += 1
    assert refused <= FUNCTIONS // 20


def test_functions_are_told_apart_by_their_trees() -> None:
    found: dict[str, StarSpec] = {}
    for seed in range(FUNCTIONS):
        rng = Random(seed)
        model = random_model(rng)
        for number in range(3):
            spec = Stars(rng, model, late=True).table("dim", "dimension")
            version = definitions.definition(spec).code_version
            assert found.setdefault(version, spec) == spec, number
            assert definitions.definition(spec).code_version == version
    assert len(found) > FUNCTIONS


# -- landing -----------------------------------------------------------------------------------------------------


def landed(data: Path, model: Model, history: Sequence[Found], whole: Callable[[int], bool]) -> LocalFiles:
    files = LocalFiles(data / "lake")
    (data / "scratch").mkdir(parents=True)
    lander = Lander(files, data / "scratch", model.tables)
    for place, found in enumerate(history):
        lander.land(found, whole=whole(place))
    return files


def a_history(seed: int) -> tuple[Model, list[Found]]:
    rng = Random(seed)
    model = random_model(rng)
    return model, random_history(rng, model, late_from=1, batches=4)


@pytest.mark.many
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_a_lake_holds_what_each_batch_found(seed: int, tmp_path: Path) -> None:
    model, history = a_history(seed)
    batches = Batches(landed(tmp_path, model, history, lambda place: seed % 2 == 0))
    states: list[dict[str, Content]] = []
    for found in history:
        now = {**(states[-1] if states else {}), **found.tables}
        states += [now] if not states or now != states[-1] else []
    assert len(batches.numbers()) == len(states)
    for number, state in zip(batches.numbers(), states, strict=True):
        with duck.connect(tmp_path / "scratch") as connection:
            manifest, current = batches.get(number), Current(batches, connection)
            assert manifest.tables.keys() == state.keys()
            for name, rows in state.items():
                fold = current.fold(name, manifest).relation.filter(f"NOT {DELETED}")
                names = fold.columns[:-1]
                held = [
                    dict(zip(names, (v if v is None else str(v) for v in row), strict=False))
                    for row in fold.fetchall()
                ]
                assert counted(held) == counted(list(rows.values()))
                assert manifest.tables[name].rows == len(rows)
                clean = manifest.tables[name].clean_under
                table = definitions.table(model.tables[name])
                assert clean in (None, types_version(table.types))
                assert clean is None or all(model.tables[name].typed(row) for row in rows.values())


@pytest.mark.parametrize("seed", range(100, 103))
def test_a_history_is_landed_as_capture_lands_it(
    seed: int, database: Callable[[], str], tmp_path: Path
) -> None:
    model, history = a_history(seed)
    server = Server(database(), tmp_path / "captured", model, history, Random(seed))
    server.begin()
    for place, found in enumerate(history):
        server.capture(place, found)
    captured = Batches(LocalFiles(tmp_path / "captured/lake"))
    # A batch may bring nothing: it notes that a table was read whole once more.
    manifests = [m for m in map(captured.get, captured.numbers()) if m.changed]
    told = iter(manifests)
    wholes = [any(s.read == "whole" and s.previous for s in m.tables.values() if s.changes) for m in told]
    files = landed(tmp_path / "landed", model, history, lambda place: False)
    own = [m for m in map(Batches(files).get, Batches(files).numbers()) if m.changed]
    assert [brought(captured.files, m) for m in manifests] == [brought(files, m) for m in own]
    for theirs, ours, whole in zip(manifests, own, wholes, strict=True):
        for name, state in theirs.tables.items():
            mine = ours.tables[name]
            assert (state.columns, state.key, state.rows) == (mine.columns, mine.key, mine.rows)
            assert (state.members, state.versions) == (mine.members, mine.versions)
            # Such a batch has a number too, so it is the place among the others that counts.
            assert places(manifests, state) == places(own, mine)
            assert whole or state.clean_under == mine.clean_under


def places(manifests: list[Manifest], state: TableState) -> tuple[int | None, ...]:
    """Where the batch that last changed a table, and the one before it, stand among batches."""
    at: dict[int | None, int] = {manifest.batch: place for place, manifest in enumerate(manifests)}
    return at.get(state.changed_in), at.get(state.previous)


def brought(files: Any, manifest: Manifest) -> dict[str, Any]:
    """What a batch brought, in terms that do not depend on how rows are ordered and quoted."""

    def rows(file: LandedFile | None) -> Counter[tuple[Any, ...]] | None:
        return counted(list(parse_csv(files.read(file.path).decode()))) if file else None

    return {
        name: (
            rows(c.rows),
            rows(c.deletions),
            rows(c.quarantined),
            c.new,
            c.changed,
            c.deleted,
            c.quarantined_rows,
        )
        for name, c in manifest.changed.items()
    }


# -- the oracle --------------------------------------------------------------------------------------------------


SALE = TableSpec(
    "sale",
    ("id",),
    (
        ColumnSpec("id", KEYS["int"], nullable=False, required=True),
        ColumnSpec("due", LOOSE[0]),
        ColumnSpec("unseen", INT, used=False),
    ),
)


def sales(**due: str) -> Content:
    """Sales by id; `d1="soon/2"`: sale 1 is due "soon", and 2 stands in the column that nobody declared."""
    rows = {name[1:]: text.partition("/") for name, text in due.items()}
    return {
        (n,): {"id": n, "due": day or None, "unseen": unseen or None} for n, (day, _, unseen) in rows.items()
    }


def test_the_oracle_counts_as_one_counts_by_hand() -> None:
    types = {"id": Type("int"), "due": Type("date", True)}
    tree = Select(Input("sale", tuple(types.items())), tuple((n, Column(t, n)) for n, t in types.items()))
    fact = StarSpec("fact_sale", "fact", ("id",), tree, ("sale",), rows="one per row", carried=True)
    dimension = StarSpec("dim_sale", "dimension", ("id",), tree, ("sale",))
    contents = [
        sales(d1="2024-02-29", d2="soon", d3="2024-03-01"),
        sales(d1="2024-02-29/7", d2="soon", d4=""),
        sales(d1="soon/7", d2="2024-03-01", d3="2024-03-01"),
    ]
    batches = [Batch(n + 1, {"sale": rows}) for n, rows in enumerate(contents)]
    shown = Oracle({"sale": SALE}, [fact, dimension], batches).shown()
    told = [(v.record, v.values["id"], v.batch, v.deleted) for v in shown["fact_sale"].versions]
    assert told == [
        (1, 1, 1, False), (2, 3, 1, False),  # sale 2 does not fit
        (4, 1, 2, False), (5, 3, 2, True), (6, 4, 2, False),  # 1 was landed again
        (7, 1, 3, True), (8, 2, 3, False), (9, 3, 3, False), (10, 4, 3, True),
    ]  # fmt: skip
    members, left = shown["dim_sale"].current, shown["dim_sale"].left
    assert (sorted(members), sorted(left)) == ([(2,), (3,)], [(1,), (4,)])


def test_the_oracle_numbers_a_fact_of_groups_without_gaps() -> None:
    types = {"id": Type("int"), "due": Type("date", True)}
    tree = Select(Input("sale", tuple(types.items())), tuple((n, Column(t, n)) for n, t in types.items()))
    fact = StarSpec("fact_sale", "fact", ("id",), tree, ("sale",))
    batches = [
        Batch(1, {"sale": sales(d1="2024-02-29", d2="soon")}),
        Batch(2, {"sale": sales(d1="2024-02-29/7", d2="2024-03-01")}),
    ]
    versions = Oracle({"sale": SALE}, [fact], batches).shown()["fact_sale"].versions
    assert [(v.record, v.values["id"], v.batch) for v in versions] == [(1, 1, 1), (2, 2, 2)]
    assert isinstance(versions[0], Version)
